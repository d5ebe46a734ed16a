//! Moves: a movable extent goes to other blocks while its owner's data is carried over.
//!
//! A move is begun, which takes the blocks it goes to, and ended in one of three ways: it was made
//! ([`Placement::moved`]), its owner refused ([`Placement::refused`]), or the mover gave it up
//! ([`Placement::cancelled`]). In between the placement can be used for anything else; the two
//! extents are marked, so that neither is freed, cut, lengthened or moved again meanwhile.
//!
//! Source and target may overlap: an extent *slides* where there is too little room beside it. The
//! union of both is then one extent for as long as the move takes.

use super::kind::{Class, Kind, Run};
use super::placement::{MOVING, Placement, STUCK};
use super::table::range;
use super::{Clearing, Misuse, Refusal};
use crate::os::Os;
use crate::units::{BlockId, BlockRange, Blocks};

/// A move that was begun and has to be ended.
///
/// Dropping it leaves both ranges marked as moving for as long as the placement lives.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "both ranges stay reserved until the move is ended"]
pub struct Move {
    from: BlockRange,
    to: BlockRange,
}

impl Move {
    /// Where the data is.
    pub const fn from(&self) -> BlockRange {
        self.from
    }

    /// Where it goes: as many blocks. May overlap [`Move::from`], so copy as memmove(3) does.
    pub const fn to(&self) -> BlockRange {
        self.to
    }

    /// Both ranges and what lies between them, which is all of a slide.
    fn union(&self) -> BlockRange {
        let start = self.from.start().min(self.to.start()).get();
        range(start, self.from.end().max(self.to.end()).get() - start)
    }

    fn slides(&self) -> bool {
        self.from.overlaps(self.to)
    }
}

/// What became of a move.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moved {
    /// The data is in its new place.
    Done,
    /// The owner refuses: the data is where it was, and stays.
    Refused,
}

impl<O: Os> Placement<O> {
    /// Begins to move a movable extent to free blocks from `to` on. The blocks of the extent
    /// itself count as free, so that it can slide.
    ///
    /// # Errors
    /// Where `extent` is not exactly an extent, not movable or already on its way; where a block
    /// of the target is not free, beyond the table or below the pinned end. Nothing is changed
    /// then.
    pub fn begin_move(&mut self, extent: BlockRange, to: BlockId) -> Result<Move, Misuse> {
        let run = self.exactly(extent)?;
        if let Some(class) = run.kind.class().filter(|&class| class != Class::Movable) {
            return Err(Misuse::NotMovable { extent, class });
        }
        let to = self.checked_range(to, extent.len())?;
        if to == extent {
            return Err(Misuse::Occupied(to.start()));
        }
        if to.start() < self.pinned_end() {
            return Err(Misuse::BelowPinned { to, pinned_end: self.pinned_end() });
        }
        let begun = Move { from: extent, to };
        if begun.slides() {
            self.begin_slide(run, &begun)?;
        } else {
            let free = self.free_run_around(to)?;
            self.table.take(free, to, Kind::Movable);
            self.mark(MOVING, extent.start().get());
            self.mark(MOVING, to.start().get());
        }
        self.moves += 1;
        Ok(begun)
    }

    /// Lengthens the extent to the union of both ranges.
    fn begin_slide(&mut self, run: Run, slide: &Move) -> Result<(), Misuse> {
        let (start, union) = (run.start(), slide.union());
        let by = union.len().get() - run.len();
        if union.start() == run.range.start() {
            self.free_run_around(range(run.end(), by))?;
            self.table.extend(run, by);
        } else {
            self.free_run_around(range(union.start().get(), by))?;
            self.table.extend_down(run, by);
            if self.has_mark(STUCK, start) {
                self.unmark(STUCK, start);
                self.mark(STUCK, union.start().get());
            }
        }
        self.mark(MOVING, union.start().get());
        Ok(())
    }

    /// Ends a move that was made: the data is in its new place, and the old one is free.
    ///
    /// # Errors
    /// Where the move was not begun in this placement.
    pub fn moved(&mut self, made: Move) -> Result<(), Misuse> {
        let (from, to) = (made.from, made.to);
        self.end_move(&made, to, from)?;
        Ok(())
    }

    /// Ends a move that the owner refused: the data is where it was. The extent is *stuck* from
    /// now on: no request names it again, and pinned blocks may come to stand above it. See
    /// [`Placement::unstick`].
    ///
    /// # Errors
    /// Where the move was not begun in this placement.
    pub fn refused(&mut self, refused: Move) -> Result<(), Misuse> {
        let (from, to) = (refused.from, refused.to);
        self.end_move(&refused, from, to)?;
        self.mark(STUCK, from.start().get());
        Ok(())
    }

    /// Ends a move of which a part was made and the rest refused: both ranges stay, an extent each, the
    /// old one *stuck* as after [`Placement::refused`]. Not for slides, which have no two ranges.
    ///
    /// # Errors
    /// Where the move was not begun in this placement, or slides.
    pub fn parted(&mut self, parted: Move) -> Result<(), Misuse> {
        let not_begun = Misuse::NotBegun { from: parted.from, to: parted.to };
        let moving = |range: BlockRange| {
            let run = self.table.run_at(range.start().get())?;
            (run.range == range && self.has_mark(MOVING, run.start())).then_some(run)
        };
        let (Some(from), Some(to), false) =
            (moving(parted.from), moving(parted.to), parted.slides())
        else {
            return Err(not_begun);
        };
        self.end_marks(from);
        self.unmark(MOVING, to.start());
        self.mark(STUCK, from.start());
        Ok(())
    }

