//! A tree of maxima: the lowest or highest leaf that holds at least `k`, in logarithmic time.
//!
//! Each node holds the largest value of the 16 below it: one cache line, compared whole. A change
//! of a leaf goes up only as far as it changes a maximum.

use crate::os::{Array, Errno, Os};

/// Children of a node; 16 values of 4 bytes are one cache line.
const FAN_OUT: usize = 16;
const SHIFT: u32 = FAN_OUT.trailing_zeros();
const _: () = assert!(FAN_OUT.is_power_of_two() && FAN_OUT * size_of::<u32>() == 64);

/// 16^8 leaves are more than 32 bits can number.
const LEVELS: usize = 8;

/// One value a leaf, all zero at first.
#[derive(Debug)]
pub(super) struct MaxTree<O: Os> {
    values: Array<u32, O>,
    /// Where in `values` each level starts; every level is padded to whole nodes, so that a node is
    /// one cache line.
    starts: [usize; LEVELS],
    height: usize,
}

impl<O: Os> MaxTree<O> {
    /// A tree of `leaves` zeros.
    pub fn new(os: O, leaves: u32) -> Result<Self, Errno> {
        let mut starts = [0; LEVELS];
        let (mut height, mut total, mut width) = (0, 0, leaves as usize);
        loop {
            starts[height] = total;
            let nodes = width.div_ceil(FAN_OUT).max(1);
            total += nodes * FAN_OUT;
            height += 1;
            if nodes == 1 {
                break;
            }
            width = nodes;
        }
        Ok(Self { values: Array::new(os, total)?, starts, height })
    }

    /// Says that a leaf, and what stands above it, will be looked at soon.
    #[inline]
    pub fn prefetch(&self, leaf: u32) {
        self.values.prefetch(leaf as usize);
        if self.height > 1 {
            self.values.prefetch(self.starts[1] + (leaf as usize >> SHIFT));
        }
    }

    /// The value of a leaf.
    pub fn get(&self, leaf: u32) -> u32 {
        self.values[leaf as usize]
    }

    /// The largest value.
    pub fn max(&self) -> u32 {
        maximum(self.node(self.height - 1, 0))
    }

    /// Gives a leaf a value.
    pub fn set(&mut self, leaf: u32, value: u32) {
        let (mut at, mut value) = (leaf as usize, value);
        for level in 0..self.height {
            let slot = &mut self.values[self.starts[level] + at];
            let before = core::mem::replace(slot, value);
            if before == value || level + 1 == self.height {
                return;
            }
            at >>= SHIFT;
            let above = self.values[self.starts[level + 1] + at];
            if value > before {
                value = value.max(above);
            } else if before == above {
                value = maximum(self.node(level, at));
            } else {
                return; // another one was the maximum, and is
            }
        }
    }

    /// The lowest leaf at or above `from` whose value is at least `k`, which is not zero.
    pub fn lowest(&self, k: u32, from: u32) -> Option<u32> {
        let mut at = from as usize;
        for level in 0..self.height {
            let node = at >> SHIFT;
            if self.starts[level] + at >= self.end(level) {
                return None;
            }
            let fits = at_least(self.node(level, node), k) & (u32::MAX << (at % FAN_OUT));
            if fits != 0 {
                return Some(self.down(level, node * FAN_OUT + fits.trailing_zeros() as usize, k));
            }
            at = node + 1;
        }
        None
    }

    /// The lowest leaf below a node whose value is at least `k`.
    #[inline]
    fn down(&self, level: usize, node: usize, k: u32) -> u32 {
        let mut found = node;
        for below in (0..level).rev() {
            let fits = at_least(self.node(below, found), k);
            found = found * FAN_OUT + fits.trailing_zeros() as usize;
        }
        found as u32
    }

