//! What a device takes.

use core::fmt;

use crate::units::Bytes;

/// A power of two that addresses and lengths must be multiples of.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alignment {
    shift: u8,
}

impl Alignment {
    /// No demand.
    pub const BYTE: Self = Self { shift: 0 };
    /// 512 bytes, the least that O_DIRECT has ever taken.
    pub const SECTOR: Self = Self { shift: 9 };

    /// A multiple of `bytes`; `None` where that is no power of two.
    pub const fn from_bytes(bytes: Bytes) -> Option<Self> {
        if bytes.get().is_power_of_two() {
            Some(Self { shift: bytes.get().trailing_zeros() as u8 })
        } else {
            None
        }
    }

    /// In bytes.
    pub const fn bytes(self) -> Bytes {
        Bytes::new(1 << self.shift)
    }

    /// Whether `n` (an address or a length) is a multiple of it.
    pub(super) const fn divides(self, n: u64) -> bool {
        n & ((1 << self.shift) - 1) == 0
    }

    /// `n` rounded down to a multiple of it.
    pub(super) const fn round_down(self, n: u64) -> u64 {
        n & !((1 << self.shift) - 1)
    }
}

impl Default for Alignment {
    fn default() -> Self {
        Self::BYTE
    }
}

impl fmt::Debug for Alignment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alignment({})", self.bytes())
    }
}

/// What a device takes in one list. The default is: anything.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Entries at most.
    pub max_entries: Option<usize>,
    /// Bytes an entry at most. Rounded down to a multiple of `alignment`.
    pub max_entry_bytes: Option<Bytes>,
    /// What the address (virtual, and physical where known) and the length of every entry are
    /// multiples of.
    pub alignment: Alignment,
}

impl Limits {
    /// Anything goes.
    pub const NONE: Self =
        Self { max_entries: None, max_entry_bytes: None, alignment: Alignment::BYTE };

    /// readv(2), writev(2) and their kin: 1,024 entries (`IOV_MAX`).
    pub const IOVEC: Self = Self { max_entries: Some(1024), ..Self::NONE };
}