    /// Ends a move that was not tried or given up for other reasons than the owner's: the data is
    /// where it was, and may be asked to move again.
    ///
    /// # Errors
    /// Where the move was not begun in this placement.
    pub fn cancelled(&mut self, cancelled: Move) -> Result<(), Misuse> {
        let (from, to) = (cancelled.from, cancelled.to);
        if self.end_move(&cancelled, from, to)? {
            self.mark(STUCK, from.start().get());
        }
        Ok(())
    }

    /// Keeps one of a move's ranges and frees what only the other one has. Returns whether the
    /// extent was stuck; it is not any more.
    fn end_move(
        &mut self,
        ended: &Move,
        kept: BlockRange,
        freed: BlockRange,
    ) -> Result<bool, Misuse> {
        let moving = |range: BlockRange| {
            self.table.run_at(range.start().get()).filter(|run| {
                run.kind == Kind::Movable
                    && run.range == range
                    && self.has_mark(MOVING, run.start())
            })
        };
        let not_begun = Misuse::NotBegun { from: ended.from, to: ended.to };
        if ended.slides() {
            let run = moving(ended.union()).ok_or(not_begun)?;
            let stuck = self.end_marks(run);
            let rest = if freed.start() < kept.start() {
                range(freed.start().get(), kept.start().get() - freed.start().get())
            } else {
                range(kept.end().get(), freed.end().get() - kept.end().get())
            };
            self.give(run, rest);
            return Ok(stuck);
        }
        let (from, to) = (moving(ended.from), moving(ended.to));
        let (Some(from), Some(to)) = (from, to) else { return Err(not_begun) };
        let stuck = self.end_marks(from);
        self.unmark(MOVING, to.start());
        self.give(if freed == from.range { from } else { to }, freed);
        Ok(stuck)
    }

    /// Takes the marks of a move off the extent it began with.
    fn end_marks(&mut self, run: Run) -> bool {
        self.moves -= 1;
        self.unmark(MOVING, run.start());
        let stuck = self.has_mark(STUCK, run.start());
        if stuck {
            self.unmark(STUCK, run.start());
        }
        stuck
    }

    /// Says that an extent that had refused may be asked to move again. Returns whether it counts
    /// as any other from now on: below the pinned end it does not, and should be moved above it
    /// with [`Placement::begin_move`].
    ///
    /// # Errors
    /// Where `extent` is not exactly an extent, or is being moved.
    pub fn unstick(&mut self, extent: BlockRange) -> Result<bool, Misuse> {
        let run = self.exactly(extent)?;
        if !self.has_mark(STUCK, run.start()) {
            return Ok(true);
        }
        let in_order = run.start() >= self.pinned_end;
        if in_order {
            self.unmark(STUCK, run.start());
        }
        Ok(in_order)
    }

    /// Begins the next move that a clearing needs; `None` when nothing is left to move, or nothing
    /// can be. In both cases ask for the blocks again: the answer says which.
    pub fn next_move(&mut self, clearing: &Clearing) -> Option<Move> {
        let (extent, to) = self.step(clearing)?;
        // A step is a legal move by construction.
        self.begin_move(extent, to).ok()
    }

    /// Allocates as [`Placement::allocate`] does, and has `mover` make the moves that it needs. The
    /// mover carries the data from one range to the other (they may overlap) and says whether it
    /// did. If it panics, the move counts as refused.
    ///
    /// # Errors
    /// As [`Placement::allocate`], but for [`Refusal::Evict`] and [`Refusal::Compact`].
    pub fn allocate_moving(
        &mut self,
        class: Class,
        wanted: Blocks,
        mut mover: impl FnMut(BlockRange, BlockRange) -> Moved,
    ) -> Result<BlockRange, Refusal> {
        loop {
            let clearing = match self.allocate(class, wanted) {
                Err(Refusal::Evict(clearing) | Refusal::Compact(clearing)) => clearing,
                result => return result,
            };
            while let Some(begun) = self.next_move(&clearing) {
                let mut ending =
                    Ending { placement: self, begun: Some(begun), how: Moved::Refused };
                if let Some(begun) = &ending.begun {
                    ending.how = mover(begun.from, begun.to);
                }
            }
        }
    }
}

/// Ends a move when it goes, also when the mover panicked.
struct Ending<'a, O: Os> {
    placement: &'a mut Placement<O>,
    begun: Option<Move>,
    how: Moved,
}

impl<O: Os> Drop for Ending<'_, O> {
    fn drop(&mut self) {
        let Some(begun) = self.begun.take() else { return };
        // Neither fails: this placement has begun the move, and nobody else could end it.
        let _ = match self.how {
            Moved::Done => self.placement.moved(begun),
            Moved::Refused => self.placement.refused(begun),
        };
    }
}
