//! Vectors and slabs of records, moved and compacted in the middle.

use std::collections::HashMap;
use std::sync::Arc;

use super::threads::Random;
use super::*;
use crate::movable::{Key, MovableError, MovableSlab, MovableVec};
use crate::units::{BLOCK_BYTES, BlockRange};

/// Moves every movable extent somewhere else, where there is room.
fn shuffle(heap: &MovableHeap, random: &mut Random) -> u64 {
    let extents: Vec<_> = heap.snapshot().movable.into_iter().map(|extent| extent.range).collect();
    let capacity = heap.arena().pool().capacity().get() as usize;
    let mut moved = 0;
    for extent in extents {
        let to = BlockId::new(random.below(capacity) as u32);
        moved += heap.carry(extent, to, &mut unlimited()).map_or(0, |carried| carried.objects);
    }
    moved
}

#[test]
fn a_vector_does_what_a_vector_does_while_it_is_moved() {
    let heap = heap(40);
    heap.arena().placement().set_gap(Blocks::ZERO);
    let (mut ours, mut theirs) = (MovableVec::new(&heap), Vec::new());
    let (mut random, mut moved) = (Random(3), 0);
    for step in 0..3000usize {
        let value = [step as u64; 5];
        match random.below(8) {
            0..4 => {
                ours.push(value).unwrap();
                theirs.push(value);
            }
            4 => assert_eq!(ours.pop(), theirs.pop()),
            5 => {
                let values = vec![value; random.below(900)];
                ours.extend_from_slice(&values).unwrap();
                theirs.extend_from_slice(&values);
            }
            6 if random.below(150) == 0 => {
                let len = random.below(theirs.len() + 9);
                ours.truncate(len);
                theirs.truncate(len);
            }
            6 => {
                ours.extend((0..20).map(|n| [n; 5])).unwrap();
                theirs.extend((0..20).map(|n| [n; 5]));
            }
            _ => moved += shuffle(&heap, &mut random),
        }
        let session = heap.session();
        let at = random.below(theirs.len() + 1);
        assert_eq!(ours.as_slice(&session)[..at].last(), theirs[..at].last(), "step {step}");
        if let Some(element) = ours.as_mut_slice(&session).get_mut(at) {
            element[3] += 1;
            theirs[at][3] += 1;
        }
    }
    assert!(moved > 10 && theirs.len() * 40 > BLOCK_BYTES, "{moved} moves, {}", theirs.len());
    assert!(ours.as_slice(&heap.session()) == theirs && ours.len() == theirs.len());
    assert!(*ours.pin().unwrap() == theirs);
    heap.validate();
    drop(ours);
    assert_eq!(heap.snapshot().movable.len(), 0);
}

#[test]
fn a_long_vector_grows_where_it_is_and_goes_where_it_cannot() {
    let heap = heap(16);
    heap.arena().placement().set_gap(Blocks::ZERO);
    let mut vector = MovableVec::new(&heap);
    let block = vec![7u8; BLOCK_BYTES];
    vector.extend_from_slice(&block).unwrap();
    vector.extend_from_slice(&block[1..]).unwrap();
    let first = heap.snapshot().movable[0].range;
    vector.extend_from_slice(&block).unwrap();
    let longer = heap.snapshot().movable[0].range;
    assert_eq!((longer.start(), longer.len()), (first.start(), Blocks::new(3)));
    // What was added is moved with the rest.
    vector.as_mut_slice(&heap.session())[3 * BLOCK_BYTES - 2] = 9;
    let to = BlockId::new(longer.end().get() + 2);
    assert_eq!(heap.carry(longer, to, &mut unlimited()).unwrap().objects, 1);
    assert_eq!(vector.as_slice(&heap.session())[3 * BLOCK_BYTES - 2], 9);
    // Something stands behind it.
    let moved = BlockRange::new(to, longer.len());
    let stone = MovableHeap::zeroed(&heap, BLOCK_BYTES + 1).unwrap();
    let here = heap.snapshot().movable.iter().find(|e| e.range != moved).unwrap().range;
    heap.carry(here, moved.end(), &mut unlimited()).unwrap();
    vector.extend_from_slice(&block).unwrap();
    let all = heap.snapshot().movable;
    assert!(all.iter().all(|extent| extent.range.start() != to), "{all:?}");
    let session = heap.session();
    assert_eq!(
        vector.as_slice(&session).iter().filter(|&&byte| byte == 7).count(),
        vector.len() - 1
    );
    assert_eq!(vector.len(), 4 * BLOCK_BYTES - 1);
    drop((session, stone));
    heap.validate();
}

