//! [`Placement`]: the policy, over a [`Table`] that only keeps what stands where.

use super::bitmaps::Bitmaps;
use super::kind::{Class, Kind, Run};
use super::table::{Table, range};
use super::{Misuse, Refusal, Unmapped};
use crate::os::{Linux, Os};
use crate::units::{BlockId, BlockRange, Blocks};

/// Lanes of the marks on movable extents, kept at their heads.
pub(super) const STUCK: usize = 0;
pub(super) const MOVING: usize = 1;

/// Decides where in a table of blocks things go; see the [module](super).
///
/// Touches no memory but its own table, which stands in mappings of its own: half a byte a block,
/// taken page by page as the blocks come into use.
#[derive(Debug)]
pub struct Placement<O: Os = Linux> {
    pub(super) table: Table<O>,
    /// Movable extents that are [`STUCK`] or [`MOVING`], by their heads.
    pub(super) marks: Bitmaps<2, O>,
    /// How many extents carry each mark.
    pub(super) marked: [u32; 2],
    /// The block after the highest pinned one; 0 where there is none.
    pub(super) pinned_end: u32,
    /// The lowest huge block; the capacity where there is none.
    pub(super) huge_start: u32,
    /// Moves begun and not ended.
    pub(super) moves: u32,
    gap: u32,
}

/// An extent, and what stands in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Placed {
    /// Its class.
    pub class: Class,
    /// Its blocks.
    pub range: BlockRange,
}

impl Placement {
    /// A table of `capacity` free blocks, on this machine.
    ///
    /// # Errors
    /// As [`Placement::with_os`].
    pub fn new(capacity: Blocks) -> Result<Self, Unmapped> {
        Self::with_os(Linux, capacity)
    }
}

impl<O: Os> Placement<O> {
    /// A table of `capacity` free blocks.
    ///
    /// # Errors
    /// Where the table cannot be mapped.
    pub fn with_os(os: O, capacity: Blocks) -> Result<Self, Unmapped> {
        let unmapped = |cause| Unmapped { capacity, cause };
        Ok(Self {
            table: Table::new(os.clone(), capacity).map_err(unmapped)?,
            marks: Bitmaps::new(os, capacity.get()).map_err(unmapped)?,
            marked: [0; 2],
            pinned_end: 0,
            huge_start: capacity.get(),
            moves: 0,
            gap: Self::default_gap(capacity).get(),
        })
    }

    /// The gap of a new placement: a 64th of the capacity, at most 512 blocks (1 GiB).
    ///
    /// The gap costs no capacity, since movable blocks stand in it when they find no other place,
    /// so it may be generous; beyond a gigantic page it would only thin the table out.
    pub fn default_gap(capacity: Blocks) -> Blocks {
        Blocks::new((capacity.get() / 64).min(512))
    }

    /// Sets how many blocks above the pinned end movable extents leave free for as long as they
    /// find a place elsewhere. Pinned memory that grows and shrinks by less than the gap evicts
    /// nothing. What already stands in the gap stays there.
    pub fn set_gap(&mut self, gap: Blocks) {
        self.gap = gap.get();
    }

    // Allocating.

    /// Takes `wanted` free blocks that follow one another, where their class belongs.
    ///
    /// # Errors
    /// See [`Refusal`]: some name what must move before the same request succeeds.
    pub fn allocate(&mut self, class: Class, wanted: Blocks) -> Result<BlockRange, Refusal> {
        let k = wanted.get();
        if k == 0 {
            return Err(Refusal::Zero);
        }
        if let Some(granted) = self.allocate_now(class, wanted) {
            return Ok(granted);
        }
        if class != Class::Pinned {
            return Err(self.compaction(class, k));
        }
        let place = self.grow_pinned_end(k)?;
        Ok(self.put(class, place, k))
    }

    /// As [`Placement::allocate`], but where that would take moves, or stuck extents have to be
    /// passed over, the answer is `None`: nobody looks for what should move, and the time is
    /// logarithmic in the capacity also when nothing fits.
    pub fn allocate_now(&mut self, class: Class, wanted: Blocks) -> Option<BlockRange> {
        let k = wanted.get();
        let place = self.place(class, k)?;
        let from = self.movable_from();
        match class {
            Class::Pinned => self.table.found_lowest(k, place.run),
            Class::Huge => self.table.found_highest(k, place.run),
            Class::Movable if place.run.start().get() >= from => {
                self.table.found_above(from, k, place.run);
            }
            Class::Movable => {} // in the gap, or at its very end
        }
        Some(self.put(class, place, k))
    }

