//! Closing up: the extents of a range move down, each over the free blocks below it, so that all free
//! blocks of the range become one run above them.
//!
//! It costs more than to clear a window, and works where what is in every window fits nowhere else: all it
//! takes is a range without obstacles that has as many free blocks as are wanted.

use bookend::movable::Snapshot;
use bookend::units::{BlockId, BlockRange, Blocks};

use super::pieces::{Moves, Piece, bottom, each_segment};

/// Which ranges count.
#[derive(Clone, Copy, Debug)]
pub(super) enum Among {
    /// All.
    All,
    /// Those that have no block in this window.
    Outside(BlockRange),
    /// Those that end there.
    EndingAt(BlockId),
}

impl Among {
    /// Parts of a segment in which a range may be.
    fn parts(self, pieces: &[Piece]) -> [&[Piece]; 2] {
        match self {
            Self::All => [pieces, &[]],
            Self::Outside(window) => {
                let (start, end) = (window.start().get(), window.end().get());
                let below = pieces.partition_point(|piece| piece.end <= start);
                let above = pieces.partition_point(|piece| piece.start < end);
                [&pieces[..below], &pieces[above.max(below)..]]
            }
            Self::EndingAt(end) => {
                let ends = pieces.last().is_some_and(|last| last.end == end.get());
                [if ends { pieces } else { &[] }, &[]]
            }
        }
    }
}

/// A range to close up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Closing {
    /// Bytes to move.
    cost: u64,
    start: u32,
    end: u32,
}

impl Closing {
    /// The cheapest range that has `wanted` free blocks.
    pub fn cheapest(snapshot: &Snapshot, wanted: u32, among: Among) -> Option<Self> {
        let mut best = None;
        each_segment(snapshot, bottom(snapshot), |pieces| {
            for part in among.parts(pieces) {
                let to_end = matches!(among, Among::EndingAt(_));
                let found = cheapest_in(snapshot, part, wanted, to_end);
                best = best.into_iter().chain(found).min();
            }
        });
        best
    }

    /// The range.
    pub const fn range(self) -> BlockRange {
        BlockRange::new(BlockId::new(self.start), Blocks::new(self.end - self.start))
    }

    /// Adds the moves that it takes, and returns the free run that they make.
    pub fn close(self, snapshot: &Snapshot, moves: &mut Moves) -> BlockRange {
        let mut at = BlockId::new(self.start);
        for extent in super::pieces::displaced(snapshot, self.range()) {
            if extent.range.start() != at {
                moves.carry(extent, at);
            }
            at = at + extent.range.len();
        }
        BlockRange::new(at, Blocks::new(self.end - at.get()))
    }
}

/// The cheapest range of pieces with `wanted` free blocks; `to_end`: among those that go to the end.
fn cheapest_in(
    snapshot: &Snapshot,
    pieces: &[Piece],
    wanted: u32,
    to_end: bool,
) -> Option<Closing> {
    let mut best: Option<Closing> = None;
    let (mut free, mut cost, mut low) = (0, 0, 0);
    for (high, piece) in pieces.iter().enumerate() {
        free += piece.free();
        cost += piece.live(snapshot);
        // What stands lowest, and would not move, is no part of it.
        while low < high && free - pieces[low].free() >= wanted {
            free -= pieces[low].free();
            cost -= pieces[low].live(snapshot);
            low += 1;
        }
        if free >= wanted && (!to_end || high + 1 == pieces.len()) {
            let closing = Closing { cost, start: pieces[low].start, end: piece.end };
            best = Some(best.map_or(closing, |best| best.min(closing)));
        }
    }
    best
}
