//! Opening blocks of a pool [on touch](super::Populate::OnTouch): mapped, and left to the faults of
//! whoever touches them.
//!
//! A private page of ordinary memory cannot raise SIGBUS, so there is nothing to prove, and a
//! program that uses a quarter of a block pays for a quarter. hugetlb pages are populated as
//! everywhere else.
#![allow(unsafe_code)] // maps blocks that the operation owns

use super::fill::runs;
use super::span::Kind;
use super::table::{Owner, State};
use super::{Pool, PoolError, Rung};
use crate::os::{Advice, Os};
use crate::units::{BlockId, BlockRange};

impl<O: Os> Pool<O> {
    /// Makes the absent blocks of a range usable, on `rung` or a smaller one that the ladder
    /// permits: mapped, zero, and advised to become huge pages where `rung` is
    /// [`Rung::Transparent`]. Blocks that are present stay as they are.
    ///
    /// # Errors
    /// [`PoolError::NoMemory`] where hugetlb pages were refused and the ladder permits no others,
    /// [`PoolError::Map`], [`PoolError::InUse`], [`PoolError::OutOfRange`]. Nothing is held then.
    pub fn open(&self, range: BlockRange, rung: Rung) -> Result<(), PoolError> {
        self.check(range)?;
        let owner = self.table.new_owner();
        self.table.begin_populate(range, owner)?;
        let is_empty = |block| self.table.owned(block, owner) == Some(None);
        let result = runs(range, |block| (is_empty(block), self.kind(block)))
            .filter(|run| is_empty(run.start()))
            .try_for_each(|run| self.open_run(run, owner, rung));
        if result.is_err() {
            self.give_up(range, owner);
        }
        self.table.finish(range, owner);
        result
    }

    /// Moves the pages of present ordinary blocks to as many others: no byte is copied. The range
    /// that they came from stays present, and is zero.
    ///
    /// # Safety
    /// The caller owns both ranges, which do not overlap, and nothing refers to either's memory.
    ///
    /// # Errors
    /// [`PoolError::Move`] where one of the blocks is of hugetlb pages or shared, or the kernel
    /// cannot, and [`PoolError::InUse`] where one is pinned: nothing has moved then.
    /// [`PoolError::OutOfRange`], [`PoolError::Absent`].
    pub unsafe fn move_pages(&self, from: BlockRange, to: BlockId) -> Result<(), PoolError> {
        let to = BlockRange::new(to, from.len());
        for range in [from, to] {
            self.check(range)?;
            self.watchers.tell(range);
            range.iter().try_for_each(|block| self.check_movable(block))?;
        }
        let (at, len) = (self.address(from.start()), from.len().bytes());
        // SAFETY: the caller's.
        unsafe { self.span.os.move_pages(at, len, self.address(to.start())) }
            .map_err(|cause| PoolError::Move { block: from.start(), cause })
    }

    fn check_movable(&self, block: BlockId) -> Result<(), PoolError> {
        match self.table.state(block) {
            State::Present { pins, .. } if pins > 0 => Err(PoolError::InUse { block, pins }),
            State::Present { rung, .. } if rung.is_hugetlb() || self.is_shareable() => {
                Err(PoolError::Move { block, cause: crate::os::Errno::INVAL })
            }
            State::Present { .. } => Ok(()),
            _ => Err(PoolError::Absent { block }),
        }
    }

    fn open_run(&self, run: BlockRange, owner: Owner, rung: Rung) -> Result<(), PoolError> {
        if rung.is_hugetlb() {
            let populated = self
                .map_as(run, Kind::Huge)
                .and_then(|()| self.fill_hugetlb(run, owner, Kind::Huge));
            let Err(cause) = populated else { return Ok(()) };
            self.tallies.refuse(&self.span.os, Rung::Huge, run.len().get(), cause);
            if !self.ladder.permits(Rung::Base) && !self.ladder.permits(Rung::Transparent) {
                return Err(PoolError::NoMemory { block: run.start(), rung, cause });
            }
        }
        self.map_as(run, Kind::Ordinary).map_err(|cause| PoolError::Map {
            block: run.start(),
            rung: Rung::Base,
            cause,
        })?;
        let wants_huge = rung >= Rung::Transparent && self.ladder.permits(Rung::Transparent);
        let advised = wants_huge && self.advise(run, Advice::HugePage).is_ok();
        self.mark(run, owner, if advised { Rung::Transparent } else { Rung::Base });
        Ok(())
    }

