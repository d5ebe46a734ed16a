//! From objects of any size to what the policies of `week` place: pages and blocks.
//!
//! - Up to 32 KiB: an object is one of a slab of its size, which has room for eight or more; sizes are
//!   rounded up to eighths of a doubling, slabs are 4 to 256 KiB. A slab is placed when the first object
//!   needs it and goes with its last; objects go to the lowest-numbered slab that has room.
//! - Up to 256 KiB: whole pages, a power of two of them.
//! - Longer: an extent of whole blocks.
//!
//! This does not depend on the policy, which sees slabs, pages and extents alone. Which of them can move
//! no recording says: extents can, and of the sizes of small objects a share (`--movable`), drawn once
//! for each, since a size is a type of object more or less.

use std::collections::{BTreeSet, HashMap};

use bookend::units::{Blocks, Bytes};

use crate::fragbench::week::trace::{Event, Item, ItemId};

/// The longest object of a slab, and the longest of pages.
const SLAB_OBJECT_MAX: u64 = 32 << 10;
const PAGES_MAX: u64 = 256 << 10;
const PAGE: u64 = 4096;
/// A slab has room for so many, if that is at most the longest one.
const SLAB_OBJECTS_MIN: u64 = 8;

/// Where an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a slab.
    Slab(u32),
    /// By itself.
    Alone(ItemId, Item),
}

#[derive(Clone, Copy, Debug)]
struct Slab {
    class: u64,
    item: Item,
    id: ItemId,
    used: u32,
    places: u32,
}

/// Objects in slabs, pages and extents.
#[derive(Debug)]
pub struct Slabs {
    movable: f64,
    seed: u64,
    slabs: Vec<Slab>,
    unused: Vec<u32>,
    /// By size.
    roomy: HashMap<u64, BTreeSet<u32>>,
    ids: u32,
    free_ids: Vec<ItemId>,
    live: u64,
    peak: u64,
}

impl Slabs {
    /// Empty ones; of the sizes of small objects that part can move.
    pub fn new(movable: f64, seed: u64) -> Self {
        Self {
            movable,
            seed,
            slabs: Vec::new(),
            unused: Vec::new(),
            roomy: HashMap::new(),
            ids: 0,
            free_ids: Vec::new(),
            live: 0,
            peak: 0,
        }
    }

    /// Most bytes of slabs, pages and extents at a time.
    pub fn peak(&self) -> Bytes {
        Bytes::new(self.peak)
    }

    /// An object begins; tells the policies, if it needs more than there is.
    pub fn make(&mut self, bytes: u64, tell: impl FnOnce(Event)) -> Place {
        if bytes > SLAB_OBJECT_MAX {
            let item = self.item(bytes);
            let id = self.place(item, tell);
            return Place::Alone(id, item);
        }
        let class = class(bytes);
        let first = self.roomy.get(&class).and_then(|roomy| roomy.first().copied());
        let slab = first.unwrap_or_else(|| self.open(class, tell));
        let this = &mut self.slabs[slab as usize];
        this.used += 1;
        if this.used == this.places {
            self.roomy.entry(class).or_default().remove(&slab);
        }
        Place::Slab(slab)
    }

    /// An object ends; tells the policies, if its slab goes with it.
    pub fn end(&mut self, place: Place, tell: impl FnOnce(Event)) {
        match place {
            Place::Alone(id, item) => self.remove(id, item, tell),
            Place::Slab(slab) => {
                let this = &mut self.slabs[slab as usize];
                this.used -= 1;
                let Slab { class, item, id, used, .. } = *this;
                let roomy = self.roomy.entry(class).or_default();
                if used > 0 {
                    roomy.insert(slab);
                    return;
                }
                roomy.remove(&slab);
                self.unused.push(slab);
                self.remove(id, item, tell);
            }
        }
    }

