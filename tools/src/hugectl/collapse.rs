//! `hugectl collapse`: makes huge pages of a running process's memory.

use std::time::Duration;

use bookend::units::Bytes;
use bookend_defrag::system::collapse::{CollapseError, Collapsed, collapse};
use clap::Args;

use super::{Context, Failure};
use crate::cli::interrupt::Interrupts;
use crate::cli::{exit, format, output};

/// Makes transparent huge pages of a process's large anonymous ranges
///
/// The process runs on; whoever touches a block that is being collapsed waits for it, some hundred
/// microseconds. Needs CAP_SYS_NICE and the right to trace the process, and Linux 6.1.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// The process
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: u32,
    /// Spend no more than so many milliseconds
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    budget_ms: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Collapses, and prints what came of it.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let budget = Duration::from_millis(options.budget_ms);
    let done = collapse(&context.files, options.pid, budget, Interrupts::any)?;
    context.interrupts.check()?;
    let written = if options.json { output::json(&done) } else { output::line(text(&done)) };
    written.map_err(Failure::Output)?;
    let is_whole = done.refused == 0 && !done.out_of_time;
    Ok(if is_whole { exit::SUCCESS } else { exit::PARTLY })
}

impl From<CollapseError> for Failure {
    fn from(error: CollapseError) -> Self {
        match error {
            CollapseError::Process {
                source: bookend_defrag::system::FileError::Absent { .. },
                pid,
            } => Self::Usage(format!("--pid {pid}: there is no such process")),
            other => Self::Other(Box::new(other)),
        }
    }
}

fn text(done: &Collapsed) -> String {
    let size = |bytes| Bytes::new(bytes).to_string();
    let early = if done.out_of_time { "; the budget ended it" } else { "" };
    format!(
        "{} of {} blocks are huge pages now ({} before, {} now), {} could not be; \
         the longest took {}{early}",
        format::count(done.collapsed),
        format::count(done.tried),
        size(done.huge_bytes_before),
        size(done.huge_bytes_after),
        format::count(done.refused),
        format::duration(Duration::from_micros(done.longest_us)),
    )
}
