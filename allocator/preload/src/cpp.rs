//! C++'s `operator new` and `operator delete` in all their forms, by their mangled names (Itanium
//! C++ ABI): `nw`/`na` are `new` and `new[]`, `dl`/`da` their counterparts, `m` a size,
//! `St11align_val_t` an alignment, `RKSt9nothrow_t` the tag of those that do not throw.
//!
//! When there is no memory, the program's new-handler is called until there is, as the standard
//! says; without one `std::bad_alloc` is thrown. Both are functions of the C++ library, which is
//! looked for only then: this object does not depend on it. A program without it has no `new`.
//!
//! The forms of `new` that do not throw are left to the C++ library: they call the throwing ones here
//! and catch what these throw, which only C++ can.

use core::ffi::CStr;
use core::mem;

use allocator::heap::raw;

/// A function of the program's C++ library.
fn symbol(name: &CStr) -> Option<*mut libc::c_void> {
    let here = |library| {
        // SAFETY: the name is a string that ends, and the handle is one.
        let found = unsafe { libc::dlsym(library, name.as_ptr()) };
        (!found.is_null()).then_some(found)
    };
    // A program of another language may have it for one of its libraries only.
    here(libc::RTLD_DEFAULT).or_else(|| {
        let flags = libc::RTLD_LAZY | libc::RTLD_NOLOAD;
        // SAFETY: as above; nothing is loaded that is not.
        let library = unsafe { libc::dlopen(c"libstdc++.so.6".as_ptr(), flags) };
        if library.is_null() { None } else { here(library) }
    })
}

/// Calls the new-handler; whether there is one.
fn call_handler() -> bool {
    type Handler = unsafe extern "C-unwind" fn();
    let Some(get) = symbol(c"_ZSt15get_new_handlerv") else { return false };
    // SAFETY: that is the type of std::get_new_handler.
    unsafe {
        let get =
            mem::transmute::<*mut libc::c_void, extern "C-unwind" fn() -> Option<Handler>>(get);
        match get() {
            Some(handler) => handler(),
            None => return false,
        }
    }
    true
}

/// Throws `std::bad_alloc`, past this function.
fn throw_bad_alloc() -> ! {
    if let Some(throw) = symbol(c"_ZSt17__throw_bad_allocv") {
        // SAFETY: that is the type of std::__throw_bad_alloc.
        unsafe {
            let throw = mem::transmute::<*mut libc::c_void, extern "C-unwind" fn() -> !>(throw);
            throw()
        }
    }
    const MESSAGE: &[u8] = b"bookend: operator new: no memory, and no C++ library to throw with\n";
    // SAFETY: the message is ours; abort does not return.
    unsafe {
        libc::write(2, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::abort()
    }
}

/// Asks again for as long as there is a handler.
#[cold]
#[inline(never)]
fn new_slowly(size: usize, align: usize) -> *mut u8 {
    loop {
        let at = raw::allocate_aligned(size, align);
        if !at.is_null() {
            return at;
        }
        if !call_handler() {
            throw_bad_alloc();
        }
    }
}

macro_rules! new {
    ($($plain:ident $aligned:ident;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C-unwind" fn $plain(size: usize) -> *mut u8 {
            match raw::allocate_at_hand(size) {
                Some(at) => at.as_ptr(),
                None => new_slowly(size, 1),
            }
        }
        #[unsafe(no_mangle)]
        extern "C-unwind" fn $aligned(size: usize, align: usize) -> *mut u8 {
            new_slowly(size, align)
        }
    )*};
}
new! {
    _Znwm _ZnwmSt11align_val_t;
    _Znam _ZnamSt11align_val_t;
}

macro_rules! delete {
    ($($name:ident($($rest:ty),*);)*) => {$(
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $name(at: *mut u8, $(_: $rest),*) {
            // SAFETY: the caller's.
            unsafe { raw::free(at) }
        }
    )*};
}
delete! {
    _ZdlPv();
    _ZdaPv();
    _ZdlPvm(usize);
    _ZdaPvm(usize);
    _ZdlPvRKSt9nothrow_t(*const u8);
    _ZdaPvRKSt9nothrow_t(*const u8);
    _ZdlPvSt11align_val_t(usize);
    _ZdaPvSt11align_val_t(usize);
    _ZdlPvmSt11align_val_t(usize, usize);
    _ZdaPvmSt11align_val_t(usize, usize);
    _ZdlPvSt11align_val_tRKSt9nothrow_t(usize, *const u8);
    _ZdaPvSt11align_val_tRKSt9nothrow_t(usize, *const u8);
}
