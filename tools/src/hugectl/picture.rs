//! The map as a picture: SVG, HTML with tooltips and a before/after slider, and PNG.

use std::fmt::Write;
use std::path::Path;

use bookend::units::{Bytes, PageSize};
use bookend_defrag::system::survey::snapshot::Snapshot;
use bookend_defrag::system::survey::{Block, Class};

use super::Failure;

/// The kinds of files, told by the name's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Pixels.
    Png,
    /// Shapes.
    Svg,
    /// Shapes that answer to the pointer.
    Html,
}

impl Format {
    /// By the end of the file's name.
    ///
    /// # Errors
    /// Another end, or none.
    pub fn of(path: &Path) -> Result<Self, Failure> {
        let end = path.extension().and_then(|end| end.to_str()).map(str::to_lowercase);
        match end.as_deref() {
            Some("png") => Ok(Self::Png),
            Some("svg") => Ok(Self::Svg),
            Some("html" | "htm") => Ok(Self::Html),
            _ => Err(Failure::Usage(format!(
                "--output {}: the name must end in .png, .svg or .html",
                path.display()
            ))),
        }
    }
}

/// Blocks a row: 128 blocks are 256 MiB, so that four rows are a gigabyte.
const COLUMNS: usize = 128;
/// Pixels of a block's side.
const SIDE: usize = 6;

/// Red, green, blue.
const fn colour(class: Class) -> [u8; 3] {
    match class {
        Class::Free => [0xd8, 0xee, 0xd8],
        Class::Recoverable => [0x5a, 0xa9, 0xc8],
        Class::Slab => [0xf0, 0xc0, 0x40],
        Class::Blocked => [0xc8, 0x32, 0x32],
        Class::Hugetlb => [0x4a, 0x4a, 0xb8],
        Class::Offline => [0x88, 0x88, 0x88],
        Class::Absent => [0xff, 0xff, 0xff],
    }
}

fn hex(class: Class) -> String {
    let [r, g, b] = colour(class);
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// The picture of one map, or in HTML of two.
///
/// # Errors
/// PNG cannot be encoded; or two maps are wanted in a format that shows one.
pub fn draw(format: Format, maps: &[&Snapshot]) -> Result<Vec<u8>, Failure> {
    let [.., last] = maps else { return Err(Failure::Usage("there is no map to draw".into())) };
    match format {
        Format::Html => Ok(html(maps).into_bytes()),
        _ if maps.len() > 1 => Err(Failure::Usage(
            "--output of two maps needs a name that ends in .html, which has a slider".into(),
        )),
        Format::Svg => Ok(svg(last, "").into_bytes()),
        Format::Png => png(&last.blocks),
    }
}

/// Neighbouring blocks of one class are one rectangle, so that the file stays small.
fn svg(map: &Snapshot, attributes: &str) -> String {
    let rows = map.blocks.len().div_ceil(COLUMNS);
    let (width, height) = (COLUMNS * SIDE, rows * SIDE);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" shape-rendering=\"crispEdges\"{attributes}>\n"
    );
    for (row, blocks) in map.blocks.chunks(COLUMNS).enumerate() {
        for (first, run) in runs(blocks) {
            let class = run[0].class();
            if class == Class::Absent {
                continue;
            }
            let (x, y, w) = (first * SIDE, row * SIDE, run.len() * SIDE);
            let title = title(row * COLUMNS + first, run);
            let fill = hex(class);
            let _ = writeln!(
                text,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{w}\" height=\"{SIDE}\" fill=\"{fill}\">\
                 <title>{title}</title></rect>"
            );
        }
    }
    text.push_str("</svg>\n");
    text
}

/// Runs of blocks of one class, each with the number of its first.
fn runs(blocks: &[Block]) -> impl Iterator<Item = (usize, &[Block])> {
    let mut first = 0;
    blocks.chunk_by(|a, b| a.class() == b.class()).map(move |run| {
        let at = first;
        first += run.len();
        (at, run)
    })
}

fn title(first: usize, run: &[Block]) -> String {
    let address = (first as u64) << PageSize::MIB2.shift();
    let size = Bytes::new((run.len() as u64) << PageSize::MIB2.shift());
    let class = run[0].class().name();
    let worst = run.iter().max_by_key(|block| block.blockers());
    let blockers = worst.filter(|block| block.blockers() > 0).map(|block| {
        format!(
            ", up to {} pages in the way of a block, mostly {}",
            block.blockers(),
            block.worst()
        )
    });
    format!("{address:#x}: {size} {class}{}", blockers.unwrap_or_default())
}

