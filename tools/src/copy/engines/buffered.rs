//! The buffered engine: through the page cache, from anything to anything.
//!
//! Files and devices of known length are copied by several threads that take pieces from one
//! queue; each has a buffer that stays in its processor's cache between the read and the write,
//! so that memory sees each byte twice and not four times. Everything else (pipes, sockets,
//! terminals, and files like those of /proc that do not know their length) is copied in order by
//! the `stream` module.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::ends::{self, Memory};
use super::kernel_pipe::KernelPipe;
use super::mapped_target::MappedTarget;
use super::pieces::Pieces;
use super::stream;
use crate::copy::cached::Slices;
use crate::copy::engine::{
    Buffers, CopyError, Done, Engine, EngineName, Job, Kind, Side, Sparse, Stop,
};
use crate::copy::limit::Limiter;
use crate::copy::probe::{self, FileSystem};
use crate::copy::zeros;

/// Bytes a request, unless told otherwise: small enough to stay in a processor's cache.
const BLOCK_SIZE: u64 = 512 << 10;
/// Data that is worth another thread.
const BYTES_PER_THREAD: u64 = 4 << 20;
/// More threads than this only meet at the target's lock.
const THREADS_MAX: usize = 8;

/// Copies through the page cache.
#[derive(Debug)]
pub struct Buffered;

impl Engine for Buffered {
    fn name(&self) -> EngineName {
        EngineName::Buffered
    }

    fn copy(&self, job: &Job<'_>) -> Result<Done, Stop> {
        match job.source.len {
            Some(len) if !is_stream(job) => copy_file(job, len),
            _ => stream::copy(job),
        }
    }
}

/// Whether the bytes can only go in order.
fn is_stream(job: &Job<'_>) -> bool {
    job.target.kind == Kind::Stream || length_is_unknown(&job.source)
}

/// Whether only reading to the end tells how long `source` is.
pub(super) fn length_is_unknown(source: &Side<'_>) -> bool {
    match source.kind {
        Kind::Stream => true,
        Kind::BlockDevice => source.len.is_none(),
        Kind::Regular => source.len.is_none() || probe::length_is_a_guess(source.file),
    }
}

/// Copies a file or device of `len` bytes.
fn copy_file(job: &Job<'_>, len: u64) -> Result<Done, Stop> {
    let allocated = ends::prepare_target(job, len)?;
    let ranges = ends::ranges_to_write(job, len, allocated)?;
    let plan = Plan::new(job, &ranges);
    let limiter = Limiter::new(job.tuning.bwlimit);
    let block = limiter.request_size(plan.block);
    let pieces = Pieces::new(&ranges, len, block, job.progress);
    let started = AtomicUsize::new(0);
    let slices = Slices::of(job.target.file);
    pieces.work(plan.threads, |pieces| {
        let first = started.fetch_add(1, Ordering::Relaxed) == 0;
        copy_pieces(job, pieces, (block, slices), &limiter, first)
    })?;
    ends::check_source(&job.source, len)?;
    Ok(Done {
        bytes: len,
        buffers: Some(Buffers { pages: "4K", bytes: block * plan.threads as u64 }),
        notes: vec![format!("{} threads, {} KiB a request", plan.threads, block >> 10)],
    })
}

/// How many threads and how much at once.
struct Plan {
    threads: usize,
    block: u64,
}

impl Plan {
    fn new(job: &Job<'_>, ranges: &[Range<u64>]) -> Self {
        let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
        let processors = thread::available_parallelism().map_or(1, NonZero::get);
        let useful = usize::try_from(bytes / BYTES_PER_THREAD).unwrap_or(usize::MAX);
        let wanted = match job.tuning.threads {
            Some(threads) => threads as usize,
            None => processors.min(THREADS_MAX).min(useful),
        };
        let memory = job.tuning.buffer_memory.unwrap_or(u64::MAX);
        let block = job.tuning.block_size.unwrap_or(BLOCK_SIZE).clamp(512, 1 << 30).min(memory);
        let block = block.min(job.source.len.unwrap_or(u64::MAX)); // a longer one stays empty
        let affordable = usize::try_from(memory / block.max(1)).unwrap_or(usize::MAX);
        Self { threads: wanted.min(affordable).max(1), block: block.max(512) }
    }
}

/// One thread's work: pieces until there are no more.
fn copy_pieces(
    job: &Job<'_>,
    pieces: &Pieces<'_>,
    (block, slices): (u64, Slices),
    limiter: &Limiter,
    first: bool,
) -> Result<(), CopyError> {
    let mut way = Way::choose(job, slices, limiter, first);
    let mut memory = None;
    while let Some(piece) = pieces.take()? {
        let bytes = piece.end - piece.start;
        limiter.take(bytes, job.progress)?;
        if way.copy(job, piece.clone())? {
            job.progress.add(bytes);
            continue;
        }
        way = Way::Seen;
        let memory = match &mut memory {
            Some(memory) => memory,
            none => none.insert(Memory::new(job, block)?),
        };
        let buffer = &mut memory.bytes()[..bytes as usize];
        job.source.read_exact_at(buffer, piece.start)?;
        if let Some(sums) = job.sums {
            sums.record(piece.start, buffer);
        }
        write_piece(job, buffer, piece.start, slices)?;
        job.progress.add(bytes);
    }
    Ok(())
}

/// How a thread moves the bytes of a piece.
enum Way {
    /// From the page cache by reference; copied once.
    Spliced(KernelPipe),
    /// Straight into a target in memory; copied once, and beside a thread that splices.
    Mapped(MappedTarget),
    /// Read and written through a buffer.
    Seen,
}

impl Way {
    /// Where nobody needs to see the bytes, the first thread splices, and so do the others unless
    /// they would wait for it. A limited copy has nothing to gain, and its bytes are counted in
    /// /proc/PID/io when they are read and written.
    fn choose(job: &Job<'_>, slices: Slices, limiter: &Limiter, first: bool) -> Self {
        let unseen = job.sums.is_none() && job.tuning.sparse != Sparse::Always;
        let files = job.source.kind == Kind::Regular && job.target.kind == Kind::Regular;
        if !unseen || !files || limiter.is_limited() {
            return Self::Seen;
        }
        let in_memory = matches!(probe::file_system(job.target.file), Ok(FileSystem::Tmpfs));
        if in_memory && !first {
            return MappedTarget::new(job).map_or(Self::Seen, Self::Mapped);
        }
        KernelPipe::new(slices).map_or(Self::Seen, Self::Spliced)
    }

    /// Copies a piece; `Ok(false)`, with nothing that matters written, where this way is closed.
    fn copy(&self, job: &Job<'_>, piece: Range<u64>) -> Result<bool, CopyError> {
        match self {
            Self::Spliced(pipe) => pipe.copy(job, piece),
            Self::Mapped(target) => target.copy(job, piece),
            Self::Seen => Ok(false),
        }
    }
}

/// Writes one piece, leaving out its blocks of zeros if that was asked for.
fn write_piece(job: &Job<'_>, bytes: &[u8], offset: u64, slices: Slices) -> Result<(), CopyError> {
    if job.tuning.sparse != Sparse::Always || job.target.kind != Kind::Regular {
        return job.target.write_all_at(bytes, offset, slices);
    }
    for run in zeros::data_runs(offset, bytes) {
        let at = offset + run.start as u64;
        job.target.write_all_at(&bytes[run], at, slices)?;
    }
    Ok(())
}
