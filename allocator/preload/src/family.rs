//! malloc(3), posix_memalign(3) and their kin, as C23, POSIX.1-2024 and glibc have them.

use core::ptr;

use allocator::heap::raw;
use libc::{c_int, size_t};

use super::{allocate, or_enomem, set_errno};

/// Frees without a trace in `errno`, as glibc and POSIX.1-2024 promise: the heap makes system calls
/// in the course of a free at times, and keeps `errno` itself.
#[unsafe(no_mangle)]
unsafe extern "C" fn free(at: *mut u8) {
    // SAFETY: the caller's.
    unsafe { raw::free(at) }
}

#[unsafe(no_mangle)]
extern "C" fn malloc(size: size_t) -> *mut u8 {
    allocate(size)
}

#[unsafe(no_mangle)]
extern "C" fn calloc(count: size_t, size: size_t) -> *mut u8 {
    or_enomem(count.checked_mul(size).map_or(ptr::null_mut(), raw::allocate_zeroed))
}

/// Of size 0 it frees and returns null, as glibc does.
#[unsafe(no_mangle)]
unsafe extern "C" fn realloc(at: *mut u8, size: size_t) -> *mut u8 {
    if at.is_null() {
        return allocate(size);
    }
    // SAFETY: the caller's.
    unsafe {
        if size == 0 {
            raw::free(at);
            return ptr::null_mut();
        }
        or_enomem(raw::reallocate(at, size))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn reallocarray(at: *mut u8, count: size_t, size: size_t) -> *mut u8 {
    match count.checked_mul(size) {
        // SAFETY: the caller's.
        Some(bytes) => unsafe { realloc(at, bytes) },
        None => or_enomem(ptr::null_mut()),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn cfree(at: *mut u8) {
    // SAFETY: the caller's.
    unsafe { raw::free(at) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn free_sized(at: *mut u8, size: size_t) {
    // SAFETY: the caller's.
    unsafe { raw::free_sized(at, size) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn free_aligned_sized(at: *mut u8, _alignment: size_t, size: size_t) {
    // SAFETY: the caller's.
    unsafe { raw::free_sized(at, size) }
}

/// `EINVAL` where the alignment is no power of two or no multiple of a pointer's size; the place is
/// left alone on failure, and `errno` always.
#[unsafe(no_mangle)]
unsafe extern "C" fn posix_memalign(place: *mut *mut u8, alignment: size_t, size: size_t) -> c_int {
    if !alignment.is_power_of_two() || alignment < size_of::<*mut u8>() {
        return libc::EINVAL;
    }
    let at = raw::allocate_aligned(size, alignment);
    if at.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's.
    unsafe { place.write(at) };
    0
}

#[unsafe(no_mangle)]
extern "C" fn aligned_alloc(alignment: size_t, size: size_t) -> *mut u8 {
    if !alignment.is_power_of_two() {
        set_errno(libc::EINVAL);
        return ptr::null_mut();
    }
    or_enomem(raw::allocate_aligned(size, alignment))
}

/// An alignment that is no power of two is rounded up to one, as glibc does.
#[unsafe(no_mangle)]
extern "C" fn memalign(alignment: size_t, size: size_t) -> *mut u8 {
    match alignment.checked_next_power_of_two() {
        Some(alignment) => or_enomem(raw::allocate_aligned(size, alignment)),
        None => {
            set_errno(libc::EINVAL);
            ptr::null_mut()
        }
    }
}

fn page() -> usize {
    // SAFETY: sysconf only reads.
    (unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) as usize
}

#[unsafe(no_mangle)]
extern "C" fn valloc(size: size_t) -> *mut u8 {
    or_enomem(raw::allocate_aligned(size, page()))
}

/// The size is rounded up to whole pages.
#[unsafe(no_mangle)]
extern "C" fn pvalloc(size: size_t) -> *mut u8 {
    let page = page();
    match size.max(1).checked_next_multiple_of(page) {
        Some(size) => or_enomem(raw::allocate_aligned(size, page)),
        None => or_enomem(ptr::null_mut()),
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_usable_size(at: *const u8) -> size_t {
    // SAFETY: the caller's.
    unsafe { raw::usable_size(at) }
}
