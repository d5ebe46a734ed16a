//! Bookend's defragmenter: for a machine (growing a huge page pool without a reboot) and for a
//! process (movable objects).
//!
//! - [`process`]: plans which blocks of a movable heap to empty, and does it within budgets.
//! - [`system`]: so far reservations of huge pages that are given back exactly.
//!
//! What comes, in `system`: the ladder that wins back contiguity for the machine's huge page pools, and
//! says who stands in the way.
#![deny(missing_docs)]

pub mod process;
pub mod system;
