//! The tables that sessions read: a word and a generation an object, a stamp a block. The stamps are a part
//! of the table of [all blocks](super::stamps).
//!
//! Not generic over the system, so that a session is not either; they stand in mappings of their
//! own, of which only what is used takes memory.
#![allow(unsafe_code)] // keeps a slice beside what owns it

use core::any::Any;
use core::fmt;
use core::num::NonZeroU64;
use core::ops::Deref;
use core::ptr::NonNull;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use super::handle::Handle;
use super::protocol::{self, Role, Wait};
use super::stamps::{self, block_of};
use super::threads::{Backoff, settle, unsettle};
use super::word::{Offset, Sight};
use crate::os::{Array, Errno, Os, Zeroed};
use crate::units::{BLOCK_SHIFT, Blocks, Bytes};

/// How long a session waits for a mover that insists, at most.
const INSISTED_MAX: Duration = Duration::from_millis(1);

/// An array whose elements stay where they are, apart from the type of what mapped it.
pub(super) struct Fixed<T> {
    elements: NonNull<[T]>,
    _owner: Box<dyn Any + Send + Sync>,
}

// SAFETY: it owns its elements, as Box<[T]> does.
unsafe impl<T: Send> Send for Fixed<T> {}
// SAFETY: as above; a shared one only gives shared references.
unsafe impl<T: Sync> Sync for Fixed<T> {}

impl<T: Zeroed + Send + Sync + 'static> Fixed<T> {
    fn new<O: Os>(os: O, len: usize) -> Result<Self, Errno> {
        let array = Box::new(Array::<T, O>::new(os, len)?);
        Ok(Self { elements: NonNull::from(&**array), _owner: array })
    }
}

impl<T> Deref for Fixed<T> {
    type Target = [T];
    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the owner keeps the mapping, which never moves, for as long as this lives.
        unsafe { self.elements.as_ref() }
    }
}

/// Which object of which heap: what a handle holds.
///
/// The heap's number, so that a handle finds its heap; the generation, so that a handle from outside
/// that is stale is told from a good one; and the index into the tables.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct ObjectId(NonZeroU64);

impl ObjectId {
    /// `heap` is not 0.
    pub(super) fn new(heap: u8, generation: u32, index: u32) -> Self {
        let parts = u64::from(heap.max(1)) << 56
            | u64::from(generation & GENERATION_MASK) << 32
            | u64::from(index);
        Self(NonZeroU64::MIN.saturating_add(parts - 1))
    }

    /// As a number, for callers in other languages.
    pub const fn to_raw(self) -> u64 {
        self.0.get()
    }

    /// From such a number, which may be any.
    pub const fn from_raw(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(id) => Some(Self(id)),
            None => None,
        }
    }

    #[inline(always)]
    pub(super) const fn heap(self) -> u8 {
        (self.0.get() >> 56) as u8
    }

    pub(super) const fn generation(self) -> u32 {
        (self.0.get() >> 32) as u32 & GENERATION_MASK
    }

    #[inline(always)]
    pub(super) const fn index(self) -> u32 {
        self.0.get() as u32
    }
}

/// Bits of a generation that a handle holds.
pub(super) const GENERATION_MASK: u32 = (1 << 24) - 1;

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "object {} of heap {} ({})", self.index(), self.heap(), self.generation())
    }
}

/// See the [module](self).
pub(super) struct Tables {
    pub base: NonNull<u8>,
    /// The heap's number.
    pub heap: u8,
    pub words: Fixed<AtomicU64>,
    pub generations: Fixed<AtomicU32>,
    /// Of the heap's own blocks.
    pub stamps: &'static [AtomicU32],
    /// Of all blocks of the address space.
    pub all: &'static stamps::Stamps,
    /// The epoch that the mover insists in; [`NEVER`] while it does not.
    pub insists: AtomicU64,
    /// The thread that moves, as [`this_thread`] has it; 0 while none does.
    pub mover: AtomicU64,
}

/// Later than any epoch.
pub(super) const NEVER: u64 = u64::MAX;

// SAFETY: the base is an address, and the rest is both.
unsafe impl Send for Tables {}
// SAFETY: as above.
unsafe impl Sync for Tables {}

impl Tables {
    pub fn new<O: Os>(
        os: &O,
        heap: u8,
        base: NonNull<u8>,
        blocks: Blocks,
        objects: u32,
    ) -> Result<Self, Errno> {
        let all = stamps::of_all()?;
        let first = block_of(base.as_ptr().expose_provenance() as u64);
        Ok(Self {
            base,
            heap,
            words: Fixed::new(os.clone(), objects as usize)?,
            generations: Fixed::new(os.clone(), objects as usize)?,
            stamps: &all.all()[first..][..blocks.as_usize()],
            all,
            insists: AtomicU64::new(NEVER),
            mover: AtomicU64::new(0),
        })
    }

