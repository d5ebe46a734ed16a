//! Plans beside the best that trying everything finds.

use bookend::movable::{Holds, Occupied, Snapshot};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::tests::{range, snapshot};
use super::*;

/// A small generator, so that runs are alike.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % u64::from(n)) as u32
    }
}

/// Blocks of which some are free, some hold objects, some do not move, and some are fixed; of `long` in ten
/// extents each is a long one.
fn any(random: &mut Random, long: u32) -> Snapshot {
    let blocks = 4 + random.below(20);
    let taken: Vec<_> = (0..blocks)
        .map(|_| {
            let bits = 1 + random.below(8);
            (random.below(3) > 0).then(|| 1 + random.below(1 << bits))
        })
        .collect();
    let mut snapshot = snapshot(&taken);
    for extent in &mut snapshot.movable {
        if random.below(10) == 0 {
            extent.holds = Holds::Stuck;
        } else if random.below(10) < long {
            *extent = long_at(extent.range.start(), 1 + random.below(4).min(blocks / 8));
        }
    }
    let pinned = random.below(4);
    let huge = blocks - random.below(4).min(blocks - pinned);
    let (mut at, mut free) = (pinned, Vec::new());
    snapshot.movable.retain(|extent| {
        let (start, end) = (extent.range.start().get(), extent.range.end().get());
        let keep = at <= start && end <= huge;
        if keep {
            free.extend(at..start);
            at = end;
        }
        keep
    });
    free.extend(at..huge);
    snapshot.pinned_end = Some(BlockId::new(pinned));
    snapshot.huge_start = (huge < blocks).then(|| BlockId::new(huge));
    let fixed: Vec<_> = free.into_iter().filter(|_| random.below(10) == 0).collect();
    let all = (0..pinned).chain(fixed).chain(huge..blocks);
    snapshot.fixed = all.map(|block| range(block, 1)).collect();
    snapshot
}

/// A number of blocks of one object.
fn long_at(start: BlockId, blocks: u32) -> Occupied {
    let range = BlockRange::new(start, Blocks::new(blocks));
    let live = range.len().bytes();
    Occupied { range, live, holds: Holds::Long, free_slices: 0, shares: (0, 0) }
}

/// The live bytes in a window, and whether they have room: in places of the blocks that are kept, or, block
/// by block, in free blocks outside. `None` where something in it does not move.
fn cost(snapshot: &Snapshot, window: BlockRange) -> Option<Bytes> {
    let movable = |extent: &&bookend::movable::Occupied| extent.range.overlaps(window);
    let blocked = snapshot.fixed.iter().any(|range| range.overlaps(window))
        || snapshot.movable.iter().filter(movable).any(|extent| extent.holds == Holds::Stuck);
    let live = snapshot.movable.iter().filter(movable).fold(Bytes::ZERO, |sum, e| sum + e.live);
    (!blocked).then_some(live)
}

/// The least that any window costs.
fn least(snapshot: &Snapshot, from: u32, k: u32) -> Option<Bytes> {
    let last = snapshot.capacity.get().checked_sub(k)?;
    (from..=last).filter_map(|start| cost(snapshot, range(start, k))).min()
}

/// Carries the steps out on paper: no step meets what it must not, and a run is free in the end.
fn assert_frees(before: &Snapshot, plan: &Plan, k: u32, at: Option<u32>) {
    let blocks = before.capacity.get();
    let mut taken = vec![false; blocks as usize];
    let all = before.fixed.iter().copied().chain(before.movable.iter().map(|e| e.range));
    all.for_each(|range| range.into_iter_blocks().for_each(|block| taken[block] = true));
    let mut held = before.movable.clone();
    let mut cost = Bytes::ZERO;
    for step in &plan.steps {
        let extent = match *step {
            Step::Empty(block) => BlockRange::new(block, Blocks::ONE),
            Step::Move { extent, .. } => extent,
        };
        let held = held.iter_mut().find(|held| held.range == extent).expect("an extent");
        assert!(held.holds != Holds::Stuck);
        cost = cost + held.live;
        extent.into_iter_blocks().for_each(|block| taken[block] = false);
        if let Step::Move { to, .. } = *step {
            held.range = BlockRange::new(to, extent.len());
            held.range.into_iter_blocks().for_each(|block| {
                assert!(!taken[block], "{plan}");
                taken[block] = true;
            });
        } else {
            held.range = BlockRange::new(BlockId::new(blocks), Blocks::ZERO);
        }
    }
    assert_eq!(cost, plan.cost, "{plan}");
    let free = |start: u32| (start..start + k).all(|block| !taken[block as usize]);
    let run = match at {
        Some(start) => free(start),
        None => (0..=blocks - k).any(free),
    };
    assert!(run, "no run of {k}: {plan}");
}

