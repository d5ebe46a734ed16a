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

use bookend::units::Bytes;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::engine::Progress;
use super::tree::scan::Ahead;
use super::{probe, sys};
use crate::cli::format;

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

/// What is known of a copy at a moment.
#[derive(Clone, PartialEq, Debug)]
struct Snapshot {
    phase: Phase,
    /// Bytes copied of this run.
    copied: u64,
    /// Bytes to copy in this run, if every source has a length.
    total: Option<u64>,
    /// Bytes of this file that the device has, where that is asked for and known.
    durable: Option<u64>,
    /// Bytes a second, once there is something to measure.
    rate: Option<f64>,
    elapsed: Duration,
    /// Of a tree: files done, files seen ahead, and whether those are all.
    files: Option<(u64, u64, bool)>,
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
        Printer { shared: Arc::clone(&self.shared) }
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
}

impl Printer {
    /// One line on standard error.
    pub fn print(&self) {
        let mut view = self.shared.view();
        let snapshot = view.snapshot(&self.shared.progress);
        let text = format!("hugecp: {}: {}", view.name, describe(&snapshot));
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
        if self.ahead.is_some() && bar.length() != snapshot.total {
            match snapshot.total {
                Some(total) => bar.set_length(total),
                None => bar.unset_length(),
            }
            set_style(bar, snapshot.total.is_some());
        }
        bar.set_position(snapshot.copied);
        bar.set_message(describe(&snapshot));
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
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    set_style(&bar, total.is_some());
    bar
}

fn set_style(bar: &ProgressBar, has_total: bool) {
    // A short bar, so that the words fit 80 columns; what does not fit is cut off.
    let template = if has_total { "[{bar:10}] {wide_msg}" } else { "{spinner} {wide_msg}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

/// `3.2 GiB of 6 GiB (53%), 1.5 GiB/s, 1.9 s left, 1.1 GiB on disk`.
fn describe(now: &Snapshot) -> String {
    let verb = match now.phase {
        Phase::Copying => "",
        Phase::Verifying => "verifying ",
        Phase::Syncing => "syncing ",
    };
    let mut text = match now.total {
        Some(total) if total > 0 => {
            let percent = u128::from(now.copied) * 100 / u128::from(total);
            format!("{verb}{} of {} ({percent}%)", Bytes::new(now.copied), Bytes::new(total))
        }
        _ => format!("{verb}{}", Bytes::new(now.copied)),
    };
    if let Some((done, seen, all)) = now.files {
        let of = match (seen, all) {
            (0, false) => String::new(), // nobody looks ahead
            (_, true) => format!(" of {seen}"),
            (_, false) => format!(" of so far {seen}"),
        };
        text = format!("{done}{of} files, {text}");
    }
    if now.phase == Phase::Syncing {
        text.push_str(&format!(", {} so far", format::duration(now.elapsed)));
    } else if let Some(rate) = now.rate.filter(|rate| *rate >= 1.0) {
        text.push_str(&format!(", {}/s", Bytes::new(rate as u64)));
        if let Some(total) = now.total {
            text.push_str(&format!(", {} left", clock((total - now.copied) as f64 / rate)));
        }
    }
    if let Some(durable) = now.durable.filter(|_| now.phase != Phase::Verifying) {
        text.push_str(&format!(", {} on disk", Bytes::new(durable)));
    }
    text
}

/// Whole seconds below a minute: tenths would flicker.
fn clock(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{} s", seconds.ceil() as u64)
    } else {
        // A rate near zero must not overflow a Duration.
        format::duration(Duration::from_secs(seconds.min(1e9) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            phase: Phase::Copying,
            copied: 3 << 30,
            total: Some(6 << 30),
            durable: None,
            rate: Some(1.5 * (1u64 << 30) as f64),
            elapsed: Duration::from_secs(2),
            files: None,
        }
    }

    #[test]
    fn a_tree_has_its_files_too() {
        let tree = |files| describe(&Snapshot { files: Some(files), ..snapshot() });
        assert!(tree((3, 8, true)).starts_with("3 of 8 files, 3 GiB of 6 GiB (50%)"));
        assert!(tree((3, 8, false)).starts_with("3 of so far 8 files, 3 GiB"));
        assert!(tree((3, 0, false)).starts_with("3 files, 3 GiB"));
    }

    #[test]
    fn a_line_has_bytes_rate_and_time_left() {
        assert_eq!(describe(&snapshot()), "3 GiB of 6 GiB (50%), 1.5 GiB/s, 2 s left");
        let durable = Snapshot { durable: Some(1 << 30), ..snapshot() };
        assert!(describe(&durable).ends_with("1 GiB on disk"), "{}", describe(&durable));
        let unknown = Snapshot { total: None, ..snapshot() };
        assert_eq!(describe(&unknown), "3 GiB, 1.5 GiB/s");
        let syncing = Snapshot { phase: Phase::Syncing, ..durable };
        assert_eq!(
            describe(&syncing),
            "syncing 3 GiB of 6 GiB (50%), 2.00 s so far, 1 GiB on disk"
        );
        let verifying = Snapshot { phase: Phase::Verifying, ..syncing };
        assert_eq!(describe(&verifying), "verifying 3 GiB of 6 GiB (50%), 1.5 GiB/s, 2 s left");
    }

    #[test]
    fn odd_moments_do_not_divide_by_zero() {
        let stalled = Snapshot { rate: Some(0.0), ..snapshot() };
        assert_eq!(describe(&stalled), "3 GiB of 6 GiB (50%)");
        let empty = Snapshot { copied: 0, total: Some(0), rate: None, ..snapshot() };
        assert_eq!(describe(&empty), "0 B");
        assert_eq!(clock(f64::INFINITY), format::duration(Duration::from_secs(1_000_000_000)));
    }

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
