//! What stands where: a table cut into runs without a gap, each free or an extent of one class.
//!
//! Ground truth is where runs begin, one lane of a [`Bitmaps`] for each kind of run: 4 bits a
//! block. A run ends where the next one begins. Free runs are maximal: two never touch. Beside it
//! stands a [`MaxTree`] that knows, for each word of 64 blocks, the longest free run that begins
//! there; it answers "the lowest (highest) run of k free blocks".
//!
//! So to allocate or free touches the ends of runs only, whatever their length.

use super::bitmaps::Bitmaps;
use super::bounds::Bounds;
use super::kind::{Kind, Run};
use super::max_tree::MaxTree;
use super::word::{self, Word};
use crate::os::{Errno, Os};
use crate::units::{BlockId, BlockRange, Blocks};

const FREE: usize = Kind::Free as usize;
const KINDS: usize = Kind::ALL.len();

#[derive(Debug)]
pub(super) struct Table<O: Os> {
    heads: Bitmaps<KINDS, O>,
    fits: MaxTree<O>,
    bounds: Bounds,
    capacity: u32,
    /// Blocks and runs of each kind.
    blocks: [u32; KINDS],
    runs: [u32; KINDS],
}

impl<O: Os> Table<O> {
    /// A table of free blocks.
    pub fn new(os: O, capacity: Blocks) -> Result<Self, Errno> {
        let capacity = capacity.get();
        let mut table = Self {
            heads: Bitmaps::new(os.clone(), capacity)?,
            fits: MaxTree::new(os, capacity.div_ceil(word::BLOCKS))?,
            bounds: Bounds::new(capacity.saturating_sub(1) >> word::SHIFT),
            capacity,
            blocks: [0; KINDS],
            runs: [0; KINDS],
        };
        if capacity > 0 {
            table.heads.set(FREE, 0);
            table.refit(0, 0, capacity);
            table.count(Kind::Free, 1, i64::from(capacity));
        }
        Ok(table)
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    pub fn blocks(&self, kind: Kind) -> u32 {
        self.blocks[kind as usize]
    }

    pub fn runs(&self, kind: Kind) -> u32 {
        self.runs[kind as usize]
    }

    /// Length of the longest free run.
    pub fn largest_free(&self) -> u32 {
        self.fits.max()
    }

    /// Says that the neighbourhood of a block is about to change: what is known of it comes into the
    /// cache at once, and not one line after the other.
    #[inline]
    pub fn prefetch(&self, block: u32) {
        let group = block >> word::SHIFT;
        self.heads.prefetch(group);
        self.fits.prefetch(group);
    }

    // Runs.

    /// The run that begins at `head`.
    fn run_from(&self, head: u32) -> Run {
        let end = self.heads.next_any(head + 1).unwrap_or(self.capacity);
        Run { kind: self.kind_of(head), range: range(head, end - head) }
    }

    fn kind_of(&self, head: u32) -> Kind {
        Kind::ALL[self.heads.lane_of(head).expect("a run begins here")]
    }

    /// The run that `block` belongs to; `None` beyond the end of the table.
    pub fn run_at(&self, block: u32) -> Option<Run> {
        if block >= self.capacity {
            return None;
        }
        self.heads.previous_any(block).map(|head| self.run_from(head))
    }

    /// The lowest run of a kind that begins at or above `from`.
    pub fn next(&self, kind: Kind, from: u32) -> Option<Run> {
        let head = self.heads.next(kind as usize, from.min(self.capacity))?;
        Some(self.run_from(head))
    }

    /// The highest run of a kind that begins at or below `from`.
    pub fn previous(&self, kind: Kind, from: u32) -> Option<Run> {
        let from = from.min(self.capacity.checked_sub(1)?);
        self.heads.previous(kind as usize, from).map(|head| self.run_from(head))
    }

    // Searches.

    /// The lowest free run of at least `k` blocks.
    pub fn first_fit(&self, k: u32) -> Option<BlockRange> {
        if k == 0 {
            return None;
        }
        self.lowest_in(self.fits.lowest(k, self.bounds.lowest(k))?, k, 0)
    }

    /// The lowest free run of at least `k` blocks of which none lies below `from`; the run that
    /// `from` stands in counts from there on.
    pub fn lowest_fit(&self, k: u32, from: u32) -> Option<BlockRange> {
        if k == 0 {
            return None;
        }
        let mut from = from;
        let around = self.run_at(from)?;
        if around.start() < from {
            if around.kind == Kind::Free && around.end() - from >= k {
                return Some(range(from, around.end() - from));
            }
            from = around.end();
            if from == self.capacity {
                return None;
            }
        }
        let first = from >> word::SHIFT;
        let bound = self.bounds.lowest_above(from, k);
        if bound > first {
            return self.lowest_in(self.fits.lowest(k, bound)?, k, 0);
        }
        if self.fits.get(first) >= k
            && let Some(run) = self.lowest_in(first, k, from % word::BLOCKS)
        {
            return Some(run);
        }
        self.lowest_in(self.fits.lowest(k, first + 1)?, k, 0)
    }

    /// The lowest free run of at least `k` blocks among those that begin in a word, at or above
    /// bit `from`.
    fn lowest_in(&self, group: u32, k: u32, from: u32) -> Option<BlockRange> {
        let bit = self.word(group).lowest(k, self.open(group), from);
        bit.map(|bit| self.run_from(group * word::BLOCKS + bit).range)
    }

    /// The highest free run of at least `k` blocks.
    pub fn highest_fit(&self, k: u32) -> Option<BlockRange> {
        if k == 0 {
            return None;
        }
        let group = self.fits.highest(k, self.bounds.highest(k))?;
        let bit = self.word(group).highest(k, self.open(group));
        bit.map(|bit| self.run_from(group * word::BLOCKS + bit).range)
    }

    fn word(&self, group: u32) -> Word {
        Word { heads: self.heads.any(group), free: self.heads.word(FREE, group) }
    }

    /// Length of the last run that begins in a word, if it is free; else 0.
    fn open(&self, group: u32) -> u32 {
        let word = self.word(group);
        if !word.is_open() {
            return 0;
        }
        let head = group * word::BLOCKS + word.free.ilog2();
        self.run_from(head).range.len().get()
    }

    /// Keeps for later searches that the lowest run of at least `k` blocks is this one.
    pub fn found_lowest(&mut self, k: u32, run: BlockRange) {
        self.bounds.found_lowest(k, run.start().get() >> word::SHIFT);
    }

    /// Keeps that the highest run of at least `k` blocks is this one.
    pub fn found_highest(&mut self, k: u32, run: BlockRange) {
        self.bounds.found_highest(k, run.start().get() >> word::SHIFT);
    }

    /// Keeps that this one is the lowest run of at least `k` blocks that begins at or above `from`.
    pub fn found_above(&mut self, from: u32, k: u32, run: BlockRange) {
        self.bounds.found_above(from, k, run.start().get() >> word::SHIFT);
    }

    // Changes.

    /// Makes part of a free run an extent.
    pub fn take(&mut self, from: BlockRange, taken: BlockRange, kind: Kind) {
        debug_assert_eq!(
            self.run_at(from.start().get()),
            Some(Run { kind: Kind::Free, range: from })
        );
        debug_assert!(
            kind != Kind::Free && from.start() <= taken.start() && taken.end() <= from.end()
        );
        let (start, end) = (taken.start().get(), taken.end().get());
        let before = start - from.start().get();
        let after = from.end().get() - end;
        if before == 0 {
            self.heads.clear(FREE, start);
        }
        self.heads.set(kind as usize, start);
        if after > 0 {
            self.heads.set(FREE, end);
        }
        self.replace(from.start().get(), from.len().get(), before, (end, after));
        self.count(Kind::Free, i64::from(before > 0) + i64::from(after > 0) - 1, -len(taken));
        self.count(kind, 1, len(taken));
    }

    /// Frees part of an extent, or all of it. What is left of it stays an extent, or two.
    pub fn give(&mut self, extent: Run, part: BlockRange) {
        debug_assert_eq!(self.run_at(extent.start()), Some(extent));
        debug_assert!(extent.kind != Kind::Free && !part.is_empty());
        debug_assert!(extent.start() <= part.start().get() && part.end().get() <= extent.end());
        let (start, end) = (part.start().get(), part.end().get());
        let lane = extent.kind as usize;
        let (head, tail) = (extent.start() == start, extent.end() == end);
        let mut merged = part;
        let mut free_runs = 1;
        if head {
            self.heads.clear(lane, start);
            if let Some(run) = self.free_before(start) {
                merged = range(run.start().get(), merged.end().get() - run.start().get());
                free_runs -= 1;
            }
        }
        let mut swallowed = None;
        if !tail {
            self.heads.set(lane, end);
        } else if end < self.capacity && self.heads.has(FREE, end) {
            let run = self.run_from(end).range;
            self.heads.clear(FREE, end);
            merged = range(merged.start().get(), run.end().get() - merged.start().get());
            swallowed = Some(run);
            free_runs -= 1;
        }
        self.heads.set(FREE, merged.start().get());
        let group = merged.start().get() >> word::SHIFT;
        if let Some(run) = swallowed
            && run.start().get() >> word::SHIFT != group
        {
            self.refit(run.start().get() >> word::SHIFT, run.len().get(), 0);
        }
        // It is longer than what it came from, so none of that was longer.
        self.refit(group, 0, merged.len().get());
        self.count(Kind::Free, free_runs, len(part));
        self.count(extent.kind, 1 - i64::from(head) - i64::from(tail), -len(part));
    }

    /// Lengthens an extent by blocks of the free run after it.
    pub fn extend(&mut self, extent: Run, by: u32) {
        let end = extent.end();
        let after = self.run_from(end);
        debug_assert!(after.kind == Kind::Free && by > 0 && by <= after.range.len().get());
        let left = after.range.len().get() - by;
        self.heads.clear(FREE, end);
        if left > 0 {
            self.heads.set(FREE, end + by);
        }
        self.replace(end, after.range.len().get(), 0, (end + by, left));
        self.count(Kind::Free, i64::from(left > 0) - 1, -i64::from(by));
        self.count(extent.kind, 0, i64::from(by));
    }

    /// Lengthens an extent downwards by blocks of the free run before it.
    pub fn extend_down(&mut self, extent: Run, by: u32) {
        let start = extent.start();
        let before = self.free_before(start).expect("a free run stands before the extent");
        debug_assert!(by > 0 && by <= before.len().get());
        let left = before.len().get() - by;
        self.heads.clear(extent.kind as usize, start);
        if left == 0 {
            self.heads.clear(FREE, before.start().get());
        }
        self.heads.set(extent.kind as usize, start - by);
        self.refit(before.start().get() >> word::SHIFT, before.len().get(), left);
        self.count(Kind::Free, i64::from(left > 0) - 1, -i64::from(by));
        self.count(extent.kind, 0, i64::from(by));
    }

    /// Cuts an extent in two: a new one begins at `at`, which lies inside.
    pub fn split(&mut self, extent: Run, at: u32) {
        debug_assert!(extent.start() < at && at < extent.end());
        self.heads.set(extent.kind as usize, at);
        self.count(extent.kind, 1, 0);
    }

    /// The free run that ends where `at` begins.
    fn free_before(&self, at: u32) -> Option<BlockRange> {
        let head = self.heads.previous_any(at.checked_sub(1)?)?;
        self.heads.has(FREE, head).then(|| range(head, at - head))
    }

    /// A free run of `was` blocks at `start` is now one of `before` blocks there, and one of
    /// `after.1` blocks at `after.0`. The heads are as they shall be.
    fn replace(&mut self, start: u32, was: u32, before: u32, after: (u32, u32)) {
        let (low, high) = (start >> word::SHIFT, after.0 >> word::SHIFT);
        if after.1 == 0 {
            self.refit(low, was, before);
        } else if low == high {
            self.refit(low, was, before.max(after.1));
        } else {
            self.refit(low, was, before);
            self.refit(high, 0, after.1);
        }
    }

    /// Among the free runs that begin in a word, one of `gone` blocks is no more, and one of
    /// `came` is new (0: none).
    fn refit(&mut self, group: u32, gone: u32, came: u32) {
        let now = self.fits.get(group);
        if came > 0 {
            self.bounds.came(came, group);
        }
        if came > now {
            self.fits.set(group, came);
        } else if gone == now && came < now {
            self.fits.set(group, self.word(group).longest(self.open(group)));
        }
    }

    fn count(&mut self, kind: Kind, runs: i64, blocks: i64) {
        let add = |n: &mut u32, by: i64| *n = (i64::from(*n) + by) as u32;
        add(&mut self.runs[kind as usize], runs);
        add(&mut self.blocks[kind as usize], blocks);
    }

    // The whole table.

    /// Every run from the one at `from` on, lowest first.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = Run> + '_ {
        let first = self.run_at(from);
        core::iter::successors(first, |run| self.run_at(run.end()))
    }

