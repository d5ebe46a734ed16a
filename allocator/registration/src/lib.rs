//! Registers pool memory with those that move data by themselves: io_uring, whose fixed buffers go through
//! the same kernel path (long-term page pinning) as RDMA memory regions, and RDMA devices.
//!
//! A [`Registrar`] makes a [`Region`] of memory that is held ([`bookend::scatter::Held`]: a pool's pin, a
//! scatter list, a pinned object). The region owns what holds it: the memory is neither released nor moved for
//! as long as the kernel or a device may reach it, and this is a type, not a promise.
//!
//! - [`uring`]: io_uring, also shared between rings.
//! - [`verbs`]: RDMA devices, where there are any.
//! - [`ring`]: slots that one machine writes into another over them, with credits.
//! - [`Counting`]: a fake that counts and fails where it is told to.
//! - [`cache`]: registrations keyed by pool blocks, found without a lock, never stale.
//! - [`mod@file`]: mapped files, under a lease.
//! - [`share`]: one registration for many processes.
//! - [`LongTerm`]: movable objects, which go to the pinned end of their arena before they are registered.
#![deny(missing_docs)]

pub mod cache;
mod counting;
mod error;
pub mod file;
mod memlock;
mod movable;
mod pieces;
mod registrar;
pub mod ring;
pub mod share;
pub mod uring;
pub mod verbs;

pub use counting::{Counted, Counting, Counts};
pub use error::RegisterError;
pub use movable::{LongTerm, MovableRegisterError, RegisterMovable};
pub use pieces::Piece;
pub use registrar::{Region, Registrar, RegistrarLimits};
pub use uring::FixedBuffers;
