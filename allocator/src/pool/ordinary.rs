//! Transparent huge pages and base pages.
//!
//! Asking for huge pages everywhere at once makes the kernel compact for seconds. So blocks are
//! advised as they come into use; where the fault gave base pages, `MADV_COLLAPSE` tries once
//! more; and when either took so long that the kernel must have been compacting, the following
//! blocks do without, twice as many each time ([`Backoff`](super::tally::Backoff)). A pool that
//! may not have base pages is given no such respite.
//!
//! Advice takes the lock on the process's mappings for writing, which waits for every thread that
//! is populating. So what an operation is about to populate is advised at once, before its threads
//! start: advising chunk by chunk made two threads as slow as one.

use super::fill::runs;
use super::span::Kind;
use super::table::Owner;
use super::{Pool, PoolError, Rung};
use crate::os::{Advice, Errno, Os};
use crate::units::{BlockRange, Blocks};

impl<O: Os> Pool<O> {
    /// Asks for huge pages wherever the operation is about to populate ordinary memory.
    pub(super) fn advise_ordinary(&self, range: BlockRange, owner: Owner) {
        if !self.ladder.permits(Rung::Transparent) {
            return;
        }
        let is_ours = |block| {
            self.kind(block) == Kind::Ordinary && self.table.owned(block, owner) == Some(None)
        };
        for run in runs(range, is_ours).filter(|run| is_ours(run.start())) {
            if let Err(why) = self.advise(run, Advice::HugePage) {
                self.tallies.refuse(&self.span.os, Rung::Transparent, 0, why);
            }
        }
    }

    /// Populates a run of ordinary memory that was [advised](Self::advise_ordinary).
    pub(super) fn fill_ordinary(&self, run: BlockRange, owner: Owner) -> Result<(), PoolError> {
        let transparent = self.ladder.permits(Rung::Transparent);
        let required = transparent && !self.ladder.permits(Rung::Base);
        let tries = transparent && (required || !self.backoff.is_waiting());
        let rests = transparent && !tries && self.advise(run, Advice::NoHugePage).is_ok();
        let start = self.span.os.now_ns();
        let populated = self.advise(run, Advice::PopulateWrite);
        if rests {
            // For the kernel's own collapsing in the background, and for ours.
            let _ = self.advise(run, Advice::HugePage);
        }
        populated.map_err(|cause| PoolError::NoMemory {
            block: run.start(),
            rung: if transparent { Rung::Transparent } else { Rung::Base },
            cause,
        })?;
        let took = self.span.os.now_ns().saturating_sub(start) / u64::from(run.len().get().max(1));
        // From here on there are pages behind the blocks: marked first, so that whatever fails
        // below, they are given back.
        self.mark(run, owner, Rung::Base);
        if !transparent {
            return Ok(());
        }
        if self.is_huge(run) {
            if tries {
                self.backoff.report(true, took);
            }
            self.mark(run, owner, Rung::Transparent);
            return Ok(());
        }
        for block in run.iter().map(|block| BlockRange::new(block, Blocks::ONE)) {
            match self.make_transparent(block, required) {
                Ok(()) => self.mark(block, owner, Rung::Transparent),
                Err(cause) => {
                    self.tallies.refuse(&self.span.os, Rung::Transparent, 1, cause);
                    if required {
                        let (block, rung) = (block.start(), Rung::Transparent);
                        return Err(PoolError::NoMemory { block, rung, cause });
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes sure that a populated block is one transparent huge page, if it can be had.
    fn make_transparent(&self, block: BlockRange, required: bool) -> Result<(), Errno> {
        if self.is_huge(block) {
            return Ok(());
        }
        if !required && !self.backoff.may_try() {
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
    pub(super) fn is_huge(&self, range: BlockRange) -> bool {
        let len = range.len().bytes();
        self.span.os.huge_mapped(self.span.address(range.start()), len) == Ok(len)
    }
}
