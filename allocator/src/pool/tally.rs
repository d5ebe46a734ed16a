//! What a rung of the ladder refused, and when to try collapsing again.

use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use super::Rung;
use crate::os::{Errno, Os};

/// Counts of refusals by rung, with the last reason; exact once nobody populates.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    refused_blocks: [AtomicU64; Rung::ALL.len()],
    last: [AtomicI32; Rung::ALL.len()],
    /// Free pages of the machine at the last refusal, and one more; 0 where unknown.
    free_plus_one: [AtomicU64; Rung::ALL.len()],
}

impl Tallies {
    /// `blocks` blocks got no memory of `rung`, for this reason.
    pub(super) fn refuse<O: Os>(&self, os: &O, rung: Rung, blocks: u32, why: Errno) {
        self.refused_blocks[rung as usize].fetch_add(u64::from(blocks), Ordering::Relaxed);
        self.last[rung as usize].store(why.get(), Ordering::Relaxed);
        let free = free_pages(os, rung).map_or(0, |free| free.saturating_add(1));
        self.free_plus_one[rung as usize].store(free, Ordering::Relaxed);
    }

    /// Blocks that got no memory of `rung`, the last reason, and how many pages of that size were
    /// free on the machine at that time.
    pub(super) fn refused(&self, rung: Rung) -> Option<(u64, Errno, Option<u64>)> {
        let blocks = self.refused_blocks[rung as usize].load(Ordering::Relaxed);
        let why = Errno::new(self.last[rung as usize].load(Ordering::Relaxed));
        let free = self.free_plus_one[rung as usize].load(Ordering::Relaxed).checked_sub(1);
        (blocks > 0).then_some((blocks, why, free))
    }
}

/// Free pages of the machine's hugetlb pool of a rung, on all nodes.
fn free_pages<O: Os>(os: &O, rung: Rung) -> Option<u64> {
    let path = match rung {
        Rung::Gigantic => c"/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages",
        Rung::Huge => c"/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
        Rung::Transparent | Rung::Base => return None,
    };
    let mut text = [0; 32];
    let len = os.read_file(path, &mut text).ok()?;
    core::str::from_utf8(&text[..len]).ok()?.trim().parse().ok()
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

    /// Whether blocks are to pass before the next try.
    pub(super) fn is_waiting(&self) -> bool {
        self.remaining.load(Ordering::Relaxed) > 0
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
    use crate::os::Linux;

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
        tallies.refuse(&Linux, Rung::Huge, 3, Errno::NOMEM);
        tallies.refuse(&Linux, Rung::Huge, 2, Errno::INVAL);
        let (blocks, why, _) = tallies.refused(Rung::Huge).unwrap();
        assert_eq!((blocks, why), (5, Errno::INVAL));
        assert_eq!(tallies.refused(Rung::Base), None);
    }
}
