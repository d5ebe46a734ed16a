//! A naive placement, one cell a block, and a twin that does everything in both and compares.
//!
//! The property tests and the fuzz target share it; it uses the public interface only. Its parent
//! module has to import what is named in the next lines.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{BlockId, BlockRange, Blocks, Class, Move, Moved, Os, Placement, Refusal};

/// What can be done to a placement. Numbers choose among what is there, modulo its count, so that
/// every action means something in every state.
#[derive(Clone, Copy, Debug)]
pub enum Action {
    Allocate(Class, u8),
    /// With a mover that refuses where the pattern's bit for the extent's address is set.
    AllocateMoving(Class, u8, u8),
    Free(u8),
    /// Extent, first block of the part, length of the part.
    Trim(u8, u8, u8),
    Split(u8, u8),
    Grow(u8, u8),
    /// Extent and where to.
    BeginMove(u8, u8),
    /// The next move of the clearing that a request is answered with.
    BeginStep(Class, u8),
    /// Move and what becomes of it.
    EndMove(u8, u8),
    Unstick(u8),
    SetGap(u8),
    /// Frees a range that need not be an extent.
    FreeAnything(u8, u8),
}

impl Action {
    /// Bytes to encode an action.
    pub const LEN: usize = 4;

    /// Every four bytes are an action.
    pub fn decode([op, a, b, c]: [u8; Self::LEN]) -> Self {
        let class = |n: u8| Class::ALL[usize::from(n) % 3];
        // Long extents are rarer than short ones.
        let len = |n: u8| if n >= 224 { n - 160 } else { n % 12 };
        match op % 24 {
            0..=5 => Self::Allocate(class(a), len(b)),
            6..=8 => Self::AllocateMoving(class(a), len(b), if c < 128 { 0 } else { c }),
            9..=13 => Self::Free(a),
            14 => Self::Trim(a, b, c),
            15 => Self::Split(a, b),
            16 => Self::Grow(a, len(b)),
            17 => Self::BeginMove(a, b),
            18 => Self::BeginStep(class(a), len(b)),
            19 | 20 => Self::EndMove(a, b),
            21 => Self::Unstick(a),
            22 => Self::SetGap(a % 32),
            _ => Self::FreeAnything(a, b),
        }
    }
}

/// A block that is not free.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Cell {
    class: Class,
    /// The first block of its extent.
    head: u32,
    stuck: bool,
    moving: bool,
}

impl Cell {
    fn can_move(&self) -> bool {
        self.class == Class::Movable && !self.stuck && !self.moving
    }
}

/// The naive placement: what the policy says, by looking at every block.
struct Model {
    cells: Vec<Option<Cell>>,
    gap: usize,
}

impl Model {
    fn len(&self) -> usize {
        self.cells.len()
    }

    fn last_of(&self, class: Class) -> Option<usize> {
        self.cells.iter().rposition(|cell| cell.is_some_and(|cell| cell.class == class))
    }

    fn pinned_end(&self) -> usize {
        self.last_of(Class::Pinned).map_or(0, |last| last + 1)
    }

    fn huge_start(&self) -> usize {
        let first = |cell: &Option<Cell>| cell.is_some_and(|cell| cell.class == Class::Huge);
        self.cells.iter().position(first).unwrap_or(self.len())
    }

    fn is_free(&self, at: usize, k: usize) -> bool {
        self.cells.get(at..at + k).is_some_and(|cells| cells.iter().all(Option::is_none))
    }

    fn free(&self, blocks: core::ops::Range<usize>) -> usize {
        blocks.filter(|&at| self.cells[at].is_none()).count()
    }

    fn extents(&self) -> Vec<(Cell, usize, usize)> {
        let mut extents: Vec<(Cell, usize, usize)> = Vec::new();
        for (at, cell) in self.cells.iter().enumerate() {
            let Some(cell) = *cell else { continue };
            match extents.last_mut() {
                Some(last) if last.0.head == cell.head => last.2 += 1,
                _ => extents.push((cell, at, 1)),
            }
        }
        extents
    }

    fn fill(&mut self, at: usize, k: usize, class: Class) {
        assert!(self.is_free(at, k), "{k} blocks at {at} are not free");
        let cell = Cell { class, head: at as u32, stuck: false, moving: false };
        self.cells[at..at + k].fill(Some(cell));
    }

