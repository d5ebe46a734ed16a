//! `hugectl map`: physical memory, block by block, in the terminal.

use std::fs::File;
use std::io::{BufReader, BufWriter, IsTerminal};
use std::path::{Path, PathBuf};

use bookend::units::{Bytes, PageSize};
use bookend_defrag::system::survey::snapshot::Snapshot;
use bookend_defrag::system::survey::{Block, Class, Kind, pages_of, survey};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::persist::replace;
use super::picture::{Format, draw};
use super::table::{Table, percent};
use super::{Context, Failure};
use crate::cli::{exit, format, output, parse_size};

/// Rows of the picture, where the terminal is to decide.
const ROWS: usize = 36;
/// Columns, in which a row is a round number of blocks.
const COLUMNS: usize = 64;

/// Draws physical memory in blocks of 2 MiB, by what could become of each
///
/// A block is as good as its worst page. "Recoverable" is an upper bound: pages in use can be
/// moved unless somebody has pinned them, which page flags do not show (see hugectl predict).
///
/// Needs root, who alone may read /proc/kpageflags; not for --diff.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Signs:
  .  free                             #  blocked: something in it cannot be moved
  -  recoverable: can be moved        H  hugetlb
  s  recoverable by shrinking slab    o  offline
     (blank: no memory there)")]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Blocks a sign, for a finer or coarser picture; a sign shows the most frequent class
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    blocks: Option<u32>,
    /// Only memory from this physical address on: 4G, 1.5GiB
    #[arg(long, value_name = "ADDRESS", value_parser = parse_size)]
    from: Option<Bytes>,
    /// Only memory below this physical address
    #[arg(long, value_name = "ADDRESS", value_parser = parse_size)]
    to: Option<Bytes>,
    /// Show the pages of the one block at this physical address
    #[arg(long, value_name = "ADDRESS", value_parser = parse_size, conflicts_with_all = ["blocks", "from", "to", "save", "diff"])]
    pages: Option<Bytes>,
    /// Keep the map in a file, for --diff later
    #[arg(long, value_name = "FILE", conflicts_with = "diff")]
    save: Option<PathBuf>,
    /// Draw the map in a file that ends in .png, .svg or .html; with --diff an .html with a slider
    #[arg(long, value_name = "FILE", conflicts_with_all = ["pages", "json"])]
    output: Option<PathBuf>,
    /// Show what changed from map A to map B, both saved before
    #[arg(long, num_args = 2, value_names = ["A", "B"])]
    diff: Option<Vec<PathBuf>>,
    /// Whether to use colours
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Colour::Auto)]
    color: Colour,
}

/// Whether to use colours.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Colour {
    /// In a terminal, unless NO_COLOR is set.
    Auto,
    /// Yes.
    Always,
    /// No.
    Never,
}

/// The map as JSON.
#[derive(Serialize)]
struct Report<'a> {
    block_bytes: u64,
    blocks: u64,
    classes: Vec<ClassCount>,
    /// Runs of one class: address, blocks, class.
    runs: Vec<Run>,
    saved: Option<&'a Path>,
}

#[derive(Serialize)]
struct ClassCount {
    class: Class,
    blocks: u64,
    bytes: u64,
}

#[derive(Serialize)]
struct Run {
    address: u64,
    blocks: u64,
    class: Class,
}

/// Draws the map.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    if let Some(path) = &options.output {
        Format::of(path)?; // before any work is done
    }
    if let Some([before, after]) = options.diff.as_deref() {
        return diff(options, before, after);
    }
    if let Some(address) = options.pages {
        return pages(options, context, address);
    }
    let survey = survey(&context.files, context.base)?;
    let snapshot = Snapshot { base: survey.base, blocks: survey.blocks };
    if let Some(path) = &options.save {
        save(&snapshot, path)?;
    }
    if let Some(path) = &options.output {
        return put_picture(path, &[&snapshot]);
    }
    show(options, &snapshot)
}

