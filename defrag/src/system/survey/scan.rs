//! Reads `/proc/kpageflags` whole, by all processors at once.
//!
//! The kernel makes each word when it is read, some 60 ns a page, so that reading is the cost and
//! processors share it: each takes the next piece of a few MiB of the file until it ends. A piece is
//! summed up into a word a block and a table a zone and then forgotten; memory use is four bytes a
//! block and a buffer a thread.
//!
//! A [`glance`] reads one block of every [`ONE_IN`], at another place in each such group, since memory
//! is used in patterns. Where a share p of n blocks looked at is of a class, its estimate is off by
//! √(p(1 − p)/n) at one standard deviation: of a machine of 24 GiB, by 0.8 of a hundred blocks for a
//! class of a tenth of them.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use bookend::units::PageSize;

use super::block::{Block, Pages};
use super::kinds::{self, Kind};
use super::ram::Ram;
use super::{Survey, ZoneSurvey};
use crate::system::files::{FileError, Files, read_error};
use crate::system::zones::{Zone, zones};

/// Bytes of a page's word.
const WORD: usize = 8;
/// Blocks that a thread takes at a time: 256 KiB of the file with 4 KiB pages.
const PIECE_BLOCKS: u64 = 64;

/// A glance looks at one block in so many.
pub const ONE_IN: u64 = 8;

pub(super) const KPAGEFLAGS: &str = "proc/kpageflags";

/// What one thread has seen.
struct Seen {
    pieces: Vec<(u64, Vec<Block>)>,
    zones: Vec<ZoneSurvey>,
}

/// Looks at all of memory.
///
/// # Errors
/// [`FileError`] of the zones or of kpageflags, which only root may read.
pub fn survey(files: &Files, base: PageSize) -> Result<Survey, FileError> {
    look(files, base, Sample { one_in: 1 })
}

/// Looks at one block in [`ONE_IN`], and takes the others to be like them: an estimate, in that part
/// of the time.
///
/// # Errors
/// As of [`survey`].
pub fn glance(files: &Files, base: PageSize) -> Result<Survey, FileError> {
    look(files, base, Sample { one_in: ONE_IN })
}

/// Which blocks are looked at.
#[derive(Clone, Copy)]
struct Sample {
    /// One in so many.
    one_in: u64,
}

impl Sample {
    /// The number of the `nth` block that is looked at.
    fn block(self, nth: u64) -> u64 {
        // Fibonacci hashing: the high bits of such a product are as good as random.
        let random = nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        nth * self.one_in + random % self.one_in
    }

    /// Reads the words of the blocks from the `nth` looked at on, until the file ends.
    fn read(
        self,
        file: &File,
        buffer: &mut [u8],
        nth: u64,
        block_bytes: usize,
    ) -> io::Result<usize> {
        if self.one_in == 1 {
            return read_full(file, buffer, nth * block_bytes as u64);
        }
        let mut done = 0;
        for (words, nth) in buffer.chunks_mut(block_bytes).zip(nth..) {
            let n = read_full(file, words, self.block(nth) * block_bytes as u64)?;
            done += n;
            if n < block_bytes {
                break;
            }
        }
        Ok(done)
    }
}

fn look(files: &Files, base: PageSize, sample: Sample) -> Result<Survey, FileError> {
    let zones = zones(files)?;
    let ram = Ram::of(files);
    let path = files.path(KPAGEFLAGS);
    let failed = |source| read_error(&path, source);
    let file = File::open(&path).map_err(failed)?;
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let seen: io::Result<Vec<Seen>> = std::thread::scope(|scope| {
        let scan = || scan(&file, &next, &zones, &ram, base, sample);
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(scan)).collect();
        let mine = scan();
        let others = others.into_iter().map(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        });
        std::iter::once(mine).chain(others).collect()
    });
    Ok(join(seen.map_err(failed)?, zones, base, sample))
}

