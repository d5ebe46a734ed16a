//! Simulated page frames: the machine's hugetlb pools, and what is behind ordinary pages.

use std::collections::BTreeMap;

use crate::units::{Node, PageSize, Pfn};

/// The order in which a hugetlb pool first hands its pages out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreeOrder {
    /// Lowest frame first: what faulting yields is contiguous.
    Ascending,
    /// Highest frame first, as on many machines: every page is a run of its own.
    Descending,
    /// In a random order that the seed decides.
    Shuffled(u64),
}

/// A page in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page {
    pub(super) size: PageSize,
    pub(super) frame: Pfn,
    pub(super) node: Node,
    pub(super) hugetlb: bool,
}

/// The hugetlb pool of one page size. As in the kernel, each node has a list of free pages, last
/// in, first out.
#[derive(Default, Debug)]
pub(super) struct HugePool {
    free: BTreeMap<Node, Vec<Pfn>>,
    /// Pages taken since the beginning; moments are counted by it.
    pub(super) taken_ever: u64,
    /// Pages that this process uses now.
    pub(super) used: u64,
    /// The most it may use, as by a hugetlb cgroup.
    pub(super) limit: Option<u64>,
    /// Pages that another process uses.
    stolen: Vec<(Node, Pfn)>,
    /// Pages of each node, free or not.
    totals: BTreeMap<Node, u64>,
}

impl HugePool {
    /// Adds pages so that the first of `frames` is handed out first.
    pub(super) fn add(&mut self, node: Node, frames: &[Pfn]) {
        self.free.entry(node).or_default().extend(frames.iter().rev());
        *self.totals.entry(node).or_default() += frames.len() as u64;
    }

    /// A page of `node`, or of any, lowest node first; `None` where there is none or the limit is
    /// met.
    pub(super) fn take(&mut self, node: Option<Node>) -> Option<(Node, Pfn)> {
        if self.limit.is_some_and(|limit| self.used >= limit) {
            return None;
        }
        let found = self.pop(node)?;
        self.taken_ever += 1;
        self.used += 1;
        Some(found)
    }

    fn pop(&mut self, node: Option<Node>) -> Option<(Node, Pfn)> {
        self.free
            .iter_mut()
            .filter(|(at, _)| node.is_none_or(|node| node == **at))
            .find_map(|(&at, frames)| Some((at, frames.pop()?)))
    }

    pub(super) fn give_back(&mut self, node: Node, frame: Pfn) {
        self.used -= 1;
        self.free.entry(node).or_default().push(frame);
    }

    /// Another process takes up to `count` pages, by the same list.
    pub(super) fn steal(&mut self, count: u64) {
        for _ in 0..count {
            match self.pop(None) {
                Some(page) => self.stolen.push(page),
                None => return,
            }
        }
    }

    /// The other process gives back all it took.
    pub(super) fn return_stolen(&mut self) {
        for (node, frame) in core::mem::take(&mut self.stolen) {
            self.free.entry(node).or_default().push(frame);
        }
    }

    pub(super) fn free_on(&self, node: Option<Node>) -> u64 {
        let on = |at: &&Node| node.is_none_or(|node| node == **at);
        self.free.iter().filter(|(at, _)| on(at)).map(|(_, frames)| frames.len() as u64).sum()
    }

    pub(super) fn total(&self) -> u64 {
        self.totals.values().sum()
    }

    /// Pages of a node, and how many of them are free.
    pub(super) fn on_node(&self, node: Node) -> (u64, u64) {
        (self.totals.get(&node).copied().unwrap_or(0), self.free_on(Some(node)))
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = Node> + '_ {
        self.totals.keys().copied()
    }
}

/// Frames of `count` neighbouring pages from `first` on, in an order.
pub(super) fn neighbours(first: Pfn, step: u64, count: u64, order: FreeOrder) -> Vec<Pfn> {
    let mut frames: Vec<_> = (0..count).map(|i| first.offset(i * step)).collect();
    match order {
        FreeOrder::Ascending => {}
        FreeOrder::Descending => frames.reverse(),
        FreeOrder::Shuffled(seed) => shuffle(&mut frames, seed),
    }
    frames
}

/// Fisher and Yates, with a splitmix64 generator.
fn shuffle(frames: &mut [Pfn], mut seed: u64) {
    let mut next = || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    for i in (1..frames.len()).rev() {
        frames.swap(i, (next() % (i as u64 + 1)) as usize);
    }
}

/// Frames of ordinary memory. They are never handed out twice, which no test can tell from a
/// machine with much memory.
#[derive(Debug)]
pub(super) struct Ordinary {
    next_base: Pfn,
    next_huge: Pfn,
    pub(super) used: u64,
}

impl Ordinary {
    /// Two areas that meet no hugetlb pool's.
    pub(super) fn new() -> Self {
        Self { next_base: Pfn::new(1 << 40), next_huge: Pfn::new(1 << 44), used: 0 }
    }

    /// A base page. No two are neighbours, as on a machine that has been up for long.
    pub(super) fn base(&mut self, size: PageSize, node: Node) -> Page {
        let frame = self.next_base;
        self.next_base = frame.offset(2);
        self.used += 1;
        Page { size, frame, node, hugetlb: false }
    }

    /// A transparent huge page of `frames` base pages; neighbours of one another are not
    /// neighbours in memory.
    pub(super) fn huge(&mut self, size: PageSize, frames: u64, node: Node) -> Page {
        let frame = self.next_huge;
        self.next_huge = frame.offset(2 * frames);
        self.used += 1;
        Page { size, frame, node, hugetlb: false }
    }
}
