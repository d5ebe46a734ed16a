//! How an object's word and a handle's hint are packed.
//!
//! ```text
//! word  | 1 unused | offset: 40 bits | pins: 16 bits | flags: 7 bits |
//! hint  | stamp, low 17 bits | address: 43 bits | stamp, high 4 bits, where an address has zeros |
//! ```
//!
//! An offset counts units of 16 bytes from the pool's base, so a heap reaches over 16 TiB. The address
//! stands in a hint as it is; turned left by 17 bits, a hint has the stamp at its low end and the number
//! of the block at its high end.

use crate::units::{BLOCK_SHIFT, BlockId, Bytes};

/// Binary logarithm of the unit that offsets count.
pub(super) const UNIT_SHIFT: u32 = 4;
const OFFSET_BITS: u32 = 40;
/// Addresses of user space, which are multiples of the unit.
const ADDRESS_BITS: u32 = 47;
const ADDRESS_MASK: u64 = (1 << ADDRESS_BITS) - (1 << UNIT_SHIFT);
const STAMP_BITS: u32 = u64::BITS - ADDRESS_BITS + UNIT_SHIFT;
/// Bits above the address.
const TURN: u32 = u64::BITS - ADDRESS_BITS;
const PIN_SHIFT: u32 = 7;
const PIN_BITS: u32 = 16;
const OFFSET_SHIFT: u32 = PIN_SHIFT + PIN_BITS;
const _: () = assert!(OFFSET_SHIFT + OFFSET_BITS <= u64::BITS);

/// The longest pool that offsets reach over.
pub(super) const REACH: Bytes = Bytes::new(1 << (OFFSET_BITS + UNIT_SHIFT));

/// There is an object.
pub(super) const LIVE: u64 = 1;
/// The mover has it: nobody else may touch it, whoever wants to waits.
pub(super) const COPYING: u64 = 1 << 1;
/// Somebody has got its address while its block was being emptied: not to be moved in this round.
pub(super) const KEEP: u64 = 1 << 2;
/// Its owner has isolated it, and will be told when that is over: not to be freed before.
pub(super) const HELD: u64 = 1 << 3;
/// Its owner has freed it while it was copied or held: the mover ends it.
pub(super) const DOOMED: u64 = 1 << 4;
/// Somebody waits while it is copied: a long copy is given up for that.
pub(super) const WANTED: u64 = 1 << 5;
/// As [`KEEP`], by a session that could have waited, and has for long enough.
pub(super) const LATE: u64 = 1 << 6;
/// One pin.
pub(super) const PIN: u64 = 1 << PIN_SHIFT;
const PINS: u64 = ((1 << PIN_BITS) - 1) << PIN_SHIFT;
/// How many pins one object can have at a time. The rest of the bits is for threads that have added
/// one and not yet seen that it is too many: each for the time of two operations.
pub(super) const PINS_MAX: u32 = (1 << (PIN_BITS - 1)) - 1;

/// Where an object stands: units of 16 bytes from the pool's base.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Offset(u64);

impl Offset {
    /// That many bytes from the base; a multiple of the unit.
    pub const fn of_bytes(bytes: u64) -> Self {
        debug_assert!(bytes.is_multiple_of(1 << UNIT_SHIFT) && bytes < REACH.get());
        Self(bytes >> UNIT_SHIFT)
    }

    pub const fn bytes(self) -> usize {
        (self.0 << UNIT_SHIFT) as usize
    }

    pub const fn block(self) -> BlockId {
        BlockId::new((self.0 >> (BLOCK_SHIFT - UNIT_SHIFT)) as u32)
    }
}

/// An object's word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Word(pub u64);

impl Word {
    /// No object.
    pub const DEAD: Self = Self(0);

    /// An object at rest.
    pub const fn live(at: Offset) -> Self {
        Self(LIVE | at.0 << OFFSET_SHIFT)
    }

    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    pub const fn with(self, flags: u64) -> Self {
        Self(self.0 | flags)
    }

    pub const fn without(self, flags: u64) -> Self {
        Self(self.0 & !flags)
    }

    pub const fn pins(self) -> u32 {
        ((self.0 & PINS) >> PIN_SHIFT) as u32
    }

    /// One pin more; there must be room for it.
    pub const fn pinned(self) -> Self {
        debug_assert!(self.pins() < PINS_MAX);
        Self(self.0 + PIN)
    }

    pub const fn offset(self) -> Offset {
        Offset(self.0 >> OFFSET_SHIFT)
    }

    /// The same, standing elsewhere.
    pub const fn moved_to(self, at: Offset) -> Self {
        Self(self.0 & ((1 << OFFSET_SHIFT) - 1) | at.0 << OFFSET_SHIFT)
    }
}

/// Where an object was seen, and its block's stamp at that time. The address comes out by one operation,
/// since everything that is read at it waits for that.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Hint(pub u64);

