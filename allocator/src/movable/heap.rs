//! The heap behind the handles: allocating, freeing, and what the mover shares with them.
#![allow(unsafe_code)] // drops objects in place

use core::fmt;
use core::sync::atomic::Ordering::{Acquire, Release};
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::error::MovableError;
use super::mover::Batch;
use super::owner::{NOBODY, OWNERS_MAX, Owner, told};
use super::protocol::{self, Buried, Ended};
use super::registry::{Door, DropFn, Keep, Number};
use super::slab::{Bin, Size, Zone};
use super::store::{Big, Store};
use super::tables::{ObjectId, Tables};
use super::threads::{in_session, settle};
use super::word::{Offset, Word, is_reachable};
use crate::lock::{Lock, Locked};
use crate::os::{Os, barrier};
use crate::placement::{Arena, ArenaError, Class, Misuse, Refusal};
use crate::units::{BlockRange, Blocks, Bytes};

/// What is under the heap's lock.
#[derive(Debug)]
pub(super) struct State<O: Os> {
    pub store: Store<O>,
    /// Set while there are objects: their handles need the heap.
    keep: Option<Arc<Inner<O>>>,
}

/// A heap. See the [module](super).
pub(super) struct Inner<O: Os> {
    pub tables: Tables,
    pub arena: Arc<Arena<O>>,
    state: Lock<State<O>>,
    owners: RwLock<Vec<Arc<dyn Owner>>>,
    /// One thread at a time moves.
    pub mover: Lock<()>,
    /// What a round fills, kept for the next one.
    pub batch: Lock<Batch>,
    /// How objects are to be dropped that were freed while the mover had them.
    doomed: Lock<HashMap<u32, DropFn>>,
    /// Blocks that became free while the placement moved them.
    orphans: Lock<Vec<BlockRange>>,
    objects_max: u32,
    number: Number,
}

/// A new object, pinned once by whoever made it, who fills it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub index: u32,
    pub at: Offset,
}

impl<O: Os> Inner<O> {
    pub fn new(arena: Arc<Arena<O>>, objects: u32) -> Result<Arc<Self>, MovableError> {
        let blocks = arena.pool().capacity();
        if !is_reachable(arena.pool().base().as_ptr() as u64, blocks.bytes()) {
            return Err(MovableError::TooLong { arena: blocks });
        }
        let unmapped = |cause| MovableError::Tables { objects, cause };
        barrier::set_up();
        let (os, base) = (arena.pool().os().clone(), arena.pool().base());
        let number = Number::take(base.as_ptr().addr())?;
        let tables = Tables::new(&os, number.get(), base, blocks, objects).map_err(unmapped)?;
        let store = Store::new(&os, blocks, objects).map_err(unmapped)?;
        let heap = Arc::new(Self {
            tables,
            state: Lock::new(State { store, keep: None }),
            owners: RwLock::default(),
            mover: Lock::new(()),
            batch: Lock::new(Batch::default()),
            doomed: Lock::default(),
            orphans: Lock::default(),
            objects_max: objects,
            arena,
            number,
        });
        heap.number.announce(&heap);
        Ok(heap)
    }

