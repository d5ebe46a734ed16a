//! What a rung of the ladder refused, and when to try collapsing again.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::Rung;
use crate::os::Errno;

/// Counts of refusals by rung, with the last reason; exact once nobody populates.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    refused_blocks: [AtomicU64; Rung::ALL.len()],
    last: [AtomicI32; Rung::ALL.len()],
}

impl Tallies {
    /// `blocks` blocks got no memory of `rung`, for this reason.
    pub(super) fn refuse(&self, rung: Rung, blocks: u32, why: Errno) {
        self.refused_blocks[rung as usize].fetch_add(u64::from(blocks), Ordering::Relaxed);
        self.last[rung as usize].store(why.get(), Ordering::Relaxed);
    }

    /// Blocks that got no memory of `rung`, and the last reason.
    pub(super) fn refused(&self, rung: Rung) -> Option<(u64, Errno)> {
        let blocks = self.refused_blocks[rung as usize].load(Ordering::Relaxed);
        let why = Errno::new(self.last[rung as usize].load(Ordering::Relaxed));
        (blocks > 0).then_some((blocks, why))
    }
}

/// Whether collapsing a block is worth a try: after a failure, or a success that took long, ever
/// more blocks pass before the next one, because each failure may have been a whole compaction.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    skip: AtomicU32,
    remaining: AtomicU32,
}

impl Backoff {
    /// Longest time of a collapse after which the next is tried at once.
    const PATIENCE_NS: u64 = 10_000_000;
    /// Most blocks to pass: 1 GiB.
    const SKIP_MAX: u32 = 512;

    /// Whether to try now.
    pub(super) fn may_try(&self) -> bool {
        self.remaining
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
            .is_err()
    }

    /// How a try went.
    pub(super) fn report(&self, success: bool, took_ns: u64) {
        let skip = if success && took_ns <= Self::PATIENCE_NS {
            0
        } else {
            (self.skip.load(Ordering::Relaxed) * 2).clamp(1, Self::SKIP_MAX)
        };
        self.skip.store(skip, Ordering::Relaxed);
        self.remaining.store(skip, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_double_the_pause_and_a_quick_success_ends_it() {
        let backoff = Backoff::default();
        assert!(backoff.may_try());
        for pause in [1, 2, 4, 8] {
            backoff.report(false, 0);
            let passed = (0..).take_while(|_| !backoff.may_try()).count();
            assert_eq!(passed, pause);
        }
        backoff.report(true, Backoff::PATIENCE_NS + 1);
        assert!(!backoff.may_try(), "a slow success is a reason to wait");
        backoff.report(true, 0);
        assert!(backoff.may_try());
    }

    #[test]
    fn refusals_add_up_by_rung() {
        let tallies = Tallies::default();
        tallies.refuse(Rung::Huge, 3, Errno::NOMEM);
        tallies.refuse(Rung::Huge, 2, Errno::INVAL);
        assert_eq!(tallies.refused(Rung::Huge), Some((5, Errno::INVAL)));
        assert_eq!(tallies.refused(Rung::Base), None);
    }
}