    /// Blocks of movable extents with a block in `zone` that can move.
    fn displaced(&self, zone: core::ops::Range<usize>) -> usize {
        let overlaps = |at: usize, k: usize| at < zone.end && zone.start < at + k;
        let extents = self.extents().into_iter();
        extents.filter(|e| e.0.can_move() && overlaps(e.1, e.2)).map(|e| e.2).sum()
    }

    fn movable_place(&self, k: usize) -> Option<usize> {
        let from = (self.pinned_end() + self.gap).min(self.len());
        let low = (from..self.len()).find(|&at| self.is_free(at, k));
        low.or_else(|| (self.pinned_end()..from).rev().find(|&at| self.is_free(at, k)))
    }

    /// The window at or above the pinned end that pinned blocks have to go to, and whether huge
    /// blocks leave it to them.
    fn pinned_window(&self, k: usize) -> Option<usize> {
        let stuck = |at: usize| self.cells[at].is_some_and(|cell| cell.stuck);
        let clear = |at: &usize| (*at..at + k).all(|at| at >= self.len() || !stuck(at));
        let at = (self.pinned_end()..=self.len()).find(clear)?;
        (at + k <= self.huge_start()).then_some(at)
    }

    /// The segments above the pinned end: their blocks are free or of extents that can move.
    fn segments(&self) -> Vec<core::ops::Range<usize>> {
        let mut segments = Vec::new();
        let end = self.pinned_end();
        let mut start = end;
        for at in end..=self.len() {
            if at == self.len() || self.cells[at].is_some_and(|cell| !cell.can_move()) {
                segments.push(start..at);
                start = at + 1;
            }
        }
        segments
    }

    /// The highest of the windows that displace the fewest blocks, in segments with `k` free.
    fn cheapest_window(&self, k: usize) -> Option<(usize, usize)> {
        let segments = self.segments().into_iter().filter(|s| self.free(s.clone()) >= k);
        let windows = segments.flat_map(|s| s.start..=s.end - k);
        windows.map(|at| (self.displaced(at..at + k), at)).min_by_key(|&(cost, at)| (cost, !at))
    }
}

/// A placement and its model, which have to agree after every step.
pub struct Twin<O: Os> {
    placement: Placement<O>,
    model: Model,
    moves: Vec<Move>,
}

fn range(at: usize, k: usize) -> BlockRange {
    BlockRange::new(BlockId::new(at as u32), Blocks::new(k as u32))
}

fn bounds(range: BlockRange) -> core::ops::Range<usize> {
    range.start().as_usize()..range.end().as_usize()
}

impl<O: Os> Twin<O> {
    /// Takes a new placement.
    pub fn new(placement: Placement<O>) -> Self {
        let capacity = placement.capacity();
        let gap = Placement::<O>::default_gap(capacity).as_usize();
        let model = Model { cells: vec![None; capacity.as_usize()], gap };
        let twin = Self { placement, model, moves: Vec::new() };
        twin.compare();
        twin
    }

    /// Does an action in both, and compares.
    pub fn act(&mut self, action: Action) {
        match action {
            Action::Allocate(class, k) => self.allocate(class, k.into()),
            Action::AllocateMoving(class, k, refuse) => {
                self.allocate_moving(class, k.into(), refuse);
            }
            Action::Free(which) => self.with_extent(which, |twin, cell, at, k| {
                let freed = twin.placement.free(range(at, k));
                assert_eq!(freed.is_ok(), !cell.moving, "{freed:?}");
                if freed.is_ok() {
                    twin.model.cells[at..at + k].fill(None);
                    assert!(twin.placement.free(range(at, k)).is_err(), "freed twice");
                }
            }),
            Action::Trim(which, first, len) => self.trim(which, first.into(), len.into()),
            Action::Split(which, at) => self.split(which, at.into()),
            Action::Grow(which, by) => self.grow(which, by.into()),
            Action::BeginMove(which, to) => self.begin_move(which, to.into()),
            Action::BeginStep(class, k) => self.begin_step(class, k.into()),
            Action::EndMove(which, how) => self.end_move(which, how),
            Action::Unstick(which) => self.unstick(which),
            Action::SetGap(gap) => {
                self.placement.set_gap(Blocks::new(gap.into()));
                self.model.gap = gap.into();
            }
            Action::FreeAnything(at, k) => self.free_anything(at.into(), k.into()),
        }
        self.compare();
    }

