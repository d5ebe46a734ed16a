//! What is known of every block of the address space: its *stamp*, and which heap's objects it holds.
//!
//! One table for all heaps, so that an access finds the stamp by the address alone, and need not ask
//! first whether the object is of the session's heap. Four bytes and one a block, of which only those
//! parts take memory that tell of blocks in use: a page tells of 2 GiB.

use core::sync::atomic::Ordering::{Relaxed, Release};
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64};
use std::sync::OnceLock;

use super::word::{ADDRESS_BITS, STAMP_FIRST, STAMP_LAST};
use crate::os::{Array, Errno, Linux};
use crate::units::BLOCK_SHIFT;

/// Blocks of the address space.
const BLOCKS: usize = 1 << (ADDRESS_BITS - BLOCK_SHIFT);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Stamps {
    stamps: Array<AtomicU32, Linux>,
    heaps: Array<AtomicU8, Linux>,
}

static STAMPS: OnceLock<Stamps> = OnceLock::new();

/// The stamp that a block gets next; see [`next`].
static NEXT: AtomicU64 = AtomicU64::new(STAMP_FIRST as u64);

/// The process's table, which is mapped when it is first asked for.
pub(super) fn of_all() -> Result<&'static Stamps, Errno> {
    if let Some(stamps) = STAMPS.get() {
        return Ok(stamps);
    }
    let new = Stamps { stamps: Array::new(Linux, BLOCKS)?, heaps: Array::new(Linux, BLOCKS)? };
    Ok(STAMPS.get_or_init(|| new))
}

/// The number of the heap that an object stands in, or stood in when its handle last looked, which is the
/// same one. An address that no object ever had is nobody's: 0.
pub(super) fn heap_of(address: u64) -> u8 {
    let heap = STAMPS.get().and_then(|stamps| stamps.heaps.get(block_of(address)));
    heap.map_or(0, |heap| heap.load(Relaxed))
}

/// A stamp that no block has had. The [last one](STAMP_LAST) comes again and again, for no hint has it:
/// when 2,147,483,646 blocks have been emptied, what comes into blocks is found by its word from then on.
pub(super) fn next() -> u32 {
    let new = NEXT.fetch_add(2, Relaxed);
    u32::try_from(new).map_or(STAMP_LAST, |new| new.min(STAMP_LAST))
}

/// The number of the block of an address.
#[inline(always)]
pub(super) const fn block_of(address: u64) -> usize {
    (address >> BLOCK_SHIFT) as usize
}

impl Stamps {
    /// By number of block; as long as addresses reach.
    pub fn all(&self) -> &[AtomicU32] {
        &self.stamps
    }

    /// Says that objects of a heap come into a block.
    pub fn open(&self, block: usize, heap: u8) {
        self.heaps[block].store(heap, Relaxed);
        // Nobody else opens it, and a stamp that is there is as good: handles that hold it are of objects
        // that were freed.
        if self.stamps[block].load(Relaxed) == 0 {
            self.stamps[block].store(next(), Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::movable::word::is_odd;

    #[test]
    fn no_two_blocks_get_the_same_stamp_and_those_in_use_keep_theirs() {
        let stamps = of_all().unwrap();
        // The first blocks, where no program maps anything.
        stamps.open(1, 200);
        stamps.open(2, 201);
        let of = |block: usize| stamps.all()[block].load(Relaxed);
        let before = (of(1), of(2));
        assert!(before.0 != before.1 && !is_odd(before.0) && !is_odd(before.1));
        stamps.open(1, 202);
        assert_eq!((of(1), heap_of((1 << BLOCK_SHIFT) + 16)), (before.0, 202));
        assert_eq!(heap_of(1 << ADDRESS_BITS), 0);
    }
}
