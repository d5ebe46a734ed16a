//! `hugectl blame`: who stands in the way of contiguity.

use bookend::units::{Bytes, Node, PageSize};
use bookend_defrag::system::holders::{self, Process, processes, top};
use bookend_defrag::system::slabs::{Cache, caches};
use bookend_defrag::system::status::{Missing, why};
use bookend_defrag::system::survey::{Class, Kind, Survey, survey};
use bookend_defrag::system::{FileError, Files};
use clap::Args;
use serde::Serialize;

use super::table::Table;
use super::{Context, Failure};
use crate::cli::{exit, format, output};

/// Shows what stands in the way of huge pages, and whose it is
///
/// Counts the pages that cannot be moved by kind, in how many blocks of 2 MiB they stand, and how
/// many blocks a single page spoils; and names the slab caches, and the processes with page
/// tables, pinned and locked pages, that have most. Needs root for most of it.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Only this NUMA node
    #[arg(long, value_name = "N")]
    node: Option<u32>,
    /// How many caches, processes and blocks to name
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
}

/// Who stands in the way.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Blockers by kind, most first.
    pub kinds: Vec<KindCount>,
    /// How many blocks have 1, 2 to 3, 4 to 7, … blockers.
    pub histogram: Vec<u64>,
    /// Blocks that slab alone spoils.
    pub slab_blocks: u64,
    /// Blocks that something else spoils.
    pub blocked_blocks: u64,
    /// Blocks that a single page spoils, lowest first; as many as were asked for.
    pub single: Vec<Single>,
    /// How many of these there are in all.
    pub single_blocks: u64,
    /// The largest slab caches.
    pub caches: Vec<Cache>,
    /// Processes with most page tables.
    pub page_tables: Vec<Process>,
    /// Processes that have pinned pages, and how many blocks these stand in at most.
    pub pinned: Vec<PinnedBy>,
    /// Processes with most locked pages.
    pub locked: Vec<Process>,
    /// What could not be read.
    pub missing: Vec<Missing>,
}

/// Pages of a kind that cannot be moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KindCount {
    /// The kind.
    pub kind: Kind,
    /// How many pages.
    pub pages: u64,
    /// How many blocks they are the most frequent blocker of.
    pub blocks: u64,
}

/// A block that one page spoils.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Single {
    /// Its physical address.
    pub address: u64,
    /// What the page is.
    pub kind: Kind,
}

/// A process that has pinned pages.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PinnedBy {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// Blocks its pinned pages stand in, as far as can be told; `None` where frames are hidden.
    pub blocks: Option<u64>,
}

/// Prints who stands in the way.
///
/// # Errors
/// [`Failure`]; what cannot be read is part of the report.
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let node = options.node.map(Node::new);
    super::check_node(&context.files, node)?;
    let report = report(&context.files, context.base, node, options.top);
    let written = if options.json { output::json(&report) } else { output::line(text(&report)) };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

/// Gathers it.
pub fn report(files: &Files, base: PageSize, node: Option<Node>, n: usize) -> Report {
    let mut missing = Vec::new();
    let seen = note(&mut missing, "blocks", survey(files, base));
    let caches = note(&mut missing, "slab caches", caches(files, base));
    let all = note(&mut missing, "processes", processes(files)).unwrap_or_default();
    let most = |of: fn(&Process) -> u64| top(&all, n, of).into_iter().cloned().collect();
    let single = |survey: &Survey| -> Vec<Single> {
        let blocks = survey.spoilt_by(1, node);
        blocks.map(|block| Single { address: block.address, kind: block.worst }).collect()
    };
    let mut singles = seen.as_ref().map(single).unwrap_or_default();
    let single_blocks = singles.len() as u64;
    singles.truncate(n);
    let classes = seen.as_ref().map_or([0; Class::COUNT], |survey| survey.classes(node));
    Report {
        kinds: seen.as_ref().map(|survey| kinds(survey, node)).unwrap_or_default(),
        histogram: seen.as_ref().map(|survey| survey.histogram(node)).unwrap_or_default(),
        slab_blocks: classes[Class::Slab.index()],
        blocked_blocks: classes[Class::Blocked.index()],
        single: singles,
        single_blocks,
        caches: caches.unwrap_or_default().into_iter().take(n).collect(),
        page_tables: most(|process| process.page_table_bytes),
        pinned: pinned(files, base, &all, n, &mut missing),
        locked: most(|process| process.locked_bytes),
        missing,
    }
}

fn note<T>(
    missing: &mut Vec<Missing>,
    what: &'static str,
    read: Result<T, FileError>,
) -> Option<T> {
    read.inspect_err(|error| missing.push(Missing { what, why: why(error) })).ok()
}

