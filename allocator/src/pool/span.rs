//! The span: the address space of a pool, and what is mapped into it.
//!
//! It is reserved once and never moves. A low zone and, where gigantic pages are wanted, a high
//! zone are mapped whole when the pool is built (a mapping a block would meet `max_map_count`);
//! only a block that steps down the ladder is mapped anew on its own.
#![allow(unsafe_code)] // maps memory at addresses that the span owns

use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{PoolError, Rung};
use crate::os::{Advice, Backing, Errno, Os};
use crate::units::{BlockId, BlockRange, Blocks, Bytes, Node, PageSize};

/// Blocks of a gigantic page.
pub(super) const GIGANTIC: Blocks = Blocks::new(1 << (30 - crate::units::BLOCK_SHIFT));

/// What is mapped over a block. Transparent and base pages are one kind: the kernel chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Reserved address space: a block of a pool [on touch](super::Populate::OnTouch) that has
    /// never been opened.
    Nothing = 0,
    Ordinary = 1,
    Huge = 2,
    Gigantic = 3,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Nothing, Self::Ordinary, Self::Huge, Self::Gigantic];

    pub(super) const fn of(rung: Rung) -> Self {
        match rung {
            Rung::Base | Rung::Transparent => Self::Ordinary,
            Rung::Huge => Self::Huge,
            Rung::Gigantic => Self::Gigantic,
        }
    }

    pub(super) const fn rung(self) -> Rung {
        match self {
            Self::Nothing | Self::Ordinary => Rung::Base,
            Self::Huge => Rung::Huge,
            Self::Gigantic => Rung::Gigantic,
        }
    }

    pub(super) const fn hugetlb(self) -> Option<PageSize> {
        match self {
            Self::Nothing | Self::Ordinary => None,
            Self::Huge => Some(PageSize::MIB2),
            Self::Gigantic => Some(PageSize::GIB1),
        }
    }
}

/// The memory files of a shareable pool, one a kind; each is as long as the pool, so that an
/// offset in a file is an offset in the pool (the gigantic one begins at the gigantic zone).
#[derive(Debug, Default)]
pub(super) struct Files([Option<OwnedFd>; Kind::ALL.len()]);

impl Files {
    pub(super) fn get(&self, kind: Kind) -> Option<BorrowedFd<'_>> {
        self.0[kind as usize].as_ref().map(AsFd::as_fd)
    }

    pub(super) fn set(&mut self, kind: Kind, file: OwnedFd) {
        self.0[kind as usize] = Some(file);
    }
}

/// Reserved address space, and how memory gets into it.
#[derive(Debug)]
pub(super) struct Span<O: Os> {
    pub(super) os: O,
    /// What was reserved, for unmapping.
    reserved: NonNull<u8>,
    reserved_len: Bytes,
    base: NonNull<u8>,
    blocks: Blocks,
    /// First block of the gigantic zone; the end of the span where there is none.
    gigantic_start: BlockId,
    node: Option<Node>,
    /// Whether ordinary pages are kept from becoming huge.
    no_transparent: bool,
    files: Files,
    shareable: bool,
    inherited: bool,
}

// SAFETY: the span owns its address space; its methods only make system calls on ranges that the
// callers own.
unsafe impl<O: Os> Send for Span<O> {}
// SAFETY: as above.
unsafe impl<O: Os> Sync for Span<O> {}

/// What a span is to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpanLayout {
    pub(super) blocks: Blocks,
    /// Blocks at the high end that gigantic pages will back: a multiple of [`GIGANTIC`].
    pub(super) gigantic: Blocks,
    pub(super) node: Option<Node>,
    pub(super) no_transparent: bool,
    pub(super) shareable: bool,
    /// Whether child processes get private hugetlb pages too.
    pub(super) inherited: bool,
}

impl<O: Os> Span<O> {
    /// Reserves address space, nothing mapped. The end is aligned to the gigantic page where there
    /// is a gigantic zone, and everything to blocks.
    pub(super) fn reserve(os: O, layout: SpanLayout) -> Result<Self, PoolError> {
        let len = layout.blocks.bytes();
        let alignment =
            if layout.gigantic == Blocks::ZERO { PageSize::MIB2 } else { PageSize::GIB1 };
        let failed = |cause| PoolError::Reserve { len, cause };
        let reserved_len = len
            .get()
            .checked_add(alignment.bytes().get())
            .filter(|&len| len <= i64::MAX as u64)
            .map(Bytes::new)
            .ok_or(failed(Errno::NOMEM))?;
        // SAFETY: no address is given.
        let reserved = unsafe { os.map(None, reserved_len, Backing::Reserved) }.map_err(failed)?;
        let end = Bytes::new(reserved.as_ptr() as u64 + reserved_len.get()).round_down(alignment);
        let base = end - len;
        let skip = (base - Bytes::of_len(reserved.as_ptr() as usize)).as_usize();
        Ok(Self {
            os,
            reserved,
            reserved_len,
            // SAFETY: `base` lies within what was reserved: rounding the end down took less than
            // `alignment`, which is what was reserved in addition.
            base: unsafe { reserved.add(skip) },
            blocks: layout.blocks,
            gigantic_start: BlockId::new((layout.blocks - layout.gigantic).get()),
            node: layout.node,
            no_transparent: layout.no_transparent,
            files: Files::default(),
            shareable: layout.shareable,
            inherited: layout.inherited,
        })
    }

    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(super) fn blocks(&self) -> Blocks {
        self.blocks
    }

