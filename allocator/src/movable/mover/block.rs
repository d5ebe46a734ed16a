//! Emptying blocks of slabs: objects go to room in other blocks, or each to the same place in another
//! block.

use super::round::{Item, Terms};
use super::{Budget, Carried, Moving};
use crate::heap::classes::SLICES;
use crate::movable::error::{MovableError, Obstacle};
use crate::movable::heap::{Inner, offset_of};
use crate::movable::protocol;
use crate::movable::slab::{Slab, Zone};
use crate::movable::stamps;
use crate::movable::word::{LIVE, Offset, Word};
use crate::os::Os;
use crate::units::{BlockId, BlockRange, Blocks};

use core::sync::atomic::Ordering::Relaxed;

/// Objects and bytes of a first round: few rounds, as each waits for sessions.
const BATCH: usize = 1024;
const BATCH_BYTES: u64 = 2 << 20;
/// Objects and bytes of a round that insists: others wait for it.
const INSISTING: usize = 32;
const INSISTING_BYTES: u64 = 256 << 10;
/// How often what is left is tried again.
const AGAIN: usize = 3;

/// Blocks that take nothing in, for as long as this lives: those that are to be emptied together, so
/// that what leaves the one does not go into the other.
#[derive(Debug)]
pub struct Closed<'a, O: Os> {
    heap: &'a Inner<O>,
    blocks: Vec<BlockId>,
}

impl<O: Os> Inner<O> {
    /// Closes those of the blocks that hold movable slabs and are open.
    pub(crate) fn close(&self, blocks: impl IntoIterator<Item = BlockId>) -> Closed<'_, O> {
        let mut closed = Closed { heap: self, blocks: Vec::new() };
        let mut state = self.state();
        for block in blocks {
            if state.store.close(block) {
                closed.blocks.push(block);
            }
        }
        drop(state);
        closed
    }
}

impl<O: Os> Closed<'_, O> {
    /// Which.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}

impl<O: Os> Drop for Closed<'_, O> {
    fn drop(&mut self) {
        let mut state = self.heap.state();
        let empty: Vec<_> =
            self.blocks.iter().filter_map(|&block| state.store.open(block)).collect();
        drop(state);
        empty.into_iter().for_each(|range| self.heap.give_blocks(range));
    }
}

/// Where the objects of a block go.
#[derive(Clone, Copy, Debug)]
enum Target {
    /// To room in open blocks.
    Anywhere,
    /// To the same places in another block.
    Mirror(BlockId),
}

/// How far a pass over a block has come, and what it may take.
struct Pass {
    /// The slice and the place to go on with. Not the number of a slab in the block: slabs that have
    /// been emptied are no more.
    slice: u32,
    place: u32,
    objects_max: usize,
    bytes_max: u64,
    /// What is in the way of objects that were passed over.
    obstacle: Option<Obstacle>,
}

impl Pass {
    /// Whether a round has enough.
    fn is_full(&self, items: &[Item], bytes: u64) -> bool {
        items.len() == self.objects_max || bytes >= self.bytes_max
    }
}

