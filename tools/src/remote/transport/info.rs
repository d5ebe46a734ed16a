//! What the kernel has measured of a connection.
#![allow(unsafe_code)] // getsockopt(2), for which there is no safe wrapper with this option

use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

/// The shortest time that something took there and back, or an average where kernels are too old to say (4.6); `None`
/// where nothing was measured.
pub fn round_trip(stream: &TcpStream) -> Option<Duration> {
    // SAFETY: zeros are a valid value of it: it is made of numbers.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t; // a few hundred bytes
    let (fd, to) = (stream.as_raw_fd(), (&raw mut info).cast());
    // SAFETY: (1) the descriptor is borrowed from something open; (2) the call writes no more than `len` bytes, which
    // are ours; (3) what an older kernel leaves out stays zero.
    let failed = unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut len) };
    let measured = [info.tcpi_min_rtt, info.tcpi_rtt];
    let known = measured.into_iter().find(|&us| us != 0 && us != u32::MAX);
    known.filter(|_| failed == 0).map(|us| Duration::from_micros(us.into()))
}
