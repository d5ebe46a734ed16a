//! The machine's contiguity: where it went, who holds it, and getting it back.
//!
//! Each layer sees only those above it:
//!
//! - [`files`]: the files of `/proc` and `/sys` below a root that tests replace.
//! - [`pools`]: reads and writes the sizes of the huge page pools; [`reservation`] grows them for a
//!   while and gives back exactly what was there before.
//! - [`counters`], [`zones`], [`pagetypes`], [`transparent`]: what the kernel tells of its memory;
//!   [`indices`] says from that how broken up it is.
//! - [`status`](mod@status): all of it in one value.
//! - [`survey`]: every block of physical memory, and what stands in its way; [`holders`] and
//!   [`slabs`] say whose it is, and [`blame`](mod@blame) all that in one value.
//! - [`predict`](mod@predict): how many huge pages could be had, before anything is touched.
//! - [`ladder`]: gets them, [`rung`] by rung, on a [`machine`]; that of the [`kernel`] does slow work
//!   in [`bounded`] writes, and [`cgroups`] and [`hotplug`] are two of its means.
//! - [`collapse`](mod@collapse): huge pages for a running process.
//! - [`topology`](mod@topology): nodes, and the devices near each.
//! - [`advice`](mod@advice): settings that the machine should change.

pub mod advice;
pub mod blame;
pub mod bounded;
pub mod cgroups;
mod climber;
pub mod collapse;
pub mod counters;
pub mod files;
pub mod holders;
pub mod hotplug;
pub mod indices;
pub mod kernel;
pub mod ladder;
pub mod machine;
pub mod pagetypes;
pub mod pools;
pub mod predict;
pub mod reservation;
pub mod rung;
pub mod slabs;
mod spread;
pub mod status;
pub mod survey;
pub mod topology;
pub mod transparent;
pub mod zones;

#[cfg(test)]
mod made_up;

pub use files::{FileError, Files};
pub use pools::HugePools;
pub use reservation::Reservation;
