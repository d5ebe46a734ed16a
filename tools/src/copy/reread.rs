//! Reading a file that was just written, from its device and not from the page cache.
//!
//! O_DIRECT goes past the page cache where there is one. Where the file system has none, the clean
//! pages are dropped first, and the kernel is asked whether they are gone: it may keep some. A
//! file system in memory has no device; its files are read as they are.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use super::probe::{self, Direct};
use super::sys::{self, Advice};

/// Where the bytes came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadFrom {
    /// The device, past the page cache.
    Device,
    /// The device, since the page cache had none of it.
    DeviceByCache,
    /// The page cache, as far as it has these bytes; `None` where it does not tell.
    Cache(Option<u64>),
    /// Memory: there is no device.
    Memory,
}

impl fmt::Display for ReadFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device => f.write_str("verified on the device, past the page cache"),
            Self::DeviceByCache => f.write_str("verified on the device: the page cache was empty"),
            Self::Cache(Some(bytes)) => {
                write!(f, "verified, but {bytes} bytes of it from the page cache, which kept them")
            }
            Self::Cache(None) => {
                f.write_str("verified, perhaps from the page cache: this kernel does not tell")
            }
            Self::Memory => f.write_str("verified in memory: this file system has no device"),
        }
    }
}

/// A file opened anew, to be read from its device.
#[derive(Debug)]
pub struct Reread {
    file: File,
    /// Offsets and lengths are multiples of this.
    step: u64,
    from: ReadFrom,
    buffer: Vec<u8>,
}

/// Offsets of O_DIRECT where the file system does not say: the largest sector in use. The memory
/// is aligned so, too.
const STEP: u64 = 4096;

impl Reread {
    /// Makes the first `len` bytes of `file` durable, and opens it anew.
    ///
    /// # Errors
    /// What `fdatasync(2)` and opening say.
    pub fn open(file: &File, len: u64) -> io::Result<Self> {
        file.sync_data()?;
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        let direct = match probe::direct(file) {
            Direct::Aligned(align) if u64::from(align.memory.max(align.offset)) > STEP => None,
            Direct::Aligned(_) | Direct::Unknown => {
                OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&name).ok()
            }
            Direct::No => None,
        };
        if let Some(file) = direct {
            let mut past = Self { file, step: STEP, from: ReadFrom::Device, buffer: Vec::new() };
            if past.read(0..len.min(1)).is_ok() {
                return Ok(past);
            }
        }
        Self::emptied(File::open(&name)?, len)
    }

    /// Empties the page cache of `file` as far as that goes.
    fn emptied(file: File, len: u64) -> io::Result<Self> {
        let from = if probe::file_system(&file).is_ok_and(|found| found.is_memory()) {
            ReadFrom::Memory
        } else {
            sys::advise(&file, Advice::DontNeed);
            match sys::cachestat(&file, 0..len) {
                Ok(stat) if stat.cached == 0 || len == 0 => ReadFrom::DeviceByCache,
                Ok(stat) => ReadFrom::Cache(Some(stat.cached * probe::page_bytes())),
                Err(_) => ReadFrom::Cache(None),
            }
        };
        sys::advise(&file, Advice::Sequential);
        Ok(Self { file, step: 1, from, buffer: Vec::new() })
    }

    /// Where its bytes come from.
    pub fn from(&self) -> ReadFrom {
        self.from
    }

    /// Reads `range`; fewer bytes where the file ends before.
    ///
    /// # Errors
    /// What reading says.
    pub fn read(&mut self, range: Range<u64>) -> io::Result<&[u8]> {
        let first = range.start - range.start % self.step;
        let wanted = (range.end - first).next_multiple_of(self.step) as usize;
        if self.buffer.len() < wanted + STEP as usize {
            self.buffer.resize(wanted + STEP as usize, 0);
        }
        let skip = self.buffer.as_ptr().align_offset(STEP as usize).min(STEP as usize);
        let bytes = &mut self.buffer[skip..skip + wanted];
        let mut done = 0;
        while done < wanted {
            match self.file.read_at(&mut bytes[done..], first + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            // Past the cache, only the end of the file stands between two steps.
            if !(done as u64).is_multiple_of(self.step) {
                break;
            }
        }
        let end = done.min((range.end - first) as usize);
        Ok(&bytes[((range.start - first) as usize).min(end)..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads odd ranges of a file in `directory`; `None` where that directory is not there.
    fn read_back(directory: &str) -> Option<ReadFrom> {
        let Ok(file) = tempfile::tempfile_in(directory) else {
            println!("skipped: no files can be made in {directory}");
            return None;
        };
        let content: Vec<u8> = (0..100_001_u32).map(|i| (i / 3) as u8).collect();
        file.write_all_at(&content, 0).unwrap();
        let mut reread = Reread::open(&file, content.len() as u64).unwrap();
        for range in [0..1, 1..9000, 4096..8192, 99_999..100_001, 0..100_001, 7..7] {
            let part = &content[range.start as usize..range.end as usize];
            assert!(reread.read(range.clone()).unwrap() == part, "{directory}: {range:?}");
        }
        assert_eq!(reread.read(100_000..200_000).unwrap().len(), 1, "the file ends there");
        assert_eq!(reread.read(200_000..200_001).unwrap().len(), 0, "the file ended before");
        Some(reread.from())
    }

    #[test]
    fn odd_ranges_are_read_from_a_disk() {
        let directory = option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/var/tmp");
        if let Some(from) = read_back(directory) {
            println!("{directory}: {from}");
        }
    }

    #[test]
    fn a_file_in_memory_says_so() {
        let Some(from) = read_back("/dev/shm") else { return };
        assert_eq!(from, ReadFrom::Memory);
    }

    #[test]
    fn an_emptied_cache_is_read_through() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        io::Write::write_all(&mut file, &[7; 10_000]).unwrap();
        file.as_file().sync_all().unwrap();
        let mut reread = Reread::emptied(File::open(file.path()).unwrap(), 10_000).unwrap();
        assert_ne!(reread.from(), ReadFrom::Device);
        assert_eq!(reread.read(9_000..11_000).unwrap(), [7; 1_000]);
    }
}
