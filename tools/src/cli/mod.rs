//! What the tools' front ends share: sizes in and out, JSON out, and how a process ends.
//!
//! - [`size`]: `4G`, `512K`, `1.5GiB` to bytes, as a clap value parser.
//! - [`mod@format`]: counts, rates and times as people read them.
//! - [`output`]: lines and JSON on standard output, where a reader may have gone away.
//! - [`exit`]: exit statuses, and the one line on standard error that goes with a failure.
//! - [`mod@generate`]: man pages and shell completions.
//! - [`terminal`]: how large it is.
//! - [`interrupt`]: being asked to stop, where something must be put back first.

pub mod exit;
pub mod format;
pub mod generate;
pub mod interrupt;
pub mod output;
pub mod size;
pub mod terminal;

pub use size::parse_size;
