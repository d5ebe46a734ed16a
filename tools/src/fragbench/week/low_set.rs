//! A set of numbers below a bound of which the lowest is asked for: bits, and above each word of them a bit
//! that says whether any is set.

/// See the [module](self).
#[derive(Debug)]
pub struct LowSet {
    /// The bits themselves first. The last level is one word.
    levels: Vec<Vec<u64>>,
}

impl LowSet {
    /// An empty set of numbers below `bound`.
    pub fn new(bound: usize) -> Self {
        let mut levels = vec![vec![0; bound.div_ceil(64).max(1)]];
        while let Some(words) = levels.last().map(Vec::len).filter(|&words| words > 1) {
            levels.push(vec![0; words.div_ceil(64)]);
        }
        Self { levels }
    }

    /// The lowest number.
    pub fn first(&self) -> Option<usize> {
        let mut at = 0;
        for level in self.levels.iter().rev() {
            let word = level[at];
            if word == 0 {
                return None; // of the last level, since no bit above an empty word is set
            }
            at = at * 64 + word.trailing_zeros() as usize;
        }
        Some(at)
    }

    /// Adds a number.
    pub fn insert(&mut self, number: usize) {
        let mut at = number;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            let before = *word;
            *word |= 1 << (at % 64);
            if before != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// Takes a number out.
    pub fn remove(&mut self, number: usize) {
        let mut at = number;
        for level in &mut self.levels {
            let word = &mut level[at / 64];
            *word &= !(1 << (at % 64));
            if *word != 0 {
                return;
            }
            at /= 64;
        }
    }

    /// Whether a number is in it.
    #[cfg(test)]
    pub fn contains(&self, number: usize) -> bool {
        self.levels[0][number / 64] >> (number % 64) & 1 == 1
    }

    /// The numbers, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        let words = self.levels[0].iter().enumerate();
        words.flat_map(|(at, &word)| {
            let some = |word: u64| (word != 0).then_some(word);
            let bits = core::iter::successors(some(word), move |word| some(word & (word - 1)));
            bits.map(move |word| at * 64 + word.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_agrees_with_an_ordered_set(
            bound in 1usize..20_000,
            steps in prop::collection::vec((any::<bool>(), any::<usize>()), 0..300),
        ) {
            let (mut set, mut model) = (LowSet::new(bound), BTreeSet::new());
            for (add, number) in steps {
                let number = number % bound;
                if add {
                    set.insert(number);
                    model.insert(number);
                } else {
                    // Half of the time one that is there.
                    let number = model.range(number..).next().copied().unwrap_or(number);
                    set.remove(number);
                    model.remove(&number);
                }
                prop_assert_eq!(set.first(), model.first().copied());
                prop_assert_eq!(set.contains(number), model.contains(&number));
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
        }
    }
}
