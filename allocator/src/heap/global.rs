//! The process's heap, for Rust's `#[global_allocator]` and for C.
#![allow(unsafe_code)] // the contract of GlobalAlloc

use core::alloc::{GlobalAlloc, Layout};
use core::ptr::{self, NonNull};
use std::ffi::CStr;

use super::classes::{ALIGN_MIN, Class, SLAB_OBJECT_MAX};
use super::config::{Config, RECORD, VARIABLES, program_name};
use super::core::Heap;
use super::fatal::Line;
use super::local::{Joins, Own};
use super::recording;
use super::stats::Stats;
use super::thread::{self, Thread};
use super::tls;
use crate::os::Linux;
use crate::units::BLOCK_BYTES;

/// The heap of the process.
pub(super) static HEAP: Heap<Linux> = Heap::new();

/// Makes Bookend the allocator of a Rust program:
///
/// ```
/// #[global_allocator]
/// static GLOBAL: bookend::Bookend = bookend::Bookend;
///
/// let numbers: Vec<u64> = (0..1_000_000).collect();
/// assert_eq!(numbers.len(), 1_000_000);
/// ```
///
/// All values are the same allocator: the heap of the process. It is set up when it is first used,
/// as the variables of the environment say (`BOOKEND_HELP=1` prints them).
#[derive(Clone, Copy, Default, Debug)]
pub struct Bookend;

// SAFETY: (1) what is handed out is nobody else's until it is freed, as long as asked for and
// aligned; (2) nothing unwinds; (3) layouts are taken for what they say.
unsafe impl GlobalAlloc for Bookend {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= ALIGN_MIN {
            raw::allocate(layout.size())
        } else {
            raw::allocate_aligned(layout.size(), layout.align())
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        raw::allocate_aligned_zeroed(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, _: Layout) {
        // SAFETY: the caller's.
        unsafe { raw::free(at) }
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { raw::reallocate_aligned(at, size, layout.align()) }
    }
}

/// [`Bookend`], set up as the program says; see [`Config`] for an example. It is the same heap, so
/// one of the two kinds is enough. The variables of the environment go over it, for whoever runs
/// the program knows the machine.
#[derive(Clone, Copy, Debug)]
pub struct Configured(Config);

impl Configured {
    /// An allocator that sets the heap up so, when it is the first to use it.
    pub const fn new(config: Config) -> Self {
        Self(config)
    }

