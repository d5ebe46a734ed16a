//! Bookend's defragmenter: for a machine (growing a huge page pool without a reboot) and for a
//! process (movable objects).
//!
//! What there is: [`system`], so far reservations of huge pages that are given back exactly.
//!
//! What comes, in this order:
//!
//! - `plan`: a pure function from a snapshot of a pool's occupancy to a list of moves, for "n free
//!   blocks", "one free run of k blocks" and "release what you can".
//! - `execute`: carries a plan out within a budget of bytes and time.
//! - in `system`: the ladder that wins back contiguity for the machine's huge page pools, and says
//!   who stands in the way.
//!
//! The interface that names what must move when pinned memory grows is in `bookend::placement`;
//! the mover that acts on it will live here.
#![deny(missing_docs)]

pub mod system;
