//! Which processes hold what cannot be moved: page tables, locked pages and pinned ones.
//!
//! `/proc/PID/status` tells how much each has; for pinned pages, which no page flag shows, the
//! frames of the process's pages (`/proc/PID/pagemap`) tell which blocks they may stand in.
//! What a driver pins without accounting for it (`VmPin`) is not seen by anybody.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bookend::units::PageSize;
use serde::Serialize;

use super::counters::Counters;
use super::files::{FileError, Files, read_error};

/// A process, and how much of what it has stands in the way.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Process {
    /// Its number.
    pub pid: u64,
    /// Its name.
    pub name: String,
    /// Memory in page tables.
    pub page_table_bytes: u64,
    /// Memory locked by mlock(2): it can be moved, and not dropped.
    pub locked_bytes: u64,
    /// Memory pinned for devices or io_uring: it can be neither.
    pub pinned_bytes: u64,
    /// Memory it has present, of files too.
    pub resident_bytes: u64,
}

/// All processes that can be seen, but for those that end meanwhile and the kernel's own threads.
///
/// # Errors
/// [`FileError`] of `/proc`.
pub fn processes(files: &Files) -> Result<Vec<Process>, FileError> {
    let pids = files.numbered("proc", "", "")?;
    Ok(pids.into_iter().filter_map(|pid| process(files, pid)).collect())
}

fn process(files: &Files, pid: u64) -> Option<Process> {
    let text = files.text(format!("proc/{pid}/status")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("Name:"))?.trim().to_owned();
    let counters = Counters::parse(&text);
    counters.get("VmSize")?; // a thread of the kernel has no memory of its own
    let get = |name| counters.get(name).unwrap_or(0);
    Some(Process {
        pid,
        name,
        page_table_bytes: get("VmPTE"),
        locked_bytes: get("VmLck"),
        pinned_bytes: get("VmPin"),
        resident_bytes: get("VmRSS"),
    })
}

/// The `n` with most of something, most first; those with none are left out.
pub fn top(processes: &[Process], n: usize, of: impl Fn(&Process) -> u64) -> Vec<&Process> {
    let mut most: Vec<_> = processes.iter().filter(|process| of(process) > 0).collect();
    most.sort_by_key(|process| std::cmp::Reverse(of(process)));
    most.truncate(n);
    most
}

/// Where a process's pinned pages are, as far as can be told.
#[derive(Clone, PartialEq, Debug)]
pub struct Pinned {
    /// The process.
    pub process: Process,
    /// Blocks that may have pinned pages, and how likely it is that they have one.
    pub blocks: BTreeMap<u64, f64>,
}

impl Pinned {
    /// How likely it is that the block cannot be freed because of it.
    pub fn chance(&self, block: u64) -> f64 {
        self.blocks.get(&block).copied().unwrap_or(0.0)
    }

    /// How many blocks it holds, as far as can be told.
    pub fn expected_blocks(&self) -> f64 {
        self.blocks.values().sum()
    }

    /// Nothing tells which pages of a process are pinned. What is pinned are buffers, so its pages
    /// are sought in the mappings with most pages first; in the last of these, which they do not
    /// fill, every page is as likely to be one.
    fn of(process: &Process, base: PageSize, mut mappings: Vec<PagesByBlock>) -> Self {
        let pages = |mapping: &PagesByBlock| mapping.values().map(|&n| u64::from(n)).sum::<u64>();
        mappings.sort_by_cached_key(|mapping| std::cmp::Reverse(pages(mapping)));
        let mut left = process.pinned_bytes >> base.shift();
        let mut blocks = BTreeMap::new();
        for mapping in mappings {
            let here = left.min(pages(&mapping));
            if here == 0 {
                break;
            }
            left -= here;
            let share = here as f64 / pages(&mapping) as f64;
            for (block, n) in mapping {
                let chance = blocks.entry(block).or_insert(0.0);
                *chance = 1.0 - (1.0 - *chance) * (1.0 - share).powi(n as i32);
            }
        }
        Self { process: process.clone(), blocks }
    }
}

/// How likely it is that pages which somebody has pinned stand in a block.
pub fn chance(pinned: &[Pinned], block: u64) -> f64 {
    1.0 - pinned.iter().map(|pinned| 1.0 - pinned.chance(block)).product::<f64>()
}

/// Whether a block is to be taken for pinned.
pub fn is_held(pinned: &[Pinned], block: u64) -> bool {
    chance(pinned, block) > 0.5
}

/// How many pages a mapping has in which block.
type PagesByBlock = BTreeMap<u64, u32>;

