//! The reflink engine: the target shares the source's blocks, and nothing is copied.
//!
//! One `FICLONE` does all of it, in a time that does not depend on the length; where several processes fill one
//! file, each shares its ranges with `FICLONERANGE`. The file system
//! keeps the two files apart from then on: whoever writes to one gets blocks of its own.

use std::io;
use std::ops::Range;

use super::ends;
use crate::copy::engine::{Done, Engine, EngineName, Job, Kind, Sparse, Stop};
use crate::copy::sys;

/// Shares blocks.
#[derive(Debug)]
pub struct Reflink;

impl Engine for Reflink {
    fn name(&self) -> EngineName {
        EngineName::Reflink
    }

    fn copy(&self, job: &Job<'_>) -> Result<Done, Stop> {
        let (Kind::Regular, Kind::Regular, Some(len)) =
            (job.source.kind, job.target.kind, job.source.len)
        else {
            return Err(Stop::Unsupported("only regular files can share blocks".into()));
        };
        if job.tuning.sparse != Sparse::Auto {
            // The clone has the source's holes, no more and no fewer.
            return Err(Stop::Unsupported("a clone keeps the holes as they are".into()));
        }
        let (source, target) = (job.source.file, job.target.file);
        if job.part {
            let share = |range: &Range<u64>| sys::clone_range(source, target, range);
            job.data.iter().try_for_each(share).map_err(|cause| refused(job, cause))?;
        } else {
            sys::clone_file(source, target).map_err(|cause| refused(job, cause))?;
        }
        // The clone is as long as the source is now; the caller knows how long it was.
        ends::check_source(&job.source, len)?;
        job.progress.pass(0..len);
        Ok(Done { bytes: len, buffers: None, notes: vec!["blocks are shared".into()] })
    }
}

/// Why blocks are not shared, in words, or the error that ends the copy.
fn refused(job: &Job<'_>, cause: io::Error) -> Stop {
    let why = match cause.raw_os_error() {
        Some(libc::EXDEV) => "source and target are on different file systems",
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS) => {
            "this file system cannot share blocks"
        }
        Some(libc::EINVAL) => "the file system does not share blocks of these two files",
        Some(libc::EPERM | libc::EACCES) => "sharing blocks is not permitted here",
        Some(libc::ETXTBSY) => "one of the files is a swap file",
        _ => return job.target.cannot("share the source's blocks", cause).into(),
    };
    Stop::Unsupported(why.into())
}
