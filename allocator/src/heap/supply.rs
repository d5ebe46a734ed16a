//! Whole blocks: where they are, what stands behind them, and when they go back to the system.
//!
//! A placement says where, a pool brings the memory. What is freed stays present for a while,
//! because it is often wanted again at once; after the delay it is given back whole. A block that
//! is present but free may hold anything; one that is absent will be zero.
//!
//! Base pages come first, so that a small heap stays small; from a certain size on, blocks are
//! advised to become huge pages as they are opened, each on its own account, never the whole span.
//!
//! On a machine of several NUMA nodes, pages come on the node of the thread that touches them first. A
//! free block that has memory of another node than that of the thread which takes it is given back
//! first, so that it comes anew: zeroing it once is less than reaching it from afar for long.
//!
//! Where checks are wanted, a huge extent is followed by a guard: a block without memory, which
//! cannot be touched.
#![allow(unsafe_code)] // gives free blocks back

use super::config::{Config, Hugetlb};
use super::stats::Supplied;
use crate::os::{Array, Errno, Os};
use crate::placement::{Class, Placement};
use crate::pool::{Pool, PoolBuilder, PoolError, Populate, Rung, Use};
use crate::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};

/// How many frees of ranges wait for their delay at once; the oldest goes early when one more comes.
const QUEUE: usize = 256;
/// Blocks given back in one go: whoever does it has asked for something else.
const AT_ONCE: u32 = 64;

/// A range that was freed, and when.
#[derive(Clone, Copy, Debug)]
struct Idle {
    start: BlockId,
    len: Blocks,
    since_ms: u32,
}

/// The blocks of a heap.
#[derive(Debug)]
pub(super) struct Supply<O: Os> {
    os: O,
    pool: Pool<O>,
    placement: Placement<O>,
    /// Node of the thread that opened a block, plus one; empty on a machine of one node.
    nodes: Array<u8, O>,
    /// When each free block was freed, in milliseconds.
    freed_ms: Array<u32, O>,
    /// Length of the huge extent that begins at a block.
    extents: Array<u32, O>,
    queue: [Idle; QUEUE],
    first: usize,
    queued: usize,
    present: u32,
    hugetlb: u32,
    /// Blocks that guard extents.
    guards: u32,
    config: Config,
    pub counts: Supplied,
}

/// Blocks of a range with memory behind them, and those of hugetlb pages among them.
#[derive(Clone, Copy, Default, Debug)]
struct Behind {
    present: u32,
    hugetlb: u32,
}

/// Why there is no heap.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum NoSupply {
    Pool(PoolError),
    Table(Errno),
}

impl<O: Os> Supply<O> {
    /// Reserves a span of `capacity`.
    pub fn new(os: O, capacity: Bytes, config: Config) -> Result<Self, NoSupply> {
        let (huge, ordinary) = match config.hugetlb {
            Hugetlb::Never => (Use::Forbidden, Use::Allowed),
            Hugetlb::Allow => (Use::Allowed, Use::Allowed),
            Hugetlb::Require => (Use::Required, Use::Forbidden),
        };
        let pool = PoolBuilder::with_os(os.clone())
            .capacity(capacity)
            .rung(Rung::Base, ordinary)
            .rung(Rung::Transparent, ordinary)
            .rung(Rung::Huge, huge)
            .populate(Populate::OnTouch)
            .build()
            .map_err(NoSupply::Pool)?;
        let blocks = pool.capacity();
        let placement = Placement::with_os(os.clone(), blocks)
            .map_err(|unmapped| NoSupply::Table(unmapped.cause))?;
        Ok(Self {
            nodes: Array::new(os.clone(), if has_nodes(&os) { blocks.as_usize() } else { 0 })
                .map_err(NoSupply::Table)?,
            freed_ms: Array::new(os.clone(), blocks.as_usize()).map_err(NoSupply::Table)?,
            extents: Array::new(os.clone(), blocks.as_usize()).map_err(NoSupply::Table)?,
            os,
            pool,
            placement,
            queue: [Idle { start: BlockId::new(0), len: Blocks::ZERO, since_ms: 0 }; QUEUE],
            first: 0,
            queued: 0,
            present: 0,
            hugetlb: 0,
            guards: 0,
            config,
            counts: Supplied::default(),
        })
    }

