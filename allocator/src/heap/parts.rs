//! What lies free in blocks that are in use goes back to the system as well, page by page.
//!
//! [`supply`](super::supply) gives whole blocks back. An aged heap has few of those that are free: here and
//! there an object holds one. So two more kinds of free memory go when they have been free for the
//! delay: slices that are nobody's, and pages of slabs that hold nothing but free objects.
//!
//! # At what price
//! A huge page of which a part goes is broken up, and what the program keeps in the rest of it costs
//! more misses of the TLB from then on. Therefore a block is *split* only where a quarter of it may go,
//! and for its free slices only where the heap has more of those than it needs to grow
//! ([`Central::part`]). The system is told that it is no huge page any more, or khugepaged would bring
//! all of it back; and that it is one again, when next to nothing of it is missing. What stands on base
//! pages from the beginning is split in this sense; hugetlb pages never are.
//!
//! # Who looks, and when
//! Only the owner of a slab knows which of its objects are free, so each thread looks at its own slabs;
//! one of them *leads*, and looks at free slices and at the slabs of heaps that no thread has as well.
//! There is no thread for it: one in so many requests of those that take long anyway (more than
//! 1 KiB, or an empty bin) looks at the clock, and once in a delay at some blocks. A program that
//! requests nothing keeps what it has. What the heap of a thread that is no more has in its bins goes
//! back to the slabs after the same time.
//!
//! A slab of another thread's is not counted where it is decided whether a block is split: should
//! two threads have an eighth each to give, neither does.
#![allow(unsafe_code)] // slabs that the caller owns, and their memory

use core::ptr::NonNull;

use super::central::Central;
use super::classes::{Class, SLICE_BYTES, SLICES};
use super::core::{Heap, Shared};
use super::local::{Local, Own, Standing};
use super::record::{PAGE_BYTES, Record};
use super::tables::{Entry, Owner};
use crate::os::Os;
use crate::pool::Rung;
use crate::units::{BLOCK_BYTES, BlockId};

/// Pages of a slice, and of a block.
const SLICE_PAGES: u32 = (SLICE_BYTES / PAGE_BYTES) as u32;
const BLOCK_PAGES: u32 = (BLOCK_BYTES / PAGE_BYTES) as u32;
/// Pages of which so many may go are worth a huge page.
const SPLIT_FROM: u32 = BLOCK_PAGES / 4;
/// A block of which less is missing may be a huge page again.
const MENDED_BELOW: u32 = BLOCK_PAGES / 16;
/// So many blocks are split at most: each may be a mapping of its own, of which a process has 65,530.
const SPLIT_MAX: u64 = 1 << 14;
/// Free slices that a heap keeps to grow into: of so many blocks, and of one in so many.
const SPARE_BLOCKS: u32 = 2;
const SPARE_PART: u32 = 16;
/// Work of one look: whoever does it has asked for something else.
const BLOCKS_AT_ONCE: u32 = 64;
const SLABS_AT_ONCE: u32 = 512;
/// Requests between two glances at the clock: when a round is over, and on its way, when a look may come
/// each millisecond.
const TICKS: u32 = 64;
const TICKS_IN_ROUND: u32 = 8;

/// Where a thread is with its looks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    /// Requests until the next glance at the clock.
    ticks: u32,
    /// The next block.
    block: u32,
    /// When the last look was, and how long after it the next one may come.
    looked_ms: u32,
    wait_ms: u32,
    /// Whether it looks at what is nobody's as well.
    leads: bool,
}

impl Round {
    pub const NEW: Self = Self { ticks: TICKS, block: 0, looked_ms: 0, wait_ms: 0, leads: false };

    /// Counts a request; whether it is time for a glance at the clock.
    #[inline(always)]
    pub fn tick(&mut self) -> bool {
        self.ticks = self.ticks.wrapping_sub(1);
        self.ticks == 0
    }

    /// Whether the next look may come. By a difference that is never negative, for the clock wraps around
    /// and may show anything when a heap is new.
    fn is_due(&self, now_ms: u32) -> bool {
        now_ms.wrapping_sub(self.looked_ms) >= self.wait_ms
    }
}

