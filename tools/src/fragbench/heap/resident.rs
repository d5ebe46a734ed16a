//! How much memory a process's heap has: its anonymous mappings and memory files, whoever made them.
//!
//! From `/proc/self/smaps`: what is resident, and how much of it in huge pages. From
//! `/proc/self/pagemap`: which blocks of 2 MiB have any page. Left out are files (programs and
//! libraries), the first stack, and shared anonymous mappings, which are the measuring's own
//! [tables](super::table). Nothing is taken of the allocator meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::str;

use bookend::units::BLOCK_BYTES;

use super::table::Table;

/// What a heap has at a moment, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Resident {
    /// All of it.
    pub bytes: u64,
    /// Of these, in huge pages.
    pub huge: u64,
}

/// Room for the kernel's text: some 700 bytes a mapping.
const TEXT: usize = 64 << 20;
/// Blocks: 8 TiB of address space.
const BLOCKS: usize = 4 << 20;
/// Pages looked at in one go.
const WORDS: usize = 4096;
/// Bits of a word of pagemap: present, or swapped.
const HELD: u64 = 3 << 62;

/// Looks at this process.
#[derive(Debug)]
pub struct Watcher {
    text: Table<u8>,
    /// Numbers of blocks that have pages now, and of those that ever had; ascending.
    now: Table<u64>,
    ever: Table<u64>,
    page: u64,
}

/// A mapping of a heap.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Mapping {
    start: u64,
    end: u64,
    resident: Resident,
}

impl Watcher {
    /// One that has seen nothing yet.
    ///
    /// # Errors
    /// No memory for its tables.
    pub fn new() -> io::Result<Self> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as u64;
        let (now, ever) = (Table::new(BLOCKS)?, Table::new(BLOCKS)?);
        Ok(Self { text: Table::new(TEXT)?, now, ever, page })
    }

    /// What the heap has.
    ///
    /// # Errors
    /// The files of `/proc` cannot be read.
    pub fn look(&mut self) -> io::Result<Resident> {
        self.read_smaps()?;
        let pagemap = File::open("/proc/self/pagemap")?;
        self.now.clear();
        let mut all = Resident::default();
        let (text, now, page) = (&self.text, &mut self.now, self.page);
        let mut failed = Ok(());
        parse(text, |mapping| {
            all.bytes += mapping.resident.bytes;
            all.huge += mapping.resident.huge;
            if mapping.resident.bytes > 0 && failed.is_ok() {
                failed = blocks_of(&pagemap, mapping, page, now);
            }
        });
        failed?;
        self.remember();
        Ok(all)
    }

    /// Blocks that ever had a page when looked at, and those of them that have none now.
    pub fn blocks(&self) -> (u64, u64) {
        let kept = self.now.len();
        (self.ever.len() as u64, (self.ever.len() - kept) as u64)
    }

    fn read_smaps(&mut self) -> io::Result<()> {
        let mut file = File::open("/proc/self/smaps")?;
        self.text.clear();
        let mut buffer = [0; 8192];
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(());
            }
            for &byte in &buffer[..read] {
                self.text.push(byte).map_err(|_| io::ErrorKind::OutOfMemory)?;
            }
        }
    }

    /// Adds the blocks of now to those of ever.
    fn remember(&mut self) {
        let known = self.ever.len();
        for &block in self.now.iter() {
            if self.ever[..known].binary_search(&block).is_err() {
                let _ = self.ever.push(block); // there is room for more than there are addresses in use
            }
        }
        self.ever.sort_unstable();
    }
}

/// The blocks of a mapping that have pages.
fn blocks_of(
    pagemap: &File,
    mapping: Mapping,
    page: u64,
    blocks: &mut Table<u64>,
) -> io::Result<()> {
    let mut words = [0u8; WORDS * 8];
    let end = mapping.end / page;
    let mut at = mapping.start / page;
    while at < end {
        let count = (end - at).min(WORDS as u64) as usize;
        pagemap.read_exact_at(&mut words[..count * 8], at * 8)?;
        for word in words[..count * 8].chunks_exact(8) {
            let held = u64::from_ne_bytes(word.try_into().unwrap_or_default()) & HELD != 0;
            let block = at * page / BLOCK_BYTES as u64;
            if held && blocks.last() != Some(&block) {
                blocks.push(block).map_err(|_| io::ErrorKind::OutOfMemory)?;
            }
            at += 1;
        }
    }
    Ok(())
}

