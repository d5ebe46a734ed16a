//! What a test sets up on a simulated machine, makes happen there, and asks of it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use super::frames::{HugePool, Ordinary, neighbours};
use super::mappings::Mappings;
use super::{
    Call, Errno, Fails, FakeOs, Faults, FreeOrder, Machine, Memory, State, Transparent, Tree,
};
use crate::units::{Bytes, Node, PageSize, Pfn};

impl Default for FakeOs {
    fn default() -> Self {
        Self::new()
    }
}

/// # Setting it up
impl FakeOs {
    /// Two processors, node 0, base pages of 4 KiB; hugetlb pages of 2 MiB and 1 GiB, none of
    /// either in its pool; transparent huge pages for whoever wants them; root's privileges.
    pub fn new() -> Self {
        let memory = Memory {
            base: PageSize::KIB4,
            mappings: Mappings::default(),
            private: BTreeMap::new(),
            files: BTreeMap::new(),
            pools: [PageSize::MIB2, PageSize::GIB1].map(|page| (page, HugePool::default())).into(),
            ordinary: Ordinary::new(),
            transparent: Transparent::Blocks(u64::MAX),
            thefts: Vec::new(),
        };
        let state = State {
            memory,
            faults: Faults::default(),
            tree: Tree::plausible(),
            privileged: true,
            processors: 2,
            processor_node: Node::new(0),
            thefts: Vec::new(),
        };
        Self(Arc::new(Machine { state: Mutex::new(state), now_ns: AtomicU64::new(0) }))
    }

    /// Adds `count` neighbouring hugetlb pages to the pool of node 0, handed out in that order.
    #[must_use]
    pub fn with_huge_pages(self, page: PageSize, count: u64, order: FreeOrder) -> Self {
        self.with_huge_pages_on(Node::new(0), page, count, order)
    }

    /// Adds `count` neighbouring hugetlb pages to the pool of a node, handed out in that order.
    #[must_use]
    pub fn with_huge_pages_on(
        self,
        node: Node,
        page: PageSize,
        count: u64,
        order: FreeOrder,
    ) -> Self {
        {
            let memory = &mut self.state().memory;
            // An area of 64 TiB each size and node, with room between what is added at once.
            let step = page.bytes().get() >> memory.base.shift();
            let pool = memory.pools.entry(page).or_default();
            let area = u64::from(page.shift()) << 38 | u64::from(node.get()) << 34;
            let first = Pfn::new(area + pool.total() * 2 * step);
            pool.add(node, &neighbours(first, step, count, order));
        }
        self
    }

    /// Adds hugetlb pages of those frames (of the first base page of each), handed out in that
    /// order.
    #[must_use]
    pub fn with_frames(self, node: Node, page: PageSize, frames: &[Pfn]) -> Self {
        self.state().memory.pools.entry(page).or_default().add(node, frames);
        self
    }

    /// Takes a hugetlb page size away: this kernel does not know it.
    #[must_use]
    pub fn without_page_size(self, page: PageSize) -> Self {
        self.state().memory.pools.remove(&page);
        self
    }

    /// Limits the hugetlb pages of a size that this process can have, as a cgroup would.
    #[must_use]
    pub fn with_limit(self, page: PageSize, pages: u64) -> Self {
        self.state().memory.pools.entry(page).or_default().limit = Some(pages);
        self
    }

    /// Says which transparent huge pages can be had.
    #[must_use]
    pub fn with_transparent(self, transparent: Transparent) -> Self {
        self.state().memory.transparent = transparent;
        self
    }

    /// Says whether frame numbers are shown (CAP_SYS_ADMIN).
    #[must_use]
    pub fn with_privilege(self, privileged: bool) -> Self {
        self.state().privileged = privileged;
        self
    }

    /// From now on the caller runs on a processor of that node.
    pub fn run_on(&self, node: Node) {
        self.state().processor_node = node;
    }

    /// Says how many processors there are.
    #[must_use]
    pub fn with_processors(self, processors: usize) -> Self {
        self.state().processors = processors;
        self
    }

    /// Says how long each call of a kind takes, by the simulated clock.
    #[must_use]
    pub fn with_cost(self, call: Call, cost_ns: u64) -> Self {
        self.state().faults.costs_ns[call as usize] = cost_ns;
        self
    }

    /// Sets the content of a file of `/proc` or `/sys`.
    #[must_use]
    pub fn with_file(self, path: &str, content: &str) -> Self {
        self.state().tree.set(path, Some(content.as_bytes()));
        self
    }