    pub fn pool(&self) -> &Pool<O> {
        &self.pool
    }

    /// Blocks with memory behind them.
    pub fn present(&self) -> Blocks {
        Blocks::new(self.present)
    }

    /// Blocks of hugetlb pages among them.
    pub fn hugetlb(&self) -> Blocks {
        Blocks::new(self.hugetlb)
    }

    pub fn placement(&self) -> &Placement<O> {
        &self.placement
    }

    /// Blocks that guard extents.
    pub fn guards(&self) -> Blocks {
        Blocks::new(self.guards)
    }

    /// Takes a block for slices; whether it is zero.
    pub fn take(&mut self) -> Option<(BlockRange, bool)> {
        let range = self.place(Class::Pinned, Blocks::ONE)?;
        self.opened(range, Blocks::ZERO, Blocks::ONE.bytes())
    }

    /// Takes a huge extent of which the first `used` bytes will be used; whether all of it is zero.
    /// Its first block is a multiple of `align` blocks (a power of two).
    pub fn take_extent(
        &mut self,
        blocks: Blocks,
        align: u32,
        used: Bytes,
    ) -> Option<(BlockRange, bool)> {
        let guard = self.guard();
        let guarded = Blocks::new(blocks.get().checked_add(guard.get())?);
        let range = match align {
            1 => self.place(Class::Huge, guarded)?,
            _ => self.place_aligned(guarded, align)?,
        };
        self.opened(range, guard, used)
    }

    /// Blocks after each extent that are not to be touched.
    fn guard(&self) -> Blocks {
        if self.config.secure { Blocks::ONE } else { Blocks::ZERO }
    }

    /// An extent made just now, with memory behind it but for its guard; without, it is free again.
    fn opened(
        &mut self,
        placed: BlockRange,
        guard: Blocks,
        used: Bytes,
    ) -> Option<(BlockRange, bool)> {
        let range = BlockRange::new(placed.start(), placed.len() - guard);
        match self.open(range, used) {
            Ok(zero) => {
                self.close(BlockRange::new(range.end(), guard));
                self.guards += guard.get();
                Some((range, zero))
            }
            Err(_) => {
                self.counts.refused += 1;
                // Should freeing fail, the extent is lost and nothing else.
                let _ = self.placement.free(placed);
                None
            }
        }
    }

    /// Takes the memory of a guard away, where it has some. Should the system refuse, it guards
    /// nothing, which is counted.
    fn close(&mut self, guard: BlockRange) {
        if guard.iter().any(|block| self.pool.is_present(block)) {
            self.release_run(guard);
        }
    }

    /// A place for blocks of a class; at the other end, where its own has no room left. A program
    /// that has filled its span is better served by a block out of order than by none.
    fn place(&mut self, class: Class, blocks: Blocks) -> Option<BlockRange> {
        let other = if class == Class::Huge { Class::Pinned } else { Class::Huge };
        let first = self.placement.allocate_now(class, blocks);
        first.or_else(|| {
            let second = self.placement.allocate_now(other, blocks)?;
            self.counts.misplaced += u64::from(blocks.get());
            Some(second)
        })
    }

    /// A place for blocks whose first is a multiple of `align` blocks (a power of two).
    fn place_aligned(&mut self, blocks: Blocks, align: u32) -> Option<BlockRange> {
        let base = self.pool.base().as_ptr() as usize / BLOCK_BYTES;
        let padded = Blocks::new(blocks.get().checked_add(align - 1)?);
        let padded = self.place(Class::Huge, padded)?;
        let skip = (base + padded.start().as_usize()).wrapping_neg() % align as usize;
        let range = BlockRange::new(BlockId::new(padded.start().get() + skip as u32), blocks);
        let before = BlockRange::new(padded.start(), Blocks::new(skip as u32));
        let after = Blocks::new(padded.end().get() - range.end().get());
        for extra in [before, BlockRange::new(range.end(), after)] {
            if !extra.is_empty() {
                let _ = self.placement.trim(extra);
            }
        }
        Some(range)
    }

