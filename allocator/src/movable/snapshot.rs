//! What stands where in a heap and its arena, for whoever plans moves: each block as it was at one moment. While it is
//! taken others go on, so that moments differ; whoever moves looks again.

use super::heap::Inner;
use super::slab::{ByBin, Zone};
use crate::os::Os;
use crate::placement::Class;
use crate::units::{BlockId, BlockRange, Blocks, Bytes};

/// What stands where. Plain data, so that plans can be made for heaps that do not exist.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Blocks of the arena.
    pub capacity: Blocks,
    /// The block after the highest pinned one.
    pub pinned_end: Option<BlockId>,
    /// The lowest huge block; `None` where there is none.
    pub huge_start: Option<BlockId>,
    /// Pinned and huge extents, lowest first.
    pub fixed: Vec<BlockRange>,
    /// Movable extents, lowest first.
    pub movable: Vec<Occupied>,
    /// Kinds of places that objects stand in.
    pub bins: Vec<BinShape>,
    /// What each block of slabs has of each kind: [`Occupied::shares`] says which are whose.
    pub shares: Vec<Share>,
}

/// A movable extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occupied {
    /// Its blocks.
    pub range: BlockRange,
    /// Bytes of the objects in it, as many as have to be copied when it is emptied.
    pub live: Bytes,
    /// What it holds.
    pub holds: Holds,
    /// Of a block of slabs: slices of 32 KiB that no slab has.
    pub free_slices: u8,
    /// Of a block of slabs: first of its shares in [`Snapshot::shares`], and how many.
    pub shares: (u32, u8),
}

/// What a movable extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// Slabs of objects, each of which can go elsewhere.
    Slabs,
    /// One object longer than a block.
    Long,
    /// Something that does not move: it refused, or is not the heap's.
    Stuck,
}

/// Places of one size, for objects of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BinShape {
    /// Bytes of a place.
    pub place: Bytes,
    /// Places of a slab.
    pub places: u32,
    /// Slices of a slab.
    pub slices: u8,
}

/// What a block has of one kind of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Which, in [`Snapshot::bins`].
    pub bin: u32,
    /// Places taken.
    pub taken: u32,
    /// Places free.
    pub free: u32,
}

/// What is known of a kind of places while a snapshot is taken.
struct Kind {
    bin: u32,
    /// The last share of it.
    share: usize,
}

/// Extents that are looked at without letting others at the heap.
const TOGETHER: usize = 16;

impl Snapshot {
    /// Free blocks, wherever they stand.
    pub fn free_blocks(&self) -> Blocks {
        let fixed: u32 = self.fixed.iter().map(|run| run.len().get()).sum();
        let movable: u32 = self.movable.iter().map(|extent| extent.range.len().get()).sum();
        self.capacity - Blocks::new(fixed + movable)
    }

    /// The shares of an extent.
    pub fn shares_of(&self, extent: &Occupied) -> &[Share] {
        let (first, count) = extent.shares;
        &self.shares[first as usize..first as usize + usize::from(count)]
    }

    /// Bytes of all movable objects.
    pub fn live(&self) -> Bytes {
        self.movable.iter().fold(Bytes::ZERO, |sum, extent| sum + extent.live)
    }

    pub(super) fn of<O: Os>(heap: &Inner<O>) -> Self {
        let mut snapshot = Self::default();
        let mut extents = Vec::new();
        {
            let placement = heap.arena.placement();
            snapshot.capacity = placement.capacity();
            snapshot.pinned_end = Some(placement.pinned_end());
            let huge_start = placement.huge_start();
            snapshot.huge_start = Some(huge_start).filter(|at| at.get() < snapshot.capacity.get());
            let mut stuck = placement.iter_stuck().peekable();
            for placed in placement.iter_extents(BlockId::new(0)) {
                if placed.class != Class::Movable {
                    snapshot.fixed.push(placed.range);
                    continue;
                }
                while stuck.next_if(|at| at.start() < placed.range.start()).is_some() {}
                extents.push((placed.range, stuck.peek() == Some(&placed.range)));
            }
        }
        let mut bins = ByBin::default();
        for some in extents.chunks(TOGETHER) {
            let state = heap.state();
            for &(range, stuck) in some {
                let occupied = snapshot.occupied(&state.store, range, stuck, &mut bins);
                snapshot.movable.push(occupied);
            }
            drop(state);
            heap.let_others();
        }
        snapshot
    }

    fn occupied<O: Os>(
        &mut self,
        store: &super::store::Store<O>,
        range: BlockRange,
        stuck: bool,
        bins: &mut ByBin<Kind>,
    ) -> Occupied {
        let block = range.start();
        let (live, holds) = match store.big(block) {
            Some(big) => (Bytes::new(big.len), Holds::Long),
            None if store.zone_of(block) == Some(Zone::Movable) => {
                (Bytes::new(u64::from(store.live(block))), Holds::Slabs)
            }
            // Being taken or given back at this moment, or not the heap's.
            None => (range.len().bytes(), Holds::Stuck),
        };
        let first = self.shares.len();
        if holds == Holds::Slabs {
            self.add_shares(store, block, bins);
        }
        Occupied {
            range,
            live,
            holds: if stuck { Holds::Stuck } else { holds },
            free_slices: if holds == Holds::Slabs { store.free_slices(block) as u8 } else { 0 },
            shares: (first as u32, (self.shares.len() - first) as u8),
        }
    }

    /// One share for each kind of places in a block.
    fn add_shares<O: Os>(
        &mut self,
        store: &super::store::Store<O>,
        block: BlockId,
        bins: &mut ByBin<Kind>,
    ) {
        let first = self.shares.len();
        for slab in store.slabs_of(block) {
            let slab = store.slab(slab);
            let kind = bins.entry(slab.bin).or_insert_with(|| {
                self.bins.push(BinShape {
                    place: Bytes::new(u64::from(slab.size)),
                    places: slab.places,
                    slices: slab.run.count as u8,
                });
                Kind { bin: self.bins.len() as u32 - 1, share: 0 }
            });
            let (taken, free) = (slab.taken, slab.places - slab.taken);
            // One of an earlier block is out of the range.
            match self.shares[first..].get_mut(kind.share.wrapping_sub(first)) {
                Some(share) if share.bin == kind.bin => {
                    (share.taken, share.free) = (share.taken + taken, share.free + free);
                }
                _ => {
                    kind.share = self.shares.len();
                    self.shares.push(Share { bin: kind.bin, taken, free });
                }
            }
        }
    }
}
