//! Bins: stacks of pointers to objects of one class.
#![allow(unsafe_code)] // memory behind a heap

use core::ptr::{self, NonNull};

/// Objects of a class, ready to be handed out: pointers from `floor` up to `top`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(super) struct Bin {
    pub top: *mut *mut u8,
    pub floor: *mut *mut u8,
    pub end: *mut *mut u8,
}

impl Bin {
    pub const NONE: Self =
        Self { top: ptr::null_mut(), floor: ptr::null_mut(), end: ptr::null_mut() };

    /// An empty one.
    ///
    /// # Safety
    /// There are so many places.
    pub unsafe fn new(floor: NonNull<*mut u8>, places: u32) -> Self {
        let floor = floor.as_ptr();
        // SAFETY: the caller's.
        Self { top: floor, floor, end: unsafe { floor.add(places as usize) } }
    }

    /// What is in it.
    ///
    /// # Safety
    /// It is a bin of this thread's heap, and nothing is added for as long as the objects are
    /// looked at.
    pub unsafe fn objects<'a>(self) -> &'a [*mut u8] {
        // SAFETY: between `floor` and `top` there are pointers.
        unsafe {
            core::slice::from_raw_parts(self.floor, self.top.offset_from(self.floor) as usize)
        }
    }

    /// Leaves out the `gone` that lay longest, at least one, and puts an object on top.
    ///
    /// # Safety
    /// It is a bin of this thread's heap, and there are so many.
    pub unsafe fn replace(&mut self, gone: usize, at: *mut u8) {
        // SAFETY: (1) the rest moves down within the bin; (2) at least one place is free then.
        unsafe {
            let left = self.top.offset_from(self.floor) as usize - gone;
            ptr::copy(self.floor.add(gone), self.floor, left);
            let top = self.floor.add(left);
            top.write(at);
            self.top = top.add(1);
        }
    }

    /// The topmost object, if there is one.
    ///
    /// # Safety
    /// The bin is this thread's, or the empty heap's.
    #[inline(always)]
    pub unsafe fn take(bin: *mut Bin) -> Option<NonNull<u8>> {
        // SAFETY: where the bin is not empty the heap is this thread's to write, and the pointer
        // below `top` is an object's.
        unsafe {
            let top = (*bin).top;
            if top == (*bin).floor {
                return None;
            }
            (*bin).top = top.sub(1);
            Some(NonNull::new_unchecked(*top.sub(1)))
        }
    }

    /// Puts an object on top of a bin; whether it had room.
    ///
    /// # Safety
    /// The bin is of this thread's heap.
    #[inline(always)]
    pub unsafe fn push(bin: *mut Bin, at: *mut u8) -> bool {
        // SAFETY: a bin that is not full has a place at `top`; the rest is the caller's.
        unsafe {
            let top = (*bin).top;
            if top == (*bin).end {
                return false;
            }
            *top = at;
            (*bin).top = top.add(1);
        }
        true
    }
}
