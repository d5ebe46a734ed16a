//! Bits of several lanes with a tree above them, so that the next or previous set bit is found in
//! as many steps as the table has powers of 64.
//!
//! Level 0 has the bits themselves, 64 to a word; a bit of level l + 1 says that the word it stands
//! for on level l is not zero. The words of all lanes for the same 64 positions lie side by side,
//! so that "the next bit of any lane" reads the same cache line as "the next bit of this lane".

use crate::os::{Array, Errno, Os};

/// 64^6 positions are more than 32 bits can number.
const LEVELS: usize = 6;
const _: () = assert!(64u64.pow(LEVELS as u32) > u32::MAX as u64);

/// `LANES` sets of positions below a bound.
#[derive(Debug)]
pub(super) struct Bitmaps<const LANES: usize, O: Os> {
    words: Array<u64, O>,
    /// Where in `words` each level starts, in groups of `LANES` words.
    starts: [usize; LEVELS],
    height: usize,
}

impl<const LANES: usize, O: Os> Bitmaps<LANES, O> {
    /// Empty sets of positions below `bound`.
    pub fn new(os: O, bound: u32) -> Result<Self, Errno> {
        let mut starts = [0; LEVELS];
        let (mut height, mut groups, mut bits) = (0, 0, bound as usize);
        while height == 0 || bits > 1 {
            starts[height] = groups;
            bits = bits.div_ceil(64).max(1);
            groups += bits + 1; // and one of zeros, so that a search may step beyond the last
            height += 1;
        }
        Ok(Self { words: Array::new(os, groups * LANES)?, starts, height })
    }

    /// Says that the positions from `64 * group` on will be looked at soon.
    #[inline]
    pub fn prefetch(&self, group: u32) {
        self.words.prefetch(group as usize * LANES);
    }

    /// The 64 positions from `64 * group` on in one lane.
    pub fn word(&self, lane: usize, group: u32) -> u64 {
        self.words[group as usize * LANES + lane]
    }

    /// The same of all lanes together.
    pub fn any(&self, group: u32) -> u64 {
        self.read::<true>(0, 0, group as usize)
    }

    /// Whether a position is in a lane.
    pub fn has(&self, lane: usize, at: u32) -> bool {
        self.word(lane, at / 64) >> (at % 64) & 1 == 1
    }

    /// Adds a position to a lane.
    pub fn set(&mut self, lane: usize, at: u32) {
        let mut bit = at as usize;
        for level in 0..self.height {
            let word = &mut self.words[(self.starts[level] + bit / 64) * LANES + lane];
            let before = *word;
            *word |= 1 << (bit % 64);
            if before != 0 {
                return; // the levels above know
            }
            bit /= 64;
        }
    }

    /// Takes a position out of a lane.
    pub fn clear(&mut self, lane: usize, at: u32) {
        let mut bit = at as usize;
        for level in 0..self.height {
            let word = &mut self.words[(self.starts[level] + bit / 64) * LANES + lane];
            *word &= !(1 << (bit % 64));
            if *word != 0 {
                return;
            }
            bit /= 64;
        }
    }

    /// The lowest lane that a position is in.
    pub fn lane_of(&self, at: u32) -> Option<usize> {
        let first = at as usize / 64 * LANES;
        self.words[first..first + LANES].iter().position(|word| word >> (at % 64) & 1 == 1)
    }

    /// The lowest position of a lane at or above `from`, which may be the bound but no more.
    pub fn next(&self, lane: usize, from: u32) -> Option<u32> {
        self.ascend::<false>(lane, from)
    }

    /// The lowest position of any lane at or above `from`, which may be the bound but no more.
    pub fn next_any(&self, from: u32) -> Option<u32> {
        self.ascend::<true>(0, from)
    }

    /// The highest position of a lane at or below `from`.
    pub fn previous(&self, lane: usize, from: u32) -> Option<u32> {
        self.descend::<false>(lane, from)
    }

    /// The highest position of any lane at or below `from`.
    pub fn previous_any(&self, from: u32) -> Option<u32> {
        self.descend::<true>(0, from)
    }

    #[inline]
    fn read<const ANY: bool>(&self, lane: usize, level: usize, word: usize) -> u64 {
        let first = (self.starts[level] + word) * LANES;
        if ANY {
            self.words[first..first + LANES].iter().fold(0, |all, word| all | word)
        } else {
            self.words[first + lane]
        }
    }

