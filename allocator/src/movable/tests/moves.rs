//! Emptying blocks, moving extents, and pins in the way.

use std::time::Duration;

use super::*;
use crate::movable::{Carried, Holds, MovableError, Obstacle};
use crate::placement::Class;
use crate::units::{BLOCK_BYTES, BlockRange, Bytes};

/// Objects of `len` bytes in that many blocks, of which one in ten is left. With their numbers.
fn sparse(heap: &MovableHeap, blocks: usize, len: usize) -> Vec<(usize, MovableBytes)> {
    let mut objects = Vec::new();
    while heap.snapshot().movable.len() <= blocks {
        for _ in 0..BLOCK_BYTES / len / 8 + 1 {
            objects.push((objects.len(), insert(heap, objects.len(), len)));
        }
    }
    objects.retain(|(n, _)| n % 10 == 0);
    heap.validate();
    objects
}

/// Empties a block, and tries again where another test's session was in the way for too long.
fn empty(heap: &MovableHeap, block: BlockId) -> Carried {
    let mut all = Carried::default();
    loop {
        let carried = heap.empty(block, &mut unlimited()).unwrap();
        (all.objects, all.bytes) = (all.objects + carried.objects, all.bytes + carried.bytes);
        all.obstacle = carried.obstacle;
        if all.obstacle != Some(Obstacle::InUse) {
            return all;
        }
    }
}

/// The same for moving an extent.
fn carry(heap: &MovableHeap, extent: BlockRange, to: u32) -> Carried {
    loop {
        let carried = heap.carry(extent, BlockId::new(to), &mut unlimited()).unwrap();
        if carried.obstacle != Some(Obstacle::InUse) || carried.objects > 0 {
            return carried;
        }
        heap.arena().placement().unstick(extent).unwrap();
    }
}

fn assert_all(heap: &MovableHeap, objects: &[(usize, MovableBytes)]) {
    objects.iter().for_each(|(number, object)| assert_content(heap, object, *number));
}

#[test]
fn a_block_is_emptied_into_room_that_others_have() {
    for len in [16, 200, 4000, 70_000] {
        let heap = heap(16);
        let objects = sparse(&heap, 3, len);
        let victim = heap.snapshot().movable[0].clone();
        let carried = empty(&heap, victim.range.start());
        assert_eq!((carried.bytes, carried.obstacle), (victim.live, None), "{len}");
        assert!(!movable_blocks(&heap).contains(&victim.range.start()));
        heap.validate();
        assert_all(&heap, &objects);
    }
}

#[test]
fn what_is_pinned_stays_and_goes_when_it_is_not() {
    let heap = heap(16);
    let objects = sparse(&heap, 2, 1000);
    let victim = movable_blocks(&heap)[0];
    let pinned = &objects[0].1;
    let pin = heap.pin_bytes(pinned).unwrap();
    let at = pin.as_ptr();
    let carried = empty(&heap, victim);
    assert_eq!(carried.obstacle, Some(Obstacle::Pinned));
    assert!(carried.objects > 0);
    assert_eq!(heap.pin_bytes(pinned).unwrap().as_ptr(), at);
    heap.validate();
    drop(pin);
    let carried = empty(&heap, victim);
    assert_eq!((carried.objects, carried.obstacle), (1, None));
    heap.validate();
    assert_all(&heap, &objects);
}

#[test]
fn a_session_of_another_thread_holds_what_it_has_seen_and_the_mover_gives_up_in_time() {
    let heap = heap(16);
    let objects = sparse(&heap, 2, 1000);
    let victim = movable_blocks(&heap)[0];
    let (ready, go_on) = (std::sync::Barrier::new(2), std::sync::Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let session = heap.session();
            let seen = session.bytes(&objects[0].1).as_ptr();
            ready.wait();
            go_on.wait();
            assert_eq!(session.bytes(&objects[0].1).as_ptr(), seen, "it has not moved");
        });
        ready.wait();
        let mut budget = unlimited().patience(Duration::from_millis(5));
        let carried = heap.empty(victim, &mut budget).unwrap();
        assert_eq!((carried.objects, carried.obstacle), (0, Some(Obstacle::InUse)));
        go_on.wait();
    });
    heap.validate();
    assert_eq!(empty(&heap, victim).obstacle, None);
    assert_all(&heap, &objects);
}

