//! The simulated memory: which pages are present, and which frames are behind them.
//!
//! Every mapping is a real one, of ordinary memory. Where it stands for hugetlb pages, those that
//! are not present are mapped without access, so that touching one kills the test, as it may on
//! the machine. Ordinary pages can be touched at any time, but count as present only once they
//! are populated.

use core::ptr::NonNull;
use std::collections::BTreeMap;

use super::frames::{HugePool, Ordinary, Page};
use super::mappings::{FileId, Mapping, Mappings, What};
use crate::os::{Advice, Errno, Linux, Os};
use crate::units::{BLOCK_BYTES, Bytes, Node, PageSize, Pfn};

/// Transparent huge pages that the simulated machine gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transparent {
    /// The kernel is built without them: advice about them is `EINVAL`.
    Absent,
    /// That many can be had from now on, on a fault or by collapsing; `u64::MAX` for all.
    Blocks(u64),
    /// As `Blocks`, but faults yield base pages: only collapsing gives a huge page.
    CollapseOnly(u64),
}

/// A memory file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) huge: Option<PageSize>,
    /// Present pages by offset.
    pub(super) pages: BTreeMap<u64, Page>,
}

/// Where a page belongs.
#[derive(Clone, Copy)]
enum Slot {
    Private(usize),
    File(FileId, u64),
}

#[derive(Debug)]
pub(super) struct Memory {
    pub(super) base: PageSize,
    pub(super) mappings: Mappings,
    /// Present private pages by address.
    pub(super) private: BTreeMap<usize, Page>,
    pub(super) files: BTreeMap<FileId, File>,
    pub(super) pools: BTreeMap<PageSize, HugePool>,
    pub(super) ordinary: Ordinary,
    pub(super) transparent: Transparent,
    /// Pools that lose pages to another process once so many of theirs have been taken.
    pub(super) thefts: Vec<(PageSize, u64, u64)>,
}

impl Memory {
    fn slot(mapping: &Mapping, address: usize) -> Slot {
        match mapping.what {
            What::File(id, offset, _) => Slot::File(id, offset + (address - mapping.start) as u64),
            _ => Slot::Private(address),
        }
    }

    /// The page that holds an address, and the distance from its beginning.
    pub(super) fn page_at(&self, address: usize) -> Option<(Page, u64)> {
        self.page_in(&self.mappings.at(address)?, address)
    }

    /// As `page_at`, where the mapping is known.
    fn page_in(&self, mapping: &Mapping, address: usize) -> Option<(Page, u64)> {
        let (start, at, page) = match Self::slot(mapping, address) {
            Slot::Private(_) => {
                let (&start, page) = self.private.range(..=address).next_back()?;
                (start as u64, address as u64, page)
            }
            Slot::File(id, offset) => {
                let (&start, page) = self.files.get(&id)?.pages.range(..=offset).next_back()?;
                (start, offset, page)
            }
        };
        (at - start < page.size.bytes().get()).then_some((*page, at - start))
    }

    /// The frame at an address.
    pub(super) fn frame_at(&self, address: usize) -> Option<Pfn> {
        let (page, offset) = self.page_at(address)?;
        Some(page.frame.offset(offset >> self.base.shift()))
    }

    /// `MADV_POPULATE_WRITE`.
    pub(super) fn populate(&mut self, start: usize, end: usize) -> Result<(), Errno> {
        if !self.mappings.cover(start, end) {
            return Err(Errno::NOMEM);
        }
        for part in self.mappings.within(start, end) {
            match (part.what, part.what.hugetlb()) {
                (What::Reserved, _) => return Err(Errno::INVAL),
                (_, Some(page)) => self.populate_huge(&part, page)?,
                (_, None) => self.populate_ordinary(&part),
            }
        }
        Ok(())
    }

    fn populate_huge(&mut self, part: &Mapping, page: PageSize) -> Result<(), Errno> {
        let step = page.bytes().as_usize();
        let mut at = part.start / step * step;
        while at < part.end {
            if self.page_at(at.max(part.start)).is_none() {
                let pool = self.pools.get_mut(&page).ok_or(Errno::FAULT)?;
                let (node, frame) = pool.take(part.node).ok_or(Errno::FAULT)?;
                self.put(part, at, Page { size: page, frame, node, hugetlb: true });
                self.steal_where_due(page);
            }
            at += step;
        }
        Ok(())
    }

