//! The round of the slots: idle, reading, writing, idle.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;

use super::ring::{Access, Ended, Ring};
use super::sides::Sides;
use crate::copy::engine::{CopyError, Job, Kind, Sparse, Stop};
use crate::copy::engines::pieces::Pieces;
use crate::copy::limit::Limiter;
use crate::copy::{probe, sys, zeros};

/// What a slot is at.
#[derive(Debug)]
enum State {
    Idle,
    Reading {
        piece: Range<u64>,
        done: usize,
        /// From the page cache, where the piece was found.
        cached: bool,
    },
    Writing {
        piece: Range<u64>,
        /// What is still to be written of it; the first is under way.
        parts: VecDeque<Range<usize>>,
    },
}

/// A copy under way.
#[derive(Debug)]
pub(super) struct Flow<'a, 'm> {
    job: &'a Job<'a>,
    sides: &'a Sides,
    ring: Ring<'m>,
    pieces: &'a Pieces<'a>,
    limiter: &'a Limiter,
    slots: Vec<State>,
    /// Whether any of the source may be in the page cache.
    look_in_cache: bool,
    pieces_from_cache: u64,
    wrote: bool,
}

impl<'a, 'm> Flow<'a, 'm> {
    pub(super) fn new(
        job: &'a Job<'a>,
        sides: &'a Sides,
        ring: Ring<'m>,
        pieces: &'a Pieces<'a>,
        limiter: &'a Limiter,
    ) -> Self {
        let slots = (0..ring.slots()).map(|_| State::Idle).collect();
        let len = job.source.len.unwrap_or(0);
        let cached = probe::cached_fraction(job.source.file, len);
        Self {
            job,
            sides,
            ring,
            pieces,
            limiter,
            slots,
            look_in_cache: sides.is_source_direct() && cached.is_some_and(|share| share > 0.0),
            pieces_from_cache: 0,
            wrote: false,
        }
    }

    /// Copies all pieces.
    ///
    /// # Errors
    /// Requests still under way are waited for when the flow is dropped.
    pub(super) fn run(&mut self) -> Result<(), Stop> {
        loop {
            self.start_reads()?;
            if self.ring.in_flight() == 0 {
                return Ok(());
            }
            let ended = self.ring.wait().map_err(|cause| self.cannot_enter(cause))?;
            if self.job.progress.is_cancelled() {
                return Err(CopyError::Cancelled.into());
            }
            if let Some(Ended { slot, result }) = ended {
                self.step(slot, result).map_err(|stop| self.first_unread(stop))?;
            }
        }
    }

    /// `stop`, or, where that was an error of reading, the one of a place before it. Requests end in any order, and all are
    /// waited for in any case.
    fn first_unread(&mut self, stop: Stop) -> Stop {
        let Stop::Failed(mut error) = stop else { return stop };
        while matches!(error, CopyError::Read { .. }) && self.ring.in_flight() > 0 {
            if self.job.progress.is_cancelled() {
                break;
            }
            let Ok(ended) = self.ring.wait() else { break };
            let Some(Ended { slot, result }) = ended else { continue };
            if let (State::Reading { piece, done, .. }, Err(cause)) =
                (&self.slots[slot], moved(result))
            {
                let other = self.job.source.read_error(piece.start + *done as u64, cause);
                if other.is_read_before(&error) {
                    error = other;
                }
            }
        }
        error.into()
    }

    /// What a user who asks should know.
    pub(super) fn notes(&self, unregistered: Option<String>) -> Vec<String> {
        let mut notes = vec![format!("{} requests in flight by one thread", self.slots.len())];
        notes.push(match unregistered {
            None if self.ring.is_registered() => "buffers registered with the ring".into(),
            None => "buffers not registered with the ring".into(),
            Some(why) => format!("buffers not registered with the ring: {why}"),
        });
        if self.sides.is_source_direct() {
            notes.push("source read with O_DIRECT".into());
        }
        if self.sides.is_target_direct() {
            notes.push("target written with O_DIRECT".into());
        }
        if self.pieces_from_cache > 0 {
            let count = self.pieces_from_cache;
            notes.push(format!("{count} pieces of the source were taken from the page cache"));
        }
        notes
    }

    fn cannot_enter(&self, cause: io::Error) -> Stop {
        self.job.target.cannot("wait for io_uring requests", cause).into()
    }

    /// Gives every idle slot a piece, while there are any.
    fn start_reads(&mut self) -> Result<(), Stop> {
        for slot in 0..self.slots.len() {
            if !matches!(self.slots[slot], State::Idle) {
                continue;
            }
            let Some(piece) = self.pieces.take()? else { return Ok(()) };
            if self.limiter.is_limited() {
                // What was begun goes on while this thread waits its turn.
                self.ring.submit().map_err(|cause| self.cannot_enter(cause))?;
                self.limiter.take(piece.end - piece.start, self.job.progress)?;
            }
            let cached = self.look_in_cache && is_cached(self.job, &piece);
            self.pieces_from_cache += u64::from(cached);
            self.read(slot, piece, 0, cached);
        }
        Ok(())
    }

    /// Begins to read what is left of a piece.
    fn read(&mut self, slot: usize, piece: Range<u64>, done: usize, cached: bool) {
        let file = if cached { self.job.source.file } else { self.sides.source(self.job) };
        let len = (piece.end - piece.start) as usize;
        self.ring.begin(slot, Access::Read, file, done..len, piece.start + done as u64);
        self.slots[slot] = State::Reading { piece, done, cached };
    }