#[test]
fn a_thread_in_a_session_cannot_move_what_it_would_wait_for() {
    let heap = heap(4);
    let object = insert(&heap, 1, 100);
    let block = movable_blocks(&heap)[0];
    let session = heap.session();
    assert_eq!(heap.empty(block, &mut unlimited()), Err(MovableError::InSession));
    let pinned = heap.pin_bytes_long_term(&object, unlimited());
    assert_eq!(pinned.unwrap_err(), MovableError::InSession);
    drop(session);
    empty(&heap, block);
}

#[test]
fn a_budget_ends_the_moving_and_leaves_everything_whole() {
    let heap = heap(16);
    let objects = sparse(&heap, 2, 1000);
    let victim = movable_blocks(&heap)[0];
    let mut budget = unlimited().bytes(Bytes::new(5000));
    let carried = heap.empty(victim, &mut budget).unwrap();
    assert_eq!((carried.objects, carried.obstacle), (4, Some(Obstacle::Budget)));
    assert!(carried.bytes <= Bytes::new(5000));
    let carried = heap.empty(victim, &mut unlimited().time(Duration::ZERO)).unwrap();
    assert_eq!(carried, Carried { obstacle: Some(Obstacle::Budget), ..Carried::default() });
    heap.validate();
    assert_all(&heap, &objects);
}

#[test]
fn objects_without_room_elsewhere_stay() {
    let heap = heap(2);
    let objects = [insert(&heap, 0, BLOCK_BYTES), insert(&heap, 1, BLOCK_BYTES)];
    let carried = empty(&heap, movable_blocks(&heap)[0]);
    assert_eq!((carried.objects, carried.obstacle), (0, Some(Obstacle::NoRoom)));
    heap.validate();
    (0..2).for_each(|n| assert_content(&heap, &objects[n], n));
}

#[test]
fn closed_blocks_take_nothing_in_until_they_are_opened() {
    let heap = heap(16);
    let mut objects = sparse(&heap, 3, 1000);
    let blocks = movable_blocks(&heap);
    let closed = heap.close(blocks.iter().copied());
    assert_eq!(closed.blocks(), blocks);
    objects.push((7, insert(&heap, 7, 1000)));
    let new = movable_blocks(&heap);
    assert_eq!(new.len(), blocks.len() + 1, "the new object is in a block of its own");
    assert!(heap.close(blocks.iter().copied()).blocks().is_empty(), "they are closed");
    for &block in &blocks {
        assert_eq!(empty(&heap, block).obstacle, None);
    }
    assert_eq!(movable_blocks(&heap).len(), new.len(), "closed blocks are not given back");
    drop(closed);
    assert_eq!(movable_blocks(&heap).len(), 1);
    heap.validate();
    assert_all(&heap, &objects);
}

#[test]
fn extents_move_whole_and_over_themselves() {
    let heap = heap(32);
    heap.arena().placement().set_gap(Blocks::ZERO);
    let first = insert(&heap, 0, 2 * BLOCK_BYTES);
    let long = insert(&heap, 1, 4 * BLOCK_BYTES - 999);
    let small = insert(&heap, 2, 300);
    drop(first);
    let moves = [(4, 2, 10), (4, 10, 9), (4, 9, 0), (1, 6, 20)];
    for (len, from, to) in moves {
        let extent = BlockRange::new(BlockId::new(from), Blocks::new(len));
        let carried = carry(&heap, extent, to);
        assert_eq!((carried.objects, carried.obstacle), (1, None), "{extent:?} to {to}");
        heap.validate();
        assert_content(&heap, &long, 1);
        assert_content(&heap, &small, 2);
    }
    let occupied = BlockRange::new(BlockId::new(0), Blocks::new(4));
    let refused = heap.carry(occupied, BlockId::new(30), &mut unlimited()).unwrap_err();
    assert_eq!(
        refused,
        MovableError::NotOurs { blocks: occupied },
        "it would end beyond the arena"
    );
}

