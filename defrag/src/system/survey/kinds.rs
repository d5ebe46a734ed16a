//! What a page is, from its word in `/proc/kpageflags`.
//!
//! Bits are those of include/uapi/linux/kernel-page-flags.h, and from 32 on of the kernel's own
//! fs/proc/page.c. No bit says "unmovable", so a page is judged by what it is: free pages and those
//! on the LRU lists can be got out of the way, all others stand where they are. Three things the
//! flags do not tell, so that figures from here are bounds and not counts:
//!
//! - whether a page on the LRU lists is pinned (it then stands as fast as a kernel page);
//! - whether a slab page belongs to a cache that can be shrunk;
//! - whether a page without any flag is the kernel's or lies free in a per-CPU list.

use std::fmt;

use serde::Serialize;

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Kind {
    /// In the buddy allocator.
    Free,
    /// A page of a file: can be moved, or written back and dropped.
    File,
    /// Anonymous or shared memory: can be moved.
    Anon,
    /// Locked in memory (mlock): can be moved where `compact_unevictable_allowed` says so.
    Locked,
    /// Of a hugetlb page.
    Hugetlb,
    /// Of a slab: goes if its objects are freed.
    Slab,
    /// A page table.
    PageTable,
    /// Any other page of the kernel or a driver; some lie free in per-CPU lists.
    Kernel,
    /// Taken at boot.
    Reserved,
    /// Broken memory.
    Poisoned,
    /// Memory that is offline, or given back to a hypervisor.
    Offline,
    /// No memory at that address.
    Absent,
}

const LOCKED: u64 = 1 << 0;
const UPTODATE: u64 = 1 << 3;
const LRU: u64 = 1 << 5;
const ACTIVE: u64 = 1 << 6;
const SLAB: u64 = 1 << 7;
const WRITEBACK: u64 = 1 << 8;
const BUDDY: u64 = 1 << 10;
const ANON: u64 = 1 << 12;
const SWAPBACKED: u64 = 1 << 14;
const COMPOUND_HEAD: u64 = 1 << 15;
const COMPOUND_TAIL: u64 = 1 << 16;
const HUGE: u64 = 1 << 17;
const UNEVICTABLE: u64 = 1 << 18;
const HWPOISON: u64 = 1 << 19;
const NOPAGE: u64 = 1 << 20;
const OFFLINE: u64 = 1 << 23;
const PGTABLE: u64 = 1 << 26;
const RESERVED: u64 = 1 << 32;
const MLOCKED: u64 = 1 << 33;

/// Whether a page is the first of a compound page of a file that is in frequent use.
pub(super) fn is_hot_head(flags: u64) -> bool {
    let is_active = flags & ACTIVE != 0 && flags & COMPOUND_HEAD != 0;
    is_active && Kind::of(flags, Kind::Kernel) == Kind::File
}

/// Whether a page is a later one of a compound page.
pub(super) const fn is_tail(flags: u64) -> bool {
    flags & COMPOUND_TAIL != 0
}

/// Flags that alone decide, in this order.
const DECISIVE: [(u64, Kind); 8] = [
    (NOPAGE, Kind::Absent),
    (HWPOISON, Kind::Poisoned),
    (OFFLINE, Kind::Offline),
    (BUDDY, Kind::Free),
    (HUGE, Kind::Hugetlb),
    (SLAB, Kind::Slab),
    (PGTABLE, Kind::PageTable),
    (RESERVED, Kind::Reserved),
];

