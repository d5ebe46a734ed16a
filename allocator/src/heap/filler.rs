//! Runs of slices, out of blocks that are in use already where that is possible.
//!
//! A block's free slices are one word. Blocks stand in lists by the longest run of free slices that
//! they have, and a run is cut from a block whose longest is the shortest that will do: those are
//! the fullest ones, so the emptiest empty further and can be given back whole. Temeraire's filler
//! (tcmalloc, `docs/temeraire.md`) works so with pages of 8 KiB.
//!
//! Pure: it decides, and touches none of the memory it decides about.

use crate::os::{Array, Errno, Os, Zeroed};
use crate::placement::word::{longest, starts};
use crate::units::{BlockId, Blocks};

use super::classes::SLICES;

/// One list for each longest run, 1 to 64.
const LISTS: usize = SLICES as usize;

/// What the filler knows of a block.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
struct Entry {
    /// Bit i: slice i is free. All zero where the block is not the filler's.
    free: u64,
    /// Bit i: slice i has been used since the block came from the system, and may not be zero.
    used: u64,
    /// Bit i: slice i was free when the block was last looked at, and has been since.
    idle: u64,
    /// Bit i: the same of the look before.
    ripe: u64,
    /// When that last look was, in milliseconds.
    looked_ms: u32,
    /// Neighbours in the list, as block number plus one.
    next: u32,
    previous: u32,
    /// Whether the block is the filler's.
    held: bool,
    /// Whether nothing is to be cut from it: it is being emptied.
    closed: bool,
    /// Whether parts of it have gone back to the system.
    split: bool,
}

// SAFETY: integers and a bool, all of which have zero for a value.
#[allow(unsafe_code)]
unsafe impl Zeroed for Entry {}

/// A run of slices in a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slices {
    pub block: BlockId,
    /// The first one's number in the block.
    pub first: u32,
    pub count: u32,
}

impl Slices {
    const fn mask(self) -> u64 {
        (u64::MAX >> (SLICES - self.count)) << self.first
    }

    /// The first one's number in the pool.
    pub const fn slice(self) -> u32 {
        self.block.get() * SLICES + self.first
    }

    /// A run by the number of its first slice in the pool.
    pub const fn from_slice(slice: u32, count: u32) -> Self {
        Self { block: BlockId::new(slice / SLICES), first: slice % SLICES, count }
    }
}

/// The blocks that are cut into slices.
#[derive(Debug)]
pub(crate) struct Filler<O: Os> {
    entries: Array<Entry, O>,
    /// First block of each list, by longest run less one, as block number plus one.
    lists: [u32; LISTS],
    /// Bit i: list i is not empty.
    filled: u64,
    blocks: u32,
    free_slices: u32,
    /// One more than the highest block that it has had.
    end: u32,
}

impl<O: Os> Filler<O> {
    /// For a pool of that many blocks, none of them the filler's yet.
    pub fn new(os: O, capacity: Blocks) -> Result<Self, Errno> {
        Ok(Self {
            entries: Array::new(os, capacity.as_usize())?,
            lists: [0; LISTS],
            filled: 0,
            blocks: 0,
            free_slices: 0,
            end: 0,
        })
    }

    pub fn blocks(&self) -> Blocks {
        Blocks::new(self.blocks)
    }

    pub fn free_slices(&self) -> u32 {
        self.free_slices
    }

    /// Adds a block, all of it free. `zero` says that none of it has been used.
    pub fn add(&mut self, block: BlockId, zero: bool) {
        let entry = &mut self.entries[block.as_usize()];
        debug_assert!(!entry.held);
        let used = if zero { 0 } else { u64::MAX };
        *entry = Entry { free: u64::MAX, used, held: true, ..Entry::default() };
        self.blocks += 1;
        self.free_slices += SLICES;
        self.end = self.end.max(block.get() + 1);
        self.link(block);
    }

    /// Takes a block out that is wholly free.
    pub fn remove(&mut self, block: BlockId) {
        debug_assert!(self.is_empty(block));
        self.unlink(block);
        self.entries[block.as_usize()] = Entry::default();
        self.blocks -= 1;
        self.free_slices -= SLICES;
    }

    /// Says whether anything may be cut from a block.
    pub fn set_closed(&mut self, block: BlockId, closed: bool) {
        debug_assert!(self.holds(block));
        self.unlink(block);
        self.entries[block.as_usize()].closed = closed;
        self.link(block);
    }

    pub fn is_closed(&self, block: BlockId) -> bool {
        self.entries[block.as_usize()].closed
    }

    /// Whether a block is the filler's.
    pub fn holds(&self, block: BlockId) -> bool {
        self.entries[block.as_usize()].held
    }

    /// Bit i: slice i of the block is cut out.
    pub fn cut_out(&self, block: BlockId) -> u64 {
        let entry = &self.entries[block.as_usize()];
        if entry.held { !entry.free } else { 0 }
    }

