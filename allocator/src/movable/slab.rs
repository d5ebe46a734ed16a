//! Slabs: runs of slices cut into places for objects of one size and one owner.

use core::hash::{BuildHasherDefault, Hasher};
use std::collections::HashMap;

use crate::heap::classes::{ALIGN_MIN, Class, SLAB_OBJECT_MAX, SLICE_BYTES, SLICES};
use crate::heap::filler::Slices;
use crate::units::BLOCK_BYTES;

use super::error::MovableError;
use super::word::Offset;

/// Which end an object stands at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Zone {
    /// Between the ends, where things move.
    Movable,
    /// The pinned end.
    Pinned,
}

impl Zone {
    pub const ALL: [Self; 2] = [Self::Movable, Self::Pinned];
}

/// Sizes of places: every multiple of 16 up to 1 KiB, then those of [`Class`], and above them whole slices
/// up to a block.
///
/// Short ones are finer than the heap's classes, because what each size leaves half empty is moved together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) enum Size {
    /// So many times 16 bytes.
    Short(u8),
    /// A size class.
    Class(u8),
    /// One object of that many slices.
    Slices(u8),
}

impl Size {
    /// The places that an object of `size` bytes goes into. `None`: more than a block.
    pub fn of(size: usize, align: usize) -> Result<Option<Self>, MovableError> {
        if !align.is_power_of_two() || align > SLICE_BYTES {
            return Err(MovableError::Alignment { asked: align, most: SLICE_BYTES });
        }
        if size > BLOCK_BYTES {
            return Ok(None);
        }
        // A multiple of 16 that is one of the alignment too, since both begin on a slice.
        let short = size.max(1).next_multiple_of(align.max(ALIGN_MIN));
        if short <= SHORT_MAX {
            return Ok(Some(Self::Short((short / ALIGN_MIN) as u8)));
        }
        if size <= SLAB_OBJECT_MAX
            && let Some(class) = Class::aligned(size, align)
        {
            return Ok(Some(Self::Class(class.0)));
        }
        Ok(Some(Self::Slices(size.div_ceil(SLICE_BYTES) as u8)))
    }

    pub fn bytes(self) -> usize {
        match self {
            Self::Short(sixteens) => usize::from(sixteens) * ALIGN_MIN,
            Self::Class(class) => Class(class).size(),
            Self::Slices(count) => usize::from(count) * SLICE_BYTES,
        }
    }

    /// Slices of a slab, and places in it.
    pub fn shape(self) -> (u32, u32) {
        match self {
            Self::Short(_) => (1, (SLICE_BYTES / self.bytes()) as u32),
            Self::Class(class) => {
                let shape = Class(class).shape();
                (shape.slices, shape.objects)
            }
            Self::Slices(count) => (u32::from(count), 1),
        }
    }
}

/// The longest of the short ones.
const SHORT_MAX: usize = 1024;

const _: () = assert!(SLICES <= u8::MAX as u32 && SHORT_MAX / ALIGN_MIN <= u8::MAX as usize);

/// Whose objects a slab holds, of what size, at which end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub(super) struct Bin {
    pub owner: u16,
    pub size: Size,
    pub zone: Zone,
}

/// Something for each bin.
pub(super) type ByBin<T> = HashMap<Bin, T, BuildHasherDefault<BinHasher>>;

/// Hashes a bin, for every object that is made or freed: in a few cycles, since there are not many, and nobody gains from
/// bins that collide.
#[derive(Default)]
pub(super) struct BinHasher(u64);

