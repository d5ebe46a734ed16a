//! Filling blocks: in passes, from the high end down, by several threads.
//!
//! A pass takes chunk after chunk from the high end, because that is where the larger pages
//! belong. When a rung refuses, the threads stop and one of them *settles* it: what others had
//! taken of that rung further down is given back, and page after page is taken from the top until
//! the rung refuses again. Everything below steps down at once, in one mapping, and the next pass
//! goes on there. So a rung is used to its last page, its pages stand together at the high end, and
//! a step down costs one mapping and not one a block.
#![allow(unsafe_code)] // advises, maps and discards blocks that the operation owns

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Mutex;

use super::populate::last;
use super::span::Kind;
use super::table::Owner;
use super::{Pool, PoolError, Progress, Rung};
use crate::os::{Advice, Errno, Os};
use crate::units::{BlockId, BlockRange, Blocks, Bytes};

/// Blocks a thread takes at a time: enough that the threads rarely meet, few enough that they end
/// together and that progress is shown often.
const CHUNK: u32 = 16;

/// Why a pass ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// This kind of page was refused; nothing of the chunk is held.
    Scarce(Kind),
    /// The operation has failed.
    Failed(PoolError),
}

/// How much of an operation's range is present.
pub(super) struct Meter<'a> {
    done: AtomicU64,
    total: Bytes,
    progress: &'a dyn Fn(Progress),
}

impl<'a> Meter<'a> {
    pub(super) fn new(present: Blocks, total: Blocks, progress: &'a dyn Fn(Progress)) -> Self {
        Self { done: AtomicU64::new(present.bytes().get()), total: total.bytes(), progress }
    }

    fn show(&self) {
        let done = Bytes::new(self.done.load(Ordering::Relaxed));
        (self.progress)(Progress { done, total: self.total });
    }
}