impl Kind {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// All, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Free,
        Self::File,
        Self::Anon,
        Self::Locked,
        Self::Hugetlb,
        Self::Slab,
        Self::PageTable,
        Self::Kernel,
        Self::Reserved,
        Self::Poisoned,
        Self::Offline,
        Self::Absent,
    ];

    /// The kind of a page with these flags; `before` is that of the page in front of it, which the
    /// tail of a compound page shares on kernels that flag the head alone.
    #[inline]
    pub fn of(flags: u64, before: Self) -> Self {
        // Nine pages in ten of a machine in use are one of these two.
        if flags & BUDDY != 0 {
            return Self::Free;
        }
        if flags & (LRU | HUGE | NOPAGE | HWPOISON | OFFLINE) == LRU {
            return Self::of_lru(flags);
        }
        Self::of_rare(flags, before)
    }

    fn of_lru(flags: u64) -> Self {
        if flags & (UNEVICTABLE | MLOCKED) != 0 {
            Self::Locked
        } else if flags & (ANON | SWAPBACKED) != 0 {
            Self::Anon
        } else {
            Self::File
        }
    }

    #[cold]
    fn of_rare(flags: u64, before: Self) -> Self {
        let decided = DECISIVE.iter().find(|(bit, _)| flags & bit != 0);
        if let Some(&(_, kind)) = decided {
            return kind;
        }
        let movable = matches!(before, Self::File | Self::Anon | Self::Locked);
        if flags & COMPOUND_TAIL != 0 && movable {
            return before;
        }
        // On its way to the LRU lists, or taken off them for a moment.
        if flags & (ANON | SWAPBACKED | UPTODATE | WRITEBACK) != 0 {
            return Self::of_lru(flags);
        }
        Self::Kernel
    }

    /// The kind of that number.
    pub fn from_number(n: u8) -> Option<Self> {
        Self::ALL.get(usize::from(n)).copied()
    }

    /// Its number, for tables.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether the kernel can get it out of the way, free ones included.
    pub const fn is_movable(self) -> bool {
        matches!(self, Self::Free | Self::File | Self::Anon | Self::Locked)
    }

    /// Whether it keeps a block from being freed, whatever its owner is.
    pub const fn is_blocker(self) -> bool {
        !self.is_movable() && !matches!(self, Self::Hugetlb)
    }

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::File => "files",
            Self::Anon => "anonymous",
            Self::Locked => "locked",
            Self::Hugetlb => "hugetlb",
            Self::Slab => "slab",
            Self::PageTable => "page tables",
            Self::Kernel => "kernel",
            Self::Reserved => "reserved at boot",
            Self::Poisoned => "broken",
            Self::Offline => "offline",
            Self::Absent => "absent",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

const _: () = {
    let mut n = 0;
    while n < Kind::COUNT {
        assert!(Kind::ALL[n] as usize == n, "ALL is in the order of the numbers");
        n += 1;
    }
    assert!(LOCKED == 1, "bits count from the lowest");
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_what_their_flags_say() {
        for (flags, kind) in [
            (BUDDY, Kind::Free),
            (LRU | UPTODATE, Kind::File),
            (LRU | ANON | SWAPBACKED, Kind::Anon),
            (LRU | SWAPBACKED, Kind::Anon),
            (LRU | UNEVICTABLE | MLOCKED | ANON, Kind::Locked),
            (HUGE | LRU, Kind::Hugetlb),
            (SLAB, Kind::Slab),
            (PGTABLE, Kind::PageTable),
            (RESERVED, Kind::Reserved),
            (OFFLINE, Kind::Offline),
            (HWPOISON | LRU, Kind::Poisoned),
            (NOPAGE, Kind::Absent),
            (0, Kind::Kernel),
            (UPTODATE, Kind::File),
            (ANON | SWAPBACKED | UPTODATE, Kind::Anon),
        ] {
            assert_eq!(Kind::of(flags, Kind::Kernel), kind, "{flags:#x}");
        }
    }

    #[test]
    fn tails_without_flags_are_what_their_head_is() {
        assert_eq!(Kind::of(COMPOUND_TAIL, Kind::Anon), Kind::Anon);
        assert_eq!(Kind::of(COMPOUND_TAIL, Kind::Kernel), Kind::Kernel);
        assert_eq!(Kind::of(COMPOUND_TAIL, Kind::Slab), Kind::Kernel);
        assert_eq!(Kind::of(COMPOUND_TAIL | SLAB, Kind::Slab), Kind::Slab);
        assert_eq!(Kind::of(0, Kind::Anon), Kind::Kernel, "not a tail");
    }

    #[test]
    fn every_kind_is_movable_a_blocker_or_a_huge_page() {
        for kind in Kind::ALL {
            let classes = [kind.is_movable(), kind.is_blocker(), kind == Kind::Hugetlb];
            assert_eq!(classes.iter().filter(|&&yes| yes).count(), 1, "{kind}");
        }
    }
}
