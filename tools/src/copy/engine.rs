//! What an engine is: one way to move the bytes of one file, and what it is told and tells.
//!
//! "Unsupported" and "failed" are different types: the first lets the next engine try, the second
//! ends the copy. An engine that says [`Stop::Unsupported`] has left no trace that matters: the
//! next one writes every byte again from the beginning.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::{fmt, io};

use serde::Serialize;

use super::sum::{Sum, Summer};

/// The engines, in no order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineName {
    /// The target shares the source's blocks (`FICLONE`); nothing is copied.
    Reflink,
    /// The kernel copies (`copy_file_range(2)`).
    CopyRange,
    /// The drive copies (NVMe Copy), from a block device to another.
    DeviceCopy,
    /// io_uring with O_DIRECT on one or both sides, through registered huge-page buffers.
    Direct,
    /// Through the page cache.
    Buffered,
}

impl fmt::Display for EngineName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reflink => "reflink",
            Self::CopyRange => "copy-range",
            Self::DeviceCopy => "device-copy",
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        })
    }
}

/// What kind of file stands at one side of a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A regular file.
    Regular,
    /// A block device.
    BlockDevice,
    /// A pipe, a socket, a terminal or another character device: read or written in order, once.
    Stream,
}

/// One side of a copy, open.
#[derive(Debug)]
pub struct Side<'a> {
    /// Open for reading (source) or for reading and writing (target), without O_DIRECT. An engine
    /// that wants other flags opens `/proc/self/fd/N` anew.
    pub file: &'a File,
    /// Its name, for messages only.
    pub path: &'a Path,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes when it was opened; `None` for a stream.
    pub len: Option<u64>,
}

/// Whether zeros become holes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sparse {
    /// Holes of the source stay holes.
    Auto,
    /// Blocks of zeros become holes as well.
    Always,
    /// The target has no holes.
    Never,
}

/// How hard an engine may work; `None` leaves the choice to it.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Bytes a request.
    pub block_size: Option<u64>,
    /// Requests in flight.
    pub queue_depth: Option<u32>,
    /// Threads that move data.
    pub threads: Option<u32>,
    /// Bytes of buffers in all.
    pub buffer_memory: Option<u64>,
    /// Bytes a second at most.
    pub bwlimit: Option<u64>,
    /// Holes.
    pub sparse: Sparse,
}

impl Tuning {
    /// All is the engine's choice.
    pub const FREE: Self = Self {
        block_size: None,
        queue_depth: None,
        threads: None,
        buffer_memory: None,
        bwlimit: None,
        sparse: Sparse::Auto,
    };
}

/// What an engine is asked to do.
#[derive(Debug)]
pub struct Job<'a> {
    /// Where from.
    pub source: Side<'a>,
    /// Where to: empty where it is a regular file, and as long as the caller's duty goes: the
    /// engine preallocates and gives it its length.
    pub target: Side<'a>,
    /// Where the source has data, in order, within its length; the rest are holes. One range over
    /// everything where that is not known.
    pub data: &'a [Range<u64>],
    /// Whether the data is all that is this engine's: others fill the rest of the target, which has its length.
    pub part: bool,
    /// Limits and wishes.
    pub tuning: Tuning,
    /// Counts bytes as they go; see [`Progress`].
    pub progress: &'a Progress,
    /// Where checksums go, if the copy is to be verified.
    pub sums: Option<&'a Sums>,
}

/// What all threads of a copy share while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    copied: AtomicU64,
    files: AtomicU64,
    cancelled: AtomicBool,
    /// The progress of all files together, where this is one of several under way.
    whole: Option<Arc<Progress>>,
    /// Where holes count, if this is of a part of a file only.
    range: Option<Range<u64>>,
}

impl Progress {
    /// The progress of one file among several: what it counts, `whole` counts too, and who cancels
    /// `whole` cancels this.
    pub fn part_of(whole: &Arc<Self>) -> Self {
        Self { whole: Some(Arc::clone(whole)), ..Self::default() }
    }

    /// The same of a range of a file, the rest of which others copy.
    pub fn part_of_range(whole: &Arc<Self>, range: Range<u64>) -> Self {
        Self { range: Some(range), ..Self::part_of(whole) }
    }