impl<O: Os> Pool<O> {
    /// Fills what the operation owns of a range, stepping down where it must. After an error, what
    /// has been filled is still owned and full.
    pub(super) fn supply(
        &self,
        range: BlockRange,
        owner: Owner,
        threads: usize,
        meter: &Meter<'_>,
    ) -> Result<(), PoolError> {
        loop {
            self.advise_ordinary(range, owner);
            // Each time round a kind has stepped down, or another process gave pages back.
            match self.pass(range, owner, threads, meter) {
                Ok(()) => return Ok(()),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Scarce(kind)) => self.settle(range, owner, kind, meter)?,
            }
        }
    }

    fn pass(
        &self,
        range: BlockRange,
        owner: Owner,
        threads: usize,
        meter: &Meter<'_>,
    ) -> Result<(), Stop> {
        let end = AtomicU32::new(range.end().get());
        let stopped = AtomicBool::new(false);
        let stop = Mutex::new(None);
        let take = || {
            let mut from = end.load(Ordering::Relaxed);
            loop {
                let chunk = self.chunk_below(BlockId::new(from), range.start())?;
                let to = chunk.start().get();
                match end.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return (!stopped.load(Ordering::Relaxed)).then_some(chunk),
                    Err(now) => from = now,
                }
            }
        };
        let done = &meter.done; // the callback beside it stays on this thread
        let work = |report: &dyn Fn()| {
            while let Some(chunk) = take() {
                match self.fill(chunk, owner) {
                    Ok(filled) => {
                        done.fetch_add(filled.bytes().get(), Ordering::Relaxed);
                    }
                    Err(why) => {
                        stopped.store(true, Ordering::Relaxed);
                        keep_worse(&mut stop.lock().unwrap_or_else(|e| e.into_inner()), why);
                    }
                }
                report();
            }
        };
        // A scope takes from the heap, which a caller of one thread may not have.
        if threads <= 1 || range.len().get() <= CHUNK {
            work(&|| meter.show());
        } else {
            let work = &work;
            std::thread::scope(|scope| {
                for _ in 1..threads {
                    // A thread that cannot be started is a thread less; this one does the work.
                    let _ = std::thread::Builder::new().spawn_scoped(scope, || work(&|| {}));
                }
                work(&|| meter.show());
            });
            meter.show();
        }
        match stop.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(stop) => Err(stop),
            None => Ok(()),
        }
    }

    /// What a thread takes next below `end`: a whole gigantic page, or up to [`CHUNK`] blocks.
    fn chunk_below(&self, end: BlockId, start: BlockId) -> Option<BlockRange> {
        let last = BlockId::new(end.get().checked_sub(1).filter(|&last| last >= start.get())?);
        let page = self.page_of(last);
        if page.len() > Blocks::ONE {
            return Some(page);
        }
        let lowest = end.get().saturating_sub(CHUNK).max(start.get());
        // Not into a gigantic page below, which another thread takes whole.
        let len = (lowest..end.get())
            .rev()
            .take_while(|&block| self.kind(BlockId::new(block)) != Kind::Gigantic)
            .count() as u32;
        Some(BlockRange::new(BlockId::new(end.get() - len), Blocks::new(len)))
    }

    /// Fills what the operation owns of a chunk, run by run of one kind, and says how many blocks
    /// that were.
    pub(super) fn fill(&self, chunk: BlockRange, owner: Owner) -> Result<Blocks, Stop> {
        let mut filled = Blocks::ZERO;
        for run in runs(chunk, |block| (self.kind(block), self.is_empty(block, owner))) {
            if !self.is_empty(run.start(), owner) {
                continue;
            }
            match self.kind(run.start()) {
                Kind::Ordinary => self.fill_ordinary(run, owner).map_err(Stop::Failed)?,
                kind => self.fill_hugetlb(run, owner, kind).map_err(|_| Stop::Scarce(kind))?,
            }
            filled = filled + run.len();
        }
        Ok(filled)
    }

    /// All of a run of hugetlb pages, or nothing.
    pub(super) fn fill_hugetlb(
        &self,
        run: BlockRange,
        owner: Owner,
        kind: Kind,
    ) -> Result<(), Errno> {
        if let Err(why) = self.advise(run, Advice::PopulateWrite) {
            // SAFETY: the operation owns the run, and nothing has been put into it. Pages that
            // cannot be given back are given back with the blocks, at the latest with the pool.
            let _ = unsafe { self.span.discard(run, kind) };
            return Err(why);
        }
        self.mark(run, owner, kind.rung());
        Ok(())
    }

    /// Uses a kind that has refused to its last page, from the high end down, and lets the rest
    /// of its blocks step down.
    fn settle(
        &self,
        range: BlockRange,
        owner: Owner,
        kind: Kind,
        meter: &Meter<'_>,
    ) -> Result<(), PoolError> {
        let is_empty = |&block: &BlockId| self.kind(block) == kind && self.is_empty(block, owner);
        let Some(top) = range.iter().rfind(is_empty) else { return Ok(()) };
        let below = BlockRange::new(
            range.start(),
            Blocks::new(self.page_of(top).end().get() - range.start().get()),
        );
        self.give_back_kind(below, owner, kind, meter)?;
        let mut end = below.end();
        while let Some(block) =
            BlockRange::new(below.start(), Blocks::new(end.get() - below.start().get()))
                .iter()
                .rfind(is_empty)
        {
            let page = self.page_of(block);
            match self.fill_hugetlb(page, owner, kind) {
                Ok(()) => {
                    meter.done.fetch_add(page.len().bytes().get(), Ordering::Relaxed);
                    meter.show();
                    end = page.start();
                }
                Err(why) => {
                    let len = Blocks::new(page.end().get() - below.start().get());
                    return self.step_down(BlockRange::new(below.start(), len), owner, kind, why);
                }
            }
        }
        Ok(())
    }

    /// Gives back what the operation holds of one kind in a range.
    fn give_back_kind(
        &self,
        range: BlockRange,
        owner: Owner,
        kind: Kind,
        meter: &Meter<'_>,
    ) -> Result<(), PoolError> {
        let is_full = |block| {
            self.kind(block) == kind && matches!(self.table.owned(block, owner), Some(Some(_)))
        };
        for run in runs(range, is_full).filter(|run| is_full(run.start())) {
            // SAFETY: the operation owns the blocks, and nothing has been put into them.
            unsafe { self.span.discard(run, kind) }
                .map_err(|cause| PoolError::Release { block: run.start(), cause })?;
            run.iter().for_each(|block| self.table.set(block, owner, None));
            meter.done.fetch_sub(run.len().bytes().get(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Maps the next smaller permitted kind over the operation's empty blocks of one that refused.
    fn step_down(
        &self,
        range: BlockRange,
        owner: Owner,
        kind: Kind,
        why: Errno,
    ) -> Result<(), PoolError> {
        let refused = |block| self.kind(block) == kind && self.is_empty(block, owner);
        let count = range.iter().filter(|&block| refused(block)).count() as u32;
        self.tallies.refuse(&self.span.os, kind.rung(), count, why);
        let rung = kind.rung();
        let block = last(range);
        let smaller = self
            .ladder
            .descending()
            .find(|&smaller| smaller < rung)
            .ok_or(PoolError::NoMemory { block, rung, cause: why })?;
        for run in runs(range, refused) {
            if !refused(run.start()) {
                continue;
            }
            // SAFETY: the operation owns the blocks, and nothing has been put into them.
            let mapped = unsafe { self.span.map(run, Kind::of(smaller)) };
            if let Err(cause) = mapped {
                // SAFETY: as above. Should this fail too, what is there is not present, and is
                // proved again before anybody gets it.
                let _ = unsafe { self.span.map(run, kind) };
                return Err(PoolError::Map { block: run.start(), rung: smaller, cause });
            }
            self.set_kind(run, Kind::of(smaller));
        }
        Ok(())
    }

    /// Whether the operation owns a block with nothing behind it.
    fn is_empty(&self, block: BlockId, owner: Owner) -> bool {
        self.table.owned(block, owner) == Some(None)
    }

    /// Tells the table what is behind blocks now.
    pub(super) fn mark(&self, range: BlockRange, owner: Owner, rung: Rung) {
        range.iter().for_each(|block| self.table.set(block, owner, Some(rung)));
    }

    pub(super) fn advise(&self, range: BlockRange, advice: Advice) -> Result<(), Errno> {
        // SAFETY: only called on blocks that the running operation owns, with advice that keeps
        // their content.
        unsafe { self.span.advise(range, advice) }
    }
}

/// Of several reasons to stop, a failure counts, and of refusals the one of the larger pages, which
/// are settled first.
fn keep_worse(kept: &mut Option<Stop>, new: Stop) {
    let weight = |stop: &Stop| match stop {
        Stop::Scarce(kind) => *kind as u8,
        Stop::Failed(_) => u8::MAX,
    };
    if kept.as_ref().is_none_or(|kept| weight(&new) > weight(kept)) {
        *kept = Some(new);
    }
}

/// Cuts a range into the longest runs of blocks that `key` does not tell apart, lowest first. Each
/// is looked at when it is its turn.
pub(super) fn runs<K: PartialEq>(
    range: BlockRange,
    key: impl Fn(BlockId) -> K,
) -> impl Iterator<Item = BlockRange> {
    let mut next = range.start();
    core::iter::from_fn(move || {
        if next >= range.end() {
            return None;
        }
        let (start, first) = (next, key(next));
        let same = |&block: &u32| key(BlockId::new(block)) == first;
        let len = (start.get()..range.end().get()).take_while(same).count();
        let run = BlockRange::new(start, Blocks::new(len as u32));
        next = run.end();
        Some(run)
    })
}
