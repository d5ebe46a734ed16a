//! A file, mapped.
#![allow(unsafe_code)] // mmap(2)

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use bookend::os::{Linux, Os};
use bookend::units::{Bytes, PageSize};

use super::FileError;
use crate::pieces::Piece;

/// What of a file is mapped to do what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// For reading alone. Rings cannot register that; devices can, with
    /// [`verbs::Access::LOCAL_READ`](crate::verbs::Access::LOCAL_READ).
    Read,
    /// For reading and writing. The file is open for both.
    ReadWrite,
}

/// All of a file, shared with whoever else has it.
#[derive(Debug)]
pub(super) struct Mapped {
    pub start: NonNull<u8>,
    pub len: Bytes,
}

// SAFETY: it owns an address range, and reads and writes nothing there.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    pub fn new(file: &File, len: Bytes, mapping: Mapping) -> Result<Self, FileError> {
        if len == Bytes::ZERO {
            return Err(FileError::Empty);
        }
        let protection = match mapping {
            Mapping::Read => libc::PROT_READ,
            Mapping::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let nothing = std::ptr::null_mut();
        // SAFETY: no address is given.
        let start = unsafe {
            let (fd, shared) = (file.as_raw_fd(), libc::MAP_SHARED);
            libc::mmap(nothing, len.as_usize(), protection, shared, fd, 0)
        };
        if start == libc::MAP_FAILED {
            let cause = io::Error::last_os_error();
            return Err(FileError::System { operation: "map the file", cause });
        }
        let start = NonNull::new(start.cast()).expect("mmap gives no null");
        Ok(Self { start, len })
    }

    /// It as one piece, of pages of that size.
    pub fn piece(&self, page: PageSize) -> Piece {
        Piece { start: self.start, len: self.len, page }
    }
}

/// Size of a file's pages: its file system's block on hugetlbfs, else a base page.
pub(super) fn page_size(file: &File) -> PageSize {
    use std::os::linux::fs::MetadataExt;
    let block =
        file.metadata().ok().and_then(|data| PageSize::from_bytes(Bytes::new(data.st_blksize())));
    let base = Linux.base_page_size();
    // tmpfs names a huge page as well, if it may use one; then rounding to it does no harm.
    block.filter(|&page| page >= base).unwrap_or(base)
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and this is its last use.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len.as_usize()) };
    }
}
