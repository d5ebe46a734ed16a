//! A lease, and the signal that it is to be given up.
#![allow(unsafe_code)] // fcntl(2), signalfd(2)

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

/// `F_SETSIG`, `F_SETOWN_EX` and its `F_OWNER_TID` of asm-generic/fcntl.h, which libc lacks.
const F_SETSIG: libc::c_int = 10;
const F_SETOWN_EX: libc::c_int = 15;
const F_OWNER_TID: libc::c_int = 0;

#[repr(C)]
struct OwnerEx {
    kind: libc::c_int,
    pid: libc::pid_t,
}

/// A lease of a file that this thread is told of. To be used by the thread that took it.
#[derive(Debug)]
pub(super) struct Lease {
    file: File,
    /// Readable when the lease is to be broken.
    signals: OwnedFd,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The signal that leases are told by. It goes to one thread, which has it blocked: what the program does
/// with it elsewhere is its own affair.
fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 4
}

impl Lease {
    /// Takes a lease against writers (`write` false) or against all others. The signals that tell of its end
    /// are blocked in this thread from now on, and go to it alone.
    pub fn take(file: File, write: bool) -> io::Result<Self> {
        let signals = signals()?;
        let fd = file.as_raw_fd();
        let owner = OwnerEx { kind: F_OWNER_TID, pid: this_thread() };
        // SAFETY: the descriptor is open, and the arguments are what the commands take.
        unsafe {
            check(libc::fcntl(fd, F_SETSIG, signal()))?;
            check(libc::fcntl(fd, F_SETOWN_EX, &raw const owner))?;
            let kind = if write { libc::F_WRLCK } else { libc::F_RDLCK };
            check(libc::fcntl(fd, libc::F_SETLEASE, libc::c_int::from(kind as i16)))?;
            // Taking a lease makes its taker the owner, as the process: the thread once more.
            check(libc::fcntl(fd, F_SETOWN_EX, &raw const owner))?;
        }
        Ok(Self { file, signals })
    }

    /// Waits until the lease is to be given up (true), or `stop` can be read (false).
    pub fn wait(&self, stop: RawFd, write: bool) -> bool {
        let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        loop {
            let mut polls = [poll(self.signals.as_raw_fd()), poll(stop)];
            // Once a second without a signal: should one ever be lost, the lease itself tells.
            // SAFETY: two descriptors are asked for.
            unsafe { libc::poll(polls.as_mut_ptr(), 2, 1000) };
            if polls[1].revents != 0 {
                return false;
            }
            if polls[0].revents != 0 {
                self.drain();
            }
            if self.is_breaking(write) {
                return true;
            }
        }
    }

    /// Whether somebody waits for it: `F_GETLEASE` says what it is to become.
    fn is_breaking(&self, write: bool) -> bool {
        // SAFETY: the descriptor is open.
        let now = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        let held = if write { libc::F_WRLCK } else { libc::F_RDLCK };
        now != libc::c_int::from(held as i16)
    }

    fn drain(&self) {
        // SAFETY: zeros are a valid value of it.
        let mut info: libc::signalfd_siginfo = unsafe { mem::zeroed() };
        let (at, len) = ((&raw mut info).cast(), size_of::<libc::signalfd_siginfo>());
        // SAFETY: the record is ours to write, as long as is said.
        while unsafe { libc::read(self.signals.as_raw_fd(), at, len) } > 0 {}
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open.
        let _ = unsafe {
            libc::fcntl(
                self.file.as_raw_fd(),
                libc::F_SETLEASE,
                libc::c_int::from(libc::F_UNLCK as i16),
            )
        };
    }
}

fn this_thread() -> libc::pid_t {
    // SAFETY: it takes nothing.
    unsafe { libc::gettid() }
}

/// A descriptor that this thread reads its signals from: the lease's, and SIGIO, which comes in its place
/// where the queue of signals is full.
fn signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is ours; signals are blocked in this thread alone; the descriptor is new, and ours.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal());
        libc::sigaddset(&mut set, libc::SIGIO);
        let errno = libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let fd = check(libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// How long the kernel waits for a lease to be given up.
pub(super) fn break_time() -> Duration {
    let text = std::fs::read_to_string("/proc/sys/fs/lease-break-time").unwrap_or_default();
    Duration::from_secs(text.trim().parse().unwrap_or(45))
}

/// A descriptor that is readable once it was written to.
pub(super) fn event() -> io::Result<OwnedFd> {
    // SAFETY: the descriptor is new, and ours.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::eventfd(0, libc::EFD_CLOEXEC))?)) }
}

/// Makes it readable.
pub(super) fn set(event: &OwnedFd) {
    let one = 1u64;
    // SAFETY: eight bytes are written.
    let _ = unsafe { libc::write(event.as_raw_fd(), (&raw const one).cast(), 8) };
}
