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

mod opening;
mod release;

use self::opening::has_nodes;
use self::release::Queue;
use super::config::{Config, Hugetlb};
use super::stats::Supplied;
use crate::os::{Array, Errno, Os};
use crate::placement::{Class, Placement};
use crate::pool::{Pool, PoolBuilder, PoolError, Populate, Rung, Use};
use crate::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};

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
    queue: Queue,
    present: u32,
    hugetlb: u32,
    /// Blocks that guard extents.
    guards: u32,
    config: Config,
    pub counts: Supplied,
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
            queue: Queue::EMPTY,
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
