//! Plots that a person can read: charts of lines or bars side by side, each with axes and units, below
//! one legend.
//!
//! SVG or PNG, by the file's name. The text is set in a font that is built in, so that a machine without
//! fonts draws the same picture.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::register_font;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Pixels of one chart.
const CHART: (u32, u32) = (760, 420);
/// Pixels for the heading and the legend below it.
const HEADING: u32 = 76;
/// From one name in the legend to the next, where there is room.
const NAME: i32 = 220;
const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);

/// Colours that people who see fewer colours tell apart (Okabe and Ito).
const COLOURS: [RGBColor; 8] = [
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(204, 121, 167),
    RGBColor(0, 120, 90),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(150, 150, 150),
];

/// One line, or bars of one colour.
#[derive(Clone, Debug)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// Along the x axis, where bars stand at the number of their kind; a gap where a value is not a
    /// number.
    pub points: Vec<(f64, f64)>,
}

/// Axes, and lines or bars.
#[derive(Clone, Debug, Default)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// The x axis: what, and in which unit.
    pub x: String,
    /// The y axis: the same.
    pub y: String,
    /// Where the y axis ends; it begins at 0. `None` ends it a little above the highest value.
    pub y_end: Option<f64>,
    /// At most eight; the legend names those of the first chart.
    pub series: Vec<Series>,
    /// Where there are any, these stand along the x axis in place of numbers, and bars on them.
    pub kinds: Vec<String>,
}

/// Why there is no plot.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlotError {
    /// Neither kind.
    #[error("--plot {0:?}: the name must end in .svg or .png, which says what to draw")]
    Kind(PathBuf),
    /// The file cannot be written.
    #[error("cannot write the plot {path:?}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The drawing library failed.
    #[error("cannot draw the plot: {0}")]
    Draw(String),
}

/// Where a plot goes, by what its name says; usable as clap's `value_parser`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    path: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Svg,
    Png,
}

impl std::str::FromStr for Target {
    type Err = PlotError;

    fn from_str(text: &str) -> Result<Self, PlotError> {
        let path = PathBuf::from(text);
        let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
        let kind = match extension.as_deref() {
            Some("svg") => Kind::Svg,
            Some("png") => Kind::Png,
            _ => return Err(PlotError::Kind(path)),
        };
        Ok(Self { path, kind })
    }
}

/// Draws charts below a heading, two in a row.
///
/// # Errors
/// [`PlotError`].
pub fn draw(target: &Target, heading: &str, charts: &[Chart]) -> Result<(), PlotError> {
    // Once is enough, and again does no harm.
    register_font(FONT, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT)
        .map_err(|_| PlotError::Draw("the built-in font cannot be read".to_owned()))?;
    let rows = charts.len().div_ceil(2) as u32;
    let columns = charts.len().min(2) as u32;
    let size = (CHART.0 * columns, CHART.1 * rows + HEADING);
    match target.kind {
        Kind::Svg => {
            let mut text = String::new();
            draw_on(SVGBackend::with_string(&mut text, size), heading, charts)?;
            fs::write(&target.path, text).map_err(|cause| unwritten(&target.path, cause))
        }
        Kind::Png => {
            let mut pixels = vec![0; (size.0 * size.1 * 3) as usize];
            draw_on(BitMapBackend::with_buffer(&mut pixels, size), heading, charts)?;
            write_png(&target.path, size, &pixels).map_err(|cause| unwritten(&target.path, cause))
        }
    }
}

fn unwritten(path: &Path, cause: io::Error) -> PlotError {
    PlotError::Write { path: path.to_owned(), cause }
}

fn write_png(path: &Path, (width, height): (u32, u32), pixels: &[u8]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(io::Error::other)?;
    writer.write_image_data(pixels).map_err(io::Error::other)?;
    writer.finish().map_err(io::Error::other)?;
    file.flush()
}

fn draw_on<B: DrawingBackend>(
    backend: B,
    heading: &str,
    charts: &[Chart],
) -> Result<(), PlotError> {
    let failed = |error: &dyn std::fmt::Display| PlotError::Draw(error.to_string());
    let root = backend.into_drawing_area();
    root.fill(&WHITE).map_err(|error| failed(&error))?;
    let (head, below) = root.split_vertically(HEADING);
    draw_head(&head, heading, charts).map_err(|error| failed(&error))?;
    let areas = below.split_evenly((charts.len().div_ceil(2), charts.len().min(2)));
    for (area, chart) in areas.iter().zip(charts) {
        draw_chart(area, chart).map_err(|error| failed(&error))?;
    }
    root.present().map_err(|error| failed(&error))
}

