//! The real machine: [`Os`] by system calls.

use core::ffi::c_int;
use core::ptr::{self, NonNull};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{Advice, Backing, Errno, Os};
use crate::units::{Bytes, Node, PageSize, Pfn};

/// The machine this process runs on.
#[derive(Clone, Copy, Default, Debug)]
pub struct Linux;

/// A call of the C library that returns −1 on error.
fn check(result: c_int) -> Result<c_int, Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}

/// Repeats a call for as long as a signal interrupts it.
fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(errno) if errno.get() == libc::EINTR => {}
            result => return result,
        }
    }
}

/// The flags that ask mmap(2) or memfd_create(2) for hugetlb pages of a size: its exponent in the
/// six bits from 26 on (`MAP_HUGE_SHIFT`, `MFD_HUGE_SHIFT`).
const fn huge_size_flag(page: PageSize) -> u32 {
    const _: () = assert!(libc::MAP_HUGE_SHIFT == 26 && libc::MFD_HUGE_2MB == 21 << 26);
    page.shift() << 26
}

fn open_to_read(path: &CStr, flags: c_int) -> Result<OwnedFd, Errno> {
    // SAFETY: `path` is a valid C string, and the call changes nothing of ours.
    let fd = retry(|| check(unsafe { libc::open(path.as_ptr(), libc::O_CLOEXEC | flags) }))?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// pread(2), once.
fn read_at(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::INVAL)?;
    retry(|| {
        // SAFETY: `buffer` is ours to write for its whole length.
        let n = unsafe {
            libc::pread(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), offset)
        };
        if n < 0 { Err(Errno::last()) } else { Ok(n as usize) }
    })
}

impl Os for Linux {
    fn base_page_size(&self) -> PageSize {
        // SAFETY: sysconf only reads.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        PageSize::from_bytes(Bytes::new(bytes as u64)).expect("a page size is a power of two")
    }

    fn processors(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    unsafe fn map(
        &self,
        at: Option<NonNull<u8>>,
        len: Bytes,
        backing: Backing<'_>,
    ) -> Result<NonNull<u8>, Errno> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let (protection, flags, fd, offset) = match backing {
            Backing::Reserved => (libc::PROT_NONE, private, -1, 0),
            Backing::Anonymous => (access, private, -1, 0),
            Backing::Huge(page) => {
                let huge = libc::MAP_HUGETLB | huge_size_flag(page) as c_int;
                (access, private | huge, -1, 0)
            }
            Backing::File(file, offset) => {
                let shared = libc::MAP_SHARED | libc::MAP_NORESERVE;
                (access, shared, file.as_raw_fd(), offset.get() as libc::off_t)
            }
        };
        let (hint, fixed) = match at {
            Some(at) => (at.as_ptr().cast(), libc::MAP_FIXED),
            None => (ptr::null_mut(), 0),
        };
        // SAFETY: with MAP_FIXED the caller owns the range, which is this method's contract;
        // without it the kernel picks a range that nobody uses.
        let mapped =
            unsafe { libc::mmap(hint, len.as_usize(), protection, flags | fixed, fd, offset) };
        if mapped == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        NonNull::new(mapped.cast()).ok_or(Errno::NOMEM)
    }

    unsafe fn unmap(&self, at: NonNull<u8>, len: Bytes) -> Result<(), Errno> {
        // SAFETY: the caller owns the range and nothing refers to it.
        check(unsafe { libc::munmap(at.as_ptr().cast(), len.as_usize()) }).map(drop)
    }

    unsafe fn advise(&self, at: NonNull<u8>, len: Bytes, advice: Advice) -> Result<(), Errno> {
        let advice = match advice {
            Advice::HugePage => libc::MADV_HUGEPAGE,
            Advice::NoHugePage => libc::MADV_NOHUGEPAGE,
            Advice::Collapse => libc::MADV_COLLAPSE,
            Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Advice::DontNeed => libc::MADV_DONTNEED,
            Advice::DontFork => libc::MADV_DONTFORK,
        };
        // SAFETY: the caller owns the range, and its content where the advice discards it.
        retry(|| check(unsafe { libc::madvise(at.as_ptr().cast(), len.as_usize(), advice) }))
            .map(drop)
    }