    #[inline(always)]
    pub fn address(&self, at: Offset) -> *mut u8 {
        self.base.as_ptr().wrapping_add(at.bytes())
    }

    /// The address of the heap.
    pub fn start(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    pub fn word(&self, index: u32) -> &AtomicU64 {
        &self.words[index as usize]
    }

    pub fn stamp(&self, at: Offset) -> &AtomicU32 {
        &self.stamps[at.block().as_usize()]
    }

    /// Says that objects come into a block.
    pub fn open(&self, at: Offset) {
        self.all.open(block_of(self.start() + at.bytes() as u64), self.heap);
    }

    /// Whether an address is the heap's.
    #[inline(always)]
    pub fn holds(&self, address: u64) -> bool {
        address.wrapping_sub(self.start()) < self.len().get()
    }

    fn len(&self) -> Bytes {
        Bytes::new((self.stamps.len() as u64) << BLOCK_SHIFT)
    }

    /// The handle of an object that nobody else knows yet, and that is pinned once for whoever made it:
    /// takes that pin off. Its block may be being emptied all the same, since it was made.
    pub fn finish(&self, index: u32, at: Offset) -> Handle {
        let sight = Sight::new(self.start(), at, Some(self.stamp(at).load(Acquire)));
        if !sight.lasts() {
            unsettle(1);
            protocol::begin_stale(self.word(index));
        }
        protocol::unpin(self.word(index));
        Handle::new(index, sight)
    }

    /// Renews what a handle holds of an object that the caller keeps where it is.
    pub fn renew(&self, handle: &Handle, new: Sight) {
        if protocol::renew(handle.hint(), self.word(handle.index()), new) {
            settle(1);
        }
    }

    /// Which object it is, of those that have had the number.
    pub fn id(&self, index: u32) -> ObjectId {
        let generation = self.generations[index as usize].load(Relaxed);
        ObjectId::new(self.heap, generation, index)
    }

    /// Whether this thread is the one that moves, and so would wait for itself.
    pub fn is_mover(&self) -> bool {
        self.mover.load(Relaxed) == this_thread()
    }

    /// Looks an object up by its word, in a session that shows `epoch`. `None` where this thread is
    /// copying it, or it is no more.
    #[cold]
    pub fn find(&self, index: u32, epoch: u64) -> Option<(Offset, Sight)> {
        let word = self.word(index);
        let (mut backoff, mut since) = (Backoff::new(), None);
        loop {
            let waiting = epoch >= self.insists.load(Acquire) && !self.is_mover();
            let late = since.is_some_and(|at: Instant| at.elapsed() >= INSISTED_MAX);
            let role = match (waiting, late) {
                (false, _) => Role::WaitedFor,
                (true, false) => Role::Waiting,
                (true, true) => Role::Late,
            };
            match protocol::find(word, |at| self.stamp(at), role) {
                Ok(seen) => {
                    return Some((seen.at, Sight::new(self.start(), seen.at, seen.stamp)));
                }
                Err(Wait::Insisted) => {
                    since.get_or_insert_with(Instant::now);
                    backoff.wait();
                }
                Err(Wait::Copied) if !self.is_mover() => self.wait_for_copy(word, &mut backoff),
                Err(_) => return None,
            }
        }
    }

    /// Pins an object that the caller has the handle of.
    #[inline]
    pub fn pin_own(&self, index: u32) -> Result<Offset, Wait> {
        match protocol::pin_own(self.word(index)) {
            Err(Wait::Copied) => self.pin(index),
            result => result,
        }
    }

    /// Pins an object.
    #[cold]
    pub fn pin(&self, index: u32) -> Result<Offset, Wait> {
        let (word, mut backoff) = (self.word(index), Backoff::new());
        loop {
            match protocol::pin(word) {
                Err(Wait::Copied) if !self.is_mover() => self.wait_for_copy(word, &mut backoff),
                result => return result,
            }
        }
    }

    /// Waits a little for an object that is being copied; after a while asks for it.
    fn wait_for_copy(&self, word: &AtomicU64, backoff: &mut Backoff) {
        if backoff.wait() {
            protocol::want(word);
        }
    }
}

impl fmt::Debug for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tables").field("heap", &self.heap).finish_non_exhaustive()
    }
}

/// This thread, told from every other one that runs; not 0.
pub(super) fn this_thread() -> u64 {
    thread_local! {
        static HERE: u8 = const { 0 };
    }
    HERE.try_with(|here| core::ptr::from_ref(here) as u64).unwrap_or(u64::MAX)
}
