//! What `fragbench` does: one module a mode.
//!
//! - [`scatter`]: how many scatter-gather entries a buffer takes, by page size.
//! - [`system`]: ages the machine and compares ways to get huge pages out of it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::exit;
use crate::cli::interrupt::Interrupts;

pub mod memory;
pub mod obtain;
pub mod report;
pub mod scatter;
pub mod system;

/// The tool's name in messages.
const TOOL: &str = "fragbench";

/// Measures how contiguous memory is.
#[derive(Debug, Parser)]
#[command(name = TOOL, version, about, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    Scatter(scatter::Options),
    System(system::Options),
}

/// Runs the tool on the process's command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let interrupts = match Interrupts::note() {
        Ok(interrupts) => interrupts,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    match cli.mode {
        Mode::Scatter(options) => match scatter::run(&options, interrupts) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::fail(TOOL, &error, error.status()),
        },
        Mode::System(options) => match system::run(&options, interrupts) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => exit::fail(TOOL, &error, error.status()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
