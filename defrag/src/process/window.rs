//! Which range of blocks to clear, and where what is in it goes.

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

/// The ranges between what does not move, from `from` on, each as its pieces.
fn segments(snapshot: &Snapshot, from: u32) -> Vec<Vec<Piece>> {
    let movable = snapshot
        .movable
        .iter()
        .enumerate()
        .map(|(n, extent)| (extent.range, (extent.holds != Holds::Stuck).then_some(n as u32)));
    let fixed = snapshot.fixed.iter().map(|&range| (range, None));
    let mut all: Vec<_> = movable.chain(fixed).collect();
    // Stable, which merges two lists that are in order in one pass.
    all.sort_by_key(|(range, _)| range.start());
    let (mut segments, mut pieces, mut at) = (Vec::new(), Vec::new(), from);
    let end = BlockRange::new(BlockId::new(snapshot.capacity.get()), Blocks::ZERO);
    for (range, extent) in all.into_iter().chain([(end, None)]) {
        if range.start().get() < from {
            continue;
        }
        if range.start().get() > at {
            pieces.push(Piece { start: at, end: range.start().get(), extent: None });
        }
        at = range.end().get();
        match extent {
            Some(_) => pieces.push(Piece { start: range.start().get(), end: at, extent }),
            None => segments.push(core::mem::take(&mut pieces)),
        }
    }
    segments
}

/// Windows that are tried, the cheapest ones: each takes a look at the whole snapshot.
const TRIED: usize = 32;

/// The windows of `k` blocks in a segment, and the live bytes in each.
///
/// Those that begin where a piece begins are enough: any other can be shifted down to there without
/// meeting another extent.
fn windows_in(snapshot: &Snapshot, pieces: &[Piece], k: u32, windows: &mut Vec<(u64, u32)>) {
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
        windows.push((cost, low.start));
        cost -= live(low);
    }
}

/// Clears the cheapest window of `wanted` blocks from which everything can leave.
pub(super) fn run_of(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let from = snapshot.pinned_end.map_or(0, BlockId::get);
    let segments = segments(snapshot, from);
    let mut windows = Vec::new();
    for pieces in &segments {
        windows_in(snapshot, pieces, wanted.get(), &mut windows);
    }
    if windows.len() > TRIED {
        windows.select_nth_unstable(TRIED);
        windows.truncate(TRIED);
    }
    windows.sort_unstable();
    for &(_, start) in &windows {
        let window = BlockRange::new(BlockId::new(start), wanted);
        if let Some(steps) = clear(snapshot, window) {
            return finish(snapshot, target, steps, Bytes::new(windows[0].0));
        }
    }
    Plan::nothing(target, Some(no_run(snapshot, &segments, wanted)))
}

/// Why no window was found.
fn no_run(snapshot: &Snapshot, segments: &[Vec<Piece>], wanted: Blocks) -> Shortfall {
    let free = snapshot.free_blocks();
    if free < wanted {
        return Shortfall::TooFew { free };
    }
    let length = |pieces: &Vec<Piece>| match (pieces.first(), pieces.last()) {
        (Some(first), Some(last)) => last.end - first.start,
        _ => 0,
    };
    Shortfall::NoWindow { longest: Blocks::new(segments.iter().map(length).max().unwrap_or(0)) }
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
            let longest = segments(snapshot, start.get())
                .first()
                .map_or(0, |pieces| pieces.last().map_or(0, |piece| piece.end - start.get()));
            let shortfall = Shortfall::NoWindow { longest: Blocks::new(longest) };
            Plan::nothing(target, Some(shortfall))
        }
    }
}

fn displaced(snapshot: &Snapshot, window: BlockRange) -> impl Iterator<Item = &Occupied> {
    snapshot.movable.iter().filter(move |extent| extent.range.overlaps(window))
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
    let runs = segments(snapshot, from).into_iter().flatten().filter(|p| p.extent.is_none());
    let parts = runs
        .flat_map(|piece| [(piece.start, piece.end.min(low)), (piece.start.max(high), piece.end)]);
    parts
        .filter(|(start, end)| start < end)
        .map(|(start, end)| BlockRange::new(BlockId::new(start), Blocks::new(end - start)))
        .collect()
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
