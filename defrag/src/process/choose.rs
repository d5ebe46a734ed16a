//! Which blocks to empty: the cheapest ones whose objects have room in those that are kept.

use core::hint::black_box;

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
        let kinds = snapshot.bins.iter().map(Kind::new).collect();
        let mut room = Self { kinds, slices: 0, needed: 0 };
        for extent in snapshot.movable.iter().filter(|extent| extent.holds != Holds::Long) {
            room.slices += i64::from(extent.free_slices);
            for share in snapshot.shares_of(extent) {
                room.kinds[share.bin as usize].spare += i64::from(share.free);
            }
        }
        room
    }

    /// Takes a block for one to be emptied (`sign` 1), or takes that back (−1).
    fn change(&mut self, free_slices: u8, shares: &[Share], sign: i64) {
        self.slices -= sign * i64::from(free_slices);
        for share in shares {
            let places = i64::from(share.free + share.taken);
            self.needed += self.kinds[share.bin as usize].add(-sign * places);
        }
    }

    /// Takes a block for one to be emptied, if its objects have room then.
    pub fn take(&mut self, snapshot: &Snapshot, extent: &Occupied) -> bool {
        self.take_shares(extent.free_slices, snapshot.shares_of(extent))
    }

    fn take_shares(&mut self, free_slices: u8, shares: &[Share]) -> bool {
        self.change(free_slices, shares, 1);
        let fits = self.needed <= self.slices;
        if !fits {
            self.change(free_slices, shares, -1);
        }
        fits
    }
}

/// What a choice needs to know of a block of slabs: one after the other in the order of their cost, so
/// that nothing has to be looked up in tables that are in no cache.
#[derive(Clone, Copy, Default)]
struct Candidate {
    block: u32,
    live: u32,
    first_share: u32,
    shares: u8,
    free_slices: u8,
}

const _: () = assert!(size_of::<Candidate>() == 16 && BLOCK_BYTES <= u32::MAX as usize);

/// The blocks of slabs, those with the fewest live bytes first: sorted by counting, in steps of 128 bytes.
fn by_cost(snapshot: &Snapshot) -> Vec<Candidate> {
    const STEP: u64 = 128;
    let slot = |extent: &Occupied| (extent.live.get().min(BLOCK_BYTES as u64) / STEP) as usize;
    let slabs = || snapshot.movable.iter().filter(|extent| extent.holds == Holds::Slabs);
    let mut starts = vec![0u32; BLOCK_BYTES / STEP as usize + 2];
    slabs().for_each(|extent| starts[slot(extent) + 1] += 1);
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut order = vec![Candidate::default(); starts[starts.len() - 1] as usize];
    for extent in slabs() {
        let at = &mut starts[slot(extent)];
        order[*at as usize] = Candidate {
            block: extent.range.start().get(),
            live: extent.live.get().min(BLOCK_BYTES as u64) as u32,
            first_share: extent.shares.0,
            shares: extent.shares.1,
            free_slices: extent.free_slices,
        };
        *at += 1;
    }
    order
}

/// After so many blocks in a row without room the rest, which cost more, are not tried.
const REFUSED_MAX: u32 = 4096;
/// Candidates whose shares are read ahead at once, by loads that do not wait for one another: they stand
/// anywhere, and in no cache.
const AT_ONCE: usize = 64;

/// Empties the `wanted` cheapest blocks.
pub(super) fn cheapest(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let order = by_cost(snapshot);
    let mut room = Room::new(snapshot);
    let mut plan = Plan::nothing(target, None);
    plan.steps.reserve(wanted.as_usize().min(order.len()));
    let (mut cost, mut least, mut refused) = (0, 0, 0);
    'all: for candidates in order.chunks(AT_ONCE) {
        let first = |candidate: &Candidate| snapshot.shares.get(candidate.first_share as usize);
        black_box(candidates.iter().filter_map(first).fold(0, |all, share| all ^ share.bin));
        for candidate in candidates {
            if plan.steps.len() == wanted.as_usize() || refused == REFUSED_MAX {
                break 'all;
            }
            let its = &snapshot.shares[candidate.first_share as usize..];
            let its = &its[..candidate.shares.into()];
            refused += 1;
            if room.take_shares(candidate.free_slices, its) {
                refused = 0;
                cost += u64::from(candidate.live);
                least += u64::from(order[plan.steps.len()].live);
                plan.steps.push(Step::Empty(BlockId::new(candidate.block)));
            }
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
