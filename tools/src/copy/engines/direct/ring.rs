//! A ring whose requests read into and write from slots of one buffer.
//!
//! The kernel reads and writes a slot behind the program's back while a request is under way. What
//! keeps this sound:
//!
//! 1. The ring borrows the memory exclusively for as long as it lives, and its `Drop` waits for
//!    every request: the kernel never reaches memory that is somebody else's.
//! 2. A slot has at most one request. While it is a read, nobody sees the slot's bytes; while it is
//!    a write, they can be read and not changed.
#![allow(unsafe_code)] // hands memory to the kernel

use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::slice;
use std::time::Duration;

use bookend::pool::PoolPin;
use bookend_registration::FixedBuffers;
use io_uring::{IoUring, opcode, squeue, types};

/// What the kernel does with a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// Reads a file into it.
    Read,
    /// Writes it to a file.
    Write,
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) slot: usize,
    /// Bytes moved, or why not.
    pub(super) result: io::Result<usize>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Ring<'m> {
    ring: RawRing,
    fixed: Option<FixedBuffers<'m>>,
    /// The first byte of slot 0; raw, because the kernel writes behind it.
    memory: NonNull<u8>,
    borrow: PhantomData<&'m mut [u8]>,
    slot_bytes: usize,
    /// The request of each slot.
    under_way: Vec<Option<Access>>,
}

/// The bare ring; its `Debug` says nothing.
struct RawRing(IoUring);

impl std::fmt::Debug for RawRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IoUring")
    }
}

impl<'m> Ring<'m> {
    /// A ring over as many slots of `slot_bytes` as `memory` holds. `pin` is the same memory's: it
    /// is registered with the ring if it can be; the second value says why not.
    ///
    /// # Errors
    /// What io_uring_setup(2) says.
    pub(super) fn new(
        memory: &'m mut [u8],
        pin: PoolPin<'m>,
        slot_bytes: usize,
    ) -> io::Result<(Self, Option<String>)> {
        let slots = memory.len() / slot_bytes;
        let entries = u32::try_from(slots.next_power_of_two()).unwrap_or(4096).min(4096);
        let ring = open_ring(entries)?;
        // SAFETY: the descriptor is the ring's, which is open.
        let fd = unsafe { BorrowedFd::borrow_raw(ring.as_raw_fd()) };
        let (fixed, why_not) = match FixedBuffers::register(fd, vec![pin]) {
            Ok(fixed) => (Some(fixed), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let ring = Self {
            ring: RawRing(ring),
            fixed,
            memory: NonNull::from(memory).cast(),
            borrow: PhantomData,
            slot_bytes,
            under_way: vec![None; slots],
        };
        Ok((ring, why_not))
    }

    /// How many slots there are.
    pub(super) fn slots(&self) -> usize {
        self.under_way.len()
    }

    /// Whether the memory is registered.
    pub(super) fn is_registered(&self) -> bool {
        self.fixed.is_some()
    }

    /// Requests that have not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.under_way.iter().flatten().count()
    }

    /// The bytes of a slot, which no read may be filling.
    pub(super) fn bytes(&self, slot: usize) -> &[u8] {
        assert!(self.under_way[slot] != Some(Access::Read), "slot {slot} is being filled");
        // SAFETY: (1) the slot lies in the memory that we borrow, and every byte is a value;
        // (2) no read fills it, and none can begin while `self` is borrowed.
        unsafe { slice::from_raw_parts(self.at(slot, 0), self.slot_bytes) }
    }

    /// Begins a request on a part of an idle slot. It reaches the kernel with the next
    /// [`Ring::submit`] or [`Ring::wait`]. The file must stay open until it has ended.
    pub(super) fn begin(
        &mut self,
        slot: usize,
        access: Access,
        file: &File,
        part: Range<usize>,
        offset: u64,
    ) {
        assert!(self.under_way[slot].is_none(), "slot {slot} has a request under way");
        assert!(part.start < part.end && part.end <= self.slot_bytes, "{part:?} leaves the slot");
        let (at, len) = (self.at(slot, part.start), part.len() as u32);
        let entry = self.entry(access, types::Fd(file.as_raw_fd()), at, len, offset);
        let entry = entry.user_data(slot as u64);
        self.under_way[slot] = Some(access);
        // SAFETY: (1) the memory lies in the slot and stays ours until the request has ended,
        // which `Drop` waits for; (2) the slot is idle, so nobody else uses it.
        while unsafe { self.ring.0.submission().push(&entry) }.is_err() {
            // Full: a ring has as many entries as slots, so the kernel only has to take some.
            if self.ring.0.submit().is_err() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// The address of a byte of a slot.
    fn at(&self, slot: usize, byte: usize) -> *mut u8 {
        assert!(slot < self.slots() && byte < self.slot_bytes);
        self.memory.as_ptr().wrapping_add(slot * self.slot_bytes + byte)
    }

    fn entry(
        &self,
        access: Access,
        file: types::Fd,
        at: *mut u8,
        len: u32,
        offset: u64,
    ) -> squeue::Entry {
        let index = self.fixed.as_ref().and_then(|fixed| fixed.index_of(at, len as usize));
        match (access, index) {
            (Access::Read, Some(index)) => {
                opcode::ReadFixed::new(file, at, len, index).offset(offset).build()
            }
            (Access::Write, Some(index)) => {
                opcode::WriteFixed::new(file, at, len, index).offset(offset).build()
            }
            (Access::Read, None) => opcode::Read::new(file, at, len).offset(offset).build(),
            (Access::Write, None) => opcode::Write::new(file, at, len).offset(offset).build(),
        }
    }

    /// Hands over what was begun, so that the kernel works on it meanwhile.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match self.ring.0.submit() {
            Err(cause) if !is_passing(&cause) => Err(cause),
            _ => Ok(()),
        }
    }

    /// Waits until a request has ended; `None` where a signal came first.
    ///
    /// # Errors
    /// What io_uring_enter(2) says.
    pub(super) fn wait(&mut self) -> io::Result<Option<Ended>> {
        if let Some(ended) = self.take_ended() {
            return Ok(Some(ended));
        }
        match self.ring.0.submit_and_wait(1) {
            Err(cause) if !is_passing(&cause) => Err(cause),
            _ => Ok(self.take_ended()),
        }
    }

    /// A request that has ended already.
    fn take_ended(&mut self) -> Option<Ended> {
        let entry = self.ring.0.completion().next()?;
        let slot = entry.user_data() as usize;
        self.under_way[slot] = None;
        let result = match entry.result() {
            n @ 0.. => Ok(n as usize),
            error => Err(io::Error::from_raw_os_error(-error)),
        };
        Some(Ended { slot, result })
    }
}

/// A ring for one thread, which reaps its completions itself (Linux 6.1), or a plain one.
fn open_ring(entries: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(entries)
        .or_else(|_| IoUring::new(entries))
}

/// Whether calling again is the answer.
fn is_passing(cause: &io::Error) -> bool {
    matches!(cause.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            if self.wait().is_err() {
                // The memory cannot be let go while the kernel may use it.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
