//! Signals: a thread of its own takes them, so that nothing has to be safe in a handler.
//!
//! SIGINT, SIGTERM and SIGHUP ask every engine to stop, and the copy unwinds: its temporary file
//! goes, its buffers go back. What does not unwind soon (a sync, a read from a dead server), or is
//! asked twice, is ended here, after the temporary file's name was removed. SIGUSR1 prints the
//! progress. Signals that were ignored when the program started (`nohup`, a shell's background
//! jobs) stay ignored.
//!
//! SIGXFSZ is held back in every run: a file longer than `ulimit -f` is an error of that file, for which the others
//! need not suffer.

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;

use super::begun;
use super::engine::Progress;
use super::progress::Printer;
use super::staging;
use super::tree::context::lock;

/// How long a copy may take to unwind.
const GRACE: Duration = Duration::from_millis(700);

/// What asks this process for something.
const ASKING: [Signal; 4] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1];

/// Signals held back from every thread; made before there is a second one.
#[derive(Debug)]
pub struct Signals {
    set: SigSet,
}

/// Which signal asked to stop, if any.
#[derive(Clone, Debug, Default)]
pub struct Stopped {
    status: Arc<AtomicU8>,
}

impl Stopped {
    /// The exit status that tells the signal: 128 and its number.
    pub fn status(&self) -> Option<u8> {
        Some(self.status.load(Ordering::Acquire)).filter(|&status| status != 0)
    }
}

impl Signals {
    /// Holds the signals back, in this thread and those that it starts from now on.
    ///
    /// # Errors
    /// What the system says.
    pub fn hold() -> io::Result<Self> {
        let ignored = ignored_signals();
        let mut set = SigSet::empty();
        for signal in ASKING {
            if ignored & (1 << (signal as i32 - 1)) == 0 {
                set.add(signal);
            }
        }
        set.thread_block()?;
        Ok(Self { set })
    }

    /// Serves them from a thread until the process ends.
    ///
    /// # Errors
    /// What starting a thread fails with.
    pub fn serve(self, progress: Arc<Progress>, printer: Printer) -> io::Result<Stopped> {
        let stopped = Stopped::default();
        let seen = stopped.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            while let Ok(signal) = self.set.wait() {
                if signal == Signal::SIGUSR1 {
                    printer.print();
                    continue;
                }
                let status = 128 + signal as u8;
                if seen.status().is_some() {
                    leave(status, &printer);
                }
                seen.status.store(status, Ordering::Release);
                progress.cancel();
                leave_later(status, printer.clone());
            }
        })?;
        Ok(stopped)
    }
}

/// Lets what would make a file longer than the process may (`ulimit -f`) fail with `EFBIG` in this thread and those that
/// it starts from now on, rather than end the process.
///
/// # Errors
/// What the system says.
pub fn hold_file_limit() -> io::Result<()> {
    Ok(SigSet::from(Signal::SIGXFSZ).thread_block()?)
}

/// Does `start`, which starts a program, for which the signals are not held back that are here: it does not know of that.
/// What comes meanwhile ends this process, as it would have before.
pub fn released<T>(start: impl FnOnce() -> T) -> T {
    let held = SigSet::thread_get_mask();
    let mut released = SigSet::from(Signal::SIGXFSZ);
    released.extend(ASKING);
    // Neither fails for signals that there are.
    let _ = released.thread_unblock();
    let started = start();
    let _ = held.map(|held| held.thread_set_mask());
    started
}

/// The program that ends with this process, if there is one.
static PROGRAM: Mutex<Option<Pid>> = Mutex::new(None);

/// Has a program that was started end with this process.
pub fn end_too(program: u32) {
    let program = i32::try_from(program).ok().map(Pid::from_raw);
    *lock(&PROGRAM) = program;
}

/// Does `wait`, which gives something where it has waited for the program's end: its number may be another's then.
pub fn reap<T>(wait: impl FnOnce() -> Option<T>) -> Option<T> {
    let mut program = lock(&PROGRAM);
    let waited = wait();
    if waited.is_some() {
        *program = None;
    }
    waited
}

/// Ends the process if it does not end by itself.
fn leave_later(status: u8, printer: Printer) {
    let late = std::thread::Builder::new().spawn({
        let printer = printer.clone();
        move || {
            std::thread::sleep(GRACE);
            leave(status, &printer);
        }
    });
    if late.is_err() {
        leave(status, &printer);
    }
}

fn leave(status: u8, printer: &Printer) -> ! {
    // Whoever holds it is ending the program.
    if let Some(program) = PROGRAM.try_lock().ok().and_then(|mut program| program.take()) {
        let _ = kill(program, Signal::SIGTERM); // it may be gone
    }
    begun::remove_begun();
    staging::remove_temporary_names();
    printer.clear();
    std::process::exit(status.into());
}

/// The signals that this process ignores, bit n - 1 for signal n; none where /proc does not tell.
fn ignored_signals() -> u64 {
    std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored_in(&status))
}

fn ignored_in(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_found() {
        let status = "Name:\tx\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001001\n";
        assert_eq!(ignored_in(status), 1 << 12 | 1);
        assert_eq!(ignored_in(""), 0);
    }

    #[test]
    fn signals_are_held_here_and_not_in_programs_started() {
        let all = [Signal::SIGXFSZ, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];
        let held = |status: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
            all.map(|signal| mask & (1 << (signal as i32 - 1)) != 0)
        };
        let here = || held(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let cat = || std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
        // Of the thread of this test.
        hold_file_limit().unwrap();
        SigSet::from_iter(all).thread_block().unwrap();
        assert_eq!(here(), [true; 4]);
        let started = released(cat);
        assert_eq!(held(&String::from_utf8(started.stdout).unwrap()), [false; 4]);
        assert_eq!(here(), [true; 4]);
    }

    #[test]
    fn rust_ignores_sigpipe_and_this_sees_it() {
        assert_ne!(ignored_signals() & (1 << (Signal::SIGPIPE as i32 - 1)), 0);
    }
}
