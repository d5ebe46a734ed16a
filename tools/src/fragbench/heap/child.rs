//! One workload over one allocator, in a process of its own.
//!
//! `fragbench` starts itself again with the library preloaded and a hidden mode, which prints what was
//! seen as JSON.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use bookend::units::Bytes;
use clap::Args;

use super::allocators::{AllocatorError, check_used};
use super::values::{Counted, Malloc, Moving, ValueError, Values};
use super::watch::{Seen, Watch};
use super::workload::{self, Workload, WorkloadError};
use crate::cli::interrupt::Interrupts;
use crate::cli::{exit, output};

/// What the hidden mode is called.
pub const MODE: &str = "heap-child";

/// Runs one workload and prints what was seen (started by `fragbench heap`)
#[derive(Clone, Debug, Args)]
#[command(hide = true)]
pub struct Order {
    /// Which workload
    #[arg(long)]
    workload: Workload,
    /// The random numbers
    #[arg(long)]
    seed: u64,
    /// How much of it
    #[arg(long)]
    scale: f64,
    /// Values move
    #[arg(long)]
    movable: bool,
    /// The library that `malloc` must be of
    #[arg(long)]
    library: Option<PathBuf>,
}

/// Why a child has nothing to tell.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChildError {
    /// It is not the allocator that was asked for.
    #[error(transparent)]
    Allocator(#[from] AllocatorError),
    /// The workload stopped.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// There is no movable heap.
    #[error(transparent)]
    Values(#[from] ValueError),
    /// The heap cannot be watched, or nothing be written.
    #[error("cannot watch the heap, or write what was seen")]
    Watch(#[from] io::Error),
}

impl ChildError {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        exit::FAILURE
    }
}

/// In the child.
///
/// # Errors
/// [`ChildError`].
pub fn run(order: &Order) -> Result<(), ChildError> {
    if let Some(library) = &order.library {
        check_used(library)?;
    }
    let seen = if order.movable {
        watched(Moving::new(Bytes::new(workload::limit(order.scale)))?, order)?
    } else {
        watched(Malloc, order)?
    };
    Ok(output::json(&seen)?)
}

fn watched<V: Values>(values: V, order: &Order) -> Result<Seen, ChildError> {
    let values = Counted::new(values);
    let mut watch = Watch::new()?;
    workload::run(order.workload, &values, order.seed, order.scale, &mut watch)?;
    Ok(watch.seen(&values))
}

/// Runs a child; what it has seen, or why it has nothing to tell.
///
/// # Errors
/// Where it cannot be started, or a signal came, which ends it.
pub fn measure(
    library: Option<&Path>,
    movable: bool,
    workload: Workload,
    (seed, scale): (u64, f64),
    interrupts: Interrupts,
) -> io::Result<Result<Seen, String>> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([MODE, "--workload", workload.name()])
        .args(["--seed", &seed.to_string(), "--scale", &scale.to_string()])
        .args(movable.then_some("--movable"))
        .env_remove("LD_PRELOAD")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(library) = library {
        command.arg("--library").arg(library).env("LD_PRELOAD", library);
    }
    let child = command.spawn()?;
    ended(child, interrupts)
}

fn ended(mut child: Child, interrupts: Interrupts) -> io::Result<Result<Seen, String>> {
    // What it prints fits into a pipe.
    while child.try_wait()?.is_none() {
        if interrupts.check().is_err() {
            child.kill()?;
            child.wait()?;
            return Err(io::ErrorKind::Interrupted.into());
        }
        sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output()?;
    if let Some(signal) = output.status.signal() {
        return Ok(Err(format!("it was killed by signal {signal}")));
    }
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let last = text.lines().last().unwrap_or("it failed and said nothing");
        return Ok(Err(last.trim_start_matches("fragbench: ").to_owned()));
    }
    Ok(serde_json::from_slice(&output.stdout).map_err(|error| format!("it told nonsense: {error}")))
}