impl Hint {
    /// For an object of a heap that begins at `base`. Where the stamp is one that no hint has, or there
    /// is none, the hint is one of the base itself that matches no stamp: [`next_stamp`] leaves out
    /// that of all ones. No hint has an odd stamp: in a block that is being emptied a session has to
    /// say KEEP.
    pub fn new(base: u64, at: Offset, stamp: Option<u32>) -> Self {
        let stamp = stamp.filter(|&stamp| !is_odd(stamp));
        match stamp.map(u64::from).filter(|&stamp| stamp < STAMP_MASK) {
            Some(stamp) => Self::pack(base + at.bytes() as u64, stamp),
            None => Self::pack(base, STAMP_MASK),
        }
    }

    const fn pack(address: u64, stamp: u64) -> Self {
        debug_assert!(address & !ADDRESS_MASK == 0);
        Self((address >> UNIT_SHIFT << STAMP_BITS | stamp).rotate_right(TURN))
    }

    #[inline(always)]
    const fn turned(self) -> u64 {
        self.0.rotate_left(TURN)
    }

    #[inline(always)]
    pub const fn address(self) -> u64 {
        self.0 & ADDRESS_MASK
    }

    #[inline(always)]
    pub const fn stamp(self) -> u32 {
        (self.turned() & STAMP_MASK) as u32
    }

    /// The block, in a heap that begins with block `first` of the address space.
    #[inline(always)]
    pub const fn block(self, first: usize) -> usize {
        (self.turned() >> (BLOCK_SHIFT + TURN)) as usize - first
    }
}

/// The number of the block that begins at an address, counted from address 0.
pub(super) const fn first_block(base: u64) -> usize {
    debug_assert!(base.is_multiple_of(1 << BLOCK_SHIFT));
    (base >> BLOCK_SHIFT) as usize
}

/// Whether a heap can stand there: addresses of 128 TiB, which is all of user space unless a program
/// asks for more by name.
pub(super) const fn is_reachable(base: u64, len: Bytes) -> bool {
    base + len.get() <= 1 << ADDRESS_BITS && len.get() <= REACH.get()
}

const STAMP_MASK: u64 = (1 << STAMP_BITS) - 1;

/// The stamp after this one. Odd while a block is being emptied. Those that no hint can have come
/// last and are used again and again: nothing relies on their being new but hints.
pub(super) const fn next_stamp(stamp: u32) -> u32 {
    match stamp.wrapping_add(1) {
        0 => u32::MAX - 1,
        next if next as u64 == STAMP_MASK => STAMP_MASK as u32 + 2,
        next => next,
    }
}

/// Whether a stamp is that of a block that is being emptied.
#[inline(always)]
pub(super) const fn is_odd(stamp: u32) -> bool {
    stamp & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_keeps_its_parts_apart() {
        let at = Offset::of_bytes(REACH.get() - 16);
        let mut word = Word::live(at);
        for pins in 0..PINS_MAX {
            assert_eq!((word.pins(), word.offset(), word.has(LIVE)), (pins, at, true));
            word = word.pinned();
        }
        assert_eq!(word.without(LIVE).offset(), at);
        let low = Offset::of_bytes(48);
        assert_eq!((word.moved_to(low).offset(), word.moved_to(low).pins()), (low, PINS_MAX));
    }

    #[test]
    fn stamps_alternate_and_no_hint_matches_one_that_is_odd_or_was_used_before() {
        const BASE: u64 = 0x7F12_3460_0000;
        let none = Hint::new(BASE, Offset::of_bytes(64), None);
        assert_eq!((none.block(first_block(BASE)), none.address()), (0, BASE));
        for from in [0, STAMP_MASK as u32 - 5, u32::MAX - 5] {
            let mut stamp = from & !1;
            for _ in 0..8 {
                let next = next_stamp(stamp);
                assert_eq!(is_odd(next), !is_odd(stamp), "{stamp:#x}");
                assert_ne!(none.stamp(), next);
                stamp = next;
            }
        }
        let late = Hint::new(BASE, Offset::of_bytes(64), Some(u32::MAX - 1));
        assert_eq!(late, none, "the last ones are those that no hint has");
        for odd in [1, 7, 0x1234B, STAMP_MASK as u32 - 2] {
            assert_eq!(Hint::new(BASE, Offset::of_bytes(64), Some(odd)), none, "{odd:#x}");
        }
        for stamp in [0, 6, 0x1234A, STAMP_MASK as u32 - 1] {
            let hint = Hint::new(BASE, Offset::of_bytes((9 << 21) + 4080), Some(stamp));
            assert_eq!((hint.address(), hint.stamp()), (BASE + (9 << 21) + 4080, stamp));
            assert_eq!(hint.block(first_block(BASE)), 9);
        }
    }
}