    fn open(&mut self, class: u64, tell: impl FnOnce(Event)) -> u32 {
        let item = self.item((class * SLAB_OBJECTS_MIN).min(PAGES_MAX));
        let places = (item.bytes().get() / class) as u32;
        let id = self.place(item, tell);
        let slab = Slab { class, item, id, used: 0, places };
        let index = match self.unused.pop() {
            Some(index) => {
                self.slabs[index as usize] = slab;
                index
            }
            None => {
                self.slabs.push(slab);
                self.slabs.len() as u32 - 1
            }
        };
        self.roomy.entry(class).or_default().insert(index);
        index
    }

    /// What so many bytes are to the policies.
    fn item(&self, bytes: u64) -> Item {
        if bytes > PAGES_MAX {
            let blocks = Blocks::holding(Bytes::new(bytes)).unwrap_or(Blocks::new(u32::MAX));
            return Item::Extent(blocks);
        }
        let order = bytes.div_ceil(PAGE).max(1).next_power_of_two().ilog2() as u8;
        Item::Small { order, movable: self.can_move(bytes) }
    }

    /// Drawn for each size: splitmix64 of the seed and the size.
    fn can_move(&self, bytes: u64) -> bool {
        let mut x = self.seed.wrapping_add(bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ x >> 31) >> 11) as f64 / (1u64 << 53) as f64 <= self.movable && self.movable > 0.0
    }

    fn place(&mut self, item: Item, tell: impl FnOnce(Event)) -> ItemId {
        let id = self.free_ids.pop().unwrap_or_else(|| {
            self.ids += 1;
            ItemId::new(self.ids as usize - 1)
        });
        self.live += item.bytes().get();
        self.peak = self.peak.max(self.live);
        tell(Event::Allocate(id, item));
        id
    }

    fn remove(&mut self, id: ItemId, item: Item, tell: impl FnOnce(Event)) {
        self.live -= item.bytes().get();
        self.free_ids.push(id);
        tell(Event::Free(id));
    }
}

/// A size rounded up to 16 bytes, or to an eighth of a doubling.
fn class(bytes: u64) -> u64 {
    let bytes = bytes.max(1);
    let step = (bytes.next_power_of_two() / 16).max(16);
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_are_rounded_by_an_eighth_at_most() {
        for bytes in 1..=SLAB_OBJECT_MAX {
            let class = class(bytes);
            assert!(
                class >= bytes && (class < bytes + 16 || class * 8 <= bytes * 9 + 8),
                "{bytes}"
            );
        }
    }

    #[test]
    fn a_share_of_the_sizes_can_move() {
        let part = |movable| {
            let slabs = Slabs::new(movable, 1);
            (1..=10_000).filter(|&bytes| slabs.can_move(bytes)).count()
        };
        assert_eq!((part(0.0), part(1.0)), (0, 10_000));
        assert!((7_800..8_200).contains(&part(0.8)), "{}", part(0.8));
    }

    proptest! {
        /// What the policies are told is of one piece: numbers are given out once, all ends with the
        /// last object, and no slab holds more than it can.
        #[test]
        fn slabs_come_and_go_with_their_objects(
            sizes in prop::collection::vec((0u64..600_000, any::<prop::sample::Index>()), 1..300),
        ) {
            let mut slabs = Slabs::new(0.5, 3);
            let mut living = HashMap::new();
            let mut objects: Vec<(Place, u64)> = Vec::new();
            let mut check = |event| match event {
                Event::Allocate(id, item) => assert!(living.insert(id, item).is_none()),
                Event::Free(id) => assert!(living.remove(&id).is_some()),
                Event::Hour(_) => unreachable!(),
            };
            for (bytes, index) in sizes {
                if bytes % 3 == 0 && !objects.is_empty() {
                    let (place, _) = objects.swap_remove(index.index(objects.len()));
                    slabs.end(place, &mut check);
                } else {
                    let bytes = bytes >> (bytes % 20);
                    objects.push((slabs.make(bytes, &mut check), bytes));
                }
                let asked: u64 = objects.iter().map(|object| object.1).sum();
                prop_assert!(slabs.live >= asked);
            }
            for (place, _) in objects {
                slabs.end(place, &mut check);
            }
            prop_assert_eq!((slabs.live, living.len()), (0, 0));
        }
    }
}
