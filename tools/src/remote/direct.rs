//! Files past the page cache, for lanes whose memory a device reads and writes: the processor copies nothing then.
//!
//! What is not whole pages (the end of a file), and what a file system does not take, goes through the page cache.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::copy::plan::{MOSTLY_CACHED, SMALL_BYTES};
use crate::copy::probe;

/// More is not asked for by any device of today, and slots are multiples of it.
const ALIGNMENT_MAX: u64 = 64 << 10;

/// A second descriptor of a file, with O_DIRECT.
#[derive(Debug)]
pub struct Direct {
    file: File,
    alignment: u64,
}

impl Direct {
    /// To read `file` of `len` bytes from its device; `None` where that is not possible, or the page cache has it.
    pub fn to_read(file: &File, len: u64) -> Option<Self> {
        let cached =
            || probe::cached_fraction(file, len).is_some_and(|share| share >= MOSTLY_CACHED);
        if len < SMALL_BYTES || cached() { None } else { Self::open(file, false) }
    }

    /// To write it.
    pub fn to_write(file: &File, len: u64) -> Option<Self> {
        if len < SMALL_BYTES { None } else { Self::open(file, true) }
    }

    fn open(file: &File, write: bool) -> Option<Self> {
        let (file, needed) = probe::open_direct(file, write).ok()?;
        // Whole pages: what another piece writes through the page cache at the same time shares none with this one.
        let alignment = needed.max(probe::page_bytes());
        (alignment.is_power_of_two() && alignment <= ALIGNMENT_MAX)
            .then_some(Self { file, alignment })
    }

    fn is_aligned(&self, memory: &[u8], offset: u64) -> bool {
        let lies = memory.as_ptr().addr() as u64 | offset;
        lies & (self.alignment - 1) == 0
    }

    /// Reads `range` to the start of `buffer`, which may be longer; whether it did.
    pub fn read(&self, buffer: &mut [u8], range: &Range<u64>) -> bool {
        let len = range.end - range.start;
        let whole = len.next_multiple_of(self.alignment) as usize; // of a piece
        if !self.is_aligned(buffer, range.start) {
            return false;
        }
        let Some(buffer) = buffer.get_mut(..whole) else { return false };
        self.file.read_at(buffer, range.start).is_ok_and(|read| read as u64 >= len)
    }

    /// Writes `bytes` at `offset`; whether it did.
    ///
    /// # Errors
    /// What the system says, but for what another way of writing may do.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        if !self.is_aligned(bytes, offset | bytes.len() as u64) {
            return Ok(false);
        }
        match self.file.write_all_at(bytes, offset) {
            Ok(()) => Ok(true),
            // The alignment was guessed, or a part was written.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory at an address that is a multiple of `page`.
    fn aligned(memory: &mut [u8], page: usize) -> &mut [u8] {
        let start = memory.as_ptr().align_offset(page);
        &mut memory[start..]
    }

    #[test]
    fn what_is_written_past_the_page_cache_is_read() {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let path = dir.path().join("file");
        let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
        let len = SMALL_BYTES + 100;
        file.set_len(len).unwrap();
        assert!(Direct::to_write(&file, SMALL_BYTES - 1).is_none(), "small files");
        let Some(direct) = Direct::to_write(&file, len) else {
            return println!("skipped: O_DIRECT: the file system of the sources has none");
        };
        let page = probe::page_bytes();
        let bytes = page as usize;
        let mut memory = vec![0; 5 * bytes];
        let memory = aligned(&mut memory, bytes);
        memory.fill(7);
        assert!(direct.write(&memory[..2 * bytes], page).unwrap());
        assert!(!direct.write(&memory[..512], 0).unwrap(), "no whole pages");
        assert!(!direct.write(&memory[..bytes], 512).unwrap());
        assert!(!direct.write(&memory[1..=bytes], 0).unwrap());
        file.write_all_at(&[8; 100], SMALL_BYTES).unwrap();
        file.sync_all().unwrap();
        let direct = Direct::open(&file, false).unwrap();
        memory.fill(0);
        assert!(direct.read(memory, &(2 * page..3 * page)));
        assert!(memory[..bytes].iter().all(|&byte| byte == 7));
        assert!(direct.read(memory, &(SMALL_BYTES..len)), "the end need not be whole");
        assert!(memory[..100].iter().all(|&byte| byte == 8));
        assert!(!direct.read(memory, &(SMALL_BYTES..len + 1)), "behind the end");
        assert!(!direct.read(memory, &(100..200)));
        assert!(!direct.read(&mut memory[..100], &(0..100)), "no room for a whole page");
    }
}
