//! [`MovableVec`]: a vector in one movable object.
#![allow(unsafe_code)] // elements by their addresses

use core::fmt;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::slice;

use super::MovableHeap;
use super::error::MovableError;
use super::handle::Handle;
use super::owner::NOBODY;
use super::pin::Pinned;
use super::session::Session;
use super::slab::Size;
use crate::os::{Linux, Os};
use crate::units::{BLOCK_BYTES, Blocks, Bytes};

/// A vector whose elements stand in one movable object. It may be moved between sessions, all of it at
/// once, also while it is not used.
///
/// Up to a block it doubles, by moving to a longer place. Beyond that it takes whole blocks, half as
/// many again, and stays where it is if those behind it are free.
pub struct MovableVec<T, O: Os = Linux> {
    heap: MovableHeap<O>,
    place: Option<Place>,
    /// Elements that the place has room for.
    capacity: usize,
    len: usize,
    owns: PhantomData<T>,
}

/// An object without contents of its own to drop, freed when this goes.
struct Place(Handle);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// Bytes of the place that so many bytes get.
fn place_bytes(bytes: usize, align: usize) -> Result<usize, MovableError> {
    if let Some(size) = Size::of(bytes, align)? {
        return Ok(size.bytes());
    }
    let blocks =
        Blocks::holding(Bytes::of_len(bytes)).ok_or(MovableError::Size { asked: bytes })?;
    Ok(blocks.as_usize() * BLOCK_BYTES)
}

