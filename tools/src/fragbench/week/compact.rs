//! Making room: which movable extents go where, so that a long run becomes free.
//!
//! Two ways, the first that works:
//!
//! 1. **Evacuate**: of all windows of the wanted length, the one with the fewest blocks in the way is
//!    cleared; what is in it goes to free runs elsewhere. Costs at most what is in the window.
//! 2. **Slide**: where what is in the window fits nowhere, the cheapest range that has enough free blocks in
//!    all is closed up: its extents move down, and its free blocks become one run above them. Always works
//!    where a range without obstacles has as many free blocks as wanted.
//!
//! For something that will not move (a request of the probe) only windows and ranges right below the lowest
//! block of that kind count, so that what does not move stands together at the high end, and what can move
//! stays one range without obstacles.
//!
//! Where not even that many are free, small objects of sparse blocks are put together first.
//!
//! A little more than was asked for is cleared at a time (a 256th of the table), because looking at the whole
//! table costs the same for a little as for much.

use core::ops::Range;

use bookend::placement::{Class, Placement};
use bookend::units::{BlockId, BlockRange, Blocks};

use super::backing::Backing;
use super::contents::Contents;

/// Free blocks, or one extent that can move.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u32,
    end: u32,
    free: bool,
}

impl Piece {
    const fn len(self) -> u32 {
        self.end - self.start
    }

    const fn free_len(self) -> u32 {
        if self.free { self.len() } else { 0 }
    }

    const fn range(self) -> BlockRange {
        BlockRange::new(BlockId::new(self.start), Blocks::new(self.len()))
    }
}

/// Where an extent goes.
#[derive(Clone, Copy, Debug)]
struct Step {
    extent: BlockRange,
    to: BlockId,
}

/// Where a run is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Where {
    /// Wherever it is cheapest.
    Anywhere,
    /// Right below the lowest block that does not move and is not pinned.
    Top,
}

/// Moves things so that `wanted` blocks in a row are free above the pinned ones. `false` where that
/// cannot be.
pub fn make_room<B: Backing>(
    table: &mut Placement,
    contents: &mut Contents<B>,
    wanted: Blocks,
    at: Where,
) -> bool {
    let generous = wanted.get().max(table.capacity().get() / 256);
    let end = table.huge_start().get();
    loop {
        let segments = segments(table);
        let allowed = match at {
            Where::Anywhere => &segments[..],
            Where::Top => {
                segments.iter().position(|s| ends_at(s, end)).map_or(&[][..], |n| &segments[n..=n])
            }
        };
        let free = allowed.iter().map(|pieces| free_in(pieces)).max().unwrap_or(0);
        let search = |wanted| Search { segments: &segments, allowed, at, wanted };
        // At the top each slide pushes what earlier ones have closed up, so it had better go far.
        let far = if at == Where::Top { generous.max(free / 2) } else { generous };
        let steps = search(generous)
            .evacuation()
            .or_else(|| search(far).slide())
            .or_else(|| search(wanted.get()).evacuation())
            .or_else(|| search(wanted.get()).slide());
        if let Some(steps) = steps {
            carry_out(table, contents, &steps);
            return true;
        }
        let missing = wanted.get().saturating_sub(free).max(1);
        if !(0..missing).all(|_| contents.empty_one(table)) {
            return false;
        }
    }
}

fn carry_out<B: Backing>(table: &mut Placement, contents: &mut Contents<B>, steps: &[Step]) {
    for step in steps {
        match table.begin_move(step.extent, step.to) {
            Ok(begun) => {
                contents.carry(begun.from(), begun.to());
                let ended = table.moved(begun);
                debug_assert!(ended.is_ok(), "begun here: {ended:?}");
            }
            Err(misuse) => debug_assert!(false, "a planned step is legal: {misuse}"),
        }
    }
}

/// The ranges above the pinned end without anything that cannot move, as their pieces.
fn segments(table: &Placement) -> Vec<Vec<Piece>> {
    let (mut segments, mut pieces) = (Vec::new(), Vec::new());
    let mut at = table.pinned_end().get();
    let fill = |pieces: &mut Vec<Piece>, at: u32, end: u32| {
        if at < end {
            pieces.push(Piece { start: at, end, free: true });
        }
    };
    for placed in table.iter_extents(table.pinned_end()) {
        let (start, end) = (placed.range.start().get(), placed.range.end().get());
        fill(&mut pieces, at, start);
        if placed.class == Class::Movable {
            pieces.push(Piece { start, end, free: false });
        } else {
            segments.push(std::mem::take(&mut pieces));
        }
        at = end;
    }
    fill(&mut pieces, at, table.capacity().get());
    segments.push(pieces);
    segments.retain(|pieces| !pieces.is_empty());
    segments
}