    /// Maps a kind over a run of one kind, unless it is that already.
    fn map_as(&self, run: BlockRange, kind: Kind) -> Result<(), crate::os::Errno> {
        if self.kind(run.start()) == kind {
            return Ok(());
        }
        // SAFETY: the operation owns the blocks, and nothing is behind them.
        unsafe { self.span.map(run, kind)? };
        self.set_kind(run, kind);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Linux;
    use crate::pool::{Populate, Use};
    use crate::units::{Blocks, Bytes};

    fn range(start: u32, len: u32) -> BlockRange {
        BlockRange::new(BlockId::new(start), Blocks::new(len))
    }

    fn pool(capacity: Bytes) -> Pool<Linux> {
        let builder = Pool::builder().capacity(capacity).populate(Populate::OnTouch);
        builder.rung(Rung::Huge, Use::Allowed).build().unwrap()
    }

    #[test]
    fn opened_blocks_are_zero_and_hold_what_is_written() {
        let pool = pool(Bytes::gib(1024));
        pool.open(range(1000, 2), Rung::Base).unwrap();
        assert_eq!(pool.rung(BlockId::new(1001)), Some(Rung::Base));
        assert_eq!(pool.rung(BlockId::new(1002)), None);
        let at = pool.address(BlockId::new(1001)).as_ptr();
        // SAFETY: the block is open and ours; after the release it is opened again.
        unsafe {
            assert_eq!(at.read(), 0);
            at.write(7);
            pool.release(range(1000, 2)).unwrap();
            pool.open(range(1000, 2), Rung::Transparent).unwrap();
            assert_eq!(at.read(), 0, "released memory comes back as zeros");
        }
        pool.validate();
    }

    #[test]
    fn pinned_blocks_do_not_move() {
        let pool = pool(Bytes::mib(64));
        pool.open(range(0, 4), Rung::Base).unwrap();
        let pin = pool.pin(range(3, 1)).unwrap();
        // SAFETY: nobody uses the pool's memory, here and below.
        let moved = unsafe { pool.move_pages(range(0, 2), BlockId::new(2)) };
        assert_eq!(moved, Err(PoolError::InUse { block: BlockId::new(3), pins: 1 }));
        drop(pin);
        // SAFETY: as above.
        let moved = unsafe { pool.move_pages(range(0, 2), BlockId::new(2)) };
        assert!(matches!(moved, Ok(()) | Err(PoolError::Move { .. })), "{moved:?}");
    }

    #[test]
    fn hugetlb_pages_that_are_refused_become_ordinary_ones() {
        let pool = pool(Bytes::gib(4096));
        // More than any machine of today has.
        pool.open(range(0, 1 << 20), Rung::Huge).unwrap();
        assert_eq!(pool.rung(BlockId::new(0)), Some(Rung::Transparent));
        pool.validate();
    }

    #[test]
    fn where_only_hugetlb_pages_will_do_a_refusal_is_an_error_and_nothing_is_held() {
        let builder = Pool::builder().capacity(Bytes::gib(4096)).populate(Populate::OnTouch);
        let pool = builder.rung(Rung::Huge, Use::Required).build().unwrap();
        let refused = pool.open(range(0, 1 << 20), Rung::Huge).unwrap_err();
        assert!(matches!(refused, PoolError::NoMemory { rung: Rung::Huge, .. }), "{refused}");
        assert!(!pool.is_present(BlockId::new(0)));
        pool.validate();
    }
}
