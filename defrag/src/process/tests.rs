//! Plans of made-up snapshots, and their execution on real memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bookend::movable::{
    BinShape, Budget, Holds, MovableBytes, MovableHeap, Obstacle, Occupied, Share, Snapshot,
};
use bookend::placement::{Arena, Class};
use bookend::pool::{Pool, Populate, Rung, Use};
use bookend::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};

use super::*;

pub(super) fn range(start: u32, len: u32) -> BlockRange {
    BlockRange::new(BlockId::new(start), Blocks::new(len))
}

/// Blocks of one kind of places (256 of 8 KiB in a block), with so many taken in each; block i is the
/// ith. `None` is a free block.
pub(super) fn snapshot(taken: &[Option<u32>]) -> Snapshot {
    let shape = BinShape { place: Bytes::kib(8), places: 4, slices: 1 };
    let mut snapshot = Snapshot {
        capacity: Blocks::new(taken.len() as u32),
        bins: vec![shape],
        ..Snapshot::default()
    };
    for (at, taken) in taken.iter().enumerate().filter_map(|(at, &taken)| Some((at, taken?))) {
        let slabs = taken.div_ceil(4);
        snapshot.shares.push(Share { bin: 0, taken, free: slabs * 4 - taken });
        snapshot.movable.push(Occupied {
            range: range(at as u32, 1),
            live: Bytes::kib(8 * u64::from(taken)),
            holds: Holds::Slabs,
            free_slices: 64 - slabs as u8,
            shares: (snapshot.shares.len() as u32 - 1, 1),
        });
    }
    snapshot
}

#[test]
fn the_cheapest_blocks_are_emptied_and_no_more_than_have_room() {
    let snapshot = snapshot(&[Some(200), Some(10), Some(40), None, Some(30), Some(256)]);
    let plan = plan(&snapshot, Target::FreeBlocks(Blocks::new(2)));
    assert_eq!(plan.steps, [Step::Empty(BlockId::new(1)), Step::Empty(BlockId::new(4))]);
    assert_eq!((plan.cost, plan.least, plan.shortfall), (Bytes::kib(320), Bytes::kib(320), None));
    let text = plan.to_string();
    assert!(text.contains("empty 2 blocks") && text.contains("320 KiB"), "{text}");

    // 56 places are free in the fullest block that has any: 10 and 40 fit, 30 more do not.
    let most = super::plan(&snapshot, Target::Release);
    assert_eq!((most.steps.len(), most.shortfall), (2, None));
    let three = super::plan(&snapshot, Target::FreeBlocks(Blocks::new(4)));
    assert_eq!(three.shortfall, Some(Shortfall::NoRoom { short: Blocks::new(2) }));
    assert!(three.to_string().contains("2 blocks fewer"), "{three}");
}

#[test]
fn no_choice_of_blocks_is_cheaper_by_brute_force() {
    let mut seed = 12345u32;
    for _ in 0..200 {
        let taken: Vec<_> = (0..8)
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                Some(seed >> 24).map(|taken| taken + 1)
            })
            .collect();
        let snapshot = snapshot(&taken);
        for wanted in 1..8 {
            let plan = plan(&snapshot, Target::FreeBlocks(Blocks::new(wanted)));
            let places = |set: u32| -> (u32, u32) {
                (0..8).fold((0, 0), |(live, room), at| match taken[at] {
                    Some(n) if set >> at & 1 == 1 => (live + n, room),
                    Some(n) => (live, room + 256 - n),
                    None => (live, room),
                })
            };
            let feasible = (0u32..256).filter(|set| set.count_ones() == wanted);
            let least =
                feasible.map(places).filter(|(live, room)| live <= room).map(|(l, _)| l).min();
            match least {
                Some(least) => {
                    assert_eq!(
                        (plan.cost, plan.shortfall),
                        (Bytes::kib(8 * u64::from(least)), None)
                    );
                }
                None => assert!(plan.shortfall.is_some()),
            }
        }
    }
}