    /// The highest leaf at or below `from` whose value is at least `k`, which is not zero.
    pub fn highest(&self, k: u32, from: u32) -> Option<u32> {
        let mut at = from as usize;
        for level in 0..self.height {
            let fits = at_least(self.node(level, at >> SHIFT), k)
                & (u32::MAX >> (u32::BITS as usize - 1 - at % FAN_OUT));
            if let Some(highest) = fits.checked_ilog2() {
                let mut found = (at & !(FAN_OUT - 1)) + highest as usize;
                for below in (0..level).rev() {
                    let fits = at_least(self.node(below, found), k);
                    found = found * FAN_OUT + fits.ilog2() as usize;
                }
                return Some(found as u32);
            }
            at = (at >> SHIFT).checked_sub(1)?;
        }
        None
    }

    fn end(&self, level: usize) -> usize {
        if level + 1 < self.height { self.starts[level + 1] } else { self.values.len() }
    }

    #[inline]
    fn node(&self, level: usize, node: usize) -> &[u32; FAN_OUT] {
        let first = self.starts[level] + node * FAN_OUT;
        self.values[first..first + FAN_OUT].as_array().expect("a node has FAN_OUT values")
    }

    /// Recomputes every level from the one below it; returns level and index of what disagrees.
    pub fn validate(&self) -> Result<(), (usize, usize)> {
        for level in 1..self.height {
            let nodes = (self.starts[level] - self.starts[level - 1]) / FAN_OUT;
            for node in 0..self.end(level) - self.starts[level] {
                let below = if node < nodes { maximum(self.node(level - 1, node)) } else { 0 };
                if self.values[self.starts[level] + node] != below {
                    return Err((level, node));
                }
            }
        }
        Ok(())
    }
}

/// The largest of a node's values.
#[inline]
fn maximum(node: &[u32; FAN_OUT]) -> u32 {
    node.iter().fold(0, |max, &value| max.max(value))
}

/// Bit i: whether value i is at least `k`. In the form that becomes vector code: each comparison
/// selects its bit, and the bits are put together.
#[inline]
fn at_least(node: &[u32; FAN_OUT], k: u32) -> u32 {
    const BITS: [u32; FAN_OUT] = {
        let mut bits = [0; FAN_OUT];
        let mut i = 0;
        while i < FAN_OUT {
            bits[i] = 1 << i;
            i += 1;
        }
        bits
    };
    node.iter().zip(BITS).fold(0, |fits, (&value, bit)| fits | if value >= k { bit } else { 0 })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::os::Linux;

    proptest! {
        #[test]
        fn searches_agree_with_a_scan(
            leaves in 1u32..6_000,
            steps in prop::collection::vec((any::<u32>(), 0u32..40), 0..150),
        ) {
            let mut tree = MaxTree::new(Linux, leaves).unwrap();
            let mut flat = vec![0u32; leaves as usize];
            for (leaf, value) in steps {
                let leaf = leaf % leaves;
                tree.set(leaf, value);
                flat[leaf as usize] = value;
                prop_assert_eq!(tree.validate(), Ok(()));
                prop_assert_eq!(tree.get(leaf), value);
                prop_assert_eq!(tree.max(), flat.iter().copied().max().unwrap());
                for k in [1, value.max(1), value + 1] {
                    for from in [0, leaf, leaf / 2] {
                        let scan = (from..leaves).find(|&i| flat[i as usize] >= k);
                        prop_assert_eq!(tree.lowest(k, from), scan);
                        let scan = (0..=from).rev().find(|&i| flat[i as usize] >= k);
                        prop_assert_eq!(tree.highest(k, from), scan);
                    }
                    let scan = (0..leaves).rev().find(|&i| flat[i as usize] >= k);
                    prop_assert_eq!(tree.highest(k, leaves - 1), scan);
                }
            }
        }
    }

    #[test]
    fn the_largest_tree_has_as_many_levels_as_there_are_places_for() {
        let mut tree = MaxTree::new(Linux, u32::MAX / 64 + 1).unwrap();
        assert!(tree.height <= LEVELS);
        tree.set(u32::MAX / 64, 9);
        assert_eq!(
            (tree.lowest(9, 0), tree.highest(9, u32::MAX / 64)),
            (Some(u32::MAX / 64), Some(u32::MAX / 64))
        );
        assert_eq!((tree.lowest(10, 0), tree.highest(10, u32::MAX / 64)), (None, None));
    }
}
