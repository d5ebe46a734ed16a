//! Copying in order: pipes, sockets, terminals, and files that do not know their length.
//!
//! Where a pipe is on either side and nobody needs to see the bytes, `splice(2)` moves them inside
//! the kernel; from the page cache into a pipe it moves references and copies nothing. Otherwise
//! they go through one buffer. Streams are never waited for longer than [`WAIT_MS`] at a time, so
//! that a copy from a silent terminal or into a full pipe can be interrupted.

use std::fs::File;
use std::io::{self, Read, Write};

use super::ends::{self, Memory};
use crate::copy::cached::Slices;
use crate::copy::engine::{Buffers, CopyError, Done, Job, Kind, Side, Sparse, Stop};
use crate::copy::limit::Limiter;
use crate::copy::sys::{self, Readiness};
use crate::copy::zeros;

/// Bytes a request, unless told otherwise: the usual limit of a pipe's size is 1 MiB.
const BLOCK_SIZE: u64 = 1 << 20;
/// The longest wait before looking at cancellation again, in milliseconds.
const WAIT_MS: i32 = 100;

/// Copies `job` in order, from the source's beginning (a stream: from where it is) to its end.
pub fn copy(job: &Job<'_>) -> Result<Done, Stop> {
    let mut flow = Flow::new(job)?;
    let spliced = flow.can_splice() && flow.splice_all()?;
    if !spliced {
        flow.pump_all()?;
    }
    flow.finish()?;
    let how = if spliced { "spliced inside the kernel" } else { "read and written in order" };
    let buffers = (!spliced).then_some(Buffers { pages: "4K", bytes: flow.block });
    Ok(Done { bytes: flow.at, buffers, notes: vec![how.to_owned()] })
}

/// A copy in order, under way.
struct Flow<'a, 'b> {
    job: &'a Job<'b>,
    limiter: Limiter,
    /// Bytes a request.
    block: u64,
    /// Bytes that have been copied: the offset in a file on either side.
    at: u64,
    /// Where the source ends, if it is of a length that can be believed.
    len: Option<u64>,
    /// Where a device ends.
    room: u64,
    /// How a file is written.
    slices: Slices,
}

impl<'a, 'b> Flow<'a, 'b> {
    fn new(job: &'a Job<'b>) -> Result<Self, CopyError> {
        let believed = !super::buffered::length_is_unknown(&job.source);
        let len = job.source.len.filter(|_| believed);
        if let Some(len) = len {
            ends::prepare_target(job, len)?;
        }
        let limiter = Limiter::new(job.tuning.bwlimit);
        let wanted = job.tuning.block_size.or(job.tuning.buffer_memory).unwrap_or(BLOCK_SIZE);
        let wanted = wanted.min(job.tuning.buffer_memory.unwrap_or(u64::MAX)).clamp(512, 1 << 30);
        let room = match job.target.kind {
            Kind::BlockDevice => job.target.len.unwrap_or(u64::MAX),
            Kind::Regular | Kind::Stream => u64::MAX,
        };
        let slices = Slices::of(job.target.file);
        Ok(Self { job, block: limiter.request_size(wanted), limiter, at: 0, len, room, slices })
    }

    /// Whether the bytes may pass unseen: a pipe is on one side, and nothing looks at them.
    fn can_splice(&self) -> bool {
        let unseen = self.job.sums.is_none() && self.job.tuning.sparse != Sparse::Always;
        unseen && (is_pipe(&self.job.source) || is_pipe(&self.job.target))
    }

    /// Moves everything by `splice(2)`. `Ok(false)`, with nothing moved, where the files refuse.
    fn splice_all(&mut self) -> Result<bool, CopyError> {
        let (source, target) = (&self.job.source, &self.job.target);
        // Bytes that the limit allowed and that have not moved yet: a pipe takes part of a request.
        let mut allowed = 0;
        loop {
            let want = self.next_request();
            if want == 0 {
                return Ok(true);
            }
            if allowed < want {
                self.limiter.take(want - allowed, self.job.progress)?;
                allowed = want;
            }
            let source_at = (source.kind != Kind::Stream).then_some(self.at);
            let target_at = (target.kind != Kind::Stream).then_some(self.at);
            match sys::splice(source.file, source_at, target.file, target_at, want as usize) {
                Ok(0) => return Ok(true),
                Ok(moved) => {
                    allowed -= moved as u64;
                    self.advance(moved as u64);
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => self.wait_for_both()?,
                    Some(libc::EINTR) => self.check_cancelled()?,
                    Some(libc::EINVAL | libc::ENOSYS | libc::EBADF) if self.at == 0 => {
                        return Ok(false);
                    }
                    // The call does not say which side failed; the file or device is the likelier.
                    Some(libc::EPIPE | libc::ENOSPC | libc::EDQUOT | libc::EFBIG) => {
                        return Err(target.write_error(self.at, error));
                    }
                    _ if source.kind == Kind::Stream => {
                        return Err(target.write_error(self.at, error));
                    }
                    _ => return Err(source.read_error(self.at, error)),
                },
            }
        }
    }

