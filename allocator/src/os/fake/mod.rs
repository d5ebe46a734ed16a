//! A simulated machine for tests: real memory to write to, a simulated account of what is behind
//! it, and every call can be made to fail.
//!
//! Mappings are real ones of ordinary memory, so that the layers above really write. Beside them
//! [`FakeOs`] keeps what the kernel would know: which pages are present, on which frames and
//! nodes, what the hugetlb pools have left. The free pages of a hugetlb pool are last in, first
//! out, as the kernel's are. What fails does so with the kernel's errno, as seen on Linux 6.18;
//! above all, an exhausted hugetlb pool is [`Errno::FAULT`] from [`Advice::PopulateWrite`].
//!
//! What it guarantees to tests: a hugetlb page that is not present cannot be touched (SIGSEGV);
//! [`FakeOs::outstanding`] is nothing once everything was given back.
//!
//! Not simulated: faults by touching (ordinary memory can be touched at any time, but counts as
//! present only once populated), other processes' descriptors of a memory file, reservations.

use core::fmt;
use core::ptr::NonNull;
use std::collections::BTreeMap;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Advice, Backing, Errno, Linux, Os};
use crate::units::{Bytes, Node, PageSize, Pfn};

mod descriptors;
mod faults;
mod frames;
mod mappings;
mod memory;
mod setup;
mod tree;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod tests;

pub use faults::{Call, Fails};
pub use frames::FreeOrder;
pub use memory::Transparent;
pub use setup::Outstanding;

use faults::Faults;
use mappings::{Mapping, What};
use memory::{File, Memory};
use tree::Tree;

/// A handle to a simulated machine; see the [module](self). Clones reach the same machine.
#[derive(Clone)]
pub struct FakeOs(Arc<Machine>);

struct Machine {
    state: Mutex<State>,
    now_ns: AtomicU64,
}

#[derive(Debug)]
struct State {
    memory: Memory,
    faults: Faults,
    tree: Tree,
    /// Whether frame numbers are shown.
    privileged: bool,
    processors: usize,
    /// Where the caller runs.
    processor_node: Node,
    /// At the nth call of a kind, another process takes pages.
    thefts: Vec<(Call, u64, PageSize, u64)>,
}

impl fmt::Debug for FakeOs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FakeOs({:?})", self.outstanding())
    }
}

impl FakeOs {
    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panicked while holding it is over; others may want to report.
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts a call, lets happen what was to happen at it, and fails it where that was planned.
    fn enter(&self, call: Call) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.state();
        state.memory.collect_files();
        let result = state.faults.enter(call);
        self.0.now_ns.fetch_add(state.faults.costs_ns[call as usize], Ordering::Relaxed);
        let count = state.faults.count(call);
        let State { memory, thefts, .. } = &mut *state;
        thefts.retain(|&(at, nth, page, pages)| {
            let due = at == call && count >= nth;
            if due && let Some(pool) = memory.pools.get_mut(&page) {
                pool.steal(pages);
            }
            !due
        });
        result.map(|()| state)
    }
}

/// First and last address of a range; both must be multiples of the base page, as they must for
/// the kernel (which rounds lengths up; nobody here relies on that).
fn range(base: PageSize, at: NonNull<u8>, len: Bytes) -> Result<(usize, usize), Errno> {
    let start = at.addr().get();
    let end = start.checked_add(len.as_usize()).ok_or(Errno::INVAL)?;
    let aligned = Bytes::of_len(start | end).is_multiple_of(base);
    if aligned { Ok((start, end)) } else { Err(Errno::INVAL) }
}

impl Os for FakeOs {
    fn base_page_size(&self) -> PageSize {
        self.state().memory.base
    }

    fn processors(&self) -> usize {
        self.state().processors
    }

    fn processor_node(&self) -> Option<Node> {
        Some(self.state().processor_node)
    }

    unsafe fn map(
        &self,
        at: Option<NonNull<u8>>,
        len: Bytes,
        backing: Backing<'_>,
    ) -> Result<NonNull<u8>, Errno> {
        let mut state = self.enter(Call::Map)?;
        // SAFETY: passed on.
        unsafe { state.memory.map(at, len, backing) }
    }

    unsafe fn unmap(&self, at: NonNull<u8>, len: Bytes) -> Result<(), Errno> {
        let mut state = self.enter(Call::Unmap)?;
        let memory = &mut state.memory;
        let (start, end) = range(memory.base, at, len)?;
        if start == end || memory.mappings.cuts_a_page(start, end) {
            return Err(Errno::INVAL);
        }
        memory.release_private(start, end);
        memory.mappings.remove(start, end);
        // SAFETY: passed on.
        let result = unsafe { Linux.unmap(at, len) };
        memory.collect_files();
        result
    }

