//! [`Bookend`] for collections that take an allocator, by the trait of `allocator-api2`: what the
//! standard library's unstable `Allocator` is, on stable Rust.
#![allow(unsafe_code)] // the contract of Allocator

use core::alloc::{GlobalAlloc, Layout};
use core::num::NonZeroUsize;
use core::ptr::NonNull;

use allocator_api2::alloc::{AllocError, Allocator};

use super::global::{Bookend, raw};

// SAFETY: (1) all values are the same allocator, the heap of the process, which is never taken down;
// (2) what is handed out is nobody else's until it is given back, as long as asked for and aligned.
unsafe impl Allocator for Bookend {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the layout has a size then.
        some_or_nothing(layout, || unsafe { self.alloc(layout) })
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the layout has a size then.
        some_or_nothing(layout, || unsafe { self.alloc_zeroed(layout) })
    }

    #[inline]
    unsafe fn deallocate(&self, at: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller's.
            unsafe { raw::free(at.as_ptr()) }
        }
    }

    unsafe fn grow(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's.
        unsafe { resize(at, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: (1) the caller's; (2) the new allocation is at least as long.
        unsafe {
            let grown = resize(at, old, new)?;
            grown.cast::<u8>().add(old.size()).write_bytes(0, new.size() - old.size());
            Ok(grown)
        }
    }

    unsafe fn shrink(
        &self,
        at: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's.
        unsafe { resize(at, old, new) }
    }
}

/// What `allocate` gives for a layout that has a size; of no bytes, an aligned address where nothing
/// is.
fn some_or_nothing(
    layout: Layout,
    allocate: impl FnOnce() -> *mut u8,
) -> Result<NonNull<[u8]>, AllocError> {
    if layout.size() != 0 {
        return slice(allocate(), layout.size());
    }
    let align = NonZeroUsize::new(layout.align()).expect("an alignment is not zero");
    Ok(NonNull::slice_from_raw_parts(NonNull::without_provenance(align), 0))
}

fn slice(at: *mut u8, size: usize) -> Result<NonNull<[u8]>, AllocError> {
    let at = NonNull::new(at).ok_or(AllocError)?;
    Ok(NonNull::slice_from_raw_parts(at, size))
}

/// Gives an allocation another size, and another alignment where that is asked for. On an error it
/// is as before.
///
/// # Safety
/// `at` was allocated by [`Bookend`] with the layout `old`, and is used no more after a success.
unsafe fn resize(at: NonNull<u8>, old: Layout, new: Layout) -> Result<NonNull<[u8]>, AllocError> {
    if old.size() != 0 && new.size() != 0 && new.align() <= old.align() {
        // SAFETY: the caller's.
        let resized = unsafe { raw::reallocate_aligned(at.as_ptr(), new.size(), new.align()) };
        return slice(resized, new.size());
    }
    let moved = Bookend.allocate(new)?;
    // SAFETY: (1) two allocations, each at least as long; (2) the old one is the caller's to give.
    unsafe {
        moved.cast::<u8>().copy_from_nonoverlapping(at, old.size().min(new.size()));
        Bookend.deallocate(at, old);
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn a_vector_grows_and_shrinks_and_keeps_what_it_holds() {
        let mut numbers = allocator_api2::vec::Vec::new_in(Bookend);
        numbers.extend(0..1_000_000u64);
        numbers.truncate(10);
        numbers.shrink_to_fit();
        assert_eq!(numbers.as_slice(), &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        numbers.clear();
        numbers.shrink_to_fit();
        numbers.push(5);
        assert_eq!(numbers[0], 5);
    }

    #[test]
    fn sizes_and_alignments_change_together() {
        let steps = [(0, 64), (100, 8), (5_000, 4_096), (300, 64), (4 << 20, 16), (0, 1), (7, 128)];
        let mut old = layout(0, 1);
        let mut at = Bookend.allocate(old).unwrap().cast::<u8>();
        for (size, align) in steps {
            let new = layout(size, align);
            // SAFETY: `at` has the layout `old`; so below.
            let changed = unsafe {
                if size >= old.size() {
                    Bookend.grow_zeroed(at, old, new)
                } else {
                    Bookend.shrink(at, old, new)
                }
            }
            .unwrap();
            assert_eq!((changed.len(), changed.cast::<u8>().addr().get() % align), (size, 0));
            // SAFETY: as long as said.
            let bytes = unsafe { &mut *changed.as_ptr() };
            let kept = old.size().min(size);
            assert!(bytes[..kept].iter().all(|&b| b == 9) && bytes[kept..].iter().all(|&b| b == 0));
            bytes.fill(9);
            (at, old) = (changed.cast(), new);
        }
        // SAFETY: as above.
        unsafe { Bookend.deallocate(at, old) };
    }

    #[test]
    fn what_cannot_be_had_is_an_error_and_changes_nothing() {
        let old = layout(100, 8);
        let at = Bookend.allocate_zeroed(old).unwrap().cast::<u8>();
        let new = layout(isize::MAX as usize - 7, 8);
        // SAFETY: `at` has the layout `old`.
        unsafe {
            assert!(Bookend.grow(at, old, new).is_err());
            assert_eq!(at.add(99).read(), 0);
            Bookend.deallocate(at, old);
        }
    }
}
