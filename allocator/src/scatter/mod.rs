//! Scatter-gather lists: a range of a pool as the fewest entries that a device can take.
//!
//! # Two notions of contiguous
//! A device reads physical memory, an `iovec` names virtual memory. An entry here is both at once:
//! one stretch of the pool's mapping, behind which stands one stretch of physical memory, as far as
//! that is known. Two neighbours in physical memory that lie apart in the mapping are two entries.
//!
//! Physical neighbours are told by frame numbers where the process may read them
//! ([`Physical::Frames`]); where it may not, only by the size of pages ([`Physical::PageSize`]): an
//! entry then never spans two pages, because nothing says that they are neighbours.
//!
//! # The rule of cutting
//! A *run* is a maximal stretch of the range that is contiguous in both senses. Every entry lies
//! in one run. Where a run is longer than an entry may be (`L`: the limit on bytes, rounded down
//! to the alignment), it is cut at boundaries between pages only, because some devices refuse
//! registrations that end inside a huge page; where no such boundary lies within `L` of an entry's
//! beginning (the page is longer than an entry may be), the entry is exactly `L` long and ends
//! inside the page. So the limit rules, then the boundary. Every cut is a multiple of the alignment.
//!
//! # Why greedy is fewest
//! Let `next(p)` be the furthest place at which an entry that begins at `p` may end: the end of the
//! run if within `L`, else the last aligned page boundary in `(p, p + L]`, else `p + L`.
//!
//! 1. *The runs' ends are forced.* An entry lies in one run, so every list has a cut at each end of
//!    a run, and a list is fewest when it is fewest in each run. If such an end is off the alignment
//!    no list exists; this is an error and not a longer list.
//! 2. *`next` is monotone*: for `p < q` of one run, `next(p) <= next(q)`. If `next(p) <= q`, then
//!    `next(q) > q` suffices. Otherwise, if `next(p)` is a boundary (or the run's end), it lies in
//!    `(q, q + L]`, so `q` reaches it or further. If `next(p) = p + L` for want of a boundary in
//!    `(p, p + L]`, then the boundary nearest to `q` lies beyond `p + L`, and so does `q + L`.
//! 3. *No list is ahead of greedy.* Let `g(k)` be the end of greedy's `k`-th entry and `c(k)` that
//!    of any other list. If `c(k) <= g(k)`, then `c(k+1) <= next(c(k)) <= next(g(k)) = g(k+1)`, by
//!    the meaning of `next` and by 2. Both begin at the beginning of the run. So the other list
//!    has not reached the end of the run when greedy has not: greedy is fewest.
//!
//! The alignment does not disturb this: within a run virtual and physical addresses differ by a
//! constant, and the run's beginning is aligned in both, so one multiple of the alignment is the
//! other.
//!
//! # How long a list is true
//! A [`ScatterList`] owns a pin of its blocks ([`Held`]): while it lives the pool neither releases
//! nor moves them. Physical addresses are another matter. Pages of hugetlb stay where they are
//! while mapped, unless an administrator offlines the memory or asks for their migration.
//! Transparent huge pages and base pages may be migrated, and huge ones split, by the kernel
//! (compaction, NUMA balancing) until a device pins them: **their physical addresses are a
//! snapshot**, good for measuring and for nothing else. Virtual entries stay right in any case.
#![allow(unsafe_code)] // builds iovecs over the pool's memory

mod error;
mod held;
mod limits;
mod list;
#[cfg(test)]
mod list_tests;
mod merge;
#[cfg(test)]
mod model_tests;
mod pinned;
#[cfg(test)]
mod pool_tests;
mod walk;

pub use error::{Cause, Misaligned, ScatterError};
pub use held::{Held, HeldPages};
pub use limits::{Alignment, Limits};
pub use list::{Entries, Entry, Physical, ScatterList};
pub use merge::{Merger, PhysicalAddress, Piece, Span};
