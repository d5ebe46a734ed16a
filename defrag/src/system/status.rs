//! The state of a machine's contiguity in one value: what `hugectl status` shows.
//!
//! Everything is read as far as the user may: what cannot be read is left out and listed in
//! [`Status::missing`] with the reason, and no figure is made up for it.

use bookend::units::{Bytes, Node, PageSize};
use serde::Serialize;

use super::counters::Counters;
use super::files::{FileError, Files};
use super::indices::FreeBlocks;
use super::pagetypes::page_types;
use super::pools::{HugePools, Place};
use super::transparent::{self, Coverage, Settings};
use super::zones::{Zone, zones};

/// All of it.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Status {
    /// Bytes of a base page.
    pub base_page_bytes: u64,
    /// The nodes that have memory.
    pub nodes: Vec<NodeStatus>,
    /// The machine's pools, largest pages first.
    pub pools: Vec<PoolStatus>,
    /// Transparent huge pages.
    pub transparent: Option<Settings>,
    /// How much memory they cover.
    pub coverage: Option<Coverage>,
    /// What compaction has achieved since boot.
    pub compaction: Option<Compaction>,
    /// What could not be read.
    pub missing: Vec<Missing>,
}

/// One node.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct NodeStatus {
    /// Its number.
    pub node: u32,
    /// Its memory.
    pub total_bytes: Option<u64>,
    /// What nobody uses.
    pub free_bytes: Option<u64>,
    /// Pages of files.
    pub file_bytes: Option<u64>,
    /// Slab that shrinkers can give back.
    pub slab_reclaimable_bytes: Option<u64>,
    /// Slab that they cannot.
    pub slab_unreclaimable_bytes: Option<u64>,
    /// What transparent huge pages cover there.
    pub coverage: Option<Coverage>,
    /// Its part of the pools.
    pub pools: Vec<PoolStatus>,
    /// Its zones.
    pub zones: Vec<ZoneStatus>,
}

/// A pool, in pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct PoolStatus {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages, in use or not.
    pub total: u64,
    /// Pages nobody uses.
    pub free: u64,
    /// Free pages that are promised; the machine's pools only.
    pub reserved: Option<u64>,
    /// Pages beyond the pool's size.
    pub surplus: u64,
    /// How many surplus pages may be made; the machine's pools only.
    pub overcommit: Option<u64>,
}

/// A zone.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ZoneStatus {
    /// Its name.
    pub zone: String,
    /// Memory that exists.
    pub present_bytes: u64,
    /// Memory that the page allocator has; where it is less, the rest was taken at boot or is not
    /// online yet.
    pub managed_bytes: u64,
    /// Free memory.
    pub free_bytes: u64,
    /// By order, lowest first.
    pub orders: Vec<OrderStatus>,
    /// Pageblocks by what they are kept for; root only.
    pub pageblocks: Vec<(String, u64)>,
}

/// What is free of one order.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OrderStatus {
    /// Binary logarithm of the block's base pages.
    pub order: u32,
    /// Bytes of such a block.
    pub block_bytes: u64,
    /// Free blocks of just this order.
    pub free: u64,
    /// How many could be had, larger ones cut up.
    pub suitable: u64,
    /// The unusable free index, 0 to 1.
    pub unusable: f64,
    /// The fragmentation index, −1 where an allocation would succeed.
    pub fragmentation: f64,
}

/// Shares of success, each `success / (success + fail)`, and `None` where nothing was tried.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Compaction {
    /// Allocations that waited for compaction.
    pub stalls: Option<u64>,
    /// Of them those that got their block.
    pub success: Option<f64>,
    /// Pages that could be migrated.
    pub migration: Option<f64>,
    /// Faults that got a transparent huge page.
    pub thp_faults: Option<f64>,
    /// hugetlb pages that the page allocator had.
    pub hugetlb: Option<f64>,
}

/// Something that could not be read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Missing {
    /// What.
    pub what: &'static str,
    /// Why, and what would help.
    pub why: String,
}

