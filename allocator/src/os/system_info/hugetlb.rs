//! The machine's nodes and its pools of hugetlb pages.

use super::text::{List, Reader};
use super::{InfoError, NODES_MAX, PAGE_SIZES_MAX};
use crate::os::{Errno, Os};
use crate::units::{Bytes, Node, PageSize};

/// A NUMA node that has memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeInfo {
    /// Its number.
    pub node: Node,
    /// Its memory.
    pub total: Bytes,
    /// What nobody uses of it.
    pub free: Bytes,
}

impl Default for NodeInfo {
    fn default() -> Self {
        Self { node: Node::new(0), total: Bytes::ZERO, free: Bytes::ZERO }
    }
}

/// What a node has of a hugetlb pool, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodePool {
    /// The node.
    pub node: Node,
    /// Pages, in use or not.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
    /// Pages beyond what the pool was set to.
    pub surplus: u64,
}

impl Default for NodePool {
    fn default() -> Self {
        Self { node: Node::new(0), total: 0, free: 0, surplus: 0 }
    }
}

/// The hugetlb pool of one page size, in pages.
#[derive(Clone, Copy, Debug)]
pub struct HugePoolInfo {
    /// Size of its pages.
    pub page: PageSize,
    /// Pages, in use or not.
    pub total: u64,
    /// Pages that nobody uses yet; some may be [reserved](Self::reserved).
    pub free: u64,
    /// Free pages that are promised to mappings.
    pub reserved: u64,
    /// Pages beyond what the pool was set to; they go when they are freed.
    pub surplus: u64,
    /// How many surplus pages the kernel may make where it finds the memory.
    pub overcommit: u64,
    /// What each node has of it.
    pub nodes: List<NodePool, NODES_MAX>,
}

impl Default for HugePoolInfo {
    fn default() -> Self {
        Self {
            page: PageSize::MIB2,
            total: 0,
            free: 0,
            reserved: 0,
            surplus: 0,
            overcommit: 0,
            nodes: List::new(),
        }
    }
}

impl HugePoolInfo {
    /// Pages that can be taken now: free and not promised. A cgroup may allow fewer, see
    /// [`SystemInfo::available`](super::SystemInfo::available).
    pub fn unreserved(&self) -> u64 {
        self.free.saturating_sub(self.reserved)
    }
}

const NODES: &str = "/sys/devices/system/node";

/// Nodes that have memory. A kernel without NUMA has none of these files, and one node.
pub(super) fn nodes<O: Os>(
    reader: &mut Reader<'_, O>,
) -> Result<List<NodeInfo, NODES_MAX>, InfoError> {
    let mut nodes = List::new();
    let Some(content) = reader.find(format_args!("{NODES}/has_memory"))? else {
        let content = reader.read("/proc/meminfo")?;
        let (total, free) = (kib(&content, "MemTotal:")?, kib(&content, "MemFree:")?);
        nodes.push("nodes", NodeInfo { node: Node::new(0), total, free })?;
        return Ok(nodes);
    };
    for range in content.text.trim().split(',').filter(|range| !range.is_empty()) {
        let unexpected = || content.unexpected(range, "a range of nodes like 0-3");
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first: u32 = first.parse().map_err(|_| unexpected())?;
        let last: u32 = last.parse().map_err(|_| unexpected())?;
        for node in first..=last {
            nodes.push("nodes", NodeInfo { node: Node::new(node), ..NodeInfo::default() })?;
        }
    }
    for info in nodes.iter_mut() {
        let content = reader.read(format_args!("{NODES}/node{}/meminfo", info.node))?;
        info.total = node_kib(&content, info.node, "MemTotal:")?;
        info.free = node_kib(&content, info.node, "MemFree:")?;
    }
    Ok(nodes)
}

/// The number after a key of a node's meminfo: `Node 0 MemTotal:  24684092 kB`.
fn node_kib(
    content: &super::text::Content<'_>,
    node: Node,
    key: &'static str,
) -> Result<Bytes, InfoError> {
    let missing = InfoError::Missing { path: content.path, key };
    let line = content.text.lines().find_map(|line| {
        let (number, rest) = line.strip_prefix("Node ")?.split_once(' ')?;
        (number.parse() == Ok(node.get())).then_some(())?;
        rest.trim_start().strip_prefix(key)
    });
    parse_kib(content, line.ok_or(missing)?)
}

fn kib(content: &super::text::Content<'_>, key: &'static str) -> Result<Bytes, InfoError> {
    parse_kib(content, content.field(key)?)
}

fn parse_kib(content: &super::text::Content<'_>, value: &str) -> Result<Bytes, InfoError> {
    let number =
        value.trim().strip_suffix("kB").and_then(|number| number.trim().parse::<u64>().ok());
    let bytes = number.and_then(|kib| kib.checked_mul(1 << 10));
    bytes.map(Bytes::new).ok_or_else(|| content.unexpected(value.trim(), "a number of kB"))
}

const POOLS: &str = "/sys/kernel/mm/hugepages";

/// The pools, largest pages first; none where the kernel is built without hugetlb.
pub(super) fn pools<O: Os>(
    reader: &mut Reader<'_, O>,
    nodes: &[NodeInfo],
) -> Result<List<HugePoolInfo, PAGE_SIZES_MAX>, InfoError> {
    let mut sizes: List<Option<PageSize>, PAGE_SIZES_MAX> = List::new();
    let mut pushed = Ok(());
    let listed = reader.os.list_directory(c"/sys/kernel/mm/hugepages", &mut |name| {
        let size = name.to_str().ok().and_then(page_size_of);
        if size.is_some() && pushed.is_ok() {
            pushed = sizes.push("hugetlb page sizes", size);
        }
    });
    match listed {
        Err(Errno::NOENT) => return Ok(List::new()),
        Err(cause) => return Err(InfoError::Read { path: super::PathText::new(POOLS), cause }),
        Ok(()) => pushed?,
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let mut pools = List::new();
    for page in sizes.iter().flatten() {
        pools.push("hugetlb page sizes", pool(reader, *page, nodes)?)?;
    }
    Ok(pools)
}

/// The size in a name like `hugepages-2048kB`.
fn page_size_of(name: &str) -> Option<PageSize> {
    let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    PageSize::from_bytes(Bytes::new(kib.checked_mul(1 << 10)?))
}

fn pool<O: Os>(
    reader: &mut Reader<'_, O>,
    page: PageSize,
    nodes: &[NodeInfo],
) -> Result<HugePoolInfo, InfoError> {
    let kib = page.bytes().get() >> 10;
    // A file that is not there counts nothing: kernels differ in what they show.
    let mut count = |file: &str| -> Result<u64, InfoError> {
        Ok(reader.number(format_args!("{POOLS}/hugepages-{kib}kB/{file}"))?.unwrap_or(0))
    };
    let mut pool = HugePoolInfo {
        page,
        total: count("nr_hugepages")?,
        free: count("free_hugepages")?,
        reserved: count("resv_hugepages")?,
        surplus: count("surplus_hugepages")?,
        overcommit: count("nr_overcommit_hugepages")?,
        nodes: List::new(),
    };
    for &NodeInfo { node, .. } in nodes {
        let mut count = |file: &str| {
            reader.number(format_args!("{NODES}/node{node}/hugepages/hugepages-{kib}kB/{file}"))
        };
        let Some(total) = count("nr_hugepages")? else { continue };
        let free = count("free_hugepages")?.unwrap_or(0);
        let surplus = count("surplus_hugepages")?.unwrap_or(0);
        pool.nodes.push("nodes", NodePool { node, total, free, surplus })?;
    }
    Ok(pool)
}
