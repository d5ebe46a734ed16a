//! Walks held memory page by page, reading frame numbers in batches.

use core::ops::Range;

use super::error::ScatterError;
use super::held::{Held, HeldPages};
use super::list::Physical;
use super::merge::{PhysicalAddress, Piece};
use crate::os::{Errno, Os};
use crate::units::{BLOCK_BYTES, Bytes, PageSize, Pfn};

/// Frame numbers read at once: those of the base pages of one block on x86-64.
const BATCH: usize = 512;

/// Why a walk ended early.
pub(super) enum WalkError {
    /// Frame numbers are hidden from this process.
    Hidden,
    /// No walk would do better.
    Scatter(ScatterError),
}

impl From<ScatterError> for WalkError {
    fn from(error: ScatterError) -> Self {
        Self::Scatter(error)
    }
}

/// Gives `visit` the pieces of `range` in order.
pub(super) fn pieces<H: Held>(
    held: &H,
    range: &Range<Bytes>,
    told_by: Physical,
    mut visit: impl FnMut(Piece) -> Result<(), ScatterError>,
) -> Result<(), WalkError> {
    let base = held.base().addr().get() as u64;
    let end = base + range.end.get();
    let mut at = base + range.start.get();
    let mut frames = [None; BATCH];
    while at < end {
        let batch = Batch::at(held, base, at, end, told_by)?;
        match told_by {
            Physical::PageSize => batch.unknown(&mut visit)?,
            Physical::Frames => {
                let frames = &mut frames[..batch.pages()];
                batch.read(held, base, frames)?;
                batch.known(held.os().base_page_size(), base, frames, &mut visit)?;
            }
        }
        at = batch.end;
    }
    Ok(())
}

/// A stretch whose blocks are backed alike.
struct Batch {
    backing: HeldPages,
    /// Distance between the frame numbers that are read.
    stride: PageSize,
    start: u64,
    end: u64,
}

impl Batch {
    /// The stretch from `at` on, at most to `end` and at most [`BATCH`] strides long.
    fn at<H: Held>(
        held: &H,
        base: u64,
        at: u64,
        end: u64,
        told_by: Physical,
    ) -> Result<Self, WalkError> {
        let Some(backing) = held.pages(Bytes::new(at - base)) else {
            return Err(ScatterError::NotPresent { offset: Bytes::new(at - base) }.into());
        };
        let by_base_page = told_by == Physical::Frames && !backing.fixed;
        let stride = if by_base_page { held.os().base_page_size() } else { backing.page };
        let (step, block) = (stride.bytes().get(), BLOCK_BYTES as u64);
        let unit = step.max(block);
        let longest = (at & !(step - 1)).saturating_add(step * BATCH as u64);
        let mut stop = (at & !(unit - 1)) + unit;
        // Where the unit is one block of base pages smaller than 4 KiB, it is cut to the batch.
        while stop < end.min(longest) && held.pages(Bytes::new(stop - base)) == Some(backing) {
            stop += unit;
        }
        Ok(Self { backing, stride, start: at, end: stop.min(end).min(longest) })
    }

    fn step(&self) -> u64 {
        self.stride.bytes().get()
    }

    /// Address of the first page, which may begin before the stretch.
    fn first_page(&self) -> u64 {
        self.start & !(self.step() - 1)
    }

    fn pages(&self) -> usize {
        (self.end - self.first_page()).div_ceil(self.step()) as usize
    }

    /// Reads the frames of its pages.
    fn read<H: Held>(
        &self,
        held: &H,
        base: u64,
        frames: &mut [Option<Pfn>],
    ) -> Result<(), WalkError> {
        // The frame of a base page anywhere in a fixed page tells that page's first; asking for
        // one within the held memory keeps to what the holder vouches for.
        let ask = self.first_page().max(base);
        let ask = ask & !(held.os().base_page_size().bytes().get() - 1);
        let (first, rest) = frames.split_at_mut(1);
        let one = |address: u64| held.base().map_addr(|_| nonzero(address));
        let read = |address: u64, frames: &mut [Option<Pfn>]| {
            held.os().frames(one(address), self.stride, frames).map_err(|errno| match errno {
                Errno::PERM => WalkError::Hidden,
                errno => ScatterError::Frames(errno).into(),
            })
        };
        read(ask, first)?;
        let ahead = (ask - self.first_page()) >> held.os().base_page_size().shift();
        first[0] = first[0].map(|frame| Pfn::new(frame.get() - ahead));
        if rest.is_empty() { Ok(()) } else { read(self.first_page() + self.step(), rest) }
    }

    /// Pieces one page each, of unknown place.
    fn unknown(
        &self,
        visit: &mut impl FnMut(Piece) -> Result<(), ScatterError>,
    ) -> Result<(), ScatterError> {
        self.each(|_, from, to| {
            visit(Piece { len: Bytes::new(to - from), physical: None, page: self.backing.page })
        })
    }

    /// Pieces whose place is known: one for a transparent huge page that is still whole, else one
    /// a page.
    fn known(
        &self,
        base_page: PageSize,
        base: u64,
        frames: &[Option<Pfn>],
        visit: &mut impl FnMut(Piece) -> Result<(), ScatterError>,
    ) -> Result<(), ScatterError> {
        let place = |index: usize, from: u64| {
            let page = self.first_page() + index as u64 * self.step();
            match frames[index] {
                Some(frame) => {
                    Ok(PhysicalAddress::new((frame.get() << base_page.shift()) + (from - page)))
                }
                None => Err(ScatterError::NotPresent { offset: Bytes::new(from - base) }),
            }
        };
        if self.stride != self.backing.page && self.is_one_page(base_page, frames) {
            let physical = Some(place(0, self.start)?);
            let len = Bytes::new(self.end - self.start);
            return visit(Piece { len, physical, page: self.backing.page });
        }
        self.each(|index, from, to| {
            let physical = Some(place(index, from)?);
            visit(Piece { len: Bytes::new(to - from), physical, page: self.stride })
        })
    }

    /// Whether base pages at `frames` are all of one page of the size that backs them: they follow
    /// one another, and stand in memory as they stand in the mapping.
    fn is_one_page(&self, base_page: PageSize, frames: &[Option<Pfn>]) -> bool {
        let huge = self.backing.page.bytes().get();
        let Some(Some(first)) = frames.first() else { return false };
        let alike = ((first.get() << base_page.shift()) ^ self.first_page()) & (huge - 1) == 0;
        let within = self.first_page() & !(huge - 1) == (self.end - 1) & !(huge - 1);
        alike && within && (0..).zip(frames).all(|(i, frame)| *frame == Some(first.offset(i)))
    }

    /// Calls `visit` with each page's index and the part of it in the stretch.
    fn each(
        &self,
        mut visit: impl FnMut(usize, u64, u64) -> Result<(), ScatterError>,
    ) -> Result<(), ScatterError> {
        for index in 0..self.pages() {
            let page = self.first_page() + index as u64 * self.step();
            visit(index, page.max(self.start), (page + self.step()).min(self.end))?;
        }
        Ok(())
    }
}

/// An address of held memory, which is never zero.
fn nonzero(address: u64) -> core::num::NonZeroUsize {
    core::num::NonZeroUsize::new(address as usize).unwrap_or(core::num::NonZeroUsize::MIN)
}
