//! Making, reaching, dropping.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::movable::threads::PINS;
use crate::movable::word::PINS_MAX;
use crate::movable::{Movable, MovableError};
use crate::units::BLOCK_BYTES;

#[test]
fn objects_of_any_size_hold_what_is_written() {
    let heap = heap(32);
    let sizes = [0, 1, 16, 17, 240, 4096, 33_000, 262_144, 262_145, BLOCK_BYTES - 1, BLOCK_BYTES];
    let longer = [BLOCK_BYTES + 1, 3 * BLOCK_BYTES, 5 * BLOCK_BYTES + 12345];
    let sizes: Vec<_> = sizes.into_iter().chain(longer).collect();
    let objects: Vec<_> = sizes.iter().enumerate().map(|(n, &len)| insert(&heap, n, len)).collect();
    heap.validate();
    for (n, object) in objects.iter().enumerate() {
        assert_content(&heap, object, n);
    }
    drop(objects);
    heap.validate();
    assert_eq!(heap.snapshot().free_blocks(), Blocks::new(32));
}

#[test]
fn a_value_is_aligned_changed_and_dropped_once() {
    #[repr(align(4096))]
    struct Counted(u64, Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.1.fetch_add(1, Ordering::Relaxed);
        }
    }
    let heap = heap(4);
    let drops = Arc::new(AtomicUsize::new(0));
    let mut object = heap.insert(Counted(7, drops.clone())).unwrap();
    {
        let session = heap.session();
        let value = session.get_mut(&mut object);
        assert!(std::ptr::from_ref(value).is_aligned());
        value.0 += 1;
    }
    assert_eq!(heap.pin(&object).unwrap().0, 8);
    heap.pin_mut(&mut object).unwrap().0 += 1;
    assert_eq!(heap.session().get(&object).0, 9);
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    drop(object);
    assert_eq!(drops.load(Ordering::Relaxed), 1);
    heap.validate();
}

#[test]
fn handles_outlive_the_heap_and_find_it_from_sessions_of_another() {
    let (first, second) = (heap(2), heap(2));
    let object = first.insert(41u64).unwrap();
    let nested = second.insert(object).unwrap(); // a handle in another heap's object
    drop(first);
    let session = second.session();
    assert_eq!(*session.get(session.get(&nested)), 41);
    drop(session);
    let pin = second.pin(&nested).unwrap();
    let foreign = second.pin(&*pin);
    assert!(matches!(foreign, Err(MovableError::NoSuchObject { .. })), "it is another heap's");
    drop(foreign);
    drop(pin);
    drop(nested);
    second.validate();
}

#[test]
fn a_list_of_objects_that_own_each_other_is_dropped_from_its_head() {
    struct Node {
        value: u32,
        next: Option<Movable<Node>>,
    }
    let heap = heap(4);
    let mut head: Option<Movable<Node>> = None;
    for value in 0..1000 {
        head = Some(heap.insert(Node { value, next: head.take() }).unwrap());
    }
    let session = heap.session();
    let mut at = head.as_ref();
    for value in (0..1000).rev() {
        let node = session.get(at.unwrap());
        assert_eq!(node.value, value);
        at = node.next.as_ref();
    }
    drop(session);
    heap.validate();
    drop(head);
    assert_eq!(heap.snapshot().movable.len(), 0);
}

#[test]
fn a_drop_that_panics_leaves_no_object_behind() {
    struct Bomb(Cell<bool>);
    impl Drop for Bomb {
        fn drop(&mut self) {
            assert!(!self.0.get(), "as planned");
        }
    }
    let heap = heap(2);
    let object = heap.insert(Bomb(Cell::new(true))).unwrap();
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(object)));
    assert!(dropped.is_err());
    heap.validate();
    assert_eq!(heap.snapshot().movable.len(), 0);
}

#[test]
fn what_cannot_be_made_is_an_error_that_says_why() {
    #[repr(align(65536))]
    struct TooAligned(#[expect(dead_code)] u8);
    let heap = heap(2);
    let refused = heap.insert(TooAligned(0)).unwrap_err();
    assert_eq!(refused, MovableError::Alignment { asked: 65536, most: 32768 });
    let refused = heap.zeroed(3 * BLOCK_BYTES).unwrap_err();
    assert!(matches!(refused, MovableError::Arena(_)), "{refused}");
    let refused = heap.zeroed(usize::MAX).unwrap_err();
    assert!(matches!(refused, MovableError::Size { .. }), "{refused}");
    heap.validate();

    let few = MovableHeap::with_objects(arena(2), 2).unwrap();
    let _two = (few.insert(1u8).unwrap(), few.insert(2u8).unwrap());
    assert_eq!(few.insert(3u8).unwrap_err(), MovableError::TooManyObjects { most: 2 });
}

#[test]
fn a_full_heap_says_so_and_takes_more_when_something_has_gone() {
    let heap = heap(2);
    let mut objects = Vec::new();
    let refused = loop {
        match heap.zeroed(100_000) {
            Ok(object) => objects.push(object),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, MovableError::Arena(_)), "{refused}");
    assert!(objects.len() >= 32, "{} of 100,000 bytes in 4 MiB", objects.len());
    objects.pop();
    objects.push(heap.zeroed(100_000).unwrap());
    heap.validate();
}

#[test]
fn there_can_be_as_many_heaps_as_numbers_and_dropped_ones_make_room() {
    let mut heaps = Vec::new();
    let refused = loop {
        match MovableHeap::with_objects(arena(1), 1) {
            Ok(heap) => heaps.push(heap),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, MovableError::TooManyHeaps { most: 255 }), "{refused}");
    heaps.truncate(heaps.len() - 20); // tests beside this one need some
    MovableHeap::with_objects(arena(1), 1).unwrap();
}

#[test]
fn an_arena_has_one_heap_at_a_time() {
    let arena = arena(1);
    let heap = MovableHeap::new(arena.clone()).unwrap();
    let base = arena.pool().base().as_ptr().addr();
    let refused = MovableHeap::new(arena.clone()).unwrap_err();
    assert_eq!(refused, MovableError::ArenaTaken { base });
    assert!(refused.to_string().contains("one heap"), "{refused}");
    drop(heap);
    MovableHeap::new(arena).unwrap();
}

#[test]
fn one_pin_too_many_is_refused_and_counts_for_nothing() {
    let heap = heap(4);
    let object = heap.insert(7u64).unwrap();
    // Those that the thread shows, and those that are counted.
    let most = PINS as u32 + PINS_MAX;
    let mut pins: Vec<_> = (0..most).map(|_| heap.pin(&object).unwrap()).collect();
    assert_eq!(heap.pin(&object).unwrap_err(), MovableError::TooManyPins);
    pins.pop();
    pins.push(heap.pin(&object).unwrap());
    drop(pins);
    let block = movable_blocks(&heap)[0];
    let to = BlockId::new(block.get() + 1);
    let extent = crate::units::BlockRange::new(block, Blocks::ONE);
    assert_eq!(heap.carry(extent, to, &mut unlimited()).unwrap().objects, 1);
    assert_eq!(*heap.session().get(&object), 7);
    heap.validate();
}
