//! Mappings by address: cut, replaced and looked up as the kernel does with its VMAs.

use std::collections::BTreeMap;

use crate::units::{Node, PageSize};

/// A file, by device and inode number: every descriptor of it has them.
pub(super) type FileId = (u64, u64);

/// What a mapping is of.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Reserved,
    Anonymous,
    Huge(PageSize),
    /// From that offset of the file, which is of hugetlb pages where a size is given.
    File(FileId, u64, Option<PageSize>),
}

impl What {
    /// The size of its hugetlb pages.
    pub(super) fn hugetlb(self) -> Option<PageSize> {
        match self {
            Self::Huge(page) => Some(page),
            Self::File(_, _, page) => page,
            Self::Reserved | Self::Anonymous => None,
        }
    }
}

/// A mapping, or the part of one that lies in a range that was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) what: What,
    /// Whether transparent huge pages are wanted; `None` where no advice was given.
    pub(super) wants_huge: Option<bool>,
    pub(super) node: Option<Node>,
}

impl Mapping {
    /// The part of it within a range.
    fn clip(mut self, start: usize, end: usize) -> Self {
        if start > self.start {
            if let What::File(_, offset, _) = &mut self.what {
                *offset += (start - self.start) as u64;
            }
            self.start = start;
        }
        self.end = self.end.min(end);
        self
    }
}

/// All mappings of the simulated process; no two overlap.
#[derive(Default, Debug)]
pub(super) struct Mappings(BTreeMap<usize, Mapping>);

impl Mappings {
    pub(super) fn insert(&mut self, mapping: Mapping) {
        self.0.insert(mapping.start, mapping);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Mapping> {
        self.0.values()
    }

    pub(super) fn at(&self, address: usize) -> Option<Mapping> {
        let (_, mapping) = self.0.range(..=address).next_back()?;
        (address < mapping.end).then_some(*mapping)
    }

    /// The parts of mappings that lie in a range.
    pub(super) fn within(&self, start: usize, end: usize) -> Vec<Mapping> {
        let overlapping = self.0.range(..end).rev().take_while(|(_, m)| m.end > start);
        let mut parts: Vec<_> = overlapping.map(|(_, m)| m.clip(start, end)).collect();
        parts.reverse();
        parts
    }

    /// Whether the range is mapped without a gap.
    pub(super) fn cover(&self, start: usize, end: usize) -> bool {
        self.within(start, end).iter().map(|m| m.end - m.start).sum::<usize>() == end - start
    }

    /// Takes the range out, cutting what it lies across.
    pub(super) fn remove(&mut self, start: usize, end: usize) {
        let cut: Vec<_> =
            self.0.range(..end).rev().take_while(|(_, m)| m.end > start).map(|(_, m)| *m).collect();
        for mapping in cut {
            self.0.remove(&mapping.start);
            if mapping.start < start {
                self.insert(mapping.clip(mapping.start, start));
            }
            if mapping.end > end {
                self.insert(mapping.clip(end, mapping.end));
            }
        }
    }

    /// Changes a range, cutting what it lies across.
    pub(super) fn change(&mut self, start: usize, end: usize, change: impl Fn(&mut Mapping)) {
        let parts = self.within(start, end);
        self.remove(start, end);
        for mut part in parts {
            change(&mut part);
            self.insert(part);
        }
    }

    /// Whether a cut at either end of the range would go through a hugetlb page.
    pub(super) fn cuts_a_page(&self, start: usize, end: usize) -> bool {
        [start, end].into_iter().any(|cut| {
            self.at(cut).is_some_and(|mapping| {
                let page = mapping.what.hugetlb().map_or(1, |page| page.bytes().as_usize());
                cut > mapping.start && !(cut).is_multiple_of(page)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: usize, end: usize, offset: u64) -> Mapping {
        Mapping { start, end, what: What::File((0, 0), offset, None), wants_huge: None, node: None }
    }

    fn shown(mappings: &Mappings) -> Vec<(usize, usize, u64)> {
        let shown = |m: &Mapping| match m.what {
            What::File(_, offset, _) => (m.start, m.end, offset),
            _ => unreachable!("only files are mapped here"),
        };
        mappings.iter().map(shown).collect()
    }

    #[test]
    fn a_hole_cuts_a_mapping_and_keeps_offsets() {
        let mut mappings = Mappings::default();
        mappings.insert(mapping(100, 200, 1000));
        mappings.remove(120, 150);
        assert_eq!(shown(&mappings), [(100, 120, 1000), (150, 200, 1050)]);
        assert!(mappings.cover(100, 120) && !mappings.cover(100, 121));
        assert!(mappings.at(120).is_none() && mappings.at(150).is_some());
    }

    #[test]
    fn a_change_touches_its_range_alone() {
        let mut mappings = Mappings::default();
        mappings.insert(mapping(0, 100, 0));
        mappings.insert(mapping(100, 200, 7));
        mappings.change(50, 150, |m| m.wants_huge = Some(true));
        assert_eq!(shown(&mappings), [(0, 50, 0), (50, 100, 50), (100, 150, 7), (150, 200, 57)]);
        let wanted: Vec<_> = mappings.iter().map(|m| m.wants_huge.is_some()).collect();
        assert_eq!(wanted, [false, true, true, false]);
    }
}
