//! Which pages of a slab have nothing but free objects, and for how long.
#![allow(unsafe_code)] // what only a slab's owner may read

use core::sync::atomic::{AtomicU64, Ordering};

use super::super::classes::{SLAB_SLICES_MAX, SLICE_BYTES};
use super::{Record, Slab};

/// In what of a slab goes back to the system.
pub(in super::super) const PAGE_BYTES: usize = 4096;
const _: () = assert!(SLAB_SLICES_MAX as usize * SLICE_BYTES / PAGE_BYTES <= u128::BITS as usize);

/// One bit a page. The owner writes it, anybody may read.
#[derive(Debug)]
pub(super) struct Pages([AtomicU64; 2]);

impl Pages {
    fn get(&self) -> u128 {
        let half = |at: usize| u128::from(self.0[at].load(Ordering::Relaxed));
        half(0) | half(1) << 64
    }

    fn set(&self, pages: u128) {
        self.0[0].store(pages as u64, Ordering::Relaxed);
        self.0[1].store((pages >> 64) as u64, Ordering::Relaxed);
    }
}

impl Record {
    /// A slab begins, of which nothing has been looked at.
    pub fn forget_pages(&self) {
        self.idle.set(0);
        self.gone.set(0);
    }

    /// Pages of the slab that have gone back to the system.
    pub fn gone_pages(&self) -> u32 {
        self.gone.get().count_ones()
    }

    /// Pages that may go back: those that had nothing but free objects at this look and at the one
    /// before, a delay ago at least, with no object taken between; or all that have nothing else now.
    ///
    /// # Safety
    /// The caller owns the slab.
    pub unsafe fn ripe_pages(&self, now_ms: u32, delay_ms: u32, all: bool) -> u128 {
        let over = now_ms.wrapping_sub(self.looked_ms.load(Ordering::Relaxed)) >= delay_ms;
        if !over && !all {
            return 0;
        }
        self.looked_ms.store(now_ms, Ordering::Relaxed);
        // SAFETY: the caller's.
        let slab = unsafe { self.slab() };
        if core::mem::take(&mut slab.taken) {
            self.forget_pages();
        }
        let free = slab.free_pages();
        let (idle, gone) = (self.idle.get(), self.gone.get() & free);
        if idle != free {
            self.idle.set(free);
        }
        self.gone.set(gone);
        let ripe = if all { free } else { free & idle };
        ripe & !gone
    }

    /// Those of some pages that still have nothing but free objects; they are noted as gone.
    ///
    /// # Safety
    /// As [`Record::ripe_pages`]; and unless they go, the caller notes that they [stay](Record::keep_pages).
    pub unsafe fn take_pages(&self, pages: u128) -> u128 {
        // SAFETY: the caller's.
        let pages = unsafe { self.slab() }.free_pages() & pages;
        self.gone.set(self.gone.get() | pages);
        pages
    }

    /// The system did not take pages.
    pub fn keep_pages(&self, pages: u128) {
        self.gone.set(self.gone.get() & !pages);
    }
}

impl Slab {
    /// Pages that hold free objects, or parts of such, and nothing else.
    fn free_pages(&self) -> u128 {
        let shape = self.class().shape();
        if (self.free_objects() as usize * shape.size as usize) < PAGE_BYTES {
            return 0;
        }
        let pages = shape.used() / PAGE_BYTES;
        let is_free = |page: &usize| {
            let (first, _) = shape.locate(page * PAGE_BYTES);
            let (last, _) = shape.locate((page + 1) * PAGE_BYTES - 1);
            self.are_free(first as usize, last as usize)
        };
        (0..pages).filter(is_free).fold(0, |free, page| free | 1 << page)
    }

    /// Whether objects up to the last are all free.
    fn are_free(&self, first: usize, last: usize) -> bool {
        (first / 64..=last / 64).all(|word| {
            let from = first.saturating_sub(word * 64);
            let to = (last - word * 64).min(63);
            let mask = (u64::MAX >> (63 - to)) & (u64::MAX << from);
            self.free[word] & mask == mask
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::classes::{CLASSES, Class};
    use super::*;
    use crate::os::{Array, Linux};

    /// What `free_pages` says, worked out object by object.
    fn slowly(slab: &Slab) -> u128 {
        let shape = slab.class().shape();
        let size = shape.size as usize;
        let in_use = |object: &usize| slab.free[object / 64] >> (object % 64) & 1 == 0;
        let whole = shape.used() / PAGE_BYTES;
        let mut pages = if whole == 128 { u128::MAX } else { (1 << whole) - 1 };
        for object in (0..shape.objects as usize).filter(in_use) {
            let (first, last) = (object * size, (object + 1) * size - 1);
            (first / PAGE_BYTES..=last / PAGE_BYTES).for_each(|page| pages &= !(1 << page));
        }
        pages
    }

    #[test]
    fn pages_are_free_where_no_object_in_use_reaches() {
        let mut state = 11u64;
        for class in (0..CLASSES as u8).map(Class) {
            let records = Array::<Record, _>::new(Linux, 1).unwrap();
            // SAFETY: this test is the owner; so below.
            let slab = unsafe { records[0].slab() };
            slab.begin(class);
            let objects = slab.take(u32::MAX, |_| ());
            assert_eq!(slab.free_pages(), 0);
            // All come back, in some order.
            let mut left: Vec<u32> = (0..objects).collect();
            while !left.is_empty() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let object = left.swap_remove((state >> 33) as usize % left.len());
                let at = (object * class.shape().size) as *mut u8;
                slab.give(class.shape(), 0, &[at]).unwrap();
                if left.len().is_multiple_of(7) {
                    assert_eq!(slab.free_pages(), slowly(slab), "{class:?}, {} left", left.len());
                }
            }
        }
    }

    #[test]
    fn pages_are_ripe_at_the_second_look_with_nothing_taken_between() {
        let records = Array::<Record, _>::new(Linux, 1).unwrap();
        let record = &records[0];
        // SAFETY: this test is the owner; so below.
        unsafe {
            record.slab().begin(Class::of(1024));
            record.slab().take(4, |_| ());
            assert_eq!(record.ripe_pages(1_000, 500, false), 0, "the first look");
            assert_eq!(record.ripe_pages(1_400, 500, false), 0, "too early");
            record.slab().take(1, |_| ());
            record.slab().give(Class::of(1024).shape(), 0, &[4096 as *mut u8]).unwrap();
            assert_eq!(record.ripe_pages(1_500, 500, false), 0, "one was in use meanwhile");
            assert_eq!(record.ripe_pages(2_000, 500, false), 0xfe);
            record.slab().take(1, |object| assert_eq!(object, 4));
            assert_eq!(record.take_pages(0xfe), 0xfc, "one is in use again");
            assert_eq!(record.gone_pages(), 6);
            assert_eq!(record.ripe_pages(2_500, 500, false), 0);
            assert_eq!(record.gone_pages(), 0, "some of them may have been touched");
            assert_eq!(record.ripe_pages(2_600, 500, true), 0xfc);
            assert_eq!(record.take_pages(0xfc), 0xfc);
            record.keep_pages(0x0c);
            assert_eq!(record.ripe_pages(3_200, 500, false), 0x0c);
        }
    }
}