fn show(options: &Options, snapshot: &Snapshot) -> Result<u8, Failure> {
    let (first, blocks) = chosen(options, &snapshot.blocks)?;
    let written = if options.json {
        output::json(&report(options, first, blocks))
    } else {
        output::line(format_args!("{}\n{}", picture(options, first, blocks), legend(blocks)))
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

/// The blocks that are to be shown, and the first one's number.
fn chosen<'a>(options: &Options, all: &'a [Block]) -> Result<(usize, &'a [Block]), Failure> {
    let number = |address: Bytes| (address.get() >> PageSize::MIB2.shift()) as usize;
    let end = Bytes::new((all.len() as u64) << PageSize::MIB2.shift());
    let first = options.from.map_or(0, number);
    let last = options.to.map_or(all.len(), number).min(all.len());
    match all.get(first..last) {
        Some(blocks) if !blocks.is_empty() => Ok((first, blocks)),
        _ => Err(Failure::Usage(format!(
            "--from and --to leave no memory: physical addresses here go from 0 to {end}"
        ))),
    }
}

fn count(blocks: &[Block]) -> [u64; Class::COUNT] {
    let mut counts = [0; Class::COUNT];
    blocks.iter().for_each(|block| counts[block.class().index()] += 1);
    counts
}

fn report<'a>(options: &'a Options, first: usize, blocks: &[Block]) -> Report<'a> {
    let size = PageSize::MIB2.bytes().get();
    let counts = Class::ALL.into_iter().zip(count(blocks));
    let mut runs: Vec<Run> = Vec::new();
    for (index, class) in blocks.iter().map(|block| block.class()).enumerate() {
        match runs.last_mut() {
            Some(run) if run.class == class => run.blocks += 1,
            _ => runs.push(Run { address: (first + index) as u64 * size, blocks: 1, class }),
        }
    }
    Report {
        block_bytes: size,
        blocks: blocks.len() as u64,
        classes: counts
            .map(|(class, blocks)| ClassCount { class, blocks, bytes: blocks * size })
            .collect(),
        runs,
        saved: options.save.as_deref(),
    }
}

/// How a class is drawn: its sign and its colour (an ANSI number).
const fn sign(class: Class) -> (char, u8) {
    match class {
        Class::Free => ('.', 32),
        Class::Recoverable => ('-', 36),
        Class::Slab => ('s', 33),
        Class::Blocked => ('#', 31),
        Class::Hugetlb => ('H', 34),
        Class::Offline => ('o', 90),
        Class::Absent => (' ', 90),
    }
}

fn colours(options: &Options) -> bool {
    match options.color {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    }
}

/// Rows of signs, each with the address it begins at.
fn picture(options: &Options, first: usize, blocks: &[Block]) -> String {
    let a_sign = match options.blocks {
        Some(blocks) => blocks as usize,
        None => blocks.len().div_ceil(ROWS * COLUMNS).next_power_of_two(),
    };
    let colours = colours(options);
    let row_blocks = a_sign * COLUMNS;
    let mut text = String::new();
    for (index, row) in blocks.chunks(row_blocks).enumerate() {
        let address = ((first + index * row_blocks) as u64) << PageSize::MIB2.shift();
        text.push_str(&format!("{:>9} ", Bytes::new(address).to_string()));
        let signs = row.chunks(a_sign).map(|group| sign(most_frequent(group)));
        draw_signs(&mut text, signs, colours);
        text.push('\n');
    }
    let each = Bytes::new((a_sign as u64) << PageSize::MIB2.shift());
    text.push_str(&format!("Each sign is {each}."));
    text
}

/// Signs one after the other; the colour is said where it changes.
fn draw_signs(text: &mut String, signs: impl Iterator<Item = (char, u8)>, colours: bool) {
    let mut current = None;
    for (sign, colour) in signs {
        if colours && current != Some(colour) {
            text.push_str(&format!("\x1b[{colour}m"));
            current = Some(colour);
        }
        text.push(sign);
    }
    if current.is_some() {
        text.push_str("\x1b[0m");
    }
}

/// Of classes with equally many blocks the worse one.
fn most_frequent(group: &[Block]) -> Class {
    let counts = Class::ALL.into_iter().zip(count(group));
    counts.max_by_key(|&(_, count)| count).map_or(Class::Absent, |(class, _)| class)
}

