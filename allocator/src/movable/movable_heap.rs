//! [`MovableHeap`] and [`Cache`]: what users hold.
#![allow(unsafe_code)] // fills new objects, and turns addresses into references

use core::fmt;
use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use std::sync::Arc;

use super::error::MovableError;
use super::handle::{Handle, Movable, MovableBytes};
use super::heap::{Inner, Made};
use super::mover::{Budget, Carried};
use super::owner::{NOBODY, Owner};
use super::pin::{Held, Pinned, PinnedMut};
use super::session::{Session, pointer};
use super::snapshot::Snapshot;
use super::word::{Offset, Sight};
use super::{Closed, stamps, threads};
use crate::os::{Linux, Os};
use crate::placement::{Arena, Class};
use crate::units::{BlockId, BlockRange, Blocks};

/// A heap of objects that can be moved; see the [module](super). A handle to it: clones are the same
/// heap, which lives until it has neither handles nor objects.
pub struct MovableHeap<O: Os = Linux> {
    inner: Arc<Inner<O>>,
}

impl<O: Os> Clone for MovableHeap<O> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<O: Os> MovableHeap<O> {
    /// A heap of objects on an arena, which may be used for other things but movable extents, and has one
    /// heap at a time. Its tables have room for an object every 64 bytes of it.
    ///
    /// # Errors
    /// As [`MovableHeap::with_objects`].
    pub fn new(arena: Arc<Arena<O>>) -> Result<Self, MovableError> {
        let objects = arena.pool().capacity().bytes().get() / 64;
        Self::with_objects(arena, u32::try_from(objects).unwrap_or(u32::MAX))
    }

    /// The same, with room for that many objects. 20 bytes of address space each; memory is taken as
    /// they are made.
    ///
    /// # Errors
    /// [`MovableError::Tables`], [`MovableError::TooLong`], [`MovableError::TooManyHeaps`],
    /// [`MovableError::ArenaTaken`].
    pub fn with_objects(arena: Arc<Arena<O>>, objects: u32) -> Result<Self, MovableError> {
        Ok(Self { inner: Inner::new(arena, objects)? })
    }

    /// The arena it stands on.
    pub fn arena(&self) -> &Arc<Arena<O>> {
        &self.inner.arena
    }

    pub(super) fn inner(&self) -> &Arc<Inner<O>> {
        &self.inner
    }

    // Making objects.

