//! Pools: what memory we hold.
//!
//! A [`Pool`] is a span of address space, reserved once and never moved, in blocks of 2 MiB. Memory
//! comes into blocks down a ladder of page sizes, and the pool reports what it got.
//!
//! What it guarantees:
//!
//! 1. A block that is present stays so until it is released: touching it raises no signal,
//!    whatever becomes of the machine's hugetlb pool.
//! 2. A pinned block is neither released nor moved.
//! 3. Dropping the pool, or the end of the process, gives everything back.
//!
//! The larger pages stand at the high end of the span, so that physical placement is best where
//! huge extents are placed. The table of blocks is out of band: nothing is written into memory
//! that a pool hands out.
#![allow(unsafe_code)] // implements Send and Sync, and `release` has a safety contract

use core::fmt;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicU8, Ordering};

mod builder;
mod error;
#[cfg(test)]
mod fake_tests;
mod fill;
mod frame_order;
mod open;
mod ordinary;
mod parts;
mod pin;
mod populate;
#[cfg(test)]
mod presence_tests;
mod report;
mod rung;
mod share;
mod span;
mod table;
mod tally;
mod watch;

pub use builder::{FrameOrder, PoolBuilder, Populate};
pub use error::PoolError;
pub use frame_order::Outcome as OrderOutcome;
pub use pin::{PoolPin, PoolRef, SharedPin};
pub use report::{RefusedPages, Report, RungReport, Runs};
pub use rung::{Ladder, Rung, Use};
pub use share::{Attached, Segment};
pub use watch::Watch;

use crate::os::{Array, Linux, Os};
use crate::units::{BLOCK_SHIFT, BlockId, BlockRange, Blocks, Bytes, PageSize, Pfn};
use span::{Kind, Span};
use table::{State, Table};
use tally::{Backoff, Tallies};

/// How far populating has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Bytes tried so far.
    pub done: Bytes,
    /// Bytes in all.
    pub total: Bytes,
}

/// A span of address space in blocks, and the memory behind them. See the [module](self).
pub struct Pool<O: Os = Linux> {
    span: Span<O>,
    table: Table<O>,
    /// What is mapped over each block ([`Kind`]); written by whoever owns the block.
    kinds: Array<AtomicU8, O>,
    /// What is mapped over the low zone when nothing has stepped down.
    low_kind: Kind,
    ladder: Ladder,
    tallies: Tallies,
    backoff: Backoff,
    ordered: Option<frame_order::Outcome>,
    watchers: watch::Watchers,
}

impl Pool<Linux> {
    /// A builder for a pool of this machine's memory.
    pub fn builder() -> PoolBuilder<Linux> {
        PoolBuilder::with_os(Linux)
    }
}

impl<O: Os> Pool<O> {
    /// Address of the first block.
    pub fn base(&self) -> NonNull<u8> {
        self.span.base()
    }

    /// How many blocks it has, present or not.
    pub fn capacity(&self) -> Blocks {
        self.span.blocks()
    }

    /// All its blocks.
    pub fn blocks(&self) -> BlockRange {
        BlockRange::new(BlockId::new(0), self.capacity())
    }

    /// Address of a block, or of the end.
    ///
    /// # Panics
    /// Where the block lies beyond the end.
    pub fn address(&self, block: BlockId) -> NonNull<u8> {
        self.span.address(block)
    }

    /// The block that an address lies in: one subtraction and one shift.
    pub fn locate(&self, address: *const u8) -> Option<BlockId> {
        let offset = (address as usize).wrapping_sub(self.base().as_ptr() as usize);
        let block = offset >> BLOCK_SHIFT;
        (block < self.capacity().as_usize()).then(|| BlockId::new(block as u32))
    }

    /// Whether there is memory behind a block.
    pub fn is_present(&self, block: BlockId) -> bool {
        self.rung(block).is_some()
    }

    /// Where a block's memory comes from; `None` where it has none.
    pub fn rung(&self, block: BlockId) -> Option<Rung> {
        match self.table.state(block) {
            State::Present { rung, .. } => Some(rung),
            _ => None,
        }
    }

