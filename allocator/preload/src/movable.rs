//! The part of `bookend.h` about movable objects: caches, with callbacks into their owners.
//!
//! Handles are numbers that are checked, so a stale one is an error and no fault. Every function
//! answers an error with −1 or a null, and says which in `errno`.

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};

use allocator::movable::{
    Answer, Budget, Cache, MovableError, MovableHeap, ObjectId, Owner, Subject,
};
use allocator::os::{Linux, Os};
use allocator::placement::Arena;
use allocator::pool::{Pool, Populate, Rung, Use};
use allocator::units::{Bytes, PageSize};
use libc::size_t;

use crate::set_errno;

/// The process's heap of movable objects.
static HEAP: OnceLock<MovableHeap> = OnceLock::new();

/// A heap as long as half of the machine's memory. Memory comes block by block.
fn make_heap() -> Option<MovableHeap> {
    let half = Bytes::new(Linux.memory().get() / 2).round_down(PageSize::MIB2);
    let pool = Pool::builder()
        .capacity(half)
        .rung(Rung::Gigantic, Use::Forbidden)
        .rung(Rung::Huge, Use::Forbidden)
        .populate(Populate::OnDemand)
        .build();
    MovableHeap::new(Arc::new(Arena::new(pool.ok()?).ok()?)).ok()
}

fn heap() -> Option<&'static MovableHeap> {
    if HEAP.get().is_none() {
        // Where two threads come first, one heap is dropped, which is empty.
        let _ = HEAP.set(make_heap()?);
    }
    HEAP.get()
}

type Isolate = unsafe extern "C" fn(context: *mut c_void, handle: u64, at: *mut c_void) -> c_int;
type Migrate = unsafe extern "C" fn(
    context: *mut c_void,
    handle: u64,
    old: *mut c_void,
    new: *mut c_void,
) -> c_int;
type PutBack = unsafe extern "C" fn(context: *mut c_void, handle: u64, at: *mut c_void);

/// As `struct bookend_callbacks`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Callbacks {
    isolate: Option<Isolate>,
    migrate: Option<Migrate>,
    put_back: Option<PutBack>,
}

/// An owner in C.
struct Foreign {
    callbacks: Callbacks,
    context: *mut c_void,
}

// SAFETY: whoever gave the callbacks and the context was told that they are used by any thread.
unsafe impl Send for Foreign {}
// SAFETY: as above; the mover calls them one at a time.
unsafe impl Sync for Foreign {}

fn answer(code: c_int) -> Answer {
    if code == 0 { Answer::Agreed } else { Answer::Refused }
}

impl Owner for Foreign {
    fn isolate(&self, object: Subject) -> Answer {
        let (id, at) = (object.id.to_raw(), object.address.as_ptr().cast());
        let call = |f: Isolate| {
            // SAFETY: the caller of `bookend_cache_create` gave a function of that kind.
            answer(unsafe { f(self.context, id, at) })
        };
        self.callbacks.isolate.map_or(Answer::Agreed, call)
    }

    fn migrate(&self, object: Subject, new: NonNull<u8>) -> Answer {
        let (id, old) = (object.id.to_raw(), object.address.as_ptr().cast());
        let new = new.as_ptr().cast();
        let call = |f: Migrate| {
            // SAFETY: as above.
            answer(unsafe { f(self.context, id, old, new) })
        };
        self.callbacks.migrate.map_or(Answer::Agreed, call)
    }

    fn put_back(&self, object: Subject) {
        let (id, at) = (object.id.to_raw(), object.address.as_ptr().cast());
        if let Some(f) = self.callbacks.put_back {
            // SAFETY: as above.
            unsafe { f(self.context, id, at) };
        }
    }
}

/// A cache, as C holds it.
struct CCache {
    cache: Option<Cache>,
    len: Bytes,
    align: usize,
}

