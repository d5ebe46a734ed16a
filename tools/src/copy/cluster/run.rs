//! The whole program where several processes copy together: the first tells the others what there is to do,
//! hears what they did, and tells the user.
//!
//! Who is asked to stop takes its own temporary names away and ends all of them; a launcher does the same where
//! one has died. What is left then is what was complete.

use std::collections::HashSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Kind, Message, Ranks};
use crate::cli::exit;
use crate::copy::engine::Progress;
use crate::copy::error::FileError;
use crate::copy::manifest::Manifest;
use crate::copy::out::Out;
use crate::copy::progress::{Monitor, Printer};
use crate::copy::quote::quote;
use crate::copy::report::FileReport;
use crate::copy::request::{Destination, Endpoint, Request, Settings};
use crate::copy::run::TOOL;
use crate::copy::run_trees::{Voice, look_ahead};
use crate::copy::signals::{Signals, Stopped};
use crate::copy::staging;
use crate::copy::tree::tally::Totals;
use crate::copy::tree::team::{self, Divided, Part, Prepared, Share, Shared};
use crate::copy::tree::wishes::{Shard, Wishes};
use crate::copy::tree::{self, context::Talk};

/// Between two looks whether something has arrived.
const PERIOD: Duration = Duration::from_millis(5);
/// Between two lines of progress: launchers leave no terminal for a bar.
const LINES: Duration = Duration::from_secs(30);
/// Between two words of how far this process is.
const NEWS: Duration = Duration::from_millis(200);

/// Bytes of checksums in a message.
const PAGE_BYTES: usize = 1 << 20;

/// What the first process tells the others.
#[derive(Debug, Serialize, Deserialize)]
struct Plan {
    /// Whether the destination was a directory before it began.
    into: bool,
    divided: Vec<Divided>,
}

/// What a process did.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Outcome {
    totals: Totals,
    parts: Vec<Part>,
}

/// What `--json` and `--explain` say of one process.
#[derive(Clone, Debug, Serialize)]
pub struct Member {
    /// Which, from 0 on.
    pub rank: usize,
    /// Files that it copied as a whole.
    pub files: u64,
    /// Ranges that it copied of files that all copied together.
    pub parts: u64,
    /// Bytes of both.
    pub bytes: u64,
}

/// Why these options are not for several processes, if they are not.
fn unfit(request: &Request) -> Option<&'static str> {
    let standard = request.sources.contains(&Endpoint::Standard);
    match () {
        () if request.settings.resume => {
            Some("--resume is for one process; --checksum leaves what is there already")
        }
        () if standard || request.destination.path().is_none() => {
            Some("\"-\" is the standard input or output of one process")
        }
        () => request.sources.iter().find_map(|source| match source {
            Endpoint::Path(path) if request.trees.is_none() => {
                let found = path.metadata().ok()?;
                (!found.is_file() && !found.is_dir())
                    .then_some("devices and pipes are for one process")
            }
            _ => None,
        }),
    }
}

/// Copies what `request` names, with all of `ranks`; `signals` were held back before MPI began.
pub fn copy(request: Request, ranks: &dyn Ranks, signals: Signals) -> ExitCode {
    if let Some(why) = unfit(&request) {
        if ranks.index() == 0 {
            exit::complain(TOOL, &format!("{why}: run it without mpirun"));
        }
        return ExitCode::from(exit::USAGE);
    }
    let mut request = request;
    let mut settings = request.settings;
    settings.wishes.spare_cache = true;
    // The limit is that of all together.
    settings.tuning.bwlimit =
        settings.tuning.bwlimit.map(|limit| (limit / ranks.count() as u64).max(1));
    let wishes = request.trees.take().unwrap_or_else(Wishes::of_files);
    let leads = ranks.index() == 0;
    let progress = Arc::new(Progress::default());
    let started = Monitor::start(Arc::clone(&progress), None, !leads).and_then(|monitor| {
        // The first tells of all.
        let printer = if leads { monitor.printer() } else { monitor.silent_printer() };
        let stopped = signals.serve(Arc::clone(&progress), printer)?;
        Ok((monitor, stopped))
    });
    let (monitor, stopped) = match started {
        Ok(started) => started,
        Err(error) => {
            exit::complain(TOOL, &exit::with_causes(&error));
            ranks.abort(exit::FAILURE);
        }
    };
    let process = Process { ranks, settings: &settings, progress, stopped };
    let status = if leads {
        process.lead(&request, &wishes, monitor)
    } else {
        process.follow(&request, &wishes)
    };
    ExitCode::from(status)
}

