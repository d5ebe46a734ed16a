//! Handles: what owns a movable object, wherever it stands.
#![allow(unsafe_code)] // drops what a handle owns, through its heap

use core::fmt;
use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use core::{mem, ptr};

use super::registry::{self, DropFn};
use super::tables::ObjectId;
use super::word::Hint;

/// Which object, and where it was when it was last looked at.
#[derive(Debug)]
pub(super) struct Handle {
    pub hint: AtomicU64,
    pub id: ObjectId,
}

impl Handle {
    pub fn new(id: ObjectId, hint: Hint) -> Self {
        Self { hint: AtomicU64::new(hint.0), id }
    }

    /// Ends the object, if it can be ended.
    pub fn end(&self, drop_fn: Option<DropFn>) {
        // SAFETY: the object lives until here, and its heap with it.
        let heap = unsafe { registry::heap(self.id.heap()) };
        // It may be the heap's last, which is not used any more here. Only pins could prevent the
        // end, and those that there can be borrow the handle; one that was forgotten keeps the object.
        drop(heap.end(self.id, drop_fn));
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
        self.handle.id
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
        write!(f, "Movable({:?})", self.handle.id)
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
        self.handle.id
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
        write!(f, "MovableBytes({:?}, {} bytes)", self.handle.id, self.len)
    }
}
