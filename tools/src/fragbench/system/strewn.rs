//! Memory of which one base page is kept in every block of 2 MiB: the least that spoils all.
//!
//! Most of memory is populated, the frames behind it are read, and all pages but the first found in
//! each physical block are given back. What is kept can be moved, or, registered with io_uring
//! before anything is given back, cannot: the kernel begins to move pages together at once.
#![allow(unsafe_code)] // mappings, and the registration of their pages

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::ptr::NonNull;

use bookend::os::{Advice, Backing, Linux, Os};
use bookend::units::{Bytes, PageSize};
use io_uring::IoUring;

use super::{SystemFailure, base_pages};
use crate::cli::interrupt::Interrupts;
use crate::fragbench::memory::available;

/// How much is populated at a time, between looks at signals.
const STEP: Bytes = Bytes::mib(512);
/// What is left to everybody else while memory is populated.
const MARGIN: Bytes = Bytes::mib(768);

/// A mapping of its own.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    len: Bytes,
}

impl Mapping {
    /// Of base pages, none present.
    fn new(len: Bytes) -> Result<Self, SystemFailure> {
        let len = len.round_down(PageSize::MIB2);
        // SAFETY: without an address nothing that exists is replaced.
        let start = unsafe { Linux.map(None, len, Backing::Anonymous) };
        let start = start.map_err(failed("map memory"))?;
        let mapping = Self { start, len };
        mapping.advise(0, len, Advice::NoHugePage)?;
        Ok(mapping)
    }

    fn advise(&self, offset: u64, len: Bytes, advice: Advice) -> Result<(), SystemFailure> {
        debug_assert!(offset + len.get() <= self.len.get());
        // SAFETY:
        // 1. The range lies in this mapping, which nobody else knows of.
        // 2. Nothing relies on its content, which is never read.
        let advised = unsafe { Linux.advise(self.at(offset), len, advice) };
        advised.map_err(failed("populate or give back memory"))
    }

    fn at(&self, offset: u64) -> NonNull<u8> {
        // SAFETY: the offset lies in the mapping, or right behind it.
        unsafe { self.start.add(offset as usize) }
    }

    fn populate(&self, interrupts: Interrupts) -> Result<(), SystemFailure> {
        let mut at = 0;
        while at < self.len.get() {
            interrupts.check()?;
            let step = STEP.min(self.len - Bytes::new(at));
            self.advise(at, step, Advice::PopulateWrite)?;
            at += step.get();
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and nothing refers to it any more.
        let _ = unsafe { Linux.unmap(self.start, self.len) };
    }
}

fn failed<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> SystemFailure {
    move |error| SystemFailure::Memory { what, source: error.into() }
}

/// Touches all memory there is once: some kernels bring it online only then.
///
/// # Errors
/// Memory cannot be had, or a signal came.
pub fn bring_online(interrupts: Interrupts) -> Result<(), SystemFailure> {
    let len =
        available().map_or(Bytes::ZERO, |all| Bytes::new(all.get().saturating_sub(MARGIN.get())));
    if len < PageSize::MIB2.bytes() {
        return Ok(());
    }
    Mapping::new(len)?.populate(interrupts)
}

/// One page in every block.
pub struct Strewn {
    ring: Option<IoUring>,
    mapping: Mapping,
    /// Offsets of the pages that are kept.
    kept: Vec<u64>,
}

impl fmt::Debug for Strewn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned = self.ring.is_some();
        f.debug_struct("Strewn").field("pages", &self.pages()).field("pinned", &pinned).finish()
    }
}

/// Buffers that a ring can have (`IORING_MAX_REG_BUFFERS`).
const BUFFERS_MAX: usize = 1 << 14;

impl Strewn {
    /// Strews pages over all memory that is available; with `pinned` they cannot be moved.
    ///
    /// # Errors
    /// Memory cannot be had, frames cannot be read, or a signal came.
    pub fn new(pinned: bool, interrupts: Interrupts) -> Result<Self, SystemFailure> {
        let all = available().unwrap_or(Bytes::ZERO);
        let mapping = Mapping::new(Bytes::new(all.get().saturating_sub(MARGIN.get())))?;
        mapping.populate(interrupts)?;
        let kept = one_a_block(&mapping)?;
        let mut this = Self { ring: None, mapping, kept };
        if pinned {
            this.ring = Some(this.register()?);
        }
        this.give_back_the_rest()?;
        Ok(this)
    }

    /// How many pages are kept.
    pub fn pages(&self) -> usize {
        self.kept.len()
    }

    fn register(&self) -> Result<IoUring, SystemFailure> {
        let page = Linux.base_page_size().bytes().as_usize();
        let kept = self.kept.iter().take(BUFFERS_MAX);
        let buffers: Vec<_> = kept
            .map(|&offset| libc::iovec {
                iov_base: self.mapping.at(offset).as_ptr().cast(),
                iov_len: page,
            })
            .collect();
        let ring = IoUring::new(1).map_err(failed("set up io_uring"))?;
        // SAFETY:
        // 1. Every buffer is a page of the mapping, which outlives the ring: fields are dropped in
        //    the order in which they are declared.
        // 2. Nothing is ever submitted, so nothing is read into them.
        unsafe { ring.submitter().register_buffers(&buffers) }
            .map_err(failed("register pages with io_uring"))?;
        Ok(ring)
    }

    /// All pages but those that are kept.
    fn give_back_the_rest(&self) -> Result<(), SystemFailure> {
        let page = Linux.base_page_size().bytes().get();
        let ends = self.kept.iter().copied().chain([self.mapping.len.get()]);
        let mut free_from = 0;
        for end in ends {
            if end > free_from {
                let len = Bytes::new(end - free_from);
                self.mapping.advise(free_from, len, Advice::DontNeed)?;
            }
            free_from = end + page;
        }
        Ok(())
    }
}

/// Offsets of the first page found in each physical block.
fn one_a_block(mapping: &Mapping) -> Result<Vec<u64>, SystemFailure> {
    let base = Linux.base_page_size();
    let to_block = PageSize::MIB2.shift() - base.shift();
    let mut seen = HashSet::new();
    let mut kept = Vec::new();
    let mut frames = vec![None; base_pages(PageSize::MIB2.bytes()) as usize];
    for start in (0..mapping.len.get()).step_by(PageSize::MIB2.bytes().as_usize()) {
        Linux.frames(mapping.at(start), base, &mut frames).map_err(failed("read frame numbers"))?;
        for (offset, frame) in (start..).step_by(base.bytes().as_usize()).zip(&frames) {
            if frame.is_some_and(|frame| seen.insert(frame.get() >> to_block)) {
                kept.push(offset);
            }
        }
    }
    Ok(kept)
}