    unsafe fn advise(&self, at: NonNull<u8>, len: Bytes, advice: Advice) -> Result<(), Errno> {
        let mut state = self.enter(Call::of(advice))?;
        let memory = &mut state.memory;
        let (start, end) = range(memory.base, at, len)?;
        match advice {
            Advice::PopulateWrite => return memory.populate(start, end),
            Advice::Collapse => return memory.collapse(start, end),
            _ if !memory.mappings.cover(start, end) => return Err(Errno::NOMEM),
            _ => {}
        }
        match advice {
            Advice::DontNeed => {
                memory.release_private(start, end);
                memory::discard(at, len)
            }
            Advice::HugePage | Advice::NoHugePage => {
                if memory.transparent == Transparent::Absent {
                    return Err(Errno::INVAL);
                }
                let wanted = Some(advice == Advice::HugePage);
                memory.mappings.change(start, end, |mapping| mapping.wants_huge = wanted);
                Ok(())
            }
            // SAFETY: passed on; it changes what a child gets, nothing here.
            _ => unsafe { Linux.advise(at, len, advice) },
        }
    }

    unsafe fn bind(&self, at: NonNull<u8>, len: Bytes, node: Node) -> Result<(), Errno> {
        let mut state = self.enter(Call::Bind)?;
        let memory = &mut state.memory;
        let (start, end) = range(memory.base, at, len)?;
        if !memory.has_node(node) {
            return Err(Errno::INVAL);
        }
        if !memory.mappings.cover(start, end) {
            return Err(Errno::FAULT);
        }
        memory.mappings.change(start, end, |mapping| mapping.node = Some(node));
        Ok(())
    }

    fn memory_file(
        &self,
        name: &CStr,
        len: Bytes,
        huge: Option<PageSize>,
    ) -> Result<OwnedFd, Errno> {
        let mut state = self.enter(Call::MemoryFile)?;
        if let Some(page) = huge {
            if !state.memory.pools.contains_key(&page) {
                return Err(Errno::new(libc::ENODEV));
            }
            if !len.is_multiple_of(page) {
                return Err(Errno::INVAL);
            }
        }
        let file = Linux.memory_file(name, len, None)?;
        let id = descriptors::identify(file.as_fd())?;
        state.memory.files.insert(id, File { huge, pages: BTreeMap::new() });
        Ok(file)
    }

    fn punch(&self, file: BorrowedFd<'_>, offset: Bytes, len: Bytes) -> Result<(), Errno> {
        let mut state = self.enter(Call::Punch)?;
        let id = descriptors::identify(file)?;
        Linux.punch(file, offset, len)?;
        state.memory.release_file(id, offset.get(), (offset + len).get());
        Ok(())
    }

    fn frames(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        frames: &mut [Option<Pfn>],
    ) -> Result<(), Errno> {
        let state = self.enter(Call::Frames)?;
        let pages = (at.addr().get()..).step_by(stride.bytes().as_usize());
        for (frame, page) in frames.iter_mut().zip(pages) {
            *frame = state.memory.frame_at(page);
            if frame.is_some() && !state.privileged {
                return Err(Errno::PERM);
            }
        }
        Ok(())
    }

    fn huge_mapped(&self, at: NonNull<u8>, len: Bytes) -> Result<Bytes, Errno> {
        let state = self.enter(Call::HugeMapped)?;
        let (mut next, end) = range(state.memory.base, at, len)?;
        let mut huge = 0;
        while next < end {
            // A page's rest in one step; where nothing is, base page by base page.
            let (size, offset) = state
                .memory
                .page_at(next)
                .map_or((state.memory.base, 0), |(page, offset)| (page.size, offset));
            let rest = (size.bytes().as_usize() - offset as usize).min(end - next);
            huge += if size == state.memory.base { 0 } else { rest };
            next += rest;
        }
        Ok(Bytes::of_len(huge))
    }

    fn nodes(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        nodes: &mut [Option<Node>],
    ) -> Result<(), Errno> {
        let state = self.enter(Call::Nodes)?;
        let pages = (at.addr().get()..).step_by(stride.bytes().as_usize());
        for (node, address) in nodes.iter_mut().zip(pages) {
            *node = state.memory.page_at(address).map(|(page, _)| page.node);
        }
        Ok(())
    }

