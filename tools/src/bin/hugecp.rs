//! Copies files; see [`bookend_tools::copy`].

use std::process::ExitCode;

use bookend_tools::copy::{options::Options, run};
use clap::Parser;

fn main() -> ExitCode {
    run::run(Options::parse())
}
