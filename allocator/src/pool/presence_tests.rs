//! What a pool says is present can be touched, whatever was given back, taken again or has failed
//! before: the fake maps hugetlb pages that are not present without access.
#![allow(unsafe_code)] // touches the memory of pools

use super::*;
use crate::os::Errno;
use crate::os::fake::{Call, Fails, FakeOs, FreeOrder, Outstanding, Transparent};
use crate::units::Node;

const MIB2: PageSize = PageSize::MIB2;

/// A builder of `blocks` blocks that may use hugetlb pages of 2 MiB and everything below.
fn builder(os: &FakeOs, blocks: u32) -> PoolBuilder<FakeOs> {
    PoolBuilder::with_os(os.clone())
        .capacity(Blocks::new(blocks).bytes())
        .rung(Rung::Huge, Use::Allowed)
}

/// How many blocks stand on each rung, base pages first.
fn by_rung(pool: &Pool<FakeOs>) -> [usize; 4] {
    let mut count = [0; 4];
    pool.blocks().iter().filter_map(|block| pool.rung(block)).for_each(|r| count[r as usize] += 1);
    count
}

/// Writes to every block that is present, and reads it back: the fake kills who touches a hugetlb
/// page that is not there.
fn touch(pool: &Pool<FakeOs>) {
    for block in pool.blocks().iter().filter(|&block| pool.is_present(block)) {
        let at = pool.address(block);
        // SAFETY: the block is present, and the test's own.
        unsafe {
            at.write(block.get() as u8);
            at.add(crate::units::BLOCK_BYTES - 1).write(1);
            assert_eq!(at.read(), block.get() as u8);
        }
    }
}

fn check(pool: &Pool<FakeOs>) {
    pool.validate();
    pool.os().validate();
    touch(pool);
}

fn assert_all_returned(os: &FakeOs) {
    os.validate();
    assert_eq!(os.outstanding(), Outstanding::default());
}

#[test]
fn with_more_pages_to_choose_from_the_longest_runs_are_kept() {
    let os = FakeOs::new().with_huge_pages(MIB2, 64, FreeOrder::Shuffled(3));
    let order = |extra| {
        let pool = builder(&os, 32).frame_order(FrameOrder::Ascending { extra }).build().unwrap();
        pool.runs().unwrap().count
    };
    assert!(order(Bytes::ZERO) > 1, "half of a shuffled list is in pieces");
    assert_eq!(order(Bytes::mib(64)), 1);
    assert_all_returned(&os);
}

#[test]
fn collapsing_that_takes_long_is_tried_ever_more_rarely_unless_it_is_required() {
    let slow = || {
        FakeOs::new()
            .with_transparent(Transparent::CollapseOnly(u64::MAX))
            .with_cost(Call::Collapse, 20_000_000)
    };
    let os = slow();
    let pool = builder(&os, 64).threads(1).build().unwrap();
    let tries = os.calls(Call::Collapse);
    assert!((1..16).contains(&tries), "{tries} tries for 64 blocks");
    assert_eq!(by_rung(&pool)[Rung::Transparent as usize] as u64, tries);
    check(&pool);
    let os = slow();
    let pool = builder(&os, 64).rung(Rung::Base, Use::Forbidden).threads(1).build().unwrap();
    assert_eq!((by_rung(&pool)[Rung::Transparent as usize], os.calls(Call::Collapse)), (64, 64));
}

#[test]
fn a_required_node_gives_what_it_has_and_no_other_does() {
    let os = FakeOs::new().with_huge_pages(MIB2, 8, FreeOrder::Ascending).with_huge_pages_on(
        Node::new(1),
        MIB2,
        3,
        FreeOrder::Ascending,
    );
    let pool = builder(&os, 8).node(Node::new(1)).build().unwrap();
    let huge: Vec<_> = pool.report().rungs.into_iter().filter(|r| r.rung == Rung::Huge).collect();
    assert_eq!(huge, [RungReport { rung: Rung::Huge, node: Some(Node::new(1)), pages: 3 }]);
}

#[test]
fn gigantic_pages_step_down_as_a_whole() {
    let os = FakeOs::new()
        .with_huge_pages(PageSize::GIB1, 1, FreeOrder::Ascending)
        .with_huge_pages(MIB2, 100, FreeOrder::Ascending);
    let pool = builder(&os, 1024).rung(Rung::Gigantic, Use::Allowed).build().unwrap();
    let [base, transparent, huge, gigantic] = by_rung(&pool);
    assert_eq!((gigantic, huge, base + transparent), (512, 100, 412));
    assert_eq!(pool.rung(BlockId::new(1023)), Some(Rung::Gigantic));
    check(&pool);
    drop(pool);
    assert_all_returned(&os);
}

#[test]
fn released_blocks_go_back_and_can_be_taken_again() {
    for shareable in [false, true] {
        let os = FakeOs::new().with_huge_pages(MIB2, 8, FreeOrder::Ascending);
        let pool = builder(&os, 8).shareable(shareable).build().unwrap();
        let some = BlockRange::new(BlockId::new(2), Blocks::new(3));
        // SAFETY: nothing refers to the blocks.
        unsafe { pool.release(some) }.unwrap();
        assert_eq!(os.free_huge_pages(MIB2), 3);
        check(&pool);
        os.steal(MIB2, 2);
        pool.populate(some).unwrap();
        assert_eq!(by_rung(&pool)[Rung::Huge as usize], 6, "two were taken by another process");
        os.return_stolen(MIB2);
        // SAFETY: as above.
        unsafe { pool.release(some) }.unwrap();
        pool.populate(some).unwrap();
        assert_eq!(by_rung(&pool)[Rung::Huge as usize], 8, "the ladder begins at its top again");
        check(&pool);
        drop(pool);
        assert_all_returned(&os);
    }
}

/// What a test does with a pool while calls fail: build, give back, take again.
fn exercise(os: &FakeOs, shareable: bool) -> Result<(), PoolError> {
    let pool = builder(os, 6)
        .threads(1)
        .shareable(shareable)
        .node(Node::new(0))
        .frame_order(FrameOrder::Ascending { extra: Bytes::mib(4) })
        .build()?;
    check(&pool);
    let some = BlockRange::new(BlockId::new(1), Blocks::new(3));
    // SAFETY: nothing refers to the blocks.
    let released = unsafe { pool.release(some) };
    check(&pool);
    let populated = pool.populate(some);
    check(&pool);
    let _ = pool.report();
    drop(pool);
    released.and(populated)
}

#[test]
fn whatever_call_fails_what_is_present_can_be_touched() {
    let nomem = Errno::NOMEM;
    for shareable in [false, true] {
        for call in Call::ALL {
            for fails in [Fails::Once, Fails::FromThenOn] {
                for nth in 1.. {
                    let os = FakeOs::new()
                        .with_transparent(Transparent::CollapseOnly(1))
                        .with_huge_pages(MIB2, 4, FreeOrder::Descending);
                    os.fail(call, nth, nomem, fails);
                    let result = exercise(&os, shareable);
                    os.validate();
                    // A mapping that cannot be removed stays: there is nobody to tell.
                    if call != Call::Unmap {
                        let left = os.outstanding();
                        assert_eq!(left, Outstanding::default(), "{call:?} {nth} {fails:?}");
                        assert_eq!(os.free_huge_pages(MIB2), 4);
                    }
                    if os.injected() == 0 {
                        assert_eq!(result, Ok(()), "nothing has failed");
                        break;
                    }
                }
            }
        }
    }
}