/// How somebody looks at blocks.
#[derive(Clone, Copy, Debug)]
struct Look {
    now_ms: u32,
    delay_ms: u32,
    /// Whose slabs he looks at.
    owner: Owner,
    /// Whether he looks at what is nobody's as well.
    leads: bool,
    /// Whether all that is free goes at once.
    all: bool,
}

/// What slabs of a block may give, by their first slice in the block.
struct Offers {
    ripe: [u128; SLICES as usize],
    pages: u32,
    /// Pages of all its slabs that are gone already.
    gone: u32,
    slabs: u32,
}

impl<O: Os> Heap<O> {
    /// Has a look at some blocks, where it is time for it.
    #[cold]
    pub fn look_around(&self, shared: &Shared, standing: &Standing, own: &mut Own) {
        let (now_ms, delay_ms) = (self.now_ms(), shared.config.delay_ms);
        own.round.ticks = if own.round.block == 0 { TICKS } else { TICKS_IN_ROUND };
        if !own.round.is_due(now_ms) || !self.has_parts() {
            return;
        }
        let begins = own.round.block == 0;
        if begins {
            // What others have freed is free.
            own.hear(standing, self, shared);
        }
        let begun = self.with(|central| {
            central.supply.release_idle(now_ms);
            (central.filler.end(), begins && central.begin_round(now_ms, delay_ms))
        });
        let (end, leads) = begun.unwrap_or((0, false));
        if begins {
            own.round.leads = leads;
        }
        let (owner, leads) = (own.owner(), own.round.leads);
        let look = Look { now_ms, delay_ms, owner, leads, all: false };
        let (mut blocks, mut slabs) = (BLOCKS_AT_ONCE, SLABS_AT_ONCE);
        while own.round.block < end && blocks > 0 && slabs > 0 {
            let block = BlockId::new(own.round.block);
            slabs = slabs.saturating_sub(self.look_at(shared, block, &look));
            own.round.block += 1;
            blocks -= 1;
        }
        own.round.looked_ms = now_ms;
        if own.round.block < end {
            (own.round.ticks, own.round.wait_ms) = (TICKS_IN_ROUND, 1);
        } else {
            (own.round.block, own.round.wait_ms) = (0, delay_ms);
            if leads && self.with(|central| central.warm > 0) == Some(true) {
                self.empty_retired(shared, |own| own.has_rested(now_ms, delay_ms));
            }
        }
    }

    /// Looks at all blocks, as soon as a round may begin.
    #[cfg(test)]
    pub fn look_at_all(&self, shared: &Shared, standing: &Standing, own: &mut Own) {
        own.round.block = 0;
        loop {
            own.round.wait_ms = 0;
            self.look_around(shared, standing, own);
            if own.round.block == 0 {
                return;
            }
        }
    }

    /// Gives back what is free in blocks in use, at once; for a thread's own heap (or nobody) and those that
    /// no thread has.
    pub fn give_all_parts(&self, shared: &Shared, owner: Owner) {
        let end = self.with(|central| central.filler.end()).unwrap_or(0);
        if self.has_parts() {
            let (now_ms, delay_ms) = (self.now_ms(), shared.config.delay_ms);
            let look = Look { now_ms, delay_ms, owner, leads: true, all: true };
            (0..end).for_each(|block| {
                self.look_at(shared, BlockId::new(block), &look);
            });
        }
    }

    fn has_parts(&self) -> bool {
        self.os().is_some_and(|os| os.base_page_size().bytes().as_usize() == PAGE_BYTES)
    }

    /// Milliseconds since some time; wraps around.
    pub fn now_ms(&self) -> u32 {
        self.os().map_or(0, |os| (os.now_ns() / 1_000_000) as u32)
    }

