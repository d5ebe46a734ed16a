//! Pools on a simulated machine whose calls fail.

use super::{FrameOrder, OrderOutcome, Pool, PoolBuilder, PoolError, Populate, Rung, Use};
use crate::os::Errno;
use crate::os::fake::{Call, Fails, FakeOs, FreeOrder, Outstanding, Transparent};
use crate::units::{BlockId, BlockRange, Blocks, Bytes, Node, PageSize};

const GIGANTIC: u32 = 512;

fn blocks(start: u32, len: u32) -> BlockRange {
    BlockRange::new(BlockId::new(start), Blocks::new(len))
}

fn builder(os: &FakeOs, count: u32) -> PoolBuilder<FakeOs> {
    PoolBuilder::with_os(os.clone()).capacity(Blocks::new(count).bytes())
}

fn on(pool: &Pool<FakeOs>, rung: Rung) -> u32 {
    pool.blocks().iter().filter(|&block| pool.rung(block) == Some(rung)).count() as u32
}

fn release(pool: &Pool<FakeOs>, range: BlockRange) -> Result<(), PoolError> {
    // SAFETY: the tests hold no reference to the memory.
    unsafe { pool.release(range) }
}

/// A machine with some huge pages of both sizes, and a pool that wants a little more.
struct Setting {
    name: &'static str,
    os: fn() -> FakeOs,
    build: fn(&FakeOs) -> Result<Pool<FakeOs>, PoolError>,
    /// How many calls of a kind are failed one after the other; what comes later repeats.
    calls: u64,
}

fn shuffled() -> FakeOs {
    FakeOs::new().with_huge_pages(PageSize::MIB2, 24, FreeOrder::Shuffled(3))
}

fn ladder(os: &FakeOs, count: u32) -> PoolBuilder<FakeOs> {
    builder(os, count).rung(Rung::Huge, Use::Allowed).threads(1)
}

const SETTINGS: [Setting; 7] = [
    Setting { name: "private", os: shuffled, build: |os| ladder(os, 40).build(), calls: 40 },
    Setting {
        name: "bound to a node",
        os: shuffled,
        build: |os| ladder(os, 40).node(Node::new(0)).build(),
        calls: 20,
    },
    Setting {
        name: "huge pages required",
        os: shuffled,
        build: |os| ladder(os, 24).rung(Rung::Huge, Use::Required).build(),
        calls: 20,
    },
    Setting {
        name: "shareable",
        os: shuffled,
        build: |os| ladder(os, 40).shareable(true).build(),
        calls: 40,
    },
    Setting {
        name: "in frame order, with extra pages",
        os: shuffled,
        build: |os| {
            let extra = Blocks::new(8).bytes();
            ladder(os, 16).frame_order(FrameOrder::Ascending { extra }).build()
        },
        calls: 40,
    },
    Setting {
        name: "gigantic",
        os: || shuffled().with_huge_pages(PageSize::GIB1, 1, FreeOrder::Ascending),
        build: |os| ladder(os, GIGANTIC + 3).rung(Rung::Gigantic, Use::Allowed).build(),
        calls: 6,
    },
    Setting {
        name: "transparent pages by collapsing",
        os: || FakeOs::new().with_transparent(Transparent::CollapseOnly(5)),
        build: |os| builder(os, 20).threads(1).build(),
        calls: 20,
    },
];

/// Fails every call of a setting in turn, once or from then on, and looks at what is left.
fn fail_every_call(setting: &Setting, fails: Fails, errno: Errno) {
    for call in Call::ALL {
        for nth in 1..=setting.calls {
            let os = (setting.os)();
            os.fail(call, nth, errno, fails);
            let built = (setting.build)(&os);
            if os.injected() == 0 {
                break; // there were fewer calls of this kind
            }
            let what = format!("{}: {call:?} {nth} {fails:?}: {errno}", setting.name);
            if let Ok(pool) = &built {
                os.heal();
                pool.validate();
                assert!(pool.blocks().iter().all(|block| pool.is_present(block)), "{what}");
                os.validate();
            }
            drop(built);
            let left = os.outstanding();
            // What cannot be unmapped stays; everything else is given back.
            if call != Call::Unmap {
                assert_eq!(left, Outstanding::default(), "{what}");
            }
        }
    }
}

#[test]
fn whatever_call_fails_once_everything_is_given_back() {
    for setting in &SETTINGS {
        for errno in [Errno::NOMEM, Errno::FAULT] {
            fail_every_call(setting, Fails::Once, errno);
        }
    }
}

#[test]
fn whatever_call_fails_from_then_on_everything_is_given_back() {
    for setting in &SETTINGS {
        fail_every_call(setting, Fails::FromThenOn, Errno::NOMEM);
    }
}

