//! Which range of blocks to clear, and where what is in it goes.

use std::collections::BinaryHeap;

use bookend::movable::{Holds, Occupied, Snapshot};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::choose::Room;
use super::plan::{Plan, Shortfall, Step, Target};

/// One piece of the table: an extent that moves (its number), or free blocks.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u32,
    end: u32,
    extent: Option<u32>,
}

/// Extents in order: their ranges, and the numbers of those that move.
fn in_order(snapshot: &Snapshot) -> impl Iterator<Item = (BlockRange, Option<u32>)> {
    let number = |n: usize, extent: &Occupied| (extent.holds != Holds::Stuck).then_some(n as u32);
    let movable = snapshot.movable.iter().enumerate();
    let mut movable = movable.map(move |(n, extent)| (extent.range, number(n, extent))).peekable();
    let mut fixed = snapshot.fixed.iter().map(|&range| (range, None)).peekable();
    core::iter::from_fn(move || match (movable.peek(), fixed.peek()) {
        (Some((one, _)), Some((other, _))) if one.start() > other.start() => fixed.next(),
        (None, _) => fixed.next(),
        _ => movable.next(),
    })
}

/// Goes through the ranges between what does not move, from `from` on, each as its pieces. They stand in
/// one place, one after the other: a table of millions of blocks would be written out else.
fn each_segment(snapshot: &Snapshot, from: u32, mut with: impl FnMut(&[Piece])) {
    let (mut pieces, mut at) = (Vec::new(), from);
    let end = BlockRange::new(BlockId::new(snapshot.capacity.get()), Blocks::ZERO);
    for (range, extent) in in_order(snapshot).chain([(end, None)]) {
        if range.start().get() < from {
            continue;
        }
        if range.start().get() > at {
            pieces.push(Piece { start: at, end: range.start().get(), extent: None });
        }
        at = range.end().get();
        match extent {
            Some(_) => pieces.push(Piece { start: range.start().get(), end: at, extent }),
            None => {
                with(&pieces);
                pieces.clear();
            }
        }
    }
}

/// Windows that are tried, the cheapest ones: each takes a look at the whole snapshot.
const TRIED: usize = 32;

/// The windows of `k` blocks in a segment, and the live bytes in each.
///
/// Those that begin where a piece begins are enough: any other can be shifted down to there without
/// meeting another extent.
fn windows_in(snapshot: &Snapshot, pieces: &[Piece], k: u32, mut with: impl FnMut(u64, u32)) {
    let live = |piece: &Piece| {
        piece.extent.map_or(0, |number| snapshot.movable[number as usize].live.get())
    };
    let end = pieces.last().map_or(0, |piece| piece.end);
    let (mut next, mut cost) = (0, 0);
    for low in pieces.iter().take_while(|low| low.start + k <= end) {
        while next < pieces.len() && pieces[next].start < low.start + k {
            cost += live(&pieces[next]);
            next += 1;
        }
        with(cost, low.start);
        cost -= live(low);
    }
}

/// Clears the cheapest window of `wanted` blocks from which everything can leave.
pub(super) fn run_of(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let from = snapshot.pinned_end.map_or(0, BlockId::get);
    let mut cheapest = BinaryHeap::with_capacity(TRIED + 1);
    each_segment(snapshot, from, |pieces| {
        windows_in(snapshot, pieces, wanted.get(), |cost, start| {
            if cheapest.len() < TRIED || cheapest.peek().is_some_and(|most| (cost, start) < *most) {
                cheapest.push((cost, start));
                if cheapest.len() > TRIED {
                    cheapest.pop();
                }
            }
        });
    });
    let windows = cheapest.into_sorted_vec();
    for &(_, start) in &windows {
        let window = BlockRange::new(BlockId::new(start), wanted);
        if let Some(steps) = clear(snapshot, window) {
            return finish(snapshot, target, steps, Bytes::new(windows[0].0));
        }
    }
    Plan::nothing(target, Some(no_run(snapshot, from, wanted)))
}

/// Why no window was found.
fn no_run(snapshot: &Snapshot, from: u32, wanted: Blocks) -> Shortfall {
    let free = snapshot.free_blocks();
    if free < wanted {
        return Shortfall::TooFew { free };
    }
    let mut longest = 0;
    each_segment(snapshot, from, |pieces| {
        if let (Some(first), Some(last)) = (pieces.first(), pieces.last()) {
            longest = longest.max(last.end - first.start);
        }
    });
    Shortfall::NoWindow { longest: Blocks::new(longest) }
}