    fn read_file(&self, path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        let state = self.enter(Call::ReadFile)?;
        let path = path.to_str().map_err(|_| Errno::NOENT)?;
        let content = state.tree.read(path, &state.memory.pools)?;
        let len = content.len().min(buffer.len());
        buffer[..len].copy_from_slice(&content[..len]);
        Ok(len)
    }

    fn list_directory(&self, path: &CStr, visit: &mut dyn FnMut(&CStr)) -> Result<(), Errno> {
        let names = {
            let state = self.enter(Call::ListDirectory)?;
            let path = path.to_str().map_err(|_| Errno::NOENT)?;
            state.tree.list(path, &state.memory.pools)?
        };
        for name in names {
            visit(&std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?);
        }
        Ok(())
    }

    /// A microsecond passes each time somebody looks, and calls take what a test says.
    fn now_ns(&self) -> u64 {
        self.0.now_ns.fetch_add(1000, Ordering::Relaxed)
    }
}

impl Memory {
    /// # Safety
    /// That of [`Os::map`].
    unsafe fn map(
        &mut self,
        at: Option<NonNull<u8>>,
        len: Bytes,
        backing: Backing<'_>,
    ) -> Result<NonNull<u8>, Errno> {
        let what = self.what(&backing)?;
        let page = what.hugetlb().unwrap_or(self.base);
        let len = match backing {
            // A private mapping of hugetlb pages grows to whole ones.
            Backing::Huge(_) => len.checked_round_up(page).ok_or(Errno::NOMEM)?,
            _ => len,
        };
        let misplaced = |offset: u64| !Bytes::new(offset).is_multiple_of(page);
        if len == Bytes::ZERO
            || misplaced(len.get())
            || at.is_some_and(|at| misplaced(at.addr().get() as u64))
            || matches!(what, What::File(_, offset, _) if misplaced(offset))
        {
            return Err(Errno::INVAL);
        }
        let start = match at {
            Some(at) => at,
            None => reserve_aligned(len, page)?,
        };
        let (first, end) = range(self.base, start, len)?;
        if at.is_some() && self.mappings.cuts_a_page(first, end) {
            return Err(Errno::INVAL);
        }
        let real = if matches!(backing, Backing::Huge(_)) { Backing::Anonymous } else { backing };
        // Before the new mapping, because this takes access away from what it gives back.
        self.release_private(first, end);
        self.mappings.remove(first, end);
        // SAFETY: (1) where the caller gave the address, it owns the range; (2) else the range was
        // reserved just now.
        unsafe { Linux.map(Some(start), len, real)? };
        let mapping = Mapping { start: first, end, what, wants_huge: None, node: None };
        self.mappings.insert(mapping);
        self.protect_mapping(&mapping);
        Ok(start)
    }

    fn what(&self, backing: &Backing<'_>) -> Result<What, Errno> {
        Ok(match *backing {
            Backing::Reserved => What::Reserved,
            // What is never written needs no page.
            Backing::Zeros | Backing::Anonymous => What::Anonymous,
            Backing::Huge(page) if self.pools.contains_key(&page) => What::Huge(page),
            Backing::Huge(_) => return Err(Errno::INVAL),
            Backing::File(file, offset) => {
                let id = descriptors::identify(file)?;
                let file = self.files.get(&id).ok_or(Errno::new(libc::ENODEV))?;
                What::File(id, offset.get(), file.huge)
            }
        })
    }
}

/// Reserves `len` bytes that start at a multiple of `page`, by cutting them out of more.
fn reserve_aligned(len: Bytes, page: PageSize) -> Result<NonNull<u8>, Errno> {
    let more = Bytes::new(len.get().checked_add(page.bytes().get()).ok_or(Errno::NOMEM)?);
    // SAFETY: no address is given.
    let whole = unsafe { Linux.map(None, more, Backing::Reserved)? };
    let ahead = Bytes::of_len(whole.as_ptr().align_offset(page.bytes().as_usize()));
    let behind = more - ahead - len;
    // SAFETY: (1) `ahead` is less than a page, so start and end lie in the reservation; (2) what
    // is unmapped is the reservation's and nobody knows it yet.
    unsafe {
        let start = whole.add(ahead.as_usize());
        if ahead != Bytes::ZERO {
            Linux.unmap(whole, ahead)?;
        }
        if behind != Bytes::ZERO {
            Linux.unmap(start.add(len.as_usize()), behind)?;
        }
        Ok(start)
    }
}
