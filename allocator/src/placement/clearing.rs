//! Which movable extents must move so that a run forms, and where they go.
//!
//! **Eviction** makes room for pinned blocks at the pinned end. All of its moves go *up*.
//! **Compaction** makes a long run for huge (or movable) blocks. All of its moves go *down*.
//!
//! Hence both end: the sum of the addresses of movable blocks grows with each eviction move and
//! falls with each compaction move, and is bounded. And a request is answered with a clearing only
//! where a first move exists, so that a caller that moves and asks again always comes to an end.

use super::Refusal;
use super::kind::{Class, Kind, Run};
use super::placement::{MOVING, Place, Placement, STUCK};
use super::table::range;
use crate::os::Os;
use crate::units::{BlockId, BlockRange, Blocks};

/// What must move before a request succeeds.
///
/// It describes the placement at the time of the request. If that has changed, the moves named are
/// still legal ones, but the request may need others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Clearing {
    window: BlockRange,
    zone: BlockRange,
    displaced: Blocks,
    direction: Direction,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Direction {
    Up,
    Down,
}

impl Clearing {
    /// The blocks that become one free run.
    pub const fn window(&self) -> BlockRange {
        self.window
    }

    /// Every movable extent with a block in here that is not stuck has to leave. The window, and
    /// for an eviction also what lies between the pinned end and the window.
    pub const fn zone(&self) -> BlockRange {
        self.zone
    }

    /// Blocks of the extents that have to leave: the cost, in copied memory, where all of them
    /// find a place at once. Where they do not, others are moved out of their way.
    pub const fn displaced(&self) -> Blocks {
        self.displaced
    }
}