fn kinds(survey: &Survey, node: Option<Node>) -> Vec<KindCount> {
    let mut worst = [0; Kind::COUNT];
    survey.spoilt_by(u32::MAX, node).for_each(|block| worst[block.worst.index()] += 1);
    let blockers = Kind::ALL.into_iter().filter(|kind| kind.is_blocker());
    let mut kinds: Vec<_> = blockers
        .filter(|&kind| !matches!(kind, Kind::Absent | Kind::Offline))
        .map(|kind| KindCount {
            kind,
            pages: survey.pages_of(kind, node),
            blocks: worst[kind.index()],
        })
        .filter(|count| count.pages > 0)
        .collect();
    kinds.sort_by_key(|count| std::cmp::Reverse(count.blocks));
    kinds
}

fn pinned(
    files: &Files,
    base: PageSize,
    all: &[Process],
    n: usize,
    missing: &mut Vec<Missing>,
) -> Vec<PinnedBy> {
    let frames = note(missing, "frames of pinned pages", holders::pinned(files, base, all));
    let blocks = |process: &Process| {
        let found = frames.as_ref()?.iter().find(|pinned| pinned.process.pid == process.pid)?;
        Some(found.expected_blocks().round() as u64)
    };
    let most = top(all, n, |process| process.pinned_bytes).into_iter();
    most.map(|process| PinnedBy { process: process.clone(), blocks: blocks(process) }).collect()
}

fn bytes(n: u64) -> String {
    Bytes::new(n).to_string()
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let mut section = |table: Table, heading: &str, any: bool| {
        if any {
            text.push_str(&format!("{heading}\n{table}\n"));
        }
    };
    section(kind_table(report), "Pages that cannot be moved", !report.kinds.is_empty());
    section(
        histogram_table(report),
        "Blocks by how many of these they have",
        !report.histogram.is_empty(),
    );
    section(cache_table(&report.caches), "Slab caches", !report.caches.is_empty());
    let tables = process_table(&report.page_tables, |process| process.page_table_bytes);
    section(tables, "Page tables", !report.page_tables.is_empty());
    section(pinned_table(&report.pinned), "Pinned pages", !report.pinned.is_empty());
    let locked = process_table(&report.locked, |process| process.locked_bytes);
    section(locked, "Locked pages (can be moved)", !report.locked.is_empty());
    for single in &report.single {
        let Single { address, kind } = single;
        text.push_str(&format!("One page ({kind}) spoils the block at {address:#x}\n"));
    }
    let more = report.single_blocks - report.single.len() as u64;
    if more > 0 {
        text.push_str(&format!("and so it is with {} more blocks\n", format::count(more)));
    }
    for missing in &report.missing {
        text.push_str(&format!("Not shown: {}: {}\n", missing.what, missing.why));
    }
    text.pop();
    text
}

fn kind_table(report: &Report) -> Table {
    let mut table = Table::new(["", "pages", "blocks most of all"]);
    for count in &report.kinds {
        let [pages, blocks] = [count.pages, count.blocks].map(format::count);
        table.row([count.kind.name().to_owned(), pages, blocks]);
    }
    table
}

fn histogram_table(report: &Report) -> Table {
    let mut table = Table::new(["blockers", "blocks"]);
    for (power, &blocks) in report.histogram.iter().enumerate() {
        let range = match power {
            0 => "1".to_owned(),
            _ if power + 1 == report.histogram.len() => format!("{}", 1u64 << power),
            _ => format!("{}–{}", 1u64 << power, (1u64 << (power + 1)) - 1),
        };
        table.row([range, format::count(blocks)]);
    }
    table
}

fn cache_table(caches: &[Cache]) -> Table {
    let mut table = Table::new(["cache", "memory", "objects", "in use", "can be shrunk"]);
    for cache in caches {
        table.row([
            cache.name.clone(),
            bytes(cache.bytes),
            format::count(cache.objects),
            format::count(cache.active),
            match cache.reclaimable {
                Some(true) => "yes",
                Some(false) => "no",
                None => "-",
            }
            .to_owned(),
        ]);
    }
    table
}

fn process_table(processes: &[Process], of: impl Fn(&Process) -> u64) -> Table {
    let mut table = Table::new(["process", "pid", "memory"]);
    for process in processes {
        table.row([process.name.clone(), process.pid.to_string(), bytes(of(process))]);
    }
    table
}

fn pinned_table(pinned: &[PinnedBy]) -> Table {
    let mut table = Table::new(["process", "pid", "memory", "blocks"]);
    for PinnedBy { process, blocks } in pinned {
        let blocks = super::table::known(*blocks, format::count);
        let memory = bytes(process.pinned_bytes);
        table.row([process.name.clone(), process.pid.to_string(), memory, blocks]);
    }
    table
}