/// The pages of every process that has pinned some.
///
/// # Errors
/// [`FileError`]: frames are shown to root only. A process that ends meanwhile is left out.
pub fn pinned(
    files: &Files,
    base: PageSize,
    processes: &[Process],
) -> Result<Vec<Pinned>, FileError> {
    let mut found = Vec::new();
    for process in top(processes, processes.len(), |process| process.pinned_bytes) {
        match mappings_of(files, base, process.pid) {
            Ok(mappings) => found.push(Pinned::of(process, base, mappings)),
            Err(FileError::Absent { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

const PRESENT: u64 = 1 << 63;
/// A page of a file, or of shared memory; long-term pins of files are rare and refused by most.
const FILE_OR_SHARED: u64 = 1 << 61;
const FRAME: u64 = (1 << 55) - 1;

/// Blocks in which anonymous pages of a process are, mapping by mapping.
fn mappings_of(files: &Files, base: PageSize, pid: u64) -> Result<Vec<PagesByBlock>, FileError> {
    let maps = files.text(format!("proc/{pid}/maps"))?;
    let path = files.path(format!("proc/{pid}/pagemap"));
    let failed = |source| read_error(&path, source);
    let file = File::open(&path).map_err(failed)?;
    let to_block = PageSize::MIB2.shift() - base.shift();
    let mut mappings = Vec::new();
    for (start, end) in maps.lines().filter_map(range) {
        let pages = start >> base.shift()..end >> base.shift();
        let mut blocks = PagesByBlock::new();
        each_word(&file, pages, |word| {
            let frame = word & FRAME;
            if word & PRESENT != 0 && word & FILE_OR_SHARED == 0 && frame != 0 {
                *blocks.entry(frame >> to_block).or_insert(0) += 1;
            }
        })
        .map_err(failed)?;
        mappings.push(blocks);
    }
    Ok(mappings)
}

/// The first field of a line of maps: `7f00-7f01`; none for the kernel's own page of system calls.
fn range(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_once(' ')?.0.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    hex(start).zip(hex(end)).filter(|(_, end)| *end < 1 << 63)
}

/// Calls `each` with the word of every page.
fn each_word(
    file: &File,
    pages: std::ops::Range<u64>,
    mut each: impl FnMut(u64),
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    let mut at = pages.start * 8;
    while at < pages.end * 8 {
        let want = (pages.end * 8 - at).min(buffer.len() as u64) as usize;
        let n = file.read_at(&mut buffer[..want], at)? & !7;
        if n == 0 {
            break; // the mapping went
        }
        let (words, _) = buffer[..n].as_chunks::<8>();
        words.iter().for_each(|&word| each(u64::from_ne_bytes(word)));
        at += n as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    const BASE: PageSize = PageSize::KIB4;

    fn machine() -> MadeUp {
        let machine = MadeUp::empty();
        let status = |pte: u64, pin: u64| {
            format!("Name:\tdata base\nVmSize:\t 9 kB\nVmPTE:\t {pte} kB\nVmPin:\t {pin} kB\n")
        };
        machine.put("proc/17/status", status(8, 8));
        machine.put("proc/18/status", status(900, 0));
        machine.put("proc/2/status", "Name:\tkthreadd\n");
        machine.put("proc/self/status", "Name:\tx\nVmSize: 1 kB\n");
        // Pages 1 to 4 of the address space.
        machine.put("proc/17/maps", "1000-5000 rw-p 00000000 00:00 0\nffffffffff600000-ffffffffff601000 --xp 0 00:00 0 [vsyscall]\n");
        let block = 512;
        let words = [
            0,
            PRESENT | (7 * block),
            PRESENT | (9 * block + 3),
            PRESENT | FILE_OR_SHARED | (11 * block),
            0,
        ];
        let bytes: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_ne_bytes()).collect();
        machine.put("proc/17/pagemap", bytes);
        machine
    }

    #[test]
    fn processes_are_told_by_what_they_hold() {
        let machine = machine();
        let processes = processes(machine.files()).unwrap();
        let pids: Vec<_> = processes.iter().map(|process| process.pid).collect();
        assert_eq!(pids, [17, 18], "the kernel's threads have no memory");
        assert_eq!(processes[0].name, "data base");
        let most = top(&processes, 1, |process| process.page_table_bytes);
        assert_eq!((most.len(), most[0].pid, most[0].page_table_bytes), (1, 18, 900 << 10));
    }

    #[test]
    fn pinned_pages_are_found_in_their_blocks() {
        let machine = machine();
        let processes = processes(machine.files()).unwrap();
        let pinned = pinned(machine.files(), BASE, &processes).unwrap();
        assert_eq!(pinned.len(), 1);
        let blocks: Vec<_> = pinned[0].blocks.iter().map(|(&block, &n)| (block, n)).collect();
        assert_eq!(blocks, [(7, 1.0), (9, 1.0)], "pages of files do not count");
        assert_eq!(pinned[0].expected_blocks(), 2.0);
        assert_eq!(pinned[0].chance(11), 0.0);
    }

    #[test]
    fn large_mappings_are_where_pinned_pages_are_sought_first() {
        let machine = machine();
        let process = &processes(machine.files()).unwrap()[0];
        let heap = BTreeMap::from([(1, 1)]);
        let buffers = BTreeMap::from([(2, 1), (3, 3)]);
        let of = |pages: u64, mappings: &[&PagesByBlock]| {
            let process = Process { pinned_bytes: pages << 12, ..process.clone() };
            Pinned::of(&process, BASE, mappings.iter().map(|&mapping| mapping.clone()).collect())
        };
        let chances = |pinned: &Pinned| [1, 2, 3].map(|block| pinned.chance(block));
        assert_eq!(chances(&of(4, &[&heap, &buffers])), [0.0, 1.0, 1.0]);
        assert_eq!(chances(&of(9, &[&heap, &buffers])), [1.0, 1.0, 1.0], "more than it has");
        assert_eq!(chances(&of(2, &[&heap, &buffers])), [0.0, 0.5, 0.875]);
        assert_eq!(of(2, &[]).expected_blocks(), 0.0);
    }

    #[test]
    fn a_process_that_is_gone_is_left_out() {
        let machine = machine();
        let processes = processes(machine.files()).unwrap();
        machine.remove("proc/17/maps");
        assert_eq!(pinned(machine.files(), BASE, &processes).unwrap(), []);
    }
}
