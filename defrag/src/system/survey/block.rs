//! A block of 2 MiB in four bytes: its class, how many pages stand in its way, and what the worst of
//! them is.

use serde::Serialize;

use super::kinds::Kind;

/// What could become of a block, best first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Class {
    /// Wholly free.
    Free,
    /// Only pages that can be moved, if none of them is pinned.
    Recoverable,
    /// The same and slab, which goes if its caches can be shrunk that far.
    Slab,
    /// Something stands in it that cannot be moved.
    Blocked,
    /// In use as huge pages, in part at least, and otherwise movable.
    Hugetlb,
    /// Offline, in part at least, and otherwise movable.
    Offline,
    /// No memory at all.
    Absent,
}

impl Class {
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
    /// All, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Free,
        Self::Recoverable,
        Self::Slab,
        Self::Blocked,
        Self::Hugetlb,
        Self::Offline,
        Self::Absent,
    ];

    /// Its number, for tables.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// In words.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Recoverable => "recoverable",
            Self::Slab => "recoverable by shrinking slab",
            Self::Blocked => "blocked",
            Self::Hugetlb => "hugetlb",
            Self::Offline => "offline",
            Self::Absent => "absent",
        }
    }
}

/// How many pages of each kind.
pub type Pages = [u64; Kind::COUNT];

/// A block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// class: 3 bits, worst kind: 4, free pages: 12, blockers: 12, a mark: 1,
    /// lowest bits first. The mark tells of a blocked block that it is [lone](Block::is_lone), of a
    /// recoverable one that it is [hot](Block::is_hot).
    word: u32,
}

const MARK: u32 = 1 << 31;
const COUNT_BITS: u32 = 12;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;
const _: () = assert!(Class::COUNT <= 8 && Kind::COUNT <= 16);

impl Block {
    /// No memory at all.
    pub const ABSENT: Self = Self { word: Class::Absent as u32 | (Kind::Absent as u32) << 3 };

    /// The block with these pages.
    pub fn new(pages: &Pages) -> Self {
        let blockers: u64 = blockers(pages).map(|(_, count)| count).sum();
        let worst = blockers_by_count(pages).unwrap_or(Kind::Free);
        let class = class(pages, blockers);
        let alone = blockers == pages[Kind::Kernel.index()] && pages[Kind::Hugetlb.index()] == 0;
        let lone = class == Class::Blocked && alone;
        let free = pages[Kind::Free.index()].min(COUNT_MAX) as u32;
        let blockers = blockers.min(COUNT_MAX) as u32;
        let word = class as u32
            | (worst as u32) << 3
            | free << 7
            | blockers << (7 + COUNT_BITS)
            | if lone { MARK } else { 0 };
        Self { word }
    }

    /// What could become of it.
    pub fn class(self) -> Class {
        // `new` and `from_word` let no other number in.
        Class::ALL.get((self.word & 7) as usize).copied().unwrap_or(Class::Blocked)
    }

    /// How many pages stand in the way.
    pub const fn blockers(self) -> u32 {
        self.word >> (7 + COUNT_BITS) & COUNT_MAX as u32
    }

    /// Whether nothing stands in the way but pages without flags, which may lie free in per-CPU
    /// lists.
    pub fn is_lone(self) -> bool {
        self.word & MARK != 0 && self.class() == Class::Blocked
    }

    /// Whether it can be emptied, but a single page of a file fills it, and one in frequent use:
    /// compaction moves no page as large as those it makes, and reclaim takes colder ones first.
    pub fn is_hot(self) -> bool {
        self.word & MARK != 0 && self.class() == Class::Recoverable
    }

    /// The same block, of which it is known that a single page of a file that is in frequent use
    /// fills it.
    pub(in crate::system) fn heated(self) -> Self {
        let mark = if self.class() == Class::Recoverable { MARK } else { 0 };
        Self { word: self.word | mark }
    }

    /// The same block, once it is known that its pages without flags are free.
    pub(super) fn settled(self) -> Self {
        Self { word: self.word & !7 & !MARK | Class::Recoverable as u32 }
    }

    /// The most frequent kind of them; `Free` where there are none.
    pub fn worst(self) -> Kind {
        Kind::from_number((self.word >> 3 & 15) as u8).unwrap_or(Kind::Kernel)
    }

    /// How many pages are free.
    pub const fn free(self) -> u32 {
        self.word >> 7 & COUNT_MAX as u32
    }

    /// As a number, for files.
    pub const fn to_word(self) -> u32 {
        self.word
    }

    /// From a file; `None` for a number that is no block.
    pub fn from_word(word: u32) -> Option<Self> {
        let class = (word & 7) as usize;
        let kind = (word >> 3 & 15) as u8;
        let known = class < Class::COUNT && Kind::from_number(kind).is_some();
        known.then_some(Self { word })
    }
}

