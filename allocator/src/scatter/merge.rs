//! The core: from pages in order of their addresses to entries. Pure; touches no memory.

use super::error::{Misaligned, ScatterError};
use super::limits::{Alignment, Limits};
use crate::units::{Bytes, PageSize};

/// An address on the memory bus.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysicalAddress(u64);

impl PhysicalAddress {
    /// The address `n`, in bytes.
    pub const fn new(n: u64) -> Self {
        Self(n)
    }

    /// As a bare number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The address `len` bytes further.
    pub const fn offset(self, len: Bytes) -> Self {
        Self(self.0 + len.get())
    }
}

impl core::fmt::Debug for PhysicalAddress {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Phys({:#x})", self.0)
    }
}

/// Memory in one page, or in several of one size that follow one another physically.
///
/// Pages stand at virtual addresses that are multiples of their size, as the kernel maps them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// How long; the first and the last piece of a range may cover their pages in part.
    pub len: Bytes,
    /// Where it starts physically, if that is known; unknown, it is one page or a part of one.
    pub physical: Option<PhysicalAddress>,
    /// Size of the page or pages.
    pub page: PageSize,
}

/// An entry: contiguous virtually, and physically as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// Virtual address of its first byte.
    pub address: u64,
    /// How long.
    pub len: Bytes,
    /// Physical address of its first byte, where known.
    pub physical: Option<PhysicalAddress>,
}

/// Turns pieces, pushed in order of their addresses, into the fewest spans.
///
/// Why these are the fewest is told, and proved, in the [module above](super).
#[derive(Debug)]
pub struct Merger<F> {
    alignment: Alignment,
    /// The longest span, a multiple of `alignment`.
    longest: u64,
    /// Where the next piece starts.
    at: u64,
    open: Option<Open>,
    emit: F,
}

/// The span that grows.
#[derive(Debug)]
struct Open {
    start: u64,
    physical: Option<PhysicalAddress>,
}

impl<F: FnMut(Span)> Merger<F> {
    /// Spans of a range that starts at `address`, within `limits` (but for the number of entries,
    /// which `emit` counts), go to `emit` in order.
    ///
    /// # Errors
    /// [`ScatterError::EntryTooShort`] where no length satisfies the limits.
    pub fn new(address: u64, limits: &Limits, emit: F) -> Result<Self, ScatterError> {
        let alignment = limits.alignment;
        let longest = limits.max_entry_bytes.map_or(u64::MAX, Bytes::get);
        let longest = alignment.round_down(longest);
        if longest == 0 {
            return Err(ScatterError::EntryTooShort {
                max_entry_bytes: limits.max_entry_bytes.unwrap_or_default(),
                alignment,
            });
        }
        Ok(Self { alignment, longest, at: address, open: None, emit })
    }

    /// Takes the next piece of the range.
    ///
    /// # Errors
    /// [`ScatterError::Unaligned`] where a run of contiguous memory begins or ends off the
    /// alignment, so that no list can satisfy it.
    pub fn push(&mut self, piece: Piece) -> Result<(), ScatterError> {
        if piece.len == Bytes::ZERO {
            return Ok(());
        }
        let end = self.at + piece.len.get();
        let mut open = match self.open.take() {
            Some(open) if self.continues(&open, &piece) => open,
            before => {
                self.close(before)?;
                self.begin(&piece)?
            }
        };
        while end - open.start > self.longest {
            let cut = self.cut(&open, piece.page);
            self.emit_until(&open, cut);
            let passed = Bytes::new(cut - open.start);
            open = Open { start: cut, physical: open.physical.map(|at| at.offset(passed)) };
        }
        self.at = end;
        self.open = Some(open);
        Ok(())
    }

    /// Ends the range.
    ///
    /// # Errors
    /// As [`Merger::push`].
    pub fn finish(mut self) -> Result<(), ScatterError> {
        let open = self.open.take();
        self.close(open)
    }

    /// Whether `piece` lies physically behind the open span.
    fn continues(&self, open: &Open, piece: &Piece) -> bool {
        let so_far = Bytes::new(self.at - open.start);
        match (open.physical, piece.physical) {
            (Some(start), Some(next)) => start.offset(so_far) == next,
            _ => false,
        }
    }

    /// The furthest place where the open span may be cut, if the piece that makes it too long is of
    /// pages of size `page`: the last boundary between pages within reach, or, in a page longer than
    /// a span may be, the end of its reach.
    ///
    /// The boundary is in that piece or where it begins: all before it is within reach, and pages
    /// stand at multiples of their size. It is a multiple of the alignment as `reach` is, because
    /// of two powers of two one divides the other.
    fn cut(&self, open: &Open, page: PageSize) -> u64 {
        let reach = open.start.saturating_add(self.longest);
        let boundary = reach & !(page.bytes().get() - 1);
        if boundary > open.start { boundary } else { reach }
    }

    fn begin(&self, piece: &Piece) -> Result<Open, ScatterError> {
        self.check(self.at, Misaligned::Virtual)?;
        if let Some(physical) = piece.physical {
            self.check(physical.get(), Misaligned::Physical)?;
        }
        Ok(Open { start: self.at, physical: piece.physical })
    }

    fn close(&mut self, open: Option<Open>) -> Result<(), ScatterError> {
        let Some(open) = open else { return Ok(()) };
        self.check(self.at, Misaligned::End)?;
        self.emit_until(&open, self.at);
        Ok(())
    }

    fn emit_until(&mut self, open: &Open, end: u64) {
        let len = Bytes::new(end - open.start);
        (self.emit)(Span { address: open.start, len, physical: open.physical });
    }

    fn check(&self, address: u64, what: Misaligned) -> Result<(), ScatterError> {
        if self.alignment.divides(address) {
            return Ok(());
        }
        Err(ScatterError::Unaligned { what, address, alignment: self.alignment })
    }
}
