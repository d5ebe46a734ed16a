//! The whole program: a command line in, files copied, an exit status out.

use std::fs::File;
use std::io::IsTerminal;
use std::os::unix::fs::FileTypeExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::error::ErrorKind;

use super::capabilities;
#[cfg(feature = "mpi")]
use super::cluster;
use super::cluster::launcher;
use super::engine::Progress;
use super::error::FileError;
use super::file::{Copier, Ended};
use super::generate;
use super::manifest::Manifest;
use super::manifest_file::{self, Here};
use super::options::{self, Options};
use super::out::Out;
use super::progress::Monitor;
use super::quote::quote;
use super::report::{self, FileReport, Outcome};
use super::request::{Destination, Endpoint, Request, Settings, UsageError};
use super::resolve::{self, Task};
use super::run_check;
use super::run_trees;
use super::signals::{self, Signals, Stopped};
use super::source::device_len;
use crate::cli::exit;
use crate::remote::request::Wanted;
use crate::remote::{client, comparison, host};

/// Name in messages.
pub(super) const TOOL: &str = "hugecp";

/// What a shell reports of a process that a closed pipe ended: 128 and SIGPIPE.
pub(super) const PIPE_CLOSED: u8 = 141;

/// Does what `options` ask for. Messages go to standard error, results to standard output.
pub fn run(options: Options) -> ExitCode {
    // Before any thread, and for what is served to others too.
    if let Err(error) = signals::hold_file_limit() {
        return exit::fail(TOOL, &error, exit::FAILURE);
    }
    if let Some(what) = options.generate {
        return match generate::generate(what, &mut std::io::stdout().lock()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
            Err(error) => exit::fail(TOOL, &error, exit::FAILURE),
        };
    }
    if options.remote.serve.is_some() {
        return host::serve(&options.remote);
    }
    if options.remote.remote_side {
        return host::remote_side(&options.remote);
    }
    match Wanted::new(&options) {
        Ok(Some(wanted)) if wanted.task.check => return comparison::check(&wanted, &options),
        Ok(Some(wanted)) => return client::copy(&wanted),
        Ok(None) => {}
        Err(error) => return misused(error),
    }
    if options.check {
        return match launcher::here() {
            Some((count, variable)) => check_together(count, variable),
            None => run_check::check(&options),
        };
    }
    let asks_capabilities = options.capabilities;
    match Request::new(options) {
        Ok(request) if asks_capabilities => tell_capabilities(&request),
        Ok(request) => copy(request),
        Err(error) => misused(error),
    }
}

/// Copies, alone or as one of several processes.
fn copy(request: Request) -> ExitCode {
    let is_shard = request.trees.as_ref().is_some_and(|wishes| wishes.shard.is_some());
    match launcher::here().filter(|_| !is_shard) {
        Some((count, variable)) => copy_together(request, count, variable),
        None => match &request.trees {
            Some(wishes) => run_trees::copy(&request, wishes),
            None => copy_all(&request),
        },
    }
}