#[test]
fn a_populate_that_fails_changes_nothing_and_can_be_repeated() {
    for (call, shareable) in
        [(Call::PopulateWrite, false), (Call::PopulateWrite, true), (Call::Map, false)]
    {
        for nth in 1.. {
            let os = shuffled();
            let pool = ladder(&os, 40)
                .populate(Populate::OnDemand)
                .rung(Rung::Transparent, Use::Forbidden)
                .shareable(shareable)
                .build()
                .unwrap();
            pool.populate(blocks(10, 2)).unwrap();
            os.fail(call, nth, Errno::NOMEM, Fails::FromThenOn);
            let result = pool.populate(blocks(4, 30));
            let injected = os.injected();
            os.heal();
            pool.validate();
            os.validate();
            let present = pool.blocks().iter().filter(|&block| pool.is_present(block)).count();
            assert_eq!(present, if result.is_ok() { 30 } else { 2 }, "{call:?} {nth}: {result:?}");
            let pages = os.outstanding();
            let held = pages.huge_pages + pages.ordinary_pages.div_ceil(512);
            assert_eq!(held, present as u64, "pages behind absent blocks");
            pool.populate(pool.blocks()).unwrap();
            assert_eq!(on(&pool, Rung::Huge) + on(&pool, Rung::Base), 40);
            drop(pool);
            assert_eq!(os.outstanding(), Outstanding::default());
            if injected == 0 {
                break;
            }
        }
    }
}

#[test]
fn a_release_that_fails_leaves_the_blocks_present() {
    for shareable in [false, true] {
        let os = shuffled();
        let pool = ladder(&os, 12).shareable(shareable).build().unwrap();
        let call = if shareable { Call::Punch } else { Call::DontNeed };
        os.fail(call, 1, Errno::NOMEM, Fails::Once);
        let failed = release(&pool, blocks(2, 4)).unwrap_err();
        assert!(matches!(failed, PoolError::Release { .. }), "{failed}");
        assert!(pool.is_present(BlockId::new(3)));
        release(&pool, blocks(2, 4)).unwrap();
        assert_eq!(os.free_huge_pages(PageSize::MIB2), 16);
        pool.validate();
    }
}

#[test]
fn scarce_pages_are_used_to_the_last_and_stand_at_the_high_end() {
    for threads in [1, 2, 3] {
        for have in [0, 1, 15, 16, 17, 99] {
            let os = FakeOs::new().with_huge_pages(PageSize::MIB2, have, FreeOrder::Ascending);
            let pool =
                builder(&os, 100).rung(Rung::Huge, Use::Allowed).threads(threads).build().unwrap();
            let low = blocks(0, 100 - have as u32);
            assert_eq!(u64::from(on(&pool, Rung::Huge)), have);
            assert!(low.iter().all(|block| pool.rung(block) == Some(Rung::Transparent)));
            let refused = pool.report().refused;
            assert!(refused.iter().any(|r| r.rung == Rung::Huge && r.blocks == 100 - have));
            pool.validate();
        }
    }
}

#[test]
fn a_limit_of_the_cgroup_is_a_step_down() {
    let os = shuffled().with_limit(PageSize::MIB2, 10);
    let pool = ladder(&os, 20).build().unwrap();
    assert_eq!((on(&pool, Rung::Huge), on(&pool, Rung::Transparent)), (10, 10));
    let required = ladder(&os, 20).rung(Rung::Huge, Use::Required).build();
    assert!(matches!(required, Err(PoolError::NoMemory { rung: Rung::Huge, .. })));
}

#[test]
fn pages_that_another_process_takes_in_the_middle_are_stepped_down_for() {
    for taken in [0, 5, 16, 23] {
        let os = shuffled();
        os.steal_after(PageSize::MIB2, taken, 24);
        let pool = ladder(&os, 24).build().unwrap();
        assert!(u64::from(on(&pool, Rung::Huge)) >= taken.saturating_sub(16), "{taken}");
        assert!(pool.blocks().iter().all(|block| pool.is_present(block)));
        pool.validate();
        os.validate();
    }
}

#[test]
fn a_page_size_that_the_kernel_does_not_know_is_a_refusal() {
    let os = shuffled().without_page_size(PageSize::GIB1);
    let pool = ladder(&os, GIGANTIC).rung(Rung::Gigantic, Use::Allowed).build().unwrap();
    assert_eq!(on(&pool, Rung::Gigantic), 0);
    assert!(pool.report().refused.iter().any(|r| r.rung == Rung::Gigantic));
    let os = shuffled().without_page_size(PageSize::MIB2);
    let required = ladder(&os, 4).rung(Rung::Huge, Use::Required).build();
    assert!(matches!(required, Err(PoolError::Map { rung: Rung::Huge, .. })), "{required:?}");
}

