//! Cases with a name: what each answer means to a caller, and what a failing system does.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::os::Errno;
use crate::os::fake::{Call, Fails, FakeOs};
use crate::units::Bytes;

fn placement(capacity: u32) -> Placement {
    let mut placement = Placement::new(Blocks::new(capacity)).unwrap();
    placement.set_gap(Blocks::ZERO);
    placement
}

fn range(start: u32, end: u32) -> BlockRange {
    BlockRange::new(BlockId::new(start), Blocks::new(end - start))
}

fn take(placement: &mut Placement, class: Class, blocks: u32) -> BlockRange {
    placement.allocate(class, Blocks::new(blocks)).unwrap()
}

#[test]
fn a_table_that_cannot_be_mapped_is_an_error_and_leaves_nothing_mapped() {
    for nth in 1..=3 {
        let os = FakeOs::new();
        os.fail(Call::Map, nth, Errno::NOMEM, Fails::Once);
        let unmapped = Placement::with_os(os.clone(), Blocks::new(1000)).unwrap_err();
        assert_eq!(unmapped, Unmapped { capacity: Blocks::new(1000), cause: Errno::NOMEM });
        assert!(unmapped.to_string().contains("1000 blocks"), "{unmapped}");
        assert_eq!(os.outstanding().mapped, Bytes::ZERO);
    }
    let os = FakeOs::new();
    let placement = Placement::with_os(os.clone(), Blocks::new(1000)).unwrap();
    assert_eq!(os.calls(Call::Map), 3, "each of them has been made to fail");
    drop(placement);
    assert_eq!(os.outstanding().mapped, Bytes::ZERO);
}

#[test]
fn the_largest_table_has_as_many_blocks_as_32_bits_can_number() {
    let mut placement = Placement::new(Blocks::new(u32::MAX)).unwrap();
    let huge = take(&mut placement, Class::Huge, 7);
    assert_eq!(huge, range(u32::MAX - 7, u32::MAX));
    let rest = take(&mut placement, Class::Pinned, u32::MAX - 7);
    assert_eq!(placement.free_blocks(), Blocks::ZERO);
    placement.free(huge).unwrap();
    placement.free(rest).unwrap();
    assert_eq!(placement.largest_free(), Blocks::new(u32::MAX));
}

#[test]
fn movable_extents_leave_the_gap_free_until_the_rest_is_full() {
    let mut placement = Placement::new(Blocks::new(10)).unwrap();
    placement.set_gap(Blocks::new(4));
    assert_eq!(take(&mut placement, Class::Movable, 3), range(4, 7));
    assert_eq!(take(&mut placement, Class::Movable, 3), range(7, 10));
    assert_eq!(take(&mut placement, Class::Movable, 3), range(1, 4));
    assert_eq!(placement.iter_gap().collect::<Vec<_>>(), [range(1, 4)]);
}

#[test]
fn an_extent_that_fits_nowhere_else_slides_out_of_the_way() {
    let mut placement = placement(12);
    let movable = take(&mut placement, Class::Movable, 10);
    let Err(Refusal::Evict(clearing)) = placement.allocate(Class::Pinned, Blocks::new(2)) else {
        panic!("the extent has to go");
    };
    assert_eq!(clearing.window(), range(0, 2));
    let begun = placement.next_move(&clearing).unwrap();
    assert_eq!((begun.from(), begun.to()), (movable, range(2, 12)));
    assert_eq!(placement.validate(), Ok(()));
    assert_eq!(placement.free(movable), Err(Misuse::Moving(range(0, 12))));
    let busy = placement.allocate(Class::Pinned, Blocks::new(2));
    assert!(matches!(busy, Err(Refusal::Busy(_))), "{busy:?}");
    placement.moved(begun).unwrap();
    assert_eq!(take(&mut placement, Class::Pinned, 2), range(0, 2));
}