/// One page's word each of a single block, for looking at it more closely.
///
/// # Errors
/// [`FileError`] of kpageflags.
pub fn pages_of(files: &Files, base: PageSize, block: u64) -> Result<Vec<Kind>, FileError> {
    let path = files.path(KPAGEFLAGS);
    let failed = |source| read_error(&path, source);
    let file = File::open(&path).map_err(failed)?;
    let pages = pages_a_block(base);
    let mut buffer = vec![0; pages as usize * WORD];
    let n = read_full(&file, &mut buffer, block * pages * WORD as u64).map_err(failed)?;
    let mut kinds = Vec::with_capacity(pages as usize);
    let mut before = Kind::Kernel;
    for word in words(&buffer[..n]) {
        before = Kind::of(word, before);
        kinds.push(before);
    }
    kinds.resize(pages as usize, Kind::Absent);
    Ok(kinds)
}

/// Base pages of a block.
pub(super) const fn pages_a_block(base: PageSize) -> u64 {
    1 << (PageSize::MIB2.shift() - base.shift())
}

/// One thread's share.
fn scan(
    file: &File,
    next: &AtomicU64,
    zones: &[Zone],
    ram: &Ram,
    base: PageSize,
    sample: Sample,
) -> io::Result<Seen> {
    let pages = pages_a_block(base);
    let block_bytes = pages as usize * WORD;
    let mut buffer = vec![0; block_bytes * PIECE_BLOCKS as usize];
    let mut seen = Seen {
        pieces: Vec::new(),
        zones: zones.iter().map(|zone| ZoneSurvey::of(zone, base)).collect(),
    };
    loop {
        let piece = next.fetch_add(1, Ordering::Relaxed);
        let first = piece * PIECE_BLOCKS;
        let n = sample.read(file, &mut buffer, first, block_bytes)?;
        let blocks = buffer[..n].chunks(block_bytes).zip(first..).map(|(words, nth)| {
            let index = sample.block(nth);
            if !ram.has(index) {
                return Block::ABSENT; // whatever its flags say, which nobody has ever set
            }
            let counts = count(words, pages);
            if let Some(zone) = seen.zones.iter_mut().find(|zone| zone.has(index * pages)) {
                zone.add(index * pages, &counts);
            }
            let block = Block::new(&counts);
            if is_hot_folio(words) { block.heated() } else { block }
        });
        let blocks: Vec<_> = blocks.collect();
        if !blocks.is_empty() {
            seen.pieces.push((piece, blocks));
        }
        if n < buffer.len() {
            return Ok(seen);
        }
    }
}

/// How many pages of each kind; what a block lacks at the file's end is absent.
fn count(bytes: &[u8], pages: u64) -> Pages {
    let mut counts = [0; Kind::COUNT];
    let mut before = Kind::Kernel;
    for word in words(bytes) {
        before = Kind::of(word, before);
        counts[before.index()] += 1;
    }
    counts[Kind::Absent.index()] += pages - (bytes.len() / WORD) as u64;
    counts
}

/// Whether one page of a file fills the block, and is in frequent use.
fn is_hot_folio(bytes: &[u8]) -> bool {
    let mut words = words(bytes);
    let is_head = words.next().is_some_and(kinds::is_hot_head);
    is_head && words.all(kinds::is_tail)
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let (words, _) = bytes.as_chunks::<WORD>();
    words.iter().map(|&word| u64::from_ne_bytes(word))
}

/// Fills the buffer, but for the end of the file.
fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn join(seen: Vec<Seen>, zones: Vec<Zone>, base: PageSize, sample: Sample) -> Survey {
    let mut pieces = Vec::new();
    let mut totals: Vec<_> = zones.iter().map(|zone| ZoneSurvey::of(zone, base)).collect();
    totals.iter_mut().for_each(|zone| zone.in_lists /= sample.one_in);
    for thread in seen {
        pieces.extend(thread.pieces);
        for (total, part) in totals.iter_mut().zip(&thread.zones) {
            total.join(part);
        }
    }
    pieces.sort_unstable_by_key(|&(piece, _)| piece);
    let seen: Vec<_> = pieces.into_iter().flat_map(|(_, blocks)| blocks).collect();
    let mut blocks = vec![Block::ABSENT; seen.len() * sample.one_in as usize];
    for (block, nth) in seen.into_iter().zip(0..) {
        blocks[sample.block(nth) as usize] = block;
    }
    Survey { base, blocks, zones: totals, one_in: sample.one_in }.settle()
}
