//! The whole program where trees are copied: what is told while they are, and at the end.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bookend::units::Bytes;
use serde::Serialize;

use super::cluster::run::Member;
use super::engine::Progress;
use super::error::FileError;
use super::out::Out;
use super::progress::Monitor;
use super::quote::quote;
use super::report::FileReport;
use super::request::Request;
use super::run::TOOL;
use super::signals::Signals;
use super::tree::context::Talk;
use super::tree::scan::Ahead;
use super::tree::tally::Totals;
use super::tree::wishes::Wishes;
use super::tree::{self};
use crate::cli::{exit, format};

/// Copies faster than this need no bar, and nobody to count ahead for it.
const PATIENCE: Duration = Duration::from_millis(400);

/// Copies what `request` names.
pub fn copy(request: &Request, wishes: &Wishes) -> ExitCode {
    run(
        request,
        |monitor| look_ahead(request, Some(wishes), monitor),
        |progress, voice| tree::copy(request, wishes, progress, voice),
    )
}

/// Does `body`, which copies, with everything around it: signals, progress, and what is told. `begin` starts
/// to count ahead.
pub(crate) fn run<E: std::fmt::Display>(
    request: &Request,
    begin: impl FnOnce(&Monitor) -> Arc<Ahead>,
    body: impl FnOnce(Arc<Progress>, &Voice<'_>) -> Result<Totals, E>,
) -> ExitCode {
    let fail = |error: &dyn std::error::Error| exit::fail(TOOL, error, exit::FAILURE);
    let started = Instant::now();
    let signals = match Signals::hold() {
        Ok(signals) => signals, // before the first thread
        Err(error) => return fail(&error),
    };
    let progress = Arc::new(Progress::default());
    let monitor = match Monitor::start(Arc::clone(&progress), None, false) {
        Ok(monitor) => monitor,
        Err(error) => return fail(&error),
    };
    let stopped = match signals.serve(Arc::clone(&progress), monitor.printer()) {
        Ok(stopped) => stopped,
        Err(error) => return fail(&error),
    };
    let ahead = begin(&monitor);
    let voice = Voice::new(request, &monitor);
    let copied = body(progress, &voice);
    ahead.stop();
    let totals = match copied {
        Ok(totals) => totals,
        Err(error) => {
            if stopped.status().is_none() {
                monitor.suspended(|| exit::complain(TOOL, &error));
            }
            return ExitCode::from(stopped.status().unwrap_or(exit::FAILURE));
        }
    };
    voice.conclude(request, &totals, started.elapsed(), &[]);
    let failed = voice.has_trouble() || !totals.failures.is_empty();
    ExitCode::from(match stopped.status() {
        Some(status) => status,
        None if failed => exit::FAILURE,
        None => exit::SUCCESS,
    })
}

/// Counts the operands' files beside the copy, once that takes long enough to be watched.
/// What is on another machine (no `wishes`) is not counted.
pub(crate) fn look_ahead(
    request: &Request,
    wishes: Option<&Wishes>,
    monitor: &Monitor,
) -> Arc<Ahead> {
    let ahead = Arc::new(Ahead::default());
    let operands: Vec<PathBuf> = request.sources.iter().map(|source| source.name()).collect();
    let name = operands.first().map(quote).unwrap_or_default();
    monitor.begin_tree(name, Arc::clone(&ahead));
    if let Some(wishes) = wishes.filter(|wishes| wishes.files_from.is_none())
        && monitor.shows_bar()
    {
        let (theirs, wishes) = (Arc::clone(&ahead), wishes.clone());
        let started = std::thread::Builder::new().name("ahead".to_owned()).spawn(move || {
            std::thread::sleep(PATIENCE);
            theirs.run(&operands, &wishes);
        });
        drop(started); // without it there is no whole to be a part of, and that is all
    }
    ahead
}

/// What tells the user.
pub(crate) struct Voice<'a> {
    monitor: &'a Monitor,
    out: Out,
    /// Aside where standard output is for JSON.
    talk: Out,
    explain: bool,
    /// Whether standard output was lost.
    trouble: AtomicBool,
}