    /// Goes on with a slot whose request has ended.
    fn step(&mut self, slot: usize, result: io::Result<usize>) -> Result<(), Stop> {
        match std::mem::replace(&mut self.slots[slot], State::Idle) {
            State::Reading { piece, done, cached } => match moved(result) {
                Ok(None) => self.read(slot, piece, done, cached),
                Ok(Some(n)) => self.has_read(slot, piece, done + n, n, cached)?,
                Err(cause) => {
                    let offset = piece.start + done as u64;
                    return Err(self.failed(Access::Read, offset, cause));
                }
            },
            State::Writing { piece, mut parts } => {
                let offset = piece.start + parts[0].start as u64;
                match moved(result) {
                    Ok(None) => {}
                    Ok(Some(0)) => {
                        let cause = io::ErrorKind::WriteZero.into();
                        return Err(self.failed(Access::Write, offset, cause));
                    }
                    Ok(Some(n)) => {
                        self.wrote = true;
                        parts[0].start += n;
                    }
                    Err(cause) => return Err(self.failed(Access::Write, offset, cause)),
                }
                self.write(slot, piece, parts);
            }
            State::Idle => {}
        }
        Ok(())
    }

    /// A read brought `n` bytes, `done` in all.
    fn has_read(
        &mut self,
        slot: usize,
        piece: Range<u64>,
        done: usize,
        n: usize,
        cached: bool,
    ) -> Result<(), Stop> {
        let len = (piece.end - piece.start) as usize;
        if done < len {
            let direct = (self.sides.is_source_direct() && !cached).then_some(self.sides.alignment);
            if is_end(n, done, direct) {
                return Err(self.job.source.shrank(piece.start + done as u64).into());
            }
            self.read(slot, piece, done, cached);
            return Ok(());
        }
        let parts = self.parts(slot, &piece);
        let offset = piece.start;
        self.write(slot, piece, parts);
        if let Some(sums) = self.job.sums {
            // While the device writes, the processor has time to hash.
            self.ring.submit().map_err(|cause| self.cannot_enter(cause))?;
            sums.record(offset, &self.ring.bytes(slot)[..len]);
        }
        Ok(())
    }

    /// What of a piece is to be written: all, or what is not zeros where these become holes.
    fn parts(&self, slot: usize, piece: &Range<u64>) -> VecDeque<Range<usize>> {
        let bytes = &self.ring.bytes(slot)[..(piece.end - piece.start) as usize];
        let holes = self.job.tuning.sparse == Sparse::Always
            && self.job.target.kind == Kind::Regular
            && zeros::BLOCK as u64 >= self.sides.alignment;
        if holes {
            zeros::data_runs(piece.start, bytes).collect()
        } else {
            std::iter::once(0..bytes.len()).collect()
        }
    }

    /// Begins the next write of a piece; without any left, the slot is idle.
    fn write(&mut self, slot: usize, piece: Range<u64>, mut parts: VecDeque<Range<usize>>) {
        while parts.front().is_some_and(Range::is_empty) {
            parts.pop_front();
        }
        let Some(part) = parts.front().cloned() else {
            self.job.progress.add(piece.end - piece.start);
            self.slots[slot] = State::Idle;
            return;
        };
        let file = self.sides.target(self.job);
        self.ring.begin(slot, Access::Write, file, part.clone(), piece.start + part.start as u64);
        self.slots[slot] = State::Writing { piece, parts };
    }

    /// An error, or, where the file system takes O_DIRECT when opening and refuses it at the first
    /// request, a reason to try another engine.
    fn failed(&self, access: Access, offset: u64, cause: io::Error) -> Stop {
        let refused = matches!(cause.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
        if refused && !self.wrote {
            let side = if access == Access::Read { "source" } else { "target" };
            return Stop::Unsupported(format!("the {side} refuses direct requests: {cause}"));
        }
        match access {
            Access::Read => self.job.source.read_error(offset, cause).into(),
            Access::Write => self.job.target.write_error(offset, cause).into(),
        }
    }
}

/// Whether a read that brought `n` bytes of a piece, `done` in all and too few, has met the end of the file. A direct one
/// has where it stops off its alignment; any other can stop short anywhere, as on a network file system.
fn is_end(n: usize, done: usize, direct_alignment: Option<u64>) -> bool {
    n == 0 || direct_alignment.is_some_and(|alignment| !(done as u64).is_multiple_of(alignment))
}

/// Whether all of a piece is in the page cache.
fn is_cached(job: &Job<'_>, piece: &Range<u64>) -> bool {
    let pages = (piece.end - piece.start).div_ceil(probe::page_bytes());
    sys::cachestat(job.source.file, piece.clone()).is_ok_and(|stat| stat.cached >= pages)
}

/// A result in one of three kinds: bytes, an interruption after which the same request is made
/// again, or an error.
fn moved(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(n) => Ok(Some(n)),
        Err(cause) => match cause.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(None),
            _ => Err(cause),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::is_end;

    #[test]
    fn only_direct_reads_tell_the_end_by_where_they_stop() {
        assert!(is_end(0, 4096, None) && is_end(0, 4096, Some(512)));
        assert!(is_end(700, 4796, Some(512)) && !is_end(512, 4608, Some(512)));
        assert!(!is_end(700, 4796, None), "it may go on");
    }
}