impl Hasher for BinHasher {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }
    fn write_u16(&mut self, number: u16) {
        self.write_u64(u64::from(number));
    }
    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64); // which variant
    }
    fn write_u64(&mut self, number: u64) {
        // Fibonacci hashing (Knuth, The Art of Computer Programming 3, 6.4).
        self.0 = (self.0.rotate_left(16) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn finish(&self) -> u64 {
        // The table takes bits of both ends, of which the upper ones are the better ones.
        self.0 ^ self.0 >> 32
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Slab {
    pub run: Slices,
    pub bin: Bin,
    /// Bytes of a place.
    pub size: u32,
    /// How many there are, and how many are taken.
    pub places: u32,
    pub taken: u32,
    /// Whether the store has it among those with room.
    pub listed: bool,
    /// Bit i: place i is taken.
    bits: Box<[u64]>,
    /// Which object stands in each place, or is about to.
    objects: Box<[u32]>,
}

impl Slab {
    pub fn new(run: Slices, bin: Bin) -> Self {
        let (slices, places) = bin.size.shape();
        debug_assert_eq!(slices, run.count);
        Self {
            run,
            bin,
            size: bin.size.bytes() as u32,
            places,
            taken: 0,
            listed: false,
            bits: vec![0; places.div_ceil(64) as usize].into(),
            objects: vec![0; places as usize].into(),
        }
    }

    fn start(&self) -> u64 {
        u64::from(self.run.slice()) * SLICE_BYTES as u64
    }

    /// Where a place is.
    pub fn offset(&self, place: u32) -> Offset {
        Offset::of_bytes(self.start() + u64::from(place) * u64::from(self.size))
    }

    /// Whether an offset is of a place in it.
    pub fn holds(&self, at: Offset) -> bool {
        let bytes = u64::from(self.run.count) * SLICE_BYTES as u64;
        (at.bytes() as u64).wrapping_sub(self.start()) < bytes
    }

    /// The place that an offset is of.
    pub fn place(&self, at: Offset) -> u32 {
        (at.bytes() as u64 - self.start()) as u32 / self.size // less than a block
    }

    /// The lowest free place.
    pub fn lowest_free(&self) -> Option<u32> {
        self.next_free(0)
    }

    /// The lowest free place, of those from one on.
    pub fn next_free(&self, from: u32) -> Option<u32> {
        if self.taken == self.places {
            return None;
        }
        let mut word = from as usize / 64;
        let mut free = !self.bits.get(word)? & (u64::MAX << (from % 64));
        while free == 0 {
            word += 1;
            free = !*self.bits.get(word)?;
        }
        let place = word as u32 * 64 + free.trailing_zeros();
        (place < self.places).then_some(place)
    }

    pub fn is_taken(&self, place: u32) -> bool {
        self.bits[place as usize / 64] >> (place % 64) & 1 == 1
    }

    /// Puts an object into a free place.
    pub fn take(&mut self, place: u32, index: u32) {
        debug_assert!(place < self.places && !self.is_taken(place));
        self.bits[place as usize / 64] |= 1 << (place % 64);
        self.objects[place as usize] = index;
        self.taken += 1;
    }

    /// Frees a place.
    pub fn give(&mut self, place: u32) {
        debug_assert!(self.is_taken(place));
        self.bits[place as usize / 64] &= !(1 << (place % 64));
        self.taken -= 1;
    }

    /// The lowest place that is taken, of those from one on, and the object there.
    pub fn next_taken(&self, from: u32) -> Option<(u32, u32)> {
        let mut word = from as usize / 64;
        let mut bits = self.bits.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.bits.get(word)?;
        }
        let place = word as u32 * 64 + bits.trailing_zeros();
        Some((place, self.objects[place as usize]))
    }

    /// The places that are taken, and by which objects.
    pub fn iter_taken(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        core::iter::successors(self.next_taken(0), |(place, _)| self.next_taken(place + 1))
    }

    /// Checks the count of taken places.
    pub fn validate(&self) -> Result<(), &'static str> {
        let bits: u32 = self.bits.iter().map(|bits| bits.count_ones()).sum();
        let beyond = (self.places..self.bits.len() as u32 * 64).any(|place| self.is_taken(place));
        if bits != self.taken || beyond {
            return Err("a slab miscounts its places");
        }
        Ok(())
    }
}
