//! One object in place of several neighbours of a slab.
//!
//! A slab of which many objects are free, but none of its pages, is of no use to longer classes. Where the
//! heap would have to grow for those, free neighbours are *joined*: handed out as one object, which begins
//! where the first of them does. All but the first are marked.
//!
//! Whoever frees the object need not know: it goes the way of the first one, as an object of the slab's
//! class, and may be handed out as that again. When it comes back to its slab, those that are marked behind
//! it come with it. So the ways to allocate and to free are what they were, and only who asks how much of an
//! allocation can be used has to look.
//!
//! Neighbours share a word of the bitmap, so that they come back with one operation.
//!
//! # Where the marks are
//! In the last words of `remote`: slabs with so few objects that they [can be joined](super::super::classes::Class::joins) have no
//! remote frees there. These words are 0 where a slab begins: as marks, since no object of the one before
//! is in use; as remote frees, since its owner has taken them all. A flag for one of them that is raised late
//! is passed over by [`Record::hear`], and what others do to such a word ([`Record::quieten`]) leaves it as it
//! is.
//!
//! The owner alone writes marks. Others read those behind an object that they have: these were set before it
//! was handed out and stay, and the first one behind it that is not set belongs to the next object, which is
//! joined to nothing before.
#![allow(unsafe_code)] // the owner's part

use core::sync::atomic::{AtomicU64, Ordering};

use super::super::classes::{JOINED_MAX, Shape};
use super::super::fatal::Fault;
use super::{Record, Slab, WORDS};

const JOINED_WORDS: usize = JOINED_MAX / 64;
const _: () = assert!(2 * JOINED_WORDS <= WORDS, "remote frees and marks do not share words");

/// Which objects are joined to the one before.
type Marks = [AtomicU64; JOINED_WORDS];

/// How many objects are joined to that of a bit.
fn behind(marks: u64, bit: u32) -> u32 {
    (marks >> bit >> 1).trailing_ones()
}

/// The ones that `count` ones begin with; those may overlap.
fn firsts_of_runs(word: u64, count: u32) -> u64 {
    let (mut firsts, mut len) = (word, 1);
    while len < count {
        let more = len.min(count - len);
        firsts &= firsts >> more;
        len += more;
    }
    firsts
}

/// So many ones, at least one.
fn ones(count: u32) -> u64 {
    u64::MAX >> (u64::BITS - count)
}

impl Record {
    pub(super) fn joined(&self) -> &Marks {
        self.remote.0.last_chunk().expect("there are more words")
    }

    /// Of how many objects that one consists which begins with the object of that number, and is in use; of a slab
    /// whose objects can be joined.
    pub fn joined_to(&self, object: u32) -> u32 {
        let word = self.joined()[object as usize / 64].load(Ordering::Relaxed);
        1 + behind(word, object % 64)
    }

    /// Takes the first `count` neighbours that are all free, if there are such, as one object; its number.
    ///
    /// # Safety
    /// As [`Record::slab`].
    pub unsafe fn join(&self, count: u32) -> Option<u32> {
        // SAFETY: the caller's.
        let slab = unsafe { self.slab() };
        debug_assert!(slab.class().joins() && count > 1);
        if slab.free_objects() < count {
            return None;
        }
        let mut words = usize::from(slab.lowest)..slab.words();
        let (at, bit) = words.find_map(|at| {
            let firsts = firsts_of_runs(slab.free[at], count);
            (firsts != 0).then(|| (at, firsts.trailing_zeros()))
        })?;
        slab.free[at] &= !(ones(count) << bit);
        slab.add_free(-(count as i32));
        (slab.taken, slab.joined) = (true, true);
        let marks = &self.joined()[at];
        let now = marks.load(Ordering::Relaxed) | (ones(count - 1) << (bit + 1));
        marks.store(now, Ordering::Relaxed);
        Some(at as u32 * 64 + bit)
    }
}