/// Clears the blocks right above the pinned ones.
pub(super) fn above_pinned(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let start = snapshot.pinned_end.unwrap_or(BlockId::new(0));
    let free = snapshot.free_blocks();
    let end = start.get().checked_add(wanted.get()).filter(|&end| end <= snapshot.capacity.get());
    let blocked = |window: BlockRange| {
        let stuck = snapshot.movable.iter().filter(|extent| extent.holds == Holds::Stuck);
        let mut fixed = snapshot.fixed.iter().copied().chain(stuck.map(|extent| extent.range));
        fixed.any(|range| range.overlaps(window))
    };
    let window = end.map(|_| BlockRange::new(start, wanted)).filter(|&window| !blocked(window));
    match window.and_then(|window| Some((window, clear(snapshot, window)?))) {
        Some((window, steps)) => {
            let least = displaced(snapshot, window).fold(Bytes::ZERO, |sum, e| sum + e.live);
            finish(snapshot, target, steps, least)
        }
        None if free < wanted => Plan::nothing(target, Some(Shortfall::TooFew { free })),
        None => {
            let mut longest = None;
            each_segment(snapshot, start.get(), |pieces| {
                let end = pieces.last().map_or(start.get(), |piece| piece.end);
                longest.get_or_insert(end - start.get());
            });
            let longest = longest.unwrap_or(0);
            let shortfall = Shortfall::NoWindow { longest: Blocks::new(longest) };
            Plan::nothing(target, Some(shortfall))
        }
    }
}

fn displaced(snapshot: &Snapshot, window: BlockRange) -> impl Iterator<Item = &Occupied> {
    // In order and apart from one another, so their ends are in order too.
    let first = snapshot.movable.partition_point(|extent| extent.range.end() <= window.start());
    let rest = snapshot.movable[first..].iter();
    rest.take_while(move |extent| extent.range.start() < window.end())
}

/// Steps after which a window is free: objects into room that kept blocks have, else whole extents
/// to free blocks outside, lowest first. `None` where there is no room.
fn clear(snapshot: &Snapshot, window: BlockRange) -> Option<Vec<Step>> {
    let mut room = Room::new(snapshot);
    let mut free = None;
    let mut steps = Vec::new();
    for extent in displaced(snapshot, window) {
        if extent.holds == Holds::Slabs && room.take(snapshot, extent) {
            steps.push(Step::Empty(extent.range.start()));
            continue;
        }
        let len = extent.range.len();
        let free = free.get_or_insert_with(|| free_outside(snapshot, window));
        let run = free.iter_mut().find(|run| run.len() >= len)?;
        let to = run.start();
        *run = BlockRange::new(to + len, run.len() - len);
        steps.push(Step::Move { extent: extent.range, to });
    }
    Some(steps)
}

/// Free runs above the pinned end and outside a window.
fn free_outside(snapshot: &Snapshot, window: BlockRange) -> Vec<BlockRange> {
    let from = snapshot.pinned_end.map_or(0, BlockId::get);
    let (low, high) = (window.start().get(), window.end().get());
    let mut outside = Vec::new();
    each_segment(snapshot, from, |pieces| {
        for piece in pieces.iter().filter(|piece| piece.extent.is_none()) {
            let parts = [(piece.start, piece.end.min(low)), (piece.start.max(high), piece.end)];
            let parts = parts.into_iter().filter(|(start, end)| start < end);
            outside.extend(parts.map(|(start, end)| {
                BlockRange::new(BlockId::new(start), Blocks::new(end - start))
            }));
        }
    });
    outside
}

fn finish(snapshot: &Snapshot, target: Target, steps: Vec<Step>, least: Bytes) -> Plan {
    let live = |start: BlockId| {
        let at = snapshot.movable.binary_search_by_key(&start, |extent| extent.range.start());
        at.map_or(Bytes::ZERO, |at| snapshot.movable[at].live)
    };
    let cost = steps.iter().fold(Bytes::ZERO, |sum, step| match *step {
        Step::Empty(block) => sum + live(block),
        Step::Move { extent, .. } => sum + live(extent.start()),
    });
    Plan { target, steps, cost, least, shortfall: None }
}
