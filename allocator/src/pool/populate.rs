//! Bringing memory into blocks, down the ladder, and giving it back.
//!
//! Every page is faulted in by `MADV_POPULATE_WRITE`, which returns an error where a touch would
//! raise SIGBUS. A block counts as present only after that succeeded. What an operation has
//! populated before it fails is given back.
#![allow(unsafe_code)] // advises and maps blocks that the operation owns

use super::fill::{Meter, runs};
use super::span::{GIGANTIC, Kind};
use super::table::{Owner, State};
use super::{Pool, PoolError, Progress, Rung};
use crate::os::Os;
use crate::units::{BlockId, BlockRange, Blocks};

impl<O: Os> Pool<O> {
    /// Brings memory into the absent blocks of a range, and into the rest of a gigantic page that
    /// the range begins or ends in.
    ///
    /// # Errors
    /// [`PoolError::NoMemory`] where no permitted rung has any left, [`PoolError::InUse`] where
    /// another thread is at one of the blocks, [`PoolError::OutOfRange`]. Nothing has changed then.
    pub fn populate(&self, range: BlockRange) -> Result<(), PoolError> {
        self.populate_with(range, 1, &|_| {})
    }

    /// As [`Pool::populate`], by several threads; `progress` is called from this one.
    pub(super) fn populate_with(
        &self,
        range: BlockRange,
        threads: usize,
        progress: &dyn Fn(Progress),
    ) -> Result<(), PoolError> {
        self.check(range)?;
        let range = self.whole_pages(range);
        let owner = self.table.new_owner();
        self.table.begin_populate(range, owner)?;
        let empty = range.iter().filter(|&b| self.table.owned(b, owner).is_some()).count();
        let present = range.len() - Blocks::new(empty as u32);
        let meter = Meter::new(present, range.len(), progress);
        let filled = self.supply(range, owner, threads, &meter);
        if filled.is_err() {
            self.give_up(range, owner);
        }
        self.table.finish(range, owner);
        filled
    }

    /// Gives the pages of whole blocks back to the system. Absent blocks stay absent. The blocks
    /// can be populated again; they read as zero then. Who [watches](Pool::watch) the pool is told before.
    ///
    /// # Safety
    /// Nothing refers to the range's memory: what was written there is lost, and touching it
    /// before it is populated again may raise SIGBUS or SIGSEGV.
    ///
    /// # Errors
    /// [`PoolError::InUse`] where a block is pinned or another thread is at it, and
    /// [`PoolError::PartOfPage`] for a part of a gigantic page: nothing has changed then.
    /// [`PoolError::Release`] where the system refused: what had not been given back is present
    /// still.
    pub unsafe fn release(&self, range: BlockRange) -> Result<(), PoolError> {
        self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        for block in [range.start(), last(range)] {
            let gigantic = self.rung(block) == Some(Rung::Gigantic);
            if gigantic && !self.contains_page(range, block) {
                return Err(PoolError::PartOfPage { block });
            }
        }
        self.watchers.tell(range);
        let owner = self.table.new_owner();
        self.table.begin_release(range, owner)?;
        let result = self.empty(range, owner);
        self.table.finish(range, owner);
        result
    }

    /// The range, grown to hold the gigantic pages it begins and ends in whole.
    fn whole_pages(&self, range: BlockRange) -> BlockRange {
        if range.is_empty() {
            return range;
        }
        let last = BlockId::new(range.end().get() - 1);
        let start = self.page_of(range.start()).start();
        let end = self.page_of(last).end();
        BlockRange::new(start, Blocks::new(end.get() - start.get()))
    }

    /// The range without the gigantic pages that it holds in part.
    pub(crate) fn whole_pages_in(&self, range: BlockRange) -> BlockRange {
        if range.is_empty() {
            return range;
        }
        let (first, last) = (self.page_of(range.start()), self.page_of(last(range)));
        let start = if first.start() < range.start() { first.end() } else { range.start() };
        let end = if last.end() > range.end() { last.start() } else { range.end() };
        BlockRange::new(start, Blocks::new(end.get().saturating_sub(start.get())))
    }

    /// The blocks that share a page with this one.
    pub(super) fn page_of(&self, block: BlockId) -> BlockRange {
        if self.kind(block) != Kind::Gigantic {
            return BlockRange::new(block, Blocks::ONE);
        }
        let zone = self.span.gigantic_start().get();
        let start = zone + (block.get() - zone) / GIGANTIC.get() * GIGANTIC.get();
        BlockRange::new(BlockId::new(start), GIGANTIC)
    }

    fn contains_page(&self, range: BlockRange, block: BlockId) -> bool {
        let page = self.page_of(block);
        range.start() <= page.start() && page.end() <= range.end()
    }

    /// Gives back the pages of what the operation owns, run by run of one kind.
    fn empty(&self, range: BlockRange, owner: Owner) -> Result<(), PoolError> {
        let is_full = |block| matches!(self.table.owned(block, owner), Some(Some(_)));
        for run in runs(range, |block| (self.kind(block), is_full(block))) {
            if !is_full(run.start()) {
                continue;
            }
            let kind = self.kind(run.start());
            // SAFETY: the operation owns the blocks, which nobody pins; whoever calls `release`
            // vouches for the rest, and `populate` has not handed them out.
            unsafe { self.span.discard(run, kind) }
                .map_err(|cause| PoolError::Release { block: run.start(), cause })?;
            run.iter().for_each(|block| self.table.set(block, owner, None));
            self.restore_kind(run, kind);
        }
        Ok(())
    }

    /// As `empty`, where an operation is undone: what cannot be given back stays present.
    pub(super) fn give_up(&self, range: BlockRange, owner: Owner) {
        // A populate that failed half-way through a run may have left pages behind absent blocks:
        // these are discarded as well.
        for block in range.iter() {
            let page = self.page_of(block);
            if block == page.start() && self.table.owned(block, owner) == Some(None) {
                // SAFETY: the operation owns the block and its page, and nothing was put there.
                let _ = unsafe { self.span.discard(page, self.kind(block)) };
            }
        }
        let _ = self.empty(range, owner);
    }

    /// Maps the zone's own kind over blocks that had stepped down, so that the next populate
    /// begins at the top of the ladder again. Blocks stay as they are where that fails.
    fn restore_kind(&self, run: BlockRange, kind: Kind) {
        let zone = self.zone_kind(run.start());
        // Blocks that stepped down from a gigantic page come back as one only all together; they
        // wait for the pool to be built anew.
        if kind == zone || zone == Kind::Gigantic || self.zone_kind(last(run)) != zone {
            return;
        }
        // SAFETY: the operation owns the blocks and has just discarded their pages.
        if unsafe { self.span.map(run, zone) }.is_ok() {
            self.set_kind(run, zone);
        }
    }

    /// Blocks in any state but present or absent: none, while no operation runs.
    pub(super) fn busy(&self) -> Blocks {
        self.table.count(|state| matches!(state, State::Busy { .. }))
    }
}

/// The last block of a range, which is not empty.
pub(super) fn last(run: BlockRange) -> BlockId {
    BlockId::new(run.end().get() - 1)
}
