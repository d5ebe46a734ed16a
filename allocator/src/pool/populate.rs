//! Bringing memory into blocks, down the ladder, and giving it back.
//!
//! Every page is faulted in by `MADV_POPULATE_WRITE`, which returns an error where a touch would
//! raise SIGBUS. A block counts as present only after that succeeded. What an operation has
//! populated before it fails is given back.
#![allow(unsafe_code)] // advises and maps blocks that the operation owns

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Mutex;

use super::span::{GIGANTIC, Kind};
use super::table::{Owner, State};
use super::{Pool, PoolError, Progress, Rung};
use crate::os::{Advice, Errno, Os};
use crate::units::{BlockId, BlockRange, Blocks, Bytes};

/// Blocks a thread takes at a time: enough that the threads rarely meet, few enough that they end
/// together and that progress is shown often.
const CHUNK: u32 = 16;

impl<O: Os> Pool<O> {
    /// Brings memory into the absent blocks of a range, and into the rest of a gigantic page that
    /// the range begins or ends in.
    ///
    /// # Errors
    /// [`PoolError::NoMemory`] where no permitted rung has any left, [`PoolError::InUse`] where
    /// another thread is at one of the blocks, [`PoolError::OutOfRange`]. Nothing has changed then.
    pub fn populate(&self, range: BlockRange) -> Result<(), PoolError> {
        self.populate_with(range, 1, &|_| {})
    }

    /// As [`Pool::populate`], by several threads; `progress` is called from this one.
    pub(super) fn populate_with(
        &self,
        range: BlockRange,
        threads: usize,
        progress: &dyn Fn(Progress),
    ) -> Result<(), PoolError> {
        self.check(range)?;
        let range = self.whole_pages(range);
        let owner = self.table.new_owner();
        self.table.begin_populate(range, owner)?;
        let filled = if threads <= 1 {
            self.fill_alone(range, owner, progress)
        } else {
            self.fill_together(range, owner, threads, progress)
        };
        if filled.is_err() {
            self.give_up(range, owner);
        }
        self.table.finish(range, owner);
        filled
    }

    /// Gives the pages of whole blocks back to the system. Absent blocks stay absent. The blocks
    /// can be populated again; they read as zero then.
    ///
    /// # Safety
    /// Nothing refers to the range's memory: what was written there is lost, and touching it
    /// before it is populated again may raise SIGBUS or SIGSEGV.
    ///
    /// # Errors
    /// [`PoolError::InUse`] where a block is pinned or another thread is at it, and
    /// [`PoolError::PartOfPage`] for a part of a gigantic page: nothing has changed then.
    /// [`PoolError::Release`] where the system refused: what had not been given back is present
    /// still.
    pub unsafe fn release(&self, range: BlockRange) -> Result<(), PoolError> {
        self.check(range)?;
        if range.is_empty() {
            return Ok(());
        }
        for block in [range.start(), last(range)] {
            let gigantic = self.rung(block) == Some(Rung::Gigantic);
            if gigantic && !self.contains_page(range, block) {
                return Err(PoolError::PartOfPage { block });
            }
        }
        let owner = self.table.new_owner();
        self.table.begin_release(range, owner)?;
        let result = self.empty(range, owner);
        self.table.finish(range, owner);
        result
    }

    /// The range, grown to hold the gigantic pages it begins and ends in whole.
    fn whole_pages(&self, range: BlockRange) -> BlockRange {
        if range.is_empty() {
            return range;
        }
        let last = BlockId::new(range.end().get() - 1);
        let start = self.page_of(range.start()).start();
        let end = self.page_of(last).end();
        BlockRange::new(start, Blocks::new(end.get() - start.get()))
    }

    /// The range without the gigantic pages that it holds in part.
    pub(crate) fn whole_pages_in(&self, range: BlockRange) -> BlockRange {
        if range.is_empty() {
            return range;
        }
        let (first, last) = (self.page_of(range.start()), self.page_of(last(range)));
        let start = if first.start() < range.start() { first.end() } else { range.start() };
        let end = if last.end() > range.end() { last.start() } else { range.end() };
        BlockRange::new(start, Blocks::new(end.get().saturating_sub(start.get())))
    }

