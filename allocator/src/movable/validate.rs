//! Checking a heap against its words and its arena, for tests between steps.

use core::sync::atomic::Ordering::Acquire;
use std::collections::HashSet;

use super::heap::{Inner, offset_of};
use super::slab::Zone;
use super::store::Store;
use super::word::{COPYING, DOOMED, HELD, LIVE, Offset, WANTED, Word, is_odd};
use crate::os::Os;
use crate::placement::Class;
use crate::units::BlockId;

/// See [`MovableHeap::validate`](super::MovableHeap::validate).
pub(super) fn validate<O: Os>(heap: &Inner<O>) {
    heap.arena.validate();
    let state = heap.state();
    if let Err(wrong) = state.store.validate() {
        panic!("the store contradicts itself: {wrong}");
    }
    let mut seen = HashSet::new();
    let mut check = |index: u32, at: Offset| {
        assert!(seen.insert(index), "object {index} has two places");
        let word = Word(heap.tables.word(index).load(Acquire));
        assert!(
            word.has(LIVE) && word.offset() == at,
            "object {index} is not at {at:?}: {word:x?}"
        );
        let under_way = word.has(COPYING | HELD | DOOMED | WANTED);
        assert!(!under_way, "object {index} is being moved, and nobody moves: {word:x?}");
    };
    for slab in state.store.iter_slabs() {
        slab.iter_taken().for_each(|(place, index)| check(index, slab.offset(place)));
    }
    state.store.bigs().for_each(|big| check(big.index, offset_of(big.range)));
    assert!(heap.tables.stamps.iter().all(|stamp| !is_odd(stamp.load(Acquire))), "an odd stamp");
    validate_blocks(heap, &state.store);
}

/// Whether the placement has the store's blocks for what they are.
fn validate_blocks<O: Os>(heap: &Inner<O>, store: &Store<O>) {
    let placement = heap.arena.placement();
    for block in (0..placement.capacity().get()).map(BlockId::new) {
        let Some(zone) = store.zone_of(block) else { continue };
        assert!(!store.is_closed(block), "{block:?} is closed, and nobody empties it");
        assert!(store.live(block) > 0, "{block:?} is empty, and was not given back");
        assert_eq!(placement.class_of(block), Some(class(zone)));
    }
    for big in store.bigs() {
        let placed = placement.extent_of(big.range.start());
        assert_eq!(placed.map(|placed| placed.range), Some(big.range));
        assert_eq!(placed.map(|placed| placed.class), Some(class(big.zone)));
    }
    assert_eq!(placement.moves_under_way(), 0, "a move has not been ended");
}

fn class(zone: Zone) -> Class {
    match zone {
        Zone::Movable => Class::Movable,
        Zone::Pinned => Class::Pinned,
    }
}