#[test]
fn the_cheapest_window_between_what_does_not_move_is_cleared() {
    let mut snapshot = snapshot(&[Some(9), Some(1), Some(2), None, Some(3), None, None, Some(50)]);
    snapshot.movable[1].holds = Holds::Stuck;
    let plan = plan(&snapshot, Target::FreeRun(Blocks::new(4)));
    assert_eq!(plan.steps, [Step::Empty(BlockId::new(4))]);
    assert_eq!((plan.cost, plan.least), (Bytes::kib(24), Bytes::kib(24)));

    snapshot.fixed.push(range(5, 1));
    let plan = super::plan(&snapshot, Target::FreeRun(Blocks::new(4)));
    assert_eq!(plan.shortfall, Some(Shortfall::TooFew { free: Blocks::new(2) }));
    let plan = super::plan(&snapshot, Target::FreeRun(Blocks::new(2)));
    assert_eq!(plan.steps, [Step::Empty(BlockId::new(2))], "{plan}");
}

#[test]
fn long_extents_go_whole_to_free_blocks_outside_the_window() {
    let mut snapshot = snapshot(&[None, None, None, None, None, None, None, None, None]);
    let long = |start, len| Occupied {
        range: range(start, len),
        live: range(start, len).len().bytes(),
        holds: Holds::Long,
        free_slices: 0,
        shares: (0, 0),
    };
    snapshot.movable = vec![long(2, 2), long(6, 2)];
    let plan = plan(&snapshot, Target::FreeRun(Blocks::new(5)));
    let moved = Step::Move { extent: range(2, 2), to: BlockId::new(0) };
    let other = Step::Move { extent: range(6, 2), to: BlockId::new(0) };
    assert!(plan.steps == [moved] || plan.steps == [other], "{:?}", plan.steps);
    let plan = super::plan(&snapshot, Target::PinnedRoom(Blocks::new(3)));
    let up = Step::Move { extent: range(2, 2), to: BlockId::new(4) };
    assert_eq!(plan.steps, [up]);
}

fn heap(blocks: u32) -> MovableHeap {
    let pool = Pool::builder()
        .capacity(Blocks::new(blocks).bytes())
        .rung(Rung::Gigantic, Use::Forbidden)
        .rung(Rung::Huge, Use::Forbidden)
        .rung(Rung::Transparent, Use::Forbidden)
        .populate(Populate::OnDemand);
    MovableHeap::new(Arc::new(Arena::new(pool.build().unwrap()).unwrap())).unwrap()
}

/// Objects of several sizes in some 20 blocks, of which every fifth is left.
fn aged(heap: &MovableHeap) -> Vec<(usize, MovableBytes)> {
    let sizes = [40, 240, 1000, 8000, 60_000];
    let mut objects: Vec<_> = (0..4000usize)
        .map(|n| (n, heap.insert_bytes(&vec![n as u8; sizes[n * 7 % 5]]).unwrap()))
        .collect();
    objects.retain(|(n, _)| n / 5 % 5 == 0);
    objects
}

fn assert_whole(heap: &MovableHeap, objects: &[(usize, MovableBytes)]) {
    let session = heap.session();
    for (n, object) in objects {
        assert!(session.bytes(object).iter().all(|&byte| byte == *n as u8), "object {n}");
    }
}

/// Tests beside this one have sessions too, which are short.
fn patient() -> Budget {
    Budget::UNLIMITED.patience(Duration::from_secs(2))
}

