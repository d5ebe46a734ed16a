//! How an object's word is packed, and what a handle's hint holds.
//!
//! ```text
//! word  | offset: 40 bits | pins: 15 bits | flags: 9 bits |
//! ```
//!
//! An offset counts units of 16 bytes from the pool's base, so a heap reaches over 16 TiB. A hint is an
//! address and a stamp, each on its own, so that an address is used as it was loaded.

use crate::units::{BLOCK_SHIFT, BlockId, Bytes};

/// Binary logarithm of the unit that offsets count.
pub(super) const UNIT_SHIFT: u32 = 4;
const OFFSET_BITS: u32 = 40;
/// Addresses of user space.
pub(super) const ADDRESS_BITS: u32 = 47;
const PIN_SHIFT: u32 = 9;
const PIN_BITS: u32 = 15;
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
/// Its handle has another address than this word, and is counted for that.
pub(super) const STALE: u64 = 1 << 7;
/// It has no handle, but a number alone.
pub(super) const NUMBERED: u64 = 1 << 8;
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

    /// So many bytes behind it; a multiple of the unit.
    pub const fn after(self, bytes: u64) -> Self {
        debug_assert!(bytes.is_multiple_of(1 << UNIT_SHIFT));
        Self(self.0 + (bytes >> UNIT_SHIFT))
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

/// Where an object was seen, and its block's stamp at that time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Sight {
    pub address: u64,
    /// [`STAMP_NONE`], which matches none, where it does not last.
    pub stamp: u32,
}

impl Sight {
    /// Of an object of a heap that begins at `base`. It does not last where the stamp is one that no
    /// hint has, or there is none, or it is odd: in a block that is being emptied a session has to say
    /// KEEP.
    pub fn new(base: u64, at: Offset, stamp: Option<u32>) -> Self {
        let stamp = stamp.filter(|&stamp| !is_odd(stamp) && stamp < STAMP_LAST);
        Self { address: base + at.bytes() as u64, stamp: stamp.unwrap_or(STAMP_NONE) }
    }

    /// Whether the address can be told to be good by the stamp.
    pub const fn lasts(self) -> bool {
        self.stamp != STAMP_NONE
    }
}

/// Whether a heap can stand there: addresses of 128 TiB, which is all of user space unless a program
/// asks for more by name.
pub(super) const fn is_reachable(base: u64, len: Bytes) -> bool {
    base + len.get() <= 1 << ADDRESS_BITS && len.get() <= REACH.get()
}

/// That of a hint which does not last. No block has it.
pub(super) const STAMP_NONE: u32 = 1;
/// The first one that a block gets.
pub(super) const STAMP_FIRST: u32 = 2;
/// That of blocks when all others are used up. No hint has it.
pub(super) const STAMP_LAST: u32 = u32::MAX - 1;

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
    fn a_hint_lasts_only_where_its_stamp_can_be_told_from_all_others() {
        const BASE: u64 = 0x7F12_3460_0000;
        let sight = |stamp| Sight::new(BASE, Offset::of_bytes(64), stamp);
        for stamp in [None, Some(7), Some(STAMP_LAST), Some(STAMP_LAST + 1)] {
            let none = Sight { address: BASE + 64, stamp: STAMP_NONE };
            assert_eq!(sight(stamp), none, "{stamp:?}");
            assert!(!none.lasts());
        }
        for stamp in [STAMP_FIRST, 0x1234A, STAMP_LAST - 2] {
            assert_eq!(sight(Some(stamp)), Sight { address: BASE + 64, stamp });
            assert!(sight(Some(stamp)).lasts());
        }
        assert!(STAMP_FIRST > STAMP_NONE && !is_odd(STAMP_FIRST) && is_odd(STAMP_NONE));
    }
}