    /// Opens the absent blocks of a range; whether all were absent, so that all of it is zero.
    fn open(&mut self, range: BlockRange, used: Bytes) -> Result<bool, PoolError> {
        self.bring_near(range);
        let before = self.behind(range);
        let absent = range.len().get() - before.present;
        if absent == 0 {
            return Ok(false);
        }
        let Some(rung) = self.rung(absent) else {
            let (block, cause) = (range.start(), Errno::NOMEM);
            return Err(PoolError::NoMemory { block, rung: Rung::Huge, cause });
        };
        let result = self.open_absent(range, used, rung);
        // Of two parts the second may have failed.
        self.recount(range, before);
        result.map(|()| before.present == 0)
    }

    /// Says that the running thread's node is a range's, and gives blocks of it back that have
    /// memory of another. Not hugetlb pages: there may be no other.
    fn bring_near(&mut self, range: BlockRange) {
        if self.nodes.is_empty() {
            return;
        }
        let Some(node) = self.os.processor_node() else { return };
        let node = node.get().min(u32::from(u8::MAX) - 1) as u8 + 1;
        for block in range.iter() {
            let was = core::mem::replace(&mut self.nodes[block.as_usize()], node);
            let far = was != node && was != 0;
            if far && self.pool.rung(block).is_some_and(|rung| !rung.is_hugetlb()) {
                self.release_run(BlockRange::new(block, Blocks::ONE));
                self.counts.other_node += 1;
            }
        }
    }

    fn open_absent(&mut self, range: BlockRange, used: Bytes, rung: Rung) -> Result<(), PoolError> {
        // A last block that is used in part only would be touched whole as a huge page.
        let tail = used.as_usize() % BLOCK_BYTES;
        let thin = rung == Rung::Transparent && tail != 0 && tail < BLOCK_BYTES / 4 * 3;
        let whole = if thin { range.len() - Blocks::ONE } else { range.len() };
        if whole != Blocks::ZERO {
            self.pool.open(BlockRange::new(range.start(), whole), rung)?;
        }
        if thin {
            let last = BlockRange::new(BlockId::new(range.end().get() - 1), Blocks::ONE);
            self.pool.open(last, Rung::Base)?;
        }
        let advised = BlockRange::new(range.start(), whole);
        let refused = advised.iter().filter(|&b| self.pool.rung(b) != Some(rung)).count() as u64;
        match rung {
            Rung::Huge => self.counts.hugetlb_refused += refused,
            Rung::Transparent => self.counts.transparent_refused += refused,
            _ => {}
        }
        Ok(())
    }

    /// What stands behind a range.
    fn behind(&self, range: BlockRange) -> Behind {
        let rungs = range.iter().filter_map(|block| self.pool.rung(block));
        rungs.fold(Behind::default(), |Behind { present, hugetlb }, rung| Behind {
            present: present + 1,
            hugetlb: hugetlb + u32::from(rung.is_hugetlb()),
        })
    }

    /// Counts what an operation has changed behind a range.
    fn recount(&mut self, range: BlockRange, before: Behind) {
        let after = self.behind(range);
        self.present = self.present + after.present - before.present;
        self.hugetlb = self.hugetlb + after.hugetlb - before.hugetlb;
        self.counts.opened += u64::from(after.present.saturating_sub(before.present));
        self.counts.released += u64::from(before.present.saturating_sub(after.present));
    }

    /// The rung for that many more blocks; `None` where only hugetlb pages will do, and no more of
    /// them are to be taken.
    fn rung(&self, more: u32) -> Option<Rung> {
        let limited = self.hugetlb.saturating_add(more) > self.config.hugetlb_limit.get();
        match self.config.hugetlb {
            Hugetlb::Require => (!limited).then_some(Rung::Huge),
            Hugetlb::Allow if !limited => Some(Rung::Huge),
            _ if self.present.saturating_add(more) > self.config.base_blocks.get() => {
                Some(Rung::Transparent)
            }
            _ => Some(Rung::Base),
        }
    }