fn html(maps: &[&Snapshot]) -> String {
    let mut legend = String::new();
    for class in Class::ALL.into_iter().filter(|&class| class != Class::Absent) {
        let (name, fill) = (class.name(), hex(class));
        let counts: Vec<_> = maps.iter().map(|map| count(map, class).to_string()).collect();
        let counts = counts.join(" → ");
        let _ = writeln!(
            legend,
            "<li><span style=\"background:{fill}\"></span>{name}: {counts} blocks</li>"
        );
    }
    let pictures: String = match maps {
        [before, after] => format!(
            "<div class=\"both\">{}{}</div>\n<label>before <input type=\"range\" min=\"0\" \
             max=\"100\" value=\"50\" id=\"slider\"> after</label>\n<script>{SLIDER}</script>\n",
            svg(before, ""),
            svg(after, " id=\"after\"")
        ),
        [only, ..] => svg(only, ""),
        [] => String::new(),
    };
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <title>Physical memory</title>\n<style>{STYLE}</style>\n\
         <h1>Physical memory</h1>\n<p>Each square is 2 MiB, each row 256 MiB, the lowest address \
         at the top. Point at it to read what it is.</p>\n<ul>\n{legend}</ul>\n{pictures}</html>\n"
    )
}

fn count(map: &Snapshot, class: Class) -> usize {
    map.blocks.iter().filter(|block| block.class() == class).count()
}

const STYLE: &str = "body{font:15px sans-serif;margin:1.5em}ul{list-style:none;padding:0}\
    li{display:inline-block;margin-right:1.5em}li span{display:inline-block;width:1em;height:1em;\
    margin-right:.4em;border:1px solid #666;vertical-align:-2px}svg{border:1px solid #999;\
    background:#fff}.both{position:relative}.both #after{position:absolute;left:0;top:0}\
    input{width:30em}";
/// What lies left of the slider is from before, what lies right of it from after.
const SLIDER: &str = "const s=document.getElementById('slider'),a=document.getElementById('after');\
    const f=()=>{a.style.clipPath='inset(0 0 0 '+s.value+'%)'};s.addEventListener('input',f);f();";

fn png(blocks: &[Block]) -> Result<Vec<u8>, Failure> {
    let rows = blocks.len().div_ceil(COLUMNS);
    let mut pixels = Vec::with_capacity(COLUMNS * SIDE * rows * SIDE * 3);
    for row in blocks.chunks(COLUMNS) {
        let mut line = Vec::with_capacity(COLUMNS * SIDE * 3);
        for column in 0..COLUMNS {
            let class = row.get(column).map_or(Class::Absent, |block| block.class());
            line.extend(colour(class).repeat(SIDE));
        }
        pixels.extend(line.repeat(SIDE));
    }
    encode((COLUMNS * SIDE) as u32, (rows * SIDE) as u32, &pixels)
        .map_err(|error| Failure::Other(Box::new(error)))
}

fn encode(width: u32, height: u32, pixels: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of these classes, as words of a saved map.
    fn map(words: &[u32]) -> Snapshot {
        let blocks = words.iter().map(|&word| Block::from_word(word).unwrap()).collect();
        Snapshot { base: PageSize::KIB4, blocks }
    }

    const FREE: u32 = Class::Free as u32;
    const BLOCKED: u32 = Class::Blocked as u32 | 6 << 3 | 9 << 19;

    #[test]
    fn formats_go_by_the_names_end() {
        assert_eq!(Format::of(Path::new("a.b.PNG")).unwrap(), Format::Png);
        assert_eq!(Format::of(Path::new("x.html")).unwrap(), Format::Html);
        assert!(Format::of(Path::new("png")).is_err());
    }

    #[test]
    fn runs_are_one_rectangle_and_end_with_the_row() {
        let mut words = vec![FREE; COLUMNS + 2];
        words[1] = BLOCKED;
        let text = svg(&map(&words), "");
        assert_eq!(text.matches("<rect").count(), 4);
        assert!(text.contains("0x200000: 2 MiB blocked, up to 9 pages in the way"), "{text}");
        assert!(text.contains("mostly page tables"), "{text}");
    }

    #[test]
    fn two_maps_have_a_slider_in_html_only() {
        let (before, after) = (map(&[BLOCKED]), map(&[FREE]));
        let both = [&before, &after];
        let text = String::from_utf8(draw(Format::Html, &both).unwrap()).unwrap();
        assert!(text.contains("id=\"slider\"") && text.contains("blocked: 1 → 0 blocks"), "{text}");
        assert!(draw(Format::Svg, &both).is_err());
        let one = String::from_utf8(draw(Format::Html, &[&after]).unwrap()).unwrap();
        assert!(!one.contains("slider\""));
    }

    #[test]
    fn pixels_are_what_the_blocks_are() {
        let bytes = draw(Format::Png, &[&map(&[FREE, BLOCKED])]).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(bytes)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height), (768, 6));
        assert_eq!(pixels[..3], colour(Class::Free));
        assert_eq!(pixels[SIDE * 3..SIDE * 3 + 3], colour(Class::Blocked));
        assert_eq!(pixels[SIDE * 6..SIDE * 6 + 3], colour(Class::Absent));
    }
}
