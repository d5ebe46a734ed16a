//! Messages with descriptors over a Unix socket (SOCK_SEQPACKET): `SCM_RIGHTS` of unix(7).
#![allow(unsafe_code)] // sendmsg(2), recvmsg(2)

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `SCM_MAX_FD` of the kernel.
const FILES_MAX: usize = 253;

/// Room for a control message with that many descriptors, aligned as its header has to be.
struct Control {
    words: Vec<u64>,
}

impl Control {
    fn new(files: usize) -> Self {
        // SAFETY: it computes a length.
        let bytes = unsafe { libc::CMSG_SPACE((files * size_of::<RawFd>()) as u32) } as usize;
        Self { words: vec![0; bytes.div_ceil(8)] }
    }

    fn len(&self) -> usize {
        self.words.len() * 8
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Calls again what a signal has interrupted.
fn retry(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

pub(super) fn seqpacket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the descriptor is new, and ours.
    unsafe { Ok(OwnedFd::from_raw_fd(check(libc::socket(libc::AF_UNIX, kind, 0))?)) }
}

/// A path as an address.
fn address(path: &Path) -> io::Result<(libc::sockaddr_un, u32)> {
    // SAFETY: zeros are a valid value of it.
    let mut address: libc::sockaddr_un = unsafe { mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
        let why = format!("{}: a socket's path has 1 to 107 bytes", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    for (to, &from) in address.sun_path.iter_mut().zip(bytes) {
        *to = from as libc::c_char;
    }
    Ok((address, (mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1) as u32))
}

pub(super) fn listen(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    let (address, len) = address(path)?;
    // SAFETY: the address is as long as is said.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: the descriptor is open.
    check(unsafe { libc::listen(socket.as_raw_fd(), 64) })?;
    Ok(socket)
}

pub(super) fn connect(path: &Path) -> io::Result<OwnedFd> {
    let socket = seqpacket()?;
    let (address, len) = address(path)?;
    retry(|| {
        // SAFETY: the address is as long as is said.
        unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), len) as isize }
    })?;
    Ok(socket)
}

pub(super) fn accept(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let fd = retry(|| {
        let (no_address, no_len) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: no address is asked for.
        let fd =
            unsafe { libc::accept4(socket.as_raw_fd(), no_address, no_len, libc::SOCK_CLOEXEC) };
        fd as isize
    })?;
    // SAFETY: the descriptor is new, and ours.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Who is at the other end.
pub(super) fn peer(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut who = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as u32;
    // SAFETY: the credentials are ours to write, as long as is said.
    check(unsafe {
        let (level, option) = (libc::SOL_SOCKET, libc::SO_PEERCRED);
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut who).cast(), &mut len)
    })?;
    Ok(who)
}

/// Sends one message. The peer that is gone is an error, never a signal.
pub(super) fn send(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    files: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if files.len() > FILES_MAX {
        return Err(io::Error::other("more files than one message takes"));
    }
    let mut control = Control::new(files.len());
    let mut vector =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: zeros are a valid value of it.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    if !files.is_empty() {
        message.msg_control = control.words.as_mut_ptr().cast();
        message.msg_controllen = control.len() as _;
        // SAFETY: there is room for a header and as many descriptors.
        unsafe {
            let header = libc::CMSG_FIRSTHDR(&message);
            (*header).cmsg_level = libc::SOL_SOCKET;
            (*header).cmsg_type = libc::SCM_RIGHTS;
            (*header).cmsg_len = libc::CMSG_LEN(size_of_val(files) as u32) as _;
            let data = libc::CMSG_DATA(header).cast::<RawFd>();
            for (n, file) in files.iter().enumerate() {
                data.add(n).write_unaligned(file.as_raw_fd());
            }
        }
    }
    // SAFETY: everything that the message names is there until this returns.
    retry(|| unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_NOSIGNAL) }).map(drop)
}

/// Receives one message; nothing where the peer is gone.
pub(super) fn receive(
    socket: BorrowedFd<'_>,
    bytes_max: usize,
) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    let mut bytes = vec![0u8; bytes_max];
    let mut control = Control::new(FILES_MAX);
    let mut vector = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: zeros are a valid value of it.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &mut vector;
    message.msg_iovlen = 1;
    message.msg_control = control.words.as_mut_ptr().cast();
    message.msg_controllen = control.len() as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    // SAFETY: everything that the message names is ours to write, as long as is said.
    let count = retry(|| unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) })?;
    let mut files = Vec::new();
    // SAFETY: the kernel has filled the control messages in; descriptors in them are new, and ours.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&message);
        while let Some(found) = header.as_ref() {
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                #[allow(clippy::unnecessary_cast)] // 32 bits with musl
                let len = found.cmsg_len as usize - libc::CMSG_LEN(0) as usize;
                let owned = (0..len / size_of::<RawFd>())
                    .map(|n| OwnedFd::from_raw_fd(data.add(n).read_unaligned()));
                files.extend(owned);
            }
            header = libc::CMSG_NXTHDR(&message, header);
        }
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
    }
    if count == 0 {
        return Ok(None);
    }
    bytes.truncate(count);
    Ok(Some((bytes, files)))
}

/// Whether the peer is gone. Does not wait, and takes nothing.
pub(super) fn is_gone(socket: BorrowedFd<'_>) -> bool {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one descriptor is asked for.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready > 0 && poll.revents & (libc::POLLHUP | libc::POLLRDHUP | libc::POLLERR) != 0
}