impl<T: Send + 'static, O: Os> MovableVec<T, O> {
    /// An empty one, which takes no memory yet.
    pub fn new(heap: &MovableHeap<O>) -> Self {
        const { assert!(size_of::<T>() > 0, "elements of no size need no memory: count them") };
        Self { heap: heap.clone(), place: None, capacity: 0, len: 0, owns: PhantomData }
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many there can be before it takes more memory.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The elements.
    pub fn as_slice<'a>(&'a self, session: &'a Session<'_>) -> &'a [T] {
        // SAFETY: (1) the first `len` places have been written; (2) the session keeps the object where it
        // is for 'a; (3) this is borrowed for 'a, so nothing is changed or dropped.
        unsafe { slice::from_raw_parts(self.first(session), self.len) }
    }

    /// The elements, to be changed.
    pub fn as_mut_slice<'a>(&'a mut self, session: &'a Session<'_>) -> &'a mut [T] {
        // SAFETY: as in `as_slice`, and this is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.first(session), self.len) }
    }

    /// Keeps the elements where they are.
    ///
    /// # Errors
    /// [`MovableError::TooManyPins`]; [`MovableError::NoSuchObject`] where it has no memory yet.
    pub fn pin(&self) -> Result<Pinned<'_, [T]>, MovableError> {
        let place = self.place.as_ref().ok_or(MovableError::NoSuchObject { raw: 0 })?;
        let (at, held) = self.heap.hold_own(&place.0)?;
        let elements = NonNull::slice_from_raw_parts(at.cast(), self.len);
        // SAFETY: as in `as_slice`, for as long as it is held.
        Ok(unsafe { Pinned::new(elements, held) })
    }

    /// Where the first element is or would be.
    fn first(&self, session: &Session<'_>) -> *mut T {
        let place = self.place.as_ref();
        place.map_or(ptr::dangling_mut(), |place| session.address(&place.0).cast())
    }

    /// Adds an element at the end. It is dropped where that fails.
    ///
    /// # Errors
    /// As [`MovableVec::reserve`].
    pub fn push(&mut self, value: T) -> Result<(), MovableError> {
        if self.len == self.capacity {
            self.reserve(1)?;
        }
        let session = self.heap.session();
        // SAFETY: there is room for one more, which the session keeps where it is.
        unsafe { self.first(&session).add(self.len).write(value) };
        self.len += 1;
        Ok(())
    }

    /// Takes the last element off.
    pub fn pop(&mut self) -> Option<T> {
        let last = self.len.checked_sub(1)?;
        let session = self.heap.session();
        self.len = last;
        // SAFETY: it was written, and counts no more from here on.
        Some(unsafe { self.first(&session).add(last).read() })
    }

    /// Adds elements at the end, until they end or one has no room.
    ///
    /// # Errors
    /// As [`MovableVec::reserve`]. Those before it have been added.
    pub fn extend(&mut self, values: impl IntoIterator<Item = T>) -> Result<(), MovableError> {
        let values = values.into_iter();
        self.reserve(values.size_hint().0)?;
        // A session each: the iterator is the caller's, and may take long.
        let mut values = values;
        values.try_for_each(|value| self.push(value))
    }

    /// Adds copies of elements at the end.
    ///
    /// # Errors
    /// As [`MovableVec::reserve`]. Nothing has been added then.
    pub fn extend_from_slice(&mut self, values: &[T]) -> Result<(), MovableError>
    where
        T: Copy,
    {
        self.reserve(values.len())?;
        let session = self.heap.session();
        // SAFETY: there is room for as many, which nobody else refers to.
        unsafe {
            let end = self.first(&session).add(self.len);
            end.copy_from_nonoverlapping(values.as_ptr(), values.len());
        }
        self.len += values.len();
        Ok(())
    }

    /// Drops the elements from `len` on.
    pub fn truncate(&mut self, len: usize) {
        let Some(dropped) = self.len.checked_sub(len).filter(|&dropped| dropped > 0) else {
            return;
        };
        // Before they are dropped: a panic leaves those out that are left.
        self.len = len;
        let session = self.heap.session();
        // SAFETY: they were written, and count no more.
        unsafe {
            let first = self.first(&session).add(len);
            ptr::drop_in_place(ptr::slice_from_raw_parts_mut(first, dropped));
        }
    }

    /// Drops all elements. The memory stays.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Makes room for `more` elements.
    ///
    /// # Errors
    /// As [`MovableHeap::insert`]. Nothing is changed then.
    pub fn reserve(&mut self, more: usize) -> Result<(), MovableError> {
        let asked = self.len.saturating_add(more);
        if asked <= self.capacity {
            return Ok(());
        }
        let bytes = |elements: usize| {
            let bytes = elements.checked_mul(size_of::<T>());
            let bytes = bytes.ok_or(MovableError::Size { asked: usize::MAX })?;
            place_bytes(bytes, align_of::<T>())
        };
        let least = bytes(asked)?;
        let more = if least > BLOCK_BYTES { self.capacity / 2 } else { self.capacity };
        let ample = bytes(asked.max(self.capacity + more)).unwrap_or(least);
        if self.grow(ample) || self.grow(least) {
            return Ok(());
        }
        self.go_to(ample).or_else(|_| self.go_to(least))
    }

    /// Makes the place longer where it is, if it can be.
    fn grow(&mut self, bytes: usize) -> bool {
        let grown =
            self.place.as_ref().is_some_and(|place| self.heap.inner().grow(place.0.index(), bytes));
        if grown {
            self.capacity = bytes / size_of::<T>();
        }
        grown
    }

    /// Goes to another place.
    fn go_to(&mut self, bytes: usize) -> Result<(), MovableError> {
        let inner = self.heap.inner();
        let made = inner.make(NOBODY, bytes, align_of::<T>())?;
        let session = self.heap.session();
        let to = inner.tables.address(made.at).cast::<T>();
        // SAFETY: (1) the new place has room for more, and is pinned and nobody else's; (2) the session
        // keeps the old one where it is, whose elements are used there no more.
        unsafe { to.copy_from_nonoverlapping(self.first(&session), self.len) };
        let place = Place(inner.tables.finish(made.index, made.at));
        drop(session);
        self.place = Some(place);
        self.capacity = bytes / size_of::<T>();
        Ok(())
    }
}

impl<T, O: Os> Drop for MovableVec<T, O> {
    fn drop(&mut self) {
        let Some(place) = &self.place else { return };
        if !core::mem::needs_drop::<T>() {
            return;
        }
        let session = self.heap.session();
        let first = session.address(&place.0).cast::<T>();
        // SAFETY: as many have been written, and nobody refers to them any more. The object itself goes
        // after this, also where one of them panics.
        unsafe { ptr::drop_in_place(ptr::slice_from_raw_parts_mut(first, self.len)) };
    }
}

impl<T, O: Os> fmt::Debug for MovableVec<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MovableVec({} of {} elements)", self.len, self.capacity)
    }
}
