//! What nearly every request and every free goes through: a bin's top, without a lock or a call.
#![allow(unsafe_code)] // a thread's heap behind a pointer

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::super::classes::{ALIGN_MIN, CLASSES, Class, SLICE_SHIFT, TABLE_MAX};
use super::super::tables::{BIN_BYTES, Entry};
use super::Own;
use super::bin::Bin;

impl Own {
    // The fast paths. They take a pointer because the empty heap, which is never written, must not
    // be referred to as if it could be.

    /// The bin that stands `offset` bytes into the bins.
    ///
    /// # Safety
    /// `own` is a heap, and there is a bin.
    #[inline(always)]
    unsafe fn bin(own: *mut Self, offset: usize) -> *mut Bin {
        // SAFETY: the caller's.
        unsafe { own.byte_add(core::mem::offset_of!(Self, bins) + offset).cast() }
    }

    /// An object of a class, if one is at hand.
    ///
    /// # Safety
    /// `own` is this thread's, or the empty heap's.
    #[inline(always)]
    pub unsafe fn take(own: *mut Self, class: Class) -> Option<NonNull<u8>> {
        // SAFETY: there are as many bins as classes; the rest is the caller's.
        unsafe { Bin::take(Self::bin(own, class.bin())) }
    }

    /// An object of at least `size` bytes, if that is a small size and one is at hand.
    ///
    /// # Safety
    /// As [`Own::take`].
    #[inline(always)]
    pub unsafe fn take_small(own: *mut Self, size: usize) -> Option<NonNull<u8>> {
        if size > TABLE_MAX {
            return None;
        }
        // SAFETY: (1) the table has an entry for each sixteenth of `TABLE_MAX`, and for zero;
        // (2) it says where a bin stands; the rest is the caller's.
        unsafe {
            let small = (&raw const (*own).small).cast::<u16>();
            let offset = usize::from(*small.add(size.div_ceil(ALIGN_MIN)));
            Bin::take(Self::bin(own, offset))
        }
    }

    /// Keeps an object for this thread's next request; whether it could: it is of a slab of this
    /// thread's, and its bin has room.
    ///
    /// # Safety
    /// As [`Own::take`]; and where `at` is in a slab of this thread's, it is an object of it that
    /// has been handed out.
    #[inline(always)]
    pub unsafe fn keep(own: *mut Self, at: *mut u8) -> bool {
        // SAFETY: (1) a word has the heap's tag only where that is this thread's to write; (2) then
        // what is left of it is where a bin stands.
        unsafe {
            let Some(word) = Self::word(own, at) else { return false };
            let offset = (u64::from(word) ^ (*own).tag) as usize;
            offset < CLASSES * BIN_BYTES && Bin::push(Self::bin(own, offset), at)
        }
    }

    /// The word of an address's slice, if it is one of the span.
    ///
    /// # Safety
    /// `own` is a heap.
    #[inline(always)]
    unsafe fn word(own: *mut Self, at: *mut u8) -> Option<u32> {
        // SAFETY: a slice of the span has a word; the rest is the caller's.
        unsafe {
            let slice = (at as usize).wrapping_sub((*own).base) >> SLICE_SHIFT;
            (slice < (*own).slices).then(|| (*(*own).entries.add(slice)).load(Ordering::Relaxed))
        }
    }

    /// Sets an object of another thread's slab aside; whether it could: it is one, and there is room.
    ///
    /// # Safety
    /// As [`Own::keep`], for objects of other threads' slabs.
    #[inline]
    pub unsafe fn set_aside(own: *mut Self, at: *mut u8) -> bool {
        // SAFETY: (1) where a word is that of a slab, the lower bits say where the bin stands among
        // others; (2) the empty heap has no slices, so this one is the thread's to write.
        unsafe {
            let Some(word) = Self::word(own, at) else { return false };
            if (u64::from(word) ^ (*own).tag) < (CLASSES * BIN_BYTES) as u64 {
                return false;
            }
            let Some(offset) = Entry::bin_of(word) else { return false };
            Bin::push((&raw mut (*own).aside).byte_add(offset).cast(), at)
        }
    }

    /// Whether other threads' objects of a class are set aside.
    pub fn sets_aside(&self, class: Class) -> bool {
        let aside = self.aside[class.index()];
        aside.floor != aside.end
    }
}