impl Slab {
    /// As [`Slab::give`], where some objects are joined.
    #[cold]
    pub(super) fn give_joined(
        &mut self,
        shape: &Shape,
        base: usize,
        objects: &[*mut u8],
        marks: &Marks,
    ) -> Result<usize, (Fault, usize)> {
        for (given, &object) in objects.iter().enumerate() {
            let offset = (object as usize).wrapping_sub(base);
            if offset >= shape.used() {
                return Ok(given);
            }
            let (number, within) = shape.locate(offset);
            let (at, bit) = (number as usize / 64, number % 64);
            let joined = marks[at].load(Ordering::Relaxed);
            if within != 0 || joined >> bit & 1 != 0 {
                return Err((Fault::Interior, object as usize));
            }
            self.give_with_those_behind(at, 1 << bit, marks)
                .map_err(|_| (Fault::Twice, object as usize))?;
        }
        Ok(objects.len())
    }

    /// As [`Slab::give_word`], where some objects are joined.
    #[cold]
    pub(super) fn give_joined_word(
        &mut self,
        at: usize,
        bits: u64,
        marks: &Marks,
    ) -> Result<u32, u32> {
        // Inside of another one.
        let within = bits & marks[at].load(Ordering::Relaxed);
        if within != 0 {
            return Err(at as u32 * 64 + within.trailing_zeros());
        }
        let (mut left, mut given) = (bits, 0);
        while left != 0 {
            given += self.give_with_those_behind(at, left & left.wrapping_neg(), marks)?;
            left &= left - 1;
        }
        Ok(given)
    }

