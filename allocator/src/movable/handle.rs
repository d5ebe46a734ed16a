//! Handles: what owns a movable object, wherever it stands.
#![allow(unsafe_code)] // drops what a handle owns, through its heap

use core::fmt;
use core::marker::PhantomData;
use core::num::NonZeroU32;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU32, AtomicU64};
use core::{mem, ptr};

use super::protocol::Hint;
use super::registry::{self, Door, DropFn};
use super::stamps;
use super::tables::ObjectId;
use super::word::Sight;

/// Which object, and where it was when it was last looked at.
#[derive(Debug)]
pub(super) struct Handle {
    pub address: AtomicU64,
    stamp: AtomicU32,
    /// Plus one, so that an `Option` of a handle is no longer.
    index: NonZeroU32,
}

impl Handle {
    /// Of the object of that number in the heap that `sight` is of.
    pub fn new(index: u32, sight: Sight) -> Self {
        Self {
            address: AtomicU64::new(sight.address),
            stamp: AtomicU32::new(sight.stamp),
            index: NonZeroU32::MIN.saturating_add(index), // fewer objects than numbers
        }
    }

    #[inline(always)]
    pub fn hint(&self) -> Hint<'_, AtomicU64, AtomicU32> {
        Hint { address: &self.address, stamp: &self.stamp }
    }

    #[inline(always)]
    pub fn index(&self) -> u32 {
        self.index.get() - 1
    }

    /// The heap of the object: that of the address, for an object never leaves its heap.
    pub fn heap(&self) -> &dyn Door {
        let number = stamps::heap_of(self.address.load(Relaxed));
        // SAFETY: the object lives as long as the handle, and its heap with it.
        unsafe { registry::heap(number) }
    }

    pub fn id(&self) -> ObjectId {
        self.heap().tables().id(self.index())
    }

    /// Ends the object, if it can be ended.
    pub fn end(&self, drop_fn: Option<DropFn>) {
        // It may be the heap's last, which is not used any more here. Only pins could prevent the
        // end, and those that there can be borrow the handle; one that was forgotten keeps the object
        // if it is counted in the word.
        drop(self.heap().end(self.index(), drop_fn));
    }
}

/// An object of a movable heap, owned as a `Box` owns: dropping it drops the object. 16 bytes, also as
/// an `Option`.
///
/// It is reached in a [`Session`](super::Session), or through a [pin](super::MovableHeap::pin). It may
/// outlive the [`MovableHeap`](super::MovableHeap) that it came from.
pub struct Movable<T> {
    handle: Handle,
    owns: PhantomData<T>,
}

const _: () = assert!(size_of::<Option<Movable<u8>>>() == 16);

// SAFETY: it owns a T, as Box<T> does; that the bytes are moved by other threads means nothing to a
// value that nobody refers to.
unsafe impl<T: Send> Send for Movable<T> {}
// SAFETY: a shared handle only gives shared references to its T.
unsafe impl<T: Sync> Sync for Movable<T> {}

impl<T> Movable<T> {
    /// # Safety
    /// The object is a T, and nobody else's.
    pub(super) unsafe fn new(handle: Handle) -> Self {
        Self { handle, owns: PhantomData }
    }

    #[inline(always)]
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Which object it is, as its owner's callbacks are told.
    pub fn id(&self) -> ObjectId {
        self.handle.id()
    }
}

/// Drops the T at an address.
unsafe fn drop_at<T>(at: *mut u8) {
    // SAFETY: the caller has a T there that nobody else refers to.
    unsafe { ptr::drop_in_place(at.cast::<T>()) }
}

impl<T> Drop for Movable<T> {
    fn drop(&mut self) {
        self.handle.end(mem::needs_drop::<T>().then_some(drop_at::<T> as DropFn));
    }
}

impl<T> fmt::Debug for Movable<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Movable({:?})", self.id())
    }
}

/// Bytes in a movable heap, owned as a `Box<[u8]>` owns. 24 bytes.
pub struct MovableBytes {
    handle: Handle,
    len: usize,
}

impl MovableBytes {
    /// # Safety
    /// The object has at least `len` bytes, written, and is nobody else's.
    pub(super) unsafe fn new(handle: Handle, len: usize) -> Self {
        Self { handle, len }
    }

    #[inline(always)]
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Which object it is, as its owner's callbacks are told.
    pub fn id(&self) -> ObjectId {
        self.handle.id()
    }

    /// How many.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for MovableBytes {
    fn drop(&mut self) {
        self.handle.end(None);
    }
}

impl fmt::Debug for MovableBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MovableBytes({:?}, {} bytes)", self.id(), self.len)
    }
}
