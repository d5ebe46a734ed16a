//! The real machine: [`Os`] by system calls.

use core::ffi::c_int;
use core::ptr::{self, NonNull};
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use super::{Advice, Backing, Errno, Os};
use crate::units::{Bytes, Node, PageSize, Pfn};

mod pagemap;
mod smaps;

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
        // Not by std::thread::available_parallelism, which takes from the heap.
        const WORDS: usize = 128; // 8,192 processors, the most that Linux is built for
        let mut mask = [0u64; WORDS];
        // SAFETY: the mask is ours to write, and as long as said. The system call itself tells how
        // much it has written; the C library's wrapper clears the rest, which is zero here.
        let written = unsafe {
            libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr())
        };
        let processors: u32 = mask.iter().map(|word| word.count_ones()).sum();
        if written < 0 { 1 } else { processors.max(1) as usize }
    }

    fn processor_node(&self) -> Option<Node> {
        let (mut processor, mut node) = (0u32, 0u32);
        let nothing = ptr::null::<libc::c_void>();
        // SAFETY: the call writes two integers.
        let failed =
            unsafe { libc::syscall(libc::SYS_getcpu, &mut processor, &mut node, nothing) } < 0;
        (!failed).then(|| Node::new(node))
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
            Backing::Zeros => (libc::PROT_READ, private, -1, 0),
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

    unsafe fn move_pages(
        &self,
        from: NonNull<u8>,
        len: Bytes,
        to: NonNull<u8>,
    ) -> Result<(), Errno> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | libc::MREMAP_DONTUNMAP;
        let (from, to, len) = (from.as_ptr(), to.as_ptr(), len.as_usize());
        // SAFETY: the caller owns both ranges.
        let moved = unsafe { libc::mremap(from.cast(), len, len, flags, to) };
        if moved == libc::MAP_FAILED { Err(Errno::last()) } else { Ok(()) }
    }

    fn address_space_limit(&self) -> Option<Bytes> {
        let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: 0 };
        // SAFETY: the call writes one `rlimit`.
        let failed = unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) } != 0;
        let none = failed || limit.rlim_cur == libc::RLIM_INFINITY;
        (!none).then(|| Bytes::new(limit.rlim_cur))
    }

    fn memory(&self) -> Bytes {
        // SAFETY: zeros are a value of it, and the call fills it.
        let mut info: libc::sysinfo = unsafe { core::mem::zeroed() };
        // SAFETY: as above.
        let failed = unsafe { libc::sysinfo(&mut info) } != 0;
        let bytes = info.totalram.saturating_mul(u64::from(info.mem_unit));
        Bytes::new(if failed { 1 << 34 } else { bytes })
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
        let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
        let huge = huge.map_or(0, |page| libc::MFD_HUGETLB | huge_size_flag(page));
        // SAFETY: `name` is a valid C string.
        let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags | huge) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(fd) };
        let len = libc::off_t::try_from(len.get()).map_err(|_| Errno::INVAL)?;
        // SAFETY: the descriptor is open.
        retry(|| check(unsafe { libc::ftruncate(file.as_raw_fd(), len) }))?;
        // Nobody to whom the descriptor is passed can take the memory away by truncating it.
        let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: the descriptor is open.
        check(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
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
        pagemap::frames(at, stride, frames)
    }

    fn huge_mapped(&self, at: NonNull<u8>, len: Bytes) -> Result<Bytes, Errno> {
        pagemap::huge_mapped(at, len)
    }

    fn nodes(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        nodes: &mut [Option<Node>],
    ) -> Result<(), Errno> {
        pagemap::nodes(at, stride, nodes)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_those_of_the_affinity_mask() {
        let mut text = [0; 16 << 10];
        let len = Linux.read_file(c"/proc/self/status", &mut text).unwrap();
        let text = String::from_utf8_lossy(&text[..len]);
        let line = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed:")).unwrap();
        let digits = line.chars().filter_map(|digit| digit.to_digit(16));
        assert_eq!(Linux.processors(), digits.map(|d| d.count_ones() as usize).sum::<usize>());
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
