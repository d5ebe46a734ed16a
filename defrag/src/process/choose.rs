//! Which blocks to empty: the cheapest ones whose objects have room in those that are kept.

use bookend::movable::{Holds, Occupied, Snapshot};
use bookend::units::{BLOCK_BYTES, Blocks, Bytes};

use super::plan::{Plan, Shortfall, Step, Target};

/// Room for the objects of blocks that are emptied, in blocks that are kept.
///
/// Objects go to free places of their own kind; where these do not suffice, to new slabs in slices
/// that no slab has. That these stand side by side where a slab needs several is taken for granted:
/// what is not so, the execution finds out.
#[derive(Clone, Debug)]
pub(super) struct Room {
    /// Of each kind: places free in kept blocks less those taken in others.
    spare: Vec<i64>,
    /// Slices free in kept blocks.
    slices: i64,
    /// Slices that new slabs need.
    needed: i64,
}

impl Room {
    pub fn new(snapshot: &Snapshot) -> Self {
        let mut room = Self { spare: vec![0; snapshot.bins.len()], slices: 0, needed: 0 };
        for extent in snapshot.movable.iter().filter(|extent| extent.holds != Holds::Long) {
            room.slices += i64::from(extent.free_slices);
            for share in snapshot.shares_of(extent) {
                room.spare[share.bin as usize] += i64::from(share.free);
            }
        }
        room
    }

    fn slices_for(&self, snapshot: &Snapshot, bin: u32) -> i64 {
        let shape = &snapshot.bins[bin as usize];
        let missing = -self.spare[bin as usize];
        if missing <= 0 {
            return 0; // as for most, and without a division
        }
        (missing + i64::from(shape.places) - 1) / i64::from(shape.places) * i64::from(shape.slices)
    }

    /// Takes a block for one to be emptied (`sign` 1), or takes that back (−1).
    fn change(&mut self, snapshot: &Snapshot, extent: &Occupied, sign: i64) {
        self.slices -= sign * i64::from(extent.free_slices);
        for share in snapshot.shares_of(extent) {
            let before = self.slices_for(snapshot, share.bin);
            self.spare[share.bin as usize] -= sign * i64::from(share.free + share.taken);
            self.needed += self.slices_for(snapshot, share.bin) - before;
        }
    }

    /// Takes a block for one to be emptied, if its objects have room then.
    pub fn take(&mut self, snapshot: &Snapshot, extent: &Occupied) -> bool {
        self.change(snapshot, extent, 1);
        let fits = self.needed <= self.slices;
        if !fits {
            self.change(snapshot, extent, -1);
        }
        fits
    }
}

/// Numbers of the blocks of slabs, those with the fewest live bytes first: sorted by counting, in
/// steps of 128 bytes.
fn by_cost(snapshot: &Snapshot) -> Vec<u32> {
    const STEP: u64 = 128;
    let slot = |extent: &Occupied| (extent.live.get().min(BLOCK_BYTES as u64) / STEP) as usize;
    let slabs = || snapshot.movable.iter().enumerate().filter(|(_, e)| e.holds == Holds::Slabs);
    let mut starts = vec![0u32; BLOCK_BYTES / STEP as usize + 2];
    slabs().for_each(|(_, extent)| starts[slot(extent) + 1] += 1);
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut order = vec![0; starts[starts.len() - 1] as usize];
    for (number, extent) in slabs() {
        let at = &mut starts[slot(extent)];
        order[*at as usize] = number as u32;
        *at += 1;
    }
    order
}

/// After so many blocks in a row without room the rest, which cost more, are not tried.
const REFUSED_MAX: u32 = 4096;

/// Empties the `wanted` cheapest blocks.
pub(super) fn cheapest(snapshot: &Snapshot, target: Target, wanted: Blocks) -> Plan {
    let order = by_cost(snapshot);
    let mut room = Room::new(snapshot);
    let mut plan = Plan::nothing(target, None);
    let mut refused = 0;
    for &number in &order {
        if plan.steps.len() == wanted.as_usize() || refused == REFUSED_MAX {
            break;
        }
        let extent = &snapshot.movable[number as usize];
        refused += 1;
        if room.take(snapshot, extent) {
            refused = 0;
            plan.cost = plan.cost + extent.live;
            plan.steps.push(Step::Empty(extent.range.start()));
        }
    }
    let cheapest = order.iter().take(plan.steps.len());
    plan.least = cheapest
        .map(|&number| snapshot.movable[number as usize].live)
        .fold(Bytes::ZERO, |sum, live| sum + live);
    let short = wanted.get() - plan.steps.len() as u32;
    if short > 0 && target != Target::Release {
        plan.shortfall = Some(Shortfall::NoRoom { short: Blocks::new(short) });
    }
    plan
}