fn errno_of(error: &MovableError) -> c_int {
    match error {
        MovableError::NoSuchObject { .. } => libc::ENOENT,
        MovableError::Alignment { .. } | MovableError::Size { .. } => libc::EINVAL,
        MovableError::InCallback | MovableError::InSession => libc::EDEADLK,
        MovableError::Pinned | MovableError::Busy(_) | MovableError::TooManyPins => libc::EBUSY,
        _ => libc::ENOMEM,
    }
}

/// Runs what may fail; a panic, which would be a defect, is an error as well.
fn checked<T>(
    otherwise: T,
    work: impl FnOnce(&'static MovableHeap) -> Result<T, MovableError>,
) -> T {
    let Some(heap) = heap() else {
        set_errno(libc::ENOMEM);
        return otherwise;
    };
    match catch_unwind(AssertUnwindSafe(|| work(heap))) {
        Ok(Ok(value)) => value,
        Ok(Err(error)) => {
            set_errno(errno_of(&error));
            otherwise
        }
        Err(_) => {
            set_errno(libc::ENOTRECOVERABLE);
            otherwise
        }
    }
}

fn id(handle: u64) -> Result<ObjectId, MovableError> {
    ObjectId::from_raw(handle).ok_or(MovableError::NoSuchObject { raw: handle })
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_cache_create(
    size: size_t,
    align: size_t,
    callbacks: *const Callbacks,
    context: *mut c_void,
) -> *mut c_void {
    checked(ptr::null_mut(), |heap| {
        // SAFETY: null, or what the caller has.
        let callbacks = unsafe { callbacks.as_ref() }.copied();
        let owner = callbacks.map(|callbacks| Arc::new(Foreign { callbacks, context }));
        let cache = owner.map(|owner| heap.cache(owner)).transpose()?;
        let cache = CCache { cache, len: Bytes::of_len(size), align: align.max(1) };
        Ok(Box::into_raw(Box::new(cache)).cast())
    })
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_cache_destroy(cache: *mut c_void) {
    if !cache.is_null() {
        // SAFETY: from `bookend_cache_create`, destroyed once.
        drop(unsafe { Box::from_raw(cache.cast::<CCache>()) });
    }
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_cache_alloc(cache: *mut c_void) -> u64 {
    // SAFETY: from `bookend_cache_create`, and not destroyed yet.
    let cache = unsafe { &*cache.cast::<CCache>() };
    checked(0, |heap| {
        heap.make_by_id(cache.cache.as_ref(), cache.len, cache.align).map(ObjectId::to_raw)
    })
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
extern "C" fn bookend_cache_free(handle: u64) -> c_int {
    checked(-1, |heap| {
        let id = id(handle)?;
        // SAFETY: every object of this heap was made by number.
        unsafe { heap.free_by_id(id) }.map(|()| 0)
    })
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
extern "C" fn bookend_pin(handle: u64) -> *mut c_void {
    checked(ptr::null_mut(), |heap| Ok(heap.pin_by_id(id(handle)?)?.as_ptr().cast()))
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
extern "C" fn bookend_pin_long_term(handle: u64) -> *mut c_void {
    checked(ptr::null_mut(), |heap| {
        Ok(heap.pin_by_id_long_term(id(handle)?, Budget::UNLIMITED)?.as_ptr().cast())
    })
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
unsafe extern "C" fn bookend_unpin(handle: u64) -> c_int {
    // SAFETY: as the header asks of the caller.
    checked(-1, |heap| unsafe { heap.unpin_by_id(id(handle)?) }.map(|()| 0))
}

/// See `bookend.h`.
#[unsafe(no_mangle)]
extern "C" fn bookend_compact(bytes_max: u64, microseconds_max: u64) -> i64 {
    checked(-1, |heap| {
        let time = core::time::Duration::from_micros(microseconds_max);
        let mut budget = Budget::UNLIMITED.bytes(Bytes::new(bytes_max)).time(time);
        let before = heap.snapshot().free_blocks();
        heap.compact(&mut budget)?;
        let after = heap.snapshot().free_blocks().get();
        let freed = i64::from(after) - i64::from(before.get());
        // What cannot be given back stays with the heap.
        let _ = heap.arena().release_free();
        Ok(freed.max(0))
    })
}
