//! The ladder: which page sizes a pool may stand on.

use crate::units::PageSize;

/// Where pages come from, smallest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Rung {
    /// Base pages.
    Base = 0,
    /// Transparent huge pages: a block that the kernel backs with one huge page of its own accord.
    Transparent = 1,
    /// hugetlb pages of 2 MiB, from the machine's pool.
    Huge = 2,
    /// hugetlb pages of 1 GiB, from the machine's pool.
    Gigantic = 3,
}

impl Rung {
    /// All rungs, the smallest pages first; a rung's discriminant is its index.
    pub const ALL: [Self; 4] = [Self::Base, Self::Transparent, Self::Huge, Self::Gigantic];

    /// Its short name in reports: `4K` (whatever the machine's base page is), `THP`, `2M`, `1G`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "4K",
            Self::Transparent => "THP",
            Self::Huge => "2M",
            Self::Gigantic => "1G",
        }
    }

    /// Size of the physically contiguous pages it gives; `base` is the machine's base page.
    pub const fn page_size(self, base: PageSize) -> PageSize {
        match self {
            Self::Base => base,
            Self::Transparent | Self::Huge => PageSize::MIB2,
            Self::Gigantic => PageSize::GIB1,
        }
    }

    /// Whether its pages come from the machine's hugetlb pool.
    pub const fn is_hugetlb(self) -> bool {
        matches!(self, Self::Huge | Self::Gigantic)
    }
}

/// Whether a pool may stand on a rung.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Use {
    /// It may not.
    Forbidden,
    /// It may, where the larger ones did not give enough.
    Allowed,
    /// The ladder does not go below it: what neither this rung nor a larger one gives is an error.
    Required,
}

/// What a pool may use of each rung.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Ladder {
    uses: [Use; Rung::ALL.len()],
}

impl Default for Ladder {
    /// Transparent huge pages, then base pages. The hugetlb rungs are forbidden until asked for:
    /// somebody reserved those pages.
    fn default() -> Self {
        Self { uses: [Use::Allowed, Use::Allowed, Use::Forbidden, Use::Forbidden] }
    }
}

impl Ladder {
    /// This ladder with another use of `rung`.
    #[must_use]
    pub const fn with(mut self, rung: Rung, r#use: Use) -> Self {
        self.uses[rung as usize] = r#use;
        self
    }

    /// Whether memory may come from `rung`: it is not forbidden and no larger one is required.
    pub fn permits(self, rung: Rung) -> bool {
        let required_above = Rung::ALL[rung as usize + 1..]
            .iter()
            .any(|&larger| self.uses[larger as usize] == Use::Required);
        self.uses[rung as usize] != Use::Forbidden && !required_above
    }

    /// The permitted rungs, the largest pages first: the order in which they are tried.
    pub fn descending(self) -> impl Iterator<Item = Rung> {
        Rung::ALL.into_iter().rev().filter(move |&rung| self.permits(rung))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discriminants_are_indices() {
        for (index, rung) in Rung::ALL.into_iter().enumerate() {
            assert_eq!(rung as usize, index);
        }
    }

    #[test]
    fn nothing_below_a_required_rung_is_permitted() {
        let ladder =
            Ladder::default().with(Rung::Gigantic, Use::Allowed).with(Rung::Huge, Use::Required);
        assert_eq!(ladder.descending().collect::<Vec<_>>(), [Rung::Gigantic, Rung::Huge]);
        let ladder = Ladder::default().with(Rung::Transparent, Use::Forbidden);
        assert_eq!(ladder.descending().collect::<Vec<_>>(), [Rung::Base]);
    }
}
