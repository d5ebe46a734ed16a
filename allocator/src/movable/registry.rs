//! The movable heaps of this process, by the number that their handles hold: so that a handle of 16
//! bytes can be dropped anywhere.
#![allow(unsafe_code)] // pointers to heaps that live objects keep

use core::any::Any;
use core::fmt;
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire};
use core::sync::atomic::{AtomicPtr, AtomicU8};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::MovableError;
use super::tables::Tables;

/// What a handle needs of its heap, whatever system that stands on.
pub(super) trait Door: Send + Sync + fmt::Debug {
    fn tables(&self) -> &Tables;

    /// Ends an object. With `drop`, what is to be done to its memory before. What is returned may be
    /// the last that keeps the heap: it is for a caller to drop who does not use the heap any more.
    fn end(&self, index: u32, drop: Option<DropFn>) -> Result<Option<Keep>, MovableError>;
}

/// What keeps a heap for as long as it has objects.
pub(super) type Keep = Arc<dyn Any + Send + Sync>;

/// Drops what stands at an address.
pub(super) type DropFn = unsafe fn(*mut u8);

/// How many heaps there can be at a time; number 0 is nobody's.
pub(super) const HEAPS_MAX: usize = 255;

/// A heap's door. Behind one more pointer, since a pointer to a trait object is two words.
struct Entry {
    door: *const dyn Door,
}

static HEAPS: [AtomicPtr<Entry>; HEAPS_MAX + 1] =
    [const { AtomicPtr::new(ptr::null_mut()) }; HEAPS_MAX + 1];
/// Marks a number that is taken and has no door yet.
static CLAIMED: AtomicU8 = AtomicU8::new(0);

/// Where the heap of each number begins; 0 where there is none. An address is one heap's at most, for a
/// handle finds its heap by it.
static BASES: Mutex<[usize; HEAPS_MAX + 1]> = Mutex::new([0; HEAPS_MAX + 1]);

/// A number for a heap, given back when dropped.
#[derive(Debug)]
pub(super) struct Number(u8);

impl Number {
    /// For a heap that begins at an address.
    pub fn take(base: usize) -> Result<Self, MovableError> {
        let mut bases = BASES.lock().unwrap_or_else(PoisonError::into_inner);
        if bases.contains(&base) {
            return Err(MovableError::ArenaTaken { base });
        }
        for (number, heap) in HEAPS.iter().enumerate().skip(1) {
            let free = heap.compare_exchange(ptr::null_mut(), claimed(), AcqRel, Acquire);
            if free.is_ok() {
                bases[number] = base;
                return Ok(Self(number as u8));
            }
        }
        Err(MovableError::TooManyHeaps { most: HEAPS_MAX })
    }

    pub fn get(&self) -> u8 {
        self.0
    }

    /// Lets handles find the heap, for as long as the number lives.
    pub fn announce<D: Door + 'static>(&self, heap: &Arc<D>) {
        let door: *const D = Arc::as_ptr(heap);
        let entry = Box::into_raw(Box::new(Entry { door }));
        HEAPS[usize::from(self.0)].store(entry, core::sync::atomic::Ordering::Release);
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        let entry = HEAPS[usize::from(self.0)].swap(ptr::null_mut(), AcqRel);
        if entry != claimed() {
            // SAFETY: from Box::into_raw in `announce`; nobody else takes it out.
            drop(unsafe { Box::from_raw(entry) });
        }
        BASES.lock().unwrap_or_else(PoisonError::into_inner)[usize::from(self.0)] = 0;
    }
}

fn claimed() -> *mut Entry {
    ptr::from_ref(&CLAIMED).cast_mut().cast()
}

/// The heap of that number.
///
/// # Safety
/// The heap lives, and goes on to live as long as what is returned: it has an object that the caller
/// has the handle of.
pub(super) unsafe fn heap<'a>(number: u8) -> &'a dyn Door {
    let entry = HEAPS[usize::from(number)].load(Acquire);
    // SAFETY: the caller vouches for a heap that lives, which has announced itself before it had an
    // object; its entry goes when it does.
    unsafe { &*(*entry).door }
}
