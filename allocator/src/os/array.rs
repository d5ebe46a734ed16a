//! Arrays that live in their own mapping, for the tables of pools and placements.

use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::ptr::NonNull;
use core::{fmt, mem, slice};

use super::{Backing, Errno, Os};
use crate::units::{Bytes, PageSize};

/// A type for which all bytes zero is a value.
///
/// # Safety
/// A value whose bytes are all zero is valid, and the type's alignment is at most a base page.
pub unsafe trait Zeroed {}

// SAFETY: zero is a value of each of them.
unsafe impl Zeroed for u8 {}
// SAFETY: as above.
unsafe impl Zeroed for u32 {}
// SAFETY: as above.
unsafe impl Zeroed for u64 {}
// SAFETY: as above.
unsafe impl Zeroed for core::sync::atomic::AtomicU8 {}
// SAFETY: as above.
unsafe impl Zeroed for core::sync::atomic::AtomicU32 {}
// SAFETY: as above.
unsafe impl Zeroed for core::sync::atomic::AtomicU64 {}

/// `len` elements, all zero at first, in a mapping of their own: pages are taken as they are first
/// written, and the heap is not used. It is what a table of a pool of terabytes stands in.
pub struct Array<T: Zeroed, O: Os> {
    first: NonNull<T>,
    len: usize,
    os: O,
    owns: PhantomData<T>,
}

// SAFETY: the array owns its elements, as Box<[T]> does.
unsafe impl<T: Zeroed + Send, O: Os> Send for Array<T, O> {}
// SAFETY: as above; a shared array only gives shared references.
unsafe impl<T: Zeroed + Sync, O: Os> Sync for Array<T, O> {}

impl<T: Zeroed, O: Os> Array<T, O> {
    /// `len` zeros.
    ///
    /// # Errors
    /// What the mapping failed with; [`Errno::NOMEM`] also where the length overflows.
    pub fn new(os: O, len: usize) -> Result<Self, Errno> {
        const { assert!(!mem::needs_drop::<T>(), "elements are unmapped, not dropped") };
        let Some(bytes) = Self::mapped(&os, len) else { return Err(Errno::NOMEM) };
        let first = if bytes == Bytes::ZERO {
            NonNull::dangling()
        } else {
            // SAFETY: no address is given.
            unsafe { os.map(None, bytes, Backing::Anonymous)? }.cast()
        };
        Ok(Self { first, len, os, owns: PhantomData })
    }

    /// Length of the mapping for `len` elements.
    fn mapped(os: &O, len: usize) -> Option<Bytes> {
        let page: PageSize = os.base_page_size();
        Bytes::of_len(len.checked_mul(size_of::<T>())?).checked_round_up(page)
    }
}

impl<T: Zeroed, O: Os> Array<T, O> {
    /// Says that an element will be read soon, so that what lies between need not wait for it. Of an
    /// index beyond the end nothing comes.
    #[inline]
    pub(crate) fn prefetch(&self, index: usize) {
        #[cfg(target_arch = "x86_64")]
        if index < self.len {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: the element is mapped; and a prefetch has no effect but on caches.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.first.as_ptr().add(index).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = index;
    }
}

impl<T: Zeroed, O: Os> Deref for Array<T, O> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: (1) `first` starts a mapping of at least `len` elements, or `len` is 0;
        // (2) it is aligned: mappings are page-aligned; (3) all bytes zero is a value of T;
        // (4) the lifetime is that of the borrow.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl<T: Zeroed, O: Os> DerefMut for Array<T, O> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the borrow is exclusive.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }
}

impl<T: Zeroed, O: Os> Drop for Array<T, O> {
    fn drop(&mut self) {
        if let Some(bytes) = Self::mapped(&self.os, self.len).filter(|&b| b != Bytes::ZERO) {
            // SAFETY: the mapping is ours, and this is its last use. Nothing can be done about
            // an error, which would leave it mapped.
            let _ = unsafe { self.os.unmap(self.first.cast(), bytes) };
        }
    }
}

impl<T: Zeroed + fmt::Debug, O: Os> fmt::Debug for Array<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Array({} elements)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Linux;

    #[test]
    fn an_array_starts_as_zeros_and_keeps_what_is_written() {
        let mut array = Array::<u64, _>::new(Linux, 10_000).unwrap();
        assert!(array.iter().all(|&x| x == 0));
        array[9_999] = 7;
        assert_eq!(array.iter().sum::<u64>(), 7);
    }

    #[test]
    fn an_empty_array_maps_nothing_and_a_huge_one_is_refused() {
        assert!(Array::<u64, _>::new(Linux, 0).unwrap().is_empty());
        assert_eq!(Array::<u64, _>::new(Linux, usize::MAX).unwrap_err(), Errno::NOMEM);
    }
}