    /// Moves a value into the heap. It is dropped where that fails.
    ///
    /// # Errors
    /// [`MovableError::Arena`] where there is no room or no memory; [`MovableError::Alignment`],
    /// [`MovableError::Size`], [`MovableError::TooManyObjects`].
    pub fn insert<T: Send + 'static>(&self, value: T) -> Result<Movable<T>, MovableError> {
        self.insert_for(NOBODY, value)
    }

    /// Copies bytes into the heap.
    ///
    /// # Errors
    /// As [`MovableHeap::insert`].
    pub fn insert_bytes(&self, bytes: &[u8]) -> Result<MovableBytes, MovableError> {
        let at = bytes.as_ptr();
        // SAFETY: the new object has as many bytes at least, and is nobody else's.
        self.make_bytes(NOBODY, bytes.len(), |new| unsafe {
            at.copy_to_nonoverlapping(new, bytes.len());
        })
    }

    /// So many zeros.
    ///
    /// # Errors
    /// As [`MovableHeap::insert`].
    pub fn zeroed(&self, len: usize) -> Result<MovableBytes, MovableError> {
        // SAFETY: the new object has as many bytes at least, and is nobody else's.
        self.make_bytes(NOBODY, len, |new| unsafe { new.write_bytes(0, len) })
    }

    fn insert_for<T: Send + 'static>(
        &self,
        owner: u16,
        value: T,
    ) -> Result<Movable<T>, MovableError> {
        let made = self.inner.make(owner, size_of::<T>(), align_of::<T>())?;
        // SAFETY: the object has room for a T, aligned, and is pinned and nobody else's.
        unsafe { self.inner.tables.address(made.at).cast::<T>().write(value) };
        let handle = self.finish(made);
        // SAFETY: it is a T now, and this is the only handle.
        Ok(unsafe { Movable::new(handle) })
    }

    fn make_bytes(
        &self,
        owner: u16,
        len: usize,
        fill: impl FnOnce(*mut u8),
    ) -> Result<MovableBytes, MovableError> {
        let made = self.inner.make(owner, len, 1)?;
        fill(self.inner.tables.address(made.at));
        let handle = self.finish(made);
        // SAFETY: the bytes have been written, and this is the only handle.
        Ok(unsafe { MovableBytes::new(handle, len) })
    }

    /// Takes off the pin that an object was made with.
    fn finish(&self, made: Made) -> Handle {
        self.inner.tables.finish(made.index, made.at)
    }

    /// A cache for objects whose owner has pointers of his own to them, and is asked before they move.
    ///
    /// # Errors
    /// [`MovableError::TooManyOwners`]. An owner is kept for as long as the heap lives.
    pub fn cache(&self, owner: Arc<dyn Owner>) -> Result<Cache<O>, MovableError> {
        Ok(Cache { owner: self.inner.add_owner(owner)?, heap: self.clone() })
    }

    // Reaching objects.

    /// Begins a run of accesses.
    #[inline]
    pub fn session(&self) -> Session<'_> {
        Session::begin(&self.inner.tables)
    }

    /// Keeps an object where it is: shows its address in a slot of this thread's, if it has not been moved
    /// since it was last looked at and the thread has no more than seven pins; otherwise two atomic
    /// operations on the object's word, here and when the pin goes. Who forgets a pin keeps the object from
    /// being moved for good, but not from ending with its handle.
    ///
    /// # Errors
    /// [`MovableError::TooManyPins`]; [`MovableError::InCallback`] where the object's owner is being
    /// asked to migrate it, by this thread.
    #[inline]
    pub fn pin<'a, T>(&'a self, object: &'a Movable<T>) -> Result<Pinned<'a, T>, MovableError> {
        let (at, held) = self.hold_own(object.handle())?;
        // SAFETY: the handle owns a T, which is there while it is held; the handle is borrowed.
        Ok(unsafe { Pinned::new(at.cast(), held) })
    }

    /// The same, to change it.
    ///
    /// # Errors
    /// As [`MovableHeap::pin`].
    pub fn pin_mut<'a, T>(
        &'a self,
        object: &'a mut Movable<T>,
    ) -> Result<PinnedMut<'a, T>, MovableError> {
        let (at, held) = self.hold_own(object.handle())?;
        // SAFETY: as above, and the handle is borrowed exclusively.
        Ok(unsafe { PinnedMut::new(at.cast(), held) })
    }

    /// Keeps bytes where they are.
    ///
    /// # Errors
    /// As [`MovableHeap::pin`].
    pub fn pin_bytes<'a>(
        &'a self,
        object: &'a MovableBytes,
    ) -> Result<Pinned<'a, [u8]>, MovableError> {
        let (at, held) = self.hold_own(object.handle())?;
        // SAFETY: as in `pin`, of so many bytes.
        Ok(unsafe { Pinned::new(NonNull::slice_from_raw_parts(at, object.len()), held) })
    }

    /// Keeps an object where a device may reach it for long: moves it to the pinned end of the arena
    /// first, where it spoils no block of movable objects, and pins it there. It stays there
    /// afterwards.
    ///
    /// # Errors
    /// [`MovableError::Busy`] where the object is pinned, in use, or its owner refuses, and where the
    /// budget is used up; [`MovableError::InSession`] and [`MovableError::InCallback`];
    /// [`MovableError::Arena`] where the pinned end has no room. The object is where it was then.
    pub fn pin_long_term<'a, T>(
        &'a self,
        object: &'a Movable<T>,
        mut budget: Budget,
    ) -> Result<Pinned<'a, T>, MovableError> {
        let pin = |heap: &Inner<O>, index| heap.pin_long_term(index, &mut budget);
        let (at, held) = self.hold(object.handle(), pin)?;
        // SAFETY: as in `pin`.
        Ok(unsafe { Pinned::new(at.cast(), held) })
    }

    /// The same for bytes.
    ///
    /// # Errors
    /// As [`MovableHeap::pin_long_term`].
    pub fn pin_bytes_long_term<'a>(
        &'a self,
        object: &'a MovableBytes,
        mut budget: Budget,
    ) -> Result<Pinned<'a, [u8]>, MovableError> {
        let pin = |heap: &Inner<O>, index| heap.pin_long_term(index, &mut budget);
        let (at, held) = self.hold(object.handle(), pin)?;
        // SAFETY: as in `pin_bytes`.
        Ok(unsafe { Pinned::new(NonNull::slice_from_raw_parts(at, object.len()), held) })
    }

    /// Pins an object in the cheapest way, and says where it is and what takes the pin off.
    #[inline]
    pub(super) fn hold_own<'a>(
        &'a self,
        handle: &'a Handle,
    ) -> Result<(NonNull<u8>, Held<'a>), MovableError> {
        let tables = &self.inner.tables;
        // SAFETY: a handle's address is one of a heap, and heaps stand where the table reaches.
        let stamp_of =
            |address| unsafe { tables.all.all().get_unchecked(stamps::block_of(address)) };
        if let Some((address, slot)) = threads::pin(handle.hint(), stamp_of) {
            let held = Held::Shown(slot);
            if tables.holds(address)
                && let Some(at) = NonNull::new(pointer(address))
            {
                return Ok((at, held));
            }
        }
        self.hold(handle, Inner::pin)
    }

    /// Pins, and says where the object is and what takes the pin off.
    #[cold]
    fn hold<'a>(
        &'a self,
        handle: &'a Handle,
        pin: impl FnOnce(&Inner<O>, u32) -> Result<Offset, MovableError>,
    ) -> Result<(NonNull<u8>, Held<'a>), MovableError> {
        let (inner, index) = (&*self.inner, handle.index());
        let tables = &inner.tables;
        if !tables.holds(handle.address.load(Relaxed)) {
            return Err(MovableError::NoSuchObject { raw: handle.id().to_raw() });
        }
        let at = pin(inner, index)?;
        let held = Held::Counted(tables.word(index));
        // The pin keeps it here, so the next one need not be counted.
        let stamp = tables.stamp(at).load(Acquire);
        tables.renew(handle, Sight::new(tables.start(), at, Some(stamp)));
        let at = tables.address(at);
        // SAFETY: an address within a pool, which does not begin at 0.
        Ok((unsafe { NonNull::new_unchecked(at) }, held))
    }

    // Moving objects.

    /// What stands where, for planning.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.inner)
    }

    /// Whether this thread may move objects now.
    ///
    /// # Errors
    /// [`MovableError::InSession`], [`MovableError::InCallback`]: it would wait for itself.
    pub fn check_may_move(&self) -> Result<(), MovableError> {
        self.inner.check_may_move()
    }

    /// Lets blocks take nothing in until what is returned is dropped: those that are to be emptied
    /// together. Blocks that do not hold movable objects are left out.
    pub fn close(&self, blocks: impl IntoIterator<Item = BlockId>) -> Closed<'_, O> {
        self.inner.close(blocks)
    }

    /// Moves the objects of a block into room that others have. When all have gone the block is free
    /// (if it was closed, when it is opened).
    ///
    /// # Errors
    /// [`MovableError::InSession`], [`MovableError::InCallback`]; [`MovableError::NotOurs`] where the
    /// block does not hold objects of this heap.
    pub fn empty(&self, block: BlockId, budget: &mut Budget) -> Result<Carried, MovableError> {
        let moving = self.inner.begin_moving()?;
        let closed = self.inner.close([block]);
        if closed.blocks().is_empty() && !self.inner.state().store.is_closed(block) {
            return Err(MovableError::NotOurs { blocks: BlockRange::new(block, Blocks::ONE) });
        }
        Ok(moving.empty(block, budget))
    }

    /// Moves an extent of the placement, a block of objects or one long object, to free blocks from
    /// `to` on.
    ///
    /// # Errors
    /// As [`MovableHeap::empty`]; [`MovableError::NotOurs`] also where the target is not free.
    pub fn carry(
        &self,
        extent: BlockRange,
        to: BlockId,
        budget: &mut Budget,
    ) -> Result<Carried, MovableError> {
        self.inner.begin_moving()?.carry_extent(extent, to, budget)
    }

    /// Takes blocks of the arena for something that does not move, and moves what is in the way: up
    /// where pinned blocks grow, down where a huge extent needs room.
    ///
    /// # Errors
    /// [`MovableError::Arena`]; [`MovableError::Busy`] with what is left of the budget used up;
    /// [`MovableError::InSession`] and [`MovableError::InCallback`], where moves are needed.
    pub fn make_room(
        &self,
        class: Class,
        blocks: Blocks,
        budget: &mut Budget,
    ) -> Result<crate::placement::Extent<'_, O>, MovableError> {
        let range = self.inner.begin_moving()?.take(class, blocks, budget)?;
        Ok(self.inner.arena.adopt(range))
    }

    /// Checks the heap against itself and its arena. To be called while nobody uses it.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn validate(&self) {
        super::validate::validate(&self.inner);
    }
}

