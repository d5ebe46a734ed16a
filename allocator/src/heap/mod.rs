//! The heap: objects of any size in one span of address space, small ones low and huge ones high.
//!
//! The parts, each seeing only those before it:
//!
//! 1. `classes`: sizes of objects, and how slabs are cut into them.
//! 2. `supply`: whole blocks, from a [pool](crate::pool) where a [placement](crate::placement) says.
//! 3. `filler`: runs of slices of 32 KiB out of blocks, the fullest first.
//! 4. `record`, `tables`: what is known of each slab and slice, out of band.
//! 5. `remote`, `holder`: objects freed by threads that do not own their slab; who has a thread's heap.
//! 6. `central`, `core`, `local`: what is behind the lock, what threads share, and what each has for
//!    itself.
//! 7. `parts`: what lies free in blocks that are in use goes back to the system.
//! 8. `thread`, `tls`, `global`: the doors; `report`: what is printed at the end; [`recording`]: what
//!    went through the doors.
//!
//! An allocation is one of three things: an **object** of a slab (up to 256 KiB), a **run** of
//! slices (up to 1 MiB), or a **huge extent** of whole blocks. Slabs and runs stand in pinned blocks
//! at the low end of the span, huge extents at the high end.

#[cfg(feature = "allocator-api2")]
mod api2;
mod central;
pub(crate) mod classes;
mod config;
mod core;
mod fatal;
pub(crate) mod filler;
mod global;
mod holder;
mod local;
mod lock;
mod parts;
mod record;
pub mod recording;
mod remote;
mod report;
mod stats;
mod supply;
mod tables;
mod thread;
mod tls;

#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use config::{Config, Hugetlb, Report};
pub use global::{Bookend, Configured, raw};
pub use stats::Stats;