    unsafe fn bind(&self, at: NonNull<u8>, len: Bytes, node: Node) -> Result<(), Errno> {
        const WORDS: usize = 16; // 1,024 nodes, the most that Linux is built for
        let mut mask = [0u64; WORDS];
        let word = mask.get_mut(node.get() as usize / 64).ok_or(Errno::INVAL)?;
        *word = 1 << (node.get() % 64);
        // SAFETY: the mask lives through the call; the caller owns the range. The kernel reads
        // one bit fewer than it is told, hence the addition.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mbind,
                at.as_ptr(),
                len.as_usize(),
                libc::MPOL_BIND,
                mask.as_ptr(),
                WORDS * 64 + 1,
                0,
            )
        };
        check(result as c_int).map(drop)
    }

    fn memory_file(
        &self,
        name: &CStr,
        len: Bytes,
        huge: Option<PageSize>,
    ) -> Result<OwnedFd, Errno> {
        let huge = huge.map_or(0, |page| libc::MFD_HUGETLB | huge_size_flag(page));
        // SAFETY: `name` is a valid C string.
        let fd = check(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | huge) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let len = libc::off_t::try_from(len.get()).map_err(|_| Errno::INVAL)?;
        // SAFETY: the descriptor is open.
        retry(|| check(unsafe { libc::ftruncate(file.as_raw_fd(), len) }))?;
        Ok(file)
    }

    fn punch(&self, file: BorrowedFd<'_>, offset: Bytes, len: Bytes) -> Result<(), Errno> {
        let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let (offset, len) = (offset.get() as libc::off_t, len.get() as libc::off_t);
        // SAFETY: the descriptor is open; the call touches no memory of ours but the file's.
        retry(|| check(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset, len) })).map(drop)
    }

    fn frames(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        frames: &mut [Option<Pfn>],
    ) -> Result<(), Errno> {
        let pagemap = open_to_read(c"/proc/self/pagemap", libc::O_RDONLY)?;
        let base = self.base_page_size();
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

    fn huge_mapped(&self, at: NonNull<u8>, len: Bytes) -> Result<Bytes, Errno> {
        let pagemap = open_to_read(c"/proc/self/pagemap", libc::O_RDONLY)?;
        let (mut start, end) = (at.as_ptr() as u64, at.as_ptr() as u64 + len.get());
        let mut huge = 0;
        while start < end {
            let mut regions = [PageRegion::default(); 32];
            let mut scan = PagemapScan {
                size: size_of::<PagemapScan>() as u64,
                start,
                end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: regions.len() as u64,
                category_mask: PAGE_IS_HUGE,
                return_mask: PAGE_IS_HUGE,
                ..PagemapScan::default()
            };
            // SAFETY: (1) the argument has the layout and the size that the kernel expects;
            // (2) `vec` points to `vec_len` regions, which live through the call.
            let found =
                check(unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) })?;
            huge += regions[..found as usize].iter().map(|r| r.end - r.start).sum::<u64>();
            if scan.walk_end <= start {
                return Err(Errno::INVAL);
            }
            start = scan.walk_end;
        }
        Ok(Bytes::new(huge))
    }

    fn nodes(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        nodes: &mut [Option<Node>],
    ) -> Result<(), Errno> {
        const CHUNK: usize = 256;
        let mut next = at.as_ptr() as usize;
        for chunk in nodes.chunks_mut(CHUNK) {
            let mut pages = [0usize; CHUNK];
            let mut status = [0 as c_int; CHUNK];
            for page in &mut pages[..chunk.len()] {
                *page = next;
                next += stride.bytes().as_usize();
            }
            let no_nodes = ptr::null::<c_int>();
            // SAFETY: both arrays hold at least `chunk.len()` elements and live through the call;
            // without nodes nothing is moved.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_move_pages,
                    0,
                    chunk.len(),
                    pages.as_ptr(),
                    no_nodes,
                    status.as_mut_ptr(),
                    0,
                )
            };
            check(result as c_int)?;
            for (node, status) in chunk.iter_mut().zip(status) {
                *node = u32::try_from(status).ok().map(Node::new);
            }
        }
        Ok(())
    }

    fn read_file(&self, path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno> {
        let file = open_to_read(path, libc::O_RDONLY)?;
        let mut filled = 0;
        while filled < buffer.len() {
            match read_at(file.as_fd(), &mut buffer[filled..], filled as u64)? {
                0 => break,
                n => filled += n,
            }
        }
        Ok(filled)
    }

    fn list_directory(&self, path: &CStr, visit: &mut dyn FnMut(&CStr)) -> Result<(), Errno> {
        // getdents64(2) itself, because opendir(3) allocates.
        const NAME_OFFSET: usize = core::mem::offset_of!(libc::dirent64, d_name);
        const LEN_OFFSET: usize = core::mem::offset_of!(libc::dirent64, d_reclen);
        let directory = open_to_read(path, libc::O_RDONLY | libc::O_DIRECTORY)?;
        let mut buffer = [0u8; 4096];
        loop {
            // SAFETY: `buffer` is ours to write for its whole length.
            let filled = unsafe {
                libc::syscall(
                    libc::SYS_getdents64,
                    directory.as_raw_fd(),
                    buffer.as_mut_ptr(),
                    buffer.len(),
                )
            };
            if filled < 0 {
                return Err(Errno::last());
            }
            let mut entries = &buffer[..filled as usize];
            if entries.is_empty() {
                return Ok(());
            }
            while let Some(len) = entries.get(LEN_OFFSET..LEN_OFFSET + 2) {
                let len = usize::from(u16::from_ne_bytes([len[0], len[1]]));
                let (entry, rest) = entries.split_at_checked(len).ok_or(Errno::INVAL)?;
                let name = entry.get(NAME_OFFSET..).ok_or(Errno::INVAL)?;
                let name = CStr::from_bytes_until_nul(name).map_err(|_| Errno::INVAL)?;
                if name != c"." && name != c".." {
                    visit(name);
                }
                entries = rest;
            }
        }
    }

    fn now_ns(&self) -> u64 {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `now` is ours to write; the clock exists on every Linux.
        unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
        now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
    }
}