    fn steal_where_due(&mut self, page: PageSize) {
        let Some(pool) = self.pools.get_mut(&page) else { return };
        self.thefts.retain(|&(of, after, count)| {
            let due = of == page && pool.taken_ever >= after;
            if due {
                pool.steal(count);
            }
            !due
        });
    }

    fn populate_ordinary(&mut self, part: &Mapping) {
        let node = part.node.unwrap_or(Node::new(0));
        let private = matches!(part.what, What::Anonymous);
        let base = self.base.bytes().as_usize();
        let mut at = part.start;
        while at < part.end {
            let may_be_huge = private && part.wants_huge == Some(true);
            if may_be_huge && self.is_empty_block(part, at) && self.take_transparent(true) {
                let page = self.ordinary.huge(PageSize::MIB2, self.frames_a_block(), node);
                self.put(part, at, page);
                at += BLOCK_BYTES;
                continue;
            }
            if self.page_in(part, at).is_none() {
                let page = self.ordinary.base(self.base, node);
                self.put(part, at, page);
            }
            at += base;
        }
    }

    fn frames_a_block(&self) -> u64 {
        (BLOCK_BYTES >> self.base.shift()) as u64
    }

    /// Whether a whole block begins here in which nothing is present.
    fn is_empty_block(&self, part: &Mapping, at: usize) -> bool {
        at.is_multiple_of(BLOCK_BYTES)
            && part.end - at >= BLOCK_BYTES
            && self.private.range(at..at + BLOCK_BYTES).next().is_none()
            && self.page_at(at).is_none()
    }

    fn take_transparent(&mut self, on_fault: bool) -> bool {
        match &mut self.transparent {
            Transparent::CollapseOnly(_) if on_fault => false,
            Transparent::Absent | Transparent::Blocks(0) | Transparent::CollapseOnly(0) => false,
            Transparent::Blocks(left) | Transparent::CollapseOnly(left) => {
                *left = left.saturating_sub(u64::from(*left != u64::MAX));
                true
            }
        }
    }

    /// `MADV_COLLAPSE`: each whole block of the range.
    pub(super) fn collapse(&mut self, start: usize, end: usize) -> Result<(), Errno> {
        if self.transparent == Transparent::Absent || !self.mappings.cover(start, end) {
            return Err(Errno::INVAL);
        }
        let mut at = start.next_multiple_of(BLOCK_BYTES);
        while at + BLOCK_BYTES <= end {
            let part = self.mappings.within(at, at + BLOCK_BYTES);
            let [part] = part.as_slice() else { return Err(Errno::INVAL) };
            let collapsible = matches!(part.what, What::Anonymous | What::File(_, _, None));
            if !collapsible || part.wants_huge == Some(false) {
                return Err(Errno::INVAL);
            }
            if self.page_at(at).is_none_or(|(page, _)| page.size != PageSize::MIB2) {
                if !self.take_transparent(false) {
                    return Err(Errno::NOMEM);
                }
                let node = self.page_at(at).map_or(Node::new(0), |(page, _)| page.node);
                self.release_part(part, true);
                let page = self.ordinary.huge(PageSize::MIB2, self.frames_a_block(), node);
                self.put(part, at, page);
            }
            at += BLOCK_BYTES;
        }
        Ok(())
    }

    /// Makes a page present.
    fn put(&mut self, part: &Mapping, at: usize, page: Page) {
        match Self::slot(part, at) {
            Slot::Private(address) => {
                self.private.insert(address, page);
                if page.hugetlb {
                    protect(address, page.size.bytes(), true);
                }
            }
            Slot::File(id, offset) => {
                self.files.get_mut(&id).expect("a mapped file is known").pages.insert(offset, page);
                if page.hugetlb {
                    self.protect_file(id, offset, page.size.bytes(), true);
                }
            }
        }
    }

    /// Gives the private pages of a range back, as `MADV_DONTNEED` and munmap(2) do, lowest first.
    pub(super) fn release_private(&mut self, start: usize, end: usize) {
        for part in self.mappings.within(start, end) {
            self.release_part(&part, false);
        }
    }