#[test]
fn a_block_that_is_moved_with_one_object_pinned_stays_in_two_parts() {
    let heap = heap(16);
    let objects: Vec<_> = (0..100).map(|n| (n, insert(&heap, n, 1000))).collect();
    let from = BlockRange::new(movable_blocks(&heap)[0], Blocks::ONE);
    let pin = heap.pin_bytes(&objects[50].1).unwrap();
    let carried = carry(&heap, from, 9);
    assert_eq!((carried.objects, carried.obstacle), (99, Some(Obstacle::Pinned)));
    heap.validate();
    let parts = heap.snapshot().movable;
    assert_eq!(parts.len(), 2);
    assert_eq!(parts.iter().find(|part| part.range == from).unwrap().holds, Holds::Stuck);
    drop(pin);
    assert_all(&heap, &objects);
}

#[test]
fn a_huge_extent_that_does_not_fit_makes_its_room() {
    let heap = heap(16);
    heap.arena().placement().set_gap(Blocks::ZERO);
    let mut objects: Vec<_> = (0..14).map(|n| (n, insert(&heap, n, BLOCK_BYTES - n))).collect();
    objects.retain(|(n, _)| n % 2 == 0);
    let live = heap.snapshot().live();
    let mut budget = unlimited().bytes(live);
    let huge = heap.make_room(Class::Huge, Blocks::new(8), &mut budget).unwrap();
    assert_eq!(huge.range().len(), Blocks::new(8));
    let moved = live - budget.left();
    assert!(moved <= Blocks::new(4).bytes(), "the cheapest window has three or four: {moved}");
    heap.validate();
    assert_all(&heap, &objects);
}

#[test]
fn pinned_blocks_that_grow_send_movable_ones_up() {
    let heap = heap(32);
    heap.arena().placement().set_gap(Blocks::ZERO);
    let mut objects: Vec<_> = (0..50).map(|n| (n, insert(&heap, n, 50_000))).collect();
    objects.push((99, insert(&heap, 99, 3 * BLOCK_BYTES)));
    let mut pinned = Vec::new();
    // Longer than other tests' sessions.
    let patient = unlimited();
    for _ in 0..20 {
        pinned.push(heap.make_room(Class::Pinned, Blocks::ONE, &mut patient.clone()).unwrap());
        heap.validate();
        assert_all(&heap, &objects);
    }
    let lowest = pinned.iter().map(|extent| extent.range().start().get()).max();
    assert_eq!(lowest, Some(19), "pinned blocks are dense");
}

#[test]
fn a_long_term_pin_takes_the_object_to_the_pinned_end() {
    for len in [100, 30_000, BLOCK_BYTES, 3 * BLOCK_BYTES] {
        let heap = heap(32);
        heap.arena().placement().set_gap(Blocks::ZERO);
        let objects: Vec<_> = (0..6).map(|n| (n, insert(&heap, n, len))).collect();
        let pin = heap.pin_bytes_long_term(&objects[3].1, unlimited()).unwrap();
        let block = heap.arena().pool().locate(pin.as_ptr().cast().as_ptr()).unwrap();
        assert!(block < heap.arena().placement().pinned_end(), "{len}");
        assert!(*pin == *content(3, len));
        let again = heap.pin_bytes_long_term(&objects[3].1, unlimited()).unwrap();
        assert_eq!(again.as_ptr(), pin.as_ptr());
        drop((again, pin));
        heap.validate();
        assert_all(&heap, &objects);
        let pin = heap.pin_bytes(&objects[2].1).unwrap();
        let refused = heap.pin_bytes_long_term(&objects[2].1, unlimited()).unwrap_err();
        assert_eq!(refused, MovableError::Busy(Obstacle::Pinned));
        drop(pin);
        drop(objects);
        heap.validate();
        assert_eq!(heap.snapshot().free_blocks(), Blocks::new(32));
    }
}
