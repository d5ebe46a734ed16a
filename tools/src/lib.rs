//! The libraries behind Bookend's tools; the binaries are thin shells around them.
//!
//! - [`cli`]: what the front ends share.
//! - [`copy`]: what `hugecp` does.
//! - [`fragbench`]: what `fragbench` does.
//! - [`hugectl`]: what `hugectl` does.
#![deny(missing_docs)]

pub mod cli;
pub mod copy;
pub mod fragbench;
pub mod hugectl;
pub mod remote;
