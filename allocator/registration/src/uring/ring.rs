//! A ring as a registrar: buffers come into slots of its table and go, in any order.
#![allow(unsafe_code)] // registers memory

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use bookend::scatter::Held;
use bookend::units::Bytes;

use super::slots::Slots;
use super::{BUFFER_BYTES_MAX, BUFFERS_MAX, explain, sys};
use crate::pieces::Piece;
use crate::{Region, RegisterError, Registrar, RegistrarLimits};

/// A ring whose buffers come and go one by one.
///
/// Clones are the same ring. The table goes when the ring is closed, or when the last clone and the last
/// region are gone.
#[derive(Clone)]
pub struct Ring {
    table: Arc<Table>,
}

struct Table {
    /// A descriptor of our own, so that the order in which ring and buffers are dropped is free.
    ring: OwnedFd,
    slots: Mutex<Slots>,
}

/// How a ring came to another ring's buffers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// They are its own.
    Own,
    /// The kernel let it have them: pinned once for both (Linux 6.13).
    Cloned,
    /// They were registered once more, because the kernel would not: why.
    Again(String),
}

/// Memory in slots of a ring: requests name it by index, and the kernel neither looks up nor pins its
/// pages again.
pub struct RingBuffers {
    table: Arc<Table>,
    first: u32,
    pieces: Vec<Piece>,
    sharing: Sharing,
}

impl Ring {
    /// Makes a table of so many slots in a ring that has no buffers yet. A slot takes up to 1 GiB.
    ///
    /// # Errors
    /// [`RegisterError::Busy`] where it has buffers, [`RegisterError::TooMany`] above 16,384 slots,
    /// [`RegisterError::Unsupported`] before Linux 5.19 ([`FixedBuffers`](super::FixedBuffers) works
    /// there).
    pub fn new(ring: BorrowedFd<'_>, slots: u32) -> Result<Self, RegisterError> {
        if slots == 0 {
            return Err(RegisterError::Nothing);
        }
        if slots as usize > BUFFERS_MAX {
            return Err(RegisterError::TooMany { wanted: slots as usize, most: BUFFERS_MAX });
        }
        let ring = ring.try_clone_to_owned().map_err(|cause| RegisterError::System {
            operation: "duplicate the ring's descriptor",
            cause,
        })?;
        sys::register_slots(&ring, slots).map_err(|cause| match cause.raw_os_error() {
            Some(libc::EBUSY) => RegisterError::Busy,
            Some(libc::EINVAL) => RegisterError::Unsupported {
                what: "a ring's table of buffers that come and go",
                why: "the kernel refused it (EINVAL), which those before Linux 5.19 do".to_owned(),
            },
            _ => RegisterError::System { operation: "make a table of buffers in the ring", cause },
        })?;
        let slots = Mutex::new(Slots::new(slots as usize));
        Ok(Self { table: Arc::new(Table { ring, slots }) })
    }

    /// Lets this ring have the buffers of a region of another one. Where the kernel can, they are not
    /// pinned or counted again; else they are registered once more, and [`RingBuffers::sharing`]
    /// says why. Either region may go first.
    ///
    /// # Errors
    /// As [`Registrar::register`].
    pub fn share<H: Held>(
        &self,
        region: &Region<RingBuffers, Arc<H>>,
    ) -> Result<Region<RingBuffers, Arc<H>>, RegisterError> {
        let source = region.registration();
        let first = self.table.take(source.pieces.len())?;
        let (from, to) = (&source.table.ring, &self.table.ring);
        let cloned = sys::clone_slots(to, first, from, source.first, source.pieces.len());
        let sharing = match &cloned {
            Ok(()) => Sharing::Cloned,
            Err(cause) => Sharing::Again(why_not_cloned(cause)),
        };
        if cloned.is_err() {
            // SAFETY: the region's holder keeps the memory as it is, and the new region has it too.
            unsafe { self.table.fill(first, &source.pieces)? };
        }
        let (table, pieces) = (self.table.clone(), source.pieces.clone());
        let registration = RingBuffers { table, first, pieces, sharing };
        // SAFETY: the same pieces of the same memory.
        Ok(unsafe { Region::from_parts(registration, region.held().clone()) })
    }
}

fn why_not_cloned(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::EINVAL) => {
            "sharing parts of a table between rings needs Linux 6.13 and rings of one user"
                .to_owned()
        }
        _ => cause.to_string(),
    }
}

impl Registrar for Ring {
    type Registration = RingBuffers;