    fn with_extent(&mut self, which: u8, act: impl FnOnce(&mut Self, Cell, usize, usize)) {
        let extents = self.model.extents();
        if !extents.is_empty() {
            let (cell, at, k) = extents[usize::from(which) % extents.len()];
            act(self, cell, at, k);
        }
    }

    fn allocate(&mut self, class: Class, k: usize) {
        let result = self.placement.allocate(class, Blocks::new(k as u32));
        if let Some(at) = self.judge(class, k, result) {
            self.model.fill(at, k, class);
        }
    }

    /// Checks an answer against the policy; returns where the extent is if it was granted.
    fn judge(&self, class: Class, k: usize, result: Result<BlockRange, Refusal>) -> Option<usize> {
        if k == 0 {
            assert_eq!(result, Err(Refusal::Zero));
            return None;
        }
        let (model, end) = (&self.model, self.model.pinned_end());
        let lowest = |from: usize, to: usize| (from..to).find(|&at| model.is_free(at, k));
        let place = match class {
            Class::Pinned => lowest(0, end).or_else(|| {
                let at = model.pinned_window(k)?;
                let moving = |cell: &Option<Cell>| cell.is_some_and(|cell| cell.moving);
                let busy = model.cells[end..at + k].iter().any(moving);
                (!busy && model.displaced(end..at + k) == 0).then_some(at)
            }),
            Class::Movable => model.movable_place(k),
            Class::Huge => (end..model.len()).rev().find(|&at| model.is_free(at, k)),
        };
        match (place, result) {
            (Some(at), result) => assert_eq!(result, Ok(range(at, k))),
            (None, Ok(granted)) => panic!("{granted:?} granted against the policy"),
            (None, Err(refusal)) if class == Class::Pinned => self.judge_evict(k, refusal),
            (None, Err(refusal)) => self.judge_compact(k, refusal),
        }
        place
    }

    fn judge_evict(&self, k: usize, refusal: Refusal) {
        let (model, end) = (&self.model, self.model.pinned_end());
        let Some(at) = model.pinned_window(k) else {
            assert!(matches!(refusal, Refusal::NoRoom { .. }), "{refusal:?}");
            return;
        };
        let displaced = model.displaced(end..at + k);
        match refusal {
            Refusal::Evict(clearing) => {
                assert_eq!(clearing.window(), range(at, k));
                assert_eq!(clearing.displaced().as_usize(), displaced);
                let named = self.placement.iter_displaced(&clearing);
                assert_eq!(named.map(|run| run.len().as_usize()).sum::<usize>(), displaced);
            }
            Refusal::Busy(_) => assert!(!self.moves.is_empty()),
            Refusal::NoRoom { .. } => assert!(!self.eviction_must_do(k)),
            other => panic!("{other:?} to a pinned request"),
        }
    }

    /// The theorem on eviction: nothing between the pinned end and the huge start is stuck or
    /// moving, and k blocks there are free.
    fn eviction_must_do(&self, k: usize) -> bool {
        let (start, end) = (self.model.pinned_end(), self.model.huge_start());
        let still = |cell: &Option<Cell>| cell.is_some_and(|cell| !cell.can_move());
        !self.model.cells[start..end].iter().any(still) && self.model.free(start..end) >= k
    }

    fn judge_compact(&self, k: usize, refusal: Refusal) {
        match (self.model.cheapest_window(k), refusal) {
            (Some((displaced, at)), Refusal::Compact(clearing)) => {
                assert_eq!(clearing.window(), range(at, k));
                assert_eq!(clearing.displaced().as_usize(), displaced);
            }
            (None, Refusal::NoRoom { free, wanted, .. }) => {
                assert!(self.moves.is_empty());
                assert_eq!(free.as_usize(), self.model.free(0..self.model.len()));
                assert_eq!(wanted.as_usize(), k);
            }
            (None, Refusal::Busy(_)) => assert!(!self.moves.is_empty()),
            other => panic!("{other:?} to a request for {k}"),
        }
    }

