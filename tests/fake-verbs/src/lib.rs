//! A libibverbs for tests of what no software device has: importing by the driver, on-demand paging, DMA
//! buffers, and errors of every operation.
//!
//! Its soname is libibverbs.so.1: a test that loads it by its path ([`dlopen(3)`]) is given it by whoever then
//! asks for libibverbs, in that process alone. Nothing in the registration crate knows of it.
//!
//! # The devices
//! `fake0` has all of it; `fake1` has neither on-demand paging, nor DMA buffers, windows or import. No data moves.
//! Their file (`cmd_fd`) is a memfd with a table of objects (`table.rs`), which stands for the kernel's side: who
//! is passed the descriptor and imports it sees the same objects. What is wrong is written down there and
//! stays for [`fake_verbs_report`].
//!
//! # What a test can call besides
//! [`fake_verbs_fail`], [`fake_verbs_report`], [`fake_verbs_forget`].
//!
//! [`dlopen(3)`]: https://man7.org/linux/man-pages/man3/dlopen.3.html
#![deny(missing_docs)]
#![allow(unsafe_code)] // is called from C's side of the interface
#![allow(clippy::missing_safety_doc)] // infiniband/verbs.h has the contracts; what breaks them is reported

mod control;
mod device;
mod local;
mod memory;
mod table;

pub use control::{fake_verbs_fail, fake_verbs_forget, fake_verbs_report};