fn legend(blocks: &[Block]) -> Table {
    let counts = count(blocks);
    let present = blocks.len() as u64 - counts[Class::Absent.index()];
    let mut table = Table::new(["", "blocks", "memory", "share"]);
    for (class, count) in Class::ALL.into_iter().zip(counts) {
        if class != Class::Absent {
            table.row([
                format!("{} {}", sign(class).0, class.name()),
                format::count(count),
                Bytes::new(count << PageSize::MIB2.shift()).to_string(),
                percent(count as f64 / present.max(1) as f64),
            ]);
        }
    }
    table
}

/// The pages of one block, 64 a row.
fn pages(options: &Options, context: &Context, address: Bytes) -> Result<u8, Failure> {
    let block = address.get() >> PageSize::MIB2.shift();
    let pages = pages_of(&context.files, context.base, block)?;
    let start = block << PageSize::MIB2.shift();
    let written = if options.json {
        output::json(&serde_json::json!({ "address": start, "pages": pages }))
    } else {
        output::line(page_picture(&pages, start, context.base, colours(options)))
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

fn page_picture(pages: &[Kind], start: u64, base: PageSize, colours: bool) -> String {
    let sign = |kind: &Kind| match kind {
        Kind::Free => ('.', 32),
        Kind::File => ('f', 36),
        Kind::Anon => ('a', 36),
        Kind::Locked => ('l', 36),
        Kind::Hugetlb => ('H', 34),
        Kind::Slab => ('s', 33),
        Kind::PageTable => ('t', 31),
        Kind::Kernel => ('k', 31),
        Kind::Reserved => ('r', 31),
        Kind::Poisoned => ('!', 31),
        Kind::Offline => ('o', 90),
        Kind::Absent => (' ', 90),
    };
    let mut text = String::new();
    for (row, pages) in pages.chunks(COLUMNS).enumerate() {
        let address = start + ((row * COLUMNS) as u64) * base.bytes().get();
        text.push_str(&format!("{address:#14x} "));
        draw_signs(&mut text, pages.iter().map(sign), colours);
        text.push('\n');
    }
    for kind in Kind::ALL {
        let count = pages.iter().filter(|&&page| page == kind).count();
        if count > 0 {
            text.push_str(&format!("  {} {}: {count}\n", sign(&kind).0, kind.name()));
        }
    }
    text.pop();
    text
}

fn save(snapshot: &Snapshot, path: &Path) -> Result<(), Failure> {
    let written = File::create(path).and_then(|file| snapshot.write(&mut BufWriter::new(file)));
    written.map_err(|source| Failure::UserFile { path: path.into(), what: "write the map", source })
}

fn load(path: &Path) -> Result<Snapshot, Failure> {
    let failed = |source: std::io::Error| Failure::UserFile {
        path: path.into(),
        what: "read a map",
        source,
    };
    let file = File::open(path).map_err(failed)?;
    Snapshot::read(&mut BufReader::new(file)).map_err(|error| failed(std::io::Error::other(error)))
}

fn put_picture(path: &Path, maps: &[&Snapshot]) -> Result<u8, Failure> {
    replace(path, &draw(Format::of(path)?, maps)?)?;
    Ok(exit::SUCCESS)
}

fn diff(options: &Options, before: &Path, after: &Path) -> Result<u8, Failure> {
    let (before, after) = (load(before)?, load(after)?);
    if let Some(path) = &options.output {
        return put_picture(path, &[&before, &after]);
    }
    let changes = before.changes(&after);
    let written = if options.json {
        let changes: Vec<_> = changes
            .iter()
            .map(|(from, to, blocks)| serde_json::json!({"from": from, "to": to, "blocks": blocks}))
            .collect();
        output::json(&serde_json::json!({ "changes": changes }))
    } else {
        let mut table = Table::new(["from", "to", "blocks"]);
        for (from, to, blocks) in &changes {
            table.row([from.name().into(), to.name().into(), format::count(*blocks)]);
        }
        let (from, blocks) = chosen(options, &after.blocks)?;
        let picture = picture(options, from, blocks);
        output::line(format_args!("{picture}\n{}\nChanges:\n{table}", legend(blocks)))
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}