/// This process.
struct Process<'a> {
    ranks: &'a dyn Ranks,
    settings: &'a Settings,
    progress: Arc<Progress>,
    stopped: Stopped,
}

impl Process<'_> {
    /// What the first one does.
    fn lead(&self, request: &Request, wishes: &Wishes, monitor: Monitor) -> u8 {
        let started = Instant::now();
        let voice = Voice::new(request, &monitor);
        let ahead = look_ahead(request, Some(wishes), &monitor);
        let into = match &request.destination {
            Destination::Either(path) => path.is_dir(),
            Destination::Into(_) => true,
            Destination::Exactly(_) => false,
        };
        let progress = Arc::clone(&self.progress);
        let prepared = team::prepare(request, self.settings, wishes, progress, &voice);
        let (prepared, divided) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => {
                monitor.suspended(|| exit::complain(TOOL, &error));
                self.to_all(Kind::End, &[]);
                return exit::FAILURE;
            }
        };
        self.leave_if_stopped();
        self.to_all(Kind::Plan, &json(&Plan { into, divided: divided.clone() }));
        let named = as_planned(request, into);
        let mut heard = Heard::new(self.ranks.count());
        thread::scope(|scope| {
            let worker = self.worker();
            let own = scope.spawn(|| worker.share(&named, wishes, divided));
            self.hear_others(&mut heard, &monitor.printer(), &|| own.is_finished());
            if let Ok((outcome, manifest)) = own.join() {
                heard.outcomes[0] = Some(outcome);
                heard.manifest.extend(manifest);
            }
        });
        self.leave_if_stopped();
        ahead.stop();
        let status = self.conclude(&named, &voice, prepared, heard, started);
        self.to_all(Kind::End, &[]);
        status
    }

    /// Takes what the others send until all have sent what they did, and this one is `done`.
    fn hear_others(&self, heard: &mut Heard, printer: &Printer, done: &dyn Fn() -> bool) {
        let mut news = vec![[0; 2]; self.ranks.count()];
        let mut told = Instant::now();
        while !done() || heard.outcomes[1..].iter().any(Option::is_none) {
            if self.stopped.status().is_some() && done() {
                break;
            }
            if told.elapsed() >= LINES {
                told = Instant::now();
                printer.print();
            }
            let Some(Message { from, kind, bytes }) = self.ranks.receive() else {
                thread::sleep(PERIOD);
                continue;
            };
            match kind {
                Kind::Progress => {
                    let now = news_of(&bytes);
                    self.progress.add_from_elsewhere(news[from], now);
                    news[from] = now;
                }
                _ => heard.take(from, kind, &bytes),
            }
        }
    }

    /// What all others do.
    fn follow(&self, request: &Request, wishes: &Wishes) -> u8 {
        let plan = match self.wait_for(Kind::Plan) {
            Some(bytes) => serde_json::from_slice::<Plan>(&bytes),
            None => return exit::SUCCESS, // the first has said why there is nothing to do
        };
        let Ok(plan) = plan else {
            exit::complain(
                TOOL,
                &"ranks of different versions of hugecp: start the same everywhere",
            );
            self.ranks.abort(exit::FAILURE);
        };
        let named = as_planned(request, plan.into);
        let (outcome, manifest) = thread::scope(|scope| {
            let worker = self.worker();
            let own = scope.spawn(|| worker.share(&named, wishes, plan.divided));
            let mut told = Instant::now();
            while !own.is_finished() {
                thread::sleep(PERIOD);
                if told.elapsed() >= NEWS {
                    told = Instant::now();
                    self.ranks.send(0, Kind::Progress, &news(&self.progress));
                }
            }
            let failed = |_| (Outcome::failed("a thread of it has failed"), None);
            own.join().unwrap_or_else(failed)
        });
        self.leave_if_stopped();
        self.ranks.send(0, Kind::Progress, &news(&self.progress));
        for page in manifest.map(|manifest| manifest.pages(PAGE_BYTES)).unwrap_or_default() {
            self.ranks.send(0, Kind::Checksums, &page);
        }
        self.ranks.send(0, Kind::Outcome, &json(&outcome));
        self.wait_for(Kind::End);
        exit::SUCCESS // the first one's status is that of all
    }

    /// What its threads need to know, which know nothing of messages.
    fn worker(&self) -> Worker<'_> {
        let (index, count) = (self.ranks.index(), self.ranks.count());
        Worker { index, count, settings: self.settings, progress: Arc::clone(&self.progress) }
    }

    /// Publishes what is complete, and tells the user.
    fn conclude(
        &self,
        request: &Request,
        voice: &Voice<'_>,
        prepared: Prepared<'_>,
        heard: Heard,
        started: Instant,
    ) -> u8 {
        let Heard { outcomes, manifest, .. } = heard;
        let silent = || Outcome::failed("it did not say what it did");
        let outcomes: Vec<_> = outcomes.into_iter().map(|o| o.unwrap_or_else(silent)).collect();
        let complete = outcomes.iter().all(|outcome| outcome.totals.failures.is_empty());
        let parts: Vec<_> = outcomes.iter().map(|outcome| outcome.parts.clone()).collect();
        let (mut totals, of_divided) = prepared.conclude(&parts, complete);
        self.leave_if_stopped();
        manifest.extend(of_divided);
        let mut members = Vec::new();
        let mut told: HashSet<String> = totals.failures.iter().cloned().collect();
        for (rank, Outcome { totals: mut its, .. }) in outcomes.into_iter().enumerate() {
            its.failures.retain(|why| told.insert(why.clone()));
            members.push(Member { rank, files: its.files, parts: its.parts, bytes: its.bytes });
            if rank > 0 {
                its.failures.iter_mut().for_each(|why| *why = format!("rank {rank}: {why}"));
            }
            totals.add(its);
        }
        tree::write_manifest(Some(manifest), request, voice, &mut totals);
        voice.conclude(request, &totals, started.elapsed(), &members);
        if voice.has_trouble() || !totals.failures.is_empty() {
            exit::FAILURE
        } else {
            exit::SUCCESS
        }
    }

    fn to_all(&self, kind: Kind, bytes: &[u8]) {
        for other in 1..self.ranks.count() {
            self.ranks.send(other, kind, bytes);
        }
    }

    /// Waits for a message of that kind from the first; `None` where it says that it is over.
    fn wait_for(&self, wanted: Kind) -> Option<Vec<u8>> {
        loop {
            self.leave_if_stopped();
            match self.ranks.receive() {
                Some(message) if message.kind == wanted => return Some(message.bytes),
                Some(message) if message.kind == Kind::End => return None,
                Some(_) => {}
                None => thread::sleep(PERIOD),
            }
        }
    }

    /// Ends all processes, if this one was asked to stop.
    fn leave_if_stopped(&self) {
        if let Some(status) = self.stopped.status() {
            staging::remove_temporary_names();
            self.ranks.abort(status);
        }
    }
}