#[test]
fn a_vector_without_room_says_so_and_is_as_it_was() {
    let heap = heap(4);
    let mut vector = MovableVec::new(&heap);
    vector.extend(0..100u32).unwrap();
    assert!(matches!(vector.reserve(4 * BLOCK_BYTES), Err(MovableError::Arena(_))));
    assert!(matches!(vector.reserve(usize::MAX), Err(MovableError::Size { .. })));
    assert!(vector.as_slice(&heap.session()).iter().copied().eq(0..100));
    heap.validate();
}

#[test]
fn a_vector_drops_each_element_once_also_where_one_panics() {
    struct Counts(#[expect(dead_code, reason = "counted")] Arc<()>, bool);
    impl Drop for Counts {
        fn drop(&mut self) {
            assert!(!self.1, "as planned");
        }
    }
    let (heap, count) = (heap(4), Arc::new(()));
    let mut vector = MovableVec::new(&heap);
    vector.extend((0..1000).map(|n| Counts(Arc::clone(&count), n == 500))).unwrap();
    drop(vector.pop());
    vector.truncate(700);
    assert_eq!(Arc::strong_count(&count), 701);
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(vector)));
    assert!(dropped.is_err());
    assert_eq!(Arc::strong_count(&count), 1);
    assert_eq!(heap.snapshot().movable.len(), 0);
    heap.validate();
}

#[test]
fn records_are_found_by_their_keys_wherever_they_went() {
    let heap = heap(40);
    let (mut slab, mut model) = (MovableSlab::new(&heap), HashMap::new());
    let (mut random, mut gone): (_, Vec<Key>) = (Random(11), Vec::new());
    for number in 0..60_000u64 {
        model.insert(slab.insert([number; 20]).unwrap(), number);
    }
    let before = heap.snapshot().movable.len();
    model.retain(|&key, _| {
        let stays = random.below(8) == 0;
        if !stays {
            assert!(slab.remove(key) && !slab.remove(key));
            gone.push(key);
        }
        stays
    });
    let compacted = heap.compact(&mut unlimited()).unwrap();
    let after = heap.snapshot().movable.len();
    assert_eq!(before - after, compacted.emptied.as_usize(), "{compacted:?}");
    assert!(after <= before / 8 + 1, "{before} to {after}");
    // Numbers are used again, keys are not.
    for number in 0..1000 {
        model.insert(slab.insert([number; 20]).unwrap(), number);
    }
    let session = heap.session();
    assert!(gone.iter().all(|&key| slab.get(&session, key).is_none() && !slab.contains(key)));
    assert!(model.iter().all(|(&key, number)| slab.get(&session, key).unwrap()[19] == *number));
    for (key, record) in slab.iter_mut(&session) {
        record[0] += 1;
        assert_eq!(model[&key] + 1, record[0]);
    }
    assert_eq!((slab.iter(&session).count(), slab.len()), (model.len(), model.len()));
    let (&key, &number) = model.iter().next().unwrap();
    assert_eq!(slab.pin(key).unwrap().unwrap()[0], number + 1);
    assert!(slab.pin(gone[0]).is_none());
    drop(session);
    heap.validate();
}

#[test]
fn compacting_stops_where_its_budget_does_and_is_refused_in_a_session() {
    let heap = heap(40);
    let mut objects: Vec<_> = (0..40_000).map(|n| insert(&heap, n, 240)).collect();
    let mut n = 0;
    objects.retain(|_| {
        n += 1;
        n % 4 == 0
    });
    let session = heap.session();
    assert_eq!(heap.compact(&mut unlimited()), Err(MovableError::InSession));
    drop(session);
    let mut budget = unlimited().bytes(crate::units::Bytes::kib(64));
    let compacted = heap.compact(&mut budget).unwrap();
    assert_eq!(compacted.carried.obstacle, Some(crate::movable::Obstacle::Budget));
    assert!(compacted.carried.bytes <= crate::units::Bytes::kib(64));
    assert_eq!(compacted.emptied, Blocks::ZERO);
    assert!(heap.compact(&mut unlimited()).unwrap().emptied > Blocks::ONE);
    heap.validate();
    for (at, object) in objects.iter().enumerate() {
        assert_content(&heap, object, at * 4 + 3);
    }
}