#[test]
fn pinned_blocks_pass_over_what_refuses_and_never_ask_it_again() {
    let mut placement = placement(20);
    let stubborn = take(&mut placement, Class::Movable, 2);
    let mut asked = 0;
    let pinned = placement.allocate_moving(Class::Pinned, Blocks::new(3), |_, _| {
        asked += 1;
        Moved::Refused
    });
    assert_eq!((pinned, asked), (Ok(range(2, 5)), 1));
    assert_eq!(placement.iter_stuck().collect::<Vec<_>>(), [stubborn]);
    assert_eq!(placement.unstick(stubborn), Ok(false), "it stands below the pinned end");
    let begun = placement.begin_move(stubborn, BlockId::new(5)).unwrap();
    placement.moved(begun).unwrap();
    assert_eq!(take(&mut placement, Class::Pinned, 2), range(0, 2));
    assert_eq!(placement.validate(), Ok(()));
}

#[test]
fn a_mover_that_panics_has_refused() {
    let mut placement = placement(20);
    let movable = take(&mut placement, Class::Movable, 2);
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        placement.allocate_moving(Class::Pinned, Blocks::ONE, |_, _| panic!("the mover's own"))
    }));
    assert!(panicked.is_err());
    assert_eq!(placement.validate(), Ok(()));
    assert_eq!(placement.moves_under_way(), 0);
    assert_eq!(placement.iter_stuck().collect::<Vec<_>>(), [movable]);
    assert_eq!(placement.free_blocks(), Blocks::new(18));
}

#[test]
fn compaction_names_the_cheapest_window() {
    let mut placement = placement(16);
    let extents: Vec<_> = (0..8).map(|_| take(&mut placement, Class::Movable, 2)).collect();
    for which in [1, 4, 6] {
        placement.free(extents[which]).unwrap();
    }
    // Free: 2..4, 8..10, 12..14. Six in a row take the extent at 10..12 out of the way.
    let Err(Refusal::Compact(clearing)) = placement.allocate(Class::Huge, Blocks::new(6)) else {
        panic!("a run of six can be made");
    };
    assert_eq!((clearing.window(), clearing.displaced()), (range(8, 14), Blocks::new(2)));
    assert_eq!(placement.iter_displaced(&clearing).collect::<Vec<_>>(), [range(10, 12)]);
    let huge = placement.allocate_moving(Class::Huge, Blocks::new(6), |from, to| {
        assert_eq!((from, to), (range(10, 12), range(2, 4)));
        Moved::Done
    });
    assert_eq!(huge, Ok(range(8, 14)));
}

#[test]
fn what_a_caller_gets_wrong_is_said_and_changes_nothing() {
    let mut placement = placement(10);
    let extent = take(&mut placement, Class::Movable, 4);
    let pinned = placement.allocate_moving(Class::Pinned, Blocks::ONE, |_, _| Moved::Done);
    let pinned = pinned.unwrap();
    let moved = placement.extent_of(BlockId::new(4)).unwrap().range;
    assert!(moved != extent);
    let outside = Misuse::Outside { range: range(9, 11), capacity: Blocks::new(10) };
    assert_eq!(placement.free(range(9, 11)), Err(outside));
    assert_eq!(placement.free(range(4, 4)), Err(Misuse::Zero(range(4, 4))));
    assert_eq!(placement.free(range(9, 10)), Err(Misuse::Free(range(9, 10))));
    let not_movable = Misuse::NotMovable { extent: pinned, class: Class::Pinned };
    assert_eq!(placement.begin_move(pinned, BlockId::new(9)), Err(not_movable));
    let below = placement.begin_move(moved, BlockId::new(0));
    assert!(matches!(below, Err(Misuse::BelowPinned { .. })), "{below:?}");
    let mut other = self::placement(10);
    let theirs = take(&mut other, Class::Movable, 1);
    let begun = other.begin_move(theirs, BlockId::new(5)).unwrap();
    assert!(matches!(placement.moved(begun), Err(Misuse::NotBegun { .. })));
    assert_eq!(placement.validate(), Ok(()));
    assert_eq!(placement.blocks(Class::Movable), Blocks::new(4));
}
