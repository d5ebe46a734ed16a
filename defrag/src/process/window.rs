//! Which range of blocks to clear, and where what is in it goes.
//!
//! What is in the cheapest window goes to free blocks outside, the longest first, each to a run that is
//! hardly longer. Where a few extents are longer than any free run, a range outside the window is closed up
//! for them. Where that does not suffice either, the range that has enough free blocks is closed up itself.

use core::cell::OnceCell;
use core::cmp::Reverse;
use std::collections::BinaryHeap;

use bookend::movable::{Holds, Snapshot};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::choose::Room;
use super::close::{Among, Closing};
use super::free::FreeRuns;
use super::pieces::{Moves, Piece, bottom, displaced, each_segment, free_runs, is_blocked};
use super::plan::{Plan, Shortfall, Target};

/// Windows that are tried, the cheapest ones: each takes a look at all free runs.
const TRIED: usize = 32;
/// Times that more is closed up for what does not fit.
const CLOSED: u32 = 8;

/// The windows of `k` blocks in a segment, and the live bytes in each.
///
/// Those that begin where a piece begins are enough: any other can be shifted down to there without
/// meeting another extent.
fn windows_in(snapshot: &Snapshot, pieces: &[Piece], k: u32, mut with: impl FnMut(u64, u32)) {
    let end = pieces.last().map_or(0, |piece| piece.end);
    let (mut next, mut cost) = (0, 0);
    for low in pieces.iter().take_while(|low| k <= end - low.start) {
        while next < pieces.len() && pieces[next].start < low.start + k {
            cost += pieces[next].live(snapshot);
            next += 1;
        }
        with(cost, low.start);
        cost -= low.live(snapshot);
    }
}

/// The cheapest windows of `k` blocks, and what they cost.
fn cheapest_windows(snapshot: &Snapshot, k: Blocks) -> Vec<(Bytes, BlockRange)> {
    let mut cheapest = BinaryHeap::with_capacity(TRIED + 1);
    each_segment(snapshot, bottom(snapshot), |pieces| {
        windows_in(snapshot, pieces, k.get(), |cost, start| {
            if cheapest.len() < TRIED || cheapest.peek().is_some_and(|most| (cost, start) < *most) {
                cheapest.push((cost, start));
                if cheapest.len() > TRIED {
                    cheapest.pop();
                }
            }
        });
    });
    let range = |start| BlockRange::new(BlockId::new(start), k);
    let sorted = cheapest.into_sorted_vec().into_iter();
    sorted.map(|(cost, start)| (Bytes::new(cost), range(start))).collect()
}

/// One run of so many blocks, wherever it is cheapest.
pub(super) fn run_of(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let windows = cheapest_windows(snapshot, wanted);
    let found = windows.first().and_then(|&(least, cheapest)| {
        let search = Search::new(snapshot);
        let moves = windows.iter().find_map(|&(_, window)| search.clear(window)).or_else(|| {
            let cleared = search.clear_closing(cheapest).into_iter();
            let both = cleared.chain(search.close(wanted, Among::All));
            both.min_by_key(|moves| moves.cost)
        });
        Some((moves?, least))
    });
    match found {
        Some((moves, least)) => reached(target, moves, least),
        None => Plan::nothing(target, Some(no_run(snapshot, wanted, |_| true))),
    }
}

/// The blocks right above the pinned ones.
pub(super) fn above_pinned(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let start = bottom(snapshot);
    let room = snapshot.capacity.get() - start;
    let window = BlockRange::new(BlockId::new(start), wanted.min(Blocks::new(room)));
    let fits = wanted == window.len() && !is_blocked(snapshot, window);
    match fits.then(|| Search::new(snapshot).clear_closing(window)).flatten() {
        Some(moves) => reached(target, moves, live_in(snapshot, window)),
        None => {
            let here = |pieces: &[Piece]| pieces.first().is_some_and(|first| first.start == start);
            Plan::nothing(target, Some(no_run(snapshot, wanted, here)))
        }
    }
}

/// The blocks right below the huge ones.
pub(super) fn below_huge(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let end = snapshot.huge_start.map_or(snapshot.capacity.get(), BlockId::get);
    let start = end.checked_sub(wanted.get()).filter(|&start| start >= bottom(snapshot));
    let window = start.map(|start| BlockRange::new(BlockId::new(start), wanted));
    let search = Search::new(snapshot);
    let found = window.filter(|&window| !is_blocked(snapshot, window)).and_then(|window| {
        let moves = search.clear_closing(window);
        let moves = moves.or_else(|| search.close(wanted, Among::EndingAt(BlockId::new(end))))?;
        Some((moves, live_in(snapshot, window)))
    });
    match found {
        Some((moves, least)) => reached(target, moves, least),
        None => {
            let here = |pieces: &[Piece]| pieces.last().is_some_and(|last| last.end == end);
            Plan::nothing(target, Some(no_run(snapshot, wanted, here)))
        }
    }
}