    /// Copies everything through a buffer.
    fn pump_all(&mut self) -> Result<(), CopyError> {
        let mut memory = Memory::new(self.job, self.block)?;
        loop {
            let want = self.next_request();
            if want == 0 {
                return Ok(());
            }
            self.check_cancelled()?;
            let buffer = &mut memory.bytes()[..want as usize];
            let got = self.read(buffer)?;
            if got == 0 {
                return Ok(());
            }
            let bytes = &buffer[..got];
            self.limiter.take(got as u64, self.job.progress)?;
            if let Some(sums) = self.job.sums {
                sums.record(self.at, bytes);
            }
            self.write(bytes)?;
            self.advance(got as u64);
        }
    }

    /// How much to ask for next; zero at the end.
    fn next_request(&self) -> u64 {
        self.len.map_or(self.block, |len| self.block.min(len - self.at))
    }

    fn advance(&mut self, bytes: u64) {
        self.at += bytes;
        self.job.progress.add(bytes);
    }

    fn check_cancelled(&self) -> Result<(), CopyError> {
        if self.job.progress.is_cancelled() { Err(CopyError::Cancelled) } else { Ok(()) }
    }

    /// Waits until a stream is ready or the copy is cancelled.
    fn wait(&self, side: &Side<'_>, readiness: Readiness) -> Result<(), CopyError> {
        if side.kind != Kind::Stream {
            return Ok(());
        }
        loop {
            self.check_cancelled()?;
            match sys::poll(side.file, readiness, WAIT_MS) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(side.cannot("wait for it", cause)),
            }
        }
    }

    fn wait_for_both(&self) -> Result<(), CopyError> {
        self.wait(&self.job.source, Readiness::Readable)?;
        self.wait(&self.job.target, Readiness::Writable)
    }

    /// Reads something; zero is the end.
    fn read(&self, buffer: &mut [u8]) -> Result<usize, CopyError> {
        let source = &self.job.source;
        if source.kind != Kind::Stream {
            return source.read_at(buffer, self.at);
        }
        loop {
            self.wait(source, Readiness::Readable)?;
            let mut file: &File = source.file;
            match file.read(buffer) {
                Ok(got) => return Ok(got),
                Err(error) if is_temporary(&error) => {}
                Err(cause) => return Err(source.read_error(self.at, cause)),
            }
        }
    }

    /// Writes all of `bytes`.
    fn write(&self, bytes: &[u8]) -> Result<(), CopyError> {
        match self.job.target.kind {
            Kind::Stream => self.write_stream(bytes),
            Kind::BlockDevice if self.room - self.at < bytes.len() as u64 => {
                let cause = io::Error::from_raw_os_error(libc::ENOSPC);
                Err(self.job.target.write_error(self.room, cause))
            }
            Kind::Regular if self.job.tuning.sparse == Sparse::Always => {
                for run in zeros::data_runs(self.at, bytes) {
                    let at = self.at + run.start as u64;
                    self.job.target.write_all_at(&bytes[run], at, self.slices)?;
                }
                Ok(())
            }
            Kind::Regular | Kind::BlockDevice => {
                self.job.target.write_all_at(bytes, self.at, self.slices)
            }
        }
    }

    fn write_stream(&self, bytes: &[u8]) -> Result<(), CopyError> {
        let target = &self.job.target;
        let mut done = 0;
        while done < bytes.len() {
            self.wait(target, Readiness::Writable)?;
            let rest = &bytes[done..];
            let written = match sys::write_nowait(target.file, rest) {
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::ESPIPE)
                    ) =>
                {
                    let mut file: &File = target.file;
                    file.write(rest)
                }
                result => result,
            };
            match written {
                Ok(written) => done += written,
                Err(error) if is_temporary(&error) => {}
                Err(cause) => return Err(target.write_error(self.at + done as u64, cause)),
            }
        }
        Ok(())
    }

    /// Gives a regular target its length and checks that the source was at rest.
    fn finish(&self) -> Result<(), CopyError> {
        let Some(len) = self.len else {
            // Zeros at the end that were left out, and nothing else, still need the length.
            if self.job.target.kind == Kind::Regular {
                let set = self.job.target.file.set_len(self.at);
                let operation = || format!("set the length to {} bytes", self.at);
                set.map_err(|cause| self.job.target.cannot(operation(), cause))?;
            }
            return Ok(());
        };
        if self.at < len {
            return Err(self.job.source.shrank(self.at));
        }
        ends::check_source(&self.job.source, len)
    }
}

/// Whether the side is a pipe.
fn is_pipe(side: &Side<'_>) -> bool {
    use std::os::unix::fs::FileTypeExt;
    side.file.metadata().is_ok_and(|stat| stat.file_type().is_fifo())
}

/// Whether to try again.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock)
}
