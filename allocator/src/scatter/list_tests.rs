//! Lists over memory whose frames the test writes down, and over real memory.

use core::ptr::NonNull;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::*;
use crate::os::{Advice, Backing, Errno, Linux, Os};
use crate::units::{BLOCK_BYTES, Bytes, Node, PageSize, Pfn};

type FrameOf = dyn Fn(u64) -> Result<Option<Pfn>, Errno> + Send + Sync;

/// The machine, but for frame numbers: those of an address are what the test says.
#[derive(Clone)]
struct Told(Arc<FrameOf>);

impl core::fmt::Debug for Told {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Told")
    }
}

impl Os for Told {
    fn base_page_size(&self) -> PageSize {
        PageSize::KIB4
    }
    fn processors(&self) -> usize {
        1
    }
    unsafe fn map(
        &self,
        at: Option<NonNull<u8>>,
        len: Bytes,
        backing: Backing<'_>,
    ) -> Result<NonNull<u8>, Errno> {
        // SAFETY: as the caller promises.
        unsafe { Linux.map(at, len, backing) }
    }
    unsafe fn unmap(&self, at: NonNull<u8>, len: Bytes) -> Result<(), Errno> {
        // SAFETY: as the caller promises.
        unsafe { Linux.unmap(at, len) }
    }
    unsafe fn advise(&self, _: NonNull<u8>, _: Bytes, _: Advice) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }
    unsafe fn bind(&self, _: NonNull<u8>, _: Bytes, _: Node) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }
    fn memory_file(&self, _: &CStr, _: Bytes, _: Option<PageSize>) -> Result<OwnedFd, Errno> {
        Err(Errno::INVAL)
    }
    fn punch(&self, _: BorrowedFd<'_>, _: Bytes, _: Bytes) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }
    fn frames(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        frames: &mut [Option<Pfn>],
    ) -> Result<(), Errno> {
        let at = at.addr().get() as u64;
        assert!(at.is_multiple_of(4096), "frames are asked for by base page");
        for (i, frame) in (0..).zip(frames) {
            *frame = (self.0)(at + i * stride.bytes().get())?;
        }
        Ok(())
    }
    fn huge_mapped(&self, _: NonNull<u8>, _: Bytes) -> Result<Bytes, Errno> {
        Err(Errno::INVAL)
    }

    fn nodes(&self, _: NonNull<u8>, _: PageSize, _: &mut [Option<Node>]) -> Result<(), Errno> {
        Err(Errno::INVAL)
    }

    fn read_file(&self, _: &CStr, _: &mut [u8]) -> Result<usize, Errno> {
        Err(Errno::NOENT)
    }
    fn list_directory(&self, _: &CStr, _: &mut dyn FnMut(&CStr)) -> Result<(), Errno> {
        Err(Errno::NOENT)
    }
    fn now_ns(&self) -> u64 {
        0
    }
}

/// A mapping of blocks, aligned to a block.
struct Mapped<O: Os> {
    os: O,
    whole: NonNull<u8>,
    base: NonNull<u8>,
    pages: Vec<Option<HeldPages>>,
}

const BLOCK: u64 = BLOCK_BYTES as u64;

impl<O: Os> Mapped<O> {
    fn new(os: O, pages: Vec<Option<HeldPages>>) -> Self {
        let len = Bytes::new((pages.len() as u64 + 1) * BLOCK);
        // SAFETY: no address is given.
        let whole = unsafe { os.map(None, len, Backing::Anonymous) }.unwrap();
        let ahead = whole.addr().get().next_multiple_of(BLOCK_BYTES) - whole.addr().get();
        // SAFETY: less than a block ahead, and the mapping has one block more than is used.
        let base = unsafe { whole.add(ahead) };
        Self { os, whole, base, pages }
    }

    fn address(&self) -> u64 {
        self.base.addr().get() as u64
    }
}

impl<O: Os> Drop for Mapped<O> {
    fn drop(&mut self) {
        let len = Bytes::new((self.pages.len() as u64 + 1) * BLOCK);
        // SAFETY: the mapping is ours, and a list that owns this value ends with it.
        unsafe { self.os.unmap(self.whole, len) }.unwrap();
    }
}

