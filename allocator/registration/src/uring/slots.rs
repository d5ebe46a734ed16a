//! Which slots of a ring's table are free.

/// A set of slots, taken in runs, lowest first.
#[derive(Debug)]
pub(super) struct Slots {
    taken: Vec<bool>,
    free: usize,
}

impl Slots {
    pub fn new(count: usize) -> Self {
        Self { taken: vec![false; count], free: count }
    }

    pub fn count(&self) -> usize {
        self.taken.len()
    }

    pub fn free(&self) -> usize {
        self.free
    }

    /// The lowest run of `count` free slots.
    pub fn take(&mut self, count: usize) -> Option<u32> {
        let mut run = 0;
        let end = self.taken.iter().position(|&taken| {
            run = if taken { 0 } else { run + 1 };
            run == count
        })?;
        let first = end + 1 - count;
        self.taken[first..=end].fill(true);
        self.free -= count;
        Some(first as u32)
    }

    pub fn give(&mut self, first: u32, count: usize) {
        let given = &mut self.taken[first as usize..][..count];
        debug_assert!(given.iter().all(|&taken| taken), "slots are given back once");
        given.fill(false);
        self.free += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_whole_and_lowest_first() {
        let mut slots = Slots::new(8);
        assert_eq!((slots.take(3), slots.take(2), slots.take(4)), (Some(0), Some(3), None));
        slots.give(0, 3);
        assert_eq!((slots.take(4), slots.free()), (None, 6), "six are free, but not in one run");
        assert_eq!((slots.take(2), slots.take(1), slots.take(3)), (Some(0), Some(2), Some(5)));
        assert_eq!((slots.free(), slots.take(1), slots.count()), (0, None, 8));
    }
}
