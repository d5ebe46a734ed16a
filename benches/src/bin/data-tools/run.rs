//! Running a command, and what it took.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::programs::Outcome;

/// What every program is given.
#[derive(Debug)]
pub struct Context<'a> {
    /// Little data.
    pub quick: bool,
    /// A directory that is removed afterwards.
    pub scratch: &'a Path,
    /// A Python that may have duckdb and polars.
    pub python: &'a Path,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// A checksum of what the program said.
    pub answer: String,
    /// From start to end.
    pub seconds: f64,
    /// The most memory that it or one child of its held at a time.
    pub peak_mib: f64,
}

/// The run with the median time.
pub fn median(samples: &[Sample]) -> Sample {
    let mut sorted = samples.to_vec();
    sorted.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
    sorted[sorted.len() / 2].clone()
}

/// Makes a command that runs with an allocator.
pub fn command(program: impl AsRef<std::ffi::OsStr>, allocator: Option<&Path>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    if let Some(allocator) = allocator {
        command.env("LD_PRELOAD", allocator);
    }
    command
}

/// Runs a command to its end; the answer is its standard output.
pub fn measure(mut command: Command) -> Outcome {
    let name = command.get_program().to_string_lossy().into_owned();
    let start = Instant::now();
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Outcome::Missing(format!("{name} is not installed"));
        }
        Err(error) => return Outcome::Failed(format!("{name}: {error}")),
    };
    // Standard error is read beside, so that neither pipe fills up.
    let mut errors = child.stderr.take();
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        let _ = errors.as_mut().map(|errors| errors.read_to_string(&mut text));
        text
    });
    let mut hasher = blake3::Hasher::new();
    if let Some(mut output) = child.stdout.take() {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(n @ 1..) = output.read(&mut buffer) {
            hasher.update(&buffer[..n]);
        }
    }
    let errors = errors.join().unwrap_or_default();
    match wait(&child) {
        Ok((0, peak_mib)) => Outcome::Ran(Sample {
            answer: hasher.finalize().to_hex().to_string(),
            seconds: start.elapsed().as_secs_f64(),
            peak_mib,
        }),
        Ok((status, _)) => {
            let tail: String = errors.chars().rev().take(300).collect();
            let tail: String = tail.chars().rev().collect();
            Outcome::Failed(format!("{name} ended with status {status:#x}: {tail}"))
        }
        Err(error) => Outcome::Failed(format!("{name}: {error}")),
    }
}

/// Waits for a child: its status, and the most memory it held.
#[allow(unsafe_code)] // wait4(2), which the standard library does not have
fn wait(child: &std::process::Child) -> std::io::Result<(i32, f64)> {
    let mut status = 0;
    // SAFETY: zeros are a value of it.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    let id = libc::pid_t::try_from(child.id()).expect("process numbers fit");
    // SAFETY: both are ours to write; the child is ours and nobody else waits for it.
    if unsafe { libc::wait4(id, &mut status, 0, &mut usage) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok((status, usage.ru_maxrss as f64 / 1024.0))
}