    fn name(&self) -> &'static str {
        "io_uring"
    }

    fn limits(&self) -> RegistrarLimits {
        let count = self.table.slots.lock().unwrap_or_else(PoisonError::into_inner).count();
        RegistrarLimits { longest: Some(BUFFER_BYTES_MAX), count: Some(count) }
    }

    unsafe fn register_pieces(&self, pieces: &[Piece]) -> Result<RingBuffers, RegisterError> {
        let first = self.table.take(pieces.len())?;
        // SAFETY: the caller's.
        unsafe { self.table.fill(first, pieces)? };
        let table = self.table.clone();
        Ok(RingBuffers { table, first, pieces: pieces.to_vec(), sharing: Sharing::Own })
    }
}

impl Table {
    fn take(&self, count: usize) -> Result<u32, RegisterError> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let full = RegisterError::Full { wanted: count, free: slots.free(), most: slots.count() };
        if count == 0 {
            return Err(RegisterError::Nothing);
        }
        slots.take(count).ok_or(full)
    }

    fn give(&self, first: u32, count: usize) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).give(first, count);
    }

    /// Puts pieces into slots that were taken; these are given back where that fails.
    ///
    /// # Safety
    /// The pieces are mapped, and stay so until the slots are cleared.
    unsafe fn fill(&self, first: u32, pieces: &[Piece]) -> Result<(), RegisterError> {
        let mut done = 0;
        while done < pieces.len() {
            // SAFETY: the caller's.
            match unsafe { sys::fill_slots(&self.ring, first + done as u32, &pieces[done..]) } {
                // Fewer went in: the next call says why.
                Ok(more) if more > 0 => done += more,
                refused => {
                    let cause =
                        refused.err().unwrap_or_else(|| io::Error::other("no buffer was taken"));
                    self.clear(first, done);
                    self.give(first, pieces.len());
                    return Err(explain(cause, pieces));
                }
            }
        }
        Ok(())
    }

    fn clear(&self, first: u32, count: usize) {
        if count > 0 {
            // An error means that the ring is gone, and its table with it.
            let _ = sys::clear_slots(&self.ring, first, count);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let _ = sys::unregister_all(&self.ring);
    }
}

impl RingBuffers {
    /// The index of the buffer that holds `len` bytes from `start` on, for `READ_FIXED` and
    /// `WRITE_FIXED`; `None` where no one buffer holds them all.
    pub fn index_of(&self, start: *const u8, len: usize) -> Option<u16> {
        let at = self.pieces.iter().position(|piece| piece.holds(start, len))?;
        u16::try_from(self.first as usize + at).ok()
    }

    /// The buffers, in the order of their indices.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Bytes registered.
    pub fn bytes(&self) -> Bytes {
        self.pieces.iter().fold(Bytes::ZERO, |sum, piece| sum + piece.len)
    }

    /// How the ring came to them.
    pub fn sharing(&self) -> &Sharing {
        &self.sharing
    }
}

impl Drop for RingBuffers {
    fn drop(&mut self) {
        self.table.clear(self.first, self.pieces.len());
        self.table.give(self.first, self.pieces.len());
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let slots = self.table.slots.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Ring({} of {} slots free)", slots.free(), slots.count())
    }
}

impl fmt::Debug for RingBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.pieces.len();
        write!(f, "RingBuffers({} in {count} buffers, {:?})", self.bytes(), self.sharing)
    }
}

#[cfg(test)]
mod tests {
    use bookend::pool::{Pool, PoolError, SharedPin};
    use bookend::units::{BlockId, BlockRange, Blocks};
    use io_uring::{IoUring, opcode, types};

    use super::super::tests::{fd, ring};
    use super::*;

    fn pool(blocks: u64) -> Arc<Pool> {
        Arc::new(Pool::builder().capacity(Bytes::mib(2 * blocks)).build().unwrap())
    }

    fn block(at: u32) -> BlockRange {
        BlockRange::new(BlockId::new(at), Blocks::ONE)
    }

