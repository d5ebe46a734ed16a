//! An arena: a pool and a placement together, handing out extents.
//!
//! The placement decides where under a lock; the pool brings memory in outside it, which may take
//! long. An [`Extent`] owns its blocks: they are populated, no other extent holds them, and they are
//! free again when it is dropped. Their memory stays with the pool until [`Arena::release_free`]
//! gives it back to the system.
#![allow(unsafe_code)] // turns blocks that an extent owns into slices

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::slice;

use super::{Class, Placement, Refusal, Unmapped};
use crate::lock::{Lock, Locked};
use crate::os::{Linux, Os};
use crate::pool::{Pool, PoolError, PoolPin, PoolRef};
use crate::units::{BlockRange, Blocks};

/// Why an arena gave no extent.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum ArenaError {
    /// No memory for the placement's table.
    Table(Unmapped),
    /// No place, or something must move first.
    Place(Refusal),
    /// A place, but no memory for it.
    Memory(PoolError),
}

impl fmt::Display for ArenaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(cause) => cause.fmt(f),
            Self::Place(refusal) => refusal.fmt(f),
            Self::Memory(cause) => cause.fmt(f),
        }
    }
}

impl std::error::Error for ArenaError {}

/// A pool whose blocks are handed out as [`Extent`]s.
pub struct Arena<O: Os = Linux> {
    pool: Pool<O>,
    placement: Lock<Placement<O>>,
}

impl<O: Os> Arena<O> {
    /// Hands out the blocks of `pool`, all of them free at first.
    ///
    /// # Errors
    /// [`ArenaError::Table`].
    pub fn new(pool: Pool<O>) -> Result<Self, ArenaError> {
        let placement = Placement::with_os(pool.os().clone(), pool.capacity());
        Ok(Self { placement: Lock::new(placement.map_err(ArenaError::Table)?), pool })
    }

    /// The pool, to look at.
    pub fn pool(&self) -> &Pool<O> {
        &self.pool
    }

    /// Takes `blocks` blocks of a class, populated. Their content is whatever was there before;
    /// blocks fresh from the system are zero.
    ///
    /// # Errors
    /// [`ArenaError::Place`], where [`Refusal`] tells what would have to move first (nothing moves
    /// by itself), and [`ArenaError::Memory`].
    pub fn allocate(&self, class: Class, blocks: Blocks) -> Result<Extent<'_, O>, ArenaError> {
        self.take(class, blocks).map(|range| self.adopt(range))
    }

    /// As [`Arena::allocate`], for an owner that keeps the range itself and [gives](Arena::give) it
    /// back.
    pub(crate) fn take(&self, class: Class, blocks: Blocks) -> Result<BlockRange, ArenaError> {
        let range = self.placement().allocate(class, blocks).map_err(ArenaError::Place)?;
        if let Err(cause) = self.populate(range) {
            self.give(range);
            return Err(ArenaError::Memory(cause));
        }
        Ok(range)
    }

    /// Makes an extent of what [`Arena::take`] took.
    pub(crate) fn adopt(&self, range: BlockRange) -> Extent<'_, O> {
        Extent { arena: self, range }
    }

    /// Frees what [`Arena::take`] took, or where that has moved to.
    pub(crate) fn give(&self, range: BlockRange) {
        let freed = self.placement().free(range);
        debug_assert!(freed.is_ok(), "an extent is freed once: {freed:?}");
    }

    /// Populates blocks. Where another thread is bringing in the gigantic page that they are a
    /// part of, this waits for it.
    pub(crate) fn populate(&self, range: BlockRange) -> Result<(), PoolError> {
        loop {
            match self.pool.populate(range) {
                Err(PoolError::InUse { pins: 0, .. }) => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// Gives the memory of free blocks back to the system, and says how many blocks that was. A
    /// gigantic page goes when all its blocks are free.
    ///
    /// # Errors
    /// The first that the pool met; blocks before it are released.
    pub fn release_free(&self) -> Result<Blocks, PoolError> {
        // The lock is held all along, so that no free block is handed out meanwhile.
        let placement = self.placement();
        let mut released = Blocks::ZERO;
        for run in placement.iter_free() {
            let inner = self.pool.whole_pages_in(run);
            let present = inner.iter().filter(|&block| self.pool.is_present(block)).count();
            // SAFETY: the blocks are free and stay so while the lock is held: no extent refers to
            // them.
            unsafe { self.pool.release(inner)? };
            released = released + Blocks::new(present as u32);
        }
        Ok(released)
    }

    /// Checks the pool and the placement; see their own `validate`.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn validate(&self) {
        self.pool.validate();
        if let Err(broken) = self.placement().validate() {
            panic!("the placement contradicts itself: {broken:?}");
        }
    }

    pub(crate) fn placement(&self) -> Locked<'_, Placement<O>> {
        // A panic while the lock was held left the placement whole: its operations are undone or
        // done before they can panic.
        self.placement.lock()
    }
}

// SAFETY: an arena has one pool, as long as it lives.
unsafe impl<O: Os> PoolRef for std::sync::Arc<Arena<O>> {
    type Os = O;
    fn pool(&self) -> &Pool<O> {
        &self.pool
    }
}

