//! What Bookend's cross-crate tests stand on.
//!
//! - [`machine`]: the lock that whoever changes the machine holds, and guards that change it and
//!   put it back: huge page pools, loop devices with file systems, cgroups.
//! - [`tools`]: the binaries under test, built once, and what a run of one gave.
//! - [`child`]: a test in two processes.
//! - [`data`]: files of random bytes, sparse files, comparison byte for byte.
//! - [`lab`]: the virtual machine with two nodes, RDMA and drives.
//! - [`skip`]: how a test that cannot run here says so.
#![deny(missing_docs)]

pub mod child;
pub mod data;
pub mod lab;
pub mod machine;
pub mod skip;
pub mod tools;

/// The README's example, compiled and run.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
