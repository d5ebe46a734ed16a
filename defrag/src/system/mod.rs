//! The machine's huge page pools.
//!
//! - [`pools`]: reads and writes their sizes, through the files of sysfs.
//! - [`reservation`]: grows them for a while and gives back exactly what was there before.

pub mod pools;
pub mod reservation;

pub use pools::{HugePools, PoolsError};
pub use reservation::Reservation;