    #[inline]
    fn start(&self) {
        // Should it fail, the request that follows does too.
        started_as(self.0);
    }
}

// SAFETY: as for `Bookend`, which does all of it.
unsafe impl GlobalAlloc for Configured {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.start();
        // SAFETY: the caller's; so below.
        unsafe { Bookend.alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.start();
        // SAFETY: as above.
        unsafe { Bookend.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { Bookend.dealloc(at, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { Bookend.realloc(at, layout, size) }
    }
}

/// The thread's heap, set up where it is not.
#[cold]
#[inline(never)]
fn current() -> Option<Thread<'static, Linux>> {
    if !started() {
        return None;
    }
    let local = tls::attached()?;
    // SAFETY: it is attached to this thread.
    Some(unsafe { Thread::new(&HEAP, HEAP.shared()?, local) })
}

/// Whether there is a heap; sets it up where there was none.
fn started() -> bool {
    started_as(Config::DEFAULT)
}

#[inline]
fn started_as(config: Config) -> bool {
    HEAP.shared().is_some() || start(config)
}

#[cold]
fn start(config: Config) -> bool {
    let started = HEAP.start(Linux, || configure(config));
    if started {
        tls::begin_process();
    }
    started
}

/// What the environment says, over what the program does.
fn configure(config: Config) -> Config {
    let get = |name: &CStr| {
        // SAFETY: the environment is read before anybody has had memory to change it with.
        let value = unsafe { libc::getenv(name.as_ptr()) };
        // SAFETY: a value is a string that ends.
        NonNull::new(value).map(|value| unsafe { CStr::from_ptr(value.as_ptr()) })
    };
    if get(c"BOOKEND_HELP").is_some_and(|value| value == c"1") {
        help();
    }
    let config = config.read(get, |variable, value| {
        let mut line = Line::new();
        line.add("bookend: ");
        line.add_bytes(variable.name.to_bytes());
        line.add(" is '");
        line.add_bytes(value.to_bytes());
        line.add("' and must be ");
        line.add(variable.values);
        line.add("; it is ignored\n");
        line.write();
    });
    if config.record
        && let Some(path) = get(RECORD)
    {
        recording::begin(path, program_name());
    }
    config
}

/// Prints what the environment can say.
fn help() {
    for variable in &VARIABLES {
        let mut line = Line::new();
        line.add_bytes(variable.name.to_bytes());
        line.add("=");
        line.add(variable.values);
        line.add(": ");
        line.add(variable.effect);
        line.add("\n");
        line.write();
    }
}

/// The allocator by plain functions: what `malloc` and its family are made of.
///
/// Every function works before `main`, in destructors of thread-locals, and after a fork. Failure
/// is a null pointer; `errno` is left alone.
pub mod raw {
    use super::*;
    use crate::heap::tables::Owner;

    /// Where it is looked for faults, everything possible is joined.
    const JOINS: Joins =
        if cfg!(any(fuzzing, bookend_sanitized)) { Joins::First } else { Joins::WhereFull };

    /// `size` bytes, aligned to 16. Of no bytes it gives an address that nothing else has.
    #[inline]
    pub fn allocate(size: usize) -> *mut u8 {
        match allocate_at_hand(size) {
            Some(at) => at.as_ptr(),
            None => allocate_slowly(size),
        }
    }

    /// What [`allocate`] gives where that takes a few instructions: a small size, of which the
    /// thread has an object at hand. For shims that want to call something of their own otherwise.
    #[inline(always)]
    pub fn allocate_at_hand(size: usize) -> Option<NonNull<u8>> {
        // SAFETY: the heap is this thread's, or the empty one.
        unsafe { Own::take_small(&raw mut (*tls::get()).own, size) }
    }

    /// As [`allocate`], when nothing is at hand.
    #[inline(never)]
    pub extern "C" fn allocate_slowly(size: usize) -> *mut u8 {
        if recording::is_on() {
            return allocate_recorded(size, ALIGN_MIN, false);
        }
        if size > SLAB_OBJECT_MAX {
            return allocate_long(size, ALIGN_MIN).0;
        }
        allocate_class(Class::of(size), JOINS)
    }

    /// What all ways to allocate end in while calls are recorded.
    #[cold]
    #[inline(never)]
    extern "C" fn allocate_recorded(size: usize, align: usize, zeroed: bool) -> *mut u8 {
        let at = allocate_unrecorded(size, align, zeroed);
        recording::allocated(at, size);
        at
    }

    #[inline(always)]
    fn allocate_class(class: Class, joins: Joins) -> *mut u8 {
        // SAFETY: the heap is this thread's, or the empty one; where it had an object it is this thread's.
        unsafe {
            let own = &raw mut (*tls::get()).own;
            match Own::take(own, class) {
                Some(at) => {
                    if (*own).round.tick() {
                        look_around();
                    }
                    at.as_ptr()
                }
                None => refill(class, joins),
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn look_around() {
        // The request has been met, whatever the system says now.
        // SAFETY: the place is this thread's; so below.
        let errno = unsafe { *libc::__errno_location() };
        if let Some(thread) = current() {
            thread.look_around();
        }
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }

    #[cold]
    #[inline(never)]
    fn refill(class: Class, joins: Joins) -> *mut u8 {
        current().map_or(ptr::null_mut(), |thread| thread.refill(class, joins))
    }

    #[cold]
    #[inline(never)]
    fn allocate_long(size: usize, align: usize) -> (*mut u8, bool) {
        if started() { thread::allocate_long(&HEAP, size, align) } else { (ptr::null_mut(), false) }
    }

    /// `size` bytes of zeros, aligned to 16.
    #[inline]
    pub fn allocate_zeroed(size: usize) -> *mut u8 {
        allocate_aligned_zeroed(size, ALIGN_MIN)
    }

    /// `size` bytes, aligned to `align`, which is a power of two.
    #[inline]
    pub fn allocate_aligned(size: usize, align: usize) -> *mut u8 {
        if recording::is_on() {
            return allocate_recorded(size, align, false);
        }
        allocate_unrecorded(size, align, false)
    }

    /// `size` bytes of zeros, aligned to `align`, which is a power of two.
    #[inline]
    pub fn allocate_aligned_zeroed(size: usize, align: usize) -> *mut u8 {
        if recording::is_on() {
            return allocate_recorded(size, align, true);
        }
        allocate_unrecorded(size, align, true)
    }

    #[inline(always)]
    fn allocate_unrecorded(size: usize, align: usize, zeroed: bool) -> *mut u8 {
        // Objects that are joined are aligned as shorter ones are.
        let joins = if align <= ALIGN_MIN { JOINS } else { Joins::Never };
        let (at, zero) = match class_for(size, align) {
            Some(class) => (allocate_class(class, joins), false),
            None => allocate_long(size, align.max(ALIGN_MIN)),
        };
        if zeroed && !zero && !at.is_null() {
            // SAFETY: the allocation is ours, and as long.
            unsafe { at.write_bytes(0, size) };
        }
        at
    }

    #[inline]
    fn class_for(size: usize, align: usize) -> Option<Class> {
        if align <= ALIGN_MIN {
            (size <= SLAB_OBJECT_MAX).then(|| Class::of(size))
        } else {
            Class::aligned(size, align)
        }
    }

    /// Frees an allocation; nothing for null.
    ///
    /// # Safety
    /// `at` came from a function of this module and has not been freed, or is null. Nothing uses
    /// it any more. Where it is found to be anything else, the program ends with a message.
    #[inline]
    pub unsafe fn free(at: *mut u8) {
        // SAFETY: the heap is this thread's, or the empty one; the rest is the caller's.
        unsafe {
            if !Own::keep(&raw mut (*tls::get()).own, at) {
                free_slowly(at);
            }
        }
    }

    #[inline(never)]
    unsafe extern "C" fn free_slowly(at: *mut u8) {
        if recording::is_on() {
            recording::freed(at);
            // SAFETY: as below.
            if unsafe { Own::keep_recorded(&raw mut (*tls::get()).own, at) } {
                return;
            }
        }
        let local = tls::get();
        // SAFETY: the heap is this thread's, or the empty one; the rest is the caller's.
        if unsafe { Own::set_aside(&raw mut (*local).own, at) } {
            return;
        }
        // A free leaves `errno` alone (POSIX.1-2024), whatever the system says on the way.
        // SAFETY: the place is this thread's.
        let errno = unsafe { *libc::__errno_location() };
        // A thread without a heap gets none to free with.
        let thread = HEAP.shared().zip(NonNull::new(local));
        match thread.filter(|_| !ptr::eq(local, &super::super::local::EMPTY)) {
            // SAFETY: it is attached to this thread; the rest is the caller's.
            Some((shared, local)) => unsafe {
                Thread::new(&HEAP, shared, local).free_slowly(at);
            },
            // SAFETY: the caller's.
            None => unsafe { thread::free_elsewhere(&HEAP, at) },
        }
        // SAFETY: as above.
        unsafe { *libc::__errno_location() = errno };
    }

    /// Frees an allocation of a size that the caller knows.
    ///
    /// # Safety
    /// As [`free`], and it was asked for with that size.
    #[inline]
    pub unsafe fn free_sized(at: *mut u8, size: usize) {
        let _ = size; // the word of its slice is as near
        // SAFETY: the caller's.
        unsafe { free(at) }
    }

    /// Gives an allocation another size: where it stands, by moving its pages, or by copying it.
    /// Null where there is no memory; the allocation is as before then. Aligned to 16 only.
    ///
    /// # Safety
    /// As [`free`], but not null; and after a success the old address is used no more.
    #[inline]
    pub unsafe fn reallocate(at: *mut u8, size: usize) -> *mut u8 {
        // SAFETY: the caller's.
        unsafe { reallocate_aligned(at, size, ALIGN_MIN) }
    }

    /// As [`reallocate`], for an allocation that is aligned to `align` and stays so.
    ///
    /// # Safety
    /// As [`reallocate`].
    pub unsafe fn reallocate_aligned(at: *mut u8, size: usize, align: usize) -> *mut u8 {
        // SAFETY: the caller's; and the two allocations do not overlap.
        unsafe {
            let usable = thread::usable(&HEAP, at);
            if thread::fits(size, usable) {
                if recording::is_on() {
                    recording::freed(at);
                    recording::allocated(at, size);
                }
                return at;
            }
            // What moves is aligned to a block then, which may be less than it was.
            let long = usable > SLAB_OBJECT_MAX && size > SLAB_OBJECT_MAX;
            if long && size <= isize::MAX as usize && align <= BLOCK_BYTES {
                // Before its address can be anybody else's.
                let recorded = recording::is_on();
                if recorded {
                    recording::freed(at);
                }
                let resized = thread::resize_long(&HEAP, at, size);
                if recorded {
                    let (now, len) = if resized.is_null() { (at, usable) } else { (resized, size) };
                    recording::allocated(now, len);
                }
                if !resized.is_null() {
                    return resized;
                }
            }
            let new = allocate_aligned(size, align);
            if !new.is_null() {
                new.copy_from_nonoverlapping(at, size.min(usable));
                free(at);
            }
            new
        }
    }

    /// How many bytes of an allocation may be used: at least as many as were asked for; 0 for null.
    ///
    /// # Safety
    /// `at` came from a function of this module and has not been freed, or is null.
    pub unsafe fn usable_size(at: *const u8) -> usize {
        // SAFETY: the caller's.
        unsafe { thread::usable(&HEAP, at) }
    }

    /// Gives free memory back to the system; whether there was any.
    pub fn trim() -> bool {
        current().map_or_else(|| HEAP.trim(Owner::NOBODY), |thread| thread.trim())
    }

    /// Before a fork: nobody is in the middle of anything that the child will need.
    pub fn before_fork() {
        HEAP.central.acquire();
    }

    /// After a fork, in the parent.
    pub fn after_fork_in_parent() {
        // SAFETY: [`before_fork`] took it on this thread.
        unsafe { HEAP.central.release() }
    }

    /// After a fork, in the child: what other threads had stays as it was.
    pub fn after_fork_in_child() {
        // SAFETY: as above, on the thread that this one is a copy of.
        unsafe { HEAP.central.release() }
    }

    /// Checks what the heap knows of its blocks and slices against each other; for tests.
    ///
    /// # Errors
    /// With what is wrong.
    pub fn validate() -> Result<(), &'static str> {
        HEAP.with(|central| central.validate()).unwrap_or(Ok(()))
    }

    /// Prints what the heap holds and did to standard error: a table, or one JSON object.
    pub fn print_stats(json: bool) {
        super::super::report::print(json);
    }

    /// What the heap holds and did.
    pub fn stats() -> Stats {
        HEAP.with(|central| central.stats()).unwrap_or_default()
    }
}
