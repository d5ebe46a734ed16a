//! How far the copy is: a bar on a terminal, a line on SIGUSR1.
//!
//! A thread of its own looks at the counters ten times a second, so that engines only count. The
//! bar appears after half a second. Bytes in the page cache are not bytes on the disk: with
//! `--fsync` both are shown, the latter as what the kernel does not hold as dirty or under way.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::engine::Progress;
use super::tree::scan::Ahead;
use super::{probe, sys};
use crate::cli::terminal;
use words::Snapshot;

mod words;

/// How long a copy may take before a bar is worth looking at.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two looks.
const PERIOD: Duration = Duration::from_millis(100);
/// The time over which the rate is taken.
const WINDOW: Duration = Duration::from_secs(3);

/// What is being done to a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Its bytes are on their way.
    Copying,
    /// It is read again.
    Verifying,
    /// It is made durable.
    Syncing,
}

/// Shows progress while it lives.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    progress: Arc<Progress>,
    view: Mutex<View>,
    changed: Condvar,
}

#[derive(Debug)]
struct View {
    finished: bool,
    show_bar: bool,
    bar: Option<ProgressBar>,
    /// Columns of the terminal, and whether the whole is known: what the bar's looks depend on.
    shape: Option<(usize, bool)>,
    started: Instant,
    phase: Phase,
    total: Option<u64>,
    /// What is counted ahead, in a tree.
    ahead: Option<Arc<Ahead>>,
    /// Bytes of the files before this one.
    before: u64,
    /// The file on its way, and its target if its durable bytes are to be counted.
    name: String,
    watched: Option<File>,
    /// Moments and the bytes copied by then.
    history: VecDeque<(Instant, u64)>,
}