/// What copies beside the thread that sends and receives.
struct Worker<'a> {
    index: usize,
    count: usize,
    settings: &'a Settings,
    progress: Arc<Progress>,
}

impl Worker<'_> {
    /// This process's share, and the checksums of it.
    fn share(
        self,
        request: &Request,
        wishes: &Wishes,
        divided: Vec<Divided>,
    ) -> (Outcome, Option<Manifest>) {
        let talk = Quiet { out: Out { aside: self.settings.json } };
        let mut wishes = wishes.clone();
        wishes.shard = Some(Shard::of(self.index, self.count));
        let share = Share::new(self.index, self.count, divided);
        match team::share(request, self.settings, &wishes, self.progress, &talk, share) {
            Ok(Shared { totals, parts, manifest }) => (Outcome { totals, parts }, manifest),
            Err(error) => (Outcome::failed(&error.to_string()), None),
        }
    }
}

impl Outcome {
    fn failed(why: &str) -> Self {
        let totals = Totals { failures: vec![why.to_owned()], ..Totals::default() };
        Self { totals, parts: Vec::new() }
    }
}

/// What the first process has heard of all.
struct Heard {
    outcomes: Vec<Option<Outcome>>,
    /// Checksums of files that were copied as a whole.
    manifest: Manifest,
    /// Whose checksums could not be read.
    garbled: HashSet<usize>,
}