    fn allocate_moving(&mut self, class: Class, k: usize, refuse: u8) {
        let segments = self.model.segments();
        let must = refuse == 0
            && k > 0
            && match class {
                Class::Pinned => self.eviction_must_do(k),
                _ => segments.iter().any(|s| self.model.free(s.clone()) >= k),
            };
        let (model, mut made) = (&mut self.model, 0);
        let wanted = Blocks::new(k as u32);
        let result = self.placement.allocate_moving(class, wanted, |from, to| {
            made += 1;
            assert!(made <= 100_000, "moves without end");
            let from = bounds(from);
            let cell = model.cells[from.start].expect("what moves is an extent");
            assert!(cell.can_move());
            let up = to.start().as_usize() > from.start;
            assert_eq!(up, class == Class::Pinned, "evictions go up, compaction down");
            if refuse >> (from.start % 8) & 1 == 1 {
                model.cells[from].iter_mut().flatten().for_each(|cell| cell.stuck = true);
                return Moved::Refused;
            }
            let k = from.len();
            model.cells[from].fill(None);
            model.fill(to.start().as_usize(), k, Class::Movable);
            Moved::Done
        });
        assert!(!matches!(result, Err(Refusal::Evict(_) | Refusal::Compact(_))));
        assert!(result.is_ok() || !must, "{result:?} although moves make room");
        if let Some(at) = self.judge(class, k, result) {
            self.model.fill(at, k, class);
        }
    }

    fn trim(&mut self, which: u8, first: usize, len: usize) {
        self.with_extent(which, |twin, cell, at, k| {
            let (first, len) = (at + first % k, 1 + len % (k + 1));
            let inside = first + len <= at + k;
            let trimmed = twin.placement.trim(range(first, len));
            assert_eq!(trimmed.is_ok(), inside && !cell.moving, "{trimmed:?}");
            if trimmed.is_ok() {
                twin.model.cells[first..first + len].fill(None);
                let tail = &mut twin.model.cells[first + len..at + k];
                tail.iter_mut().flatten().for_each(|cell| cell.head = (first + len) as u32);
            }
        });
    }

    fn split(&mut self, which: u8, cut: usize) {
        self.with_extent(which, |twin, cell, at, k| {
            let cut = at + cut % k;
            let split = twin.placement.split(BlockId::new(cut as u32));
            assert_eq!(split.is_ok(), cut > at && !cell.moving, "{split:?}");
            if split.is_ok() {
                let tail = &mut twin.model.cells[cut..at + k];
                tail.iter_mut().flatten().for_each(|cell| cell.head = cut as u32);
            }
        });
    }

    fn grow(&mut self, which: u8, by: usize) {
        self.with_extent(which, |twin, cell, at, k| {
            let fits = twin.model.is_free(at + k, by);
            let grown = twin.placement.grow(range(at, k), Blocks::new(by as u32));
            assert_eq!(grown.is_ok(), !cell.moving && (fits || by == 0), "{grown:?}");
            if grown.is_ok() {
                assert_eq!(grown, Ok(range(at, k + by)));
                twin.model.cells[at + k..at + k + by].fill(Some(cell));
            }
        });
    }

    fn begin_move(&mut self, which: u8, to: usize) {
        self.with_extent(which, |twin, cell, at, k| {
            let mut others = twin.model.cells.clone();
            others[at..at + k].fill(None);
            let is_free = others.get(to..to + k).is_some_and(|c| c.iter().all(Option::is_none));
            let legal = cell.class == Class::Movable
                && !cell.moving
                && is_free
                && to != at
                && to >= twin.model.pinned_end();
            let begun = twin.placement.begin_move(range(at, k), BlockId::new(to as u32));
            assert_eq!(begun.is_ok(), legal, "{begun:?}");
            if let Ok(begun) = begun {
                twin.begun(begun);
            }
        });
    }

    fn begin_step(&mut self, class: Class, k: usize) {
        let result = self.placement.allocate(class, Blocks::new(k as u32));
        if let Some(at) = self.judge(class, k, result) {
            self.model.fill(at, k, class);
        }
        if let Err(Refusal::Evict(clearing) | Refusal::Compact(clearing)) = result {
            let begun = self.placement.next_move(&clearing);
            self.begun(begun.expect("a clearing has a first move"));
        }
    }

    /// While it is under way, a move is one moving extent over both ranges, or two.
    fn begun(&mut self, begun: Move) {
        let (from, to) = (bounds(begun.from()), bounds(begun.to()));
        let stuck = self.model.cells[from.start].is_some_and(|cell| cell.stuck);
        let slides = from.start < to.end && to.start < from.end;
        let head = |own: usize| if slides { from.start.min(to.start) } else { own } as u32;
        let cell =
            |own, stuck| Cell { class: Class::Movable, head: head(own), stuck, moving: true };
        self.model.cells[to.clone()].fill(Some(cell(to.start, stuck && slides)));
        self.model.cells[from.clone()].fill(Some(cell(from.start, stuck)));
        self.moves.push(begun);
    }

