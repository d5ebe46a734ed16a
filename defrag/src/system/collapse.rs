//! Makes huge pages of another process's memory: process_madvise(2) with MADV_COLLAPSE (Linux 6.1).
//!
//! Only ranges that are worth it are tried: private anonymous memory of at least a block, of which
//! part is not in huge pages yet. Each block is collapsed by a call of its own, so that a budget of
//! time is kept: while a block is collapsed, whoever touches it waits.
#![allow(unsafe_code)] // process_madvise(2) has no wrapper

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use bookend::units::{Bytes, PageSize};
use serde::Serialize;

use super::counters::Counters;
use super::files::{FileError, Files};

/// What came of it.
#[derive(Clone, Default, PartialEq, Debug, Serialize)]
pub struct Collapsed {
    /// Blocks that were tried.
    pub tried: u64,
    /// Of them those that are huge pages now, some perhaps were before.
    pub collapsed: u64,
    /// Those of which the kernel could not make huge pages, for lack of one say.
    pub refused: u64,
    /// The longest that one block took.
    pub longest_us: u64,
    /// Whether the budget ended it.
    pub out_of_time: bool,
    /// Anonymous memory in huge pages before and afterwards.
    pub huge_bytes_before: u64,
    /// See there.
    pub huge_bytes_after: u64,
}

/// Why nothing was collapsed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CollapseError {
    /// There is no such process, or it may not be looked at.
    #[error("process {pid} cannot be looked at")]
    Process {
        /// Its number.
        pid: u32,
        /// Why.
        source: FileError,
    },
    /// The process may not be told.
    #[error(
        "process {pid} cannot be told to use huge pages (needs CAP_SYS_NICE and ptrace rights)"
    )]
    Refused {
        /// Its number.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel cannot do it.
    #[error("this kernel cannot collapse another process's memory (Linux 6.1 can)")]
    Unsupported,
}

/// Collapses a process's large anonymous ranges, within a budget of time; ends early where `stop`
/// says so.
///
/// # Errors
/// [`CollapseError`].
pub fn collapse(
    files: &Files,
    pid: u32,
    budget: Duration,
    stop: fn() -> bool,
) -> Result<Collapsed, CollapseError> {
    let process = |source| CollapseError::Process { pid, source };
    let ranges = ranges(&files.text(format!("proc/{pid}/smaps")).map_err(process)?);
    let descriptor = open(pid).map_err(|source| match source.raw_os_error() {
        Some(libc::ENOSYS) => CollapseError::Unsupported,
        _ => CollapseError::Refused { pid, source },
    })?;
    let mut done = Collapsed { huge_bytes_before: huge(files, pid), ..Collapsed::default() };
    let started = Instant::now();
    let block = PageSize::MIB2.bytes();
    for start in ranges.into_iter().flat_map(|(start, end)| (start..end).step_by(block.as_usize()))
    {
        if started.elapsed() >= budget || stop() {
            done.out_of_time = true;
            break;
        }
        let began = Instant::now();
        let result = advise(&descriptor, start, block);
        done.longest_us = done.longest_us.max(began.elapsed().as_micros() as u64);
        done.tried += 1;
        match result.map_err(|error| (error.raw_os_error(), error)) {
            Ok(()) => done.collapsed += 1,
            Err((Some(libc::ESRCH), _)) => break, // it has ended
            Err((Some(libc::EPERM | libc::EACCES), source)) => {
                return Err(CollapseError::Refused { pid, source });
            }
            Err((Some(libc::ENOSYS), _)) => return Err(CollapseError::Unsupported),
            Err(_) => done.refused += 1,
        }
    }
    done.huge_bytes_after = huge(files, pid);
    Ok(done)
}

/// Whole blocks in mappings that have memory, and not all of it in huge pages.
fn ranges(smaps: &str) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut current = None;
    let (mut anonymous, mut huge) = (0, 0);
    for line in smaps.lines().chain(["0-0 end"]) {
        if let Some(range) = heading(line) {
            ranges.extend(current.filter(|_| anonymous > huge));
            current = range;
            (anonymous, huge) = (0, 0);
        } else if let Some(bytes) = kib(line, "Anonymous:") {
            anonymous = bytes;
        } else if let Some(bytes) = kib(line, "AnonHugePages:") {
            huge = bytes;
        }
    }
    ranges
}

/// The first line of a mapping: whole blocks of it, where it is private and has any.
fn heading(line: &str) -> Option<Option<(u64, u64)>> {
    let mut fields = line.split_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (start, end) = hex(start).zip(hex(end))?;
    let is_private = fields.next().is_some_and(|flags| flags.ends_with('p'));
    let start = Bytes::new(start).checked_round_up(PageSize::MIB2)?.get();
    let end = Bytes::new(end).round_down(PageSize::MIB2).get();
    Some((is_private && start < end).then_some((start, end)))
}

fn kib(line: &str, name: &str) -> Option<u64> {
    line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok()
}

fn huge(files: &Files, pid: u32) -> u64 {
    let text = files.text(format!("proc/{pid}/smaps_rollup")).unwrap_or_default();
    Counters::parse(&text).get("AnonHugePages").unwrap_or(0)
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers alone.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn advise(process: &OwnedFd, start: u64, len: Bytes) -> io::Result<()> {
    let range = libc::iovec { iov_base: start as *mut _, iov_len: len.as_usize() };
    // SAFETY:
    // 1. The one vector outlives the call, and its address is of the other process: nothing of
    //    this one is touched.
    // 2. Collapsing changes no content.
    let done = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            &range,
            1usize,
            libc::MADV_COLLAPSE,
            0u32,
        )
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_memory_that_could_be_huger_is_tried() {
        let smaps = "\
200000-800000 rw-p 00000000 00:00 0 \nAnonymous:  2048 kB\nAnonHugePages:  0 kB\n\
a00000-e00000 rw-p 00000000 00:00 0 \nAnonymous:  4096 kB\nAnonHugePages:  4096 kB\n\
1000000-1400000 rw-s 00000000 00:00 0 \nAnonymous:  8 kB\nAnonHugePages:  0 kB\n\
1600001-1900000 rw-p 00000000 00:00 0 [heap]\nAnonymous:  8 kB\nAnonHugePages:  0 kB\n\
2000000-2100000 rw-p 00000000 00:00 0 \nAnonymous:  8 kB\nAnonHugePages:  0 kB\n";
        assert_eq!(ranges(smaps), [(0x200000, 0x800000)]);
    }

    #[test]
    fn a_process_that_is_not_there_is_said_so() {
        let files = Files::of_machine();
        let error = collapse(&files, u32::MAX >> 1, Duration::ZERO, || false).unwrap_err();
        assert!(matches!(error, CollapseError::Process { .. }), "{error}");
    }

    #[test]
    fn this_process_collapses_or_says_why_not() {
        let files = Files::of_machine();
        let pid = std::process::id();
        let mut memory = vec![0u8; 8 << 20];
        memory.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        match collapse(&files, pid, Duration::from_secs(5), || false) {
            Ok(done) => {
                assert!(done.tried >= 3, "{done:?}");
                assert_eq!(done.tried, done.collapsed + done.refused);
                assert!(memory.iter().step_by(4096).all(|&byte| byte == 1));
            }
            Err(error) => {
                use std::io::Write;
                let _ = writeln!(std::io::stderr(), "skipped: collapsing this process: {error}");
            }
        }
    }
}
