//! Sessions: runs of accesses, during which nothing moves that they touch.
#![allow(unsafe_code)] // turns addresses into references

use core::fmt;
use core::ptr;
use core::slice;
use core::sync::atomic::AtomicU32;

use super::handle::{Handle, Movable, MovableBytes};
use super::protocol;
use super::stamps::block_of;
use super::tables::{ObjectId, Tables};
use super::threads::{Presence, is_settled};

/// A run of accesses to movable objects; see [`MovableHeap::session`](super::MovableHeap::session).
///
/// While it lives, what it has given out references to stays where it is. Movers wait for it, so
/// end it before anything that takes long: a session that outlasts their patience keeps blocks from
/// being emptied. A session is its thread's. Sessions of one thread may nest; the outermost counts.
///
/// Sessions never wait for a mover, but while the one object that they ask for is copied.
pub struct Session<'heap> {
    /// Of all blocks, so that an access need not ask whose object it is.
    stamps: &'heap [AtomicU32],
    /// Whether no handle is stale and nothing is moved for as long as this lives.
    settled: bool,
    presence: Presence,
}

impl<'heap> Session<'heap> {
    #[inline]
    pub(super) fn begin(tables: &'heap Tables) -> Self {
        let presence = Presence::begin();
        Self { stamps: tables.all.all(), settled: is_settled(), presence }
    }

    /// The object. One comparison with the stamp of its block, as long as it has not been moved since
    /// it was last looked at; none in a session that began when nothing was being moved, and all that
    /// had been moved was looked at since.
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
        if self.settled {
            return pointer(protocol::trust(&handle.address));
        }
        // SAFETY: a handle's address is one of a heap, and heaps stand where the table reaches.
        let stamp_of = |address| unsafe { self.stamps.get_unchecked(block_of(address)) };
        match protocol::look(handle.hint(), stamp_of) {
            Some(address) => pointer(address),
            None => find(self.presence.epoch(), handle),
        }
    }
}

/// The address of an object, which is one of a pool's, whose memory is exposed when its heap is made.
#[inline(always)]
pub(super) fn pointer(address: u64) -> *mut u8 {
    ptr::with_exposed_provenance_mut(address as usize)
}

/// Looks an object up by its word, and renews the hint. A session holds the movers of every heap.
#[cold]
#[inline(never)]
fn find(epoch: u64, handle: &Handle) -> *mut u8 {
    let tables = handle.heap().tables();
    let found = tables.find(handle.index(), epoch);
    let Some((at, sight)) = found else { being_moved(handle.id()) };
    tables.renew(handle, sight);
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