    /// How many words a level has.
    fn words_on(&self, level: usize) -> usize {
        let end =
            if level + 1 < self.height { self.starts[level + 1] } else { self.words.len() / LANES };
        end - self.starts[level] - 1
    }

    #[inline]
    fn ascend<const ANY: bool>(&self, lane: usize, from: u32) -> Option<u32> {
        let mut bit = from as usize;
        for level in 0..self.height {
            let word = self.read::<ANY>(lane, level, bit / 64) & (u64::MAX << (bit % 64));
            if word != 0 {
                let mut found = (bit & !63) + word.trailing_zeros() as usize;
                for below in (0..level).rev() {
                    let word = self.read::<ANY>(lane, below, found);
                    found = found * 64 + word.trailing_zeros() as usize;
                }
                return Some(found as u32);
            }
            bit = bit / 64 + 1; // the words after this one
        }
        None
    }

    #[inline]
    fn descend<const ANY: bool>(&self, lane: usize, from: u32) -> Option<u32> {
        let mut bit = from as usize;
        for level in 0..self.height {
            let word = self.read::<ANY>(lane, level, bit / 64) & (u64::MAX >> (63 - bit % 64));
            if let Some(highest) = word.checked_ilog2() {
                let mut found = (bit & !63) + highest as usize;
                for below in (0..level).rev() {
                    let word = self.read::<ANY>(lane, below, found);
                    found = found * 64 + word.ilog2() as usize;
                }
                return Some(found as u32);
            }
            bit = (bit / 64).checked_sub(1)?; // the words before this one
        }
        None
    }

    /// Recomputes every level from the one below it; returns what disagrees.
    pub fn validate(&self) -> Result<(), BadBitmap> {
        for level in 1..self.height {
            for lane in 0..LANES {
                for bit in 0..self.words_on(level - 1) {
                    let below = self.read::<false>(lane, level - 1, bit) != 0;
                    let here = self.read::<false>(lane, level, bit / 64) >> (bit % 64) & 1 == 1;
                    if below != here {
                        return Err(BadBitmap { lane, level, bit });
                    }
                }
            }
        }
        Ok(())
    }
}

/// A bit that does not say what stands below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct BadBitmap {
    pub lane: usize,
    pub level: usize,
    pub bit: usize,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::os::Linux;

    proptest! {
        #[test]
        fn searches_agree_with_ordered_sets(
            bound in 1u32..20_000,
            steps in prop::collection::vec((0usize..2, any::<bool>(), any::<u32>()), 0..200),
        ) {
            let mut bitmaps = Bitmaps::<2, _>::new(Linux, bound).unwrap();
            let mut sets = [BTreeSet::new(), BTreeSet::new()];
            for (lane, add, at) in steps {
                let at = at % bound;
                if add {
                    bitmaps.set(lane, at);
                    sets[lane].insert(at);
                } else {
                    // Half of the time something that is there.
                    let at = *sets[lane].range(at..).next().unwrap_or(&at);
                    bitmaps.clear(lane, at);
                    sets[lane].remove(&at);
                }
                prop_assert_eq!(bitmaps.validate(), Ok(()));
                for from in [at, at / 2, bound - 1 - at] {
                    let all: BTreeSet<u32> = sets[0].union(&sets[1]).copied().collect();
                    let next = sets[lane].range(from..).next().copied();
                    prop_assert_eq!(bitmaps.next(lane, from), next);
                    prop_assert_eq!(bitmaps.next_any(from), all.range(from..).next().copied());
                    let previous = sets[lane].range(..=from).next_back().copied();
                    prop_assert_eq!(bitmaps.previous(lane, from), previous);
                    let previous = all.range(..=from).next_back().copied();
                    prop_assert_eq!(bitmaps.previous_any(from), previous);
                }
            }
        }
    }

    #[test]
    fn the_largest_bound_has_as_many_levels_as_there_are_places_for() {
        let mut bitmaps = Bitmaps::<1, _>::new(Linux, u32::MAX).unwrap();
        assert_eq!(bitmaps.height, LEVELS);
        bitmaps.set(0, u32::MAX - 1);
        assert_eq!(bitmaps.next(0, 0), Some(u32::MAX - 1));
        assert_eq!(bitmaps.next(0, u32::MAX), None);
        assert_eq!(bitmaps.previous(0, u32::MAX - 2), None);
    }
}