    /// The blocks that share a page with this one.
    pub(super) fn page_of(&self, block: BlockId) -> BlockRange {
        if self.kind(block) != Kind::Gigantic {
            return BlockRange::new(block, Blocks::ONE);
        }
        let zone = self.span.gigantic_start().get();
        let start = zone + (block.get() - zone) / GIGANTIC.get() * GIGANTIC.get();
        BlockRange::new(BlockId::new(start), GIGANTIC)
    }

    fn contains_page(&self, range: BlockRange, block: BlockId) -> bool {
        let page = self.page_of(block);
        range.start() <= page.start() && page.end() <= range.end()
    }

    fn fill_alone(
        &self,
        range: BlockRange,
        owner: Owner,
        progress: &dyn Fn(Progress),
    ) -> Result<(), PoolError> {
        let total = range.len().bytes();
        let mut next = range.start();
        while next < range.end() {
            let chunk = self.chunk_at(next, range.end());
            self.fill(chunk, owner)?;
            next = chunk.end();
            let done = Blocks::new(next.get() - range.start().get()).bytes();
            progress(Progress { done, total });
        }
        Ok(())
    }

    /// Threads take chunk after chunk from one counter. The first error stops them all.
    fn fill_together(
        &self,
        range: BlockRange,
        owner: Owner,
        threads: usize,
        progress: &dyn Fn(Progress),
    ) -> Result<(), PoolError> {
        let next = AtomicU32::new(range.start().get());
        let done = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let error = Mutex::new(None);
        let take = || {
            let start = next
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |at| {
                    let at = BlockId::new(at);
                    (at < range.end()).then(|| self.chunk_at(at, range.end()).end().get())
                })
                .ok()?;
            (!failed.load(Ordering::Relaxed))
                .then(|| self.chunk_at(BlockId::new(start), range.end()))
        };
        let work = |report: &dyn Fn()| {
            while let Some(chunk) = take() {
                if let Err(cause) = self.fill(chunk, owner) {
                    failed.store(true, Ordering::Relaxed);
                    error.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(cause);
                }
                done.fetch_add(chunk.len().bytes().get(), Ordering::Relaxed);
                report();
            }
        };
        let total = range.len().bytes();
        let report =
            || progress(Progress { done: Bytes::new(done.load(Ordering::Relaxed)), total });
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // A thread that cannot be started is a thread less; this one does the work.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || work(&|| {}));
            }
            work(&report);
        });
        report();
        match error.into_inner().unwrap_or_else(|e| e.into_inner()) {
            Some(cause) => Err(cause),
            None => Ok(()),
        }
    }

    /// What a thread takes next: a whole gigantic page, or up to [`CHUNK`] blocks below them.
    fn chunk_at(&self, at: BlockId, end: BlockId) -> BlockRange {
        let page = self.page_of(at);
        if page.len() > Blocks::ONE {
            return page;
        }
        let zone = self.span.gigantic_start();
        let end = if at < zone { end.min(zone) } else { end };
        BlockRange::new(at, Blocks::new((end.get() - at.get()).min(CHUNK)))
    }

    /// Populates what the operation owns of a range, run by run of one kind.
    pub(super) fn fill(&self, range: BlockRange, owner: Owner) -> Result<(), PoolError> {
        let mut next = range.start();
        while next < range.end() {
            let kind = self.kind(next);
            let owned = self.table.owned(next, owner) == Some(None);
            let run = self.run(next, range.end(), |block| {
                self.kind(block) == kind && (self.table.owned(block, owner) == Some(None)) == owned
            });
            next = run.end();
            if owned {
                match kind {
                    Kind::Gigantic => self.fill_gigantic(run, owner)?,
                    Kind::Huge => self.fill_huge(run, owner)?,
                    Kind::Ordinary => self.fill_ordinary(run, owner)?,
                }
            }
        }
        Ok(())
    }

    /// The longest run from `start` that keeps `like`.
    fn run(&self, start: BlockId, end: BlockId, like: impl Fn(BlockId) -> bool) -> BlockRange {
        let len = (start.get()..end.get()).take_while(|&b| like(BlockId::new(b))).count();
        BlockRange::new(start, Blocks::new(len as u32))
    }

    fn fill_gigantic(&self, run: BlockRange, owner: Owner) -> Result<(), PoolError> {
        let mut next = run.start();
        while next < run.end() {
            let page = self.page_of(next);
            next = page.end();
            match self.advise(page, Advice::PopulateWrite) {
                Ok(()) => self.mark(page, owner, Rung::Gigantic),
                Err(why) => {
                    self.tallies.refuse(Rung::Gigantic, page.len().get(), why);
                    let kind = self.step_down(page, Rung::Gigantic, why)?;
                    if kind == Kind::Huge {
                        self.fill_huge(page, owner)?;
                    } else {
                        self.fill_ordinary(page, owner)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn fill_huge(&self, run: BlockRange, owner: Owner) -> Result<(), PoolError> {
        if self.advise(run, Advice::PopulateWrite).is_ok() {
            self.mark(run, owner, Rung::Huge);
            return Ok(());
        }
        for block in run.iter().map(|block| BlockRange::new(block, Blocks::ONE)) {
            match self.advise(block, Advice::PopulateWrite) {
                Ok(()) => self.mark(block, owner, Rung::Huge),
                Err(why) => {
                    self.tallies.refuse(Rung::Huge, 1, why);
                    self.step_down(block, Rung::Huge, why)?;
                    self.fill_ordinary(block, owner)?;
                }
            }
        }
        Ok(())
    }

    /// Maps the next smaller permitted kind over blocks that `rung` refused.
    fn step_down(&self, range: BlockRange, rung: Rung, why: Errno) -> Result<Kind, PoolError> {
        let block = range.start();
        let smaller = self.ladder.descending().find(|&smaller| smaller < rung);
        let smaller = smaller.ok_or(PoolError::NoMemory { block, rung, cause: why })?;
        let kind = Kind::of(smaller);
        // SAFETY: the operation owns the blocks, and nothing has been put into them.
        unsafe { self.span.map(range, kind) }.map_err(|cause| PoolError::Map {
            block,
            rung: smaller,
            cause,
        })?;
        self.set_kind(range, kind);
        Ok(kind)
    }

    fn fill_ordinary(&self, run: BlockRange, owner: Owner) -> Result<(), PoolError> {
        let transparent = self.ladder.permits(Rung::Transparent);
        if transparent && let Err(why) = self.advise(run, Advice::HugePage) {
            self.tallies.refuse(Rung::Transparent, 0, why);
        }
        self.advise(run, Advice::PopulateWrite).map_err(|cause| PoolError::NoMemory {
            block: run.start(),
            rung: if transparent { Rung::Transparent } else { Rung::Base },
            cause,
        })?;
        // From here on there are pages behind the blocks: marked first, so that whatever fails
        // below, they are given back.
        self.mark(run, owner, Rung::Base);
        if !transparent {
            return Ok(());
        }
        if self.is_huge(run) {
            self.mark(run, owner, Rung::Transparent);
            return Ok(());
        }
        for block in run.iter().map(|block| BlockRange::new(block, Blocks::ONE)) {
            match self.make_transparent(block) {
                Ok(()) => self.mark(block, owner, Rung::Transparent),
                Err(why) => {
                    self.tallies.refuse(Rung::Transparent, 1, why);
                    if !self.ladder.permits(Rung::Base) {
                        let (block, rung) = (block.start(), Rung::Transparent);
                        return Err(PoolError::NoMemory { block, rung, cause: why });
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes sure that a populated block is one transparent huge page, if it can be had.
    fn make_transparent(&self, block: BlockRange) -> Result<(), Errno> {
        if self.is_huge(block) {
            return Ok(());
        }
        let required = !self.ladder.permits(Rung::Base);
        if !self.backoff.may_try() && !required {
            return Err(Errno::new(libc::EAGAIN));
        }
        let start = self.span.os.now_ns();
        let collapsed = self.advise(block, Advice::Collapse);
        let took = self.span.os.now_ns().saturating_sub(start);
        self.backoff.report(collapsed.is_ok(), took);
        collapsed?;
        if self.is_huge(block) { Ok(()) } else { Err(Errno::NOMEM) }
    }

    /// Whether all of a range is huge-mapped; no, where the kernel cannot tell.
    fn is_huge(&self, range: BlockRange) -> bool {
        let len = range.len().bytes();
        self.span.os.huge_mapped(self.span.address(range.start()), len) == Ok(len)
    }

    fn advise(&self, range: BlockRange, advice: Advice) -> Result<(), Errno> {
        // SAFETY: only called on blocks that the running operation owns, with advice that keeps
        // their content.
        unsafe { self.span.advise(range, advice) }
    }

    fn mark(&self, range: BlockRange, owner: Owner, rung: Rung) {
        range.iter().for_each(|block| self.table.set(block, owner, Some(rung)));
    }

    /// Gives back the pages of what the operation owns, run by run of one kind.
    fn empty(&self, range: BlockRange, owner: Owner) -> Result<(), PoolError> {
        let mut next = range.start();
        while next < range.end() {
            let kind = self.kind(next);
            let full = matches!(self.table.owned(next, owner), Some(Some(_)));
            let run = self.run(next, range.end(), |block| {
                let also = matches!(self.table.owned(block, owner), Some(Some(_)));
                self.kind(block) == kind && also == full
            });
            next = run.end();
            if !full {
                continue;
            }
            // SAFETY: the operation owns the blocks, which nobody pins; whoever calls `release`
            // vouches for the rest, and `populate` has not handed them out.
            unsafe { self.span.discard(run, kind) }
                .map_err(|cause| PoolError::Release { block: run.start(), cause })?;
            run.iter().for_each(|block| self.table.set(block, owner, None));
            self.restore_kind(run, kind);
        }
        Ok(())
    }

    /// As `empty`, where an operation is undone: what cannot be given back stays present.
    pub(super) fn give_up(&self, range: BlockRange, owner: Owner) {
        // A populate that failed half-way through a run may have left pages behind absent blocks:
        // these are discarded as well.
        for block in range.iter() {
            let page = self.page_of(block);
            if block == page.start() && self.table.owned(block, owner) == Some(None) {
                // SAFETY: the operation owns the block and its page, and nothing was put there.
                let _ = unsafe { self.span.discard(page, self.kind(block)) };
            }
        }
        let _ = self.empty(range, owner);
    }

    /// Maps the zone's own kind over blocks that had stepped down, so that the next populate
    /// begins at the top of the ladder again. Blocks stay as they are where that fails.
    fn restore_kind(&self, run: BlockRange, kind: Kind) {
        let zone = self.zone_kind(run.start());
        // Blocks that stepped down from a gigantic page come back as one only all together; they
        // wait for the pool to be built anew.
        if kind == zone || zone == Kind::Gigantic || self.zone_kind(last(run)) != zone {
            return;
        }
        // SAFETY: the operation owns the blocks and has just discarded their pages.
        if unsafe { self.span.map(run, zone) }.is_ok() {
            self.set_kind(run, zone);
        }
    }

    /// Blocks in any state but present or absent: none, while no operation runs.
    pub(super) fn busy(&self) -> Blocks {
        self.table.count(|state| matches!(state, State::Busy { .. }))
    }
}

fn last(run: BlockRange) -> BlockId {
    BlockId::new(run.end().get() - 1)
}
