//! Runs inside one word: 64 blocks, bit 0 the lowest.
//!
//! A table says where runs *begin*: bit i of `heads` is set where a run of any kind does, and of
//! `free` where that run is free. Free runs are maximal, so the head after a free one is never
//! free. Where the last run of a word ends is not to be seen here: in a later word, or at the end
//! of the table. If it is free it is called *open*, and its length is passed in.

/// How many blocks a word describes.
pub(super) const BLOCKS: u32 = u64::BITS;
/// Binary logarithm of [`BLOCKS`].
pub(super) const SHIFT: u32 = BLOCKS.trailing_zeros();

const _: () = assert!(1 << SHIFT == BLOCKS);

/// The blocks of this word that belong to free runs that begin in it.
///
/// Adding 1 to the block after each free head carries through the blocks that are no heads, up to
/// the next head: the bits that the carry changed are the rest of the run.
const fn filled(heads: u64, free: u64) -> u64 {
    let inner = !heads;
    free | ((inner.wrapping_add(free << 1) ^ inner) & inner)
}

/// The positions from which on `k` bits of `bits` are set without a gap.
pub(crate) const fn starts(mut bits: u64, k: u32) -> u64 {
    if k > BLOCKS {
        return 0;
    }
    let mut have = 1; // each set bit stands for this many set bits from it on
    while have < k {
        let step = if have < k - have { have } else { k - have };
        bits &= bits >> step;
        have += step;
    }
    bits
}

/// Length of the longest gapless sequence of set bits.
pub(crate) const fn longest(bits: u64) -> u32 {
    // Doubling: `of[i]` has the positions from which on 2^i bits are set.
    let mut of = [bits; SHIFT as usize + 1];
    let mut i = 0;
    while i < SHIFT as usize {
        of[i + 1] = of[i] & (of[i] >> (1 << i));
        i += 1;
    }
    // Then the length, binary digit by digit: `here` has the positions from which on `length`
    // bits are set, moved on by `length`.
    let mut here = u64::MAX;
    let mut length = 0;
    loop {
        if here & of[i] != 0 {
            length += 1 << i;
            if length == BLOCKS {
                return length;
            }
            here = (here & of[i]) << (1 << i);
        }
        if i == 0 {
            return length;
        }
        i -= 1;
    }
}

/// The position of the open run's head, if the last run of the word is free.
const fn open_head(heads: u64, free: u64) -> Option<u32> {
    match free.checked_ilog2() {
        Some(last) if heads >> last == 1 => Some(last),
        _ => None,
    }
}

/// One word, as far as searches look at it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word {
    /// Where runs begin.
    pub heads: u64,
    /// Where free runs begin; a subset of `heads`.
    pub free: u64,
}

impl Word {
    /// Whether the last run is free, so that the other methods need its length.
    pub const fn is_open(self) -> bool {
        open_head(self.heads, self.free).is_some()
    }

    /// The blocks of the free runs that begin and end in this word.
    fn closed(self) -> u64 {
        let open = open_head(self.heads, self.free).map_or(0, |head| 1 << head);
        filled(self.heads, self.free & !open)
    }

    /// Length of the longest free run that begins in this word; the open run has `open` blocks.
    pub fn longest(self, open: u32) -> u32 {
        longest(self.closed()).max(open)
    }

    /// The head of the lowest free run of at least `k` blocks, among those at or above `from`.
    pub fn lowest(self, k: u32, open: u32, from: u32) -> Option<u32> {
        let inside = starts(self.closed(), k) & self.free & (u64::MAX << from);
        if inside != 0 {
            return Some(inside.trailing_zeros());
        }
        open_head(self.heads, self.free).filter(|&head| open >= k && head >= from)
    }

    /// The head of the highest free run of at least `k` blocks.
    pub fn highest(self, k: u32, open: u32) -> Option<u32> {
        let head = open_head(self.heads, self.free);
        if head.is_some() && open >= k {
            return head;
        }
        let fits = starts(self.closed(), k) & self.free;
        fits.checked_ilog2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Heads as in a table: free runs are maximal. Returns the word and the free runs in it, the
    /// open one with its true length, which `beyond` scales: it may end with the table, within.
    fn word(cuts: u64, kinds: u64, beyond: u32) -> (Word, Vec<(u32, u32)>, u32) {
        let mut heads = 0u64;
        let mut free = 0u64;
        let mut last_free = false;
        for i in 0..BLOCKS {
            if cuts >> i & 1 == 1 {
                let is_free = kinds >> i & 1 == 1 && !last_free;
                heads |= 1 << i;
                free |= u64::from(is_free) << i;
                last_free = is_free;
            }
        }
        let mut runs = Vec::new();
        let mut open = 0;
        for i in (0..BLOCKS).filter(|i| free >> i & 1 == 1) {
            let end = (i + 1..BLOCKS).find(|j| heads >> j & 1 == 1);
            let len = end.map_or(1 + beyond, |end| end - i);
            if end.is_none() {
                open = len;
            }
            runs.push((i, len));
        }
        (Word { heads, free }, runs, open)
    }

    proptest! {
        #[test]
        fn searches_agree_with_a_list_of_runs(
            cuts: u64, thin: u64, sparse: bool, kinds: u64, beyond in 0u32..200, from in 0u32..64,
        ) {
            let cuts = if sparse { cuts & thin } else { cuts };
            let (word, runs, open) = word(cuts, kinds, beyond);
            let longest = runs.iter().map(|r| r.1).max().unwrap_or(0);
            prop_assert_eq!(word.longest(open), longest);
            prop_assert_eq!(word.is_open(), open > 0);
            for k in 1..=BLOCKS + 3 {
                let fits = || runs.iter().filter(|r| r.1 >= k).map(|r| r.0);
                prop_assert_eq!(word.lowest(k, open, from), fits().find(|&h| h >= from), "k {}", k);
                prop_assert_eq!(word.highest(k, open), fits().next_back(), "k {}", k);
            }
        }
    }

    #[test]
    fn a_word_of_one_free_run_is_open_and_as_long_as_told() {
        let word = Word { heads: 1, free: 1 };
        assert_eq!(word.longest(64), 64);
        assert_eq!(word.lowest(1000, 1000, 0), Some(0));
        assert_eq!(word.highest(1001, 1000), None);
        assert_eq!(Word { heads: 0, free: 0 }.longest(0), 0);
        assert_eq!(Word { heads: 1 << 63, free: 1 << 63 }.longest(1), 1);
    }
}