    fn put(&mut self, class: Class, place: Place, k: u32) -> BlockRange {
        let placed = range(place.at, k);
        self.table.take(place.run, placed, class.into());
        match class {
            Class::Pinned => self.pinned_end = self.pinned_end.max(place.at + k),
            Class::Huge => self.huge_start = self.huge_start.min(place.at),
            Class::Movable => {}
        }
        placed
    }

    /// Where blocks of a class go, if they can without a move.
    fn place(&self, class: Class, k: u32) -> Option<Place> {
        match class {
            Class::Pinned => self.pinned_fit(k),
            Class::Movable => self.movable_fit(k),
            Class::Huge => self.huge_fit(k),
        }
    }

    /// Lowest first. What begins below the pinned end is a hole between pinned extents; any other
    /// place is the pinned end itself.
    fn pinned_fit(&self, k: u32) -> Option<Place> {
        let run = self.table.first_fit(k)?;
        let at = run.start().get();
        (at <= self.pinned_end).then_some(Place { run, at })
    }

    /// Highest first, but never below the pinned end: holes there are for pinned blocks.
    fn huge_fit(&self, k: u32) -> Option<Place> {
        let run = self.table.highest_fit(k)?;
        (run.start().get() >= self.pinned_end).then(|| Place::at_end(run, k))
    }

    /// Where a movable extent goes: lowest first above the gap, else as high in the gap as it
    /// fits, which is then the highest place of all.
    pub(super) fn movable_fit(&self, k: u32) -> Option<Place> {
        let from = self.movable_from();
        match self.table.lowest_fit(k, from) {
            Some(usable) => Some(Place::in_run_from(usable, &self.table)),
            None => {
                let run = self.table.highest_fit(k)?;
                (run.start().get() >= self.pinned_end).then(|| Place::at_end(run, k))
            }
        }
    }

    pub(super) fn gap(&self) -> u32 {
        self.gap
    }

    /// The end of the gap.
    pub(super) fn movable_from(&self) -> u32 {
        self.pinned_end.saturating_add(self.gap).min(self.table.capacity())
    }

    pub(super) fn no_room(&self, class: Class, k: u32) -> Refusal {
        Refusal::NoRoom {
            class,
            wanted: Blocks::new(k),
            free: self.free_blocks(),
            largest: self.largest_free(),
        }
    }

    // Freeing, and changing an extent in place.

    /// Frees an extent, which must be given whole.
    ///
    /// # Errors
    /// Where `extent` is not exactly an extent, or is being moved. Nothing is changed then.
    pub fn free(&mut self, extent: BlockRange) -> Result<(), Misuse> {
        self.table.prefetch(extent.start().get());
        let run = self.exactly(extent)?;
        self.give(run, extent);
        Ok(())
    }

    /// Frees part of an extent: its head, its tail or something inside. What is left stays an
    /// extent, or becomes two.
    ///
    /// # Errors
    /// Where `part` is not within one extent, or that is being moved. Nothing is changed then.
    pub fn trim(&mut self, part: BlockRange) -> Result<(), Misuse> {
        let run = self.within(part)?;
        self.give(run, part);
        Ok(())
    }

    /// Cuts an extent in two: the second begins at `at`. Both can be freed or moved on their own.
    ///
    /// # Errors
    /// Where `at` is free or the first block of an extent, or the extent is being moved.
    pub fn split(&mut self, at: BlockId) -> Result<(), Misuse> {
        let part = self.checked_range(at, Blocks::ONE)?;
        let run = self.within(part)?;
        if run.start() == at.get() {
            return Err(Misuse::Mismatch { range: part, extent: run.range });
        }
        self.table.split(run, at.get());
        if self.has_mark(STUCK, run.start()) {
            self.mark(STUCK, at.get());
        }
        Ok(())
    }

