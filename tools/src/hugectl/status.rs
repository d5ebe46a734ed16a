//! `hugectl status`: what the machine has in huge pages, and how broken up the rest is.

use std::fmt::{self, Display};

use bookend::units::Bytes;
use bookend_defrag::system::status::{
    Compaction, NodeStatus, PoolStatus, Status, ZoneStatus, status,
};
use bookend_defrag::system::transparent::{Coverage, Settings};
use clap::Args;

use super::table::{Table, known, percent};
use super::{Context, Failure};
use crate::cli::{exit, format, output};

/// Shows huge page pools, free memory by order, and how well compaction does
///
/// Works for every user; what only root may read is left out and said to be. Indices are those of
/// the kernel: "unusable" is the share of free memory that a block of that size cannot come from
/// (0% all can, 100% none); "cause" tells why there is none: 0 a lack of memory, 1 fragmentation,
/// "-" where there is one.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Prints the status.
///
/// # Errors
/// [`Failure::Output`]: what cannot be read is part of the report.
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let status = status(&context.files, context.base);
    let written = if options.json {
        output::json(&status)
    } else {
        output::line(Report(&status).to_string().trim_end())
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

/// The status as text.
struct Report<'a>(&'a Status);

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0;
        for node in &status.nodes {
            show_node(f, node)?;
        }
        writeln!(f, "Huge page pools")?;
        writeln!(f, "{}", pools(&status.pools, &status.nodes))?;
        if let Some(settings) = &status.transparent {
            show_transparent(f, settings, status.coverage.as_ref())?;
        }
        if let Some(compaction) = &status.compaction {
            show_compaction(f, compaction)?;
        }
        for missing in &status.missing {
            writeln!(f, "Not shown: {}: {}", missing.what, missing.why)?;
        }
        Ok(())
    }
}

fn bytes(n: u64) -> String {
    Bytes::new(n).to_string()
}

fn show_node(f: &mut fmt::Formatter<'_>, node: &NodeStatus) -> fmt::Result {
    let size = |value| known(value, bytes);
    writeln!(
        f,
        "Node {}: {}, {} free, {} files, slab {} + {} that cannot be shrunk",
        node.node,
        size(node.total_bytes),
        size(node.free_bytes),
        size(node.file_bytes),
        size(node.slab_reclaimable_bytes),
        size(node.slab_unreclaimable_bytes)
    )?;
    for zone in &node.zones {
        show_zone(f, zone)?;
    }
    Ok(())
}

fn show_zone(f: &mut fmt::Formatter<'_>, zone: &ZoneStatus) -> fmt::Result {
    let [present, managed, free] =
        [zone.present_bytes, zone.managed_bytes, zone.free_bytes].map(bytes);
    write!(f, " Zone {}: {present} present, {managed} managed, {free} free", zone.zone)?;
    let blocks = zone.pageblocks.iter().filter(|(_, count)| *count > 0);
    for (index, (name, count)) in blocks.enumerate() {
        let before = if index == 0 { "; pageblocks" } else { "," };
        write!(f, "{before} {} {}", format::count(*count), name.to_lowercase())?;
    }
    let mut table = Table::new(["block", "free", "can be had", "unusable", "cause"]);
    for order in &zone.orders {
        let cause = (order.suitable == 0).then_some(order.fragmentation.max(0.0));
        table.row([
            bytes(order.block_bytes),
            format::count(order.free),
            format::count(order.suitable),
            percent(order.unusable),
            known(cause, |index| format!("{index:.3}")),
        ]);
    }
    writeln!(f, "\n{table}")
}

/// The machine's pools, and, where there are several nodes, what each has.
fn pools(machine: &[PoolStatus], nodes: &[NodeStatus]) -> Table {
    let mut table = Table::new(["page", "total", "free", "promised", "surplus", "memory"]);
    let mut add = |name: String, pool: &PoolStatus| {
        table.row([
            name,
            format::count(pool.total),
            format::count(pool.free),
            known(pool.reserved, format::count),
            format::count(pool.surplus),
            bytes(pool.total * pool.page_bytes),
        ]);
    };
    for pool in machine {
        add(bytes(pool.page_bytes), pool);
        for node in nodes.iter().filter(|_| nodes.len() > 1) {
            let own = node.pools.iter().find(|own| own.page_bytes == pool.page_bytes);
            own.into_iter().for_each(|own| add(format!("  node {}", node.node), own));
        }
    }
    table
}

fn show_transparent(
    f: &mut fmt::Formatter<'_>,
    settings: &Settings,
    coverage: Option<&Coverage>,
) -> fmt::Result {
    write!(f, "Transparent huge pages: {}", settings.enabled)?;
    for (name, value) in [("defrag", &settings.defrag), ("shared memory", &settings.shmem)] {
        value.iter().try_for_each(|value| write!(f, ", {name} {value}"))?;
    }
    if let Some(coverage) = coverage {
        let share = known(coverage.anon_share, percent);
        write!(f, "; {share} of {} anonymous", bytes(coverage.anon_bytes))?;
    }
    writeln!(f)?;
    for size in settings.sizes.iter().filter(|size| size.enabled != "never") {
        let counts = match (size.fault_alloc, size.fault_fallback) {
            (Some(had), Some(not)) => {
                format!(": {} faults had one, {} not", format::count(had), format::count(not))
            }
            _ => String::new(),
        };
        writeln!(f, "  {} {}{counts}", bytes(size.size_bytes), size.enabled)?;
    }
    Ok(())
}

fn show_compaction(f: &mut fmt::Formatter<'_>, compaction: &Compaction) -> fmt::Result {
    writeln!(
        f,
        "Since boot: compaction succeeded {} of the {} times it was waited for, \
         {} of pages could be migrated, {} of huge page faults and {} of hugetlb pages were had",
        known(compaction.success, percent),
        known(compaction.stalls, format::count),
        known(compaction.migration, percent),
        known(compaction.thp_faults, percent),
        known(compaction.hugetlb, percent)
    )
}
