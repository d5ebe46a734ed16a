//! What is known of a slab, out of band: which of its objects are free.
//!
//! ```text
//!   0        16                  272            320                 576
//!   +--------+-------------------+--------------+-------------------+
//!   | header | free: 2,048 bits  | flags, link. | remote: as many   |
//!   +--------+-------------------+--------------+-------------------+
//!   \________ the owner's ________/\_________ everybody's ____________/
//! ```
//!
//! A slice has one; a slab of several slices uses that of its first, and the others say how far
//! back it is. The records of a block are nine pages. 576 is nine cache lines, an odd number, so
//! that headers do not fall on each other in a cache.
//!
//! Of each page of a slab is known whether it had nothing but free objects when it was last looked at, and
//! whether it has gone back to the system; see [`super::parts`].
//!
//! An object's bit is set in `free` while it lies in its slab: neither handed out nor kept in a
//! thread's bin, nor freed from elsewhere and not yet heard of. Which objects have been joined to the one
//! before them says [`joined`].
#![allow(unsafe_code)] // gives the owner its part

use core::cell::UnsafeCell;
use core::num::NonZeroU32;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::classes::{OBJECTS_MAX, Shape};
use super::fatal::Fault;
use super::remote::{self, Freed};
use crate::os::Zeroed;

mod joined;
mod pages;
mod slab;

pub(super) use self::pages::PAGE_BYTES;
use self::pages::Pages;
pub(super) use self::slab::{Slab, State};

const WORDS: usize = OBJECTS_MAX / 64;
const _: () = assert!(WORDS <= u32::BITS as usize, "one flag a word");

/// A slice's record.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Record {
    slab: UnsafeCell<Slab>,
    /// The words of `remote` that the owner has to look at; while there are any, the slab is on its
    /// owner's list.
    pub flags: AtomicU32,
    pub link: AtomicU32,
    /// How many slices back the slab's first one is.
    to_head: AtomicU8,
    /// When its pages were last looked at, in milliseconds.
    looked_ms: AtomicU32,
    /// Pages of the slab that had nothing but free objects then.
    idle: Pages,
    /// Those of them that have gone back to the system.
    gone: Pages,
    pub remote: RemoteBits,
}

/// One bit an object, on lines of their own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct RemoteBits(pub [AtomicU64; WORDS]);

const _: () = assert!(size_of::<Record>() == 576 && size_of::<Record>() / 64 % 2 == 1);

// SAFETY: the owner's part is used by one thread at a time (see `slab`), the rest is atomic.
unsafe impl Sync for Record {}
// SAFETY: all bytes zero is a value: zeros, and the first state.
unsafe impl Zeroed for Record {}

impl Record {
    /// The owner's part.
    ///
    /// # Safety
    /// The caller owns the slab, and refers to its owner's part in no other way meanwhile.
    #[expect(clippy::mut_from_ref)]
    #[inline]
    pub unsafe fn slab(&self) -> &mut Slab {
        // SAFETY: the caller's.
        unsafe { &mut *self.slab.get() }
    }

    /// How many of the slab's objects lie in it, as far as this thread can tell.
    pub fn free_objects(&self) -> u32 {
        // SAFETY: the field is atomic, and nothing else of the owner's part is referred to.
        unsafe { (*self.slab.get()).free_objects.load(Ordering::Relaxed) }.into()
    }

    /// How many slices back the slab's first one is.
    #[inline]
    pub fn to_head(&self) -> u8 {
        self.to_head.load(Ordering::Relaxed)
    }

    pub fn set_to_head(&self, slices: u8) {
        self.to_head.store(slices, Ordering::Relaxed);
    }

    /// Lowers the flags of a slab that has been taken off a list it did not belong on. Those of
    /// words in which there is something to hear all the same.
    pub fn quieten(&self) -> u32 {
        let words = Flagged(remote::hear(&self.flags));
        words.filter(|&at| remote::look(&self.remote.0[at]) != 0).fold(0, |up, at| up | 1 << at)
    }

    /// Raises flags; whether all were down, so that the caller must tell the owner.
    pub fn raise(&self, flags: u32) -> bool {
        remote::raise(&self.flags, flags)
    }

    /// Frees objects of a slab that the caller does not own: those of one word.
    #[inline]
    pub fn free_remotely(&self, at: u32, bits: u64) -> Freed {
        remote::free(&self.remote.0[at as usize], bits, &self.flags, 1 << at)
    }

    /// Takes what other threads have freed and puts it into the owner's part, and says how many
    /// objects that were. On an error the object named was free already.
    ///
    /// # Safety
    /// As [`Record::slab`].
    pub unsafe fn hear(&self) -> Result<u32, u32> {
        // SAFETY: the caller's.
        let slab = unsafe { self.slab() };
        // A flag of a word that this slab has no objects for was raised for one that stood here before, and
        // that ended when those bits had been taken.
        let flags = remote::hear(&self.flags) & (u32::MAX >> (u32::BITS - slab.words() as u32));
        let mut heard = 0;
        for at in Flagged(flags) {
            let bits = remote::take(&self.remote.0[at]);
            if bits != 0 {
                heard += if slab.joined {
                    slab.give_joined_word(at, bits, self.joined())?
                } else {
                    slab.give_word(at, bits)?
                };
            }
        }
        Ok(heard)
    }

