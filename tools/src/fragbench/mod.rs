//! What `fragbench` does: one module a mode.
//!
//! - [`heap`]: what memory allocators hold when workloads have made their heaps old.
//! - [`record`]: writes down what a program allocates; [`replay`]: plays that under the policies of `week`.
//! - [`register`]: what it costs to register a buffer, by page size.
//! - [`scatter`]: how many scatter-gather entries a buffer takes, by page size.
//! - [`system`]: ages the machine and compares ways to get huge pages out of it.
//! - [`week`]: what is contiguous on Friday, under four policies.
//!
//! They share [`about`] (machine and cost of a run), [`sink`] (where a report
//! goes) and [`plot`].

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::cli::exit;
use crate::cli::interrupt::Interrupts;

pub mod about;
pub mod heap;
pub mod memory;
pub mod obtain;
pub mod plot;
pub mod record;
pub mod register;
pub mod replay;
pub mod report;
pub mod scatter;
pub mod sink;
pub mod system;
pub mod week;

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
    Heap(heap::Options),
    #[command(name = heap::child::MODE)]
    HeapChild(heap::child::Order),
    Record(record::Options),
    Register(register::Options),
    Replay(replay::Options),
    Scatter(scatter::Options),
    System(system::Options),
    Week(week::Options),
}

/// Runs the tool on the process's command line.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let interrupts = match Interrupts::note() {
        Ok(interrupts) => interrupts,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    match cli.mode {
        Mode::Heap(options) => ended(heap::run(&options, interrupts), heap::HeapFailure::status),
        Mode::HeapChild(order) => ended(heap::child::run(&order), heap::child::ChildError::status),
        Mode::Record(options) => {
            ended(record::run(&options, interrupts), record::RecordFailure::status)
        }
        Mode::Replay(options) => {
            ended(replay::run(&options, interrupts), replay::ReplayFailure::status)
        }
        Mode::Register(options) => {
            ended(register::run(&options, interrupts), scatter::ScatterFailure::status)
        }
        Mode::Scatter(options) => {
            ended(scatter::run(&options, interrupts), scatter::ScatterFailure::status)
        }
        Mode::System(options) => {
            ended(system::run(&options, interrupts), system::SystemFailure::status)
        }
        Mode::Week(options) => ended(week::run(&options, interrupts), week::WeekFailure::status),
    }
}

/// The exit code of a mode, and its error on standard error.
fn ended<E: std::error::Error>(result: Result<(), E>, status: fn(&E) -> u8) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::fail(TOOL, &error, status(&error)),
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
