//! `fragbench record`: runs a program with `libbookend.so` preloaded and its recording on.
//!
//! The library appends chunks of 64 KiB to a file beside the one wanted; when the program has ended what
//! they have not used is left out.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bookend::heap::recording::Header;
use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::about::Cost;
use super::heap::allocators::{AllocatorError, ours};
use super::plot::{Chart, Series};
use super::replay::trace_file::{self, Process, ReadError, Step};
use super::sink::{Shown, Sink, SinkError, bytes, quoted};
use crate::cli::interrupt::Interrupts;
use crate::cli::{exit, format};

/// Points of a line in a plot.
const POINTS: usize = 400;

/// Runs a command, and writes down what it and its children allocate and free
///
/// The command runs with libbookend.so preloaded. Programs that are static, have an allocator of their
/// own or change user ids are not recorded. The summary goes to standard error, --json and --csv to
/// standard output, where the command's own output goes too. `fragbench replay` plays the recording.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The recording has addresses and sizes, times in nanoseconds and the names of programs, and nothing of
what was in memory: six to eight bytes a call. Nothing is drawn, so there is no --seed.

Exit status: the command's; 128 and the signal's number where a signal ended it; 125 where there is no
recording though the command ran, 126 where it could not be started, 2 for bad usage.")]
pub struct Options {
    /// Where the recording goes
    #[arg(short, long, value_name = "FILE", default_value = "fragbench.rec")]
    output: PathBuf,
    /// Replace the file if there is one
    #[arg(short, long)]
    force: bool,
    /// libbookend.so, if it is not beside this program or in ../lib
    #[arg(long, value_name = "PATH")]
    library: Option<PathBuf>,
    #[command(flatten)]
    sink: Sink,
    /// The command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<std::ffi::OsString>,
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordFailure {
    /// The library.
    #[error(transparent)]
    Library(#[from] AllocatorError),
    /// A recording is there already.
    #[error("{0:?} is there already; --force replaces it, --output names another file")]
    Exists(PathBuf),
    /// A file.
    #[error("cannot write {path:?}")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The command.
    #[error("cannot run {command:?}")]
    Command {
        /// Which.
        command: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The recording.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The report.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The command failed; it has said so itself.
    #[error("the command ended with {0}")]
    Ended(ExitStatus),
}

/// As env(1) and timeout(1) have them.
const NO_RECORDING: u8 = 125;
const NOT_STARTED: u8 = 126;

impl RecordFailure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Exists(_) | Self::Library(_) => exit::USAGE,
            Self::Command { .. } => NOT_STARTED,
            Self::Ended(status) => {
                let signal = status.signal().map(|signal| 128 + signal);
                status.code().or(signal).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
            }
            _ => NO_RECORDING,
        }
    }
}

/// Runs the command, and writes the recording and a summary.
///
/// # Errors
/// [`RecordFailure`]; [`RecordFailure::Ended`] where all but the command went well.
pub fn run(options: &Options, interrupts: Interrupts) -> Result<(), RecordFailure> {
    let begun = Instant::now();
    if options.output.exists() && !options.force {
        return Err(RecordFailure::Exists(options.output.clone()));
    }
    let library = match &options.library {
        Some(path) => path.canonicalize().map_err(|_| AllocatorError::NoFile(path.clone()))?,
        None => ours()?,
    };
    let raw = Raw::beside(&options.output)?;
    let status = run_command(options, &library, &raw.0, interrupts)?;
    let processes = trace_file::read(&raw.0)?;
    compact(&raw.0, &options.output)?;
    let report = Summary::of(&processes, &options.output);
    let settings = format!("{:?} into {:?}", options.command[0], options.output);
    if options.sink.is_plain() {
        options.sink.write(&settings, &report, Cost::of(begun.elapsed()))?;
    } else {
        exit::remark(&format_args!("{report}"));
        options.sink.plot(&settings, &report)?;
    }
    if status.success() { Ok(()) } else { Err(RecordFailure::Ended(status)) }
}

/// The file that the library appends to; gone when this is.
struct Raw(PathBuf);

impl Raw {
    fn beside(output: &Path) -> Result<Self, RecordFailure> {
        let name = output.file_name().unwrap_or(output.as_os_str()).to_string_lossy();
        let path = output.with_file_name(format!(".{name}.{}", std::process::id()));
        let written = |cause| RecordFailure::Write { path: output.to_owned(), cause };
        File::create(&path).map_err(written)?;
        Ok(Self(path.canonicalize().map_err(written)?))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // in the course of whatever else there is to tell
    }
}

fn run_command(
    options: &Options,
    library: &Path,
    raw: &Path,
    interrupts: Interrupts,
) -> Result<ExitStatus, RecordFailure> {
    let command = &options.command[0];
    let failed = |cause| RecordFailure::Command { command: command.into(), cause };
    let mut child = Command::new(command)
        .args(&options.command[1..])
        .env("LD_PRELOAD", library)
        .env("BOOKEND_RECORD", raw)
        .spawn()
        .map_err(failed)?;
    let mut passed = false;
    loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            return Ok(status);
        }
        if interrupts.check().is_err() && !passed {
            // One that came from a terminal it has as well; then this does no harm.
            let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
            passed = true;
        }
        sleep(Duration::from_millis(5));
    }
}