impl Heard {
    /// Of `count` processes, nothing.
    fn new(count: usize) -> Self {
        let outcomes = (0..count).map(|_| None).collect();
        Self { outcomes, manifest: Manifest::default(), garbled: HashSet::new() }
    }

    /// Takes what a process says of what it did.
    fn take(&mut self, from: usize, kind: Kind, bytes: &[u8]) {
        let unread = "what it said of itself cannot be read";
        match kind {
            Kind::Checksums if !self.manifest.add_page(bytes) => {
                self.garbled.insert(from);
            }
            Kind::Outcome => {
                let read = serde_json::from_slice(bytes);
                let mut outcome: Outcome = read.unwrap_or_else(|_| Outcome::failed(unread));
                if self.garbled.contains(&from) {
                    outcome.totals.failures.push(unread.to_owned());
                }
                self.outcomes[from] = Some(outcome);
            }
            _ => {} // the others go the other way
        }
    }
}

/// The request, as it was meant before the first process made the destination.
fn as_planned(request: &Request, into: bool) -> Request {
    let mut named = request.clone();
    if let Destination::Either(path) = &request.destination {
        named.destination = match into {
            true => Destination::Into(path.clone()),
            false => Destination::Exactly(Endpoint::Path(path.clone())),
        };
    }
    named
}

fn json(what: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(what).unwrap_or_default() // numbers and strings can always be written
}

/// Files and bytes, as they are sent.
fn news(progress: &Progress) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&progress.files().to_le_bytes());
    bytes[8..].copy_from_slice(&progress.copied().to_le_bytes());
    bytes
}

fn news_of(bytes: &[u8]) -> [u64; 2] {
    let mut numbers = [0; 2];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    }
    numbers
}

/// What is said of a share: failures stand in what is sent, for each process meets those of directories.
struct Quiet {
    out: Out,
}

impl Talk for Quiet {
    fn copying(&self, source: &Path, target: &Path) {
        // Whoever loses the lines of -v has lost the report too, which is checked.
        let _ = self.out.line(format!("{} -> {}", quote(source), quote(target)));
    }

    fn failed(&self, _error: &FileError) {}

    fn remark(&self, _words: &str) {}

    fn explain(&self, _report: &FileReport) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_read_as_they_were_sent() {
        let progress = Progress::default();
        progress.add(1 << 40);
        progress.file_done();
        assert_eq!(news_of(&news(&progress)), [1, 1 << 40]);
        assert_eq!(news_of(&[]), [0, 0]);
        let first = Progress::default();
        first.add_from_elsewhere([0, 0], [2, 10]);
        first.add_from_elsewhere([2, 10], [3, 4]); // an engine began again
        first.add_from_elsewhere([3, 4], [3, 12]);
        assert_eq!((first.files(), first.copied()), (3, 12));
    }
}
