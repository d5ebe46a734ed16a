//! Which blocks to empty: the cheapest ones whose objects have room in those that are kept.

use bookend::movable::{BinShape, Holds, Occupied, Share, Snapshot};
use bookend::units::{BLOCK_BYTES, BlockId, Blocks, Bytes};

use super::plan::{Plan, Shortfall, Step, Target};

/// Room for the objects of blocks that are emptied, in blocks that are kept.
///
/// Objects go to free places of their own kind; where these do not suffice, to new slabs in slices
/// that no slab has. That these stand side by side where a slab needs several is taken for granted:
/// what is not so, the execution finds out.
#[derive(Clone, Debug)]
pub(super) struct Room {
    kinds: Vec<Kind>,
    /// Slices free in kept blocks.
    slices: i64,
    /// Slices that new slabs need.
    needed: i64,
}

/// Room for the objects of one kind.
#[derive(Clone, Copy, Debug)]
struct Kind {
    /// Places free in kept blocks less those taken in others.
    spare: i64,
    /// Slices that its new slabs need.
    needed: i64,
    /// Places of a slab, and its slices.
    places: u32,
    slices: u32,
}

impl Kind {
    fn new(shape: &BinShape) -> Self {
        Self { spare: 0, needed: 0, places: shape.places, slices: shape.slices.into() }
    }

    /// So many places more; says how many slices more new slabs need.
    fn add(&mut self, places: i64) -> i64 {
        self.spare += places;
        let before = self.needed;
        self.needed = match -self.spare {
            missing @ 1.. => {
                let places = i64::from(self.places);
                (missing + places - 1) / places * i64::from(self.slices)
            }
            _ => 0, // as for most, and without a division
        };
        self.needed - before
    }
}

impl Room {
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut room = Self::none(snapshot);
        for extent in &snapshot.movable {
            room.offer(extent, snapshot.shares_of(extent));
        }
        room
    }

    fn none(snapshot: &Snapshot) -> Self {
        let kinds = snapshot.bins.iter().map(Kind::new).collect();
        Self { kinds, slices: 0, needed: 0 }
    }

    /// Adds the room that an extent has.
    fn offer(&mut self, extent: &Occupied, shares: &[Share]) {
        if extent.holds != Holds::Long {
            self.slices += i64::from(extent.free_slices);
            for share in shares {
                self.kinds[share.bin as usize].spare += i64::from(share.free);
            }
        }
    }

    /// Takes a block for one to be emptied (`sign` 1), or takes that back (−1).
    fn change(&mut self, free_slices: u8, places: impl Iterator<Item = (usize, u32)>, sign: i64) {
        self.slices -= sign * i64::from(free_slices);
        for (bin, places) in places {
            self.needed += self.kinds[bin].add(-sign * i64::from(places));
        }
    }

    /// Takes a block for one to be emptied, if its objects have room then.
    pub fn take(&mut self, snapshot: &Snapshot, extent: &Occupied) -> bool {
        self.take_places(extent.free_slices, places_of(snapshot.shares_of(extent)))
    }

    /// The same of a block with so many places in these bins.
    fn take_places(
        &mut self,
        free_slices: u8,
        places: impl Iterator<Item = (usize, u32)> + Clone,
    ) -> bool {
        self.change(free_slices, places.clone(), 1);
        let fits = self.needed <= self.slices;
        if !fits {
            self.change(free_slices, places, -1);
        }
        fits
    }
}

/// Bins, and the places that the slabs of each have.
fn places_of(shares: &[Share]) -> impl Iterator<Item = (usize, u32)> + Clone {
    shares.iter().map(|share| (share.bin as usize, share.free + share.taken))
}

/// Shares of a block that stand with it.
const WITHIN: usize = 2;

/// What a choice needs to know of a block of slabs: one after the other in the order of their cost, so
/// that for most nothing has to be looked up in tables that are in no cache.
#[derive(Clone, Copy, Default)]
struct Candidate {
    block: u32,
    live: u32,
    places: [u32; WITHIN],
    bins: [u8; WITHIN],
    /// How many of these there are; more than that, and it is looked up.
    shares: u8,
    free_slices: u8,
    /// Its number among the movable extents.
    extent: u32,
}

const _: () = assert!(size_of::<Candidate>() == 24 && BLOCK_BYTES <= u32::MAX as usize);

impl Candidate {
    fn new(extent: &Occupied, number: usize, shares: &[Share]) -> Self {
        let mut this = Self {
            block: extent.range.start().get(),
            live: extent.live.get().min(BLOCK_BYTES as u64) as u32,
            free_slices: extent.free_slices,
            extent: number as u32, // of at most 2^32 blocks
            ..Self::default()
        };
        let is_short = shares.len() <= WITHIN && shares.iter().all(|share| share.bin < 256);
        this.shares = if is_short { shares.len() as u8 } else { u8::MAX };
        for (at, (bin, places)) in places_of(shares).take(WITHIN).enumerate() {
            (this.bins[at], this.places[at]) = (bin as u8, places);
        }
        this
    }

