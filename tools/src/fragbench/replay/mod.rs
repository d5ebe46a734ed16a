//! `fragbench replay`: what recorded programs do to memory, under the policies of `week`.
//!
//! - [`trace_file`]: reads a recording; [`slabs`]: from objects to pages and blocks.
//! - [`machine`]: programs side by side, and what they ask for.
//!
//! Policies, samples and report are those of [`week`](super::week).

use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bookend::placement::Unmapped;
use bookend::units::{Blocks, Bytes};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::about::Cost;
use super::plot::Chart;
use super::sink::{Shown, Sink, SinkError};
use super::week::backing::{Corrupt, Nothing};
use super::week::policy::Policy;
use super::week::report::{PolicyReport, Report};
use super::week::sample::look;
use super::week::server::Server;
use super::week::trace::Event;
use crate::cli::interrupt::{Interrupted, Interrupts};
use crate::cli::{exit, format, parse_size};
use machine::{Amount, Course, course};
use trace_file::{Process, ReadError};

pub mod machine;
pub mod slabs;
pub mod trace_file;

/// Of the capacity, what the programs take at most, where none is given.
const OCCUPANCY: f64 = 0.90;

/// Runs recorded programs on a table of blocks under four policies, and shows what stays contiguous
///
/// The recording is of `fragbench record`. Copies of it run side by side, each again and again from
/// another place of it. Their objects are put into slabs, pages and extents, which the policies of
/// `fragbench week` place on a table without memory; the report is that of `week`, with fifths of the run
/// in place of days, and 120 looks in place of hours.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
What can move: extents of whole blocks (longer than 256 KiB) always, as in `week`; of smaller objects
those of some sizes, by chance and the share that --movable gives, because no recording says whose
owners could follow a move.

Exit status: 0 done, 1 failed, 2 bad usage, 130 or 143 stopped by SIGINT or SIGTERM.")]
pub struct Options {
    /// The recording
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Copies of it that run side by side
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    copies: u32,
    /// How often each copy runs through it
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rounds: u32,
    /// Of the sizes of small objects, how many can move, in percent
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100))]
    movable: u8,
    /// Size of the table [default: so that the programs take 90% of it at most]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<Bytes>,
    /// Which random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    sink: Sink,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayFailure {
    /// The recording.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A table that cannot be.
    #[error("--size {0}: give at least a block of 2 MiB and at most 8 PiB")]
    Size(Bytes),
    /// No table.
    #[error(transparent)]
    Table(#[from] Unmapped),
    /// Never without memory behind the table.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The report.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A signal came.
    #[error("interrupted; there is no report of part of a run")]
    Interrupted(u8),
}

impl From<Interrupted> for ReplayFailure {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted.status())
    }
}

impl ReplayFailure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Size(_) => exit::USAGE,
            Self::Interrupted(status) => *status,
            _ => exit::FAILURE,
        }
    }
}

/// The report of a week, by other names.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Replayed(Report);

impl Shown for Replayed {
    fn csv(&self) -> String {
        self.0.csv()
    }

    fn charts(&self) -> Vec<Chart> {
        let mut charts = self.0.charts();
        // Where the table is small nothing of 1 GiB fits at any time.
        charts.retain(|chart| {
            chart.series.iter().flat_map(|series| &series.points).any(|point| point.1.is_finite())
        });
        charts.iter_mut().for_each(|chart| {
            chart.x = "120ths of the run".to_owned();
            chart.title = chart.title.replace("since Monday", "since the run began");
        });
        charts
    }
}

impl fmt::Display for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Plays and prints.
///
/// # Errors
/// [`ReplayFailure`].
pub fn run(options: &Options, interrupts: Interrupts) -> Result<(), ReplayFailure> {
    let begun = Instant::now();
    let mut processes = trace_file::read(&options.file)?;
    let progress = progress();
    progress.set_message("the programs");
    processes.retain(|process| !process.steps.is_empty());
    let amount = Amount {
        copies: options.copies,
        rounds: options.rounds,
        movable: f64::from(options.movable) / 100.0,
        seed: options.seed,
    };
    let show = |done: f64| progress.set_position((done * 100.0) as u64);
    let course = course(&processes, amount, interrupts, show)?;
    let capacity = capacity(options.size, &course)?;
    let mut policies = Vec::new();
    for policy in Policy::ALL {
        progress.set_message(policy.name());
        policies.push(play(policy, capacity, &course, interrupts, show)?);
    }
    progress.finish_and_clear();
    let report = Replayed(Report::new(policies));
    let settings = settings(options, &processes, &course, capacity);
    Ok(options.sink.write(&settings, &report, Cost::of(begun.elapsed()))?)
}

fn settings(options: &Options, processes: &[Process], course: &Course, capacity: Blocks) -> String {
    let name = options.file.file_name().unwrap_or(options.file.as_os_str()).to_string_lossy();
    format!(
        "{name} ({} processes), {} copies through it {} times: {} steps in {}, {}% of small sizes movable, seed {}",
        processes.len(),
        options.copies,
        options.rounds,
        format::count(course.steps),
        capacity.bytes(),
        options.movable,
        options.seed
    )
}

fn capacity(size: Option<Bytes>, course: &Course) -> Result<Blocks, ReplayFailure> {
    let wanted = size.unwrap_or_else(|| Bytes::new((course.peak.get() as f64 / OCCUPANCY) as u64));
    match Blocks::holding(wanted) {
        Some(blocks) if blocks > Blocks::ZERO => Ok(blocks),
        _ => Err(ReplayFailure::Size(wanted)),
    }
}

fn play(
    policy: Policy,
    capacity: Blocks,
    course: &Course,
    interrupts: Interrupts,
    show: impl Fn(f64),
) -> Result<PolicyReport, ReplayFailure> {
    let mut server = Server::new(policy, capacity, Nothing)?;
    let (mut samples, mut moved) = (Vec::new(), Bytes::ZERO);
    for (done, &event) in course.events.iter().enumerate() {
        server.play(event)?;
        if let Event::Hour(hour) = event {
            interrupts.check()?;
            samples.push(look(&mut server, hour, moved));
            moved = server.moved();
            show(done as f64 / course.events.len() as f64);
        }
    }
    Ok(PolicyReport::new(policy, samples))
}

/// On standard error, if that is a terminal.
fn progress() -> ProgressBar {
    let progress = ProgressBar::new(100);
    let template = "{spinner} {msg}: {pos}% {wide_bar}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}