    /// Gives the whole pages in a part of a mapping back; those of a file only where `shared`.
    fn release_part(&mut self, part: &Mapping, shared: bool) {
        match part.what {
            What::File(id, offset, _) if shared => {
                self.release_file(id, offset, offset + (part.end - part.start) as u64);
            }
            What::File(..) => {}
            _ => {
                let first = part.start;
                let inside: Vec<_> =
                    self.private.range(first..part.end).map(|(&at, &p)| (at, p)).collect();
                for (at, page) in inside {
                    let whole = at + page.size.bytes().as_usize() <= part.end;
                    if whole || !page.hugetlb {
                        self.private.remove(&at);
                        self.give_back(page);
                        if page.hugetlb {
                            protect(at, page.size.bytes(), false);
                        }
                    }
                }
            }
        }
    }

    /// Gives the whole pages in a range of a file back, lowest first.
    pub(super) fn release_file(&mut self, id: FileId, start: u64, end: u64) {
        let Some(file) = self.files.get_mut(&id) else { return };
        let whole = |at: u64, page: &Page| at + page.size.bytes().get() <= end;
        let released: Vec<_> =
            file.pages.extract_if(start..end, |&at, page| whole(at, page)).collect();
        for (at, page) in released {
            self.give_back(page);
            if page.hugetlb {
                self.protect_file(id, at, page.size.bytes(), false);
            }
        }
    }

    fn give_back(&mut self, page: Page) {
        if page.hugetlb {
            let pool = self.pools.get_mut(&page.size).expect("the page came from there");
            pool.give_back(page.node, page.frame);
        } else {
            self.ordinary.used -= 1;
        }
    }

    /// Sets the access to a hugetlb page of a file, in every mapping of it.
    fn protect_file(&self, id: FileId, offset: u64, len: Bytes, access: bool) {
        for mapping in self.mappings.iter() {
            let What::File(of, first, _) = mapping.what else { continue };
            let size = (mapping.end - mapping.start) as u64;
            if of == id && first <= offset && offset + len.get() <= first + size {
                protect(mapping.start + (offset - first) as usize, len, access);
            }
        }
    }

    /// Gives a new mapping of a hugetlb file the access that its pages allow.
    pub(super) fn protect_mapping(&self, mapping: &Mapping) {
        let Some(page) = mapping.what.hugetlb() else { return };
        protect(mapping.start, Bytes::of_len(mapping.end - mapping.start), false);
        for at in (mapping.start..mapping.end).step_by(page.bytes().as_usize()) {
            if self.page_at(at).is_some() {
                protect(at, page.bytes(), true);
            }
        }
    }

    /// Forgets files that nobody has open or mapped: their pages go back.
    pub(super) fn collect_files(&mut self) {
        let mapped = |id: &FileId| {
            self.mappings.iter().any(|m| matches!(m.what, What::File(of, ..) if of == *id))
        };
        let unmapped: Vec<_> = self.files.keys().copied().filter(|id| !mapped(id)).collect();
        if unmapped.is_empty() {
            return;
        }
        let open = super::descriptors::open_files();
        for id in unmapped.into_iter().filter(|id| !open.contains(id)) {
            self.release_file(id, 0, u64::MAX);
            self.files.remove(&id);
        }
    }
}

/// Grants or takes away access to memory that stands for hugetlb pages.
fn protect(at: usize, len: Bytes, access: bool) {
    let protection = if access { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    let address = at as *mut libc::c_void;
    // SAFETY: the range lies in a mapping that the fake has made. Access is taken away only from
    // pages that the caller has given back, or has not had populated.
    let result = unsafe { libc::mprotect(address, len.as_usize(), protection) };
    assert_eq!(result, 0, "mprotect of a simulated page: {}", Errno::last());
}

/// Discards what the real memory of a private range holds.
pub(super) fn discard(at: NonNull<u8>, len: Bytes) -> Result<(), Errno> {
    // SAFETY: the range was given back: nothing relies on its content.
    unsafe { Linux.advise(at, len, Advice::DontNeed) }
}