type Plane = Cartesian2d<RangedCoordf64, RangedCoordf64>;
type Drawn<B> = Result<(), DrawingAreaErrorKind<<B as DrawingBackend>::ErrorType>>;

/// The heading, and the names of the first chart's lines, which all charts share.
fn draw_head<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    heading: &str,
    charts: &[Chart],
) -> Drawn<B> {
    area.draw(&Text::new(heading, (20, 12), (FONT, 24).into_font().color(&INK)))?;
    let names = charts.first().into_iter().flat_map(|chart| &chart.series);
    let room = (area.dim_in_pixel().0 as i32 - 20) / (names.clone().count().max(1) as i32);
    for (n, (series, &colour)) in names.zip(COLOURS.iter().cycle()).enumerate() {
        let x = 20 + n as i32 * room.min(NAME);
        area.draw(&PathElement::new([(x, 57), (x + 28, 57)], colour.stroke_width(4)))?;
        let style = (FONT, 17).into_font().color(&INK);
        area.draw(&Text::new(series.name.as_str(), (x + 36, 48), style))?;
    }
    Ok(())
}

fn draw_chart<B: DrawingBackend>(area: &DrawingArea<B, Shift>, chart: &Chart) -> Drawn<B> {
    let mut context = ChartBuilder::on(area)
        .caption(&chart.title, (FONT, 20).into_font().color(&INK))
        .margin(14)
        .margin_right(30)
        .x_label_area_size(44)
        .y_label_area_size(78)
        .build_cartesian_2d(x_range(chart), y_range(chart))?;
    context
        .configure_mesh()
        .x_desc(&chart.x)
        .y_desc(&chart.y)
        .x_labels(if chart.kinds.is_empty() { 11 } else { 0 })
        .y_labels(6)
        .x_label_formatter(&|x| shortest(*x))
        .y_label_formatter(&|y| shortest(*y))
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK)
        .label_style((FONT, 15).into_font().color(&INK))
        .axis_desc_style((FONT, 16).into_font().color(&INK))
        .draw()?;
    if !chart.kinds.is_empty() {
        return draw_bars(area, &context, chart);
    }
    for (series, &colour) in chart.series.iter().zip(COLOURS.iter().cycle()) {
        let style = colour.stroke_width(2);
        let stretches = series.points.split(|(_, y)| !y.is_finite()).filter(|s| !s.is_empty());
        for stretch in stretches {
            context.draw_series(LineSeries::new(stretch.iter().copied(), style))?;
        }
    }
    Ok(())
}

/// Bars with their values on them, since a low one beside a high one has no height to be read; below
/// them the names of their kinds.
fn draw_bars<B: DrawingBackend>(
    area: &DrawingArea<B, Shift>,
    context: &ChartContext<'_, B, Plane>,
    chart: &Chart,
) -> Drawn<B> {
    /// Of the room that a kind has.
    const USED: f64 = 0.8;
    let corner = area.get_base_pixel();
    let write = |text: &str, at: (f64, f64), below: i32, size: u32| {
        let (x, y) = context.backend_coord(&at);
        let style = (FONT, size).into_font().color(&INK).pos(Pos::new(HPos::Center, VPos::Center));
        area.draw(&Text::new(text, (x - corner.0, y - corner.1 + below), style))
    };
    let width = USED / chart.series.len().max(1) as f64;
    for ((n, series), &colour) in chart.series.iter().enumerate().zip(COLOURS.iter().cycle()) {
        for &(kind, value) in series.points.iter().filter(|(_, value)| value.is_finite()) {
            let left = kind + (1.0 - USED) / 2.0 + n as f64 * width;
            let corners = [(left, 0.0), (left + width, value)];
            context.plotting_area().draw(&Rectangle::new(corners, colour.filled()))?;
            write(&three_digits(value), (left + width / 2.0, value), -9, 14)?;
        }
    }
    for (n, kind) in chart.kinds.iter().enumerate() {
        write(kind, (n as f64 + 0.5, 0.0), 14, 15)?;
    }
    Ok(())
}

