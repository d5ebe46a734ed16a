//! The worker's side.

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;

use bookend::units::Bytes;
use bookend_registration::share::Worker;

use crate::error::{Failure, run};

/// `bookend_share_keys`.
#[repr(C)]
struct Keys {
    lkey: u32,
    rkey: u32,
    address: u64,
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_connect(path: *const c_char, worker: *mut *mut Worker) -> c_int {
    run(|| {
        // SAFETY: the caller gives a string, and room for a pointer.
        unsafe {
            let path = OsStr::from_bytes(CStr::from_ptr(path).to_bytes());
            *worker = Box::into_raw(Box::new(Worker::connect(path)?));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_worker_base(worker: *const Worker) -> *mut c_void {
    // SAFETY: the caller's worker is connected.
    unsafe { (*worker).base().as_ptr().cast() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_worker_bytes(worker: *const Worker) -> usize {
    // SAFETY: the caller's worker is connected.
    unsafe { (*worker).bytes().as_usize() }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_worker_check(worker: *const Worker) -> c_int {
    // SAFETY: the caller's worker is connected.
    run(|| Ok(unsafe { &*worker }.check()?))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_worker_keys(
    worker: *const Worker,
    start: usize,
    bytes: usize,
    keys: *mut Keys,
) -> c_int {
    run(|| {
        let absent = || {
            Failure(libc::ENOENT, format!("{bytes} bytes at {start} are not registered together"))
        };
        // SAFETY: the caller's worker is connected, and there is room for the keys.
        unsafe {
            let end = start.checked_add(bytes).ok_or_else(absent)?;
            let found = (*worker).keys(Bytes::of_len(start), Bytes::of_len(end - start));
            let found = found.ok_or_else(absent)?;
            *keys = Keys { lkey: found.lkey, rkey: found.rkey, address: found.address };
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_share_disconnect(worker: *mut Worker) {
    if !worker.is_null() {
        // SAFETY: it came from `bookend_share_connect`, and is closed once.
        drop(unsafe { Box::from_raw(worker) });
    }
}
