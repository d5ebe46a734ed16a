//! Free runs by their length, so that one which fits is found at once.

use bookend::units::{BlockId, BlockRange, Blocks};

/// Up to that length each has a list of its own.
const EXACT: u32 = 64;
/// Beyond, each power of two has so many.
const PARTS: u32 = 8;
const LISTS: usize = (EXACT + (32 - EXACT.ilog2()) * PARTS) as usize;
const WORDS: usize = LISTS.div_ceil(64);

/// Free runs, in lists by length.
#[derive(Debug)]
pub(super) struct FreeRuns {
    lists: Vec<Vec<BlockRange>>,
    /// A bit for each list that has something in it.
    some: [u64; WORDS],
}

/// The list that a length belongs to; never falls as lengths grow.
const fn list_of(len: u32) -> usize {
    if len < EXACT {
        return len as usize;
    }
    let power = len.ilog2();
    let part = len >> (power - PARTS.ilog2()) & (PARTS - 1);
    (EXACT + (power - EXACT.ilog2()) * PARTS + part) as usize
}

const _: () = assert!(list_of(u32::MAX) == LISTS - 1);
const _: () = assert!(list_of(EXACT - 1) + 1 == list_of(EXACT));

impl FreeRuns {
    /// Of runs given lowest first. Those of a length are taken in this order.
    pub fn new(runs: &[BlockRange]) -> Self {
        let mut free = Self { lists: vec![Vec::new(); LISTS], some: [0; WORDS] };
        runs.iter().rev().for_each(|&run| free.add(run));
        free
    }

    /// Adds a run, which is taken before others of its length.
    pub fn add(&mut self, run: BlockRange) {
        if run.is_empty() {
            return;
        }
        let list = list_of(run.len().get());
        self.lists[list].push(run);
        self.some[list / 64] |= 1 << (list % 64);
    }

    /// Takes `len` blocks, from a run that is hardly longer if there is one.
    pub fn take(&mut self, len: Blocks) -> Option<BlockId> {
        let (list, at) = self.find(len)?;
        let runs = &mut self.lists[list];
        let run = if at + 1 == runs.len() { runs.pop()? } else { runs.swap_remove(at) };
        if runs.is_empty() {
            self.some[list / 64] &= !(1 << (list % 64));
        }
        self.add(BlockRange::new(run.start() + len, run.len() - len));
        Some(run.start())
    }

    fn find(&self, len: Blocks) -> Option<(usize, usize)> {
        let own = list_of(len.get());
        let fits = |run: &BlockRange| run.len() >= len;
        if let Some(at) = self.lists[own].iter().rposition(fits) {
            return Some((own, at));
        }
        let list = self.next(own + 1)?;
        Some((list, self.lists[list].len() - 1))
    }

    /// The first list from one on that has something in it.
    fn next(&self, from: usize) -> Option<usize> {
        let mut mask = u64::MAX << (from % 64);
        (from / 64..WORDS).find_map(|word| {
            let some = self.some[word] & mask;
            mask = u64::MAX;
            (some != 0).then(|| word * 64 + some.trailing_zeros() as usize)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::range;
    use super::*;

    #[test]
    fn every_length_is_found_in_the_tightest_run() {
        let runs = [range(0, 3), range(10, 70), range(100, 3), range(200, 65), range(300, 1)];
        let mut free = FreeRuns::new(&runs);
        let mut take = |len| free.take(Blocks::new(len)).map(BlockId::get);
        assert_eq!(
            [take(3), take(2), take(66), take(65)],
            [Some(0), Some(100), Some(10), Some(200)]
        );
        // What is left: one block each at 102 and 300, four at 76.
        assert_eq!(
            [take(1), take(1), take(5), take(4), take(1)],
            [Some(102), Some(300), None, Some(76), None]
        );
    }

    #[test]
    fn longer_runs_are_in_later_lists() {
        let lengths = (1..2000).chain([u32::MAX / 3, u32::MAX / 2, u32::MAX]);
        let lists: Vec<_> = lengths.map(list_of).collect();
        assert!(lists.is_sorted() && lists.iter().all(|&list| list < LISTS));
    }
}