    /// Fills a block through a fixed read of `/dev/zero`, or of this program.
    fn read_into(ring: &mut IoUring, at: *mut u8, index: u16) -> Vec<u8> {
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let handle = std::os::fd::AsRawFd::as_raw_fd(&file);
        let read = opcode::ReadFixed::new(types::Fd(handle), at, 4096, index).build();
        // SAFETY: the buffer is registered and nobody else's until the completion below.
        unsafe { ring.submission().push(&read) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        assert_eq!(ring.completion().next().unwrap().result(), 4096);
        // SAFETY: the read has ended.
        unsafe { std::slice::from_raw_parts(at, 4096) }.to_vec()
    }

    #[test]
    fn buffers_come_and_go_in_any_order_and_indices_stay_right() {
        let Some(mut uring) = ring() else { return };
        let pool = pool(4);
        let ring = Ring::new(fd(&uring), 3).unwrap();
        let register = |at| ring.register(SharedPin::new(pool.clone(), block(at)).unwrap());
        let mut regions: Vec<_> = (0..3).map(|at| register(at).unwrap()).collect();
        let full = register(3).unwrap_err();
        assert!(matches!(full, RegisterError::Full { wanted: 1, free: 0, most: 3 }), "{full}");
        regions.remove(1);
        // SAFETY: nobody uses the blocks.
        let release = |at| unsafe { pool.release(block(at)) };
        release(1).unwrap();
        let held = release(2);
        assert!(matches!(held, Err(PoolError::InUse { pins: 1, .. })), "{held:?}");
        let last = register(3).unwrap();
        let at = pool.address(BlockId::new(3)).as_ptr();
        let index = last.registration().index_of(at, 4096).unwrap();
        assert_eq!(index, 1, "the free slot");
        assert_eq!(&read_into(&mut uring, at, index)[..4], b"\x7fELF");
        drop((uring, ring)); // before their buffers
        drop(regions);
        assert_eq!(last.into_held().range(), block(3));
    }

    #[test]
    fn two_rings_share_buffers_and_either_may_go_first() {
        let (Some(one), Some(mut other)) = (ring(), ring()) else { return };
        let pool = pool(2);
        let (first, second) = (Ring::new(fd(&one), 4).unwrap(), Ring::new(fd(&other), 2).unwrap());
        let _used = second.register(SharedPin::new(pool.clone(), block(0)).unwrap()).unwrap();
        let pin = Arc::new(SharedPin::new(pool.clone(), block(1)).unwrap());
        let region = first.register(pin).unwrap();
        let shared = second.share(&region).unwrap();
        match shared.registration().sharing() {
            Sharing::Cloned => {}
            Sharing::Again(why) => println!("registered again: {why}"),
            Sharing::Own => panic!("it is the other ring's"),
        }
        drop(region);
        drop((first, one));
        let at = pool.address(BlockId::new(1)).as_ptr();
        let index = shared.registration().index_of(at, 4096).unwrap();
        assert_eq!(index, 1);
        assert_eq!(&read_into(&mut other, at, index)[..4], b"\x7fELF");
        // SAFETY: nobody uses the block.
        let held = unsafe { pool.release(block(1)) };
        assert!(matches!(held, Err(PoolError::InUse { .. })), "the sharer's pin is left: {held:?}");
    }

    #[test]
    fn what_is_refused_leaves_no_slot_taken_and_nothing_pinned() {
        let Some(uring) = ring() else { return };
        let ring = Ring::new(fd(&uring), 4).unwrap();
        let pool = pool(1);
        let good = crate::pieces::pieces(&pool.pin(pool.blocks()).unwrap(), None)[0];
        // An address that is not mapped: the first piece goes in, and out again.
        let start = std::ptr::NonNull::new(std::ptr::without_provenance_mut(4096)).unwrap();
        let bad = Piece { start, ..good };
        // SAFETY: what is not mapped is refused; nothing uses the rest.
        let refused = unsafe { ring.register_pieces(&[good, bad]) }.unwrap_err();
        assert_eq!(refused.errno(), Some(libc::EFAULT), "{refused}");
        assert_eq!(format!("{ring:?}"), "Ring(4 of 4 slots free)");
        assert!(matches!(Ring::new(fd(&uring), 1), Err(RegisterError::Busy)));
        drop(ring);
        Ring::new(fd(&uring), 1).unwrap();
    }

    /// In a thread of its own, which gives up its capabilities.
    #[test]
    fn too_low_a_limit_on_locked_memory_is_told_with_the_figure_needed() {
        let Some(limit) = crate::memlock::limit().filter(|&limit| limit < Bytes::gib(4)) else {
            return println!("skipped: there is no limit on locked memory here");
        };
        let poor = move || {
            let header = [0x2008_0522u32, 0];
            // SAFETY: the sets are empty; only this thread is changed.
            let result = unsafe { libc::syscall(libc::SYS_capset, &header, &[0u32; 6]) };
            assert_eq!(result, 0);
            let uring = ring()?;
            let ring = Ring::new(fd(&uring), 8).unwrap();
            let pool = Pool::builder().capacity(limit + Bytes::mib(2)).build().unwrap();
            let refused = ring.register(pool.pin(pool.blocks()).unwrap()).unwrap_err();
            assert!(matches!(refused, RegisterError::LockedMemory { .. }), "{refused}");
            let told = refused.to_string();
            assert!(told.contains(&limit.to_string()) && told.contains("ulimit -l"), "{told}");
            Some(())
        };
        std::thread::spawn(poor).join().unwrap();
    }
}
