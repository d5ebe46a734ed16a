//! Sessions: runs of accesses, during which nothing moves that they touch.
#![allow(unsafe_code)] // turns addresses into references

use core::fmt;
use core::slice;
use core::sync::atomic::AtomicU32;

use super::handle::{Handle, Movable, MovableBytes};
use super::protocol;
use super::registry;
use super::tables::{ObjectId, Tables};
use super::threads::Presence;
use super::word::{Hint, first_block};

/// A run of accesses to movable objects; see [`MovableHeap::session`](super::MovableHeap::session).
///
/// While it lives, what it has given out references to stays where it is. Movers wait for it, so
/// end it before anything that takes long: a session that outlasts their patience keeps blocks from
/// being emptied. A session is its thread's. Sessions of one thread may nest; the outermost counts.
///
/// Sessions never wait for a mover, but while the one object that they ask for is copied.
pub struct Session<'heap> {
    tables: &'heap Tables,
    /// Of the tables, so that an access need not go through them.
    stamps: &'heap [AtomicU32],
    base: *mut u8,
    /// The number of the block that the heap begins with, counted from address 0.
    first: usize,
    heap: u8,
    presence: Presence,
}

impl<'heap> Session<'heap> {
    #[inline]
    pub(super) fn begin(tables: &'heap Tables) -> Self {
        let (base, heap) = (tables.base.as_ptr(), tables.heap);
        let first = first_block(tables.start());
        Self { presence: Presence::begin(), stamps: &tables.stamps, base, first, heap, tables }
    }

    /// The object. One comparison with the stamp of its block, as long as it has not been moved since
    /// it was last looked at.
    ///
    /// # Panics
    /// In a callback of its owner that is called to [migrate](super::Owner::migrate) this very
    /// object; the mover takes that for a refusal.
    #[inline(always)]
    pub fn get<'a, T>(&'a self, object: &'a Movable<T>) -> &'a T {
        // SAFETY: (1) the handle owns a T, which stands at that address for as long as the session
        // lives, which 'a does not outlast; (2) the handle is borrowed for 'a, so nobody gets a
        // mutable reference or drops it.
        unsafe { &*self.address(object.handle()).cast() }
    }

    /// The object, to be changed.
    ///
    /// # Panics
    /// As [`Session::get`].
    #[inline(always)]
    pub fn get_mut<'a, T>(&'a self, object: &'a mut Movable<T>) -> &'a mut T {
        // SAFETY: as in `get`, and the handle is borrowed exclusively.
        unsafe { &mut *self.address(object.handle()).cast() }
    }

    /// The bytes.
    ///
    /// # Panics
    /// As [`Session::get`].
    #[inline(always)]
    pub fn bytes<'a>(&'a self, object: &'a MovableBytes) -> &'a [u8] {
        // SAFETY: as in `get`; the object has that many bytes, all of them written when it was made.
        unsafe { slice::from_raw_parts(self.address(object.handle()), object.len()) }
    }

    /// The bytes, to be changed.
    ///
    /// # Panics
    /// As [`Session::get`].
    #[inline(always)]
    pub fn bytes_mut<'a>(&'a self, object: &'a mut MovableBytes) -> &'a mut [u8] {
        // SAFETY: as in `bytes`, and the handle is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.address(object.handle()), object.len()) }
    }

    /// Where the object stands for as long as the session lives.
    #[inline(always)]
    pub(super) fn address(&self, handle: &Handle) -> *mut u8 {
        if handle.id.heap() == self.heap {
            // SAFETY: a hint of this heap's is none, of block 0, or was made from the address of an
            // object of it, whose block has a stamp.
            let stamp_of =
                |hint: Hint| unsafe { self.stamps.get_unchecked(hint.block(self.first)) };
            if let Some(hint) = protocol::look(&handle.hint, stamp_of) {
                return self.base.with_addr(hint.address() as usize);
            }
        }
        find(self.tables, self.presence.epoch(), handle)
    }
}

/// Looks an object up by its word, and renews the hint.
#[cold]
#[inline(never)]
fn find(tables: &Tables, epoch: u64, handle: &Handle) -> *mut u8 {
    let tables = if handle.id.heap() == tables.heap {
        tables
    } else {
        // A session holds the movers of every heap.
        // SAFETY: the caller has a handle of a live object of that heap.
        unsafe { registry::heap(handle.id.heap()) }.tables()
    };
    let Some((at, hint)) = tables.find(handle.id.index(), epoch) else { being_moved(handle.id) };
    protocol::renew(&handle.hint, hint);
    tables.address(at)
}

#[cold]
fn being_moved(id: ObjectId) -> ! {
    panic!("{id:?} is being moved by the callback's caller; use the addresses it was given")
}

impl fmt::Debug for Session<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("epoch", &self.presence.epoch()).finish_non_exhaustive()
    }
}