    fn end_move(&mut self, which: u8, how: u8) {
        if self.moves.is_empty() {
            return;
        }
        let ended = self.moves.swap_remove(usize::from(which) % self.moves.len());
        let (from, to) = (bounds(ended.from()), bounds(ended.to()));
        let was_stuck = self.model.cells[from.start].is_some_and(|cell| cell.stuck);
        let (kept, stuck, done) = match how % 3 {
            0 => (to.clone(), false, self.placement.moved(ended)),
            1 => (from.clone(), true, self.placement.refused(ended)),
            _ => (from.clone(), was_stuck, self.placement.cancelled(ended)),
        };
        assert_eq!(done, Ok(()));
        self.model.cells[from].fill(None);
        self.model.cells[to].fill(None);
        let head = kept.start as u32;
        let cell = Cell { class: Class::Movable, head, stuck, moving: false };
        self.model.cells[kept].fill(Some(cell));
    }

    fn unstick(&mut self, which: u8) {
        self.with_extent(which, |twin, cell, at, k| {
            let result = twin.placement.unstick(range(at, k));
            let in_order = at >= twin.model.pinned_end();
            let expected = !cell.stuck || in_order;
            assert_eq!(result.ok(), (!cell.moving).then_some(expected));
            if cell.stuck && !cell.moving && in_order {
                let cells = &mut twin.model.cells[at..at + k];
                cells.iter_mut().flatten().for_each(|cell| cell.stuck = false);
            }
        });
    }

    fn free_anything(&mut self, at: usize, k: usize) {
        let extents = self.model.extents();
        let exact = extents.iter().find(|e| (e.1, e.2) == (at, k) && !e.0.moving);
        let result = self.placement.free(range(at, k));
        assert_eq!(result.is_ok(), exact.is_some(), "{result:?}");
        if exact.is_some() {
            self.model.cells[at..at + k].fill(None);
        }
    }

    /// Everything that can be asked has to agree with the model.
    fn compare(&self) {
        let (placement, model) = (&self.placement, &self.model);
        assert_eq!(placement.validate(), Ok(()));
        let extents = model.extents();
        let seen = placement.iter_extents(BlockId::new(0)).map(|e| (e.class, bounds(e.range)));
        assert!(seen.eq(extents.iter().map(|&(cell, at, k)| (cell.class, at..at + k))));
        for class in Class::ALL {
            let own = || extents.iter().filter(|e| e.0.class == class);
            let blocks: usize = own().map(|e| e.2).sum();
            assert_eq!(placement.blocks(class).as_usize(), blocks);
            assert_eq!(placement.extents(class) as usize, own().count());
            let seen = placement.iter_class(class, BlockId::new(0)).map(bounds);
            assert!(seen.eq(own().map(|e| e.1..e.1 + e.2)));
        }
        let free: usize = placement.iter_free().map(|run| run.len().as_usize()).sum();
        assert_eq!(free, model.free(0..model.len()));
        let longest = placement.iter_free().map(BlockRange::len).max().unwrap_or(Blocks::ZERO);
        assert_eq!(placement.largest_free(), longest);
        assert_eq!(placement.pinned_end().as_usize(), model.pinned_end());
        assert_eq!(placement.huge_start().as_usize(), model.huge_start());
        let stuck = placement.iter_stuck().map(bounds);
        assert!(stuck.eq(extents.iter().filter(|e| e.0.stuck).map(|e| e.1..e.1 + e.2)));
        assert_eq!(placement.moves_under_way() as usize, self.moves.len());
        for (at, cell) in model.cells.iter().enumerate() {
            let block = BlockId::new(at as u32);
            assert_eq!(placement.class_of(block), cell.map(|cell| cell.class));
            assert_eq!(placement.is_moving(block), cell.is_some_and(|cell| cell.moving));
        }
    }
}

/// Runs encoded actions over a table of that many blocks; panics where the two disagree, with the
/// actions that led there.
pub fn run<O: Os>(placement: Placement<O>, encoded: &[u8]) {
    let mut twin = Twin::new(placement);
    let mut done = Vec::new();
    for bytes in encoded.as_chunks().0 {
        let action = Action::decode(*bytes);
        done.push(action);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| twin.act(action))) {
            eprintln!("{} blocks, after {done:?}", twin.placement.capacity().get());
            std::panic::resume_unwind(panic);
        }
    }
}
