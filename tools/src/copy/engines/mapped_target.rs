//! Writing to a file in memory through a mapping of it.
//!
//! Writers of one tmpfs file wait for one another: `write` and `splice` hold the file's lock while
//! they copy. A mapping does not take it. So one thread splices, and the others fault pages of the
//! target in and let the kernel read the source straight into them, which also copies each byte
//! once.
//!
//! The mapping is only ever touched by the kernel, within calls that name it as their buffer: a
//! target that somebody else cuts short, or a full file system, is an error of such a call and no
//! signal.

use std::io;
use std::ops::Range;

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::copy::engine::{CopyError, Job};
use crate::copy::{probe, sys};

/// The whole target, mapped.
#[derive(Debug)]
pub(super) struct MappedTarget(MmapRaw);

impl MappedTarget {
    /// Maps a target that has its length already.
    pub(super) fn new(job: &Job<'_>) -> io::Result<Self> {
        MmapOptions::new().map_raw(job.target.file).map(Self)
    }

    /// Copies a piece. `Ok(false)` where the memory for it cannot be had: an ordinary write will
    /// tell why.
    pub(super) fn copy(&self, job: &Job<'_>, piece: Range<u64>) -> Result<bool, CopyError> {
        let page = probe::page_bytes();
        let first = piece.start - piece.start % page;
        let len = (piece.end - first) as usize;
        if self.0.advise_range(Advice::PopulateWrite, first as usize, len).is_err() {
            return Ok(false);
        }
        let mut at = piece.start;
        while at < piece.end {
            let rest = at as usize..piece.end as usize;
            match sys::read_into_map(job.source.file, at, &self.0, rest) {
                Ok(0) => return Err(job.source.shrank(at)),
                Ok(n) => at += n as u64,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) if cause.raw_os_error() == Some(libc::EFAULT) => return Ok(false),
                Err(cause) => return Err(job.source.read_error(at, cause)),
            }
        }
        Ok(true)
    }
}