impl<'a> Voice<'a> {
    pub(super) fn new(request: &Request, monitor: &'a Monitor) -> Self {
        let settings = &request.settings;
        Self {
            monitor,
            out: Out { aside: false },
            talk: Out { aside: settings.json },
            explain: settings.explain,
            trouble: AtomicBool::new(false),
        }
    }

    /// Says how it is done, to those who want to know.
    pub(crate) fn tell(&self, line: &str) {
        if self.explain {
            self.check(self.monitor.suspended(|| self.talk.line(line)));
        }
    }

    fn check(&self, written: std::io::Result<()>) {
        if let Err(error) = written
            && !self.trouble.swap(true, Ordering::Relaxed)
        {
            let message = format!("cannot write standard output: {}", super::error::said(&error));
            self.monitor.suspended(|| exit::complain(TOOL, &message));
        }
    }

    /// Whether standard output was lost.
    pub(super) fn has_trouble(&self) -> bool {
        self.trouble.load(Ordering::Relaxed)
    }

    /// What is said when all is done, by `members`, if there were several.
    pub(super) fn conclude(
        &self,
        request: &Request,
        totals: &Totals,
        time: Duration,
        members: &[Member],
    ) {
        let settings = &request.settings;
        if settings.explain {
            let mut text = summary(totals, time);
            for Member { rank, files, parts, bytes } in members {
                let bytes = Bytes::new(*bytes);
                text.push_str(&format!("\nrank {rank}: {files} files, {parts} parts, {bytes}"));
            }
            self.check(self.monitor.suspended(|| self.talk.line(text)));
        }
        if settings.json {
            let seconds = (time.as_secs_f64() * 1e6).round() / 1e6;
            let object = Json { totals, seconds, durable: settings.fsync, ranks: members };
            self.check(self.monitor.suspended(|| self.out.json(&object)));
        }
        if !totals.failures.is_empty() {
            let count = totals.failures.len();
            let mut text = format!("{count} could not be copied as asked, the rest was:");
            for failure in &totals.failures {
                text.push_str("\n  ");
                text.push_str(failure);
            }
            self.monitor.suspended(|| exit::complain(TOOL, &text));
        }
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(flatten)]
    totals: &'a Totals,
    seconds: f64,
    durable: bool,
    #[serde(skip_serializing_if = "<[Member]>::is_empty")]
    ranks: &'a [Member],
}

/// `80003 files, 12.1 GiB in 9.8 s, 1.2 GiB/s; 4001 directories`.
fn summary(totals: &Totals, time: Duration) -> String {
    let bytes = Bytes::new(totals.bytes);
    let mut text = format!(
        "{} files, {bytes} in {}, {}",
        totals.files,
        format::duration(time),
        format::rate(bytes, time)
    );
    if totals.resumed > 0 {
        text.push_str(&format!("; {} of it were there already", Bytes::new(totals.resumed)));
    }
    for (count, what) in [
        (totals.directories, "directories"),
        (totals.symlinks, "symbolic links"),
        (totals.hard_links, "hard links"),
        (totals.specials, "FIFOs, sockets and devices"),
        (totals.left, "left as they were"),
        (totals.deleted, "deleted"),
    ] {
        if count > 0 {
            text.push_str(&format!("; {count} {what}"));
        }
    }
    text
}

impl Talk for Voice<'_> {
    fn copying(&self, source: &Path, target: &Path) {
        let line = format!("{} -> {}", quote(source), quote(target));
        self.check(self.monitor.suspended(|| self.talk.line(line)));
    }

    fn failed(&self, error: &FileError) {
        self.monitor.suspended(|| exit::complain(TOOL, error));
    }

    fn remark(&self, words: &str) {
        self.monitor.suspended(|| exit::complain(TOOL, &words));
    }

    fn explain(&self, report: &FileReport) {
        if self.explain {
            self.check(self.monitor.suspended(|| self.talk.line(report.explain())));
        }
    }
}
