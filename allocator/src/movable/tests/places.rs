//! The store alone: places given back together are as places given back one by one.

use proptest::prelude::*;

use crate::heap::classes::SLICE_BYTES;
use crate::movable::slab::{Bin, Size, Zone};
use crate::movable::store::Store;
use crate::movable::word::Offset;
use crate::os::Linux;
use crate::units::{BlockId, BlockRange, Blocks};

const BLOCKS: u32 = 4;

/// A store with objects of some sizes in some blocks, one of which may be closed; and where they are.
fn filled(sizes: &[usize], closed: bool) -> (Store<Linux>, Vec<Offset>) {
    let mut store = Store::new(&Linux, Blocks::new(BLOCKS), 1 << 16).unwrap();
    let mut free = (0..BLOCKS).map(BlockId::new);
    let mut places = Vec::new();
    for &size in sizes {
        let size = Size::of(size, 16).unwrap().unwrap();
        let bin = Bin { owner: 0, size, zone: Zone::Movable };
        for _ in 0..(3 * SLICE_BYTES / size.bytes()).max(1) {
            let index = store.take_index().unwrap();
            let at = store.take(bin, index).or_else(|| {
                store.add(Zone::Movable, free.next()?);
                store.take(bin, index)
            });
            match at {
                Some(at) => places.push(at),
                None => store.give_index(index),
            }
        }
    }
    if closed {
        store.close(BlockId::new(0));
    }
    (store, places)
}

fn check(store: &mut Store<Linux>, given: u32) {
    // The numbers are given back apart from the places.
    (0..given).for_each(|index| store.give_index(index));
    store.validate().unwrap();
}

proptest! {
    #[test]
    fn places_given_back_together_are_as_one_by_one(
        sizes in prop::collection::vec(prop_oneof![16usize..300, 1000usize..30_000, 40_000usize..300_000], 1..6),
        closed: bool,
        keep in prop::collection::vec(any::<bool>(), 64),
        turned in 0usize..4,
    ) {
        let (mut one, places) = filled(&sizes, closed);
        let (mut other, same) = filled(&sizes, closed);
        prop_assert_eq!(&places, &same);
        let stretch = |n: usize| n / (1 << (2 * turned));
        let mut given: Vec<Offset> = places
            .iter()
            .enumerate()
            .filter(|(n, _)| keep[stretch(*n) % keep.len()])
            .map(|(_, &at)| at)
            .collect();
        if turned == 3 {
            given.reverse();
        }
        let starts = |ranges: Vec<BlockRange>| {
            let mut starts: Vec<_> = ranges.into_iter().map(BlockRange::start).collect();
            starts.sort();
            starts
        };
        let together = starts(one.give_all(&given));
        let apart = starts(given.iter().filter_map(|&at| other.give(at)).collect());
        prop_assert_eq!(together, apart);
        for store in [&mut one, &mut other] {
            check(store, given.len() as u32);
        }
        for block in (0..BLOCKS).map(BlockId::new) {
            prop_assert_eq!(one.live(block), other.live(block));
            prop_assert_eq!(one.slabs_of(block), other.slabs_of(block));
        }
    }
}