    pub(super) fn gigantic_start(&self) -> BlockId {
        self.gigantic_start
    }

    pub(super) fn node(&self) -> Option<Node> {
        self.node
    }

    pub(super) fn is_shareable(&self) -> bool {
        self.shareable
    }

    pub(super) fn file(&self, kind: Kind) -> Option<BorrowedFd<'_>> {
        self.files.get(kind)
    }

    /// Address of a block, or of the end.
    pub(super) fn address(&self, block: BlockId) -> NonNull<u8> {
        assert!(block.get() <= self.blocks.get(), "{block:?} is outside {:?}", self.blocks);
        // SAFETY: the block, or the end, lies in or just past the reserved range.
        unsafe { self.base.add(block.offset().as_usize()) }
    }

    /// Distance of a block from the beginning of the memory file of its kind.
    pub(super) fn file_offset(&self, kind: Kind, block: BlockId) -> Bytes {
        match kind {
            Kind::Gigantic => block.offset() - self.gigantic_start.offset(),
            _ => block.offset(),
        }
    }

    /// Creates the memory file of a kind where the pool is shareable and it is not there yet.
    pub(super) fn ensure_file(&mut self, kind: Kind) -> Result<(), Errno> {
        if !self.shareable || self.files.get(kind).is_some() {
            return Ok(());
        }
        let len = match kind {
            Kind::Gigantic => self.blocks.bytes() - self.gigantic_start.offset(),
            _ => self.blocks.bytes(),
        };
        let file = self.os.memory_file(c"bookend-pool", len, kind.hugetlb())?;
        self.files.set(kind, file);
        Ok(())
    }

    /// Maps memory of a kind over a range, with the pool's policies; none of it is present yet.
    ///
    /// # Safety
    /// The caller owns the range's blocks: nobody refers to what was mapped there.
    pub(super) unsafe fn map(&self, range: BlockRange, kind: Kind) -> Result<(), Errno> {
        let (at, len) = (self.address(range.start()), range.len().bytes());
        let backing = match (self.shareable, kind.hugetlb()) {
            (true, _) => {
                let file = self.files.get(kind).ok_or(Errno::NOENT)?;
                Backing::File(file, self.file_offset(kind, range.start()))
            }
            (false, Some(page)) => Backing::Huge(page),
            (false, None) => Backing::Anonymous,
        };
        // SAFETY: the range lies in our reservation, and the caller owns it. The same holds for
        // the calls below.
        unsafe { self.os.map(Some(at), len, backing)? };
        if let Some(node) = self.node {
            // SAFETY: as above.
            unsafe { self.os.bind(at, len, node)? };
        }
        if kind == Kind::Ordinary && self.no_transparent {
            // Kernels without transparent huge pages refuse the advice and need none.
            // SAFETY: as above.
            let _ = unsafe { self.os.advise(at, len, Advice::NoHugePage) };
        }
        if kind != Kind::Ordinary && !self.shareable && !self.inherited {
            // A child that copies a private hugetlb page on write takes another page from the
            // machine's pool, or dies of SIGBUS where there is none: it does not get them.
            // SAFETY: as above.
            unsafe { self.os.advise(at, len, Advice::DontFork)? };
        }
        Ok(())
    }

    /// Advice on a range of blocks.
    ///
    /// # Safety
    /// The caller owns the range's blocks, and their content where the advice discards it.
    pub(super) unsafe fn advise(&self, range: BlockRange, advice: Advice) -> Result<(), Errno> {
        // SAFETY: the range lies in our reservation, and the caller owns it.
        unsafe { self.os.advise(self.address(range.start()), range.len().bytes(), advice) }
    }

    /// Gives the pages of a range of one kind back to the system; the mapping stays.
    ///
    /// # Safety
    /// The caller owns the range's blocks and nothing relies on their content.
    pub(super) unsafe fn discard(&self, range: BlockRange, kind: Kind) -> Result<(), Errno> {
        match self.files.get(kind) {
            Some(file) => {
                let offset = self.file_offset(kind, range.start());
                self.os.punch(file, offset, range.len().bytes())
            }
            // SAFETY: passed on.
            None => unsafe { self.advise(range, Advice::DontNeed) },
        }
    }
}

impl<O: Os> Drop for Span<O> {
    fn drop(&mut self) {
        // SAFETY: the reservation is ours, and whoever borrowed from the pool is gone. An error
        // would leave it mapped; there is nobody to tell.
        let _ = unsafe { self.os.unmap(self.reserved, self.reserved_len) };
    }
}