// SAFETY: mapped until dropped; nothing gives it back before; `base` is aligned to a block, and the
// tests here name no page larger than one.
unsafe impl<O: Os> Held for Mapped<O> {
    type Os = O;
    fn os(&self) -> &O {
        &self.os
    }
    fn base(&self) -> NonNull<u8> {
        self.base
    }
    fn len(&self) -> Bytes {
        Bytes::new(self.pages.len() as u64 * BLOCK)
    }
    fn pages(&self, offset: Bytes) -> Option<HeldPages> {
        self.pages[(offset.get() / BLOCK) as usize]
    }
}

const HUGE: Option<HeldPages> = Some(HeldPages { page: PageSize::MIB2, fixed: true });
const THP: Option<HeldPages> = Some(HeldPages { page: PageSize::MIB2, fixed: false });
const BASE: Option<HeldPages> = Some(HeldPages { page: PageSize::KIB4, fixed: false });

/// Blocks stand in memory in the order of `places`, counted in blocks; within one, in order.
fn placed(pages: Vec<Option<HeldPages>>, places: Vec<u64>) -> Mapped<Told> {
    let mut mapped = Mapped::new(Told(Arc::new(|_| Ok(None))), pages);
    let base = mapped.address();
    mapped.os = Told(Arc::new(move |at| {
        let place = places[((at - base) / BLOCK) as usize];
        Ok(Some(Pfn::new((place * BLOCK + at % BLOCK) >> 12)))
    }));
    mapped
}

fn whole<H: Held>(held: &H) -> core::ops::Range<Bytes> {
    Bytes::ZERO..held.len()
}

#[test]
fn neighbouring_frames_become_one_entry_whatever_their_pages() {
    let held = placed(vec![HUGE, HUGE, THP, BASE, HUGE], vec![7, 8, 9, 10, 3]);
    let base = held.base;
    let range = whole(&held);
    let list = ScatterList::new(held, range, &Limits::NONE).unwrap();
    list.validate(&Limits::NONE).unwrap();
    let entries: Vec<_> = list.entries().collect();
    assert_eq!(list.told_by(), Physical::Frames);
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].address, entries[0].len), (base, Bytes::mib(8)));
    assert_eq!(entries[0].physical, Some(PhysicalAddress::new(7 * BLOCK)));
    assert_eq!(entries[1].physical, Some(PhysicalAddress::new(3 * BLOCK)));
    assert_eq!((list.longest(), list.bytes()), (Bytes::mib(8), Bytes::mib(10)));
    assert_eq!(list.as_iovec().len(), 2);
    assert_eq!(list.as_iovec()[1].iov_base.addr(), base.addr().get() + 8 * (1 << 20));
}

#[test]
fn a_range_may_begin_and_end_inside_pages() {
    for pages in [HUGE, THP, BASE] {
        let held = placed(vec![pages; 3], vec![5, 6, 1]);
        let range = Bytes::new(12345)..Bytes::new(2 * BLOCK + 777);
        let list = ScatterList::new(held, range, &Limits::NONE).unwrap();
        list.validate(&Limits::NONE).unwrap();
        let entries: Vec<_> = list.entries().map(|e| (e.physical.unwrap().get(), e.len)).collect();
        assert_eq!(
            entries,
            [(5 * BLOCK + 12345, Bytes::new(2 * BLOCK - 12345)), (BLOCK, Bytes::new(777))]
        );
    }
}

#[test]
fn hidden_frames_leave_an_entry_a_page() {
    let mut held = placed(vec![HUGE, THP, BASE], vec![5, 6, 7]);
    held.os = Told(Arc::new(|_| Err(Errno::PERM)));
    let range = Bytes::kib(1024)..Bytes::new(2 * BLOCK) + Bytes::kib(9);
    let list = ScatterList::new(held, range, &Limits::NONE).unwrap();
    list.validate(&Limits::NONE).unwrap();
    assert_eq!(list.told_by(), Physical::PageSize);
    assert!(list.entries().all(|entry| entry.physical.is_none()));
    let lengths: Vec<_> = list.entries().map(|entry| entry.len.get() >> 10).collect();
    assert_eq!(lengths, [1024, 2048, 4, 4, 1]);
}