/// A number with three digits that count, or more where it is whole.
fn three_digits(value: f64) -> String {
    let before = if value >= 1.0 { value.log10().floor() as usize + 1 } else { 1 };
    let decimals = if value.fract() == 0.0 { 0 } else { 3_usize.saturating_sub(before) };
    let small = if value > 0.0 && value < 0.1 { 2 } else { 0 };
    format!("{value:.0$}", decimals + small)
}

/// A number on an axis, without decimals that say nothing.
fn shortest(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn x_range(chart: &Chart) -> Range<f64> {
    if !chart.kinds.is_empty() {
        return 0.0..chart.kinds.len() as f64;
    }
    let xs = || chart.series.iter().flat_map(|series| &series.points).map(|point| point.0);
    let (start, end) = (xs().fold(f64::MAX, f64::min), xs().fold(f64::MIN, f64::max));
    if start < end { start..end } else { 0.0..1.0 }
}

fn y_range(chart: &Chart) -> Range<f64> {
    let ys = chart.series.iter().flat_map(|series| &series.points).map(|point| point.1);
    let highest = ys.filter(|y| y.is_finite()).fold(0.0, f64::max);
    let room = if chart.kinds.is_empty() { 1.05 } else { 1.12 }; // for the values on bars
    let end = chart.y_end.unwrap_or(highest * room);
    0.0..if end > 0.0 { end } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let series = |name: &str, points: &[(f64, f64)]| Series {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        Chart {
            title: "Things over time".to_owned(),
            x: "hours".to_owned(),
            y: "things (MiB)".to_owned(),
            y_end: None,
            kinds: Vec::new(),
            series: vec![
                series("first", &[(0.0, 1.0), (1.0, 3.0), (2.0, f64::NAN), (3.0, 2.0), (4.0, 2.0)]),
                series("second", &[(0.0, 0.0), (4.0, 4.0)]),
            ],
        }
    }

    #[test]
    fn an_svg_has_the_axes_the_units_and_the_legend() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.svg");
        let target = path.to_str().unwrap().parse().unwrap();
        draw(&target, "A heading", &[chart(), chart(), chart()]).unwrap();
        let svg = fs::read_to_string(path).unwrap();
        for text in ["A heading", "Things over time", "hours", "things (MiB)", "first", "second"] {
            assert!(svg.contains(text), "{text} is not in the plot");
        }
    }

    #[test]
    fn bars_have_names_below_and_values_on_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.svg");
        let target = path.to_str().unwrap().parse().unwrap();
        let mut bars = chart();
        bars.kinds = ["4K", "THP", "2M"].map(str::to_owned).into();
        bars.series[0].points = vec![(0.0, 28.21), (1.0, f64::NAN), (2.0, 0.0191)];
        bars.series[1].points = vec![(0.0, 1234.5), (1.0, 7.0)];
        draw(&target, "A heading", &[chart(), bars]).unwrap();
        let svg = fs::read_to_string(path).unwrap();
        for text in ["4K", "THP", "2M", "28.2", "0.0191", "1234", "7"] {
            let is_text = |line: &str| line.trim() == text;
            assert!(svg.lines().any(is_text), "{text} is not in the plot");
        }
    }

    #[test]
    fn a_png_has_the_lines() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("plot.png");
        let target = path.to_str().unwrap().parse().unwrap();
        draw(&target, "A heading", &[chart()]).unwrap();
        let decoder = png::Decoder::new(io::BufReader::new(File::open(path).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut pixels).unwrap();
        let has = |colour: RGBColor| pixels.chunks(3).any(|p| p == [colour.0, colour.1, colour.2]);
        assert!(has(COLOURS[0]) && has(COLOURS[1]) && !has(COLOURS[2]));
    }

    #[test]
    fn other_kinds_and_places_are_told() {
        let other = "plot.jpeg".parse::<Target>().unwrap_err();
        assert!(other.to_string().contains(".svg or .png"), "{other}");
        let target = "/nowhere/plot.svg".parse().unwrap();
        let error = draw(&target, "", &[chart()]).unwrap_err();
        assert!(error.to_string().contains("/nowhere/plot.svg"), "{error}");
    }
}
