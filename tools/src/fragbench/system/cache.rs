//! Files of which it is watched how much stays in the page cache.
//!
//! They are holes: reading one fills the page cache with pages like any other's, at the speed of
//! memory and without taking room on the disk.
#![allow(unsafe_code)] // mincore(2)

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bookend::os::{Linux, Os};
use bookend::units::Bytes;

use super::SystemFailure;
use crate::cli::interrupt::Interrupts;

/// Bytes a read.
const CHUNK: usize = 1 << 20;

/// A file of holes.
#[derive(Debug)]
pub struct CachedFile {
    file: File,
    path: PathBuf,
    size: Bytes,
}

impl CachedFile {
    /// A new one.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(directory: &Path, name: &str, size: Bytes) -> Result<Self, SystemFailure> {
        let path = directory.join(name);
        let made = File::options().create_new(true).read(true).write(true).open(&path);
        let made = made.and_then(|file| file.set_len(size.get()).map(|()| file));
        match made {
            Ok(file) => Ok(Self { file, path, size }),
            Err(source) => Err(SystemFailure::File { path, what: "cannot be made", source }),
        }
    }

    /// Its size.
    pub const fn size(&self) -> Bytes {
        self.size
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// It cannot be read, or a signal came.
    pub fn read(&self, interrupts: Interrupts) -> Result<(), SystemFailure> {
        self.read_range(0..self.size.get(), interrupts)
    }

    /// Reads a part of it.
    ///
    /// # Errors
    /// It cannot be read, or a signal came.
    pub fn read_range(
        &self,
        range: std::ops::Range<u64>,
        interrupts: Interrupts,
    ) -> Result<(), SystemFailure> {
        let mut buffer = vec![0; CHUNK];
        let mut at = range.start;
        while at < range.end.min(self.size.get()) {
            interrupts.check()?;
            match self.file.read_at(&mut buffer, at) {
                Ok(0) => break,
                Ok(n) => at += n as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.error("cannot be read", source)),
            }
        }
        Ok(())
    }

    /// The share of it that is in the page cache.
    ///
    /// # Errors
    /// It cannot be mapped or looked at.
    pub fn cached(&self) -> Result<f64, SystemFailure> {
        let failed = |source| self.error("cannot be looked at", source);
        // SAFETY: nothing is read or written through the mapping; only its pages are counted.
        let map = unsafe { memmap2::Mmap::map(&self.file) }.map_err(failed)?;
        let pages = map.len().div_ceil(1 << Linux.base_page_size().shift());
        let mut present = vec![0u8; pages];
        // SAFETY:
        // 1. The range is that of the mapping, which begins on a page and outlives the call.
        // 2. `present` has a byte for every page of it.
        let result = unsafe {
            libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), present.as_mut_ptr().cast())
        };
        if result != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        let count = present.iter().filter(|&&byte| byte & 1 != 0).count();
        Ok(count as f64 / pages.max(1) as f64)
    }

    fn error(&self, what: &'static str, source: io::Error) -> SystemFailure {
        SystemFailure::File { path: self.path.clone(), what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_read_is_cached() {
        let directory = tempfile::tempdir().unwrap();
        let interrupts = Interrupts::note().unwrap();
        let file = CachedFile::new(directory.path(), "x", Bytes::mib(8)).unwrap();
        assert_eq!(file.cached().unwrap(), 0.0);
        file.read(interrupts).unwrap();
        assert!(file.cached().unwrap() > 0.9);
        assert!(CachedFile::new(directory.path(), "x", Bytes::mib(1)).is_err(), "it exists");
    }
}
