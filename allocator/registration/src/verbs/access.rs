//! Who may do what with registered memory.

use core::ops::BitOr;

/// Rights to a memory region: `enum ibv_access_flags`. The device may always read it for its own process.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug)]
pub struct Access(u32);

impl Access {
    /// Reading by work requests of this process only.
    pub const LOCAL_READ: Self = Self(0);
    /// Writing by work requests of this process.
    pub const LOCAL_WRITE: Self = Self(1);
    /// Writing by a peer that has the key; needs [`Access::LOCAL_WRITE`].
    pub const REMOTE_WRITE: Self = Self(1 << 1);
    /// Reading by a peer that has the key.
    pub const REMOTE_READ: Self = Self(1 << 2);
    /// Memory windows may be bound to it.
    pub const WINDOWS: Self = Self(1 << 4);
    /// Pages are not pinned but faulted in when the device touches them, where it can.
    pub const ON_DEMAND: Self = Self(1 << 6);

    /// As libibverbs takes it.
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// Whether it has all rights of `other`.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Access {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
