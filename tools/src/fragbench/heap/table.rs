//! Lists that take no memory of the allocator that is being measured.
//!
//! Each stands in a shared mapping of its own, which `/proc/self/smaps` shows under another name than
//! anything an allocator has, so that [`resident`](super::resident) can leave it out.
#![allow(unsafe_code)] // memory of its own

use std::ops::{Deref, DerefMut};
use std::ptr::{self, NonNull};
use std::{io, slice};

/// A list with room for so many elements and no more. Pages come as they are first written.
#[derive(Debug)]
pub struct Table<T> {
    first: NonNull<T>,
    capacity: usize,
    len: usize,
}

// SAFETY: it owns its elements, as Vec does.
unsafe impl<T: Send> Send for Table<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Table<T> {}

impl<T> Table<T> {
    /// An empty one.
    ///
    /// # Errors
    /// What mmap(2) failed with.
    pub fn new(capacity: usize) -> io::Result<Self> {
        const { assert!(size_of::<T>() > 0 && align_of::<T>() <= 4096) };
        let bytes = Self::bytes(capacity).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice.
        let at = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let first = NonNull::new(at.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { first, capacity, len: 0 })
    }

    fn bytes(capacity: usize) -> Option<usize> {
        capacity.max(1).checked_mul(size_of::<T>())
    }

    /// Adds an element at the end; gives it back where there is no room.
    ///
    /// # Errors
    /// The element.
    pub fn push(&mut self, element: T) -> Result<(), T> {
        if self.len == self.capacity {
            return Err(element);
        }
        // SAFETY: there is room for one more.
        unsafe { self.first.add(self.len).write(element) };
        self.len += 1;
        Ok(())
    }

    /// Takes an element out; the last one takes its place.
    ///
    /// # Panics
    /// Where there is none.
    pub fn swap_remove(&mut self, index: usize) -> T {
        let last = self.len.checked_sub(1).expect("an element of an empty table");
        self.swap(index, last);
        self.len = last;
        // SAFETY: it is an element, and counted no more.
        unsafe { self.first.add(last).read() }
    }

    /// Takes the last element.
    pub fn pop(&mut self) -> Option<T> {
        let last = self.len.checked_sub(1)?;
        Some(self.swap_remove(last))
    }

    /// Forgets all elements.
    pub fn clear(&mut self) {
        while self.pop().is_some() {}
    }
}

impl<T> Deref for Table<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: so many elements have been written.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has them.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        self.clear();
        let bytes = Self::bytes(self.capacity).unwrap_or(0);
        // SAFETY: the mapping is ours, and nothing refers to it any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;

    #[test]
    fn elements_come_and_go() {
        let counted = Rc::new(());
        let mut table = Table::new(3).unwrap();
        for n in 0..3 {
            assert!(table.push((n, Rc::clone(&counted))).is_ok());
        }
        assert!(table.push((9, Rc::clone(&counted))).is_err(), "there is room for three");
        assert_eq!(table.swap_remove(0).0, 0);
        assert_eq!(table.iter().map(|element| element.0).collect::<Vec<_>>(), [2, 1]);
        table[0].0 = 7;
        assert_eq!(table.pop().map(|element| element.0), Some(1));
        assert_eq!(Rc::strong_count(&counted), 2);
        drop(table);
        assert_eq!(Rc::strong_count(&counted), 1, "what is left is dropped");
    }

    #[test]
    fn what_cannot_be_mapped_is_an_error() {
        assert!(Table::<u64>::new(usize::MAX / 2).is_err());
        assert!(Table::<u64>::new(usize::MAX / 16).is_err());
        assert!(Table::<u64>::new(0).unwrap().is_empty());
    }
}
