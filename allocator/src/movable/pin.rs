//! Pins: what keeps one object where it is, session or not.
#![allow(unsafe_code)] // turns addresses into references

use core::fmt;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use super::protocol;

/// Takes a pin off when it goes.
pub(super) enum Held<'a> {
    /// It is shown in a slot.
    Shown(&'static AtomicU64),
    /// It is counted in the object's word.
    Counted(&'a AtomicU64),
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        match self {
            Self::Shown(slot) => protocol::leave(*slot),
            Self::Counted(word) => protocol::unpin(*word),
        }
    }
}

/// An object that stays where it is for as long as this lives. Whoever has one may keep it across
/// sessions, and give it to other threads.
pub struct Pinned<'a, T: ?Sized> {
    at: NonNull<T>,
    _held: Held<'a>,
    borrows: PhantomData<&'a T>,
}

// SAFETY: it gives shared references only.
unsafe impl<T: ?Sized + Sync> Send for Pinned<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for Pinned<'_, T> {}

impl<'a, T: ?Sized> Pinned<'a, T> {
    /// # Safety
    /// `at` is a T for as long as `held` lives; for 'a nobody refers to it mutably.
    pub(super) unsafe fn new(at: NonNull<T>, held: Held<'a>) -> Self {
        Self { at, _held: held, borrows: PhantomData }
    }

    /// Its address, until the pin goes.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.at
    }
}

impl<T: ?Sized> Deref for Pinned<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: as `new` was promised.
        unsafe { self.at.as_ref() }
    }
}

/// As [`Pinned`], to be changed.
pub struct PinnedMut<'a, T: ?Sized> {
    at: NonNull<T>,
    _held: Held<'a>,
    borrows: PhantomData<&'a mut T>,
}

// SAFETY: it is as a mutable reference.
unsafe impl<T: ?Sized + Send> Send for PinnedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for PinnedMut<'_, T> {}

impl<'a, T: ?Sized> PinnedMut<'a, T> {
    /// # Safety
    /// `at` is a T for as long as `held` lives; for 'a nobody else refers to it.
    pub(super) unsafe fn new(at: NonNull<T>, held: Held<'a>) -> Self {
        Self { at, _held: held, borrows: PhantomData }
    }

    /// Its address, until the pin goes.
    pub fn as_ptr(&self) -> NonNull<T> {
        self.at
    }
}

impl<T: ?Sized> Deref for PinnedMut<'_, T> {
    type Target = T;
    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: as `new` was promised.
        unsafe { self.at.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for PinnedMut<'_, T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and this is borrowed exclusively.
        unsafe { self.at.as_mut() }
    }
}

impl<T: ?Sized> fmt::Debug for Pinned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pinned({:p})", self.at)
    }
}

impl<T: ?Sized> fmt::Debug for PinnedMut<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PinnedMut({:p})", self.at)
    }
}