    /// Every run from the one at `from` down, highest first.
    pub fn iter_down(&self, from: u32) -> impl Iterator<Item = Run> + '_ {
        let first = self.run_at(from);
        core::iter::successors(first, |run| self.run_at(run.start().checked_sub(1)?))
    }

    /// Recomputes everything that is derived from where runs begin.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.heads.validate().map_err(|_| "a bitmap of heads disagrees with the level below")?;
        self.fits.validate().map_err(|_| "a maximum disagrees with the values below")?;
        let (mut blocks, mut runs) = ([0u32; KINDS], [0u32; KINDS]);
        let (mut at, mut after_free) = (0, false);
        let (mut group, mut longest) = (0, 0);
        for run in self.iter_from(0) {
            let lanes = Kind::ALL.iter().filter(|&&k| self.heads.has(k as usize, run.start()));
            if run.start() != at || run.range.is_empty() || lanes.count() != 1 {
                return Err("runs do not follow one another, one kind each");
            }
            let free = run.kind == Kind::Free;
            if free && after_free {
                return Err("two free runs touch");
            }
            while group < run.start() >> word::SHIFT {
                self.check_fit(group, longest)?;
                (group, longest) = (group + 1, 0);
            }
            longest = if free { longest.max(run.len()) } else { longest };
            if free && !self.bounds.allow(run.len(), run.start(), run.start() >> word::SHIFT) {
                return Err("a free run stands where searches do not look");
            }
            blocks[run.kind as usize] += run.range.len().get();
            runs[run.kind as usize] += 1;
            (at, after_free) = (run.end(), free);
        }
        for group in group..self.capacity.div_ceil(word::BLOCKS) {
            self.check_fit(group, longest)?;
            longest = 0;
        }
        if at != self.capacity || blocks != self.blocks || runs != self.runs {
            return Err("blocks or runs are miscounted");
        }
        Ok(())
    }

    fn check_fit(&self, group: u32, longest: u32) -> Result<(), &'static str> {
        if self.fits.get(group) == longest {
            Ok(())
        } else {
            Err("a word's longest free run is not what the tree says")
        }
    }
}

/// `len` blocks from `start` on.
pub(super) const fn range(start: u32, len: u32) -> BlockRange {
    BlockRange::new(BlockId::new(start), Blocks::new(len))
}

const fn len(range: BlockRange) -> i64 {
    range.len().get() as i64
}