    /// Counts a hole, or what need not be copied, as it is passed.
    pub fn pass(&self, hole: Range<u64>) {
        let counted = match &self.range {
            Some(range) => hole.start.max(range.start)..hole.end.min(range.end),
            None => hole,
        };
        self.add(counted.end.saturating_sub(counted.start));
    }

    /// Counts `bytes` that reached the target (holes count as they are [passed](Self::pass)).
    pub fn add(&self, bytes: u64) {
        self.copied.fetch_add(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.add(bytes);
        }
    }

    /// Starts again from none, for the next engine.
    pub fn reset(&self) {
        let counted = self.copied.swap(0, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.copied.fetch_sub(counted, Ordering::Relaxed);
        }
    }

    /// Counts what another process, which had copied so many files and bytes `before`, has copied `now`.
    pub fn add_from_elsewhere(&self, before: [u64; 2], now: [u64; 2]) {
        self.files.fetch_add(now[0].saturating_sub(before[0]), Ordering::Relaxed);
        // Fewer bytes than before where an engine began again; the sum goes round in the same way.
        self.copied.fetch_add(now[1].wrapping_sub(before[1]), Ordering::Relaxed);
    }

    /// Counts a file that is done, well or not.
    pub fn file_done(&self) {
        self.files.fetch_add(1, Ordering::Relaxed);
    }

    /// Files that are done.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Bytes that reached the target so far.
    pub fn copied(&self) -> u64 {
        self.copied.load(Ordering::Relaxed)
    }

    /// Asks every thread to stop; safe in a signal handler.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// Whether to stop: engines look between requests and return [`CopyError::Cancelled`].
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
            || self.whole.as_ref().is_some_and(|whole| whole.is_cancelled())
    }
}

/// Checksum of one piece of the data, as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PieceSum {
    /// Where the piece lies in the file.
    pub range: Range<u64>,
    /// By the [`Summer`] of the copy.
    pub sum: Sum,
}

/// Who wants to know of each piece as it is written.
pub trait Log: fmt::Debug + Send + Sync {
    /// `piece` is on its way to the target, or there.
    fn note(&self, piece: &PieceSum);
}

/// Collects checksums of the pieces of a file, in any order and from any thread.
#[derive(Debug)]
pub struct Sums {
    summer: Summer,
    /// What was there before, which stays whichever engine runs.
    known: Vec<PieceSum>,
    pieces: Mutex<Vec<PieceSum>>,
    log: Option<Arc<dyn Log>>,
}

/// Of a copy that begins here and is verified here.
impl Default for Sums {
    fn default() -> Self {
        Self::with(Summer::here(), Vec::new(), None)
    }
}

impl Sums {
    /// Beside pieces that are `known` by their sums of the same `summer`, and with somebody to tell.
    pub fn with(summer: Summer, known: Vec<PieceSum>, log: Option<Arc<dyn Log>>) -> Self {
        Self { summer, known, log, pieces: Mutex::default() }
    }

    /// What makes them.
    pub fn summer(&self) -> &Summer {
        &self.summer
    }

    /// Takes the checksum of `bytes`, which stand at `offset`, and keeps it. Each byte of data is recorded
    /// once; these pieces do not overlap, though some may cover known ones.
    pub fn record(&self, offset: u64, bytes: &[u8]) {
        let range = offset..offset + bytes.len() as u64;
        self.keep(PieceSum { range, sum: self.summer.sum(offset, bytes) });
    }

    /// As [`record`](Self::record), where the checksum is known.
    pub fn keep(&self, piece: PieceSum) {
        if let Some(log) = &self.log {
            log.note(&piece);
        }
        self.pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(piece);
    }

    /// Forgets what engines have written, for the next one.
    pub fn clear(&self) {
        self.pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clear();
    }

    /// The pieces in order of their offsets. Known ones are left out where all of them was written anew; what is written
    /// over a part of one is the same, so that its checksum still holds, and they overlap.
    pub fn sorted(&self) -> Vec<PieceSum> {
        let start = |piece: &PieceSum| piece.range.start;
        let mut pieces =
            self.pieces.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        pieces.sort_by_key(start);
        let mut known = self.known.clone();
        known.retain(|known| !is_covered(&known.range, &pieces));
        pieces.append(&mut known);
        pieces.sort_by_key(start);
        pieces
    }
}