    /// Looks at a block; how many slabs there were to look at.
    fn look_at(&self, shared: &Shared, block: BlockId, look: &Look) -> u32 {
        let offers = self.offers(shared, block, look);
        // Who does not lead and has nothing to give needs no lock.
        if !look.leads && offers.pages == 0 {
            return offers.slabs;
        }
        let is_split = self.with(|central| central.part(block, &offers, look));
        if is_split == Some(true) && offers.pages > 0 {
            let ripe = offers.ripe.iter().enumerate().filter(|ripe| *ripe.1 != 0);
            for (slice, &pages) in ripe {
                self.give_pages(shared, block.get() * SLICES + slice as u32, pages, look);
            }
        }
        offers.slabs
    }

    /// What those slabs of a block may give that somebody looks at.
    fn offers(&self, shared: &Shared, block: BlockId, look: &Look) -> Offers {
        let mut offers = Offers { ripe: [0; SLICES as usize], pages: 0, gone: 0, slabs: 0 };
        for slice in 0..SLICES {
            let head = block.get() * SLICES + slice;
            let Entry::Slab(of, _) = shared.view.entry(head) else { continue };
            if of != look.owner && !look.leads {
                continue;
            }
            let Some((_, _, record)) = slab_at(shared, head) else { continue };
            offers.slabs += 1;
            offers.gone += record.gone_pages();
            let ripe = self.having(shared, look.owner, head, |record| {
                // SAFETY: the slab is this thread's for as long as this runs.
                unsafe { record.ripe_pages(look.now_ms, look.delay_ms, look.all) }
            });
            offers.ripe[slice as usize] = ripe.unwrap_or(0);
            offers.pages += ripe.unwrap_or(0).count_ones();
        }
        offers
    }

    /// Gives pages of a slab back, those of them that are free still.
    fn give_pages(&self, shared: &Shared, head: u32, pages: u128, look: &Look) {
        self.having(shared, look.owner, head, |record| {
            // SAFETY: the slab is this thread's for as long as this runs; and what does not go is noted.
            let mut left = unsafe { record.take_pages(pages) };
            while left != 0 {
                let first = left.trailing_zeros();
                let count = (left >> first).trailing_ones();
                let run = (u128::MAX >> (u128::BITS - count)) << first;
                let start = first as usize * PAGE_BYTES;
                let given = self.with(|central| {
                    // SAFETY: only the slab's owner hands its free objects out, and that is this thread
                    // at present.
                    unsafe { central.give_part(head, start, count as usize * PAGE_BYTES) }
                });
                if given != Some(true) {
                    record.keep_pages(run);
                }
                left &= !run;
            }
        });
    }

    /// Runs something with a slab that is an owner's, which is this thread's, or nobody's.
    fn having<R>(
        &self,
        shared: &Shared,
        owner: Owner,
        head: u32,
        run: impl FnOnce(&Record) -> R,
    ) -> Option<R> {
        let (of, class, record) = slab_at(shared, head)?;
        if of == owner {
            return Some(run(record));
        }
        let local: NonNull<Local> = Self::local(shared, of)?;
        // SAFETY: threads' heaps are never unmapped, and this part is for everybody.
        let standing = unsafe { &(*local.as_ptr()).standing };
        if !standing.holder.visit() {
            return None;
        }
        // It may have changed hands before.
        let still = slab_at(shared, head).filter(|now| (now.0, now.1) == (of, class));
        let result = still.map(|_| run(record));
        standing.holder.leave();
        self.visit(shared, local);
        result
    }
}

/// The slab whose first slice that is.
fn slab_at(shared: &Shared, head: u32) -> Option<(Owner, Class, &Record)> {
    let Entry::Slab(owner, class) = shared.view.entry(head) else { return None };
    // SAFETY: a slab's slices have records, which stay.
    let record = unsafe { shared.view.record(head) };
    (record.to_head() == 0).then_some((owner, class, record))
}