fn free_in(pieces: &[Piece]) -> u32 {
    pieces.iter().map(|piece| piece.free_len()).sum()
}

fn ends_at(pieces: &[Piece], end: u32) -> bool {
    pieces.last().is_some_and(|last| last.end == end)
}

/// A look for a run.
#[derive(Clone, Copy)]
struct Search<'a> {
    /// All of them: what leaves may go anywhere.
    segments: &'a [Vec<Piece>],
    /// Those in which the run may be.
    allowed: &'a [Vec<Piece>],
    at: Where,
    wanted: u32,
}

impl<'a> Search<'a> {
    /// Clears the cheapest window; `None` where what is in it fits nowhere.
    fn evacuation(self) -> Option<Vec<Step>> {
        let (_, low) =
            self.allowed.iter().filter_map(|pieces| self.cheapest_window(pieces)).min()?;
        let high = low + self.wanted;
        let mut room = Room::outside(self.segments, low, high);
        let pieces = self.segments.iter().flatten();
        let mut leaving: Vec<_> =
            pieces.filter(|p| !p.free && p.start < high && p.end > low).copied().collect();
        // The longest first: short ones find room in what these leave.
        leaving.sort_unstable_by_key(|piece| core::cmp::Reverse(piece.len()));
        let to = |piece: Piece| Some(Step { extent: piece.range(), to: room.take(piece.len())? });
        leaving.into_iter().map(to).collect()
    }

    /// The blocks in the way of the cheapest window of a segment, and its start. Windows that begin where a
    /// piece begins are enough: any other can be shifted down to there without meeting another extent.
    fn cheapest_window(self, pieces: &[Piece]) -> Option<(u32, u32)> {
        let (start, end) = (pieces.first()?.start, pieces.last()?.end);
        let cost = |piece: &Piece| piece.len() - piece.free_len();
        if self.at == Where::Top {
            let low = end.checked_sub(self.wanted).filter(|&low| low >= start)?;
            let inside = pieces.iter().rev().take_while(|piece| piece.end > low);
            return Some((inside.map(cost).sum(), low));
        }
        let (mut next, mut blocks, mut best) = (0, 0, None);
        for low in pieces.iter().take_while(|low| end - low.start >= self.wanted) {
            while next < pieces.len() && pieces[next].start < low.start + self.wanted {
                blocks += cost(&pieces[next]);
                next += 1;
            }
            if best.is_none_or(|best| (blocks, low.start) < best) {
                best = Some((blocks, low.start));
            }
            blocks -= cost(low);
        }
        best
    }

    /// Closes up the range with the fewest blocks to move among those that have enough free ones.
    fn slide(self) -> Option<Vec<Step>> {
        let range = |pieces: &'a Vec<Piece>| Some((self.cheapest_range(pieces)?, pieces));
        let found = self.allowed.iter().filter_map(range);
        let ((_, range), pieces) = found.min_by_key(|((moved, _), _)| *moved)?;
        let mut at = pieces[range.start].start;
        let mut steps = Vec::new();
        for piece in pieces[range].iter().filter(|piece| !piece.free) {
            if piece.start != at {
                steps.push(Step { extent: piece.range(), to: BlockId::new(at) });
            }
            at += piece.len();
        }
        Some(steps)
    }

    /// The blocks to move in the cheapest range of pieces that has enough free ones, and which it is.
    fn cheapest_range(self, pieces: &[Piece]) -> Option<(u32, Range<usize>)> {
        let mut best: Option<(u32, Range<usize>)> = None;
        let (mut free, mut moved, mut low) = (0, 0, 0);
        for (high, piece) in pieces.iter().enumerate() {
            free += piece.free_len();
            moved += piece.len() - piece.free_len();
            while free - pieces[low].free_len() >= self.wanted {
                free -= pieces[low].free_len();
                moved -= pieces[low].len() - pieces[low].free_len();
                low += 1;
            }
            let counts = self.at == Where::Anywhere || high + 1 == pieces.len();
            if counts
                && free >= self.wanted
                && best.as_ref().is_none_or(|&(least, _)| moved < least)
            {
                best = Some((moved, low..high + 1));
            }
        }
        best
    }
}