    /// Puts objects back into the slab; see [`Slab::give`].
    ///
    /// # Safety
    /// As [`Record::slab`].
    #[inline]
    pub unsafe fn give(
        &self,
        shape: &Shape,
        base: usize,
        objects: &[*mut u8],
    ) -> Result<usize, (Fault, usize)> {
        // SAFETY: the caller's.
        let slab = unsafe { self.slab() };
        if slab.joined {
            slab.give_joined(shape, base, objects, self.joined())
        } else {
            slab.give(shape, base, objects)
        }
    }

    /// Whether an object lies in its slab or has been freed from elsewhere, as far as this thread
    /// can tell.
    ///
    /// # Safety
    /// As [`Record::slab`].
    #[cfg(test)]
    pub unsafe fn is_free(&self, object: u32) -> bool {
        let (word, bit) = (object as usize / 64, 1u64 << (object % 64));
        // SAFETY: the caller's.
        let free = unsafe { self.slab() }.free[word];
        (free | self.remote.0[word].load(Ordering::Relaxed)) & bit != 0
    }
}

/// The words whose flags are up.
struct Flagged(u32);

impl Iterator for Flagged {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let at = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (at < u32::BITS).then_some(at as usize)
    }
}

/// A slice by its number plus one, so that 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SliceRef(NonZeroU32);

impl SliceRef {
    pub const fn new(slice: u32) -> Self {
        Self(NonZeroU32::new(slice + 1).expect("a slice's number is below the largest"))
    }

    pub const fn slice(self) -> u32 {
        self.0.get() - 1
    }

    /// As a word of a list; see [`remote`].
    pub const fn word(self) -> u32 {
        self.0.get()
    }

    pub const fn from_word(word: u32) -> Option<Self> {
        match NonZeroU32::new(word) {
            Some(word) => Some(Self(word)),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::classes::Class;
    use super::*;
    use crate::os::{Array, Linux};

    fn slab(class: Class) -> Array<Record, Linux> {
        let records = Array::<Record, _>::new(Linux, 1).unwrap();
        // SAFETY: this test is the owner; so below.
        unsafe { records[0].slab() }.begin(class);
        records
    }

    /// Puts one back, of a slab at 0.
    fn give(slab: &mut Slab, shape: &Shape, offset: usize) -> Result<usize, Fault> {
        slab.give(shape, 0, &[offset as *mut u8]).map_err(|(fault, at)| {
            assert_eq!(at, offset);
            fault
        })
    }

    #[test]
    fn objects_are_taken_lowest_first_and_put_back_once() {
        let class = Class::of(16);
        let records = slab(class);
        // SAFETY: as above.
        let slab = unsafe { records[0].slab() };
        assert!(slab.is_empty());
        let mut taken = Vec::new();
        assert_eq!(slab.take(100, |object| taken.push(object)), 100);
        assert_eq!(taken, (0..100).collect::<Vec<_>>());
        slab.validate().unwrap();
        let shape = class.shape();
        assert_eq!(give(slab, shape, 3 * 16), Ok(1));
        assert_eq!(give(slab, shape, 3 * 16), Err(Fault::Twice));
        assert_eq!(give(slab, shape, 8), Err(Fault::Interior));
    }

    #[test]
    fn what_was_put_back_is_taken_again() {
        let class = Class::of(16);
        let records = slab(class);
        // SAFETY: as above.
        let slab = unsafe { records[0].slab() };
        slab.take(100, |_| ());
        assert_eq!(give(slab, class.shape(), 3 * 16), Ok(1));
        slab.validate().unwrap();
        let mut again = Vec::new();
        slab.take(2, |object| again.push(object));
        assert_eq!(again, [3, 100]);
        assert_eq!(slab.free_objects(), class.shape().objects - 101);
        slab.validate().unwrap();
    }

    #[test]
    fn a_slab_gives_all_its_objects_and_no_more() {
        for class in (0..super::super::classes::CLASSES as u8).map(Class) {
            let records = slab(class);
            // SAFETY: as above.
            let slab = unsafe { records[0].slab() };
            let objects = class.shape().objects;
            let mut count = 0;
            assert_eq!(slab.take(u32::MAX, |_| count += 1), objects);
            assert_eq!((count, slab.take(1, |_| ())), (objects, 0));
            let shape = class.shape();
            let offsets = (0..objects as usize).map(|object| object * class.size());
            offsets.for_each(|offset| assert_eq!(give(slab, shape, offset), Ok(1)));
            // What is left over of the slab is no object.
            let end = objects as usize * class.size();
            assert_eq!(give(slab, shape, end), Ok(0));
            assert!(slab.is_empty());
            slab.validate().unwrap();
            slab.end();
            slab.validate().unwrap();
        }
    }

    #[test]
    fn what_others_freed_comes_back_and_a_double_free_is_named() {
        let records = slab(Class::of(64));
        let record = &records[0];
        // SAFETY: as above; so below.
        unsafe { record.slab() }.take(10, |_| ());
        assert_eq!(record.free_remotely(0, 1 << 2), Freed::Tell);
        assert_eq!(record.free_remotely(0, 1 << 5), Freed::Told);
        assert_eq!(record.free_remotely(0, 3 << 5), Freed::Twice(1 << 5));
        // SAFETY: as above.
        unsafe {
            assert!(record.is_free(5) && !record.is_free(7));
            assert_eq!(record.hear(), Ok(3));
            assert_eq!(record.free_remotely(0, 1 << 5), Freed::Tell);
            assert_eq!(record.hear(), Err(5));
        }
    }
}