    /// Frees blocks; their memory stays for a while.
    pub fn give(&mut self, range: BlockRange, now_ms: u32) {
        let freed = self.placement.free(range);
        debug_assert!(freed.is_ok(), "a heap frees its own extents: {freed:?}");
        self.idle(range, now_ms);
    }

    /// Frees an extent, with its guard.
    pub fn give_extent(&mut self, range: BlockRange, now_ms: u32) {
        let guard = self.guard();
        self.guards -= guard.get();
        let guarded = BlockRange::new(range.start(), range.len() + guard);
        let freed = self.placement.free(guarded);
        debug_assert!(freed.is_ok(), "a heap frees its own extents: {freed:?}");
        self.idle(range, now_ms);
    }

    /// Whether extents may change their length: not where a guard follows them.
    pub fn can_resize(&self) -> bool {
        self.guard() == Blocks::ZERO
    }

    /// Frees the end of an extent.
    pub fn trim(&mut self, part: BlockRange, now_ms: u32) {
        let freed = self.placement.trim(part);
        debug_assert!(freed.is_ok(), "a heap trims its own extents: {freed:?}");
        self.idle(part, now_ms);
    }

    /// Lengthens an extent by free blocks after it; whether those are zero. `None` where they are
    /// not free or have no memory.
    pub fn grow(&mut self, extent: BlockRange, by: Blocks, used: Bytes) -> Option<bool> {
        self.placement.grow(extent, by).ok()?;
        let added = BlockRange::new(extent.end(), by);
        match self.open(added, used) {
            Ok(zero) => Some(zero),
            Err(_) => {
                let _ = self.placement.trim(added);
                None
            }
        }
    }

    /// Moves the pages of an extent to the beginning of another; whether that was possible.
    pub fn move_pages(&mut self, from: BlockRange, to: BlockRange) -> bool {
        // SAFETY: both are the heap's, under its lock; what is in `to` nobody has seen.
        let moved = unsafe { self.pool.move_pages(from, to.start()) }.is_ok();
        self.counts.unmoved += u64::from(!moved);
        moved
    }

    /// Length of the huge extent that begins at a block.
    pub fn extent(&self, head: BlockId) -> BlockRange {
        BlockRange::new(head, Blocks::new(self.extents[head.as_usize()]))
    }

    pub fn set_extent(&mut self, range: BlockRange) {
        self.extents[range.start().as_usize()] = range.len().get();
    }

    fn idle(&mut self, range: BlockRange, now_ms: u32) {
        for block in range.iter() {
            self.freed_ms[block.as_usize()] = now_ms;
        }
        if self.queued == QUEUE {
            let oldest = self.pop();
            self.release(oldest, now_ms, 0);
        }
        let at = (self.first + self.queued) % QUEUE;
        self.queue[at] = Idle { start: range.start(), len: range.len(), since_ms: now_ms };
        self.queued += 1;
    }

    fn pop(&mut self) -> BlockRange {
        let idle = self.queue[self.first];
        self.first = (self.first + 1) % QUEUE;
        self.queued -= 1;
        BlockRange::new(idle.start, idle.len)
    }

    /// Gives back what has been free for longer than the delay, a bounded part at a time.
    #[inline]
    pub fn release_idle(&mut self, now_ms: u32) {
        if self.queued > 0 && self.is_due(now_ms) {
            self.release_due(now_ms);
        }
    }

    fn is_due(&self, now_ms: u32) -> bool {
        now_ms.wrapping_sub(self.queue[self.first].since_ms) >= self.config.delay_ms
    }

    #[cold]
    fn release_due(&mut self, now_ms: u32) {
        let mut left = AT_ONCE;
        while left > 0 && self.queued > 0 && self.is_due(now_ms) {
            let idle = self.queue[self.first];
            let now = idle.len.get().min(left);
            let (range, rest) =
                (BlockRange::new(idle.start, Blocks::new(now)), idle.len.get() - now);
            if rest == 0 {
                self.pop();
            } else {
                let front = &mut self.queue[self.first];
                (front.start, front.len) = (range.end(), Blocks::new(rest));
            }
            self.release(range, now_ms, self.config.delay_ms);
            left -= now;
        }
    }