// SAFETY: as above.
unsafe impl<O: Os> PoolRef for &Arena<O> {
    type Os = O;
    fn pool(&self) -> &Pool<O> {
        &self.pool
    }
}

impl<O: Os> fmt::Debug for Arena<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// Blocks of an arena: a slice of populated memory, free again when dropped.
pub struct Extent<'arena, O: Os = Linux> {
    arena: &'arena Arena<O>,
    range: BlockRange,
}

impl<'arena, O: Os> Extent<'arena, O> {
    /// The blocks.
    pub fn range(&self) -> BlockRange {
        self.range
    }

    /// The arena that they are of.
    pub fn arena(&self) -> &'arena Arena<O> {
        self.arena
    }

    /// Holds the blocks for a device. The extent cannot be dropped while the pin lives.
    ///
    /// # Errors
    /// See [`Pool::pin`].
    pub fn pin(&self) -> Result<PoolPin<'_, O>, PoolError> {
        self.arena.pool.pin(self.range)
    }
}

impl<O: Os> Deref for Extent<'_, O> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let first = self.arena.pool.address(self.range.start());
        // SAFETY: (1) the blocks are populated and mapped readable and writable; (2) the placement
        // gave them to this extent alone; (3) any byte is a valid u8; (4) the arena outlives us.
        unsafe { slice::from_raw_parts(first.as_ptr(), self.range.len().bytes().as_usize()) }
    }
}

impl<O: Os> DerefMut for Extent<'_, O> {
    fn deref_mut(&mut self) -> &mut [u8] {
        let first = self.arena.pool.address(self.range.start());
        // SAFETY: as in `deref`, and the extent is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(first.as_ptr(), self.range.len().bytes().as_usize()) }
    }
}

impl<O: Os> Drop for Extent<'_, O> {
    fn drop(&mut self) {
        self.arena.give(self.range);
    }
}

impl<O: Os> fmt::Debug for Extent<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extent({:?})", self.range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::{Populate, Rung, Use};
    use crate::units::{BlockId, Bytes};

    fn arena(blocks: u32) -> Arena {
        let pool = Pool::builder()
            .capacity(Blocks::new(blocks).bytes())
            .rung(Rung::Transparent, Use::Forbidden)
            .populate(Populate::OnDemand)
            .build()
            .unwrap();
        Arena::new(pool).unwrap()
    }

    #[test]
    fn extents_stand_at_their_ends_and_hold_what_is_written() {
        let arena = arena(8);
        let mut pinned = arena.allocate(Class::Pinned, Blocks::ONE).unwrap();
        let mut huge = arena.allocate(Class::Huge, Blocks::new(3)).unwrap();
        assert_eq!(pinned.range().start(), BlockId::new(0));
        assert_eq!(huge.range().end(), BlockId::new(8));
        assert_eq!(Bytes::of_len(huge.len()), Blocks::new(3).bytes());
        pinned.fill(1);
        huge.fill(2);
        assert!(pinned.iter().all(|&b| b == 1) && huge.iter().all(|&b| b == 2));
        arena.validate();
    }

    #[test]
    fn a_dropped_extent_is_free_and_its_memory_goes_on_request() {
        let arena = arena(4);
        let mut extent = arena.allocate(Class::Huge, Blocks::new(2)).unwrap();
        extent.fill(7);
        let range = extent.range();
        drop(extent);
        assert!(arena.pool().is_present(range.start()), "memory stays with the pool");
        assert_eq!(arena.release_free().unwrap(), Blocks::new(2));
        assert!(!arena.pool().is_present(range.start()));
        let again = arena.allocate(Class::Huge, Blocks::new(2)).unwrap();
        assert_eq!(again.range(), range);
        assert!(again.iter().all(|&b| b == 0), "fresh from the system");
        arena.validate();
    }

    #[test]
    fn a_pinned_free_block_is_not_released() {
        let arena = arena(2);
        let range = arena.allocate(Class::Huge, Blocks::ONE).unwrap().range();
        let pin = arena.pool().pin(range).unwrap();
        assert_eq!(arena.release_free(), Err(PoolError::InUse { block: range.start(), pins: 1 }));
        drop(pin);
        assert_eq!(arena.release_free(), Ok(Blocks::ONE));
    }

    #[test]
    fn a_full_arena_says_what_is_wanted_and_what_is_free() {
        let arena = arena(2);
        let _all = arena.allocate(Class::Huge, Blocks::new(2)).unwrap();
        let refused = arena.allocate(Class::Huge, Blocks::ONE).unwrap_err();
        assert!(matches!(refused, ArenaError::Place(Refusal::NoRoom { .. })), "{refused}");
    }

    #[test]
    fn threads_get_extents_of_their_own() {
        let arena = arena(64);
        std::thread::scope(|scope| {
            for byte in 1..=4 {
                let arena = &arena;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let class = if byte % 2 == 0 { Class::Pinned } else { Class::Huge };
                        let mut extent = arena.allocate(class, Blocks::new(2)).unwrap();
                        extent.fill(byte);
                        assert!(extent.iter().all(|&b| b == byte));
                    }
                });
            }
        });
        arena.validate();
        assert_eq!(arena.placement().free_blocks(), Blocks::new(64));
    }
}