impl<O: Os> Central<O> {
    /// Decides what becomes of a block of which slabs offer some pages, and gives back those of its free
    /// slices that may go. Whether the pages may.
    fn part(&mut self, block: BlockId, offers: &Offers, look: &Look) -> bool {
        let Look { now_ms, delay_ms, leads, all, .. } = *look;
        if !self.filler.holds(block) || !self.parts {
            return false;
        }
        let on_base_pages = match self.supply.pool().rung(block) {
            Some(Rung::Base) => true,
            Some(Rung::Transparent) => false,
            _ => return false,
        };
        self.filler.look(block, now_ms, delay_ms);
        let ripe = if all { u64::MAX } else { self.filler.ripe(block) };
        if self.filler.is_empty(block) && ripe == u64::MAX {
            self.give_spare(block);
            return false;
        }
        let (soiled, clean) = (self.filler.soiled(block) & ripe, self.filler.clean(block));
        let pages = |slices: u64| slices.count_ones() * SLICE_PAGES;
        let mut going = soiled;
        if on_base_pages || self.filler.is_split(block) {
            let missing = pages(clean | soiled) + offers.gone + offers.pages;
            // Who does not lead does not know all that is gone.
            if leads && !on_base_pages && missing < MENDED_BELOW {
                self.mend(block);
                return false;
            }
        } else {
            // All of a huge page is there, used or not.
            going |= clean & ripe;
            let least = if all { MENDED_BELOW } else { SPLIT_FROM };
            let needed = SLICES * SPARE_BLOCKS.max(self.filler.blocks().get() / SPARE_PART);
            let spare = all || self.filler.free_slices() > needed || offers.pages >= SPLIT_FROM;
            if pages(going) + offers.pages < least || !spare || !self.split(block) {
                return false;
            }
        }
        self.give_slices_back(block, going);
        true
    }

    /// Whether whoever begins a round leads it: one in a delay does.
    fn begin_round(&mut self, now_ms: u32, delay_ms: u32) -> bool {
        let leads = now_ms.wrapping_sub(self.round_ms) >= delay_ms;
        if leads {
            self.round_ms = now_ms;
        }
        leads
    }

    fn split(&mut self, block: BlockId) -> bool {
        let split = self.split_blocks < SPLIT_MAX
            && self.supply.pool().want_transparent(block, false).is_ok();
        self.filler.set_split(block, split);
        self.split_blocks += u64::from(split);
        split
    }

    /// Says that a block is wanted as a huge page again. Where the system refuses, it stays on base pages.
    pub fn mend(&mut self, block: BlockId) {
        let _ = self.supply.pool().want_transparent(block, true);
        self.filler.set_split(block, false);
        self.split_blocks -= 1;
    }

    fn give_slices_back(&mut self, block: BlockId, slices: u64) {
        let mut left = slices;
        while left != 0 {
            let first = left.trailing_zeros();
            let count = (left >> first).trailing_ones();
            let run = (u64::MAX >> (u64::BITS - count)) << first;
            // SAFETY: the slices are free, and whoever wants them waits for the lock that this runs under.
            let given = unsafe {
                let head = block.get() * SLICES + first;
                self.give_part(head, 0, count as usize * SLICE_BYTES)
            };
            if given {
                self.filler.set_clean(block, run);
            }
            left &= !run;
        }
    }

    /// Gives bytes back that begin `start` after a slice; whether the system took them. Where it refuses,
    /// as it does where memory is locked, it is not asked again.
    ///
    /// # Safety
    /// They are nobody's, and lie in the slice's block.
    unsafe fn give_part(&mut self, slice: u32, start: usize, len: usize) -> bool {
        if !self.parts {
            return false;
        }
        let (block, first) = (BlockId::new(slice / SLICES), slice % SLICES);
        let start = first as usize * SLICE_BYTES + start;
        // SAFETY: the caller's.
        let given = unsafe { self.supply.pool().release_part(block, start, len) };
        match given {
            Ok(()) => self.returned_parts += len as u64,
            Err(_) => self.parts = false,
        }
        given.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Round;

    #[test]
    fn a_look_is_due_whatever_the_clock_shows() {
        // Machines run for longer than half of what the clock can show, 25 days.
        for now in [0, 1_000, 1 << 31, u32::MAX - 100] {
            assert!(Round::NEW.is_due(now), "a new heap's, at {now}");
            let looked = Round { looked_ms: now, wait_ms: 500, ..Round::NEW };
            assert!(!looked.is_due(now.wrapping_add(499)), "after {now}");
            assert!(looked.is_due(now.wrapping_add(500)), "after {now}");
        }
    }
}