/// Reads what can be read.
pub fn status(files: &Files, base: PageSize) -> Status {
    let mut missing = Vec::new();
    let pools = HugePools::of(files);
    let meminfo = note(&mut missing, "memory", Counters::meminfo(files));
    let zones = note(&mut missing, "zones", zones(files)).unwrap_or_default();
    let types = note(&mut missing, "pageblocks", page_types(files)).unwrap_or_default();
    let vmstat = note(&mut missing, "compaction", Counters::vmstat(files));
    let mut nodes = Vec::new();
    for node in nodes_of(&pools, &mut missing) {
        let own = match Counters::of_node(files, node) {
            Err(FileError::Absent { .. }) => meminfo.clone(),
            other => note(&mut missing, "a node's memory", other),
        };
        let place = if pools.nodes().is_ok_and(|nodes| nodes.is_empty()) {
            Place::Machine
        } else {
            Place::Node(node)
        };
        let zones = zones.iter().filter(|zone| zone.node == node).map(|zone| {
            let own = types.iter().find(|t| t.node == node && t.zone == zone.name);
            zone_status(zone, base, own.map_or(Vec::new(), |types| types.blocks.clone()))
        });
        let zones = zones.collect();
        let pools = note(&mut missing, "a node's pools", pool_statuses(&pools, place));
        nodes.push(node_status(node, own.as_ref(), pools.unwrap_or_default(), zones));
    }
    Status {
        base_page_bytes: base.bytes().get(),
        nodes,
        pools: note(&mut missing, "pools", pool_statuses(&pools, Place::Machine))
            .unwrap_or_default(),
        transparent: note(&mut missing, "transparent huge pages", transparent::settings(files)),
        coverage: meminfo.as_ref().and_then(transparent::coverage),
        compaction: vmstat.as_ref().map(compaction),
        missing,
    }
}

/// What was read; else the reason goes to the list.
fn note<T>(
    missing: &mut Vec<Missing>,
    what: &'static str,
    read: Result<T, FileError>,
) -> Option<T> {
    match read {
        Ok(value) => Some(value),
        Err(error) => {
            missing.push(Missing { what, why: why(&error) });
            None
        }
    }
}

/// An error with its cause and its remedy.
pub fn why(error: &FileError) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    let remedy = if error.is_denied() { "; root may read it" } else { "" };
    format!("{error}{}{remedy}", cause.unwrap_or_default())
}

fn nodes_of(pools: &HugePools, missing: &mut Vec<Missing>) -> Vec<Node> {
    let nodes = note(missing, "nodes", pools.nodes()).unwrap_or_default();
    if nodes.is_empty() { vec![Node::new(0)] } else { nodes }
}

fn node_status(
    node: Node,
    meminfo: Option<&Counters>,
    pools: Vec<PoolStatus>,
    zones: Vec<ZoneStatus>,
) -> NodeStatus {
    let get = |name| meminfo.and_then(|own| own.get(name));
    NodeStatus {
        node: node.get(),
        total_bytes: get("MemTotal"),
        free_bytes: get("MemFree"),
        file_bytes: get("FilePages").or_else(|| get("Cached")),
        slab_reclaimable_bytes: get("SReclaimable"),
        slab_unreclaimable_bytes: get("SUnreclaim"),
        coverage: meminfo.and_then(transparent::coverage),
        pools,
        zones,
    }
}

fn zone_status(zone: &Zone, base: PageSize, pageblocks: Vec<(String, u64)>) -> ZoneStatus {
    let bytes = |pages: u64| pages << base.shift();
    ZoneStatus {
        zone: zone.name.clone(),
        present_bytes: bytes(zone.present),
        managed_bytes: bytes(zone.managed),
        free_bytes: bytes(zone.free),
        orders: orders(&zone.blocks, base),
        pageblocks,
    }
}

/// Every order of free blocks with its indices.
pub fn orders(blocks: &FreeBlocks, base: PageSize) -> Vec<OrderStatus> {
    let status = |(order, &free): (usize, &u64)| OrderStatus {
        order: order as u32,
        block_bytes: base.bytes().get() << order,
        free,
        suitable: blocks.suitable(order),
        unusable: f64::from(blocks.unusable(order)) / 1000.0,
        fragmentation: f64::from(blocks.fragmentation(order)) / 1000.0,
    };
    blocks.by_order().iter().enumerate().map(status).collect()
}

fn pool_statuses(pools: &HugePools, place: Place) -> Result<Vec<PoolStatus>, FileError> {
    let sizes = match pools.sizes() {
        Err(FileError::Absent { .. }) => Vec::new(), // a kernel without hugetlb
        sizes => sizes?,
    };
    let mut statuses = Vec::new();
    for page in sizes {
        match pools.counts(page, place) {
            Ok(counts) => statuses.push(PoolStatus {
                page_bytes: Bytes::get(page.bytes()),
                total: counts.total,
                free: counts.free,
                reserved: counts.reserved,
                surplus: counts.surplus,
                overcommit: counts.overcommit,
            }),
            // A node of processors or devices only has no pools.
            Err(FileError::Absent { .. }) if place != Place::Machine => {}
            Err(error) => return Err(error),
        }
    }
    Ok(statuses)
}

fn compaction(vmstat: &Counters) -> Compaction {
    Compaction {
        stalls: vmstat.get("compact_stall"),
        success: vmstat.success_rate("compact_success", "compact_fail"),
        migration: vmstat.success_rate("pgmigrate_success", "pgmigrate_fail"),
        thp_faults: vmstat.success_rate("thp_fault_alloc", "thp_fault_fallback"),
        hugetlb: vmstat.success_rate("htlb_buddy_alloc_success", "htlb_buddy_alloc_fail"),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