impl<O: Os> Moving<'_, O> {
    /// Moves the objects of a closed block to room in others.
    pub(in crate::movable) fn empty(&self, block: BlockId, budget: &mut Budget) -> Carried {
        self.carry_all(block, Target::Anywhere, budget)
    }

    /// Moves the objects of a closed block, in gentle rounds and then in some that insist.
    fn carry_all(&self, block: BlockId, target: Target, budget: &mut Budget) -> Carried {
        let stamp = &self.heap.tables.stamps[block.as_usize()];
        protocol::begin_emptying(stamp);
        let mut done = Carried::default();
        for pass in 0..=AGAIN {
            let insist = pass > 0;
            let carried = self.pass(block, target, insist, budget);
            done = Carried {
                objects: done.objects + carried.objects,
                bytes: done.bytes + carried.bytes,
                obstacle: carried.obstacle,
            };
            if carried.obstacle != Some(Obstacle::InUse) {
                break;
            }
        }
        protocol::end_emptying(stamp, stamps::next());
        done
    }

    /// Tries each object of a block once.
    fn pass(&self, block: BlockId, target: Target, insist: bool, budget: &mut Budget) -> Carried {
        let (objects_max, bytes_max) =
            if insist { (INSISTING, INSISTING_BYTES) } else { (BATCH, BATCH_BYTES) };
        let mut pass = Pass { slice: 0, place: 0, objects_max, bytes_max, obstacle: None };
        let mut done = Carried::default();
        // Nobody else wants it: one thread at a time moves.
        let mut batch = core::mem::take(&mut *self.heap.batch.lock());
        loop {
            if budget.is_spent() {
                done.obstacle = Some(Obstacle::Budget);
                break;
            }
            self.gather(block, target, &mut pass, &mut batch.items);
            if batch.items.is_empty() {
                done.meet(pass.obstacle);
                break;
            }
            done.add(self.round(&mut batch, Terms { insist, pin: false }, budget));
            self.give_back(&batch.places);
            self.heap.let_others();
        }
        *self.heap.batch.lock() = batch;
        done
    }

    /// The next objects of a pass, and places for them.
    fn gather(&self, block: BlockId, target: Target, pass: &mut Pass, items: &mut Vec<Item>) {
        let mut state = self.heap.state();
        let store = &mut state.store;
        let mut bytes = 0;
        for slab in store.slabs_of(block) {
            let Slab { run, bin, .. } = *store.slab(slab);
            if run.first < pass.slice {
                continue;
            }
            if run.first > pass.slice {
                (pass.slice, pass.place) = (run.first, 0);
            }
            // Not before there is something to go into it: nobody takes an empty slab away.
            while self.next_movable(store.slab(slab), pass).is_some() {
                if pass.is_full(items, bytes) {
                    return;
                }
                let into = match target {
                    Target::Anywhere => store.roomy_slab(bin),
                    Target::Mirror(to) => Some(store.mirror(slab, to)),
                };
                let Some(into) = into else {
                    pass.obstacle = Some(Obstacle::NoRoom); // nor is there for the rest of the slab
                    break;
                };
                store.fill(slab, into, |slab, into| {
                    bytes += self.fill(slab, into, target, pass, items, bytes);
                });
            }
        }
        pass.slice = SLICES;
    }

    /// Gives the next objects of a slab places in another one, as many as it has, or a round takes that has `had` so many
    /// bytes. How many bytes they are.
    fn fill(
        &self,
        slab: &Slab,
        into: &mut Slab,
        target: Target,
        pass: &mut Pass,
        items: &mut Vec<Item>,
        had: u64,
    ) -> u64 {
        let (len, owner) = (u64::from(slab.size), slab.bin.owner);
        let (mut bytes, mut lowest) = (0, 0);
        while !pass.is_full(items, had + bytes)
            && let Some((place, index)) = self.next_movable(slab, pass)
        {
            let there = match target {
                Target::Anywhere => into.next_free(lowest),
                Target::Mirror(_) => Some(place),
            };
            let Some(there) = there else { break };
            into.take(there, index);
            let (from, to) = (slab.offset(place), into.offset(there));
            items.push(Item { index, owner, held: false, fate: Ok(()), from, to, len });
            bytes += len;
            lowest = there + 1;
            pass.place = place + 1;
        }
        bytes
    }

    /// The next object of a slab that can be tried, which the pass stands at then.
    fn next_movable(&self, slab: &Slab, pass: &mut Pass) -> Option<(u32, u32)> {
        loop {
            let (place, index) = slab.next_taken(pass.place)?;
            pass.place = place;
            let Some(obstacle) = self.unmovable(index, slab.offset(place)) else {
                return Some((place, index));
            };
            pass.obstacle = pass.obstacle.or(obstacle);
            pass.place += 1;
        }
    }

    /// Why the object of a place is not even tried: `Some(None)` where there is none.
    fn unmovable(&self, index: u32, from: Offset) -> Option<Option<Obstacle>> {
        let word = Word(self.heap.tables.word(index).load(Relaxed));
        if !word.has(LIVE) || word.offset() != from {
            return Some(None);
        }
        (word.pins() > 0).then_some(Some(Obstacle::Pinned))
    }

    /// Moves a block of slabs to another one, which is populated and nobody's. Whether anything is
    /// left in the one, and anything has come into the other.
    pub(super) fn carry_block(
        &self,
        from: BlockId,
        to: BlockId,
        budget: &mut Budget,
    ) -> Result<(Carried, Halves), MovableError> {
        {
            let mut state = self.heap.state();
            if state.store.zone_of(from) != Some(Zone::Movable) || !state.store.close(from) {
                return Err(MovableError::NotOurs { blocks: BlockRange::new(from, Blocks::ONE) });
            }
            state.store.add_closed(to);
            self.heap.tables.open(offset_of(BlockRange::new(to, Blocks::ONE)));
        }
        let carried = self.carry_all(from, Target::Mirror(to), budget);
        let mut state = self.heap.state();
        let to_empty = state.store.open(to).is_some();
        let from_empty = state.store.open(from).is_some();
        Ok((carried, Halves { from_empty, to_empty }))
    }
}

/// What is left of a block that was moved; an empty one is nobody's any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Halves {
    pub from_empty: bool,
    pub to_empty: bool,
}