impl<O: Os> fmt::Debug for MovableHeap<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Objects of one owner, who is asked before they move; see [`Owner`].
pub struct Cache<O: Os = Linux> {
    heap: MovableHeap<O>,
    owner: u16,
}

impl<O: Os> Cache<O> {
    pub(super) fn number(&self) -> u16 {
        self.owner
    }

    /// The heap it is of.
    pub fn heap(&self) -> &MovableHeap<O> {
        &self.heap
    }

    /// As [`MovableHeap::insert`].
    ///
    /// # Errors
    /// As [`MovableHeap::insert`].
    pub fn insert<T: Send + 'static>(&self, value: T) -> Result<Movable<T>, MovableError> {
        self.heap.insert_for(self.owner, value)
    }

    /// As [`MovableHeap::zeroed`].
    ///
    /// # Errors
    /// As [`MovableHeap::insert`].
    pub fn zeroed(&self, len: usize) -> Result<MovableBytes, MovableError> {
        // SAFETY: the new object has as many bytes at least, and is nobody else's.
        self.heap.make_bytes(self.owner, len, |new| unsafe { ptr::write_bytes(new, 0, len) })
    }
}

impl<O: Os> fmt::Debug for Cache<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("owner", &self.owner).finish_non_exhaustive()
    }
}
