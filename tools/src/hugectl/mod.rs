//! What `hugectl` does: one module a command, each thin over `bookend_defrag::system`.
//!
//! - [`status`]: what the machine has, and how broken up it is.

use std::process::ExitCode;

use bookend::os::{Linux, Os};
use bookend::units::PageSize;
use bookend_defrag::system::Files;
use clap::{Parser, Subcommand};

use crate::cli::exit;
use crate::cli::interrupt::Interrupts;

pub mod error;
pub mod status;
pub mod table;

pub use error::Failure;

/// The tool's name in messages.
const TOOL: &str = "hugectl";

/// Shows where contiguous memory went and who holds it, and gets it back without a reboot.
#[derive(Debug, Parser)]
#[command(name = TOOL, version, about, disable_help_subcommand = true, after_help = "\
Exit status: 0 done, 1 failed, 2 bad usage, 3 done in part, 130 or 143 stopped by SIGINT or SIGTERM.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Status(status::Options),
}

/// What every command is given: the machine's files, its base page, and whether to stop.
#[derive(Clone, Debug)]
pub struct Context {
    /// The kernel's files.
    pub files: Files,
    /// The base page.
    pub base: PageSize,
    /// Being asked to stop.
    pub interrupts: Interrupts,
}

/// Runs the tool on the process's command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let interrupts = match Interrupts::note() {
        Ok(interrupts) => interrupts,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    let context = Context { files: Files::of_machine(), base: Linux.base_page_size(), interrupts };
    match run(&cli.command, &context) {
        Ok(status) => ExitCode::from(status),
        Err(error) => exit::fail(TOOL, &error, error.status()),
    }
}

/// The exit status of a command that did not fail.
fn run(command: &Command, context: &Context) -> Result<u8, Failure> {
    match command {
        Command::Status(options) => status::run(options, context),
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
