//! Frame order: neighbours in memory made neighbours in address space, in one mapping.
//!
//! hugetlb pages arrive in any order, often descending. The kernel's list of free ones is last-in
//! first-out: pages given back in *descending* order of their frames come back ascending when they
//! are faulted in again from the lowest address on. Mapping each page where it belongs would do as
//! well, but costs a VMA a run and meets `max_map_count`.
//!
//! With extra pages the choice grows: all are sorted into runs, the shortest runs are given back
//! first, so that they lie at the bottom of the list, and the pool keeps the longest.
//!
//! Another process may take pages in between, so the result is checked, and tried again a bounded
//! number of times.
#![allow(unsafe_code)] // discards pages that the operation owns; maps the extra ones

use core::ptr::NonNull;

use super::fill::{Meter, Stop};
use super::report::{PhysicalPage, count_runs, ideal_runs};
use super::span::Kind;
use super::table::Owner;
use super::{Pool, PoolError, Rung};
use crate::os::{Advice, Backing, Errno, Os};
use crate::units::{BlockRange, Blocks, Bytes, PageSize};

const ROUNDS_MAX: u32 = 3;

/// What became of the wish for ascending frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Frame numbers cannot be read, so the pages stand as they were faulted.
    Unreadable(Errno),
    /// The pages were reordered.
    Ordered {
        /// Runs of hugetlb pages before.
        runs_before: u64,
        /// Runs now.
        runs_after: u64,
        /// The fewest that the frames obtained can make.
        ideal: u64,
        /// How often they were given back and taken again.
        rounds: u32,
    },
}

/// A hugetlb page of the pool, or an extra one.
#[derive(Clone, Copy)]
struct Held {
    page: PhysicalPage,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Pool(BlockRange),
    Extra(usize),
}

impl<O: Os> Pool<O> {
    /// Puts the frames of hugetlb pages in ascending order, with `extra` bytes of other pages to
    /// choose from.
    pub(super) fn order_frames(&self, extra: Bytes) -> Result<Outcome, PoolError> {
        let (mut before, mut after, mut ideal, mut rounds) = (0, 0, 0, 0);
        for rung in [Rung::Huge, Rung::Gigantic] {
            match self.order_rung(rung, extra)? {
                Outcome::Ordered { runs_before, runs_after, ideal: best, rounds: tried } => {
                    before += runs_before;
                    after += runs_after;
                    ideal += best;
                    rounds = rounds.max(tried);
                }
                unreadable @ Outcome::Unreadable(_) => return Ok(unreadable),
            }
        }
        Ok(Outcome::Ordered { runs_before: before, runs_after: after, ideal, rounds })
    }

    fn order_rung(&self, rung: Rung, extra: Bytes) -> Result<Outcome, PoolError> {
        let mut held = match self.held(rung) {
            Ok(held) => held,
            Err(why) => return Ok(Outcome::Unreadable(why)),
        };
        let (runs_before, best) = runs_of(&held);
        let (mut runs_after, mut ideal, mut rounds) = (runs_before, best, 0);
        let mut extra = extra;
        while !held.is_empty() && rounds < ROUNDS_MAX {
            let more = extra.round_down(self.rung_page(rung)) != Bytes::ZERO;
            if runs_after == ideal && !more {
                break;
            }
            self.shuffle(&held, rung, extra)?;
            extra = Bytes::ZERO; // the second round orders what the first one kept
            rounds += 1;
            match self.held(rung) {
                Ok(now) => held = now,
                Err(why) => return Ok(Outcome::Unreadable(why)),
            }
            (runs_after, ideal) = runs_of(&held);
        }
        Ok(Outcome::Ordered { runs_before, runs_after, ideal, rounds })
    }

    fn rung_page(&self, rung: Rung) -> PageSize {
        rung.page_size(self.os().base_page_size())
    }