/// Free runs, by the power of two that they reach.
struct Room {
    by_length: [Vec<(u32, u32)>; 32],
}

impl Room {
    /// All but those between `low` and `high`.
    fn outside(segments: &[Vec<Piece>], low: u32, high: u32) -> Self {
        let mut room = Self { by_length: Default::default() };
        for piece in segments.iter().flatten().filter(|piece| piece.free) {
            room.add(piece.start, piece.end.min(low));
            room.add(piece.start.max(high), piece.end);
        }
        room
    }

    fn add(&mut self, start: u32, end: u32) {
        if start < end {
            self.by_length[(end - start).ilog2() as usize].push((start, end));
        }
    }

    /// Takes `len` blocks, from a run that is not much longer if there is one.
    fn take(&mut self, len: u32) -> Option<BlockId> {
        let shortest = len.ilog2() as usize;
        let fits = |&(start, end): &(u32, u32)| end - start >= len;
        let (list, index) = (shortest..32)
            .find_map(|list| Some((list, self.by_length[list].iter().position(fits)?)))?;
        let (start, end) = self.by_length[list].swap_remove(index);
        self.add(start + len, end);
        Some(BlockId::new(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(lengths: &[i32]) -> Vec<Piece> {
        let mut at = 0;
        let piece = |&len: &i32| {
            let start = at;
            at += len.unsigned_abs();
            Piece { start, end: at, free: len < 0 }
        };
        lengths.iter().map(piece).collect()
    }

    fn search(segments: &[Vec<Piece>], at: Where, wanted: u32) -> Search<'_> {
        Search { segments, allowed: segments, at, wanted }
    }

    fn anywhere(segments: &[Vec<Piece>], wanted: u32) -> Search<'_> {
        search(segments, Where::Anywhere, wanted)
    }

    fn shown(steps: Option<Vec<Step>>) -> Option<Vec<String>> {
        let show = |step: &Step| format!("{:?} to {:?}", step.extent, step.to);
        steps.map(|steps| steps.iter().map(show).collect())
    }

    #[test]
    fn the_cheapest_window_is_cleared_into_room_elsewhere() {
        // Free blocks are negative: 3 used, 2 free, 1 used, 2 free, 4 used, 1 free.
        let segments = [pieces(&[3, -2, 1, -2, 4, -1])];
        let steps = shown(anywhere(&segments, 5).evacuation()).unwrap();
        assert_eq!(steps, ["B5..B6 to B12"]);
        assert!(anywhere(&segments, 14).evacuation().is_none(), "longer than the segment");
    }

    #[test]
    fn what_fits_nowhere_slides() {
        let segments = [pieces(&[-2, 3, -2, 6, -1])];
        assert!(anywhere(&segments, 4).evacuation().is_none(), "three blocks fit nowhere else");
        assert_eq!(shown(anywhere(&segments, 4).slide()).unwrap(), ["B2..B5 to B0"]);
        assert_eq!(
            shown(anywhere(&segments, 5).slide()).unwrap(),
            ["B2..B5 to B0", "B7..B13 to B3"]
        );
        assert!(anywhere(&segments, 6).slide().is_none(), "five are free");
    }

    #[test]
    fn what_does_not_move_gets_the_top() {
        // Three free blocks in the middle, and two at the top above one that can leave.
        let segments = [pieces(&[3, -3, 2, -1, 1, -2])];
        let top = |wanted| search(&segments, Where::Top, wanted);
        assert_eq!(shown(top(2).evacuation()).unwrap(), [""; 0]);
        assert_eq!(shown(top(3).evacuation()).unwrap(), ["B9..B10 to B8"]);
        assert_eq!(shown(top(3).slide()).unwrap(), ["B9..B10 to B8"]);
        assert!(top(6).evacuation().is_some());
        assert_eq!(shown(top(6).slide()).unwrap(), ["B6..B8 to B3", "B9..B10 to B5"]);
        assert!(top(7).slide().is_none(), "six are free");
    }
}
