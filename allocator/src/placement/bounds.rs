//! Where a search need not look: bounds that earlier searches have proved.
//!
//! A first fit goes over the same low words again and again, and finds them as full as before. A
//! [`Bound`] remembers, for each power of two, a word below which no free run of that length
//! begins. A search begins there and may raise it; a new free run lowers it. So a search climbs as
//! far as its answer is from that of the one before, instead of through the whole tree: what makes
//! it nearly as fast in a large table as in a small one.
//!
//! Bounds never change what is found.

use super::word;

/// For each c, a word below which no free run of at least 2^c blocks begins; never falling with c.
///
/// For searches from the high end the words are counted from there.
#[derive(Debug)]
struct Bound([u32; u32::BITS as usize]);

impl Bound {
    const fn at(word: u32) -> Self {
        Self([word; u32::BITS as usize])
    }

    /// No run of at least `k` begins below this word.
    fn start(&self, k: u32) -> u32 {
        self.0[k.ilog2() as usize]
    }

    /// A search has seen that no run of at least `k` begins below `word`.
    fn raise(&mut self, k: u32, word: u32) {
        let enough = u32::BITS - (k - 1).leading_zeros(); // 2^enough is k, or the power above
        for bound in self.0.iter_mut().skip(enough as usize) {
            if *bound >= word {
                return;
            }
            *bound = word;
        }
    }

    /// A run of `len` begins in `word` now.
    #[inline]
    fn lower(&mut self, len: u32, word: u32) {
        for bound in self.0[..=len.ilog2() as usize].iter_mut().rev() {
            if *bound <= word {
                return;
            }
            *bound = word;
        }
    }
}

/// The bounds of a table.
#[derive(Debug)]
pub(super) struct Bounds {
    low: Bound,
    /// Words counted down from the last one.
    high: Bound,
    last: u32,
    /// For searches that begin at or above `above`; what begins below that block is not in it.
    upper: Bound,
    above: u32,
}

impl Bounds {
    /// Of a table whose last word is `last`.
    pub const fn new(last: u32) -> Self {
        Self { low: Bound::at(0), high: Bound::at(0), last, upper: Bound::at(0), above: 0 }
    }

    /// The lowest word that a run of at least `k` may begin in.
    pub fn lowest(&self, k: u32) -> u32 {
        self.low.start(k)
    }

    /// The highest word that a run of at least `k` may begin in.
    pub fn highest(&self, k: u32) -> u32 {
        self.last - self.high.start(k)
    }

    /// The lowest word in which a run of at least `k` may begin, at or above block `from`; 0 where
    /// nothing is known.
    pub fn lowest_above(&self, from: u32, k: u32) -> u32 {
        if from >= self.above { self.upper.start(k) } else { 0 }
    }

    /// The lowest run of at least `k` begins in `word`.
    pub fn found_lowest(&mut self, k: u32, word: u32) {
        self.low.raise(k, word);
    }

    /// The highest run of at least `k` begins in `word`.
    pub fn found_highest(&mut self, k: u32, word: u32) {
        self.high.raise(k, self.last - word);
    }

    /// Among the runs that begin at or above block `from`, the lowest of at least `k` begins in
    /// `word`.
    pub fn found_above(&mut self, from: u32, k: u32, word: u32) {
        let from_word = from >> word::SHIFT;
        if from < self.above {
            self.above = from;
            self.upper = Bound::at(from_word);
        } else if from > self.above && self.upper.start(k) <= from_word {
            // What begins between `above` and `from` is unknown: leave it out from now on.
            self.above = from;
            self.upper.0.iter_mut().for_each(|bound| *bound = from_word.max(*bound));
        }
        self.upper.raise(k, word);
    }

    /// A free run of `len` begins in `word` now.
    #[inline]
    pub fn came(&mut self, len: u32, word: u32) {
        self.low.lower(len, word);
        self.high.lower(len, self.last - word);
        if word >= self.above >> word::SHIFT {
            self.upper.lower(len, word);
        }
    }

    /// Whether a free run of `len` at block `head`, in `word`, is where it may be.
    pub fn allow(&self, len: u32, head: u32, word: u32) -> bool {
        self.lowest(len) <= word
            && word <= self.highest(len)
            && (head < self.above || self.upper.start(len) <= word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_raises_the_bounds_of_lengths_that_it_covers_and_a_new_run_lowers_them() {
        let mut bounds = Bounds::new(100);
        bounds.found_lowest(5, 40); // proves nothing about runs of 4
        assert_eq!([1, 4, 7, 8, 1000].map(|k| bounds.lowest(k)), [0, 0, 0, 40, 40]);
        bounds.found_lowest(4, 30);
        assert_eq!([3, 4, 7, 8].map(|k| bounds.lowest(k)), [0, 30, 30, 40]);
        bounds.came(9, 20);
        assert_eq!([3, 4, 8, 15, 16].map(|k| bounds.lowest(k)), [0, 20, 20, 20, 40]);
        bounds.found_highest(1, 60);
        assert_eq!(bounds.highest(u32::MAX), 60);
        bounds.came(2, 70);
        assert_eq!([1, 2, 3, 4].map(|k| bounds.highest(k)), [70, 70, 70, 60]);
    }

    #[test]
    fn a_bound_above_a_block_follows_it_up_and_is_forgotten_below() {
        let mut bounds = Bounds::new(100);
        bounds.found_above(640, 1, 20);
        assert_eq!(bounds.lowest_above(640, 1), 20);
        assert_eq!(bounds.lowest_above(700, 1), 20);
        assert_eq!(bounds.lowest_above(639, 1), 0);
        bounds.came(1, 3); // below, so it does not count
        assert_eq!(bounds.lowest_above(640, 1), 20);
        bounds.came(1, 15);
        assert_eq!(bounds.lowest_above(640, 1), 15);
        bounds.found_above(64 * 17, 1, 18); // passes over the run in word 15
        assert_eq!(bounds.lowest_above(64 * 17, 1), 18);
        assert_eq!(bounds.lowest_above(640, 1), 0);
    }
}
