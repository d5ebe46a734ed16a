//! Recording what a program allocates and frees, into the file that `BOOKEND_RECORD` names.
//!
//! The format of the file is described in `format.rs` beside this; `fragbench record` makes recordings and
//! `fragbench replay` plays them.
//!
//! # What it costs
//! Nothing where nothing is recorded: threads that record get a heap whose fast paths find nothing (no
//! object at hand, no slice of their own), so that every call ends in a slow path, and the question
//! whether to record stands there: one branch that always goes the same way. Where recording is on, a
//! call takes some 50 ns more, and a thread opens the file anew every few thousand events.
//!
//! # What is not in it
//! The allocation that set the heap up; what a signal's handler allocates while the thread is writing an
//! event (counted as lost); what a program does before it has this heap, or without it.
#![allow(unsafe_code)] // the thread's heap, and the path

mod format;
mod lane;

use core::ffi::CStr;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use core::{cell::UnsafeCell, ptr};

pub use format::{
    Before, EVENT_BYTES_MAX, Event, Events, HEADER_BYTES, Header, Kind, MAGIC, Malformed,
};
pub(super) use lane::Lane;
use lane::{About, Failed, Process};

use super::fatal::Line;
use super::tls;

/// Whether this process was told to record. Set when its heap is, and never changed afterwards.
static TOLD: AtomicBool = AtomicBool::new(false);
/// Recording has failed, and is not tried again.
static FAILED: AtomicBool = AtomicBool::new(false);
static PROCESS: AtomicPtr<Process> = AtomicPtr::new(ptr::null_mut());
static TARGET: Target = Target(UnsafeCell::new(Names { path: [0; PATH_BYTES], program: [0; 16] }));

const PATH_BYTES: usize = libc::PATH_MAX as usize;

struct Names {
    path: [u8; PATH_BYTES],
    program: [u8; 16],
}

/// Written once, before [`TOLD`] says so.
struct Target(UnsafeCell<Names>);

// SAFETY: it is written by one thread before `TOLD` is set with release, and only read afterwards.
unsafe impl Sync for Target {}

/// Whether calls are to be recorded. Asked on slow paths alone.
#[inline(always)]
pub(super) fn is_on() -> bool {
    TOLD.load(Ordering::Relaxed)
}

/// Whether a path can be recorded into.
pub(super) fn is_path(path: &[u8]) -> bool {
    !path.is_empty() && path.len() < PATH_BYTES
}

/// Records from now on, into that file. The heap's lock is held, so it is called once.
pub(super) fn begin(path: &CStr, program: &CStr) {
    // A program with more rights than who started it does not write where that one says.
    // SAFETY: getauxval only reads.
    if unsafe { libc::getauxval(libc::AT_SECURE) } != 0 || TOLD.load(Ordering::Relaxed) {
        return;
    }
    match lane::wiped_at_fork::<Process>() {
        Ok(process) => PROCESS.store(process.as_ptr(), Ordering::Relaxed),
        Err(failed) => return complain(path, failed),
    }
    // SAFETY: nobody reads it before the store below, and this is called once.
    let names = unsafe { &mut *TARGET.0.get() };
    let (path, program) = (path.to_bytes(), program.to_bytes());
    names.path[..path.len()].copy_from_slice(path);
    let len = program.len().min(names.program.len());
    names.program[..len].copy_from_slice(&program[..len]);
    TOLD.store(true, Ordering::Release);
}

/// Takes down that `size` bytes were allocated there; nothing for null.
#[cold]
pub(super) fn allocated(at: *mut u8, size: usize) {
    if !at.is_null() {
        record(at, Kind::Allocated(size as u64));
    }
}

/// Takes down that an allocation is about to be freed; nothing for null.
#[cold]
pub(super) fn freed(at: *mut u8) {
    if !at.is_null() {
        record(at, Kind::Freed);
    }
}

fn record(at: *mut u8, kind: Kind) {
    if FAILED.load(Ordering::Relaxed) || !TOLD.load(Ordering::Acquire) {
        return;
    }
    // SAFETY: the place is this thread's; so below.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: (1) it was written before `TOLD` said so, and is not written again; (2) the process's
    // page is never unmapped.
    let (names, process) = unsafe { (&*TARGET.0.get(), PROCESS.load(Ordering::Relaxed).as_ref()) };
    let path = CStr::from_bytes_until_nul(&names.path).unwrap_or(c"");
    if let (Some(process), Some((thread, place))) = (process, tls::lane()) {
        let about = About { path, process, program: names.program, thread };
        if let Err(failed) = record_in(place, at, kind, &about)
            && !FAILED.swap(true, Ordering::Relaxed)
        {
            complain(path, failed);
        }
    }
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
}

/// # Errors
/// [`Failed`].
fn record_in(
    place: NonNull<*mut Lane>,
    at: *mut u8,
    kind: Kind,
    about: &About<'_>,
) -> Result<(), Failed> {
    // SAFETY: the place is of this thread's heap, which nobody else uses meanwhile; a signal's handler
    // that comes between finds none or the new one. A lane is never unmapped.
    unsafe {
        if (*place.as_ptr()).is_null() {
            *place.as_ptr() = lane::wiped_at_fork::<Lane>()?.as_ptr();
        }
        match NonNull::new(*place.as_ptr()) {
            Some(lane) => Lane::record(lane, at as usize, kind, about),
            None => Ok(()),
        }
    }
}

/// Once.
#[cold]
fn complain(path: &CStr, (what, errno): Failed) {
    let mut line = Line::new();
    line.add("bookend: nothing is recorded into '");
    line.add_bytes(path.to_bytes());
    line.add("' any more: ");
    line.add(what);
    line.add(" failed: errno ");
    let _ = core::fmt::Write::write_fmt(&mut line, format_args!("{errno}"));
    line.add("\n");
    line.write();
}
