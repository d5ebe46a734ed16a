//! Objects by their numbers, for callers in languages without owners: `bookend.h` stands on this.
//!
//! A number that is stale, or never was one, is told from a good one as long as its 24 bits of
//! generation have not come round.
#![allow(unsafe_code)] // addresses instead of references

use core::ptr::NonNull;
use core::sync::atomic::Ordering::AcqRel;

use super::error::MovableError;
use super::mover::Budget;
use super::owner::NOBODY;
use super::protocol;
use super::registry::Door;
use super::tables::ObjectId;
use super::word::NUMBERED;
use super::{Cache, MovableHeap};
use crate::os::Os;
use crate::units::Bytes;

impl<O: Os> MovableHeap<O> {
    /// Makes an object of so many zeros, aligned to `align`, that lives until it is freed by its
    /// number. With a cache, its owner is asked before it moves.
    ///
    /// # Errors
    /// As [`MovableHeap::insert`].
    pub fn make_by_id(
        &self,
        cache: Option<&Cache<O>>,
        len: Bytes,
        align: usize,
    ) -> Result<ObjectId, MovableError> {
        let owner = cache.map_or(NOBODY, Cache::number);
        let made = self.inner().make(owner, len.as_usize(), align)?;
        let at = self.inner().tables.address(made.at);
        // SAFETY: the new object has as many bytes at least, and is pinned and nobody else's.
        unsafe { at.write_bytes(0, len.as_usize()) };
        let word = self.inner().tables.word(made.index);
        word.fetch_or(NUMBERED, AcqRel); // no handle will be stale for it
        protocol::unpin(word);
        Ok(self.inner().id(made.index))
    }

    /// Frees an object. From an owner's callback for this very object, it ends when that is over.
    ///
    /// # Safety
    /// The object was made by [`make_by_id`](Self::make_by_id), or the number is of none: what a
    /// [`Movable`](super::Movable) owns is not to be freed under it.
    ///
    /// # Errors
    /// [`MovableError::NoSuchObject`]; [`MovableError::Pinned`]. Nothing is changed then.
    pub unsafe fn free_by_id(&self, id: ObjectId) -> Result<(), MovableError> {
        self.inner().check(id)?;
        // The heap goes on: this is a handle to it.
        self.inner().end(id.index(), None).map(drop)
    }

    /// Pins an object, and says where it is until it is unpinned.
    ///
    /// # Errors
    /// [`MovableError::NoSuchObject`], and as [`MovableHeap::pin`].
    pub fn pin_by_id(&self, id: ObjectId) -> Result<NonNull<u8>, MovableError> {
        self.inner().check(id)?;
        let at = self.inner().pin_any(id.index())?;
        // Another thread may have freed it, and a new object have its number, between the two.
        if let Err(gone) = self.inner().check(id) {
            protocol::unpin(self.inner().tables.word(id.index()));
            return Err(gone);
        }
        Ok(self.address_of(at))
    }

    /// Moves an object to the pinned end and pins it; see [`MovableHeap::pin_long_term`].
    ///
    /// # Errors
    /// [`MovableError::NoSuchObject`], and as [`MovableHeap::pin_long_term`].
    pub fn pin_by_id_long_term(
        &self,
        id: ObjectId,
        mut budget: Budget,
    ) -> Result<NonNull<u8>, MovableError> {
        self.inner().check(id)?;
        let at = self.inner().pin_long_term(id.index(), &mut budget)?;
        Ok(self.address_of(at))
    }

    fn address_of(&self, at: super::word::Offset) -> NonNull<u8> {
        // SAFETY: an address within a pool, which does not begin at 0.
        unsafe { NonNull::new_unchecked(self.inner().tables.address(at)) }
    }

    /// Takes a pin off.
    ///
    /// # Safety
    /// The caller pinned the object by its number, and unpins it once for that. He does not use its
    /// address any more.
    ///
    /// # Errors
    /// [`MovableError::NoSuchObject`].
    pub unsafe fn unpin_by_id(&self, id: ObjectId) -> Result<(), MovableError> {
        self.inner().check(id)?;
        protocol::unpin(self.inner().tables.word(id.index()));
        Ok(())
    }
}