#[cfg(feature = "mpi")]
fn copy_together(request: Request, count: u64, variable: &str) -> ExitCode {
    let signals = match Signals::hold() {
        Ok(signals) => signals, // before the first thread of MPI
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    let Some(world) = cluster::mpi::World::start() else {
        exit::complain(TOOL, &"cannot start MPI, of which it needs one thread beside others");
        return ExitCode::from(exit::FAILURE);
    };
    if cluster::Ranks::count(&world) as u64 == count {
        return cluster::run::copy(request, &world, signals);
    }
    let message = format!(
        "{variable} says that {count} processes were started, and MPI sees {}: this hugecp was built with \
         another MPI than that of the launcher; use its own mpirun",
        cluster::Ranks::count(&world)
    );
    exit::complain(TOOL, &message);
    ExitCode::from(exit::FAILURE)
}

#[cfg(not(feature = "mpi"))]
fn copy_together(_request: Request, count: u64, variable: &str) -> ExitCode {
    let message = format!(
        "this is one of {count} processes ({variable}), each of which would copy the same, and this build has \
         no MPI by which to divide the work: build it with --features mpi, start one process, or give each its \
         --shard I/{count}"
    );
    exit::complain(TOOL, &message);
    ExitCode::from(exit::USAGE)
}

/// Several processes would each compare the same.
fn check_together(count: u64, variable: &str) -> ExitCode {
    let message = format!(
        "--check is for one process, with --manifest too, and this is one of {count} ({variable}): run it \
         without mpirun"
    );
    exit::complain(TOOL, &message);
    ExitCode::from(exit::USAGE)
}

/// The command line makes no sense.
fn misused(error: UsageError) -> ExitCode {
    let error = options::command().error(ErrorKind::ValueValidation, error);
    let _ = error.print(); // nobody may be listening
    ExitCode::from(exit::USAGE)
}

/// Says which ways there are from each source to the target.
fn tell_capabilities(request: &Request) -> ExitCode {
    let settings = &request.settings;
    let out = Out { aside: false };
    for source in &request.sources {
        let (Endpoint::Path(source), Some(target)) = (source, request.destination.path()) else {
            exit::complain(
                TOOL,
                &"--capabilities needs paths: \"-\" is whatever the shell makes it",
            );
            return ExitCode::from(exit::USAGE);
        };
        let found = match capabilities::look(source, target, &settings.wishes) {
            Ok(found) => found,
            Err(why) => {
                exit::complain(TOOL, &why);
                return ExitCode::from(exit::FAILURE);
            }
        };
        let written = if settings.json { out.json(&found) } else { out.line(found.text()) };
        if let Err(error) = written {
            let why = super::error::said(&error);
            exit::complain(TOOL, &format!("cannot write standard output: {why}"));
            return ExitCode::from(exit::FAILURE);
        }
    }
    ExitCode::SUCCESS
}

fn copy_all(request: &Request) -> ExitCode {
    let started = Instant::now();
    let resolved = manifest_file::check_apart(request, Here::Both);
    let (tasks, twice) = match resolved.and_then(|()| resolve::tasks(request)) {
        Ok(found) => found,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    for path in twice {
        exit::complain(TOOL, &resolve::named_twice(&path));
    }
    let mut session = match Session::start(request, &tasks) {
        Ok(session) => session,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    let mut files = Vec::with_capacity(tasks.len());
    for task in &tasks {
        if session.stopped.status().is_some() {
            session.failed = true; // what is left was not copied
            break;
        }
        files.push(session.copy(task));
    }
    session.write_manifest(request);
    if request.settings.json
        && let Err(error) = session.out.json(&report::json(&files, started.elapsed()))
    {
        session.complain_output(&error);
    }
    session.exit_code()
}

/// One run of the program.
struct Session<'a> {
    settings: &'a Settings,
    copier: Copier<'a>,
    monitor: Monitor,
    stopped: Stopped,
    out: Out,
    /// Where `-v` and `--explain` go: aside if standard output is for data or JSON.
    talk: Out,
    failed: bool,
    pipe_closed: bool,
}

impl<'a> Session<'a> {
    fn start(request: &'a Request, tasks: &[Task]) -> std::io::Result<Self> {
        let signals = Signals::hold()?; // before the first thread
        let progress = Arc::new(Progress::default());
        let monitor =
            Monitor::start(Arc::clone(&progress), total_bytes(tasks), on_terminal(request))?;
        let stopped = signals.serve(Arc::clone(&progress), monitor.printer())?;
        let aside = request.destination == Destination::Exactly(Endpoint::Standard);
        let mut copier = Copier::new(&request.settings, progress);
        copier.manifest = request.manifest.is_some().then(Manifest::default);
        Ok(Self {
            settings: &request.settings,
            copier,
            monitor,
            stopped,
            out: Out { aside },
            talk: Out { aside: aside || request.settings.json },
            failed: false,
            pipe_closed: false,
        })
    }

    /// Writes the checksums, where they are asked for.
    fn write_manifest(&mut self, request: &Request) {
        let stopped = self.failed && self.stopped.status().is_some();
        let manifest = self.copier.manifest.take();
        if let Err(error) =
            manifest_file::write(manifest, request, Here::Both, self.failed, stopped)
        {
            self.failed = true;
            self.monitor.suspended(|| exit::complain(TOOL, &error));
        }
    }

    /// Makes one copy and tells about it.
    fn copy(&mut self, task: &Task) -> FileReport {
        let started = Instant::now();
        let (source, target) = (task.source.name(), task.target.name());
        let mut announced = Ok(());
        let announce = || {
            if self.settings.verbose {
                let line = format!("{} -> {}", quote(&source), quote(&target));
                announced = self.monitor.suspended(|| self.talk.line(line));
            }
        };
        let mut warnings = Vec::new();
        let result = self.copier.copy(task, &self.monitor, &mut warnings, announce);
        let time = started.elapsed();
        if let Err(error) = announced {
            self.complain_output(&error);
        }
        for warning in warnings {
            self.monitor.suspended(|| exit::complain(TOOL, &warning));
        }
        let outcome = match result {
            Ok(Ended::Copied(copied)) => Outcome::Copied(copied),
            Ok(Ended::Left(why)) => Outcome::Left(why),
            Err(error) => Outcome::Failed(self.failure(&error)),
        };
        let report = FileReport { source, target, outcome, time };
        if self.settings.explain {
            let told = self.monitor.suspended(|| self.talk.line(report.explain()));
            if let Err(error) = told {
                self.complain_output(&error);
            }
        }
        report
    }

    /// Complains of `error`, unless the user caused it, and gives its words.
    fn failure(&mut self, error: &FileError) -> String {
        self.failed = true;
        if error.is_broken_pipe() {
            self.pipe_closed = true;
        } else if !(error.is_cancelled() && self.stopped.status().is_some()) {
            self.monitor.suspended(|| exit::complain(TOOL, &error));
        }
        error.to_string()
    }

    fn complain_output(&mut self, error: &std::io::Error) {
        self.failed = true;
        let message = format!("cannot write standard output: {}", super::error::said(error));
        self.monitor.suspended(|| exit::complain(TOOL, &message));
    }

    fn exit_code(self) -> ExitCode {
        let status = match self.stopped.status() {
            Some(status) if self.failed => status,
            _ if self.pipe_closed => PIPE_CLOSED,
            _ if self.failed => exit::FAILURE,
            _ => exit::SUCCESS,
        };
        ExitCode::from(status)
    }
}

/// Whether somebody types the data, or reads it: a bar would stand in the middle of it.
fn on_terminal(request: &Request) -> bool {
    (request.sources.contains(&Endpoint::Standard) && std::io::stdin().is_terminal())
        || (request.destination == Destination::Exactly(Endpoint::Standard)
            && std::io::stdout().is_terminal())
}

/// Bytes to copy in all, for the bar; `None` if any source does not tell.
fn total_bytes(tasks: &[Task]) -> Option<u64> {
    tasks
        .iter()
        .map(|task| match &task.source {
            Endpoint::Standard => None,
            Endpoint::Path(path) => match std::fs::metadata(path) {
                Ok(found) if found.is_file() => Some(found.len()),
                Ok(found) if found.is_dir() => Some(0),
                Ok(found) if found.file_type().is_block_device() => {
                    File::open(path).and_then(|device| device_len(&device)).ok()
                }
                Ok(_) => None,
                Err(_) => Some(0), // it will be said when its turn comes
            },
        })
        .sum()
}
