//! io_uring_register(2), as far as buffers go. Numbers and layouts are those of
//! include/uapi/linux/io_uring.h.
#![allow(unsafe_code)] // system calls with addresses

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::pieces::Piece;

const REGISTER_BUFFERS: libc::c_uint = 0;
const UNREGISTER_BUFFERS: libc::c_uint = 1;
const REGISTER_BUFFERS2: libc::c_uint = 15;
const REGISTER_BUFFERS_UPDATE: libc::c_uint = 16;
const REGISTER_CLONE_BUFFERS: libc::c_uint = 30;

const RSRC_REGISTER_SPARSE: u32 = 1;
const REGISTER_DST_REPLACE: u32 = 1 << 1;

/// `struct io_uring_rsrc_register`.
#[repr(C)]
#[derive(Default)]
struct RsrcRegister {
    nr: u32,
    flags: u32,
    resv2: u64,
    data: u64,
    tags: u64,
}

/// `struct io_uring_rsrc_update2`.
#[repr(C)]
#[derive(Default)]
struct RsrcUpdate {
    offset: u32,
    resv: u32,
    data: u64,
    tags: u64,
    nr: u32,
    resv2: u32,
}

/// `struct io_uring_clone_buffers`.
#[repr(C)]
#[derive(Default)]
struct CloneBuffers {
    src_fd: u32,
    flags: u32,
    src_off: u32,
    dst_off: u32,
    nr: u32,
    pad: [u32; 3],
}

const _: () = assert!(size_of::<RsrcRegister>() == 32);
const _: () = assert!(size_of::<RsrcUpdate>() == 32);
const _: () = assert!(size_of::<CloneBuffers>() == 32);

/// # Safety
/// `argument` and `count` are what the operation expects.
unsafe fn register(
    ring: &OwnedFd,
    operation: libc::c_uint,
    argument: *const libc::c_void,
    count: usize,
) -> io::Result<usize> {
    // SAFETY: passed on; the descriptor is open.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), operation, argument, count)
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn iovecs(pieces: &[Piece]) -> Vec<libc::iovec> {
    let iovec = |piece: &Piece| libc::iovec {
        iov_base: piece.start.as_ptr().cast(),
        iov_len: piece.len.as_usize(),
    };
    pieces.iter().map(iovec).collect()
}

/// Registers all of a ring's buffers.
///
/// # Safety
/// The pieces are mapped, and stay so until they are unregistered.
pub(super) unsafe fn register_all(ring: &OwnedFd, pieces: &[Piece]) -> io::Result<()> {
    let iovecs = iovecs(pieces);
    // SAFETY: the iovecs live through the call; the rest is the caller's.
    unsafe { register(ring, REGISTER_BUFFERS, iovecs.as_ptr().cast(), iovecs.len()) }.map(drop)
}

/// Takes all buffers out, and the table of slots with them.
pub(super) fn unregister_all(ring: &OwnedFd) -> io::Result<()> {
    // SAFETY: the operation takes no argument.
    unsafe { register(ring, UNREGISTER_BUFFERS, std::ptr::null(), 0) }.map(drop)
}

/// Makes a table of empty slots.
pub(super) fn register_slots(ring: &OwnedFd, slots: u32) -> io::Result<()> {
    let argument = RsrcRegister { nr: slots, flags: RSRC_REGISTER_SPARSE, ..Default::default() };
    let at = (&raw const argument).cast();
    // SAFETY: the argument is what the operation takes, and as long as is said.
    unsafe { register(ring, REGISTER_BUFFERS2, at, size_of::<RsrcRegister>()) }.map(drop)
}

/// Puts pieces into slots from `first` on, and says how many went in before one was refused.
///
/// # Safety
/// The pieces are mapped, and stay so until they are taken out.
pub(super) unsafe fn fill_slots(ring: &OwnedFd, first: u32, pieces: &[Piece]) -> io::Result<usize> {
    // SAFETY: the caller's.
    unsafe { update(ring, first, &iovecs(pieces)) }
}

/// Empties slots. What requests use goes when they end.
pub(super) fn clear_slots(ring: &OwnedFd, first: u32, count: usize) -> io::Result<usize> {
    let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    // SAFETY: null iovecs empty slots.
    unsafe { update(ring, first, &vec![nothing; count]) }
}

/// # Safety
/// The iovecs are null, or name mapped memory that stays so until it is taken out.
unsafe fn update(ring: &OwnedFd, first: u32, iovecs: &[libc::iovec]) -> io::Result<usize> {
    let data = iovecs.as_ptr() as u64;
    let nr = iovecs.len() as u32;
    let argument = RsrcUpdate { offset: first, data, nr, ..Default::default() };
    let at = (&raw const argument).cast();
    // SAFETY: the argument is what the operation takes; the iovecs live through the call.
    unsafe { register(ring, REGISTER_BUFFERS_UPDATE, at, size_of::<RsrcUpdate>()) }
}

/// Puts another ring's buffers into slots of this one. They are pinned once for both.
pub(super) fn clone_slots(
    to: &OwnedFd,
    to_first: u32,
    from: &OwnedFd,
    from_first: u32,
    count: usize,
) -> io::Result<()> {
    let argument = CloneBuffers {
        src_fd: from.as_raw_fd() as u32,
        flags: REGISTER_DST_REPLACE,
        src_off: from_first,
        dst_off: to_first,
        nr: count as u32,
        pad: [0; 3],
    };
    // SAFETY: the operation takes one such argument.
    unsafe { register(to, REGISTER_CLONE_BUFFERS, (&raw const argument).cast(), 1) }.map(drop)
}
