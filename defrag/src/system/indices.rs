//! How broken up free memory is, by the two indices of the kernel (mm/vmstat.c).
//!
//! With free pages F, free blocks S of at least order o counted in units of order o, and B free
//! blocks of any order:
//!
//! - **unusable free index**: (F − S·2^o)/F, the share of free memory that an allocation of order o
//!   cannot use: 0 all of it can be used, 1 none.
//! - **fragmentation index**: 1 − (1 + F/2^o)/B where there is no such block: near 0 the cause is a
//!   lack of memory, which reclaim cures; near 1 it is fragmentation, which compaction cures. −1
//!   where an allocation would succeed.
//!
//! Both are reckoned in thousandths with the kernel's own rounding, so that they agree with
//! `/sys/kernel/debug/extfrag` to the last digit.

use std::ops::AddAssign;

/// Free blocks of a zone, by order.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct FreeBlocks {
    by_order: Vec<u64>,
}

impl FreeBlocks {
    /// `by_order[o]` free blocks of 2^o base pages each.
    pub fn new(by_order: Vec<u64>) -> Self {
        debug_assert!(by_order.len() < 64, "no machine has blocks of 2^64 pages");
        Self { by_order }
    }

    /// Counts, lowest order first.
    pub fn by_order(&self) -> &[u64] {
        &self.by_order
    }

    /// Free base pages in all.
    pub fn pages(&self) -> u64 {
        self.by_order.iter().enumerate().map(|(order, count)| count << order).sum()
    }

    /// Free blocks in all, of whatever order.
    pub fn blocks(&self) -> u64 {
        self.by_order.iter().sum()
    }

    /// How many blocks of 2^`order` pages could be taken without any work.
    pub fn suitable(&self, order: usize) -> u64 {
        let larger = self.by_order.iter().enumerate().skip(order);
        larger.map(|(this, count)| count << (this - order)).sum()
    }

    /// The unusable free index, in thousandths; 1000 where nothing is free.
    pub fn unusable(&self, order: usize) -> u32 {
        let free = self.pages();
        match ((free - (self.suitable(order) << order)) * 1000).checked_div(free) {
            Some(index) => index as u32, // at most 1000
            None => 1000,
        }
    }

    /// The fragmentation index, in thousandths; −1000 where an allocation would succeed, and 0
    /// where nothing is free.
    pub fn fragmentation(&self, order: usize) -> i32 {
        let blocks = self.blocks();
        if blocks == 0 {
            return 0;
        }
        if self.suitable(order) > 0 {
            return -1000;
        }
        let wanted = ((self.pages() * 1000) >> order) + 1000;
        1000 - (wanted / blocks).min(2000) as i32
    }
}

impl AddAssign<&Self> for FreeBlocks {
    fn add_assign(&mut self, other: &Self) {
        let orders = self.by_order.len().max(other.by_order.len());
        self.by_order.resize(orders, 0);
        for (mine, theirs) in self.by_order.iter_mut().zip(&other.by_order) {
            *mine += theirs;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_memory_is_usable() {
        let whole = FreeBlocks::new(vec![0, 0, 0, 2]);
        assert_eq!((whole.pages(), whole.suitable(1), whole.suitable(3)), (16, 8, 2));
        for order in 0..=3 {
            assert_eq!((whole.unusable(order), whole.fragmentation(order)), (0, -1000));
        }
        assert_eq!(whole.unusable(4), 1000);
    }

    #[test]
    fn single_pages_are_all_fragmentation() {
        // 1,000 single pages, order 9: 1000 − (1000 + 1000·1000/512)/1000 = 1000 − 2953/1000 = 998.
        let dust = FreeBlocks::new(vec![1000]);
        assert_eq!((dust.unusable(9), dust.fragmentation(9)), (1000, 998));
    }

    #[test]
    fn one_block_too_small_is_a_lack_of_memory() {
        // One block of 256 pages, order 9: 1000 − (1000 + 500)/1 = −500.
        let short = FreeBlocks::new(vec![0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(short.fragmentation(9), -500);
    }

    #[test]
    fn parts_are_usable_in_part() {
        // 3 pages in single blocks, 1 block of 8: of 11 pages, 8 can be used at order 3.
        let mixed = FreeBlocks::new(vec![3, 0, 0, 1]);
        assert_eq!(mixed.unusable(3), 3 * 1000 / 11);
        assert_eq!(mixed.unusable(0), 0);
    }

    #[test]
    fn nothing_free_is_told_as_the_kernel_does() {
        let none = FreeBlocks::new(vec![0; 11]);
        assert_eq!((none.unusable(9), none.fragmentation(9)), (1000, 0));
    }

    #[test]
    fn zones_add_up() {
        let mut sum = FreeBlocks::new(vec![1]);
        sum += &FreeBlocks::new(vec![2, 3]);
        assert_eq!(sum.by_order(), [3, 3]);
    }
}
