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

use serde::Serialize;

use super::words::{self, Heard, Outcome, Plan, json, news, news_of};
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
use crate::copy::tree::records::Records;
use crate::copy::tree::team::{self, Divided, Prepared, Share, Shared};
use crate::copy::tree::wishes::{Shard, Wishes};
use crate::copy::tree::{self, context::Talk};

/// Between two looks whether something has arrived.
const PERIOD: Duration = Duration::from_millis(5);
/// Between two lines of progress: launchers leave no terminal for a bar.
const LINES: Duration = Duration::from_secs(30);
/// Between two words of how far this process is.
const NEWS: Duration = Duration::from_millis(200);
/// Between two messages of what was copied of files that have journals.
const RECORDS: Duration = Duration::from_millis(50);
/// Bytes of checksums in a message.
const PAGE_BYTES: usize = 1 << 20;

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
    let records = Arc::default();
    let process = Process { ranks, settings: &settings, progress, records, stopped };
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
    /// What its threads have copied of files that have journals.
    records: Arc<Records>,
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
            let append = |number, records: &[u8]| prepared.append(number, records);
            self.hear_others(&mut heard, &monitor.printer(), &append, &|| own.is_finished());
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

    /// Takes what the others send until all have sent what they did, and this one is `done`; gives to `append` what
    /// all copy that has a journal.
    fn hear_others(
        &self,
        heard: &mut Heard,
        printer: &Printer,
        append: &dyn Fn(u32, &[u8]),
        done: &dyn Fn() -> bool,
    ) {
        let mut news = vec![[0; 2]; self.ranks.count()];
        let mut told = Instant::now();
        loop {
            let is_over = done() && heard.outcomes[1..].iter().all(Option::is_some);
            // After the look whether all is done, so that none is left.
            self.records.take().iter().for_each(|(&number, records)| append(number, records));
            if is_over {
                break;
            }
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
                Kind::Records => {
                    if let Some((number, records)) = words::records_of(&bytes) {
                        append(number, records);
                    }
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
            let (mut told, mut written) = (Instant::now(), Instant::now());
            while !own.is_finished() {
                thread::sleep(PERIOD);
                if written.elapsed() >= RECORDS {
                    written = Instant::now();
                    self.send_records();
                }
                if told.elapsed() >= NEWS {
                    told = Instant::now();
                    self.ranks.send(0, Kind::Progress, &news(&self.progress));
                }
            }
            let failed = |_| (Outcome::failed("a thread of it has failed"), None);
            own.join().unwrap_or_else(failed)
        });
        self.send_records();
        self.leave_if_stopped();
        self.ranks.send(0, Kind::Progress, &news(&self.progress));
        for page in manifest.map(|manifest| manifest.pages(PAGE_BYTES)).unwrap_or_default() {
            self.ranks.send(0, Kind::Checksums, &page);
        }
        self.ranks.send(0, Kind::Outcome, &json(&outcome));
        self.wait_for(Kind::End);
        exit::SUCCESS // the first one's status is that of all
    }

    /// Sends what is to go into journals.
    fn send_records(&self) {
        for (number, records) in self.records.take() {
            self.ranks.send(0, Kind::Records, &words::records(number, &records));
        }
    }

    /// What its threads need to know, which know nothing of messages.
    fn worker(&self) -> Worker<'_> {
        let (index, count) = (self.ranks.index(), self.ranks.count());
        let (progress, records) = (Arc::clone(&self.progress), Arc::clone(&self.records));
        Worker { index, count, settings: self.settings, progress, records }
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
        tree::write_manifest(Some(manifest), request, false, voice, &mut totals);
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
    records: Arc<Records>,
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
        let share = Share::new(self.index, self.count, divided, self.records);
        match team::share(request, self.settings, &wishes, self.progress, &talk, share) {
            Ok(Shared { totals, parts, manifest }) => (Outcome { totals, parts }, manifest),
            Err(error) => (Outcome::failed(&error.to_string()), None),
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
