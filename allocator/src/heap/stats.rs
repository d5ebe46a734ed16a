//! What a heap did and holds.

/// Counts of whole blocks.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Supplied {
    /// Blocks opened, released, and kept because the system refused to take them.
    pub opened: u64,
    pub released: u64,
    pub kept: u64,
    /// Blocks that were to be hugetlb pages and are not.
    pub hugetlb_refused: u64,
    /// Blocks that were to be transparent huge pages and are not.
    pub transparent_refused: u64,
    /// Extents whose pages the system would not move, so that they were copied or stayed.
    pub unmoved: u64,
    /// Requests for which there was no memory.
    pub refused: u64,
    /// Free blocks that were given back because whoever wanted them runs on another node.
    pub other_node: u64,
    /// Blocks placed at the end where they do not belong, because the other was full.
    pub misplaced: u64,
}

/// A heap at one moment, in bytes unless said otherwise.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Address space reserved for objects.
    pub reserved: u64,
    /// Blocks with memory behind them, used or not.
    pub committed: u64,
    /// Of these, on hugetlb pages.
    pub hugetlb: u64,
    /// In slabs, including objects that are free in them.
    pub slabs: u64,
    /// Of these, in objects that are in use or at hand for a thread.
    pub objects: u64,
    /// In runs of slices: allocations of more than 256 KiB up to 1 MiB.
    pub runs: u64,
    /// In whole blocks: longer allocations.
    pub huge: u64,
    /// Blocks given back to the system so far.
    pub released_blocks: u64,
    /// Blocks that the system refused to take back.
    pub kept_blocks: u64,
    /// Blocks that were to be hugetlb pages and are not.
    pub hugetlb_refused_blocks: u64,
    /// Blocks that were to be transparent huge pages and that the system would not take the advice
    /// for.
    pub transparent_refused_blocks: u64,
    /// Times that a long allocation grew and the system would not move its pages, so that it was
    /// copied.
    pub unmoved: u64,
    /// Free blocks given back, because the thread that took them ran on another NUMA node.
    pub other_node_blocks: u64,
    /// Blocks that had to be placed among those of the other end, so far.
    pub misplaced_blocks: u64,
    /// Blocks in use of which parts have gone back to the system, so that they are no huge pages.
    pub split_blocks: u64,
    /// Bytes of parts of blocks given back to the system so far.
    pub returned_parts: u64,
    /// Requests for which there was no memory.
    pub failures: u64,
    /// Heaps of threads, those that wait for another thread included.
    pub heaps: u64,
    /// Threads that have a heap of their own at present.
    pub threads: u64,
}