    pub fn state(&self) -> Locked<'_, State<O>> {
        self.state.lock()
    }

    /// Lets whoever waits for the state have it first.
    pub fn let_others(&self) {
        self.state.let_others();
    }

    // Owners.

    pub fn add_owner(&self, owner: Arc<dyn Owner>) -> Result<u16, MovableError> {
        let mut owners = self.owners.write().unwrap_or_else(PoisonError::into_inner);
        if owners.len() == OWNERS_MAX {
            return Err(MovableError::TooManyOwners { most: OWNERS_MAX });
        }
        owners.push(owner);
        Ok(owners.len() as u16)
    }

    pub fn owner(&self, owner: u16) -> Option<Arc<dyn Owner>> {
        if owner == NOBODY {
            return None;
        }
        let owners = self.owners.read().unwrap_or_else(PoisonError::into_inner);
        owners.get(usize::from(owner) - 1).cloned()
    }

    // Making.

    /// Makes an object of `size` bytes, with one pin of the caller's, who fills it before he takes
    /// that off.
    pub fn make(
        self: &Arc<Self>,
        owner: u16,
        size: usize,
        align: usize,
    ) -> Result<Made, MovableError> {
        let Some(size_kind) = Size::of(size, align)? else {
            return self.make_big(owner, size);
        };
        let bin = Bin { owner, size: size_kind, zone: Zone::Movable };
        if let Some(made) = self.make_in(bin, None)? {
            return Ok(made);
        }
        let block = self.take_blocks(Class::Movable, Blocks::ONE)?;
        match self.make_in(bin, Some(block)) {
            Ok(made) => Ok(made.expect("a block that was just brought in has room")),
            Err(error) => {
                self.give_blocks(block);
                Err(error)
            }
        }
    }

    /// Makes an object where there is room, or else in a block that is brought in for it. The block goes
    /// back where there is room meanwhile: one that nothing ever came into would be nobody's to give back.
    fn make_in(
        self: &Arc<Self>,
        bin: Bin,
        block: Option<BlockRange>,
    ) -> Result<Option<Made>, MovableError> {
        let mut state = self.state();
        let index = self.take_index(&mut state)?;
        let found = state.store.take(bin, index);
        let at = found.or_else(|| {
            state.store.add(Zone::Movable, block?.start());
            self.tables.open(offset_of(block?));
            state.store.take(bin, index)
        });
        let Some(at) = at else {
            state.store.give_index(index);
            return Ok(None);
        };
        let made = self.announce(&mut state, index, at);
        drop(state);
        if let (Some(_), Some(unused)) = (found, block) {
            self.give_blocks(unused);
        }
        Ok(Some(made))
    }

    fn make_big(self: &Arc<Self>, owner: u16, size: usize) -> Result<Made, MovableError> {
        let blocks = Blocks::holding(Bytes::of_len(size)).ok_or(MovableError::Size { asked: size });
        let range = self.take_blocks(Class::Movable, blocks?)?;
        let mut state = self.state();
        let index = match self.take_index(&mut state) {
            Ok(index) => index,
            Err(error) => {
                drop(state);
                self.arena.give(range);
                return Err(error);
            }
        };
        let len = size as u64;
        state.store.add_big(Big { index, owner, zone: Zone::Movable, range, len });
        self.tables.open(offset_of(range));
        Ok(self.announce(&mut state, index, offset_of(range)))
    }

    fn take_index(&self, state: &mut State<O>) -> Result<u32, MovableError> {
        let most = self.objects_max;
        state.store.take_index().ok_or(MovableError::TooManyObjects { most })
    }

    fn announce(self: &Arc<Self>, state: &mut State<O>, index: u32, at: Offset) -> Made {
        state.keep.get_or_insert_with(|| Arc::clone(self));
        self.tables.word(index).store(Word::live(at).pinned().0, Release);
        Made { index, at }
    }

    /// Which object a live one is.
    pub fn id(&self, index: u32) -> ObjectId {
        self.tables.id(index)
    }

    /// Takes blocks, and moves what must move for that where this thread may.
    pub fn take_blocks(&self, class: Class, blocks: Blocks) -> Result<BlockRange, MovableError> {
        match self.arena.take(class, blocks) {
            Err(ArenaError::Place(refusal)) if self.may_help(refusal) => {
                let moving = self.begin_moving()?;
                self.take_moving(&moving, class, blocks)
            }
            result => Ok(result?),
        }
    }

    fn may_help(&self, refusal: Refusal) -> bool {
        let helps = matches!(
            refusal,
            Refusal::Evict(_) | Refusal::Compact(_) | Refusal::Busy(_) | Refusal::NoRoom { .. }
        );
        helps && !in_session() && !self.tables.is_mover()
    }

    /// Frees blocks that nothing is left in. Where a move of theirs is under way, the mover does it
    /// when that has ended: both look under the placement's lock.
    pub fn give_blocks(&self, range: BlockRange) {
        let mut placement = self.arena.placement();
        match placement.free(range) {
            Err(Misuse::Moving(_)) => self.orphans.lock().push(range),
            freed => debug_assert!(freed.is_ok(), "blocks are freed once: {freed:?}"),
        }
    }

    /// What the mover has to free; under the placement's lock.
    pub fn take_orphans(&self) -> Vec<BlockRange> {
        core::mem::take(&mut *self.orphans.lock())
    }

    // Ending.

    /// Checks a handle that comes from outside.
    pub fn check(&self, id: ObjectId) -> Result<(), MovableError> {
        let gone = MovableError::NoSuchObject { raw: id.to_raw() };
        if id.heap() != self.tables.heap || id.index() >= self.objects_max {
            return Err(gone);
        }
        let generation = self.tables.generations[id.index() as usize].load(Acquire);
        let word = Word(self.tables.word(id.index()).load(Acquire));
        let current = ObjectId::new(self.tables.heap, generation, id.index());
        if current != id || word == Word::DEAD { Err(gone) } else { Ok(()) }
    }

    /// Gives the place and the number of an object back that is no more.
    fn forget(&self, index: u32, Buried { at, stale }: Buried) -> Option<Keep> {
        if stale {
            settle(1);
        }
        let mut state = self.state();
        self.tables.generations[index as usize].fetch_add(1, Release);
        state.store.give_index(index);
        let empty = state.store.give(at);
        let last = if state.store.objects() == 0 { state.keep.take() } else { None };
        drop(state);
        if let Some(range) = empty {
            self.give_blocks(range);
        }
        last.map(|heap| heap as Keep)
    }

    /// Ends an object that was freed while the mover had it. A panic of what drops it is passed over:
    /// whoever freed it is gone.
    pub fn bury(&self, index: u32) -> Option<Keep> {
        let at = Word(self.tables.word(index).load(Acquire)).offset();
        let drop_fn = self.doomed.lock().remove(&index);
        if let Some(drop_fn) = drop_fn {
            // SAFETY: the handle is gone, which said that this is how the object is dropped; the
            // mover, who has it, calls this and nobody else.
            told(|| unsafe { drop_fn(self.tables.address(at)) });
        }
        self.forget(index, protocol::bury(self.tables.word(index)))
    }

    /// Drops an object's contents in place, and then ends it.
    fn end_dropping(&self, index: u32, drop_fn: DropFn) -> Result<Option<Keep>, MovableError> {
        // Set first: once the object is doomed the mover may end it at any time.
        self.doomed.lock().insert(index, drop_fn);
        let pinned = protocol::pin_or_doom(self.tables.word(index));
        if pinned == Ok(None) {
            return Ok(None);
        }
        self.doomed.lock().remove(&index);
        match pinned {
            Ok(Some(at)) => {
                let ending = Ending { heap: self, index, own: 1 };
                // SAFETY: the handle is gone, which said that this is how the object is dropped; the
                // pin keeps it here, and a pinned object is not given to an owner's callbacks.
                unsafe { drop_fn(self.tables.address(at)) };
                ending.end()
            }
            _ => Err(MovableError::Pinned),
        }
    }
}