/// Whether all of `range` lies in `pieces`, which are sorted and do not overlap.
fn is_covered(range: &Range<u64>, pieces: &[PieceSum]) -> bool {
    let first = pieces.partition_point(|piece| piece.range.end <= range.start);
    let mut at = range.start;
    for piece in &pieces[first..] {
        if at >= range.end || piece.range.start > at {
            break;
        }
        at = at.max(piece.range.end);
    }
    at >= range.end
}

/// The memory that an engine copied through.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Buffers {
    /// Size of the pages: `1G`, `2M`, `THP` or `4K`.
    pub pages: &'static str,
    /// Bytes in all.
    pub bytes: u64,
}

/// What an engine has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Done {
    /// Length of the file as copied, holes included.
    pub bytes: u64,
    /// What it copied through, if through memory of its own.
    pub buffers: Option<Buffers>,
    /// What a user who asks for an explanation should know: which sides were direct, whether
    /// buffers were registered, how many threads ran, and why not more.
    pub notes: Vec<String>,
}

/// Why an engine did not finish.
#[derive(Debug)]
pub enum Stop {
    /// It cannot do this copy here, for this reason; another engine may.
    Unsupported(String),
    /// The copy failed.
    Failed(CopyError),
}

impl From<CopyError> for Stop {
    fn from(error: CopyError) -> Self {
        Self::Failed(error)
    }
}

/// Why a copy failed, by the operation that did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// Reading the source.
    #[error("{}: read error at byte {offset}: {cause}", path.display())]
    Read {
        /// The source.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What the system said.
        cause: io::Error,
    },
    /// Writing the target.
    #[error("{}: write error at byte {offset}: {cause}", path.display())]
    Write {
        /// The target.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What the system said.
        cause: io::Error,
    },
    /// The source ended before its length.
    #[error(
        "{}: the file shrank while it was copied: {expected} bytes when opened, end of file at \
         {found}; copy it again when it is at rest", path.display()
    )]
    Shrank {
        /// The source.
        path: PathBuf,
        /// Its length when it was opened.
        expected: u64,
        /// Where it ended.
        found: u64,
    },
    /// The source had grown by the end.
    #[error(
        "{}: the file grew while it was copied: {expected} bytes when opened, {found} now; copy \
         it again when it is at rest", path.display()
    )]
    Grew {
        /// The source.
        path: PathBuf,
        /// Its length when it was opened.
        expected: u64,
        /// Its length afterwards.
        found: u64,
    },
    /// Something else about the source or the target.
    #[error("{}: cannot {operation}: {cause}", path.display())]
    Operation {
        /// The file.
        path: PathBuf,
        /// What was tried, as a verb: "preallocate 6442450944 bytes".
        operation: String,
        /// What the system said.
        cause: io::Error,
    },
    /// What was read again is not what was written.
    #[error(
        "{}: verification failed: bytes {} to {} on the device are not those that were copied; \
         check the device before you trust it", path.display(), range.start, range.end
    )]
    Mismatch {
        /// The target.
        path: PathBuf,
        /// The piece that differs.
        range: Range<u64>,
    },
    /// What came from another machine is not what was read there.
    #[error(
        "{}: bytes {} to {} were changed on their way, or in the source while they were sent; copy it again",
        path.display(), range.start, range.end
    )]
    Arrived {
        /// The target.
        path: PathBuf,
        /// The piece.
        range: Range<u64>,
    },
    /// The user stopped it.
    #[error("interrupted")]
    Cancelled,
}

impl CopyError {
    /// Whether both are errors of reading, and this one of a place before the other's.
    pub fn is_read_before(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Read { offset, .. }, Self::Read { offset: other, .. }) => offset < other,
            _ => false,
        }
    }
}

/// One way to move the bytes of one file.
pub trait Engine: fmt::Debug + Sync {
    /// Which one it is.
    fn name(&self) -> EngineName;

    /// Copies the job's data and makes the target as long as the source. Does not make it durable,
    /// preserve attributes or rename: that is the caller's work.
    ///
    /// # Errors
    /// See [`Stop`].
    fn copy(&self, job: &Job<'_>) -> Result<Done, Stop>;
}