    /// The pool's pages of a rung, in the order of their addresses.
    fn held(&self, rung: Rung) -> Result<Vec<Held>, Errno> {
        let base = self.os().base_page_size();
        let mut held = Vec::new();
        for block in self.blocks().iter().filter(|&block| self.rung(block) == Some(rung)) {
            let range = self.page_of(block);
            if range.start() != block {
                continue;
            }
            let mut frame = [None];
            self.os().frames(self.address(block), self.rung_page(rung), &mut frame)?;
            let frame = frame[0].ok_or(Errno::NOMEM)?;
            let at = block.offset().get() >> base.shift();
            let len = range.len().bytes().get() >> base.shift();
            let page = PhysicalPage { frame, at, len };
            held.push(Held { page, place: Place::Pool(range) });
        }
        Ok(held)
    }

    /// One round: everything back to the kernel in the right order, and taken again.
    fn shuffle(&self, held: &[Held], rung: Rung, extra: Bytes) -> Result<(), PoolError> {
        let mut scratch = Extra::take(self, rung, extra);
        let mut all = held.to_vec();
        all.extend(scratch.pages.iter().copied());
        sort_for_release(&mut all, held.len());
        let owner = self.table.new_owner();
        let range = self.blocks();
        let ranges: Vec<_> = held.iter().filter_map(|h| h.pool_range()).collect();
        for (done, &page) in ranges.iter().enumerate() {
            if let Err(refused) = self.table.begin_release(page, owner) {
                ranges[..done].iter().for_each(|&page| self.table.finish(page, owner));
                return Err(refused.into());
            }
        }
        let result =
            self.give_back(&all, &mut scratch, owner).and_then(|()| self.refault(&ranges, owner));
        if result.is_err() {
            self.give_up(range, owner);
        }
        self.table.finish(range, owner);
        result
    }

    /// Takes pages from the lowest address on. Where another process was quicker, they come as they
    /// do when the pool is built, and the next round puts them in order.
    fn refault(&self, ranges: &[BlockRange], owner: Owner) -> Result<(), PoolError> {
        for &page in ranges {
            match self.fill(page, owner) {
                Ok(_) => {}
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Scarce(_)) => {
                    let meter = Meter::new(Blocks::ZERO, self.capacity(), &|_| {});
                    return self.supply(self.blocks(), owner, 1, &meter);
                }
            }
        }
        Ok(())
    }

    fn give_back(
        &self,
        order: &[Held],
        scratch: &mut Extra<'_, O>,
        owner: Owner,
    ) -> Result<(), PoolError> {
        for held in order {
            match held.place {
                Place::Extra(index) => scratch.give_back(index),
                Place::Pool(range) => {
                    // SAFETY: the operation owns the blocks, and the pool is being built: nothing
                    // has been put into them.
                    unsafe { self.span.discard(range, self.kind(range.start())) }
                        .map_err(|cause| PoolError::Release { block: range.start(), cause })?;
                    range.iter().for_each(|block| self.table.set(block, owner, None));
                }
            }
        }
        Ok(())
    }
}

impl Held {
    fn pool_range(&self) -> Option<BlockRange> {
        match self.place {
            Place::Pool(range) => Some(range),
            Place::Extra(_) => None,
        }
    }
}

fn runs_of(held: &[Held]) -> (u64, u64) {
    let mut pages: Vec<_> = held.iter().map(|h| h.page).collect();
    (count_runs(&pages).0, ideal_runs(&mut pages))
}

/// Sorts pages into the order in which to give them back, when `keep` of them are to come back
/// ascending: first what is not kept (the shortest runs), then the kept ones, highest frame first.
fn sort_for_release(pages: &mut Vec<Held>, keep: usize) {
    pages.sort_unstable_by_key(|h| h.page.frame);
    let mut runs: Vec<&[Held]> =
        pages.chunk_by(|a, b| a.page.frame.offset(a.page.len) == b.page.frame).collect();
    runs.sort_by_key(|run| core::cmp::Reverse(run.len()));
    let mut kept: Vec<Held> = Vec::with_capacity(keep);
    let mut rejected: Vec<Held> = Vec::new();
    for run in runs {
        let room = (keep - kept.len()).min(run.len());
        kept.extend_from_slice(&run[..room]);
        rejected.extend_from_slice(&run[room..]);
    }
    kept.sort_unstable_by_key(|h| core::cmp::Reverse(h.page.frame));
    rejected.extend(kept);
    *pages = rejected;
}

