//! What the owner of a slab knows of it: which of its objects lie in it.

use core::sync::atomic::{AtomicU16, Ordering};

use super::super::classes::{Class, Shape};
use super::super::fatal::Fault;
use super::{SliceRef, WORDS};

/// What the owner of a slab knows of it.
#[derive(Debug)]
#[repr(C)]
pub(in super::super) struct Slab {
    pub(super) class: u8,
    pub state: State,
    /// No bit is set in `free` below this word.
    pub(super) lowest: u8,
    /// Whether an object has been taken since its pages were looked at.
    pub(super) taken: bool,
    /// Whether some of its objects are joined.
    pub(super) joined: bool,
    /// Bits set in `free`. Atomic only because reports read it too.
    pub(super) free_objects: AtomicU16,
    /// Neighbours in the owner's list of slabs of this class with room.
    pub next: Option<SliceRef>,
    pub previous: Option<SliceRef>,
    pub(super) free: [u64; WORDS],
}

/// Where a slab stands with its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(in super::super) enum State {
    /// No slab, or one that nobody owns.
    None = 0,
    /// The one that its owner takes objects from.
    Current,
    /// With free objects, on its owner's list.
    Partial,
    /// Without free objects, on no list.
    Full,
}

impl Slab {
    /// Makes it the record of a new slab, all objects free.
    pub fn begin(&mut self, class: Class) {
        let objects = class.shape().objects as usize;
        self.class = class.0;
        self.state = State::None;
        self.lowest = 0;
        self.taken = false;
        self.joined = false;
        *self.free_objects.get_mut() = objects as u16;
        self.free[..objects / 64].fill(u64::MAX);
        if !objects.is_multiple_of(64) {
            self.free[objects / 64] = (1 << (objects % 64)) - 1;
        }
    }

    /// Says that the slab is no more: every object was free.
    pub fn end(&mut self) {
        let words = self.words();
        self.free[..words].fill(0);
        *self.free_objects.get_mut() = 0;
        self.state = State::None;
    }

    pub fn class(&self) -> Class {
        Class(self.class)
    }

    #[inline]
    pub fn free_objects(&self) -> u32 {
        self.free_objects.load(Ordering::Relaxed).into()
    }

    /// Only the owner changes it, so a load and a store will do.
    #[inline]
    pub(super) fn add_free(&mut self, by: i32) {
        let now = self.free_objects().wrapping_add_signed(by);
        self.free_objects.store(now as u16, Ordering::Relaxed);
    }

    pub fn is_empty(&self) -> bool {
        self.free_objects() == self.class().shape().objects
    }

    /// Takes up to `most` objects, lowest first, and calls `taken` with the number of each.
    #[inline]
    pub fn take(&mut self, most: u32, mut taken: impl FnMut(u32)) -> u32 {
        let wanted = most.min(self.free_objects());
        let (mut left, mut at) = (wanted, usize::from(self.lowest));
        while left > 0 {
            let mut word = self.free[at];
            let first = at as u32 * u64::BITS + word.trailing_zeros();
            let neighbours = word.count_ones();
            if neighbours >= NEIGHBOURS && is_one_run(word) {
                let count = neighbours.min(left);
                (first..first + count).for_each(&mut taken);
                word &= u64::MAX.checked_shl(first % u64::BITS + count).unwrap_or(0);
                left -= count;
            }
            while word != 0 && left > 0 {
                taken(at as u32 * u64::BITS + word.trailing_zeros());
                word &= word - 1;
                left -= 1;
            }
            self.free[at] = word;
            if word == 0 && left > 0 {
                at += 1;
            }
        }
        self.lowest = at as u8;
        self.taken = true;
        self.add_free(-(wanted as i32));
        wanted
    }

    /// Puts back the objects at the beginning of `objects` that lie in this slab, which is at `base` and
    /// cut as `shape` says: how many those are. An error names the first that cannot be put back.
    #[inline]
    pub fn give(
        &mut self,
        shape: &Shape,
        base: usize,
        objects: &[*mut u8],
    ) -> Result<usize, (Fault, usize)> {
        let mut lowest = usize::from(self.lowest);
        // The word that objects go to is written when one goes to another.
        let (mut word, mut bits) = (lowest, self.free[lowest % WORDS]);
        let mut given = 0;
        for &object in objects {
            let offset = (object as usize).wrapping_sub(base);
            if offset >= shape.used() {
                break;
            }
            let (number, within) = shape.locate(offset);
            let at = number as usize / 64;
            if at != word {
                self.free[word % WORDS] = bits;
                (word, bits, lowest) = (at, self.free[at % WORDS], lowest.min(at));
            }
            if within != 0 {
                return Err((Fault::Interior, object as usize));
            }
            let bit = 1u64 << (number % 64);
            if bits & bit != 0 {
                return Err((Fault::Twice, object as usize));
            }
            bits |= bit;
            given += 1;
        }
        self.free[word % WORDS] = bits;
        self.lowest = lowest as u8;
        self.add_free(given as i32);
        Ok(given)
    }

    /// Whether the slab belongs to another place with its owner, now that it has been given objects.
    #[inline]
    pub fn is_to_move(&self, shape: &Shape) -> bool {
        match self.state {
            State::Full => true,
            State::Partial => self.free_objects() == shape.objects,
            State::None | State::Current => false,
        }
    }

    pub(super) fn words(&self) -> usize {
        self.class().shape().objects.div_ceil(64) as usize
    }

    /// Puts the objects of a word back, and says how many they are; on an error, names one that was there.
    pub(super) fn give_word(&mut self, at: usize, bits: u64) -> Result<u32, u32> {
        let twice = self.free[at] & bits;
        if twice != 0 {
            return Err(at as u32 * 64 + twice.trailing_zeros());
        }
        self.free[at] |= bits;
        self.add_free(bits.count_ones() as i32);
        self.lowest = self.lowest.min(at as u8);
        Ok(bits.count_ones())
    }

    /// Checks the counters against the bits.
    #[cfg(test)]
    pub fn validate(&self) -> Result<(), &'static str> {
        let set: u32 = self.free.iter().map(|word| word.count_ones()).sum();
        if set != self.free_objects() {
            return Err("a slab's count of free objects is not that of its bits");
        }
        if self.free[..usize::from(self.lowest)].iter().any(|&word| word != 0) {
            return Err("a free object stands where a slab does not look");
        }
        Ok(())
    }
}

/// From how many free objects in a word on it is looked whether they are neighbours.
const NEIGHBOURS: u32 = 16;

/// Whether the bits that are set, of which there are some, stand next to each other.
fn is_one_run(word: u64) -> bool {
    word & word.wrapping_add(word & word.wrapping_neg()) == 0
}