/// Copies the chunks without the room that they have not used.
fn compact(raw: &Path, output: &Path) -> Result<(), RecordFailure> {
    let failed = |cause| RecordFailure::Write { path: output.to_owned(), cause };
    let file = fs::read(raw).map_err(failed)?;
    let mut to = BufWriter::new(File::create(output).map_err(failed)?);
    for (_, header, used) in trace_file::chunks(&file).flatten() {
        let header = Header { room: header.used, ..header };
        to.write_all(&header.to_bytes()).and_then(|()| to.write_all(used)).map_err(failed)?;
    }
    to.flush().map_err(failed)
}

/// What was recorded of a process.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// Its program.
    pub program: String,
    /// Its number.
    pub process: u32,
    /// Threads' heaps.
    pub threads: u32,
    /// Allocations and frees.
    pub events: u64,
    /// Bytes allocated in all.
    pub allocated: u64,
    /// Most bytes that lived at a time.
    pub peak: u64,
    /// From its first event to its last.
    pub seconds: f64,
    /// Frees of what it had not allocated: its parent had, or it came before the recording.
    pub unknown_frees: u64,
    /// Events that were lost.
    pub lost: u64,
    /// Seconds since the first process began, and bytes that lived.
    #[serde(skip)]
    live: Vec<(f64, u64)>,
}

/// What was recorded.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// Bytes of the file.
    pub file_bytes: u64,
    /// In the order in which they began.
    pub processes: Vec<Row>,
}

impl Summary {
    fn of(processes: &[Process], file: &Path) -> Self {
        let began = processes.first().map_or(0, |process| process.began_ns);
        let rows = processes.iter().map(|process| Row {
            program: process.program.clone(),
            process: process.number,
            threads: process.threads,
            events: process.steps.len() as u64,
            allocated: process.bytes,
            peak: process.peak,
            seconds: (process.ended_ns - process.began_ns) as f64 / 1e9,
            unknown_frees: process.unknown,
            lost: process.lost,
            live: live(process, began),
        });
        let file_bytes = fs::metadata(file).map_or(0, |metadata| metadata.len());
        Self { file_bytes, processes: rows.collect() }
    }
}

/// Live bytes over time, at some hundred points.
fn live(process: &Process, began_ns: u64) -> Vec<(f64, u64)> {
    let every = (process.steps.len() / POINTS).max(1);
    let mut sizes = vec![0; process.objects as usize];
    let mut live = 0;
    let mut points = Vec::new();
    for (n, (step, time)) in process.steps.iter().zip(&process.times_ns).enumerate() {
        match *step {
            Step::Make(object, bytes) => {
                sizes[object as usize] = bytes;
                live += bytes;
            }
            Step::End(object) => live -= sizes[object as usize],
        }
        if n % every == 0 || n + 1 == process.steps.len() {
            points.push(((time - began_ns) as f64 / 1e9, live));
        }
    }
    points
}

impl Shown for Summary {
    fn csv(&self) -> String {
        let mut text =
            "program,process,threads,events,allocated,peak,seconds,unknown_frees,lost".to_owned();
        for r in &self.processes {
            text.push_str(&format!(
                "\n{},{},{},{},{},{},{:.6},{},{}",
                quoted(&r.program),
                r.process,
                r.threads,
                r.events,
                r.allocated,
                r.peak,
                r.seconds,
                r.unknown_frees,
                r.lost
            ));
        }
        text
    }

    /// The processes with the highest peaks.
    fn charts(&self) -> Vec<Chart> {
        let mut rows: Vec<_> = self.processes.iter().collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.peak));
        let series = rows.into_iter().take(6).map(|row| Series {
            name: format!("{} {}", row.program, row.process),
            points: row.live.iter().map(|&(x, y)| (x, y as f64 / (1u64 << 20) as f64)).collect(),
        });
        vec![Chart {
            title: "Memory in use".to_owned(),
            x: "seconds since the first process began".to_owned(),
            y: "MiB asked for and not freed".to_owned(),
            y_end: None,
            series: series.collect(),
            ..Chart::default()
        }]
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events: u64 = self.processes.iter().map(|row| row.events).sum();
        write!(
            f,
            "{} events in {} ({:.1} bytes each)\n{:<16} {:>8} {:>8} {:>12} {:>11} {:>11} {:>9} {:>8}",
            format::count(events),
            bytes(self.file_bytes),
            self.file_bytes as f64 / events.max(1) as f64,
            "program",
            "process",
            "threads",
            "events",
            "allocated",
            "peak",
            "time",
            "lost"
        )?;
        for r in &self.processes {
            write!(
                f,
                "\n{:<16} {:>8} {:>8} {:>12} {:>11} {:>11} {:>9} {:>8}",
                r.program,
                r.process,
                r.threads,
                format::count(r.events),
                bytes(r.allocated),
                bytes(r.peak),
                format::duration(Duration::from_secs_f64(r.seconds)),
                r.lost
            )?;
        }
        Ok(())
    }
}
