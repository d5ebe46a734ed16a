//! Moving a piece from the page cache into another file through a pipe of our own.
//!
//! `splice(2)` puts references to the source's pages into the pipe, and the target's file system
//! copies from there: each byte is copied once, where `read` and `write` copy it twice. Of use only
//! where nobody needs to see the bytes, and where the target copies anyway.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};

use crate::copy::cached::Slices;
use crate::copy::engine::{CopyError, Job};
use crate::copy::sys;

/// Bytes that may wait in the pipe: what an unprivileged process gets at most by default.
const PIPE_BYTES: u64 = 1 << 20;

/// A pipe that one thread fills and empties in turn.
#[derive(Debug)]
pub(super) struct KernelPipe {
    read: File,
    write: File,
    bytes: u64,
    /// How the target is written.
    slices: Slices,
}

impl KernelPipe {
    /// A pipe, as long as the system allows, to a target that is written in `slices`.
    pub(super) fn new(slices: Slices) -> io::Result<Self> {
        let (read, write) = io::pipe()?;
        let write = File::from(OwnedFd::from(write));
        // A shorter pipe does as well, more slowly.
        let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES as i32));
        let bytes = fcntl(&write, FcntlArg::F_GETPIPE_SZ).map_err(io::Error::from)?;
        Ok(Self { read: File::from(OwnedFd::from(read)), write, bytes: bytes as u64, slices })
    }

    /// Copies a piece; `Ok(false)`, with nothing written, where the files refuse.
    pub(super) fn copy(&self, job: &Job<'_>, piece: Range<u64>) -> Result<bool, CopyError> {
        let source = &job.source;
        let mut at = piece.start;
        while at < piece.end {
            let wanted = self.bytes.min(piece.end - at) as usize;
            let filled = match sys::splice(source.file, Some(at), &self.write, None, wanted) {
                Ok(0) => return Err(source.shrank(at)),
                Ok(n) => n as u64,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) if at == piece.start && is_refusal(&cause) => return Ok(false),
                Err(cause) => return Err(source.read_error(at, cause)),
            };
            if !self.empty(job, at..at + filled, at == piece.start)? {
                return Ok(false);
            }
            at += filled;
        }
        Ok(true)
    }

    /// Empties the pipe, which holds the bytes of `range`, into the target. `Ok(false)` where the
    /// target refuses the first of them: the pipe is of no use then.
    fn empty(&self, job: &Job<'_>, range: Range<u64>, first: bool) -> Result<bool, CopyError> {
        let target = &job.target;
        let mut at = range.start;
        while at < range.end {
            let left = self.slices.next((range.end - at) as usize);
            match sys::splice(&self.read, None, target.file, Some(at), left) {
                Ok(0) => return Err(target.write_error(at, io::ErrorKind::WriteZero.into())),
                Ok(n) => at += n as u64,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) if first && at == range.start && is_refusal(&cause) => return Ok(false),
                Err(cause) => return Err(target.write_error(at, cause)),
            }
        }
        Ok(true)
    }
}

/// Whether the error says that these files are not spliced, and nothing about their content.
fn is_refusal(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ENOSYS))
}
