//! A write to a file of the kernel that can be cut short.
//!
//! Writing to `compact`, `reclaim`, `nr_hugepages` or a memory block's `state` works as long as the
//! kernel finds something to do, and most of that heeds no signal but SIGKILL. So a child process
//! makes the write: it opens the file, writes once and ends, its exit status the error number. It is
//! killed when time is up or the caller is asked to stop, and by the kernel when the caller dies.
#![allow(unsafe_code)] // fork(2), and what the child may call after it

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::files::FileError;

/// Why work ended before it was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stop {
    /// The caller was asked to stop, by a signal say.
    Asked,
    /// Time was up.
    Timeout,
}

/// Until when work may go on.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The last moment, if there is one.
    pub deadline: Option<Instant>,
    /// Says whether the caller has been asked to stop.
    pub asked: fn() -> bool,
}

impl Limit {
    /// No limit at all.
    pub const NONE: Self = Self { deadline: None, asked: || false };

    /// Whether work has to end now.
    pub fn reached(&self) -> Option<Stop> {
        if (self.asked)() {
            return Some(Stop::Asked);
        }
        self.deadline.filter(|&deadline| Instant::now() >= deadline).map(|_| Stop::Timeout)
    }

    /// The same, but ending after `time` at the latest.
    pub fn within(self, time: Duration) -> Self {
        let end = Instant::now() + time;
        Self { deadline: Some(self.deadline.map_or(end, |deadline| deadline.min(end))), ..self }
    }
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    /// It was made.
    Whole,
    /// It was cut short; what the kernel had done by then stays done.
    Stopped(Stop),
}

/// Writes `value` to a file that exists, until the limit.
///
/// # Errors
/// [`FileError::Absent`] or [`FileError::Write`].
pub fn write(path: &Path, value: &str, limit: &Limit) -> Result<Written, FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Absent { path: path.to_owned() },
        _ => FileError::Write { path: path.to_owned(), value: value.to_owned(), source },
    };
    if let Some(stop) = limit.reached() {
        return Ok(Written::Stopped(stop));
    }
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| failed(e.into()))?;
    let child = start(&name, value.as_bytes()).map_err(|errno| failed(errno.into()))?;
    match wait(child, limit).map_err(|errno| failed(errno.into()))? {
        Ended::Status(0) => Ok(Written::Whole),
        Ended::Status(errno) if errno == Errno::EINTR as i32 && limit.reached().is_some() => {
            Ok(Written::Stopped(limit.reached().unwrap_or(Stop::Asked)))
        }
        Ended::Status(errno) => Err(failed(io::Error::from_raw_os_error(errno))),
        Ended::Killed(stop) => Ok(Written::Stopped(stop)),
    }
}

/// How the child ended.
enum Ended {
    Status(i32),
    Killed(Stop),
}

fn start(path: &CString, value: &[u8]) -> nix::Result<Pid> {
    let parent = nix::unistd::getpid();
    // SAFETY:
    // 1. The child calls nothing but system calls that are async-signal-safe (`write_and_exit`), so
    //    locks that other threads held at the fork are never waited for.
    // 2. It allocates nothing: path and value were made before.
    // 3. It ends by _exit, so no destructor or exit handler of the parent runs in it.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => write_and_exit(path, value, parent),
    }
}

/// The child's whole life.
fn write_and_exit(path: &CString, value: &[u8], parent: Pid) -> ! {
    // SAFETY:
    // 1. `path` is a string that ends in a zero byte, and `value` a slice; both outlive the calls.
    // 2. All four calls are async-signal-safe.
    // 3. The descriptor is this call's own; the process ends right after.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != parent.as_raw() {
            libc::_exit(libc::ECANCELED); // the parent died before it could be watched
        }
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_TRUNC | libc::O_CLOEXEC);
        let done = file >= 0
            && libc::write(file, value.as_ptr().cast(), value.len()) == value.len() as isize;
        let errno = if done { 0 } else { *libc::__errno_location() };
        libc::_exit(errno)
    }
}

/// Waits for the child, looking at the limit every few milliseconds; kills it when that is reached.
fn wait(child: Pid, limit: &Limit) -> nix::Result<Ended> {
    let mut pause = Duration::from_micros(100);
    let mut stopped = None;
    loop {
        match waitpid(child, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, status)) => return Ok(Ended::Status(status)),
            Ok(WaitStatus::Signaled(..)) => {
                return Ok(Ended::Killed(stopped.unwrap_or(Stop::Asked)));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
        if stopped.is_none() {
            stopped = limit.reached();
        }
        if stopped.is_some() {
            let _ = kill(child, Signal::SIGKILL); // it may have ended just now
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_is_made_or_its_error_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let error = write(&path, "7", &Limit::NONE).unwrap_err();
        assert!(matches!(error, FileError::Absent { .. }), "{error}");
        std::fs::write(&path, "before").unwrap();
        assert_eq!(write(&path, "7", &Limit::NONE).unwrap(), Written::Whole);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "7");
        let error = write(directory.path(), "7", &Limit::NONE).unwrap_err();
        assert_eq!(error.kind(), Some(io::ErrorKind::IsADirectory));
    }

    #[test]
    fn a_write_that_blocks_is_cut_short() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let started = Instant::now();
        let limit = Limit::NONE.within(Duration::from_millis(30));
        // Opening a pipe that nobody reads blocks.
        assert_eq!(write(&path, "7", &limit).unwrap(), Written::Stopped(Stop::Timeout));
        assert!(started.elapsed() >= Duration::from_millis(30));
        let limit = Limit { deadline: None, asked: || true };
        assert_eq!(write(&path, "7", &limit).unwrap(), Written::Stopped(Stop::Asked));
    }
}
