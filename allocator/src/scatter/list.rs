//! The list itself, and how it is built from held memory.

use core::fmt;
use core::iter::FusedIterator;
use core::ops::Range;
use core::ptr::NonNull;

use super::error::{Cause, ScatterError};
use super::held::Held;
use super::limits::Limits;
use super::merge::{Merger, PhysicalAddress, Span};
use super::walk::{self, WalkError};
use crate::units::Bytes;

/// How neighbours were told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Physical {
    /// By frame numbers: entries are the fewest, and carry physical addresses.
    Frames,
    /// By page size, because frame numbers are hidden from this process: no entry spans two pages.
    PageSize,
}

/// One entry: contiguous virtually, and physically as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its first byte.
    pub address: NonNull<u8>,
    /// How long.
    pub len: Bytes,
    /// Where it starts physically, where that is known; for other than hugetlb pages a snapshot.
    pub physical: Option<PhysicalAddress>,
}

/// A range of held memory as the fewest contiguous entries within a device's limits.
///
/// It owns what holds the memory, so that the entries stay true while it lives (see the
/// [module](super) on physical addresses). Entries are in order of their addresses and cover the
/// range without gaps.
pub struct ScatterList<H: Held> {
    vectors: Vec<libc::iovec>,
    /// One for each of `vectors`, or none at all.
    physical: Vec<PhysicalAddress>,
    told_by: Physical,
    held: H,
}

// SAFETY: the pointers in `vectors` are addresses of memory that `held` keeps mapped wherever the
// list is; the list never dereferences them, so it may go where `held` may.
unsafe impl<H: Held + Send> Send for ScatterList<H> {}
// SAFETY: as above; shared access only reads the list's own arrays.
unsafe impl<H: Held + Sync> Sync for ScatterList<H> {}

impl<H: Held> ScatterList<H> {
    /// The bytes `range` of `held`, counted from its first, within `limits`.
    ///
    /// Takes time in proportion to the pages in the range: one read of a frame number for a hugetlb
    /// page, one for each base page of others.
    ///
    /// # Errors
    /// [`ScatterError`]; `held` is dropped. Frame numbers that are merely hidden are no error.
    pub fn new(held: H, range: Range<Bytes>, limits: &Limits) -> Result<Self, ScatterError> {
        if range.start >= range.end {
            return Err(ScatterError::Empty);
        }
        if range.end > held.len() {
            return Err(ScatterError::OutOfRange { end: range.end, held: held.len() });
        }
        let collected = match collect(&held, &range, limits, Physical::Frames) {
            Err(WalkError::Hidden) => collect(&held, &range, limits, Physical::PageSize),
            other => other,
        };
        let Collected { vectors, physical, told_by } = collected.map_err(|error| match error {
            WalkError::Scatter(error) => error,
            WalkError::Hidden => ScatterError::Frames(crate::os::Errno::PERM),
        })?;
        Ok(Self { vectors, physical, told_by, held })
    }

    /// How neighbours were told.
    pub fn told_by(&self) -> Physical {
        self.told_by
    }

