//! A snapshot as pieces: extents that move and free blocks, between those that do not move.

use bookend::movable::{Holds, Occupied, Snapshot};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::plan::Step;

/// One piece of the table: an extent that moves (its number), or free blocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub start: u32,
    pub end: u32,
    pub extent: Option<u32>,
}

impl Piece {
    /// Its blocks.
    pub const fn range(self) -> BlockRange {
        BlockRange::new(BlockId::new(self.start), Blocks::new(self.end - self.start))
    }

    /// Its blocks, if they are free; else 0.
    pub const fn free(self) -> u32 {
        if self.extent.is_none() { self.end - self.start } else { 0 }
    }

    /// Bytes of the objects in it.
    pub fn live(self, snapshot: &Snapshot) -> u64 {
        self.extent.map_or(0, |number| snapshot.movable[number as usize].live.get())
    }
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

/// Where pinned extents end, below which nothing is moved to.
pub(super) fn bottom(snapshot: &Snapshot) -> u32 {
    snapshot.pinned_end.map_or(0, BlockId::get)
}

/// Goes through the ranges between what does not move, from `from` on, each as its pieces. They stand in
/// one place, one after the other: a table of millions of blocks would be written out else.
pub(super) fn each_segment(snapshot: &Snapshot, from: u32, mut with: impl FnMut(&[Piece])) {
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

/// Free runs above the pinned end, lowest first.
pub(super) fn free_runs(snapshot: &Snapshot) -> Vec<BlockRange> {
    let mut runs = Vec::new();
    each_segment(snapshot, bottom(snapshot), |pieces| {
        let free = pieces.iter().filter(|piece| piece.extent.is_none());
        runs.extend(free.map(|piece| piece.range()));
    });
    runs
}

/// The movable extents with a block in a window, lowest first.
pub(super) fn displaced(
    snapshot: &Snapshot,
    window: BlockRange,
) -> impl Iterator<Item = &Occupied> {
    // In order and apart from one another, so their ends are in order too.
    let first = snapshot.movable.partition_point(|extent| extent.range.end() <= window.start());
    let rest = snapshot.movable[first..].iter();
    rest.take_while(move |extent| extent.range.start() < window.end())
}

/// Whether something with a block in a window does not move.
pub(super) fn is_blocked(snapshot: &Snapshot, window: BlockRange) -> bool {
    snapshot.fixed.iter().any(|range| range.overlaps(window))
        || displaced(snapshot, window).any(|extent| extent.holds == Holds::Stuck)
}

/// Steps as they are collected, and the bytes that they move.
#[derive(Clone, Debug, Default)]
pub(super) struct Moves {
    pub steps: Vec<Step>,
    pub cost: Bytes,
}

impl Moves {
    /// The objects of a block go into room that others have.
    pub fn empty(&mut self, extent: &Occupied) {
        self.cost = self.cost + extent.live;
        self.steps.push(Step::Empty(extent.range.start()));
    }

    /// An extent goes whole to free blocks.
    pub fn carry(&mut self, extent: &Occupied, to: BlockId) {
        self.cost = self.cost + extent.live;
        self.steps.push(Step::Move { extent: extent.range, to });
    }
}
