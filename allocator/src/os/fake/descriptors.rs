//! Which files this process has open: the fake has to notice when the last descriptor of a memory
//! file is closed, which is no call of [`crate::os::Os`].

use core::mem::MaybeUninit;
use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::mappings::FileId;
use crate::os::Errno;

/// Device and inode number of an open file.
pub(super) fn identify(file: BorrowedFd<'_>) -> Result<FileId, Errno> {
    identify_raw(file.as_raw_fd())
}

fn identify_raw(fd: RawFd) -> Result<FileId, Errno> {
    let mut status = MaybeUninit::<libc::stat>::uninit();
    // SAFETY: `status` is ours to write. A number that is no descriptor (any more) is an error.
    if unsafe { libc::fstat(fd, status.as_mut_ptr()) } == -1 {
        return Err(Errno::last());
    }
    // SAFETY: the call succeeded, so it has filled the structure.
    let status = unsafe { status.assume_init() };
    Ok((status.st_dev, status.st_ino))
}

/// Every file this process has open.
pub(super) fn open_files() -> BTreeSet<FileId> {
    let entries = std::fs::read_dir("/proc/self/fd").expect("/proc/self/fd can be listed");
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(|fd| identify_raw(fd).ok()).collect()
}
