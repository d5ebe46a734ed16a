//! What the page tables hold: frames, huge mappings and nodes, by `/proc/self/pagemap` and
//! move_pages(2).

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::{Linux, check, open_to_read, read_at, retry, smaps};
use crate::os::{Errno, Os};
use crate::units::{Bytes, Node, PageSize, Pfn};

/// [`Os::frames`].
pub(super) fn frames(
    at: NonNull<u8>,
    stride: PageSize,
    frames: &mut [Option<Pfn>],
) -> Result<(), Errno> {
    let pagemap = open_to_read(c"/proc/self/pagemap", libc::O_RDONLY)?;
    let base = Linux.base_page_size();
    let first = (at.as_ptr() as u64) >> base.shift();
    let step = stride.bytes().get() >> base.shift();
    // Neighbouring pages in large reads, distant ones one by one.
    const CHUNK: usize = 512;
    let per_read = if step == 1 { CHUNK } else { 1 };
    let mut entries = [0u8; CHUNK * 8];
    for (index, chunk) in frames.chunks_mut(per_read).enumerate() {
        let page = first + (index * per_read) as u64 * step;
        let wanted = &mut entries[..chunk.len() * 8];
        if read_at(pagemap.as_fd(), wanted, page * 8)? != wanted.len() {
            return Err(Errno::INVAL); // beyond the end of the address space
        }
        for (frame, entry) in chunk.iter_mut().zip(wanted.as_chunks().0) {
            *frame = frame_of(u64::from_ne_bytes(*entry))?;
        }
    }
    Ok(())
}

/// The frame in an entry of pagemap, by Documentation/admin-guide/mm/pagemap.rst: bit 63 says
/// present, bits 0 to 54 the frame, which readers without CAP_SYS_ADMIN see as zero.
fn frame_of(entry: u64) -> Result<Option<Pfn>, Errno> {
    const PRESENT: u64 = 1 << 63;
    const FRAME: u64 = (1 << 55) - 1;
    if entry & PRESENT == 0 {
        return Ok(None);
    }
    match entry & FRAME {
        0 => Err(Errno::PERM),
        frame => Ok(Some(Pfn::new(frame))),
    }
}