    /// Size of the physically contiguous pages behind a block; `None` where it has none.
    pub fn page_size(&self, block: BlockId) -> Option<PageSize> {
        self.rung(block).map(|rung| rung.page_size(self.os().base_page_size()))
    }

    /// The ladder it was built with.
    pub fn ladder(&self) -> Ladder {
        self.ladder
    }

    /// Whether its memory can be passed to other processes.
    pub fn is_shareable(&self) -> bool {
        self.span.is_shareable()
    }

    /// The machine that it stands on.
    pub fn os(&self) -> &O {
        &self.span.os
    }

    /// The frame of each page of `stride` from the beginning of `range` on: as many as `frames`
    /// holds.
    ///
    /// # Errors
    /// [`PoolError::OutOfRange`]; [`PoolError::Frames`], with [`crate::os::Errno::PERM`] where
    /// CAP_SYS_ADMIN is missing.
    pub fn frames(
        &self,
        range: BlockRange,
        stride: PageSize,
        frames: &mut [Option<Pfn>],
    ) -> Result<(), PoolError> {
        self.check(range)?;
        let most = range.len().bytes().get() >> stride.shift();
        let len = frames.len().min(most as usize);
        self.os()
            .frames(self.address(range.start()), stride, &mut frames[..len])
            .map_err(|cause| PoolError::Frames { cause })
    }

    /// Recomputes what the pool says of itself, and panics where it contradicts itself or the
    /// kernel: for tests, between operations.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn validate(&self) {
        assert_eq!(self.busy(), Blocks::ZERO, "blocks are owned by an operation that has ended");
        for block in self.blocks().iter() {
            let Some(rung) = self.rung(block) else { continue };
            assert_eq!(self.kind(block), Kind::of(rung), "{block:?} is mapped as another kind");
            assert!(self.ladder.permits(rung), "{block:?} stands on a forbidden rung");
            if rung == Rung::Gigantic {
                let page = self.page_of(block);
                let whole = page.iter().all(|b| self.rung(b) == Some(Rung::Gigantic));
                assert!(whole, "{block:?}: a gigantic page is present in part");
            }
            self.validate_mapping(block, rung);
        }
    }

    /// Compares a present hugetlb block with the kernel's page tables. Ordinary pages are not
    /// looked at: the kernel may split them, move them or swap them out at any time.
    fn validate_mapping(&self, block: BlockId, rung: Rung) {
        if !rung.is_hugetlb() {
            return;
        }
        let (at, mut frame) = (self.address(block), [None]);
        // Without privilege there is nothing to compare with.
        if self.os().frames(at, PageSize::MIB2, &mut frame).is_ok() {
            let frame = frame[0].unwrap_or_else(|| panic!("{block:?} is present without a page"));
            let base = self.os().base_page_size();
            let pages = PageSize::MIB2.bytes().get() >> base.shift();
            assert_eq!(frame.get() % pages, 0, "{block:?} begins inside a page");
        }
    }

    fn check(&self, range: BlockRange) -> Result<(), PoolError> {
        let capacity = self.capacity();
        if range.end().get() <= capacity.get() {
            Ok(())
        } else {
            Err(PoolError::OutOfRange { range, capacity })
        }
    }

    /// What is mapped over a block.
    fn kind(&self, block: BlockId) -> Kind {
        Kind::ALL[usize::from(self.kinds[block.as_usize()].load(Ordering::Relaxed))]
    }

    fn set_kind(&self, range: BlockRange, kind: Kind) {
        for block in range.iter() {
            self.kinds[block.as_usize()].store(kind as u8, Ordering::Relaxed);
        }
    }

    /// What is mapped over a block when nothing has stepped down.
    fn zone_kind(&self, block: BlockId) -> Kind {
        if block >= self.span.gigantic_start() { Kind::Gigantic } else { self.low_kind }
    }
}

impl<O: Os> fmt::Debug for Pool<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("base", &self.base())
            .field("capacity", &self.capacity())
            .field("ladder", &self.ladder)
            .finish_non_exhaustive()
    }
}
