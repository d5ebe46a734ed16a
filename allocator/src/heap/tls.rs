//! Where a thread finds its heap.
//!
//! A thread-local of stable Rust in a shared object costs a call (`__tls_get_addr`) each time. So
//! the pointer stands in a symbol of `.tdata` of our own, which is read in two instructions by the
//! initial-exec model: its offset from the thread pointer, then the word. The dynamic linker puts it
//! into the static TLS block, which a preloaded library and everything linked at start gets; one
//! loaded later needs 8 bytes of the surplus that the C library keeps for this.
//!
//! At first the pointer is that of the [empty heap](super::local::EMPTY), so that the fast paths
//! need not ask whether there is one.
//!
//! How a thread's end is noticed: a key of pthread_key_create(3) with the heap as its value. Its
//! destructor runs after those of `thread_local!` and C++. What still allocates later (destructors
//! of other keys) gets a heap anew, and the key set again, whose destructor the C library calls in
//! its next round.
#![allow(unsafe_code)] // reads a thread-local by hand

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};

use super::config::Report;
use super::global::{HEAP, raw};
use super::local::{EMPTY, Local, Own};
use super::recording::Lane;
use super::report;

#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(
    ".pushsection .tdata.bookend_local,\"awT\",@progbits",
    ".globl bookend_local",
    ".hidden bookend_local",
    ".type bookend_local, @object",
    ".p2align 3",
    "bookend_local:",
    ".quad {empty}",
    ".size bookend_local, 8",
    ".popsection",
    empty = sym EMPTY,
);

/// The thread's heap, or the empty one.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) fn get() -> *mut Local {
    let local: *mut Local;
    // SAFETY: reads the word that the symbol stands for, in this thread's block.
    unsafe {
        core::arch::asm!(
            "mov {local}, qword ptr [rip + bookend_local@GOTTPOFF]",
            "mov {local}, qword ptr fs:[{local}]",
            local = out(reg) local,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    local
}

#[cfg(target_arch = "x86_64")]
fn set(local: *mut Local) {
    // SAFETY: as above; nobody else writes this thread's.
    unsafe {
        core::arch::asm!(
            "mov {offset}, qword ptr [rip + bookend_local@GOTTPOFF]",
            "mov qword ptr fs:[{offset}], {local}",
            offset = out(reg) _,
            local = in(reg) local,
            options(nostack, preserves_flags),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
std::thread_local! {
    static LOCAL: core::cell::Cell<*mut Local> =
        const { core::cell::Cell::new(&raw const EMPTY as *mut Local) };
}

/// The thread's heap, or the empty one.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
pub(super) fn get() -> *mut Local {
    LOCAL.get()
}

#[cfg(not(target_arch = "x86_64"))]
fn set(local: *mut Local) {
    LOCAL.set(local);
}

/// The thread's heap; gives it one where it has none.
#[inline]
pub(super) fn attached() -> Option<NonNull<Local>> {
    let local = get();
    if ptr::eq(local, &EMPTY) { attach() } else { NonNull::new(local) }
}

/// The owner of the thread's heap, and where that has its place in a recording.
pub(super) fn lane() -> Option<(u32, NonNull<*mut Lane>)> {
    // SAFETY: it is this thread's.
    attached().map(|local| unsafe { Own::lane(&raw mut (*local.as_ptr()).own) })
}

#[cold]
fn attach() -> Option<NonNull<Local>> {
    let local = HEAP.attach()?;
    // First, because setting a value may allocate.
    set(local.as_ptr());
    if let Some(key) = key() {
        // SAFETY: the key exists. Without it the heap stays with a thread that is no more.
        let _ = unsafe { libc::pthread_setspecific(key, local.as_ptr().cast()) };
    }
    Some(local)
}

/// Once in a process, when the heap has started: the C library is told what to do at a fork, and at
/// the end. That may allocate.
pub(super) fn begin_process() {
    static BEGUN: AtomicU32 = AtomicU32::new(0);
    if BEGUN.swap(1, Ordering::AcqRel) != 0 {
        return;
    }
    extern "C" fn before() {
        raw::before_fork();
    }
    extern "C" fn in_parent() {
        raw::after_fork_in_parent();
    }
    extern "C" fn in_child() {
        raw::after_fork_in_child();
    }
    // Handlers of this kind run in reverse order before a fork: ours, the first, runs last, when
    // nobody else's allocates any more.
    // SAFETY: the functions live as long as this object, which is never unloaded: threads have it
    // in their static block.
    let failed = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    debug_assert_eq!(failed, 0);
    if HEAP.shared().is_some_and(|shared| shared.config.report != Report::None) {
        report::promise();
    }
}

/// The key, plus one; 0: not made yet.
static KEY: AtomicU32 = AtomicU32::new(0);

fn key() -> Option<libc::pthread_key_t> {
    let made = KEY.load(Ordering::Acquire);
    if made != 0 {
        return Some(made - 1);
    }
    let mut key = 0;
    // SAFETY: the call writes one key.
    if unsafe { libc::pthread_key_create(&mut key, Some(leave)) } != 0 {
        return None;
    }
    match KEY.compare_exchange(0, key + 1, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(key),
        Err(theirs) => {
            // SAFETY: made above, and nobody else knows it.
            unsafe { libc::pthread_key_delete(key) };
            Some(theirs - 1)
        }
    }
}

/// The thread ends.
unsafe extern "C" fn leave(local: *mut libc::c_void) {
    set((&raw const EMPTY).cast_mut());
    if let Some(local) = NonNull::new(local.cast::<Local>()) {
        // SAFETY: the key's value is the heap that was attached for this thread, which has just
        // forgotten it.
        unsafe { HEAP.retire(local) };
    }
}
