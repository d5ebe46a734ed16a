//! What a [`Placement`] can be asked, without changing it.

use super::kind::{Class, Kind, Run};
use super::placement::{MOVING, Placed, Placement, STUCK};
use crate::os::Os;
use crate::units::{BlockId, BlockRange, Blocks};

impl<O: Os> Placement<O> {
    /// Blocks of the table.
    pub fn capacity(&self) -> Blocks {
        Blocks::new(self.table.capacity())
    }

    /// Blocks of a class.
    pub fn blocks(&self, class: Class) -> Blocks {
        Blocks::new(self.table.blocks(class.into()))
    }

    /// Extents of a class.
    pub fn extents(&self, class: Class) -> u32 {
        self.table.runs(class.into())
    }

    /// Free blocks, wherever they stand.
    pub fn free_blocks(&self) -> Blocks {
        Blocks::new(self.table.blocks(Kind::Free))
    }

    /// Maximal runs of free blocks.
    pub fn free_runs(&self) -> u32 {
        self.table.runs(Kind::Free)
    }

    /// The longest run of free blocks.
    pub fn largest_free(&self) -> Blocks {
        Blocks::new(self.table.largest_free())
    }

    /// The class of a block; `None` where it is free or beyond the table.
    pub fn class_of(&self, block: BlockId) -> Option<Class> {
        self.table.run_at(block.get())?.kind.class()
    }

    /// The extent that a block belongs to; `None` where it is free or beyond the table.
    pub fn extent_of(&self, block: BlockId) -> Option<Placed> {
        self.table.run_at(block.get()).and_then(placed)
    }

    /// The extents, lowest first, from the one at or above `from` on.
    pub fn iter_extents(&self, from: BlockId) -> impl Iterator<Item = Placed> + '_ {
        self.table.iter_from(from.get()).filter_map(placed)
    }

    /// The extents of a class, lowest first, from the first that begins at or above `from` on.
    pub fn iter_class(&self, class: Class, from: BlockId) -> impl Iterator<Item = BlockRange> + '_ {
        let first = self.table.next(class.into(), from.get());
        core::iter::successors(first, move |run| self.table.next(class.into(), run.end()))
            .map(|run| run.range)
    }

    /// The maximal runs of free blocks, lowest first.
    pub fn iter_free(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let first = self.table.next(Kind::Free, 0);
        core::iter::successors(first, |run| self.table.next(Kind::Free, run.end()))
            .map(|run| run.range)
    }

    /// The block after the highest pinned one; block 0 where nothing is pinned.
    pub fn pinned_end(&self) -> BlockId {
        BlockId::new(self.pinned_end)
    }

    /// The lowest huge block; the end of the table where there is none.
    pub fn huge_start(&self) -> BlockId {
        BlockId::new(self.huge_start)
    }

    /// The lowest movable extent.
    pub fn lowest_movable(&self) -> Option<BlockRange> {
        self.table.next(Kind::Movable, 0).map(|run| run.range)
    }

    /// The highest pinned extent.
    pub fn highest_pinned(&self) -> Option<BlockRange> {
        self.table.previous(Kind::Pinned, self.table.capacity()).map(|run| run.range)
    }

    /// Where a movable extent of that many blocks would go now.
    pub fn movable_destination(&self, len: Blocks) -> Option<BlockRange> {
        let place = self.movable_fit(len.get()).filter(|_| len != Blocks::ZERO)?;
        Some(BlockRange::new(BlockId::new(place.at), len))
    }

    /// The movable extents in the gap above the pinned end, lowest first. A mover with time to
    /// spare takes them up before pinned memory comes to need their place.
    pub fn iter_gap(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let end = BlockId::new(self.movable_from());
        self.iter_class(Class::Movable, self.pinned_end()).take_while(move |run| run.start() < end)
    }

    /// The movable extents that refused to move, lowest first. Those below the pinned end are out
    /// of order and should be moved when their owners allow it.
    pub fn iter_stuck(&self) -> impl Iterator<Item = BlockRange> + '_ {
        let next = |from| self.marks.next(STUCK, from);
        core::iter::successors(next(0), move |&head| next(head + 1))
            .filter_map(|head| self.table.run_at(head).map(|run| run.range))
    }

    /// Moves that were begun and have not ended; a move to other blocks counts once.
    pub fn moves_under_way(&self) -> u32 {
        self.moves
    }

    /// Whether a block belongs to an extent that is being moved, or where one is being moved to.
    pub fn is_moving(&self, block: BlockId) -> bool {
        self.table.run_at(block.get()).is_some_and(|run| self.has_mark(MOVING, run.start()))
    }
}

fn placed(run: Run) -> Option<Placed> {
    run.kind.class().map(|class| Placed { class, range: run.range })
}