    /// Takes it for one to be emptied, if its objects have room then.
    fn take(&self, snapshot: &Snapshot, room: &mut Room) -> bool {
        match self.shares as usize {
            shares @ 0..=WITHIN => {
                let bins = self.bins[..shares].iter().map(|&bin| bin as usize);
                room.take_places(self.free_slices, bins.zip(self.places))
            }
            _ => room.take(snapshot, &snapshot.movable[self.extent as usize]),
        }
    }
}

/// The blocks of slabs, those with the fewest live bytes first, sorted by counting, in steps of 128
/// bytes; and the room that all have.
fn by_cost(snapshot: &Snapshot) -> (Vec<Candidate>, Room) {
    const STEP: u64 = 128;
    let slot = |extent: &Occupied| (extent.live.get().min(BLOCK_BYTES as u64) / STEP) as usize;
    let mut starts = vec![0u32; BLOCK_BYTES / STEP as usize + 2];
    let slabs = snapshot.movable.iter().filter(|extent| extent.holds == Holds::Slabs);
    slabs.for_each(|extent| starts[slot(extent) + 1] += 1);
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut order = vec![Candidate::default(); starts[starts.len() - 1] as usize];
    let mut room = Room::none(snapshot);
    for (number, extent) in snapshot.movable.iter().enumerate() {
        let shares = snapshot.shares_of(extent);
        room.offer(extent, shares);
        if extent.holds == Holds::Slabs {
            let at = &mut starts[slot(extent)];
            order[*at as usize] = Candidate::new(extent, number, shares);
            *at += 1;
        }
    }
    (order, room)
}

/// After so many blocks in a row without room the rest, which cost more, are not tried.
const REFUSED_MAX: u32 = 4096;
/// Empties the `wanted` cheapest blocks.
pub(super) fn cheapest(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let (order, mut room) = by_cost(snapshot);
    let mut plan = Plan::nothing(target, None);
    plan.steps.reserve(wanted.as_usize().min(order.len()));
    let (mut cost, mut least, mut refused) = (0, 0, 0);
    for candidate in &order {
        if plan.steps.len() == wanted.as_usize() || refused == REFUSED_MAX {
            break;
        }
        refused += 1;
        if candidate.take(snapshot, &mut room) {
            refused = 0;
            cost += u64::from(candidate.live);
            least += u64::from(order[plan.steps.len()].live);
            plan.steps.push(Step::Empty(BlockId::new(candidate.block)));
        }
    }
    plan.cost = Bytes::new(cost);
    plan.least = Bytes::new(least);
    let short = wanted.get() - plan.steps.len() as u32;
    if short > 0 && target != Target::Release {
        plan.shortfall = Some(Shortfall::NoRoom { short: Blocks::new(short) });
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::super::plan::plan;
    use super::super::tests::snapshot;
    use super::*;

    #[test]
    fn shares_that_stand_elsewhere_count_the_same() {
        let few = snapshot(&[Some(200), Some(10), Some(40), None, Some(30), Some(256)]);
        // The same places under a number too large for a byte.
        let mut large = few.clone();
        large.bins = vec![few.bins[0]; 400];
        large.shares.iter_mut().for_each(|share| share.bin = 399);
        for target in [Target::Release, Target::FreeBlocks(Blocks::new(3))] {
            assert_eq!(plan(&few, target), plan(&large, target));
        }
        // More bins than stand within.
        let mut many = few.clone();
        many.bins = vec![few.bins[0]; 4];
        many.shares.clear();
        for (extent, share) in many.movable.iter_mut().zip(&few.shares) {
            extent.shares = (many.shares.len() as u32, 4);
            many.shares.push(Share { taken: share.taken - 3, ..*share });
            many.shares.extend((1..4).map(|bin| Share { bin, taken: 1, free: 3 }));
        }
        let (order, mut room) = by_cost(&many);
        let mut slow = room.clone();
        let extent = |block| many.movable.iter().find(|e| e.range.start().get() == block).unwrap();
        let took = |candidate: &Candidate| {
            let fast = candidate.take(&many, &mut room);
            assert_eq!(fast, slow.take(&many, extent(candidate.block)));
            assert_eq!((room.needed, room.slices), (slow.needed, slow.slices));
            fast
        };
        let took: Vec<_> = order.iter().map(took).collect();
        assert!(took.contains(&true) && took.contains(&false), "{took:?}");
    }
}
