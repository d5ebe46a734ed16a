//! The direct engine: io_uring with O_DIRECT, through registered huge-page buffers.
//!
//! One thread keeps a number of requests in flight. Each *slot* of the buffer goes round: a piece of
//! the file is read into it, written from it, and the slot is free again; pieces of all slots come
//! from one queue in the order of the file. The data passes no page cache on a side that takes
//! O_DIRECT, and the processor copies nothing. Where a piece of the source is in the page cache
//! already, it is taken from there: the device need not read it again.
//!
//! Direct requests are multiples of an alignment. The end of a file need not be: what is left after
//! the last whole multiple goes through the page cache when everything else has been written.
//! Rounding it up would write past the end of a device.

mod flow;
mod ring;
mod sides;

use std::ops::Range;

use bookend::placement::{Arena, Class};
use bookend::pool::{Pool, Populate, Rung, Use};
use bookend::units::{Blocks, Bytes};

use super::ends;
use super::pieces::Pieces;
use crate::copy::cached::Slices;
use crate::copy::engine::{
    Buffers, CopyError, Done, Engine, EngineName, Job, Kind, Sparse, Stop, Tuning,
};
use crate::copy::limit::Limiter;
use flow::Flow;
use ring::Ring;
use sides::Sides;

/// Bytes a request, unless told otherwise.
const SLOT_BYTES: u64 = 1 << 20;
/// The shortest request: no alignment is longer.
const SLOT_BYTES_MIN: u64 = 64 << 10;
/// The longest; the kernel counts a request in 31 bits.
const SLOT_BYTES_MAX: u64 = 1 << 30;
/// Requests in flight, unless told otherwise.
const DEPTH: u64 = 16;
/// Most of them.
const DEPTH_MAX: u64 = 4096;

/// Copies past the page cache.
#[derive(Debug)]
pub struct DirectEngine;

impl Engine for DirectEngine {
    fn name(&self) -> EngineName {
        EngineName::Direct
    }

    fn copy(&self, job: &Job<'_>) -> Result<Done, Stop> {
        let len = known_length(job)?;
        let sides = Sides::open(job)?;
        let layout = Layout::new(job.tuning, len, job.data.len() as u64);
        let arena = arena(&layout).map_err(Stop::Unsupported)?;
        let blocks = arena.pool().capacity();
        let mut extent = arena
            .allocate(Class::Huge, blocks)
            .map_err(|error| Stop::Unsupported(format!("no memory for buffers: {error}")))?;
        let pin = arena
            .pool()
            .pin(extent.range())
            .map_err(|error| Stop::Unsupported(format!("cannot pin buffers: {error}")))?;
        let memory = &mut extent[..layout.bytes() as usize];
        let (ring, unregistered) = Ring::new(memory, pin, layout.slot_bytes as usize)
            .map_err(|cause| Stop::Unsupported(no_ring(&cause)))?;

        let allocated = ends::prepare_target(job, len)?;
        let ranges = ends::ranges_to_write(job, len, allocated)?;
        let (body, tail) = cut(&ranges, len, sides.alignment);
        let body_len = len - len % sides.alignment;
        let pieces = Pieces::new(&body, body_len, layout.slot_bytes, job.progress);
        let limiter = Limiter::new(job.tuning.bwlimit);
        let mut flow = Flow::new(job, &sides, ring, &pieces, &limiter);
        flow.run()?;
        let mut notes = flow.notes(unregistered);
        drop(flow);
        copy_tail(job, body_len, tail)?;
        ends::check_source(&job.source, len)?;
        notes.extend(sides.notes);
        let pages = arena.pool().rung(extent.range().start()).map_or("4K", Rung::name);
        let buffers = Some(Buffers { pages, bytes: blocks.bytes().get() });
        Ok(Done { bytes: len, buffers, notes })
    }
}

/// The length of the source, where direct requests can be made at all.
fn known_length(job: &Job<'_>) -> Result<u64, Stop> {
    if job.target.kind == Kind::Stream {
        return Err(Stop::Unsupported("the target is a stream".into()));
    }
    match job.source.len {
        Some(len) if !super::buffered::length_is_unknown(&job.source) => Ok(len),
        _ => Err(Stop::Unsupported("only reading tells how long the source is".into())),
    }
}

/// Why there is no ring, in words.
fn no_ring(cause: &std::io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::ENOSYS) => "this kernel has no io_uring".into(),
        Some(libc::EPERM) => "io_uring is disabled here (kernel.io_uring_disabled, or a seccomp \
                              filter as in many containers)"
            .into(),
        Some(libc::ENOMEM) => {
            "no memory for a ring (on kernels before 5.12, raise ulimit -l)".into()
        }
        _ => format!("io_uring_setup: {cause}"),
    }
}

/// How the buffer is cut into slots.
#[derive(Debug)]
struct Layout {
    slot_bytes: u64,
    depth: u64,
}

