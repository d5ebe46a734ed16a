//! `libbookend.so`: the malloc family and C++'s `new` and `delete`, over [`allocator::heap::raw`].
//!
//! Only what a C caller expects beyond an allocation is done here: `errno`, the checks that POSIX
//! asks for, the new-handler. Every small allocation and every free of a thread's own object is
//! answered by a few instructions of [`allocator::heap::raw`] that stand in the function itself.
//!
//! Nothing in here takes memory of Rust's global allocator while it serves a request. What the
//! standard library takes (it does so when it starts a thread or prints) comes from the same heap.
#![allow(unsafe_code)] // the C interface

mod cpp;
mod extras;
mod family;
mod movable;

use allocator::heap::raw;

#[global_allocator]
static GLOBAL: allocator::Bookend = allocator::Bookend;

/// Says in `errno` that there is no memory, where there is none.
#[inline(always)]
fn or_enomem(at: *mut u8) -> *mut u8 {
    if at.is_null() {
        set_errno(libc::ENOMEM);
    }
    at
}

fn set_errno(number: libc::c_int) {
    // SAFETY: the place is this thread's.
    unsafe { *libc::__errno_location() = number }
}

/// An allocation that needs more than a few instructions. Of C's kind, which does not unwind, so
/// that `malloc` can end in a jump to it.
#[cold]
#[inline(never)]
extern "C" fn allocate_slowly(size: usize) -> *mut u8 {
    or_enomem(raw::allocate_slowly(size))
}

#[inline(always)]
fn allocate(size: usize) -> *mut u8 {
    match raw::allocate_at_hand(size) {
        Some(at) => at.as_ptr(),
        None => allocate_slowly(size),
    }
}