    /// Lengthens an extent by `by` blocks, which must stand free after it. Returns the extent as
    /// it is then.
    ///
    /// # Errors
    /// Where `extent` is not exactly an extent, or is being moved, or a block after it is not
    /// free ([`Misuse::Occupied`]: an ordinary answer here). Nothing is changed then.
    pub fn grow(&mut self, extent: BlockRange, by: Blocks) -> Result<BlockRange, Misuse> {
        let run = self.exactly(extent)?;
        if by == Blocks::ZERO {
            return Ok(extent);
        }
        let added = self.checked_range(extent.end(), by)?;
        self.free_run_around(added)?;
        self.table.extend(run, by.get());
        if run.kind == Kind::Pinned {
            self.pinned_end = self.pinned_end.max(added.end().get());
        }
        Ok(range(run.start(), run.len() + by.get()))
    }

    pub(super) fn give(&mut self, run: Run, part: BlockRange) {
        let stuck = self.has_mark(STUCK, run.start());
        if stuck && part.start() == run.range.start() {
            self.unmark(STUCK, run.start());
        }
        if stuck && part.end() != run.range.end() {
            self.mark(STUCK, part.end().get());
        }
        self.table.give(run, part);
        match run.kind {
            Kind::Pinned if part.end().get() == self.pinned_end => {
                let highest = self.table.previous(Kind::Pinned, self.pinned_end);
                self.pinned_end = highest.map_or(0, Run::end);
            }
            Kind::Huge if part.start().get() == self.huge_start => {
                let lowest = self.table.next(Kind::Huge, self.huge_start);
                self.huge_start = lowest.map_or(self.table.capacity(), Run::start);
            }
            _ => {}
        }
    }

    // What a caller means by a range.

    pub(super) fn checked_range(&self, at: BlockId, len: Blocks) -> Result<BlockRange, Misuse> {
        let capacity = self.capacity();
        let room = capacity.get().saturating_sub(at.get());
        if len.get() > room {
            // The range itself may not be expressible; its part that is tells as much.
            let range = range(at.get(), len.get().min(u32::MAX - at.get()));
            return Err(Misuse::Outside { range, capacity });
        }
        Ok(range(at.get(), len.get()))
    }

    /// The extent that `part` lies in, at rest.
    pub(super) fn within(&self, part: BlockRange) -> Result<Run, Misuse> {
        if part.is_empty() {
            return Err(Misuse::Zero(part));
        }
        self.checked_range(part.start(), part.len())?;
        let run = self.table.run_at(part.start().get());
        let Some(run) = run.filter(|run| run.kind != Kind::Free) else {
            return Err(Misuse::Free(part));
        };
        if part.end() > run.range.end() {
            return Err(Misuse::Mismatch { range: part, extent: run.range });
        }
        if self.has_mark(MOVING, run.start()) {
            return Err(Misuse::Moving(run.range));
        }
        Ok(run)
    }

    /// The extent that `extent` is, at rest.
    pub(super) fn exactly(&self, extent: BlockRange) -> Result<Run, Misuse> {
        let run = self.within(extent)?;
        if run.range == extent {
            Ok(run)
        } else {
            Err(Misuse::Mismatch { range: extent, extent: run.range })
        }
    }

    /// The free run that `wanted` lies in.
    pub(super) fn free_run_around(&self, wanted: BlockRange) -> Result<BlockRange, Misuse> {
        let run = self.table.run_at(wanted.start().get());
        match run {
            Some(run) if run.kind == Kind::Free && wanted.end() <= run.range.end() => Ok(run.range),
            Some(run) if run.kind == Kind::Free => Err(Misuse::Occupied(run.range.end())),
            _ => Err(Misuse::Occupied(wanted.start())),
        }
    }

    // Marks.

    pub(super) fn has_mark(&self, mark: usize, head: u32) -> bool {
        self.marked[mark] > 0 && self.marks.has(mark, head)
    }

    pub(super) fn mark(&mut self, mark: usize, head: u32) {
        self.marks.set(mark, head);
        self.marked[mark] += 1;
    }

    pub(super) fn unmark(&mut self, mark: usize, head: u32) {
        self.marks.clear(mark, head);
        self.marked[mark] -= 1;
    }
}

/// A place for an extent: where it begins, and the free run that it is cut from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub run: BlockRange,
    pub at: u32,
}

impl Place {
    fn at_end(run: BlockRange, k: u32) -> Self {
        Self { run, at: run.end().get() - k }
    }

    /// From the start of what a search found usable, which may be the rest of a longer run.
    pub fn in_run_from<O: Os>(usable: BlockRange, table: &Table<O>) -> Self {
        let run = table.run_at(usable.start().get()).map_or(usable, |run| run.range);
        Self { run, at: usable.start().get() }
    }
}
