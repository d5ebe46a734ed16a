//! The page cache before and after a drive has copied behind its back.
//!
//! Before: what was written to either device and is not on the drive yet goes there, lest the drive copies
//! what is old, or old pages are written over the copy. After: pages of the target that are still in memory
//! show what was there before, so they are dropped; if one cannot be (somebody has mapped it, or is writing)
//! the copy is not good enough, and has to go through the page cache or past it in the kernel's own ways.

use std::fs::File;
use std::io;
use std::ops::Range;

use memmap2::MmapOptions;

use crate::copy::sys::{self, Advice};

/// Bytes looked at with one mapping: a byte of memory for each page.
const WINDOW: u64 = 1 << 30;

/// Puts on the drives what is in memory only.
pub(super) fn write_back(source: &File, target: &File) -> io::Result<()> {
    source.sync_data()?;
    target.sync_data()?;
    sys::advise(target, Advice::DontNeed); // fewer pages to look for afterwards
    Ok(())
}

/// Drops the first `len` bytes of the target from memory; says how many of its pages stay there.
pub(super) fn drop_pages(target: &File, len: u64) -> io::Result<u64> {
    sys::advise(target, Advice::DontNeed);
    if pages(target, len)? == 0 {
        return Ok(0);
    }
    // The stronger way, which only root has: also pages that a processor's list still holds.
    let _ = sys::flush_device(target);
    sys::advise(target, Advice::DontNeed);
    pages(target, len)
}

/// How many pages of the first `len` bytes are in memory.
fn pages(file: &File, len: u64) -> io::Result<u64> {
    if len == 0 {
        return Ok(0);
    }
    match sys::cachestat(file, 0..len) {
        Ok(stat) => Ok(stat.cached),
        // Before Linux 6.5.
        Err(_) => windows(len).map(|window| mapped_pages(file, window)).sum(),
    }
}

fn windows(len: u64) -> impl Iterator<Item = Range<u64>> {
    (0..len).step_by(WINDOW as usize).map(move |at| at..len.min(at + WINDOW))
}

/// By mincore(2), which tells the truth to whoever may write the file.
fn mapped_pages(file: &File, window: Range<u64>) -> io::Result<u64> {
    let len = (window.end - window.start) as usize;
    let map = MmapOptions::new().offset(window.start).len(len).map_raw_read_only(file)?;
    sys::resident_pages(&map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn pages_that_are_mapped_and_used_are_counted_and_others_go() {
        let mut file = tempfile::NamedTempFile::new_in("/var/tmp").unwrap();
        let len = 64 * 4096;
        file.write_all(&vec![1; len]).unwrap();
        let file = file.as_file();
        assert_eq!(mapped_pages(file, 0..len as u64).unwrap(), 64);
        assert_eq!(pages(file, len as u64).unwrap(), 64);
        file.sync_data().unwrap();
        if crate::copy::probe::file_system(file).is_ok_and(|system| system.is_memory()) {
            return; // its pages are the file
        }
        assert_eq!(drop_pages(file, len as u64).unwrap(), 0);
        assert_eq!(mapped_pages(file, 0..len as u64).unwrap(), 0);
    }

    #[test]
    fn windows_cover_everything_once() {
        let all: Vec<_> = windows(2 * WINDOW + 5).collect();
        assert_eq!(all, [0..WINDOW, WINDOW..2 * WINDOW, 2 * WINDOW..2 * WINDOW + 5]);
    }
}
