//! All of a ring's buffers at once, on any kernel that has io_uring.
#![allow(unsafe_code)] // registers memory

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};

use bookend::os::{Linux, Os};
use bookend::pool::PoolPin;
use bookend::units::Bytes;

use super::{BUFFER_BYTES_MAX, BUFFERS_MAX, explain, sys};
use crate::RegisterError;
use crate::pieces::{Piece, pieces};

/// Memory that a ring knows: requests name it by index, and the kernel neither looks up nor pins
/// its pages again. Dropping it unregisters the memory first and lets go of the pins then.
pub struct FixedBuffers<'pool, O: Os = Linux> {
    /// A descriptor of our own, so that the order in which ring and buffers are dropped is free.
    ring: OwnedFd,
    buffers: Vec<Piece>,
    _pins: Vec<PoolPin<'pool, O>>,
}

impl<'pool, O: Os> FixedBuffers<'pool, O> {
    /// Registers the memory that `pins` hold, split at 1 GiB where it is longer.
    ///
    /// # Errors
    /// See [`RegisterError`]. The pins are gone then; a caller that goes on with ordinary requests
    /// needs none.
    pub fn register(
        ring: BorrowedFd<'_>,
        pins: Vec<PoolPin<'pool, O>>,
    ) -> Result<Self, RegisterError> {
        let buffers: Vec<_> =
            pins.iter().flat_map(|pin| pieces(pin, Some(BUFFER_BYTES_MAX))).collect();
        if buffers.is_empty() {
            return Err(RegisterError::Nothing);
        }
        if buffers.len() > BUFFERS_MAX {
            return Err(RegisterError::TooMany { wanted: buffers.len(), most: BUFFERS_MAX });
        }
        let ring = ring.try_clone_to_owned().map_err(|cause| RegisterError::System {
            operation: "duplicate the ring's descriptor",
            cause,
        })?;
        // SAFETY: what the pins hold is mapped, and stays so until they go, which is after the buffers
        // are unregistered.
        unsafe { sys::register_all(&ring, &buffers) }.map_err(|cause| explain(cause, &buffers))?;
        Ok(Self { ring, buffers, _pins: pins })
    }

    /// The index of the buffer that holds `len` bytes from `start` on, for `READ_FIXED` and
    /// `WRITE_FIXED`; `None` where no one buffer holds them all.
    pub fn index_of(&self, start: *const u8, len: usize) -> Option<u16> {
        self.buffers.iter().position(|piece| piece.holds(start, len)).map(|index| index as u16)
    }

    /// How many buffers that is.
    pub fn count(&self) -> usize {
        self.buffers.len()
    }

    /// Bytes registered.
    pub fn bytes(&self) -> Bytes {
        self.buffers.iter().fold(Bytes::ZERO, |sum, piece| sum + piece.len)
    }
}

impl<O: Os> Drop for FixedBuffers<'_, O> {
    fn drop(&mut self) {
        // An error means that the ring is gone, and the registration with it. Requests still under
        // way keep their pages until they end.
        let _ = sys::unregister_all(&self.ring);
    }
}

impl<O: Os> fmt::Debug for FixedBuffers<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FixedBuffers({} in {} buffers)", self.bytes(), self.count())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::{AsFd, AsRawFd};

    use bookend::pool::{Pool, PoolError};
    use bookend::units::{BlockId, BlockRange, Blocks};
    use io_uring::{opcode, types};

    use super::super::tests::{fd, ring};
    use super::*;

    #[test]
    fn registered_memory_is_pinned_until_it_is_dropped() {
        let Some(ring) = ring() else { return };
        let pool = Pool::builder().capacity(Bytes::mib(4)).build().unwrap();
        let buffers =
            FixedBuffers::register(fd(&ring), vec![pool.pin(pool.blocks()).unwrap()]).unwrap();
        let block = BlockRange::new(BlockId::new(1), Blocks::ONE);
        // SAFETY: nothing refers to the pool's memory but the kernel.
        let refused = unsafe { pool.release(block) };
        assert_eq!(refused, Err(PoolError::InUse { block: BlockId::new(1), pins: 1 }));
        let again = FixedBuffers::register(fd(&ring), vec![pool.pin(block).unwrap()]);
        assert!(matches!(again, Err(RegisterError::Busy)), "{again:?}");
        drop(ring); // in any order
        drop(buffers);
        // SAFETY: as above, and the kernel no longer does.
        unsafe { pool.release(block) }.unwrap();
    }

    #[test]
    fn a_fixed_read_lands_in_the_pool() {
        let Some(mut ring) = ring() else { return };
        let pool = Pool::builder().capacity(Bytes::mib(2)).build().unwrap();
        let pin = pool.pin(pool.blocks()).unwrap();
        let buffers = FixedBuffers::register(fd(&ring), vec![pin]).unwrap();
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        let at = pool.base().as_ptr();
        let index = buffers.index_of(at, 4096).unwrap();
        let read = opcode::ReadFixed::new(types::Fd(file.as_fd().as_raw_fd()), at, 4096, index);
        // SAFETY: the buffer is pinned and nobody else's until the completion below.
        unsafe { ring.submission().push(&read.build()) }.unwrap();
        ring.submit_and_wait(1).unwrap();
        assert_eq!(ring.completion().next().unwrap().result(), 4096);
        // SAFETY: the read has ended.
        assert_eq!(unsafe { std::slice::from_raw_parts(at, 4) }, b"\x7fELF");
    }

    #[test]
    fn long_ranges_are_split_and_found_again() {
        let Some(ring) = ring() else { return };
        let capacity = Bytes::gib(1) + Bytes::mib(4);
        let pool = Pool::builder().capacity(capacity).build().unwrap();
        let pin = pool.pin(pool.blocks()).unwrap();
        let buffers = FixedBuffers::register(fd(&ring), vec![pin]).unwrap();
        assert_eq!((buffers.count(), buffers.bytes()), (2, capacity));
        let at = |offset: Bytes| pool.base().as_ptr().wrapping_add(offset.as_usize());
        assert_eq!(buffers.index_of(at(Bytes::ZERO), 1 << 30), Some(0));
        assert_eq!(buffers.index_of(at(Bytes::gib(1)), 4 << 20), Some(1));
        assert_eq!(buffers.index_of(at(Bytes::gib(1) - Bytes::new(1)), 2), None, "spans two");
        assert_eq!(buffers.index_of(at(capacity), 1), None);
    }

    #[test]
    fn nothing_is_not_registered() {
        let Some(ring) = ring() else { return };
        let none = FixedBuffers::<Linux>::register(fd(&ring), Vec::new());
        assert!(matches!(none, Err(RegisterError::Nothing)));
    }

    #[test]
    fn the_error_for_locked_memory_names_both_figures() {
        let error = RegisterError::LockedMemory { needed: Bytes::mib(64), limit: Bytes::mib(8) };
        let text = error.to_string();
        assert!(text.contains("64 MiB") && text.contains("8 MiB") && text.contains("ulimit -l"));
    }
}