    /// Takes a file away, or everything below a directory.
    #[must_use]
    pub fn without_file(self, path: &str) -> Self {
        self.state().tree.set(path, None);
        self
    }
}

/// # Making things happen
impl FakeOs {
    /// Makes the `nth` call of a kind from now on (1 is the next) fail.
    pub fn fail(&self, call: Call, nth: u64, errno: Errno, fails: Fails) {
        self.state().faults.plan(call, nth, errno, fails);
    }

    /// Nothing that was planned by [`FakeOs::fail`] fails any more.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Another process takes up to `count` free hugetlb pages now.
    pub fn steal(&self, page: PageSize, count: u64) {
        if let Some(pool) = self.state().memory.pools.get_mut(&page) {
            pool.steal(count);
        }
    }

    /// Another process takes up to `count` hugetlb pages just before the `nth` call of a kind from
    /// now on (1 is the next).
    pub fn steal_at(&self, call: Call, nth: u64, page: PageSize, count: u64) {
        let mut state = self.state();
        let nth = state.faults.count(call) + nth;
        state.thefts.push((call, nth, page, count));
    }

    /// Another process takes up to `count` hugetlb pages once `taken` more have been taken by
    /// this one: in the middle of a call too.
    pub fn steal_after(&self, page: PageSize, taken: u64, count: u64) {
        let memory = &mut self.state().memory;
        let ever = memory.pools.get(&page).map_or(0, |pool| pool.taken_ever);
        memory.thefts.push((page, ever + taken, count));
    }

    /// The other process gives back what it took of a size.
    pub fn return_stolen(&self, page: PageSize) {
        if let Some(pool) = self.state().memory.pools.get_mut(&page) {
            pool.return_stolen();
        }
    }
}

/// What has been mapped, taken and created through a [`FakeOs`] and not been given back.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Outstanding {
    /// Address space that is mapped or reserved.
    pub mapped: Bytes,
    /// hugetlb pages, of all sizes.
    pub huge_pages: u64,
    /// Base and transparent huge pages.
    pub ordinary_pages: u64,
    /// Memory files that are open or mapped.
    pub files: usize,
}

/// # Asking
impl FakeOs {
    /// How many calls of a kind there were, failed ones included.
    pub fn calls(&self, call: Call) -> u64 {
        self.state().faults.count(call)
    }

    /// How many calls have failed because a test wanted it: where it stays the same, the nth call
    /// that was to fail was never made.
    pub fn injected(&self) -> u64 {
        self.state().faults.injected()
    }

    /// Free hugetlb pages of a size, on all nodes.
    pub fn free_huge_pages(&self, page: PageSize) -> u64 {
        let mut state = self.state();
        state.memory.collect_files();
        state.memory.pools.get(&page).map_or(0, |pool| pool.free_on(None))
    }

    /// What has not been given back.
    pub fn outstanding(&self) -> Outstanding {
        let memory = &mut self.state().memory;
        memory.collect_files();
        Outstanding {
            mapped: Bytes::of_len(memory.mappings.iter().map(|m| m.end - m.start).sum()),
            huge_pages: memory.pools.values().map(|pool| pool.used).sum(),
            ordinary_pages: memory.ordinary.used,
            files: memory.files.len(),
        }
    }

    /// Recomputes the counters from the pages that are present, and panics where they differ.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn validate(&self) {
        let memory = &self.state().memory;
        let in_files = memory.files.values().flat_map(|file| file.pages.values());
        let (mut huge, mut ordinary) = (BTreeMap::<PageSize, u64>::new(), 0);
        for page in memory.private.values().chain(in_files) {
            if page.hugetlb {
                *huge.entry(page.size).or_default() += 1;
            } else {
                ordinary += 1;
            }
        }
        assert_eq!(ordinary, memory.ordinary.used, "ordinary pages");
        for (size, pool) in &memory.pools {
            assert_eq!(huge.get(size).copied().unwrap_or(0), pool.used, "hugetlb pages of {size}");
        }
        for (&at, page) in &memory.private {
            let end = at + page.size.bytes().as_usize();
            assert!(memory.mappings.cover(at, end), "a page at {at:#x} is not mapped");
        }
    }
}

impl Memory {
    pub(super) fn has_node(&self, node: Node) -> bool {
        node == Node::new(0) || self.pools.values().any(|pool| pool.nodes().any(|n| n == node))
    }
}