impl Monitor {
    /// Starts to watch `progress`, for a run of `total` bytes; `quiet` bars the bar.
    ///
    /// # Errors
    /// What starting a thread fails with.
    pub fn start(
        progress: Arc<Progress>,
        total: Option<u64>,
        quiet: bool,
    ) -> std::io::Result<Self> {
        let view = View {
            finished: false,
            show_bar: !quiet && std::io::stderr().is_terminal(),
            bar: None,
            shape: None,
            started: Instant::now(),
            phase: Phase::Copying,
            total,
            ahead: None,
            before: 0,
            name: String::new(),
            watched: None,
            history: VecDeque::new(),
        };
        let changed = Condvar::new();
        let shared = Arc::new(Shared { progress, view: Mutex::new(view), changed });
        let watcher = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("progress".into()).spawn(move || watcher.watch())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Whether there will be a bar.
    pub fn shows_bar(&self) -> bool {
        self.shared.view().show_bar
    }

    /// A tree begins, of which `ahead` will tell how large it is.
    pub fn begin_tree(&self, name: String, ahead: Arc<Ahead>) {
        let mut view = self.shared.view();
        view.name = name;
        view.ahead = Some(ahead);
    }

    /// A file begins; `watched` is its target if its durable bytes matter.
    pub fn begin(&self, name: String, watched: Option<File>) {
        let mut view = self.shared.view();
        view.phase = Phase::Copying;
        view.name = name;
        view.watched = watched;
    }

    /// A phase of the file begins. Verifying passes all bytes a second time and counts them anew.
    pub fn enter(&self, phase: Phase) {
        let mut view = self.shared.view();
        view.phase = phase;
        if phase == Phase::Verifying {
            self.shared.progress.reset();
        }
    }

    /// The file is done, well or not; its bytes count as passed. Counters begin at zero again.
    pub fn end(&self, bytes: u64) {
        let mut view = self.shared.view();
        view.before += bytes;
        view.watched = None;
        self.shared.progress.reset();
    }

    /// Does `print` without disturbing the bar.
    pub fn suspended<T>(&self, print: impl FnOnce() -> T) -> T {
        let view = self.shared.view();
        match &view.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// What a signal handler's thread needs to print the progress.
    pub fn printer(&self) -> Printer {
        Printer { shared: Arc::clone(&self.shared), silent: false }
    }

    /// The same where another process tells.
    pub fn silent_printer(&self) -> Printer {
        Printer { silent: true, ..self.printer() }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        {
            let mut view = self.shared.view();
            view.finished = true;
            if let Some(bar) = view.bar.take() {
                bar.finish_and_clear();
            }
        }
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has nothing to tell
        }
    }
}

/// Prints the progress from another thread.
#[derive(Clone, Debug)]
pub struct Printer {
    shared: Arc<Shared>,
    silent: bool,
}

impl Printer {
    /// One line on standard error.
    pub fn print(&self) {
        if self.silent {
            return;
        }
        let mut view = self.shared.view();
        let snapshot = view.snapshot(&self.shared.progress);
        let text = format!("hugecp: {}: {}", view.name, snapshot.words().join(", "));
        let write = || {
            let _ = writeln!(std::io::stderr(), "{text}"); // nobody may be listening
        };
        match &view.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the bar away, if no one else is at it: for an exit that unwinds nothing.
    pub fn clear(&self) {
        if let Ok(mut view) = self.shared.view.try_lock()
            && let Some(bar) = view.bar.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Shared {
    fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn watch(&self) {
        let mut view = self.view();
        while !view.finished {
            view.refresh(&self.progress);
            view = match self.changed.wait_timeout(view, PERIOD) {
                Ok((view, _)) => view,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl View {
    fn refresh(&mut self, progress: &Progress) {
        let snapshot = self.snapshot(progress);
        if !self.show_bar || snapshot.elapsed < PATIENCE {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| new_bar(self.total));
        let (columns, _) = terminal::size(&std::io::stderr()).unwrap_or(terminal::USUAL);
        if self.ahead.is_some() && bar.length() != snapshot.total {
            match snapshot.total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
        }
        let shape = (columns, snapshot.total.is_some());
        if self.shape != Some(shape) {
            self.shape = Some(shape);
            set_style(bar, shape);
        }
        bar.set_position(snapshot.copied);
        bar.set_message(words::fitting(&snapshot.words(), columns.saturating_sub(taken(shape))));
        bar.tick();
    }

    fn snapshot(&mut self, progress: &Progress) -> Snapshot {
        let now = Instant::now();
        let this_file = progress.copied();
        let copied = self.before + this_file;
        // An engine that gave up sets the count back.
        self.history.retain(|&(_, then)| then <= copied);
        self.history.push_back((now, copied));
        while self.history.front().is_some_and(|&(then, _)| now - then > WINDOW) {
            self.history.pop_front();
        }
        let ahead = self.ahead.as_ref().map(|ahead| ahead.seen());
        if let Some((_, bytes, true)) = ahead {
            self.total = Some(bytes);
        }
        let durable = self.watched.as_ref().and_then(|target| durable_bytes(target, this_file));
        Snapshot {
            phase: self.phase,
            copied,
            total: self.total.filter(|&total| copied <= total),
            durable: durable.map(|bytes| self.before + bytes),
            rate: rate(&self.history),
            elapsed: now - self.started,
            files: ahead.map(|(seen, _, all)| (progress.files(), seen, all)),
        }
    }
}

fn rate(history: &VecDeque<(Instant, u64)>) -> Option<f64> {
    let (first, last) = (history.front()?, history.back()?);
    let seconds = (last.0 - first.0).as_secs_f64();
    (seconds >= 0.05).then(|| (last.1 - first.1) as f64 / seconds)
}

/// Of the first `copied` bytes of `target`, those that are not dirty or under way; `None` where
/// the kernel does not tell.
fn durable_bytes(target: &File, copied: u64) -> Option<u64> {
    let cache = sys::cachestat(target, 0..target.metadata().ok()?.len().max(1)).ok()?;
    let waiting = (cache.dirty + cache.writeback).saturating_mul(probe::page_bytes());
    Some(copied.saturating_sub(waiting))
}

fn new_bar(total: Option<u64>) -> ProgressBar {
    ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
}

/// Columns of the bar itself: none where the words need all there is.
fn bar_columns(columns: usize) -> usize {
    match columns {
        ..60 => 0,
        60..120 => 10,
        _ => 30,
    }
}

/// Columns that are not left for the words, on a terminal of so many and with a whole or without.
fn taken((columns, has_total): (usize, bool)) -> usize {
    match (bar_columns(columns), has_total) {
        (_, false) => 2,
        (0, true) => 0,
        (bar, true) => bar + 3,
    }
}

fn set_style(bar: &ProgressBar, (columns, has_total): (usize, bool)) {
    let template = match (bar_columns(columns), has_total) {
        (_, false) => "{spinner} {wide_msg}".to_owned(),
        (0, true) => "{wide_msg}".to_owned(),
        (bar, true) => format!("[{{bar:{bar}}}] {{wide_msg}}"),
    };
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_moments() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let history = VecDeque::from([(at(0), 1000), (at(500), 2000), (at(2000), 5000)]);
        assert_eq!(rate(&history), Some(2000.0));
        assert_eq!(rate(&VecDeque::from([(at(0), 1000)])), None);
    }

    #[test]
    fn an_engine_that_starts_again_is_followed() {
        let progress = Arc::new(Progress::default());
        let monitor = Monitor::start(Arc::clone(&progress), Some(100), true).unwrap();
        monitor.begin("a".into(), None);
        progress.add(80);
        assert_eq!(monitor.shared.view().snapshot(&progress).copied, 80);
        progress.reset();
        progress.add(30);
        assert_eq!(monitor.shared.view().snapshot(&progress).copied, 30);
        monitor.end(90);
        assert_eq!(monitor.shared.view().snapshot(&progress).copied, 90);
    }
}