impl<O: Os> Placement<O> {
    /// The extents that a clearing names, lowest first.
    pub fn iter_displaced(&self, clearing: &Clearing) -> impl Iterator<Item = BlockRange> + '_ {
        self.displaced(clearing.zone).map(|run| run.range)
    }

    /// The movable extents with a block in `zone` that are neither stuck nor moving.
    fn displaced(&self, zone: BlockRange) -> impl Iterator<Item = Run> + '_ {
        self.table
            .iter_from(zone.start().get())
            .take_while(move |run| run.range.start() < zone.end())
            .filter(|run| self.can_move(*run))
    }

    fn can_move(&self, run: Run) -> bool {
        run.kind == Kind::Movable
            && !self.has_mark(STUCK, run.start())
            && !self.has_mark(MOVING, run.start())
    }

    /// The next move of a clearing: an extent, and where it goes.
    pub(super) fn step(&self, clearing: &Clearing) -> Option<(BlockRange, BlockId)> {
        let step = match clearing.direction {
            Direction::Up => self.step_up(clearing.zone),
            Direction::Down => self.step_down(clearing.window),
        };
        step.map(|(run, to)| (run.range, BlockId::new(to)))
    }

    // Eviction.

    /// Places `k` pinned blocks at the pinned end, or as little above it as huge blocks and stuck
    /// extents allow. No movable extent but a stuck one may come to stand below them.
    pub(super) fn grow_pinned_end(&self, k: u32) -> Result<Place, Refusal> {
        let refusal = || self.no_room(Class::Pinned, k);
        let at = self.past_stuck(self.pinned_end, k);
        let end = at.checked_add(k).filter(|&end| end <= self.huge_start).ok_or_else(refusal)?;
        let zone = range(self.pinned_end, end - self.pinned_end);
        if let Some(moving) = self.moving_in(zone) {
            return Err(Refusal::Busy(moving));
        }
        let displaced: u32 = self.displaced(zone).map(Run::len).sum();
        if displaced == 0 {
            let run = self.table.run_at(at).ok_or_else(refusal)?;
            return Ok(Place { run: run.range, at });
        }
        let clearing = Clearing {
            window: range(at, k),
            zone,
            displaced: Blocks::new(displaced),
            direction: Direction::Up,
        };
        let needed = zone.len().get() - self.stuck_blocks(zone);
        if self.free_above_pinned() >= needed && self.step(&clearing).is_some() {
            Err(Refusal::Evict(clearing))
        } else if self.moves > 0 {
            Err(Refusal::Busy(zone))
        } else {
            Err(refusal())
        }
    }

    /// The lowest block at or above `from` such that no stuck extent has one of the `k` from it on.
    fn past_stuck(&self, from: u32, k: u32) -> u32 {
        let mut at = from;
        if self.marked[STUCK] > 0 {
            while let Some(head) = self.marks.next(STUCK, at)
                && head - at < k
                && let Some(run) = self.table.run_at(head)
            {
                at = run.end();
            }
        }
        at
    }

    fn moving_in(&self, zone: BlockRange) -> Option<BlockRange> {
        if self.marked[MOVING] == 0 {
            return None;
        }
        let head = self.marks.next(MOVING, zone.start().get())?;
        self.table.run_at(head).map(|run| run.range).filter(|run| run.overlaps(zone))
    }

    /// Blocks of stuck extents that begin in `zone`.
    fn stuck_blocks(&self, zone: BlockRange) -> u32 {
        let stuck = self.iter_stuck().filter(|extent| zone.contains(extent.start()));
        stuck.map(|extent| extent.len().get()).sum()
    }

    /// Free blocks above the pinned end. Below it stand pinned blocks, stuck ones and holes only.
    fn free_above_pinned(&self) -> u32 {
        let stuck = self.stuck_blocks(range(0, self.pinned_end));
        let holes = self.pinned_end - self.table.blocks(Kind::Pinned) - stuck;
        self.table.blocks(Kind::Free) - holes
    }

    /// One move up that helps to empty `zone`. The lowest extent in it goes to free blocks above
    /// the zone; if it fits nowhere, the extents that follow it up to the next free run make room.
    ///
    /// `None` means that it, and all that follow it up to something that cannot move, stand without
    /// a gap and fit nowhere above: the zone cannot be emptied.
    fn step_up(&self, zone: BlockRange) -> Option<(Run, u32)> {
        let mut run = self.displaced(zone).next()?;
        loop {
            let above = zone.end().get().max(run.end()).max(self.pinned_end);
            let beyond_gap = above.saturating_add(self.gap());
            let fit = self.table.lowest_fit(run.len(), beyond_gap);
            if let Some(fit) = fit.or_else(|| self.table.lowest_fit(run.len(), above)) {
                return Some((run, fit.start().get()));
            }
            let next = self.table.run_at(run.end())?;
            if next.kind == Kind::Free {
                return Some((run, run.start() + next.len()));
            }
            run = Some(next).filter(|&next| self.can_move(next))?;
        }
    }

    // Compaction.

    /// What compaction can do about a request for `k` blocks that fit nowhere.
    ///
    /// A *segment* is a range above the pinned end of free blocks and extents that can move. In one
    /// that has k free blocks, moving extents down makes a run of k; in any other it does not.
    /// Among the windows in such segments, the one that displaces the fewest blocks is named, and
    /// among those the highest.
    pub(super) fn compaction(&self, class: Class, k: u32) -> Refusal {
        let mut best: Option<Clearing> = None;
        let mut top = self.table.capacity();
        while self.free_above_pinned() >= k && top > self.pinned_end {
            let segment = self.segment_below(top);
            if segment.free >= k
                && let Some(window) = self.cheapest_window(segment.range, k)
                && best.is_none_or(|best| window.displaced < best.displaced)
            {
                best = Some(window);
            }
            top = segment.obstacle;
        }
        match best.filter(|clearing| self.step(clearing).is_some()) {
            Some(clearing) => Refusal::Compact(clearing),
            None if self.moves > 0 => {
                Refusal::Busy(range(self.pinned_end, self.table.capacity() - self.pinned_end))
            }
            None => self.no_room(class, k),
        }
    }

    /// The segment that ends at `top`, which may be empty.
    fn segment_below(&self, top: u32) -> Segment {
        let (mut start, mut free) = (top, 0);
        while let Some(run) = start.checked_sub(1).and_then(|last| self.table.run_at(last))
            && run.start() >= self.pinned_end
        {
            match run.kind {
                Kind::Free => free += run.len(),
                _ if self.can_move(run) => {}
                _ => {
                    return Segment {
                        range: range(start, top - start),
                        free,
                        obstacle: run.start(),
                    };
                }
            }
            start = run.start();
        }
        Segment { range: range(start, top - start), free, obstacle: start.min(self.pinned_end) }
    }

    /// The window of `k` blocks in a segment that displaces the fewest.
    ///
    /// It is enough to look at windows that end where a run ends: any other can be shifted up to
    /// the end of the run it ends in without meeting another extent. `high` is the run that the
    /// window ends with, `low` the one that it begins in; both go down once.
    fn cheapest_window(&self, segment: BlockRange, k: u32) -> Option<Clearing> {
        let top = segment.end().get().checked_sub(1)?;
        let cost = |run: Run| if run.kind == Kind::Free { 0 } else { run.len() };
        let mut lows = self.table.iter_down(top);
        let mut low = lows.next()?;
        let mut displaced = cost(low);
        let mut best: Option<(u32, u32)> = None; // blocks displaced, end
        for high in self.table.iter_down(top) {
            let Some(start) = high.end().checked_sub(k) else { break };
            if start < segment.start().get() {
                break;
            }
            while low.start() > start {
                low = lows.next()?;
                displaced += cost(low);
            }
            if best.is_none_or(|(least, _)| displaced < least) {
                best = Some((displaced, high.end()));
            }
            displaced -= cost(high);
        }
        let (displaced, end) = best?;
        let window = range(end - k, k);
        let displaced = Blocks::new(displaced);
        Some(Clearing { window, zone: window, displaced, direction: Direction::Down })
    }

    /// One move down that helps to empty `window`, or else to close up its segment: first an extent
    /// of the window to free blocks below it; if none fits, the lowest extent of the segment that
    /// has free blocks below it slides over them.
    fn step_down(&self, window: BlockRange) -> Option<(Run, u32)> {
        let segment = self.segment_around(window)?;
        self.displaced(window).next()?;
        let last = window.end().get() - 1;
        let leaving = self.table.iter_down(last).take_while(|run| run.range.overlaps(window));
        for run in leaving.filter(|run| run.kind == Kind::Movable) {
            let below = |from| {
                let fit = self.table.lowest_fit(run.len(), from).map(|fit| fit.start().get());
                fit.filter(|&at| at + run.len() <= window.start().get())
            };
            if let Some(to) = below(self.movable_from()).or_else(|| below(self.pinned_end)) {
                return Some((run, to));
            }
        }
        let mut runs = self.table.iter_from(segment.start().get());
        let free = runs.find(|run| run.kind == Kind::Free)?;
        let run = self.table.run_at(free.end()).filter(|run| run.range.end() <= segment.end())?;
        Some((run, free.start()))
    }

    /// The segment that `window` lies in; `None` where it lies in none.
    fn segment_around(&self, window: BlockRange) -> Option<BlockRange> {
        let passable = |run: &Run| run.kind == Kind::Free || self.can_move(*run);
        let above = self.table.iter_from(window.start().get()).take_while(passable).last()?;
        let segment = self.segment_below(above.end()).range;
        let inside = segment.start() <= window.start() && window.end() <= segment.end();
        inside.then_some(segment)
    }
}

/// See [`Placement::compaction`].
struct Segment {
    range: BlockRange,
    free: u32,
    /// The start of what ends the segment below it.
    obstacle: u32,
}