/// Pages beyond the pool's capacity, held while ordering.
struct Extra<'pool, O: Os> {
    pool: &'pool Pool<O>,
    mapping: Option<(NonNull<u8>, Bytes)>,
    page: PageSize,
    pages: Vec<Held>,
}

impl<'pool, O: Os> Extra<'pool, O> {
    /// Takes as many pages as there are, up to `len`: fewer, or none, is no error.
    fn take(pool: &'pool Pool<O>, rung: Rung, len: Bytes) -> Self {
        let page = pool.rung_page(rung);
        let len = len.round_down(page);
        let mut extra = Self { pool, mapping: None, page, pages: Vec::new() };
        let Some(size) = Kind::of(rung).hugetlb().filter(|_| len != Bytes::ZERO) else {
            return extra;
        };
        // SAFETY: no address is given.
        let Ok(at) = (unsafe { pool.os().map(None, len, Backing::Huge(size)) }) else {
            return extra;
        };
        extra.mapping = Some((at, len));
        if let Some(node) = pool.span.node() {
            // SAFETY: the mapping is ours.
            let _ = unsafe { pool.os().bind(at, len, node) };
        }
        let frames = page.bytes().get() >> pool.os().base_page_size().shift();
        for index in 0..(len.get() >> page.shift()) as usize {
            let at = extra.address(index);
            let mut frame = [None];
            // SAFETY: the page lies in our mapping.
            let full = unsafe { pool.os().advise(at, page.bytes(), Advice::PopulateWrite) };
            if full.is_err() || pool.os().frames(at, page, &mut frame).is_err() {
                break;
            }
            let Some(frame) = frame[0] else { break };
            // They stand apart from the pool and from one another.
            let page = PhysicalPage { frame, at: u64::MAX - index as u64, len: frames };
            extra.pages.push(Held { page, place: Place::Extra(index) });
        }
        extra
    }

    fn address(&self, index: usize) -> NonNull<u8> {
        let (at, len) = self.mapping.expect("only a mapping has pages");
        let offset = index << self.page.shift();
        assert!(offset < len.as_usize());
        // SAFETY: the offset lies in the mapping.
        unsafe { at.add(offset) }
    }

    fn give_back(&mut self, index: usize) {
        // SAFETY: the page is ours, and nothing was put there. A page that stays is unmapped later.
        let _ = unsafe {
            self.pool.os().advise(self.address(index), self.page.bytes(), Advice::DontNeed)
        };
    }
}

impl<O: Os> Drop for Extra<'_, O> {
    fn drop(&mut self) {
        if let Some((at, len)) = self.mapping {
            // SAFETY: the mapping is ours and this is its last use.
            let _ = unsafe { self.pool.os().unmap(at, len) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BlockId, Pfn};

    fn held(frames: &[u64]) -> Vec<Held> {
        let held = |(i, &frame): (usize, &u64)| Held {
            page: PhysicalPage { frame: Pfn::new(frame * 512), at: i as u64 * 512, len: 512 },
            place: Place::Pool(BlockRange::new(BlockId::new(i as u32), Blocks::ONE)),
        };
        frames.iter().enumerate().map(held).collect()
    }

    fn frames(pages: &[Held]) -> Vec<u64> {
        pages.iter().map(|h| h.page.frame.get() / 512).collect()
    }

    #[test]
    fn kept_pages_go_back_last_and_highest_first() {
        let mut pages = held(&[3, 9, 1, 2]);
        sort_for_release(&mut pages, 4);
        assert_eq!(frames(&pages), [9, 3, 2, 1]);
    }

    #[test]
    fn the_shortest_runs_are_given_up() {
        let mut pages = held(&[20, 1, 2, 3, 10, 11, 30]);
        sort_for_release(&mut pages, 4);
        let order = frames(&pages);
        assert_eq!(order[3..], [10, 3, 2, 1], "the longest run whole, the next one in part");
        let mut rejected = order[..3].to_vec();
        rejected.sort_unstable();
        assert_eq!(rejected, [11, 20, 30]);
    }
}