/// Calls `with` for each mapping of a heap in the text of smaps.
fn parse(text: &[u8], mut with: impl FnMut(Mapping)) {
    let mut current: Option<Mapping> = None;
    for line in text.split(|&byte| byte == b'\n') {
        let (name, rest) = match line.iter().position(|&byte| byte == b' ') {
            Some(space) => line.split_at(space),
            None => continue,
        };
        if let Some(range) = range_of(name) {
            current.take().into_iter().for_each(&mut with);
            let resident = Resident::default();
            current = is_heap(rest).then_some(Mapping { start: range.0, end: range.1, resident });
        } else if let Some(Mapping { resident, .. }) = &mut current {
            let bytes = || kib(rest).unwrap_or(0) * 1024;
            match name {
                b"Rss:" => resident.bytes += bytes(),
                b"Private_Hugetlb:" | b"Shared_Hugetlb:" => {
                    resident.bytes += bytes(); // which Rss leaves out
                    resident.huge += bytes();
                }
                b"AnonHugePages:" | b"ShmemPmdMapped:" => resident.huge += bytes(),
                _ => {}
            }
        }
    }
    current.into_iter().for_each(with);
}

fn range_of(name: &[u8]) -> Option<(u64, u64)> {
    let (start, end) = str::from_utf8(name).ok()?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// Whether a mapping may be a heap's, by what follows its range: access, offset, device, inode and
/// name.
fn is_heap(rest: &[u8]) -> bool {
    let mut fields = rest.split(|&byte| byte == b' ').filter(|field| !field.is_empty());
    let name = fields.nth(4).unwrap_or_default(); // none, or the first word of one
    match name {
        b"" | b"[heap]" | b"/anon_hugepage" => true,
        _ => name.starts_with(b"[anon") || name.starts_with(b"/memfd:"),
    }
}

fn kib(rest: &[u8]) -> Option<u64> {
    str::from_utf8(rest).ok()?.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &[u8] = b"\
55d0-55e0 r-xp 00001000 08:01 77    /usr/bin/program\nRss: 40 kB\n\
7f00-7f40 rw-p 00000000 00:00 0 \nSize: 900 kB\nRss:    12 kB\nAnonHugePages:   8 kB\n\
7f40-7f50 rw-s 00000000 00:01 1044  /dev/zero (deleted)\nRss: 500 kB\n\
7f50-7f60 rw-p 00000000 00:00 0   [heap]\nRss: 3 kB\nPrivate_Hugetlb:  2048 kB\nVmFlags: rd wr\n\
7f60-7f70 rw-s 00000000 00:01 9   /memfd:pool (deleted)\nRss: 4 kB\n\
7ffc-7ffd rw-p 00000000 00:00 0   [stack]\nRss: 99 kB\n";

    #[test]
    fn mappings_of_heaps_are_told_from_others() {
        let mut seen = Vec::new();
        parse(SMAPS, |m| {
            seen.push((m.start, m.end, m.resident.bytes >> 10, m.resident.huge >> 10))
        });
        assert_eq!(
            seen,
            [(0x7f00, 0x7f40, 12, 8), (0x7f50, 0x7f60, 2051, 2048), (0x7f60, 0x7f70, 4, 0)]
        );
        parse(b"nonsense\n\n12-zz x\nRss: 3 kB", |mapping| panic!("{mapping:?} is no mapping"));
    }

    #[test]
    fn memory_that_comes_and_goes_is_seen_and_tables_are_not() {
        let mut watcher = Watcher::new().unwrap();
        let mut table = Table::new(64 << 20).unwrap();
        let before = watcher.look().unwrap();
        for n in 0..64 << 20 {
            table.push(n as u8).unwrap();
        }
        let with_table = watcher.look().unwrap();
        // Other tests run in this process; the table alone would be 64 MiB.
        assert!(with_table.bytes < before.bytes + (48 << 20), "{before:?} {with_table:?}");
        let mut private = memmap2::MmapMut::map_anon(64 << 20).unwrap();
        private.fill(1);
        let with = watcher.look().unwrap();
        assert!(with.bytes >= with_table.bytes + (40 << 20), "{with_table:?} {with:?}");
        drop(private);
        watcher.look().unwrap();
        let (ever, gone) = watcher.blocks();
        assert!(gone >= 30 && ever > gone, "{gone} of {ever}");
    }
}