    /// Cuts a certain run out, of a closed block too. The run is free.
    pub fn take_exactly(&mut self, run: Slices) {
        debug_assert_eq!(self.cut_out(run.block) & run.mask(), 0);
        self.cut(run);
    }

    /// One more than the highest block that it has had.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Looks at what is free in a block, once in a delay.
    pub fn look(&mut self, block: BlockId, now_ms: u32, delay_ms: u32) {
        let entry = &mut self.entries[block.as_usize()];
        if now_ms.wrapping_sub(entry.looked_ms) >= delay_ms {
            entry.looked_ms = now_ms;
            (entry.ripe, entry.idle) = (entry.idle, entry.free);
        }
    }

    /// Bit i: slice i of the block was free at both of the last two looks, and between them.
    pub fn ripe(&self, block: BlockId) -> u64 {
        self.entries[block.as_usize()].ripe
    }

    /// Bit i: slice i of the block is free, and has been used since it came from the system.
    pub fn soiled(&self, block: BlockId) -> u64 {
        let entry = &self.entries[block.as_usize()];
        entry.free & entry.used
    }

    /// Bit i: slice i of the block is free, and has not been used since.
    pub fn clean(&self, block: BlockId) -> u64 {
        let entry = &self.entries[block.as_usize()];
        entry.free & !entry.used
    }

    /// Free slices of a block have gone back to the system, and are zero.
    pub fn set_clean(&mut self, block: BlockId, slices: u64) {
        let entry = &mut self.entries[block.as_usize()];
        debug_assert_eq!(slices & !entry.free, 0);
        entry.used &= !slices;
    }

    /// Whether parts of a block have gone back to the system.
    pub fn is_split(&self, block: BlockId) -> bool {
        self.entries[block.as_usize()].split
    }

    pub fn set_split(&mut self, block: BlockId, split: bool) {
        self.entries[block.as_usize()].split = split;
    }

    /// Whether a block is the filler's and wholly free.
    pub fn is_empty(&self, block: BlockId) -> bool {
        let entry = &self.entries[block.as_usize()];
        entry.held && entry.free == u64::MAX
    }

    /// Cuts a run of `count` slices whose first is a multiple of `align` slices (a power of two)
    /// out of the block where that costs least; whether all of it is unused since it came from the
    /// system. `None` where no block has such a run.
    pub fn take(&mut self, count: u32, align: u32) -> Option<(Slices, bool)> {
        let mut lists = self.filled & (u64::MAX << (count - 1));
        while lists != 0 {
            let mut at = self.lists[lists.trailing_zeros() as usize];
            while at != 0 {
                let block = BlockId::new(at - 1);
                if let Some(first) = self.fit(block, count, align) {
                    return Some(self.cut(Slices { block, first, count }));
                }
                at = self.entries[block.as_usize()].next;
            }
            lists &= lists - 1;
        }
        None
    }

    /// Lowest place for a run in a block.
    fn fit(&self, block: BlockId, count: u32, align: u32) -> Option<u32> {
        /// Bit i where i is a multiple of 2^shift.
        const MULTIPLES: [u64; 7] = [
            u64::MAX,
            0x5555_5555_5555_5555,
            0x1111_1111_1111_1111,
            0x0101_0101_0101_0101,
            0x0001_0001_0001_0001,
            0x0000_0001_0000_0001,
            1,
        ];
        let places = starts(self.entries[block.as_usize()].free, count)
            & MULTIPLES[align.trailing_zeros() as usize];
        (places != 0).then(|| places.trailing_zeros())
    }

    fn cut(&mut self, run: Slices) -> (Slices, bool) {
        self.unlink(run.block);
        let entry = &mut self.entries[run.block.as_usize()];
        let zero = entry.used & run.mask() == 0;
        entry.free &= !run.mask();
        entry.used |= run.mask();
        entry.idle &= !run.mask();
        entry.ripe &= !run.mask();
        self.free_slices -= run.count;
        self.link(run.block);
        (run, zero)
    }

    /// Lengthens a run by the slices after it, if they are free.
    pub fn grow(&mut self, run: Slices, by: u32) -> bool {
        let end = run.first + run.count;
        if end + by > SLICES {
            return false;
        }
        let more = Slices { first: end, count: by, ..run };
        if self.entries[run.block.as_usize()].free & more.mask() != more.mask() {
            return false;
        }
        self.cut(more);
        true
    }

    /// Gives a run back. Whether its block is wholly free now.
    pub fn give(&mut self, run: Slices) -> bool {
        self.unlink(run.block);
        let entry = &mut self.entries[run.block.as_usize()];
        debug_assert!(entry.held && entry.free & run.mask() == 0, "{run:?} is given twice");
        entry.free |= run.mask();
        let whole = entry.free == u64::MAX;
        self.free_slices += run.count;
        self.link(run.block);
        whole
    }

    /// The list that a block belongs to; `None` where it is full or closed.
    fn list_of(&self, block: BlockId) -> Option<usize> {
        if self.entries[block.as_usize()].closed {
            return None;
        }
        (longest(self.entries[block.as_usize()].free) as usize).checked_sub(1)
    }