    /// Puts the object of a bit back, and those that are joined to it.
    fn give_with_those_behind(&mut self, at: usize, bit: u64, marks: &Marks) -> Result<u32, u32> {
        let joined = marks[at].load(Ordering::Relaxed);
        let number = bit.trailing_zeros();
        let mask = ones(1 + behind(joined, number)) << number;
        let given = self.give_word(at, mask)?;
        marks[at].store(joined & !mask, Ordering::Relaxed);
        self.joined = marks.iter().any(|marks| marks.load(Ordering::Relaxed) != 0);
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::classes::Class;
    use super::super::Freed;
    use super::*;
    use crate::os::{Array, Linux};

    const SIZE: usize = 208;

    /// A slab at 0, of whose objects those are free.
    fn slab(free: &[u32]) -> Array<Record, Linux> {
        let records = Array::<Record, _>::new(Linux, 1).unwrap();
        // SAFETY: this test is the owner; so below.
        let slab = unsafe { records[0].slab() };
        slab.begin(Class::of(SIZE));
        slab.take(u32::MAX, |_| ());
        free.iter().for_each(|&object| give(&records[0], object).unwrap());
        records
    }

    fn give(record: &Record, object: u32) -> Result<(), Fault> {
        let at = (object as usize * SIZE) as *mut u8;
        // SAFETY: as above.
        let given = unsafe { record.give(Class::of(SIZE).shape(), 0, &[at]) };
        // SAFETY: as above.
        unsafe { record.slab() }.validate().unwrap();
        given.map(|given| assert_eq!(given, 1)).map_err(|(fault, which)| {
            assert_eq!(which, at as usize);
            fault
        })
    }

    fn join(record: &Record, count: u32) -> Option<u32> {
        // SAFETY: as above.
        let found = unsafe { record.join(count) };
        // SAFETY: as above.
        unsafe { record.slab() }.validate().unwrap();
        found
    }

    fn free_objects(record: &Record) -> u32 {
        record.free_objects()
    }

    #[test]
    fn runs_are_found_where_they_begin() {
        let slowly = |word: u64, count: u32| {
            (0..=64 - count)
                .filter(|&first| word >> first & ones(count) == ones(count))
                .fold(0, |firsts, first| firsts | 1 << first)
        };
        let words =
            [0, 1, 7 << 61, u64::MAX, 0xffff_0ff0_7e3c_1101, !(1 << 40), 0x5555_dddd_7777_eeee];
        for word in words {
            for count in 1..=64 {
                assert_eq!(firsts_of_runs(word, count), slowly(word, count), "{word:#x}, {count}");
            }
        }
    }

    #[test]
    fn neighbours_are_joined_and_come_back_together() {
        let records = slab(&[3, 10, 11, 20, 21, 22, 23, 24, 62, 63, 64, 65, 66, 135]);
        let record = &records[0];
        assert_eq!(join(record, 3), Some(20));
        assert_eq!((record.joined_to(20), record.joined_to(3)), (3, 1));
        // Not over the end of a word.
        assert_eq!((join(record, 3), join(record, 3)), (Some(64), None));
        assert_eq!([2; 4].map(|count| join(record, count)), [Some(10), Some(23), Some(62), None]);
        assert_eq!((record.joined_to(23), record.joined_to(62)), (2, 2));
        assert_eq!(free_objects(record), 2);
        // Two at the same place, one after the other.
        give(record, 20).unwrap();
        assert_eq!((free_objects(record), record.joined_to(20)), (5, 1));
        assert_eq!(join(record, 2), Some(20));
        assert_eq!((record.joined_to(20), free_objects(record)), (2, 3));
        for (object, count) in [(10, 2), (20, 2), (23, 2), (62, 2), (64, 3)] {
            let before = free_objects(record);
            give(record, object).unwrap();
            assert_eq!(free_objects(record), before + count, "{object}");
        }
        // SAFETY: as above.
        assert!(!unsafe { record.slab() }.joined);
        assert!(record.joined().iter().all(|marks| marks.load(Ordering::Relaxed) == 0));
        assert_eq!(free_objects(record), 14);
    }

    #[test]
    fn what_is_freed_twice_or_inside_of_one_is_found() {
        let records = slab(&[5, 6, 7, 9]);
        let record = &records[0];
        assert_eq!(join(record, 3), Some(5));
        assert_eq!(give(record, 6), Err(Fault::Interior));
        assert_eq!(give(record, 7), Err(Fault::Interior));
        assert_eq!(give(record, 9), Err(Fault::Twice));
        assert_eq!(give(record, 5), Ok(()));
        assert_eq!(give(record, 5), Err(Fault::Twice));
        assert_eq!(give(record, 6), Err(Fault::Twice));
    }

    #[test]
    fn others_free_them_as_they_do_any_object() {
        let records = slab(&[64, 65, 66, 67, 68]);
        let record = &records[0];
        assert_eq!((join(record, 3), join(record, 2)), (Some(64), Some(67)));
        // With one that is joined to none, and flags for words that no slab of this class has.
        assert_eq!(record.free_remotely(1, 1 | 1 << 3 | 1 << 7), Freed::Tell);
        assert!(!record.raise(u32::MAX));
        // SAFETY: as above; so below.
        assert_eq!(unsafe { record.hear() }, Ok(6));
        assert_eq!((free_objects(record), record.joined_to(64)), (6, 1));
        assert_eq!(join(record, 2), Some(64));
        assert_eq!(record.free_remotely(1, 1 << 1), Freed::Tell);
        // SAFETY: as above.
        assert_eq!(unsafe { record.hear() }, Err(65));
    }

    #[test]
    fn what_is_told_late_of_a_slab_before_leaves_marks_alone() {
        let records = slab(&[10, 11]);
        let record = &records[0];
        assert_eq!(join(record, 2), Some(10));
        let marked = WORDS - JOINED_WORDS;
        assert!(record.raise(1 << marked));
        // Whoever takes it off a wrong list finds bits, and raises the flag again.
        let flags = record.quieten();
        assert_eq!((flags, record.raise(flags)), (1 << marked, true));
        // SAFETY: as above.
        assert_eq!(unsafe { record.hear() }, Ok(0));
        assert_eq!((record.joined_to(10), free_objects(record)), (2, 0));
        give(record, 10).unwrap();
        assert_eq!(free_objects(record), 2);
    }
}
