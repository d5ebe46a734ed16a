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
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::begun;
use super::engine::Progress;
use super::progress::Printer;
use super::staging;

/// How long a copy may take to unwind.
const GRACE: Duration = Duration::from_millis(700);

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
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGUSR1] {
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

/// Does `start`, which starts a program, for which SIGXFSZ is not held back: it does not know of that.
pub fn with_file_limit<T>(start: impl FnOnce() -> T) -> T {
    let limit = SigSet::from(Signal::SIGXFSZ);
    // Neither fails for a signal that there is.
    let _ = limit.thread_unblock();
    let started = start();
    let _ = limit.thread_block();
    started
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
    fn the_limit_of_files_is_held_here_and_not_in_programs_started() {
        let held = |status: &str| {
            let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap();
            let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
            mask & (1 << (Signal::SIGXFSZ as i32 - 1)) != 0
        };
        let here = || held(&std::fs::read_to_string("/proc/thread-self/status").unwrap());
        let cat = || std::process::Command::new("cat").arg("/proc/self/status").output().unwrap();
        hold_file_limit().unwrap(); // of the thread of this test
        assert!(here());
        let started = with_file_limit(cat);
        assert!(!held(&String::from_utf8(started.stdout).unwrap()));
        assert!(here());
    }

    #[test]
    fn rust_ignores_sigpipe_and_this_sees_it() {
        assert_ne!(ignored_signals() & (1 << (Signal::SIGPIPE as i32 - 1)), 0);
    }
}