/// An argument of the PAGEMAP_SCAN ioctl, by Documentation/admin-guide/mm/pagemap.rst and
/// `struct pm_scan_arg` of linux/fs.h, which the libc crate lacks.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    /// Where the walk ended; written by the kernel.
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Pages of the same categories that follow one another: `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const _: () = assert!(size_of::<ScanArgument>() == 96 && size_of::<Region>() == 24);
const _: () = assert!(core::mem::offset_of!(ScanArgument, walk_end) == 32);
const _: () = assert!(core::mem::offset_of!(ScanArgument, return_mask) == 88);

/// `_IOWR('f', 16, struct pm_scan_arg)`. libc computes it for the target, since the direction
/// bits differ between architectures.
const PAGEMAP_SCAN: libc::Ioctl = libc::_IOWR::<ScanArgument>(b'f' as u32, 16);
/// Category of pages mapped by a huge page, transparent (at the PMD level) or hugetlb.
const PAGE_IS_HUGE: u64 = 1 << 6;
/// Category of pages that are there. Absent pages of a hugetlb mapping are "huge" as well.
const PAGE_IS_PRESENT: u64 = 1 << 3;

/// [`Os::huge_mapped`].
pub(super) fn huge_mapped(at: NonNull<u8>, len: Bytes) -> Result<Bytes, Errno> {
    let start = at.as_ptr() as u64;
    let end = start.checked_add(len.get()).ok_or(Errno::INVAL)?;
    let pagemap = open_to_read(c"/proc/self/pagemap", libc::O_RDONLY)?;
    match scan_huge(pagemap.as_fd(), start, end) {
        Err(errno) if errno.get() == libc::ENOTTY => smaps::huge_mapped(start, end),
        result => result,
    }
}

/// How many bytes of `start..end` PAGEMAP_SCAN (Linux 6.7) finds in huge pages; ENOTTY before.
fn scan_huge(pagemap: BorrowedFd<'_>, start: u64, end: u64) -> Result<Bytes, Errno> {
    let mut regions = [Region::default(); 64];
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start,
        end,
        regions: regions.as_mut_ptr() as u64,
        regions_len: regions.len() as u64,
        category_mask: PAGE_IS_HUGE | PAGE_IS_PRESENT,
        return_mask: PAGE_IS_HUGE,
        ..ScanArgument::default()
    };
    let mut huge = 0;
    while argument.start < end {
        let filled = retry(|| {
            // SAFETY: (1) `argument` has the layout asserted above and lives through the call;
            // (2) the kernel writes at most `regions_len` elements to `regions`, which is ours;
            // (3) without flags nothing else is changed.
            check(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) })
        })?;
        huge += regions[..filled as usize].iter().map(|r| r.end - r.start).sum::<u64>();
        if argument.walk_end <= argument.start {
            return Err(Errno::INVAL); // no progress: not the kernel that we know
        }
        argument.start = argument.walk_end;
    }
    Ok(Bytes::new(huge))
}

/// [`Os::nodes`]: move_pages(2) without target nodes moves nothing and tells where pages are.
pub(super) fn nodes(
    at: NonNull<u8>,
    stride: PageSize,
    nodes: &mut [Option<Node>],
) -> Result<(), Errno> {
    const CHUNK: usize = 128;
    let mut pages = [ptr::null_mut::<c_void>(); CHUNK];
    let mut found: [c_int; CHUNK] = [0; CHUNK];
    let mut next = at.as_ptr();
    for chunk in nodes.chunks_mut(CHUNK) {
        for page in &mut pages[..chunk.len()] {
            *page = next.cast();
            next = next.wrapping_add(stride.bytes().as_usize());
        }
        // SAFETY: both arrays live through the call and hold at least `chunk.len()` elements; the
        // kernel only looks the addresses up.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_pages,
                0,
                chunk.len(),
                pages.as_ptr(),
                ptr::null::<c_int>(),
                found.as_mut_ptr(),
                0,
            )
        };
        check(result as c_int)?;
        for (node, &found) in chunk.iter_mut().zip(&found) {
            // A negative number is an errno: ENOENT where no page is, EFAULT where no mapping or
            // the zero page is.
            *node = u32::try_from(found).ok().map(Node::new);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::{Advice, Backing, say_skipped};
    use crate::units::BLOCK_BYTES;

    #[test]
    fn a_hidden_frame_is_an_error_and_an_absent_page_is_not() {
        assert_eq!(frame_of(0), Ok(None));
        assert_eq!(frame_of(0x123), Ok(None));
        assert_eq!(frame_of(1 << 63), Err(Errno::PERM));
        assert_eq!(frame_of(1 << 63 | 0x123), Ok(Some(Pfn::new(0x123))));
    }

    const GUARD: usize = 64 << 10; // of whole pages on any machine

    /// A mapping of `len` bytes that starts on a block and goes with the test.
    struct Mapping(NonNull<u8>, Bytes);

    impl Mapping {
        fn new(len: Bytes) -> Self {
            let whole = len + Bytes::mib(4);
            // SAFETY: no address is given.
            let at = unsafe { Linux.map(None, whole, Backing::Anonymous) }.unwrap();
            // The kernel counts by mapping, and would join this one to another test's.
            for guard in [0, whole.as_usize() - GUARD] {
                // SAFETY: the page is of this test's mapping, and nothing is in it.
                let apart = unsafe {
                    libc::mprotect(at.as_ptr().add(guard).cast(), GUARD, libc::PROT_NONE)
                };
                assert_eq!(apart, 0);
            }
            Self(at, whole)
        }

        fn block(&self) -> NonNull<u8> {
            let offset = GUARD + self.0.as_ptr().wrapping_add(GUARD).align_offset(BLOCK_BYTES);
            // SAFETY: the mapping is two blocks longer than what is used of it.
            unsafe { self.0.add(offset) }
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: the mapping is the test's own.
            unsafe { Linux.unmap(self.0, self.1) }.unwrap();
        }
    }

    #[test]
    fn a_transparent_huge_page_is_seen_and_base_pages_are_not() {
        let len = Bytes::mib(4);
        let mapping = Mapping::new(len);
        let at = mapping.block();
        assert_eq!(huge_mapped(at, len), Ok(Bytes::ZERO));
        // SAFETY: the mapping is the test's own, and nothing is in it.
        unsafe {
            Linux.advise(at, len, Advice::NoHugePage).unwrap();
            Linux.advise(at, len, Advice::PopulateWrite).unwrap();
        }
        assert_eq!(huge_mapped(at, len), Ok(Bytes::ZERO));
        // SAFETY: as above.
        let collapsed = unsafe {
            Linux.advise(at, Bytes::mib(2), Advice::HugePage).unwrap();
            Linux.advise(at, Bytes::mib(2), Advice::Collapse)
        };
        match collapsed {
            Ok(()) => {
                assert_eq!(huge_mapped(at, len), Ok(Bytes::mib(2)));
                let start = at.as_ptr() as u64;
                assert_eq!(smaps::huge_mapped(start, start + len.get()), Ok(Bytes::mib(2)));
            }
            Err(errno) => {
                say_skipped(format_args!("no huge page to be had: MADV_COLLAPSE: {errno}"))
            }
        }
    }

    #[test]
    fn the_node_of_a_page_is_known_once_it_is_present() {
        let mapping = Mapping::new(Bytes::mib(2));
        let base = Linux.base_page_size();
        let mut found = [Some(Node::new(9)); 300];
        match nodes(mapping.block(), base, &mut found) {
            Err(errno) if errno.get() == libc::ENOSYS => {
                say_skipped(format_args!("a kernel without NUMA: {errno}"));
                return;
            }
            result => result.unwrap(),
        }
        assert!(found.iter().all(Option::is_none));
        let half = Bytes::new(150 << base.shift());
        // SAFETY: the mapping is the test's own, and nothing is in it.
        unsafe {
            Linux.advise(mapping.block(), Bytes::mib(2), Advice::NoHugePage).unwrap();
            Linux.advise(mapping.block(), half, Advice::PopulateWrite).unwrap();
        }
        nodes(mapping.block(), base, &mut found).unwrap();
        assert!(found[..150].iter().all(Option::is_some), "{found:?}");
        assert!(found[150..].iter().all(Option::is_none), "{found:?}");
    }

    #[test]
    fn frames_are_read_or_hidden_but_never_zero() {
        let mapping = Mapping::new(Bytes::mib(2));
        let base = Linux.base_page_size();
        let mut found = [Some(Pfn::new(1)); 4];
        frames(mapping.block(), base, &mut found).unwrap();
        assert_eq!(found, [None; 4]);
        // SAFETY: the mapping is the test's own, and nothing is in it.
        unsafe { Linux.advise(mapping.block(), base.bytes(), Advice::PopulateWrite) }.unwrap();
        match frames(mapping.block(), base, &mut found) {
            Ok(()) => assert!(found[0].is_some()),
            Err(errno) => {
                assert_eq!(errno, Errno::PERM);
                say_skipped("frames are hidden without CAP_SYS_ADMIN");
            }
        }
    }
}
