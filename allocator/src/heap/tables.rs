//! What is known of each slice of the span: a word that says what it is, and a record.
//!
//! Both tables are as long as the span and out of band. Memory comes into them in step with the
//! blocks that they describe, 16 blocks at a time. Before that a word reads as zero, so that a wild
//! pointer into the span is told from an object, and a record is not mapped at all.
//!
//! ```text
//!   31                               12 11            0
//!  +-----------------------------------+---------------+
//!  |  owner: a thread's heap, 1..2^18  |      bin      |   a slice of a slab
//!  |  0xfe               |  slices                     |   the first slice of a run of slices
//!  |  0xfd                                             |   the first slice of a huge extent
//!  |  0                                                |   anything else
//!  +---------------------------------------------------+
//! ```
//!
//! A slab's class is given by where its bin stands in a thread's heap, in bytes: the way from an
//! object to its bin is what a program waits for that frees and allocates by turns.
#![allow(unsafe_code)] // tables in mappings of their own

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use super::classes::{Class, SLICES};
use super::record::Record;
use crate::os::{Array, Backing, Errno, Os};
use crate::units::{BlockRange, Blocks, Bytes};

/// What the word of a slice says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// No allocation begins here, and no slab is here.
    Nothing,
    /// Part of a slab of that owner.
    Slab(Owner, Class),
    /// An allocation of that many slices begins here.
    Run(u32),
    /// An allocation of whole blocks begins here.
    Huge,
}

/// Who allocates from a slab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(pub u32);

impl Owner {
    /// No heap.
    pub const NOBODY: Self = Self(0);
}

/// The most owners; numbers begin at 1.
pub(super) const OWNERS_MAX: u32 = 1 << 18;
const RUN: u32 = 0xfe00_0000;
const HUGE: u32 = 0xfd00_0000;
const KIND: u32 = 0xff00_0000;
const _: () = assert!(Owner(OWNERS_MAX).tag() < HUGE);

/// Bytes of a bin.
pub(super) const BIN_BYTES: usize = 24;
const OWNER_SHIFT: u32 = 12;
const BIN: u32 = (1 << OWNER_SHIFT) - 1;
const _: () = assert!(super::classes::CLASSES * BIN_BYTES <= 1 << OWNER_SHIFT);

impl Owner {
    /// The word of a slice of this owner, but for the bin.
    pub const fn tag(self) -> u32 {
        self.0 << OWNER_SHIFT
    }
}

impl Class {
    /// Where the bin of this class stands among the bins, in bytes.
    pub const fn bin(self) -> usize {
        self.index() * BIN_BYTES
    }
}

impl Entry {
    pub const fn word(self) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Slab(owner, class) => owner.tag() | class.bin() as u32,
            Self::Run(slices) => RUN | slices,
            Self::Huge => HUGE,
        }
    }

    /// Where the bin of the class of a slab's slice stands among others.
    #[inline]
    pub const fn bin_of(word: u32) -> Option<usize> {
        if word == 0 || word >= HUGE { None } else { Some((word & BIN) as usize) }
    }

    #[inline]
    pub const fn of(word: u32) -> Self {
        match word & KIND {
            RUN => Self::Run(word & !KIND),
            HUGE => Self::Huge,
            _ if word == 0 => Self::Nothing,
            _ => {
                let class = (word & BIN) / BIN_BYTES as u32;
                Self::Slab(Owner(word >> OWNER_SHIFT), Class(class as u8))
            }
        }
    }
}

/// Where the tables are; for readers without a lock.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    /// First address of the span.
    pub base: usize,
    /// Slices of the span.
    pub slices: usize,
    pub entries: NonNull<AtomicU32>,
    records: NonNull<Record>,
}

// SAFETY: addresses of tables that live as long as the heap, all of whose parts are atomic or the
// business of a slab's owner.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The slice that an address lies in.
    #[inline]
    pub fn slice(&self, address: usize) -> Option<u32> {
        let slice = address.wrapping_sub(self.base) >> super::classes::SLICE_SHIFT;
        (slice < self.slices).then_some(slice as u32)
    }

    /// Address of a slice.
    #[inline]
    pub fn address(&self, slice: u32) -> usize {
        self.base + ((slice as usize) << super::classes::SLICE_SHIFT)
    }

    /// What a slice of the span is.
    #[inline]
    pub fn entry(&self, slice: u32) -> Entry {
        debug_assert!((slice as usize) < self.slices);
        // SAFETY: the slice is one of the span, so its word lies in the table, which is readable.
        Entry::of(unsafe { self.entries.add(slice as usize).as_ref() }.load(Ordering::Relaxed))
    }

    /// The owner of a slab's slice; of any other it is nobody's number.
    #[inline]
    pub fn owner(&self, slice: u32) -> Owner {
        debug_assert!((slice as usize) < self.slices);
        // SAFETY: as above.
        let word = unsafe { self.entries.add(slice as usize).as_ref() }.load(Ordering::Relaxed);
        Owner(word >> OWNER_SHIFT)
    }

    /// Says what a slice is.
    ///
    /// # Safety
    /// The tables of its block are there (see [`Tables::ensure`]), and it is the caller's to say.
    #[inline]
    pub unsafe fn set_entry(&self, slice: u32, entry: Entry) {
        debug_assert!((slice as usize) < self.slices);
        // SAFETY: as above, and writable.
        unsafe { self.entries.add(slice as usize).as_ref() }.store(entry.word(), Ordering::Relaxed);
    }

    /// A slice's record.
    ///
    /// # Safety
    /// Records of its block are there (see [`Tables::ensure`]): the slice is or was part of a slab.
    #[inline]
    pub unsafe fn record(&self, slice: u32) -> &Record {
        debug_assert!((slice as usize) < self.slices);
        // SAFETY: the record lies in the table, in a part that is mapped, and stays so.
        unsafe { self.records.add(slice as usize).as_ref() }
    }

    /// The first slice of the slab that a slice is part of.
    ///
    /// # Safety
    /// It is part of one, of that class: its word said so.
    #[inline]
    pub unsafe fn head(&self, slice: u32, class: Class) -> u32 {
        if class.shape().slices == 1 {
            return slice;
        }
        // SAFETY: a slab's slices have records.
        slice - u32::from(unsafe { self.record(slice) }.to_head())
    }
}