#[test]
fn a_plan_frees_the_blocks_it_says_at_the_cost_it_says() {
    let heap = heap(64);
    let objects = aged(&heap);
    let before = heap.snapshot();
    let plan = plan(&before, Target::FreeBlocks(Blocks::new(8)));
    assert_eq!((plan.steps.len(), plan.shortfall), (8, None), "{plan}");
    let mut execution = Execution::begin(&heap, &plan);
    assert!(execution.run(&mut patient()).unwrap());
    let outcome = execution.finish();
    assert_eq!((outcome.completed, outcome.hindered), (8, 0), "{outcome:?}");
    assert_eq!(outcome.bytes, plan.cost);
    assert!(plan.cost.get() * 10 <= plan.least.get() * 11, "{plan}");
    assert_eq!(heap.snapshot().free_blocks(), before.free_blocks() + Blocks::new(8));
    heap.validate();
    assert_whole(&heap, &objects);
}

#[test]
fn an_execution_goes_on_where_its_budget_ended_and_can_be_left() {
    let heap = heap(64);
    let objects = aged(&heap);
    let plan = plan(&heap.snapshot(), Target::Release);
    let mut execution = Execution::begin(&heap, &plan);
    let mut runs = 0;
    while !execution.run(&mut patient().bytes(Bytes::kib(256))).unwrap() {
        runs += 1;
        assert_whole(&heap, &objects);
    }
    assert!(runs > 2, "{plan}");
    assert!(execution.finish().completed > 8);
    heap.validate();

    let plan = super::plan(&heap.snapshot(), Target::FreeBlocks(Blocks::ONE));
    let mut left = Execution::begin(&heap, &plan);
    left.run(&mut patient().bytes(Bytes::kib(16))).unwrap();
    drop(left);
    heap.validate();
    assert_whole(&heap, &objects);
}

#[test]
fn pins_hinder_a_step_and_not_the_others() {
    let heap = heap(64);
    let objects = aged(&heap);
    let plan = plan(&heap.snapshot(), Target::FreeBlocks(Blocks::new(4)));
    let Step::Empty(first) = plan.steps[0] else { panic!("{plan:?}") };
    let at = |object: &MovableBytes| {
        let pin = heap.pin_bytes(object).unwrap();
        heap.arena().pool().locate(pin.as_ptr().cast().as_ptr())
    };
    let (_, pinned) = objects.iter().find(|(_, object)| at(object) == Some(first)).unwrap();
    let pin = heap.pin_bytes(pinned).unwrap();
    let mut execution = Execution::begin(&heap, &plan);
    assert!(execution.run(&mut patient()).unwrap());
    let outcome = execution.finish();
    assert_eq!((outcome.completed, outcome.hindered), (3, 1));
    assert_eq!(outcome.obstacle, Some(Obstacle::Pinned));
    drop(pin);
    heap.validate();
    assert_whole(&heap, &objects);
}

#[test]
fn a_huge_extent_that_does_not_fit_gets_room_at_the_least_cost() {
    let heap = heap(32);
    let objects = aged(&heap);
    assert!(heap.arena().allocate(Class::Huge, Blocks::new(16)).is_err());
    let least = plan(&heap.snapshot(), Target::FreeRun(Blocks::new(16))).least;
    let mut budget = patient().bytes(Bytes::gib(1));
    let extent = make_room(&heap, Class::Huge, Blocks::new(16), &mut budget).unwrap();
    assert_eq!(extent.len(), 16 * BLOCK_BYTES);
    let moved = Bytes::gib(1) - budget.left();
    assert!(moved.get() <= least.get() * 11 / 10, "{moved} beside {least}");
    heap.validate();
    assert_whole(&heap, &objects);
}

#[test]
fn a_background_thread_frees_blocks_and_ends_when_told() {
    let heap = heap(64);
    let objects = aged(&heap);
    let before = heap.snapshot().free_blocks();
    let duty = Duty { share: 0.5, rest: Duration::from_millis(5), ..Duty::default() };
    let background = Background::start(heap.clone(), duty).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while heap.snapshot().free_blocks() < before + Blocks::new(8) {
        assert!(Instant::now() < deadline, "{:?}", background.done());
        assert_whole(&heap, &objects);
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(background);
    heap.validate();
    assert_whole(&heap, &objects);
}