    fn link(&mut self, block: BlockId) {
        let Some(list) = self.list_of(block) else { return };
        let first = self.lists[list];
        let entry = &mut self.entries[block.as_usize()];
        (entry.next, entry.previous) = (first, 0);
        if first != 0 {
            self.entries[first as usize - 1].previous = block.get() + 1;
        }
        self.lists[list] = block.get() + 1;
        self.filled |= 1 << list;
    }

    /// Must run before the block's free slices change.
    fn unlink(&mut self, block: BlockId) {
        let Some(list) = self.list_of(block) else { return };
        let Entry { next, previous, .. } = self.entries[block.as_usize()];
        if next != 0 {
            self.entries[next as usize - 1].previous = previous;
        }
        if previous != 0 {
            self.entries[previous as usize - 1].next = next;
        } else {
            self.lists[list] = next;
            if next == 0 {
                self.filled &= !(1 << list);
            }
        }
    }

    /// Recomputes the counters and the lists.
    pub fn validate(&self) -> Result<(), &'static str> {
        let held = self.entries.iter().filter(|entry| entry.held);
        let (blocks, free) =
            held.fold((0, 0), |(n, free), entry| (n + 1, free + entry.free.count_ones()));
        if (blocks, free) != (self.blocks, self.free_slices) {
            return Err("the filler's counts are not those of its blocks");
        }
        let mut listed = 0;
        for (list, &first) in self.lists.iter().enumerate() {
            if (first != 0) != (self.filled >> list & 1 == 1) {
                return Err(
                    "the filler takes a list for empty that is not, or not for one that is",
                );
            }
            let (mut at, mut before) = (first, 0);
            while at != 0 {
                let block = BlockId::new(at - 1);
                let entry = &self.entries[block.as_usize()];
                if !entry.held || self.list_of(block) != Some(list) || entry.previous != before {
                    return Err("a block is in a list of the filler that it does not belong to");
                }
                listed += 1;
                (before, at) = (at, entry.next);
            }
        }
        let unlisted = |entry: &&Entry| entry.held && (entry.free == 0 || entry.closed);
        let unlisted = self.entries.iter().filter(unlisted).count() as u32;
        if listed + unlisted == self.blocks { Ok(()) } else { Err("a block is in no list") }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::os::Linux;

    fn filler(blocks: u32) -> Filler<Linux> {
        let mut filler = Filler::new(Linux, Blocks::new(blocks)).unwrap();
        (0..blocks).for_each(|block| filler.add(BlockId::new(block), true));
        filler
    }

    #[test]
    fn the_fullest_block_that_will_do_is_taken() {
        let mut filler = filler(2);
        let (first, _) = filler.take(60, 1).unwrap();
        let (second, _) = filler.take(4, 1).unwrap();
        assert_eq!(second.block, first.block, "the one that has just enough left");
        let (third, _) = filler.take(1, 1).unwrap();
        assert_ne!(third.block, first.block);
        assert!(!filler.give(second));
        assert!(filler.give(first));
        assert!(filler.give(third));
        filler.validate().unwrap();
    }

    #[test]
    fn used_slices_are_told_from_fresh_ones() {
        let mut filler = filler(1);
        let (run, zero) = filler.take(3, 1).unwrap();
        assert!(zero);
        filler.give(run);
        assert!(!filler.take(4, 1).unwrap().1);
        assert!(filler.take(4, 1).unwrap().1);
    }

    proptest! {
        #[test]
        fn runs_never_overlap_and_nothing_is_lost(
            steps in prop::collection::vec((1u32..=32, 0u32..=3, any::<bool>(), any::<prop::sample::Index>()), 1..300),
        ) {
            let mut filler = filler(3);
            let mut live: Vec<Slices> = Vec::new();
            let mut owned = [0u64; 3];
            for (count, shift, give, index) in steps {
                if give && !live.is_empty() {
                    let run = live.swap_remove(index.index(live.len()));
                    let whole = filler.give(run);
                    owned[run.block.as_usize()] &= !run.mask();
                    prop_assert_eq!(whole, owned[run.block.as_usize()] == 0);
                } else if let Some((run, _)) = filler.take(count, 1 << shift) {
                    prop_assert_eq!(run.first % (1 << shift), 0);
                    prop_assert_eq!(owned[run.block.as_usize()] & run.mask(), 0);
                    owned[run.block.as_usize()] |= run.mask();
                    live.push(run);
                } else {
                    let fits = |free: u64| starts(free, count)
                        .checked_ilog2()
                        .is_some_and(|_| (0..64).any(|i| i % (1 << shift) == 0 && starts(free, count) >> i & 1 == 1));
                    prop_assert!(!owned.iter().any(|&word| fits(!word)));
                }
                prop_assert_eq!(filler.validate(), Ok(()));
            }
        }
    }
}
