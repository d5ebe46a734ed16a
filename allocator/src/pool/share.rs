//! Sharing a pool's memory with other processes.
//!
//! A shareable pool stands in memory files, the kernel's one object that dies with the last process
//! that knows it. Its owner passes their descriptors (over a Unix socket, or by inheritance) with
//! the list of segments; the other side maps them in the same order, at an address of its own.
//! Killing either side leaks nothing and harms nobody: the memory goes when both are gone. The files
//! are sealed against truncation, but whoever has a descriptor can punch holes into it: pass it to
//! processes that are trusted with the memory's content.
//!
//! Blocks that the owner has not populated are mapped like the others. [`Attached::populate`]
//! proves memory behind them, or behind blocks that the owner has released meanwhile.
#![allow(unsafe_code)] // maps memory files into an address range of its own

use core::fmt;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd};

use super::{Pool, PoolError, Rung};
use crate::os::{Advice, Backing, Errno, Os};
use crate::units::{BlockId, BlockRange, Blocks, Bytes, PageSize};

/// Blocks of a shareable pool that lie side by side in one memory file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// The blocks.
    pub range: BlockRange,
    /// What the file's pages are; [`Rung::Base`] stands for transparent huge pages as well.
    pub rung: Rung,
    /// Where in the file they begin.
    pub offset: Bytes,
}

impl<O: Os> Pool<O> {
    /// How the pool lies in its memory files, lowest blocks first; nothing for a private pool. It
    /// holds until blocks are next populated or released.
    pub fn segments(&self) -> Vec<Segment> {
        let mut segments: Vec<Segment> = Vec::new();
        if !self.is_shareable() {
            return segments;
        }
        for block in self.blocks().iter() {
            let kind = self.kind(block);
            let rung = kind.rung();
            match segments.last_mut() {
                Some(last) if last.rung == rung => {
                    last.range =
                        BlockRange::new(last.range.start(), last.range.len() + Blocks::ONE);
                }
                _ => segments.push(Segment {
                    range: BlockRange::new(block, Blocks::ONE),
                    rung,
                    offset: self.span.file_offset(kind, block),
                }),
            }
        }
        segments
    }

    /// The memory file of a segment's rung.
    pub fn file(&self, rung: Rung) -> Option<BorrowedFd<'_>> {
        self.span.file(super::span::Kind::of(rung))
    }
}

/// Another process's pool, mapped here. The memory is shared: what either side writes, both see.
pub struct Attached<O: Os> {
    os: O,
    reserved: NonNull<u8>,
    reserved_len: Bytes,
    base: NonNull<u8>,
    blocks: Blocks,
    rungs: Vec<(BlockRange, Rung)>,
}

// SAFETY: it owns its address range; the memory behind it is reached by raw pointers only.
unsafe impl<O: Os> Send for Attached<O> {}
// SAFETY: as above.
unsafe impl<O: Os> Sync for Attached<O> {}

impl<O: Os> Attached<O> {
    /// Maps the segments of a pool, each with the file it lies in. They must follow one another
    /// from block 0 on, as [`Pool::segments`] gives them.
    ///
    /// # Errors
    /// [`PoolError::OutOfRange`] where they do not follow one another, [`PoolError::Reserve`] and
    /// [`PoolError::Map`] by the operation that failed.
    pub fn new(os: O, segments: &[(Segment, BorrowedFd<'_>)]) -> Result<Self, PoolError> {
        let mut blocks = Blocks::ZERO;
        for (Segment { range, .. }, _) in segments {
            if range.start() != BlockId::new(blocks.get()) || range.is_empty() {
                return Err(PoolError::OutOfRange { range: *range, capacity: blocks });
            }
            blocks = Blocks::new(range.end().get());
        }
        if blocks == Blocks::ZERO {
            return Err(PoolError::Capacity { asked: Bytes::ZERO });
        }
        let mut attached = Self::reserve(os, blocks)?;
        attached.rungs = segments.iter().map(|(s, _)| (s.range, s.rung)).collect();
        for (segment, file) in segments {
            attached.map(segment, file.as_fd())?;
        }
        Ok(attached)
    }

    fn reserve(os: O, blocks: Blocks) -> Result<Self, PoolError> {
        let len = blocks.bytes();
        let reserved_len = len + PageSize::GIB1.bytes();
        // SAFETY: no address is given.
        let reserved = unsafe { os.map(None, reserved_len, Backing::Reserved) }
            .map_err(|cause| PoolError::Reserve { len, cause })?;
        let end = Bytes::new(reserved.as_ptr() as u64 + reserved_len.get());
        let base = end.round_down(PageSize::GIB1) - len;
        let skip = (base - Bytes::of_len(reserved.as_ptr() as usize)).as_usize();
        // SAFETY: what was reserved is a gigantic page longer than the pool, and rounding took
        // less than one.
        let base = unsafe { reserved.add(skip) };
        Ok(Self { os, reserved, reserved_len, base, blocks, rungs: Vec::new() })
    }

    fn map(&self, segment: &Segment, file: BorrowedFd<'_>) -> Result<(), PoolError> {
        let block = segment.range.start();
        // SAFETY: the segments were checked to lie within the pool, as long as the reservation.
        let at = unsafe { self.base.add(block.offset().as_usize()) };
        let backing = Backing::File(file, segment.offset);
        // SAFETY: the range lies in our reservation, and nobody else knows it yet.
        unsafe { self.os.map(Some(at), segment.range.len().bytes(), backing) }
            .map(drop)
            .map_err(|cause: Errno| PoolError::Map { block, rung: segment.rung, cause })
    }

    /// Maps in the memory of a range, taking what is not there yet from the system, so that
    /// touching it raises no signal for as long as the owner does not release it.
    ///
    /// # Errors
    /// [`PoolError::OutOfRange`], and [`PoolError::NoMemory`] where the system has no page left.
    pub fn populate(&self, range: BlockRange) -> Result<(), PoolError> {
        if range.end().get() > self.blocks.get() {
            return Err(PoolError::OutOfRange { range, capacity: self.blocks });
        }
        for (segment, rung) in &self.rungs {
            let (start, end) = (range.start().max(segment.start()), range.end().min(segment.end()));
            if start >= end {
                continue;
            }
            let len = Blocks::new(end.get() - start.get()).bytes();
            // SAFETY: the block lies in our reservation.
            let at = unsafe { self.base.add(start.offset().as_usize()) };
            // SAFETY: the range is ours, and the advice keeps what is there.
            unsafe { self.os.advise(at, len, Advice::PopulateWrite) }
                .map_err(|cause| PoolError::NoMemory { block: start, rung: *rung, cause })?;
        }
        Ok(())
    }

    /// Address of the first block here.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// How many blocks.
    pub fn capacity(&self) -> Blocks {
        self.blocks
    }
}

impl<O: Os> Drop for Attached<O> {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and this is its last use.
        let _ = unsafe { self.os.unmap(self.reserved, self.reserved_len) };
    }
}

impl<O: Os> fmt::Debug for Attached<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Attached({:?} at {:?})", self.blocks, self.base)
    }
}