impl Layout {
    /// For a file of `len` bytes in `ranges` ranges of data: no slots, nor longer ones, than it has pieces for.
    fn new(tuning: Tuning, len: u64, ranges: u64) -> Self {
        let wanted = tuning.block_size.unwrap_or(SLOT_BYTES).min(len);
        let slot_bytes =
            wanted.clamp(SLOT_BYTES_MIN, SLOT_BYTES_MAX).next_multiple_of(SLOT_BYTES_MIN);
        // Pieces end with ranges too.
        let pieces = len.div_ceil(slot_bytes) + ranges.saturating_sub(1);
        let memory = tuning.buffer_memory.unwrap_or(u64::MAX);
        let depth = tuning.queue_depth.map_or(DEPTH, u64::from);
        Self { slot_bytes, depth: depth.min(pieces).min(memory / slot_bytes).clamp(1, DEPTH_MAX) }
    }

    fn bytes(&self) -> u64 {
        self.slot_bytes * self.depth
    }
}

/// A pool for the buffer: transparent huge pages, or base pages where there are none. The machine's
/// hugetlb pool is left to whoever reserved it.
fn arena(layout: &Layout) -> Result<Arena, String> {
    let pool = Pool::builder()
        .capacity(Bytes::new(layout.bytes()))
        .rung(Rung::Transparent, Use::Allowed)
        .rung(Rung::Base, Use::Allowed)
        .populate(Populate::OnDemand)
        .build()
        .map_err(|error| format!("no memory for buffers: {error}"))?;
    debug_assert!(pool.capacity() >= Blocks::ONE);
    Arena::new(pool).map_err(|error| format!("no memory for buffers: {error}"))
}

/// Cuts what is to be written into the part for direct requests, whose ranges are made to begin and
/// end at multiples of the alignment (what is added are holes, which read as zeros, and what an
/// earlier run has copied), and the part after the last multiple.
fn cut(ranges: &[Range<u64>], len: u64, alignment: u64) -> (Vec<Range<u64>>, Option<Range<u64>>) {
    let body_len = len - len % alignment;
    let mut body: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        let start = range.start - range.start % alignment;
        let end = range.end.next_multiple_of(alignment).min(body_len);
        match body.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ if start < end => body.push(start..end),
            _ => {}
        }
    }
    let tail = ranges.last().is_some_and(|last| last.end > body_len).then_some(body_len..len);
    (body, tail)
}

/// Copies what is left after the last multiple of the alignment, through the page cache.
fn copy_tail(job: &Job<'_>, body_len: u64, tail: Option<Range<u64>>) -> Result<(), CopyError> {
    let Some(tail) = tail else {
        job.progress.pass(body_len..job.source.len.unwrap_or(body_len));
        return Ok(());
    };
    let mut bytes = vec![0; (tail.end - tail.start) as usize];
    job.source.read_exact_at(&mut bytes, tail.start)?;
    if let Some(sums) = job.sums {
        sums.record(tail.start, &bytes);
    }
    let skip = job.tuning.sparse == Sparse::Always
        && job.target.kind == Kind::Regular
        && crate::copy::zeros::is_zero(&bytes);
    if !skip {
        job.target.write_all_at(&bytes, tail.start, Slices::of(job.target.file))?;
    }
    job.progress.add(tail.end - tail.start);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{DEPTH, Layout, SLOT_BYTES, SLOT_BYTES_MIN, cut};
    use crate::copy::engine::Tuning;

    #[test]
    fn a_file_has_no_more_buffers_than_pieces() {
        const GIB: u64 = 1 << 30;
        let most = Tuning { block_size: Some(GIB), queue_depth: Some(4096), ..Tuning::FREE };
        let slots = |tuning, len, ranges| {
            let layout = Layout::new(tuning, len, ranges);
            (layout.slot_bytes, layout.depth)
        };
        for len in [0, 1, 2, SLOT_BYTES_MIN] {
            assert_eq!(slots(most, len, 1), (SLOT_BYTES_MIN, 1), "{len}");
        }
        assert_eq!(slots(most, 100_000, 0), (2 * SLOT_BYTES_MIN, 1));
        assert_eq!(slots(most, 3 * GIB + 1, 1), (GIB, 4));
        assert_eq!(slots(Tuning::FREE, 5 * SLOT_BYTES, 1), (SLOT_BYTES, 5));
        assert_eq!(slots(Tuning::FREE, SLOT_BYTES, 9), (SLOT_BYTES, 9), "each range is a piece");
        assert_eq!(slots(Tuning::FREE, GIB, 1), (SLOT_BYTES, DEPTH));
        let little = Tuning { buffer_memory: Some(3 * SLOT_BYTES), ..Tuning::FREE };
        assert_eq!(slots(little, GIB, 1), (SLOT_BYTES, 3));
    }

    #[test]
    fn ranges_grow_to_the_alignment_and_join_where_they_meet() {
        let (body, tail) = cut(&[10..20, 600..700, 5000..9000], 9000, 512);
        assert_eq!(body, [0..1024, 4608..8704]);
        assert_eq!(tail, Some(8704..9000));
    }

    #[test]
    fn a_file_that_ends_in_a_hole_or_on_the_alignment_has_no_tail() {
        assert_eq!(cut(&[0..512], 9000, 512), (vec![0..512], None));
        assert_eq!(cut(&[0..1024], 1024, 512), (vec![0..1024], None));
        assert_eq!(cut(&[], 0, 512), (vec![], None));
    }

    #[test]
    fn a_file_shorter_than_the_alignment_is_all_tail() {
        assert_eq!(cut(&[0..100], 100, 512), (vec![], Some(0..100)));
    }
}