#[test]
fn transparent_pages_come_by_faults_by_collapsing_or_not_at_all() {
    for (transparent, expected) in [
        (Transparent::Blocks(u64::MAX), 20),
        (Transparent::Blocks(16), 16),
        (Transparent::CollapseOnly(u64::MAX), 20),
        (Transparent::CollapseOnly(5), 5),
        (Transparent::Blocks(0), 0),
        (Transparent::Absent, 0),
    ] {
        let os = FakeOs::new().with_transparent(transparent);
        let pool = builder(&os, 20).threads(1).build().unwrap();
        assert_eq!(on(&pool, Rung::Transparent), expected, "{transparent:?}");
        assert_eq!(on(&pool, Rung::Base), 20 - expected);
        drop(pool);
        let os = FakeOs::new().with_transparent(transparent);
        let all = builder(&os, 20).rung(Rung::Transparent, Use::Required).build();
        assert_eq!(all.is_ok(), expected == 20, "{transparent:?}");
        drop(all);
        assert_eq!(os.outstanding(), Outstanding::default());
    }
}

fn order_of(pool: &Pool<FakeOs>) -> (u64, u64, u64) {
    match pool.report().ordered {
        Some(OrderOutcome::Ordered { runs_before, runs_after, ideal, .. }) => {
            (runs_before, runs_after, ideal)
        }
        other => panic!("{other:?}"),
    }
}

fn ordered(os: &FakeOs, count: u32, extra: u32) -> Pool<FakeOs> {
    let extra = Blocks::new(extra).bytes();
    ladder(os, count).frame_order(FrameOrder::Ascending { extra }).build().unwrap()
}

#[test]
fn shuffled_frames_come_to_stand_in_order() {
    for order in [FreeOrder::Ascending, FreeOrder::Descending, FreeOrder::Shuffled(1)] {
        for shareable in [false, true] {
            let os = FakeOs::new().with_huge_pages(PageSize::MIB2, 64, order);
            let pool = ladder(&os, 64)
                .shareable(shareable)
                .frame_order(FrameOrder::Ascending { extra: Bytes::ZERO })
                .build()
                .unwrap();
            let (_, after, ideal) = order_of(&pool);
            assert_eq!((after, ideal), (1, 1), "{order:?}, shareable: {shareable}");
            pool.validate();
        }
    }
}

#[test]
fn frames_of_several_nodes_are_ordered_node_by_node() {
    let os = FakeOs::new()
        .with_huge_pages_on(Node::new(0), PageSize::MIB2, 20, FreeOrder::Shuffled(7))
        .with_huge_pages_on(Node::new(1), PageSize::MIB2, 20, FreeOrder::Shuffled(8));
    let pool = ordered(&os, 32, 0);
    let (before, after, ideal) = order_of(&pool);
    assert!(before > after);
    assert_eq!(after, ideal);
}

#[test]
fn gigantic_pages_are_ordered_too() {
    let os = FakeOs::new().with_huge_pages(PageSize::GIB1, 6, FreeOrder::Ascending);
    let pool = builder(&os, 6 * GIGANTIC)
        .rung(Rung::Gigantic, Use::Required)
        .threads(1) // several fault pages in an order of their own
        .frame_order(FrameOrder::Ascending { extra: Bytes::ZERO })
        .build()
        .unwrap();
    assert_eq!(order_of(&pool), (6, 1, 1));
}

#[test]
fn another_process_that_takes_pages_while_they_are_ordered_is_survived() {
    for (call, nth) in (1..40).map(|nth| (Call::DontNeed, nth)).chain([(Call::PopulateWrite, 9)]) {
        let os = shuffled();
        os.steal_at(call, nth, PageSize::MIB2, 3);
        let pool = ordered(&os, 20, 0);
        pool.validate();
        os.validate();
        assert!(pool.blocks().iter().all(|block| pool.is_present(block)), "{call:?} {nth}");
        let (_, after, ideal) = order_of(&pool);
        assert_eq!(after, ideal, "{call:?} {nth}");
    }
}

#[test]
fn without_privilege_the_order_is_left_and_said() {
    let os = shuffled().with_privilege(false);
    let pool = ordered(&os, 20, 4);
    assert_eq!(pool.report().ordered, Some(OrderOutcome::Unreadable(Errno::PERM)));
    assert_eq!(on(&pool, Rung::Huge), 20);
    assert_eq!(os.free_huge_pages(PageSize::MIB2), 4);
    assert!(matches!(pool.report().runs, Err(PoolError::Frames { cause: Errno::PERM })));
}

#[test]
fn progress_ends_at_everything() {
    let os = shuffled();
    let shown = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let seen = shown.clone();
    let pool = ladder(&os, 40).progress(move |p| seen.borrow_mut().push(p)).build().unwrap();
    let last = *shown.borrow().last().unwrap();
    assert_eq!((last.done, last.total), (pool.capacity().bytes(), pool.capacity().bytes()));
}