/// The most free blocks of any range above the pinned ones without something that does not move, and of
/// the one right below the huge ones.
fn most_free(snapshot: &Snapshot) -> (u32, u32) {
    let mut state = vec![Some(true); snapshot.capacity.as_usize()];
    let from = snapshot.pinned_end.unwrap().as_usize();
    for extent in &snapshot.movable {
        let state_of = (extent.holds != Holds::Stuck).then_some(false);
        extent.range.into_iter_blocks().for_each(|block| state[block] = state_of);
    }
    for range in &snapshot.fixed {
        range.into_iter_blocks().for_each(|block| state[block] = None);
    }
    let free = |segment: &[Option<bool>]| segment.iter().filter(|&&b| b == Some(true)).count();
    let end = snapshot.huge_start.unwrap_or(BlockId::new(snapshot.capacity.get())).as_usize();
    let most = state[from..].split(Option::is_none).map(free).max().unwrap_or(0);
    let top = state[from..end].rsplit(Option::is_none).map(free).next().unwrap_or(0);
    (most as u32, top as u32)
}

trait Each {
    fn into_iter_blocks(self) -> std::ops::Range<usize>;
}

impl Each for BlockRange {
    fn into_iter_blocks(self) -> std::ops::Range<usize> {
        self.start().as_usize()..self.end().as_usize()
    }
}

#[test]
fn a_run_costs_no_less_than_the_cheapest_window_and_frees_what_it_says() {
    let (mut random, mut planned, mut at_least) = (Random(42), 0, 0);
    for round in 0..6000 {
        let long = if round % 2 == 0 { 0 } else { 5 };
        let snapshot = any(&mut random, long);
        let k = 1 + random.below(6).min(snapshot.capacity.get() - 1);
        let from = snapshot.pinned_end.unwrap().get();
        let plan = plan(&snapshot, Target::FreeRun(Blocks::new(k)));
        match plan.shortfall {
            None => {
                assert_eq!(Some(plan.least), least(&snapshot, from, k), "round {round}: {plan}");
                assert!(plan.cost >= plan.least, "{plan}");
                assert_frees(&snapshot, &plan, k, None);
                // What fits nowhere costs more: other extents have to make way for it.
                if long == 0 {
                    planned += 1;
                    at_least += u32::from(plan.cost == plan.least);
                }
            }
            Some(Shortfall::TooFew { free }) => assert!(free < Blocks::new(k)),
            // A range with as many free blocks can be closed up, whatever else there is.
            Some(_) => assert!(most_free(&snapshot).0 < k, "{snapshot:?} {plan}"),
        }
    }
    assert!(planned > 1000 && at_least * 10 > planned * 9, "{at_least} of {planned}");
}

#[test]
fn room_above_the_pinned_blocks_is_made_where_they_end_or_not_at_all() {
    let (mut random, mut planned, mut at_least) = (Random(7), 0, 0);
    for round in 0..6000 {
        let snapshot = any(&mut random, round % 2 * 5);
        let k = 1 + random.below(4);
        let from = snapshot.pinned_end.unwrap().get();
        let window = (from + k <= snapshot.capacity.get()).then(|| range(from, k));
        let plan = plan(&snapshot, Target::PinnedRoom(Blocks::new(k)));
        let cost = window.and_then(|window| cost(&snapshot, window));
        if plan.shortfall.is_some() {
            assert!(plan.steps.is_empty());
            assert_ne!(cost, Some(Bytes::ZERO), "round {round}: {plan}");
            continue;
        }
        assert_eq!(Some(plan.least), cost, "round {round}: {plan}");
        assert!(plan.cost >= plan.least, "{plan}");
        assert_frees(&snapshot, &plan, k, Some(from));
        planned += 1;
        at_least += u32::from(plan.cost == plan.least);
    }
    assert!(planned > 1000 && at_least * 10 > planned * 9, "{at_least} of {planned}");
}

#[test]
fn room_below_the_huge_blocks_is_made_wherever_as_many_are_free() {
    let (mut random, mut planned, mut at_least) = (Random(99), 0, 0);
    for round in 0..6000 {
        let snapshot = any(&mut random, round % 2 * 5);
        let k = 1 + random.below(6);
        let end = snapshot.huge_start.unwrap_or(BlockId::new(snapshot.capacity.get())).get();
        let plan = plan(&snapshot, Target::HugeRoom(Blocks::new(k)));
        if plan.shortfall.is_some() {
            assert!(plan.steps.is_empty());
            assert!(most_free(&snapshot).1 < k, "round {round}: {snapshot:?} {plan}");
            continue;
        }
        assert_eq!(Some(plan.least), cost(&snapshot, range(end - k, k)), "round {round}: {plan}");
        assert!(plan.cost >= plan.least, "{plan}");
        assert_frees(&snapshot, &plan, k, Some(end - k));
        planned += 1;
        at_least += u32::from(plan.cost == plan.least);
    }
    assert!(planned > 1000 && at_least * 10 > planned * 8, "{at_least} of {planned}");
}
