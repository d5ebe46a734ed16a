//! `hugectl blame`: who stands in the way of contiguity.

use bookend::units::{Bytes, Node};
use bookend_defrag::system::blame::{Blame, PinnedBy, Single, blame};
use bookend_defrag::system::holders::Process;
use bookend_defrag::system::slabs::Cache;
use clap::Args;

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

/// Prints who stands in the way.
///
/// # Errors
/// [`Failure`]; what cannot be read is part of the report.
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let node = options.node.map(Node::new);
    super::check_node(&context.files, node)?;
    let report = blame(&context.files, context.base, node, options.top);
    let written = if options.json { output::json(&report) } else { output::line(text(&report)) };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

fn bytes(n: u64) -> String {
    Bytes::new(n).to_string()
}

fn text(report: &Blame) -> String {
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

fn kind_table(report: &Blame) -> Table {
    let mut table = Table::new(["", "pages", "blocks most of all"]);
    for count in &report.kinds {
        let [pages, blocks] = [count.pages, count.blocks].map(format::count);
        table.row([count.kind.name().to_owned(), pages, blocks]);
    }
    table
}

fn histogram_table(report: &Blame) -> Table {
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
