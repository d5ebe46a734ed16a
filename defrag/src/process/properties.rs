//! Plans beside the best that trying everything finds.

use bookend::movable::{Holds, Snapshot};
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

/// Blocks of which some are free, some hold objects, some do not move, and some are fixed.
fn any(random: &mut Random) -> Snapshot {
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
        }
    }
    let pinned = random.below(4);
    snapshot.movable.retain(|extent| extent.range.start().get() >= pinned);
    snapshot.pinned_end = Some(BlockId::new(pinned));
    snapshot.fixed.extend((0..pinned).map(|block| range(block, 1)));
    for block in pinned..blocks {
        let free = taken[block as usize].is_none();
        if free && random.below(8) == 0 {
            snapshot.fixed.push(range(block, 1));
        }
    }
    snapshot
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
    let emptied = plan.steps.iter().filter(|step| matches!(step, Step::Empty(_))).count();
    for step in &plan.steps {
        let extent = match *step {
            Step::Empty(block) => BlockRange::new(block, Blocks::ONE),
            Step::Move { extent, to } => {
                let to = BlockRange::new(to, extent.len());
                to.into_iter_blocks().for_each(|block| {
                    assert!(!taken[block], "{plan}");
                    taken[block] = true;
                });
                extent
            }
        };
        let held = before.movable.iter().find(|held| held.range == extent).expect("an extent");
        assert!(held.holds != Holds::Stuck);
        extent.into_iter_blocks().for_each(|block| taken[block] = false);
    }
    let free = |start: u32| (start..start + k).all(|block| !taken[block as usize]);
    let run = match at {
        Some(start) => free(start),
        None => (0..=blocks - k).any(free),
    };
    assert!(run, "no run of {k} after {emptied} emptied: {plan}");
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
    for round in 0..3000 {
        let snapshot = any(&mut random);
        let k = 1 + random.below(6).min(snapshot.capacity.get() - 1);
        let from = snapshot.pinned_end.unwrap().get();
        let plan = plan(&snapshot, Target::FreeRun(Blocks::new(k)));
        match plan.shortfall {
            None => {
                assert_eq!(Some(plan.least), least(&snapshot, from, k), "round {round}: {plan}");
                assert!(plan.cost >= plan.least, "{plan}");
                assert_frees(&snapshot, &plan, k, None);
                planned += 1;
                at_least += u32::from(plan.cost == plan.least);
            }
            Some(Shortfall::TooFew { free }) => assert!(free < Blocks::new(k)),
            // A free run would have been found, whatever else there is.
            Some(_) => assert_ne!(least(&snapshot, from, k), Some(Bytes::ZERO), "{plan}"),
        }
    }
    assert!(planned > 1000 && at_least * 10 > planned * 9, "{at_least} of {planned}");
}

#[test]
fn room_above_the_pinned_blocks_is_made_where_they_end_or_not_at_all() {
    let (mut random, mut planned) = (Random(7), 0);
    for round in 0..3000 {
        let snapshot = any(&mut random);
        let k = 1 + random.below(4);
        let from = snapshot.pinned_end.unwrap().get();
        let window = (from + k <= snapshot.capacity.get()).then(|| range(from, k));
        let plan = plan(&snapshot, Target::PinnedRoom(Blocks::new(k)));
        if plan.shortfall.is_some() {
            assert!(plan.steps.is_empty());
            let cost = window.and_then(|window| cost(&snapshot, window));
            assert_ne!(cost, Some(Bytes::ZERO), "round {round}: {plan}");
            continue;
        }
        assert_eq!(Some(plan.cost), cost(&snapshot, window.unwrap()), "round {round}: {plan}");
        assert_frees(&snapshot, &plan, k, Some(from));
        planned += 1;
    }
    assert!(planned > 500, "{planned}");
}