    /// Gives back everything that is free; whether that was anything.
    pub fn release_all(&mut self) -> bool {
        let before = self.present;
        while self.queued > 0 {
            let range = self.pop();
            self.release(range, 0, 0);
        }
        self.present < before
    }

    /// Gives back the blocks of a range that are free, and have been for `delay_ms`.
    fn release(&mut self, range: BlockRange, now_ms: u32, delay_ms: u32) {
        let mut at = range.start();
        while at < range.end() {
            let mut end = at;
            while end < range.end() && self.is_idle(end, now_ms, delay_ms) {
                end = BlockId::new(end.get() + 1);
            }
            if end > at {
                self.release_run(BlockRange::new(at, Blocks::new(end.get() - at.get())));
            }
            at = BlockId::new(end.get() + 1);
        }
    }

    fn is_idle(&self, block: BlockId, now_ms: u32, delay_ms: u32) -> bool {
        self.pool.is_present(block)
            && now_ms.wrapping_sub(self.freed_ms[block.as_usize()]) >= delay_ms
            && self.placement.class_of(block).is_none()
    }

    fn release_run(&mut self, run: BlockRange) {
        let before = self.behind(run);
        // SAFETY: the blocks are free: nothing of the heap stands in them, and whoever wants them
        // waits for the lock that this runs under.
        let released = unsafe { self.pool.release(run) };
        self.recount(run, before);
        if released.is_err() {
            // A filter on system calls, perhaps: the blocks stay, and hold what they held.
            self.counts.kept += u64::from(self.behind(run).present);
        }
    }

    /// Checks the placement and the counters.
    pub fn validate(&self) -> Result<(), &'static str> {
        self.placement.validate().map_err(|_| "the placement contradicts itself")?;
        let present = self.pool.blocks().iter().filter(|&block| self.pool.is_present(block));
        if present.count() as u32 != self.present {
            return Err("the count of present blocks is not that of the pool");
        }
        let held = self.placement.iter_extents(BlockId::new(0));
        let absent = held.flat_map(|extent| extent.range.iter());
        let absent = absent.into_iter().filter(|&block| !self.pool.is_present(block)).count();
        // A guard that could not be closed is present.
        if absent > self.guards as usize {
            return Err("an extent has a block without memory");
        }
        Ok(())
    }
}

/// Whether the machine has several NUMA nodes.
fn has_nodes<O: Os>(os: &O) -> bool {
    let mut list = [0; 64];
    // As "0-3" or "0,2"; where it cannot be read there is one as far as we know.
    let read = os.read_file(c"/sys/devices/system/node/online", &mut list).unwrap_or(0);
    list[..read].iter().any(|byte| matches!(byte, b'-' | b','))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fake::{FakeOs, FreeOrder};
    use crate::units::{Node, PageSize};

    #[test]
    fn blocks_of_another_node_come_anew() {
        let os =
            FakeOs::new().with_huge_pages_on(Node::new(1), PageSize::MIB2, 1, FreeOrder::Ascending);
        let mut supply = Supply::new(os.clone(), Bytes::mib(64), Config::DEFAULT).unwrap();
        let take = |supply: &mut Supply<FakeOs>, node: u32| {
            os.run_on(Node::new(node));
            let (range, zero) = supply.take_extent(Blocks::new(3), 1, Bytes::mib(6)).unwrap();
            supply.validate().unwrap();
            supply.give_extent(range, 0);
            (zero, supply.counts.other_node)
        };
        assert_eq!(take(&mut supply, 0), (true, 0));
        assert_eq!(take(&mut supply, 0), (false, 0), "what is near is taken as it is");
        assert_eq!(take(&mut supply, 1), (true, 3), "what is far is given back");
        assert_eq!(take(&mut supply, 1), (false, 3));
    }

    #[test]
    fn a_machine_of_one_node_is_not_asked() {
        let supply = Supply::new(FakeOs::new(), Bytes::mib(64), Config::DEFAULT).unwrap();
        assert!(supply.nodes.is_empty());
    }
}
