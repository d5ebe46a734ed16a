//! The libraries behind Bookend's tools; the binaries are thin shells around them.
//!
//! - [`copy`]: what `hugecp` does.
#![deny(missing_docs)]

pub mod copy;