#[test]
fn a_split_transparent_huge_page_is_seen() {
    let mut held = placed(vec![THP, HUGE], vec![5, 6]);
    let (base, told) = (held.address(), held.os.clone());
    let moved = base + 4096 * 100;
    held.os =
        Told(Arc::new(move |at| if at == moved { Ok(Some(Pfn::new(1))) } else { told.0(at) }));
    let range = whole(&held);
    let list = ScatterList::new(held, range, &Limits::NONE).unwrap();
    assert_eq!(list.entries().len(), 3);
    assert_eq!(list.entries().nth(1).unwrap().physical, Some(PhysicalAddress::new(4096)));
}

#[test]
fn absent_memory_is_named() {
    let held = placed(vec![HUGE, None, HUGE], vec![5, 6, 7]);
    let range = whole(&held);
    let error = ScatterList::new(held, range, &Limits::NONE).unwrap_err();
    assert_eq!(error, ScatterError::NotPresent { offset: Bytes::new(BLOCK) });

    let mut held = placed(vec![THP], vec![5]);
    let (base, told) = (held.address(), held.os.clone());
    held.os = Told(Arc::new(move |at| if at < base + 8192 { told.0(at) } else { Ok(None) }));
    let error = ScatterList::new(held, Bytes::ZERO..Bytes::mib(1), &Limits::NONE).unwrap_err();
    assert_eq!(error, ScatterError::NotPresent { offset: Bytes::new(8192) });
}

#[test]
fn too_many_entries_say_how_many_and_what_helps() {
    let scattered = || placed(vec![HUGE; 4], vec![9, 7, 5, 3]);
    let limits = Limits { max_entries: Some(3), ..Limits::NONE };
    let refused = |held: Mapped<Told>, limits: &Limits| {
        let range = whole(&held);
        match ScatterList::new(held, range, limits).unwrap_err() {
            ScatterError::TooManyEntries { needed, allowed: 3, cause } => (needed, cause),
            other => panic!("{other}"),
        }
    };
    assert_eq!(refused(scattered(), &limits), (4, Cause::Scattered));
    let short = Limits { max_entry_bytes: Some(Bytes::mib(1)), ..limits };
    assert_eq!(refused(scattered(), &short), (8, Cause::EntryLength));
    let mut hidden = scattered();
    hidden.os = Told(Arc::new(|_| Err(Errno::PERM)));
    assert_eq!(refused(hidden, &limits), (4, Cause::FramesHidden));
}

#[test]
fn bad_ranges_and_failed_reads_are_errors() {
    let held = || placed(vec![HUGE], vec![1]);
    let new = |held, range| ScatterList::new(held, range, &Limits::NONE).unwrap_err();
    assert_eq!(new(held(), Bytes::kib(4)..Bytes::kib(4)), ScatterError::Empty);
    let beyond = Bytes::ZERO..Bytes::new(BLOCK + 1);
    assert!(matches!(new(held(), beyond), ScatterError::OutOfRange { .. }));
    let mut broken = held();
    broken.os = Told(Arc::new(|_| Err(Errno::NOENT)));
    assert_eq!(new(broken, Bytes::ZERO..Bytes::kib(4)), ScatterError::Frames(Errno::NOENT));
    let limits = Limits { alignment: Alignment::SECTOR, ..Limits::NONE };
    let error = ScatterList::new(held(), Bytes::new(100)..Bytes::kib(4), &limits).unwrap_err();
    assert!(matches!(error, ScatterError::Unaligned { what: Misaligned::Virtual, .. }));
}

#[test]
fn real_memory_has_a_list_that_writev_takes() {
    let held = Mapped::new(Linux, vec![BASE; 2]);
    // SAFETY: the mapping is ours, writable, and nobody else's.
    unsafe { held.base.write_bytes(b'x', 2 * BLOCK_BYTES) };
    let range = whole(&held);
    let list = ScatterList::new(held, range, &Limits::NONE).unwrap();
    list.validate(&Limits::NONE).unwrap();
    eprintln!("{} entries, told by {:?}", list.entries().len(), list.told_by());
    assert_eq!(list.bytes(), Bytes::mib(4));
    let vectors = &list.as_iovec()[..list.as_iovec().len().min(1024)];
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null").unwrap();
    // SAFETY: the vectors lie in the list's memory, which lives through the call.
    let written = unsafe {
        libc::writev(
            std::os::fd::AsRawFd::as_raw_fd(&null),
            vectors.as_ptr(),
            vectors.len() as libc::c_int,
        )
    };
    let sum: usize = vectors.iter().map(|vector| vector.iov_len).sum();
    assert_eq!(written, sum as isize);
}
