//! io_uring's fixed buffers.
#![allow(unsafe_code)] // system calls with addresses of pinned memory

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use bookend::os::{Linux, Os};
use bookend::pool::PoolPin;
use bookend::units::Bytes;

use crate::RegisterError;

/// The kernel takes at most this much in one buffer.
const BUFFER_BYTES_MAX: usize = 1 << 30;
/// `IORING_MAX_REG_BUFFERS` of io_uring/rsrc.c.
const BUFFERS_MAX: usize = 1 << 14;

/// `IORING_REGISTER_BUFFERS` and `IORING_UNREGISTER_BUFFERS` of include/uapi/linux/io_uring.h.
const REGISTER_BUFFERS: libc::c_uint = 0;
const UNREGISTER_BUFFERS: libc::c_uint = 1;

/// Memory that a ring knows: requests name it by index, and the kernel neither looks up nor pins
/// its pages again. Dropping it unregisters the memory first and lets go of the pins then.
pub struct FixedBuffers<'pool, O: Os = Linux> {
    /// A descriptor of our own, so that the order in which ring and buffers are dropped is free.
    ring: OwnedFd,
    buffers: Vec<Buffer>,
    _pins: Vec<PoolPin<'pool, O>>,
}

/// One registered buffer.
#[derive(Clone, Copy, Debug)]
struct Buffer {
    start: usize,
    len: usize,
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
        let buffers: Vec<_> = pins.iter().flat_map(split).collect();
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
        let iovecs: Vec<_> = buffers
            .iter()
            .map(|b| libc::iovec { iov_base: b.start as *mut libc::c_void, iov_len: b.len })
            .collect();
        // SAFETY: (1) the iovecs live through the call; (2) what they name is mapped, and stays so
        // until the pins go, which is after the buffers are unregistered.
        unsafe { register(&ring, REGISTER_BUFFERS, iovecs.as_ptr().cast(), iovecs.len()) }
            .map_err(|cause| explain(cause, &buffers))?;
        Ok(Self { ring, buffers, _pins: pins })
    }

    /// The index of the buffer that holds `len` bytes from `start` on, for `READ_FIXED` and
    /// `WRITE_FIXED`; `None` where no one buffer holds them all.
    pub fn index_of(&self, start: *const u8, len: usize) -> Option<u16> {
        let start = start as usize;
        let holds = |b: &Buffer| start >= b.start && start - b.start <= b.len.saturating_sub(len);
        self.buffers.iter().position(|b| len <= b.len && holds(b)).map(|index| index as u16)
    }

    /// How many buffers that is.
    pub fn count(&self) -> usize {
        self.buffers.len()
    }

    /// Bytes registered.
    pub fn bytes(&self) -> Bytes {
        Bytes::of_len(self.buffers.iter().map(|b| b.len).sum())
    }
}

/// A pinned range in pieces that the kernel takes.
fn split<O: Os>(pin: &PoolPin<'_, O>) -> impl Iterator<Item = Buffer> + use<O> {
    let start = pin.pool().address(pin.range().start()).as_ptr() as usize;
    let len = pin.bytes().as_usize();
    (0..len)
        .step_by(BUFFER_BYTES_MAX)
        .map(move |at| Buffer { start: start + at, len: BUFFER_BYTES_MAX.min(len - at) })
}

/// io_uring_register(2).
///
/// # Safety
/// `argument` and `count` are what the operation expects.
unsafe fn register(
    ring: &OwnedFd,
    operation: libc::c_uint,
    argument: *const libc::c_void,
    count: usize,
) -> io::Result<()> {
    // SAFETY: passed on; the descriptor is open.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), operation, argument, count)
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn explain(cause: io::Error, buffers: &[Buffer]) -> RegisterError {
    let needed = Bytes::of_len(buffers.iter().map(|b| b.len).sum());
    match (cause.raw_os_error(), locked_memory_limit()) {
        (Some(libc::ENOMEM), Some(limit)) if limit < needed => {
            RegisterError::LockedMemory { needed, limit }
        }
        (Some(libc::EBUSY), _) => RegisterError::Busy,
        _ => RegisterError::System { operation: "register buffers with the ring", cause },
    }
}

/// The soft limit on locked memory; `None` where there is none.
fn locked_memory_limit() -> Option<Bytes> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours to write.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then(|| Bytes::new(limit.rlim_cur))
}

impl<O: Os> Drop for FixedBuffers<'_, O> {
    fn drop(&mut self) {
        // An error means that the ring is gone, and the registration with it. Requests still under
        // way keep their pages until they end.
        // SAFETY: the operation takes no argument.
        let _ = unsafe { register(&self.ring, UNREGISTER_BUFFERS, std::ptr::null(), 0) };
    }
}

impl<O: Os> fmt::Debug for FixedBuffers<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FixedBuffers({} in {} buffers)", self.bytes(), self.count())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use bookend::pool::{Pool, PoolError};
    use bookend::units::{BlockId, BlockRange, Blocks};
    use io_uring::{IoUring, opcode, types};

    use super::*;

    /// A ring, or nothing and the reason printed.
    fn ring() -> Option<IoUring> {
        IoUring::new(4).map_err(|cause| println!("skipped: no io_uring here: {cause}")).ok()
    }

    fn fd(ring: &IoUring) -> BorrowedFd<'_> {
        // SAFETY: the ring is open for as long as it is borrowed.
        unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) }
    }

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
