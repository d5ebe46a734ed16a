//! What stands behind the table: nothing, or a pool whose bytes are written, moved and checked.
//!
//! Every object is filled when it is made and read when it goes, each of its words: the object's serial
//! number, mixed with the word's distance from the object's start. So bytes that were lost, doubled or
//! left behind by a move are found, also those of another object.
#![allow(unsafe_code)] // reads and writes the memory of a pool that nobody else uses

use bookend::pool::Pool;
use bookend::units::{Bytes, PageSize};

/// Bytes that are not what was put there.
#[derive(Debug, thiserror::Error)]
#[error(
    "at {offset:?} of the pool {found:#x} was found where object {serial} had {expected:#x}: a move has \
     lost bytes, which is a defect of Bookend; please report the command and its --seed"
)]
pub struct Corrupt {
    offset: Bytes,
    serial: u64,
    expected: u64,
    found: u64,
}

/// The memory of a table, by distances from its first byte.
pub trait Backing {
    /// Whether there is any.
    const HAS_BYTES: bool;

    /// Writes an object.
    fn fill(&mut self, at: Bytes, len: Bytes, serial: u64);

    /// Copies bytes; the two ranges may overlap.
    fn carry(&mut self, from: Bytes, to: Bytes, len: Bytes);

    /// Reads an object.
    ///
    /// # Errors
    /// Where it is not what [`Backing::fill`] wrote.
    fn check(&self, at: Bytes, len: Bytes, serial: u64) -> Result<(), Corrupt>;
}

/// No memory: for tables larger than the machine.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Backing for Nothing {
    const HAS_BYTES: bool = false;

    fn fill(&mut self, _: Bytes, _: Bytes, _: u64) {}

    fn carry(&mut self, _: Bytes, _: Bytes, _: Bytes) {}

    fn check(&self, _: Bytes, _: Bytes, _: u64) -> Result<(), Corrupt> {
        Ok(())
    }
}

impl<B: Backing> Backing for &mut B {
    const HAS_BYTES: bool = B::HAS_BYTES;

    fn fill(&mut self, at: Bytes, len: Bytes, serial: u64) {
        (**self).fill(at, len, serial);
    }

    fn carry(&mut self, from: Bytes, to: Bytes, len: Bytes) {
        (**self).carry(from, to, len);
    }

    fn check(&self, at: Bytes, len: Bytes, serial: u64) -> Result<(), Corrupt> {
        (**self).check(at, len, serial)
    }
}

/// A pool, all of it present.
#[derive(Debug)]
pub struct Real {
    pool: Pool,
}

impl Real {
    /// Takes a pool for itself. Blocks that are not present would be written to in vain.
    ///
    /// # Panics
    /// Where a block is not present.
    pub fn new(pool: Pool) -> Self {
        assert!(pool.blocks().iter().all(|block| pool.is_present(block)), "a populated pool");
        Self { pool }
    }

    /// The pool, to look at.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The first of `len` bytes.
    fn at(&self, offset: Bytes, len: Bytes) -> *mut u8 {
        let end = offset + len;
        assert!(end <= self.pool.capacity().bytes(), "{end:?} is beyond the pool");
        debug_assert!(offset.is_multiple_of(PageSize::KIB4), "objects are whole pages");
        // SAFETY: (1) the pool's span is one mapping; (2) the offset is within it, as was checked.
        unsafe { self.pool.base().as_ptr().add(offset.as_usize()) }
    }

    fn words(&self, at: Bytes, len: Bytes) -> &[u64] {
        // SAFETY: (1) the bytes are of the pool and present; (2) pages are aligned for words; (3) any
        // bytes are a word; (4) the pool is ours alone, and writing to it takes `&mut self`.
        unsafe { core::slice::from_raw_parts(self.at(at, len).cast(), len.as_usize() / 8) }
    }

    fn words_mut(&mut self, at: Bytes, len: Bytes) -> &mut [u64] {
        // SAFETY: as in `words`, and we are borrowed exclusively.
        unsafe { core::slice::from_raw_parts_mut(self.at(at, len).cast(), len.as_usize() / 8) }
    }
}

/// What the word at an index of an object is.
const fn word(serial: u64, index: usize) -> u64 {
    const ODD: u64 = 0x9E37_79B9_7F4A_7C15; // the golden ratio's, so that serials differ in all bits
    serial.wrapping_mul(ODD).wrapping_add((index as u64).wrapping_mul(0x1_0000_0001))
}

impl Backing for Real {
    const HAS_BYTES: bool = true;

    fn fill(&mut self, at: Bytes, len: Bytes, serial: u64) {
        for (index, slot) in self.words_mut(at, len).iter_mut().enumerate() {
            *slot = word(serial, index);
        }
    }

    fn carry(&mut self, from: Bytes, to: Bytes, len: Bytes) {
        let (from, to) = (self.at(from, len), self.at(to, len));
        // SAFETY: (1) both ranges are of the pool and present; (2) `copy` lets them overlap; (3) the
        // pool is ours alone and borrowed exclusively.
        unsafe { core::ptr::copy(from, to, len.as_usize()) }
    }

    fn check(&self, at: Bytes, len: Bytes, serial: u64) -> Result<(), Corrupt> {
        let words = self.words(at, len);
        // A pass without a branch first, since it is vectorised and nearly always all.
        let differ =
            words.iter().enumerate().fold(0, |any, (i, &found)| any | found ^ word(serial, i));
        if differ == 0 {
            return Ok(());
        }
        let wrong = words.iter().enumerate().find(|&(i, &found)| found != word(serial, i));
        let (index, &found) = wrong.expect("one of them differs");
        let offset = at + Bytes::of_len(index * 8);
        Err(Corrupt { offset, serial, expected: word(serial, index), found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bookend::pool::{Rung, Use};

    #[test]
    fn moved_bytes_are_checked_and_lost_ones_found() {
        let pool = Pool::builder()
            .capacity(Bytes::mib(8))
            .rung(Rung::Transparent, Use::Forbidden)
            .build()
            .unwrap();
        let mut real = Real::new(pool);
        real.fill(Bytes::ZERO, Bytes::mib(3), 1);
        real.fill(Bytes::mib(5), Bytes::kib(8), 2);
        real.carry(Bytes::ZERO, Bytes::mib(1), Bytes::mib(3));
        real.check(Bytes::mib(1), Bytes::mib(3), 1).unwrap();
        real.check(Bytes::mib(5), Bytes::kib(8), 2).unwrap();
        let lost = real.check(Bytes::ZERO, Bytes::mib(3), 1).unwrap_err();
        assert_eq!(lost.offset, Bytes::mib(1), "the first MiB is still there: {lost}");
        real.words_mut(Bytes::mib(1), Bytes::mib(3))[9] ^= 1 << 63;
        assert!(real.check(Bytes::mib(1), Bytes::mib(3), 1).is_err());
    }
}