/// The tables, and how much of them there is.
#[derive(Debug)]
pub(super) struct Tables<O: Os> {
    view: View,
    os: O,
    /// Blocks described by a page of words.
    step: u32,
    /// For each step, which of the tables are there.
    there: Array<u8, O>,
}

const WORDS_THERE: u8 = 1;
const RECORDS_THERE: u8 = 2;

// SAFETY: it owns its mappings.
unsafe impl<O: Os> Send for Tables<O> {}

impl<O: Os> Tables<O> {
    /// Tables for a span of `blocks` blocks at `base`.
    pub fn new(os: O, base: NonNull<u8>, blocks: Blocks) -> Result<Self, Errno> {
        let page = os.base_page_size().bytes().as_usize();
        let step = (page / (SLICES as usize * size_of::<AtomicU32>())).max(1) as u32;
        let steps = blocks.get().div_ceil(step);
        let slices = (steps * step) as usize * SLICES as usize;
        let there = Array::new(os.clone(), steps as usize)?;
        let words = Bytes::of_len(slices * size_of::<AtomicU32>());
        // SAFETY: no address is given.
        let entries = unsafe { os.map(None, words, Backing::Zeros)? };
        let records = Bytes::of_len(slices * size_of::<Record>());
        // SAFETY: as above.
        let records = unsafe { os.map(None, records, Backing::Reserved) }.inspect_err(|_| {
            // SAFETY: nobody knows of the mapping yet.
            let _ = unsafe { os.unmap(entries, words) };
        })?;
        let view = View {
            base: base.as_ptr() as usize,
            slices: blocks.as_usize() * SLICES as usize,
            entries: entries.cast(),
            records: records.cast(),
        };
        Ok(Self { view, os, step, there })
    }

    pub fn view(&self) -> &View {
        &self.view
    }

    /// Brings in the words of blocks, and their records where `records` says so.
    pub fn ensure(&mut self, blocks: BlockRange, records: bool) -> Result<(), Errno> {
        let (first, end) =
            (blocks.start().get() / self.step, blocks.end().get().div_ceil(self.step));
        for step in first..end {
            self.bring(step, WORDS_THERE, self.view.entries.cast(), size_of::<AtomicU32>())?;
            if records {
                self.bring(step, RECORDS_THERE, self.view.records.cast(), size_of::<Record>())?;
            }
        }
        Ok(())
    }

    fn bring(
        &mut self,
        step: u32,
        which: u8,
        table: NonNull<u8>,
        size: usize,
    ) -> Result<(), Errno> {
        let there = &mut self.there[step as usize];
        if *there & which != 0 {
            return Ok(());
        }
        let len = self.step as usize * SLICES as usize * size;
        // SAFETY: (1) the step lies within the table; (2) nothing was written there, as it could
        // not be; (3) readers of its words see zeros before and after.
        unsafe {
            let at = table.add(step as usize * len);
            self.os.map(Some(at), Bytes::of_len(len), Backing::Anonymous)?;
        }
        *there |= which;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Linux;
    use crate::units::BlockId;

    #[test]
    fn entries_survive_their_words() {
        for entry in [
            Entry::Nothing,
            Entry::Huge,
            Entry::Run(1),
            Entry::Run(32),
            Entry::Slab(Owner(1), Class(0)),
            Entry::Slab(Owner(OWNERS_MAX), Class(95)),
        ] {
            assert_eq!(Entry::of(entry.word()), entry);
        }
    }

    #[test]
    fn words_read_as_nothing_until_they_are_written() {
        let base = NonNull::new((1usize << 40) as *mut u8).unwrap();
        let mut tables = Tables::new(Linux, base, Blocks::new(1 << 18)).unwrap();
        let view = *tables.view();
        assert_eq!(view.entry(12_345_678), Entry::Nothing);
        let block = BlockRange::new(BlockId::new(100_000), Blocks::ONE);
        tables.ensure(block, true).unwrap();
        let slice = 100_000 * SLICES + 63;
        // SAFETY: the tables of the block are there, and nobody else knows of them.
        unsafe {
            view.set_entry(slice, Entry::Huge);
            assert_eq!(view.record(slice).slab().free_objects(), 0);
        }
        assert_eq!(view.entry(slice), Entry::Huge);
        assert_eq!(view.slice(view.address(slice) + 5), Some(slice));
        assert_eq!(view.slice(base.as_ptr() as usize - 1), None);
    }
}
