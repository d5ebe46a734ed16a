//! The copy-range engine: the kernel copies, by `copy_file_range(2)`.
//!
//! What it costs is the file system's choice: Btrfs and XFS share blocks, an NFS server copies on
//! its own machine, and others move pages within the page cache. A call moves at most
//! 2,147,479,552 bytes and may move fewer, so it is repeated until the data is through, in slices
//! short enough to show progress and to notice an interruption.

use std::io;
use std::ops::Range;

use super::ends;
use crate::copy::engine::{CopyError, Done, Engine, EngineName, Job, Kind, Sparse, Stop};
use crate::copy::limit::Limiter;
use crate::copy::probe::{self, FileSystem};
use crate::copy::sys;

/// The most that one call is asked for.
const SLICE: u64 = 64 << 20;

/// Lets the kernel copy.
#[derive(Debug)]
pub struct CopyRange;

impl Engine for CopyRange {
    fn name(&self) -> EngineName {
        EngineName::CopyRange
    }

    fn copy(&self, job: &Job<'_>) -> Result<Done, Stop> {
        if job.source.kind != Kind::Regular || job.target.kind != Kind::Regular {
            return Err(Stop::Unsupported("copy_file_range takes regular files only".into()));
        }
        let len = match job.source.len {
            Some(len) if !super::buffered::length_is_unknown(&job.source) => len,
            _ => {
                let why = "only reading tells how long the source is";
                return Err(Stop::Unsupported(why.into()));
            }
        };
        if job.tuning.sparse == Sparse::Always {
            let why = "the kernel does not look for zeros (--sparse=always)";
            return Err(Stop::Unsupported(why.into()));
        }
        let allocated = prepare(job, len)?;
        let limiter = Limiter::new(job.tuning.bwlimit);
        let mut wrote = false;
        let mut at = 0;
        for range in ends::ranges_to_write(job, len, allocated)? {
            job.progress.pass(at..range.start);
            at = range.end;
            copy_range(job, range, &limiter, &mut wrote)?;
        }
        job.progress.pass(at..len);
        ends::check_source(&job.source, len)?;
        Ok(Done { bytes: len, buffers: None, notes: vec!["the kernel copied".into()] })
    }
}

/// Gives the target its length, and its blocks where the kernel will not share the source's.
fn prepare(job: &Job<'_>, len: u64) -> Result<bool, CopyError> {
    let shares = matches!(
        probe::file_system(job.target.file),
        Ok(FileSystem::Xfs | FileSystem::Btrfs | FileSystem::Nfs)
    );
    if !shares || job.tuning.sparse == Sparse::Never {
        return ends::prepare_target(job, len);
    }
    let set = job.target.file.set_len(len);
    set.map_err(|cause| job.target.cannot(format!("set the length to {len} bytes"), cause))?;
    Ok(true)
}

/// One call.
fn copy_slice(job: &Job<'_>, at: u64, len: u64) -> io::Result<usize> {
    sys::copy_file_range(job.source.file, at, job.target.file, at, len as usize)
}

/// Copies one range.
fn copy_range(
    job: &Job<'_>,
    range: Range<u64>,
    limiter: &Limiter,
    wrote: &mut bool,
) -> Result<(), Stop> {
    let slice = limiter.request_size(SLICE);
    let mut at = range.start;
    while at < range.end {
        if job.progress.is_cancelled() {
            return Err(CopyError::Cancelled.into());
        }
        let wanted = slice.min(range.end - at);
        limiter.take(wanted, job.progress)?;
        match copy_slice(job, at, wanted) {
            Ok(0) => return Err(ended_early(job, at, *wrote)),
            Ok(n) => {
                *wrote = true;
                job.progress.add(n as u64);
                at += n as u64;
            }
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(refused(job, at, cause, *wrote)),
        }
    }
    Ok(())
}

/// Nothing was copied before the end. Some file systems say so of files that they could well be
/// read from, so at the beginning this is a reason to ask another engine.
fn ended_early(job: &Job<'_>, at: u64, wrote: bool) -> Stop {
    if wrote {
        job.source.shrank(at).into()
    } else {
        Stop::Unsupported("the kernel copied nothing, and named no error".into())
    }
}

/// Why the kernel does not copy, in words, or the error that ends the copy.
fn refused(job: &Job<'_>, at: u64, cause: io::Error, wrote: bool) -> Stop {
    let why = match cause.raw_os_error() {
        _ if wrote => return job.target.write_error(at, cause).into(),
        Some(libc::EXDEV) => "the kernel does not copy between these file systems",
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => "the kernel has no copy_file_range here",
        Some(libc::EINVAL) => "the kernel does not copy between these two files",
        Some(libc::EPERM) => "copy_file_range is not permitted here",
        _ => return job.target.write_error(at, cause).into(),
    };
    Stop::Unsupported(why.into())
}
