//! `fragbench heap`: allocators under workloads that make a heap old.
//!
//! - [`workload`]: what is done; [`values`]: with whose values; [`table`]: the workload's own books.
//! - [`resident`], [`watch`]: what is seen of the heap meanwhile.
//! - [`allocators`]: whose `malloc` it is; [`child`]: each in a process of its own.
//! - [`report`]: what comes out.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bookend::units::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::about::Cost;
use super::memory;
use super::sink::{Sink, SinkError};
use crate::cli::exit;
use crate::cli::interrupt::{Interrupted, Interrupts};
use allocators::{Allocator, AllocatorError};
use report::{Group, Outcome, Report, Row};
use workload::Workload;

pub mod allocators;
pub mod child;
pub mod report;
pub mod resident;
pub mod table;
pub mod values;
pub mod watch;
pub mod workload;

/// Lets workloads age the heaps of several allocators, and shows what memory they hold in the end
///
/// Each workload runs once over each allocator, in a process of its own into which the allocator's
/// library is preloaded. Memory is what is resident of the process's anonymous mappings and memory files,
/// without the workload's own books.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Allocators:
  glibc                          the C library's, nothing preloaded
  bookend                        libbookend.so, beside this program or in ../lib
  mimalloc, jemalloc, tcmalloc   where they are installed
  /path/lib.so                   any other, by a path with a / in it
  movable                        values that can move, with Bookend's defragmenter beside them

Workloads, each of 100 MiB at most (times --scale):
  lru       the cache of Mesh's paper: 700,000 values of 240 bytes, then 170,000 of 492
  drift     values whose usual size grows from 64 bytes to 8 KiB
  sawtooth  filled to 100 MiB and emptied to 10, six times, with short and long values in turn
  sessions  a server of four threads that end each other's sessions, two days and two nights

Columns: the most memory that was resident, over the most bytes that the workload had asked for; the
same at the end, after a rest of two seconds; the part of it in huge pages; blocks of 2 MiB that ever
had a page, and those of them without one at the end; the workload's time. --csv has every look.

Exit status: 0 done, 1 failed, 2 bad usage, 3 an allocator is not here or failed (its row says why),
130 or 143 stopped by SIGINT or SIGTERM.")]
pub struct Options {
    /// Allocators, in this order
    #[arg(
        long,
        value_name = "NAME|PATH,...",
        value_delimiter = ',',
        default_value = "glibc,bookend,mimalloc,jemalloc,tcmalloc,movable"
    )]
    allocators: Vec<Allocator>,
    /// Workloads, in this order
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', default_values = ["lru", "drift", "sawtooth", "sessions"])]
    workloads: Vec<Workload>,
    /// How much of each workload: 1 takes 100 MiB
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    scale: f64,
    /// Which random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    sink: Sink,
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.001..=1000.0).contains(&scale) => Ok(scale),
        _ => Err("give a number from 0.001 to 1000".to_owned()),
    }
}

/// Why there is no report, or only part of one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeapFailure {
    /// An allocator that cannot be.
    #[error(transparent)]
    Allocator(#[from] AllocatorError),
    /// Not so much memory is free.
    #[error(
        "--scale {scale} takes some {needed} of memory, and {available} are available here; give a \
         smaller scale"
    )]
    Memory {
        /// What was asked for.
        scale: f64,
        /// What that takes.
        needed: Bytes,
        /// What there is.
        available: Bytes,
    },
    /// This program cannot start itself.
    #[error("cannot start a process for a workload")]
    Child(#[source] io::Error),
    /// The report.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// Not all of it.
    #[error("some allocators were not measured; their rows say why")]
    Partial,
    /// A signal came.
    #[error("interrupted; there is no report of part of the workloads")]
    Interrupted(u8),
}

impl From<Interrupted> for HeapFailure {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted.status())
    }
}

impl HeapFailure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Allocator(_) => exit::USAGE,
            Self::Partial => exit::PARTLY,
            Self::Interrupted(status) => *status,
            _ => exit::FAILURE,
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// [`HeapFailure`].
pub fn run(options: &Options, interrupts: Interrupts) -> Result<(), HeapFailure> {
    let begun = Instant::now();
    check_memory(options.scale)?;
    let report = measure_all(options, interrupts)?;
    let settings = format!("Heaps of up to {}, seed {}", limit(options.scale), options.seed);
    options.sink.write(&settings, &report, Cost::of(begun.elapsed()))?;
    if report.is_partial() { Err(HeapFailure::Partial) } else { Ok(()) }
}

fn limit(scale: f64) -> Bytes {
    Bytes::new(workload::limit(scale))
}

/// A heap may be four times as large as what is in it, its books as large again.
fn check_memory(scale: f64) -> Result<(), HeapFailure> {
    let needed = Bytes::new(workload::limit(scale).saturating_mul(5));
    match memory::available() {
        Some(available) if needed > available => {
            Err(HeapFailure::Memory { scale, needed, available })
        }
        _ => Ok(()),
    }
}

fn measure_all(options: &Options, interrupts: Interrupts) -> Result<Report, HeapFailure> {
    let libraries: Vec<_> = options.allocators.iter().map(Allocator::library).collect();
    let progress = progress((options.workloads.len() * libraries.len()) as u64);
    let mut workloads = Vec::new();
    for &name in &options.workloads {
        let mut rows = Vec::new();
        for (allocator, library) in options.allocators.iter().zip(&libraries) {
            interrupts.check()?;
            progress.set_message(format!("{} with {allocator}", name.name()));
            let outcome = match library {
                Err(why) => Outcome::Unavailable { unavailable: why.to_string() },
                Ok(library) => one(options, allocator, library.as_ref(), name, interrupts)?,
            };
            rows.push(Row { name: allocator.to_string(), outcome });
            progress.inc(1);
        }
        workloads.push(Group { name, allocators: rows });
    }
    progress.finish_and_clear();
    Ok(Report { workloads })
}

fn one(
    options: &Options,
    allocator: &Allocator,
    library: Option<&PathBuf>,
    workload: Workload,
    interrupts: Interrupts,
) -> Result<Outcome, HeapFailure> {
    let movable = *allocator == Allocator::Movable;
    let numbers = (options.seed, options.scale);
    let path = library.map(PathBuf::as_path);
    match child::measure(path, movable, workload, numbers, interrupts) {
        Ok(Ok(seen)) => Ok(Outcome::Measured(seen.into())),
        Ok(Err(unavailable)) => {
            interrupts.check()?; // it may be the reason
            Ok(Outcome::Unavailable { unavailable })
        }
        Err(error) => {
            interrupts.check()?;
            Err(HeapFailure::Child(error))
        }
    }
}

/// On standard error, if that is a terminal.
fn progress(runs: u64) -> ProgressBar {
    let progress = ProgressBar::new(runs);
    let template = "{spinner} {msg}: {pos} of {len}, {eta} left {wide_bar}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}
