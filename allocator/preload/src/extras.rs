//! glibc's functions about its own heap, as far as they mean something here, and `bookend.h`.

use core::ffi::{CStr, c_char, c_int};

use allocator::heap::raw;
use libc::size_t;

/// Gives free memory back; the padding that glibc would keep is not kept.
#[unsafe(no_mangle)]
extern "C" fn malloc_trim(_padding: size_t) -> c_int {
    c_int::from(raw::trim())
}

/// No option of glibc's means anything here. 1, as for an option that was set: programs take 0 for
/// an error.
#[unsafe(no_mangle)]
extern "C" fn mallopt(_option: c_int, _value: c_int) -> c_int {
    1
}

/// `arena` and `hblkhd` are what is committed for small and large allocations, `uordblks` what is
/// in use, `fordblks` what is committed and free; the rest is 0.
#[unsafe(no_mangle)]
extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let stats = raw::stats();
    let used = stats.slabs + stats.runs + stats.huge;
    // SAFETY: integers, of which zero is a value.
    let mut info: libc::mallinfo2 = unsafe { core::mem::zeroed() };
    info.arena = (stats.committed.saturating_sub(stats.huge)) as size_t;
    info.hblkhd = stats.huge as size_t;
    info.uordblks = used as size_t;
    info.fordblks = stats.committed.saturating_sub(used) as size_t;
    info.keepcost = info.fordblks;
    info
}

/// As [`mallinfo2`], in integers that wrap around.
#[unsafe(no_mangle)]
extern "C" fn mallinfo() -> libc::mallinfo {
    let wide = mallinfo2();
    // SAFETY: as above.
    let mut info: libc::mallinfo = unsafe { core::mem::zeroed() };
    info.arena = wide.arena as c_int;
    info.hblkhd = wide.hblkhd as c_int;
    info.uordblks = wide.uordblks as c_int;
    info.fordblks = wide.fordblks as c_int;
    info.keepcost = wide.keepcost as c_int;
    info
}

/// Prints to standard error.
#[unsafe(no_mangle)]
extern "C" fn malloc_stats() {
    raw::print_stats(false);
}

/// Writes what the heap holds to a stream as XML: the elements of glibc's format that mean something
/// here. -1 and `EINVAL` for options, of which there are none; 0 otherwise.
#[unsafe(no_mangle)]
unsafe extern "C" fn malloc_info(options: c_int, stream: *mut libc::FILE) -> c_int {
    if options != 0 {
        super::set_errno(libc::EINVAL);
        return -1;
    }
    let stats = raw::stats();
    let used = stats.objects + stats.runs + stats.huge;
    // SAFETY: (1) the stream is the caller's; (2) the format has three integers of 64 bits.
    let written = unsafe {
        libc::fprintf(
            stream,
            c"<malloc version=\"bookend-1\">\n\
              <total type=\"inuse\" size=\"%llu\"/>\n<total type=\"rest\" size=\"%llu\"/>\n\
              <system type=\"current\" size=\"%llu\"/>\n</malloc>\n"
                .as_ptr(),
            used,
            stats.committed.saturating_sub(used),
            stats.committed,
        )
    };
    if written < 0 { -1 } else { 0 }
}

/// What `bookend.h` declares.
#[repr(C)]
struct BookendStats {
    reserved: u64,
    committed: u64,
    hugetlb: u64,
    small: u64,
    runs: u64,
    huge: u64,
    failures: u64,
}

/// Fills the first `size` bytes of `stats`, so that older callers work with a newer library.
#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_stats(place: *mut u8, size: size_t) {
    let stats = raw::stats();
    let ours = BookendStats {
        reserved: stats.reserved,
        committed: stats.committed,
        hugetlb: stats.hugetlb,
        small: stats.slabs,
        runs: stats.runs,
        huge: stats.huge,
        failures: stats.failures,
    };
    let len = size.min(size_of::<BookendStats>());
    // SAFETY: the caller has a place of that size; ours is as long at least.
    unsafe { place.copy_from_nonoverlapping((&raw const ours).cast(), len) };
}

/// Gives free memory back to the system; 1 where there was any.
#[unsafe(no_mangle)]
extern "C" fn bookend_trim() -> c_int {
    c_int::from(raw::trim())
}

/// The version, as in `Cargo.toml`.
#[unsafe(no_mangle)]
extern "C" fn bookend_version() -> *const c_char {
    const VERSION: &CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no zeros"),
        };
    VERSION.as_ptr()
}