/// `struct page_region` of include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of include/uapi/linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PagemapScan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`: direction, size, type, number.
const PAGEMAP_SCAN: libc::Ioctl =
    (3 << 30 | (size_of::<PagemapScan>() << 16) | (b'f' as usize) << 8 | 16) as libc::Ioctl;
const PAGE_IS_HUGE: u64 = 1 << 6;

const _: () = assert!(size_of::<PagemapScan>() == 96 && size_of::<PageRegion>() == 24);

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hidden_frame_is_an_error_and_an_absent_page_is_not() {
        assert_eq!(frame_of(0), Ok(None));
        assert_eq!(frame_of(0x123), Ok(None));
        assert_eq!(frame_of(1 << 63), Err(Errno::PERM));
        assert_eq!(frame_of(1 << 63 | 0x123), Ok(Some(Pfn::new(0x123))));
    }

    #[test]
    fn files_and_directories_of_sys_are_read_without_the_heap() {
        let mut buffer = [0; 64];
        let n = Linux.read_file(c"/proc/self/comm", &mut buffer).unwrap();
        assert!(n > 1 && buffer[n - 1] == b'\n');
        let mut found = false;
        Linux.list_directory(c"/proc/self", &mut |name| found |= name == c"status").unwrap();
        assert!(found);
        assert_eq!(Linux.read_file(c"/proc/none", &mut buffer), Err(Errno::NOENT));
    }
}
