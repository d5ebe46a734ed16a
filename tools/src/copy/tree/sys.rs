//! System calls of trees that the standard library and `nix` do not wrap.
#![allow(unsafe_code)] // System calls by libc; confined to this file.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr;

/// Whether `file` has extended attributes or an ACL, or may have: one call, which brings none of
/// them here.
pub fn has_xattrs(file: &File) -> bool {
    // SAFETY: a size of zero asks for the length alone, and nothing is written to the null pointer;
    // the descriptor is borrowed from an open file.
    let len = unsafe { libc::flistxattr(file.as_raw_fd(), ptr::null_mut(), 0) };
    len > 0 || (len < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EOPNOTSUPP))
}