    /// The entries, lowest address first.
    pub fn entries(&self) -> Entries<'_> {
        Entries { vectors: self.vectors.iter(), physical: self.physical.iter() }
    }

    /// The entries as readv(2), writev(2), io_uring and vmsplice(2) take them. The addresses are
    /// good while the list lives; calls take at most `IOV_MAX` (1,024) of them at once, see
    /// [`Limits::IOVEC`].
    pub fn as_iovec(&self) -> &[libc::iovec] {
        &self.vectors
    }

    /// Length of the longest entry.
    pub fn longest(&self) -> Bytes {
        self.entries().map(|entry| entry.len).max().unwrap_or_default()
    }

    /// Length of the range.
    pub fn bytes(&self) -> Bytes {
        self.entries().fold(Bytes::ZERO, |sum, entry| sum + entry.len)
    }

    /// What holds the memory.
    pub fn held(&self) -> &H {
        &self.held
    }

    /// Ends the list; the memory is held on.
    pub fn into_held(self) -> H {
        self.held
    }

    /// Compares the list with what it promises: entries in order, without gaps, within `limits`,
    /// within the held memory, and no two neighbours that one entry could be (but for a cut that
    /// the limit on bytes demands).
    ///
    /// # Errors
    /// What is broken, in words.
    pub fn validate(&self, limits: &Limits) -> Result<(), String> {
        let (base, longest) = (self.held.base().addr().get(), limits.max_entry_bytes);
        let mut before: Option<Entry> = None;
        for entry in self.entries() {
            let start = entry.address.addr().get();
            let end = start + entry.len.as_usize();
            if start < base || end > base + self.held.len().as_usize() {
                return Err(format!("{entry:?} leaves the held memory"));
            }
            let aligned = limits.alignment.divides((start | end) as u64);
            if entry.len == Bytes::ZERO || !aligned || longest.is_some_and(|max| entry.len > max) {
                return Err(format!("{entry:?} breaks {limits:?}"));
            }
            if let Some(before) = before.replace(entry) {
                if before.address.addr().get() + before.len.as_usize() != start {
                    return Err(format!("a gap or an overlap between {before:?} and {entry:?}"));
                }
                let next = before.physical.map(|at| at.offset(before.len));
                if next.is_some() && next == entry.physical && longest.is_none() {
                    return Err(format!("{before:?} and {entry:?} could be one"));
                }
            }
        }
        if limits.max_entries.is_some_and(|max| self.vectors.len() > max) {
            return Err(format!("{} entries break {limits:?}", self.vectors.len()));
        }
        Ok(())
    }
}

impl<H: Held> fmt::Debug for ScatterList<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScatterList")
            .field("entries", &self.vectors.len())
            .field("bytes", &self.bytes())
            .field("told_by", &self.told_by)
            .finish_non_exhaustive()
    }
}

impl<'a, H: Held> IntoIterator for &'a ScatterList<H> {
    type Item = Entry;
    type IntoIter = Entries<'a>;
    fn into_iter(self) -> Entries<'a> {
        self.entries()
    }
}

/// The entries of a list, lowest address first.
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    vectors: core::slice::Iter<'a, libc::iovec>,
    physical: core::slice::Iter<'a, PhysicalAddress>,
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let vector = self.vectors.next()?;
        Some(Entry {
            address: NonNull::new(vector.iov_base.cast())?,
            len: Bytes::of_len(vector.iov_len),
            physical: self.physical.next().copied(),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.vectors.size_hint()
    }
}

impl ExactSizeIterator for Entries<'_> {}
impl FusedIterator for Entries<'_> {}

/// A list but for its memory.
struct Collected {
    vectors: Vec<libc::iovec>,
    physical: Vec<PhysicalAddress>,
    told_by: Physical,
}

fn collect<H: Held>(
    held: &H,
    range: &Range<Bytes>,
    limits: &Limits,
    told_by: Physical,
) -> Result<Collected, WalkError> {
    let base = held.base();
    let first = base.addr().get() as u64;
    let allowed = limits.max_entries.unwrap_or(usize::MAX);
    let mut list = Collected { vectors: Vec::new(), physical: Vec::new(), told_by };
    let mut needed = 0usize;
    let mut merger = Merger::new(first + range.start.get(), limits, |span: Span| {
        needed += 1;
        if needed <= allowed {
            // Wrapping, since it is an address only: nothing is read through it here.
            let address = base.as_ptr().wrapping_add((span.address - first) as usize);
            list.vectors
                .push(libc::iovec { iov_base: address.cast(), iov_len: span.len.as_usize() });
            list.physical.extend(span.physical);
        }
    })?;
    walk::pieces(held, range, told_by, |piece| merger.push(piece))?;
    merger.finish()?;
    if needed > allowed {
        let cause = cause(range.end - range.start, limits, told_by);
        return Err(ScatterError::TooManyEntries { needed, allowed, cause }.into());
    }
    Ok(list)
}

/// Why there are more entries than allowed.
fn cause(len: Bytes, limits: &Limits, told_by: Physical) -> Cause {
    let longest = limits.max_entry_bytes.map_or(u64::MAX, Bytes::get);
    let least = len.get().div_ceil(limits.alignment.round_down(longest));
    match told_by {
        _ if limits.max_entries.is_some_and(|max| least > max as u64) => Cause::EntryLength,
        Physical::Frames => Cause::Scattered,
        Physical::PageSize => Cause::FramesHidden,
    }
}