/// The offset at which a range of blocks begins.
pub(super) fn offset_of(range: BlockRange) -> Offset {
    Offset::of_bytes(range.start().offset().get())
}

impl<O: Os> Door for Inner<O> {
    fn tables(&self) -> &Tables {
        &self.tables
    }

    fn end(&self, index: u32, drop: Option<DropFn>) -> Result<Option<Keep>, MovableError> {
        match drop {
            Some(drop_fn) => self.end_dropping(index, drop_fn),
            None => Ending { heap: self, index, own: 0 }.end(),
        }
    }
}

/// Ends an object with some pins of the caller's when it goes, also when dropping the contents
/// panicked.
struct Ending<'a, O: Os> {
    heap: &'a Inner<O>,
    index: u32,
    own: u32,
}

impl<O: Os> Ending<'_, O> {
    fn end(self) -> Result<Option<Keep>, MovableError> {
        let this = core::mem::ManuallyDrop::new(self);
        this.finish()
    }

    fn finish(&self) -> Result<Option<Keep>, MovableError> {
        let Self { heap, index, own } = *self;
        match protocol::end(heap.tables.word(index), own) {
            Ended::Freed(buried) => Ok(heap.forget(index, buried)),
            Ended::Doomed => Ok(None),
            Ended::Pinned => Err(MovableError::Pinned),
            Ended::Dead => Err(MovableError::NoSuchObject { raw: heap.id(index).to_raw() }),
        }
    }
}

impl<O: Os> Drop for Ending<'_, O> {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

impl<O: Os> fmt::Debug for Inner<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MovableHeap").field("arena", &self.arena).finish_non_exhaustive()
    }
}
