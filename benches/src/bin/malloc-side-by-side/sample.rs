//! One run of one pattern with one allocator.

use std::io;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::{Signal, kill};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::allocators::Allocator;
use crate::programs::{Kind, Pattern};

/// What one run gave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Sample {
    pub wall: f64,
    /// Seconds of user and system time.
    pub processor: f64,
    pub peak_kib: f64,
    pub operations: f64,
    /// Seconds of the part that the pattern is about, where that is not the whole.
    pub part: Option<f64>,
    /// Of resident heap memory, how much was in huge pages.
    pub coverage: Option<f64>,
}

impl Sample {
    /// The time that counts: of the part that the pattern is about, or of the whole program.
    pub fn seconds(&self) -> f64 {
        self.part.unwrap_or(self.wall)
    }

    pub fn to_json(self) -> Value {
        json!({
            "wall_seconds": self.wall,
            "processor_seconds": self.processor,
            "peak_kib": self.peak_kib,
            "operations": self.operations,
            "part_seconds": self.part,
            "coverage": self.coverage,
        })
    }
}

/// How much of a pattern runs, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    pub scale: f64,
    pub threads: u32,
    pub at_most: Duration,
}

/// Runs it once.
///
/// # Errors
/// It could not be started, failed, printed something else, or took too long and was killed; the
/// text says which.
pub fn run(pattern: &Pattern, allocator: &Allocator, amount: &Amount) -> Result<Sample, String> {
    let mut command = Command::new(pattern.program_of(allocator));
    command.arg(&pattern.name).args(["--scale", &amount.scale.to_string()]);
    command.args(["--threads", &amount.threads.to_string()]);
    preload(&mut command, allocator.preload.as_deref());
    let used = processor_of_children().map_err(|error| error.to_string())?;
    let begun = Instant::now();
    let (status, said) = output(&mut command, amount.at_most)?;
    let wall = begun.elapsed().as_secs_f64();
    let processor = processor_of_children().map_err(|error| error.to_string())? - used;
    if !status.success() {
        return Err(format!("{status}: {}", said.complaint.trim()));
    }
    let figure = |name: &str| {
        let line = said.figures.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse::<f64>().ok())
    };
    let told = |name: &str| figure(name).ok_or_else(|| format!("printed no {name}"));
    let part = if pattern.kind == Kind::Work { None } else { Some(told("seconds")?) };
    Ok(Sample {
        wall,
        processor: processor.as_secs_f64(),
        peak_kib: told("peak_kib")?,
        operations: told("operations")?,
        part,
        coverage: figure("coverage"),
    })
}

/// Puts an allocator in front of the C library's; whatever this program was started with does not count.
pub fn preload(command: &mut Command, library: Option<&Path>) {
    match library {
        Some(path) => command.env("LD_PRELOAD", path),
        None => command.env_remove("LD_PRELOAD"),
    };
}

/// What a program printed.
#[derive(Debug)]
pub struct Said {
    pub figures: String,
    pub complaint: String,
}

/// Runs a command to its end, or kills it after a time.
///
/// # Errors
/// It could not be started, or was killed for taking too long.
pub fn output(command: &mut Command, at_most: Duration) -> Result<(ExitStatus, Said), String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().map_err(|error| error.to_string())?;
    let id = Pid::from_raw(child.id().cast_signed());
    let (ended, end) = mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let late = end.recv_timeout(at_most) == Err(RecvTimeoutError::Timeout);
        if late {
            // It has not been waited for until the other side says so, or a moment before.
            let _ = kill(id, Signal::SIGKILL);
        }
        late
    });
    let output = child.wait_with_output();
    let _ = ended.send(());
    let late = watchdog.join().unwrap_or(false);
    let output = output.map_err(|error| error.to_string())?;
    if late {
        return Err(format!("killed after {} seconds", at_most.as_secs()));
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status, Said { figures: text(&output.stdout), complaint: text(&output.stderr) }))
}

fn processor_of_children() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}