fn reached(target: Target, moves: Moves, least: Bytes) -> Plan {
    Plan { target, steps: moves.steps, cost: moves.cost, least, shortfall: None }
}

fn live_in(snapshot: &Snapshot, window: BlockRange) -> Bytes {
    displaced(snapshot, window).fold(Bytes::ZERO, |sum, extent| sum + extent.live)
}

/// Why there is no run in any of those segments.
fn no_run(snapshot: &Snapshot, wanted: Blocks, counts: impl Fn(&[Piece]) -> bool) -> Shortfall {
    let free = snapshot.free_blocks();
    if free < wanted {
        return Shortfall::TooFew { free };
    }
    let mut longest = 0;
    each_segment(snapshot, bottom(snapshot), |pieces| {
        if let (Some(first), Some(last)) = (pieces.first(), pieces.last())
            && counts(pieces)
        {
            longest = longest.max(last.end - first.start);
        }
    });
    Shortfall::NoWindow { longest: Blocks::new(longest) }
}

/// What several windows of a snapshot have in common.
struct Search<'a> {
    snapshot: &'a Snapshot,
    room: OnceCell<Room>,
    free: OnceCell<Vec<BlockRange>>,
}

impl<'a> Search<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, room: OnceCell::new(), free: OnceCell::new() }
    }

    /// Moves after which a window is free: objects into room that kept blocks have, else whole extents to
    /// free blocks outside. `None` where there is no room.
    fn clear(&self, window: BlockRange) -> Option<Moves> {
        let (mut moves, leaving) = self.leaving(window);
        let left = self.place(&leaving, window, None, &mut moves);
        (left == 0).then_some(moves)
    }

    /// The same; where extents fit into no free run, one is made for them by closing up a range outside.
    fn clear_closing(&self, window: BlockRange) -> Option<Moves> {
        let (emptied, leaving) = self.leaving(window);
        let mut needed = 0;
        for _ in 0..CLOSED {
            let among = Among::Outside(window);
            let closing = match needed {
                0 => None,
                needed => Some(Closing::cheapest(self.snapshot, needed, among)?),
            };
            let mut moves = emptied.clone();
            let left = self.place(&leaving, window, closing, &mut moves);
            if left == 0 {
                return Some(moves);
            }
            needed += left;
        }
        None
    }

    /// Closes up the cheapest range that has as many free blocks.
    fn close(&self, wanted: Blocks, among: Among) -> Option<Moves> {
        let mut moves = Moves::default();
        Closing::cheapest(self.snapshot, wanted.get(), among)?.close(self.snapshot, &mut moves);
        Some(moves)
    }

    /// Empties blocks of a window whose objects have room elsewhere, and names the extents that have to
    /// leave it whole, the longest first.
    fn leaving(&self, window: BlockRange) -> (Moves, Vec<&'a bookend::movable::Occupied>) {
        let (mut moves, mut leaving, mut room) = (Moves::default(), Vec::new(), None);
        for extent in displaced(self.snapshot, window) {
            let mut fits = || {
                let all = || self.room.get_or_init(|| Room::new(self.snapshot)).clone();
                room.get_or_insert_with(all).take(self.snapshot, extent)
            };
            if extent.holds == Holds::Slabs && fits() {
                moves.empty(extent);
            } else {
                leaving.push(extent);
            }
        }
        // Short ones find room in what long ones leave.
        leaving.sort_by_key(|extent| Reverse(extent.range.len()));
        (moves, leaving)
    }

    /// Finds places outside a window, after a range has been closed up. Returns how many blocks fit
    /// nowhere.
    fn place(
        &self,
        leaving: &[&bookend::movable::Occupied],
        window: BlockRange,
        closing: Option<Closing>,
        moves: &mut Moves,
    ) -> u32 {
        if leaving.is_empty() {
            return 0;
        }
        let all = self.free.get_or_init(|| free_runs(self.snapshot));
        let mut outside = without(all, window);
        if let Some(closing) = closing {
            outside = without(&outside, closing.range());
        }
        let mut free = FreeRuns::new(&outside);
        if let Some(closing) = closing {
            free.add(closing.close(self.snapshot, moves));
        }
        let mut left = 0;
        for extent in leaving {
            match free.take(extent.range.len()) {
                Some(to) => moves.carry(extent, to),
                None => left += extent.range.len().get(),
            }
        }
        left
    }
}

/// What of the runs is outside a range.
fn without(runs: &[BlockRange], range: BlockRange) -> Vec<BlockRange> {
    let (low, high) = (range.start().get(), range.end().get());
    let parts = |run: &BlockRange| {
        let (start, end) = (run.start().get(), run.end().get());
        [(start, end.min(low)), (start.max(high), end)]
    };
    let inside = runs.iter().flat_map(parts).filter(|(start, end)| start < end);
    let range = |(start, end)| BlockRange::new(BlockId::new(start), Blocks::new(end - start));
    inside.map(range).collect()
}