fn blockers(pages: &Pages) -> impl Iterator<Item = (Kind, u64)> {
    let kinds = Kind::ALL.into_iter().filter(|kind| kind.is_blocker());
    kinds.map(|kind| (kind, pages[kind.index()])).filter(|&(_, count)| count > 0)
}

fn blockers_by_count(pages: &Pages) -> Option<Kind> {
    blockers(pages).max_by_key(|&(_, count)| count).map(|(kind, _)| kind)
}

fn class(pages: &Pages, blockers: u64) -> Class {
    let of = |kind: Kind| pages[kind.index()];
    let total: u64 = pages.iter().sum();
    if of(Kind::Absent) == total {
        Class::Absent
    } else if blockers == 0 && of(Kind::Hugetlb) > 0 {
        Class::Hugetlb
    } else if blockers == 0 && of(Kind::Free) == total {
        Class::Free
    } else if blockers == 0 {
        Class::Recoverable
    } else if blockers == of(Kind::Slab) && of(Kind::Hugetlb) == 0 {
        Class::Slab
    } else if blockers == of(Kind::Offline) {
        Class::Offline
    } else {
        Class::Blocked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(pages: &[(Kind, u64)]) -> Block {
        let mut counts = [0; Kind::COUNT];
        for &(kind, count) in pages {
            counts[kind.index()] += count;
        }
        Block::new(&counts)
    }

    #[test]
    fn a_block_is_as_good_as_its_worst_page() {
        for (pages, class, blockers, worst) in [
            (&[(Kind::Free, 512u64)] as &[_], Class::Free, 0, Kind::Free),
            (
                &[(Kind::Free, 1), (Kind::File, 510), (Kind::Locked, 1)],
                Class::Recoverable,
                0,
                Kind::Free,
            ),
            (&[(Kind::File, 500), (Kind::Slab, 12)], Class::Slab, 12, Kind::Slab),
            (&[(Kind::Slab, 500), (Kind::PageTable, 12)], Class::Blocked, 512, Kind::Slab),
            (&[(Kind::Free, 511), (Kind::Kernel, 1)], Class::Blocked, 1, Kind::Kernel),
            (&[(Kind::Hugetlb, 512)], Class::Hugetlb, 0, Kind::Free),
            (&[(Kind::Offline, 512)], Class::Offline, 512, Kind::Offline),
            (&[(Kind::Absent, 512)], Class::Absent, 512, Kind::Absent),
            (&[(Kind::Absent, 1), (Kind::Free, 511)], Class::Blocked, 1, Kind::Absent),
        ] {
            let block = block(pages);
            assert_eq!((block.class(), block.blockers(), block.worst()), (class, blockers, worst));
        }
        assert_eq!(block(&[(Kind::Free, 7), (Kind::File, 505)]).free(), 7);
        assert_eq!(block(&[(Kind::Absent, 1)]).class(), Block::ABSENT.class());
    }

    #[test]
    fn words_read_back_and_strange_ones_do_not() {
        let one = block(&[(Kind::File, 3), (Kind::PageTable, 509)]);
        assert_eq!(Block::from_word(one.to_word()), Some(one));
        assert_eq!(Block::from_word(7), None);
        assert_eq!(Block::from_word(15 << 3), None);
    }

    #[test]
    fn only_pages_without_flags_may_turn_out_to_be_free() {
        let lone = block(&[(Kind::File, 511), (Kind::Kernel, 1)]);
        assert!(lone.is_lone() && lone.settled().class() == Class::Recoverable);
        assert!(!lone.settled().is_lone());
        for other in [Kind::PageTable, Kind::Slab, Kind::Hugetlb] {
            assert!(!block(&[(other, 1), (Kind::Kernel, 1)]).is_lone());
        }
        assert!(!block(&[(Kind::File, 512)]).is_lone());
        assert!(!lone.settled().is_hot());
    }

    #[test]
    fn only_what_can_be_emptied_is_hot() {
        let file = block(&[(Kind::File, 512)]);
        assert!(file.heated().is_hot() && !file.is_hot() && !file.heated().is_lone());
        assert_eq!((file.heated().class(), file.heated().blockers()), (Class::Recoverable, 0));
        assert!(!block(&[(Kind::File, 511), (Kind::Slab, 1)]).heated().is_hot());
    }

    #[test]
    fn blocks_of_large_base_pages_and_of_gigantic_counts_do_not_wrap() {
        assert_eq!(block(&[(Kind::Kernel, 1 << 20)]).blockers(), 4095);
        assert_eq!(block(&[(Kind::Free, 32)]).free(), 32);
    }
}
