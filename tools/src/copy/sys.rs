//! The system calls of the copy engines that the standard library and `nix` do not wrap safely.
//!
//! Each function is one call with its types made safe: borrowed files in, `io::Result` out, no
//! retries and no policy. The loops live with their callers, who know what a short count means.
#![allow(unsafe_code)] // System calls by number or by libc; confined to this file.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::ptr;

use libc::{c_int, c_long, c_uint, c_ulong, off_t};
use memmap2::MmapRaw;

/// Bytes as the kernel's signed offsets want them.
fn offset(bytes: u64) -> io::Result<off_t> {
    off_t::try_from(bytes).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// A count or minus one with `errno`, as calls of this family return.
fn counted(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// What `cachestat(2)` says about a range of a file.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct CacheStat {
    /// Pages in the page cache.
    pub cached: u64,
    /// Of them, pages not yet written to the device.
    pub dirty: u64,
    /// Of them, pages on their way to the device.
    pub writeback: u64,
    /// Pages that were evicted.
    pub evicted: u64,
    /// Pages that were evicted a short while ago.
    pub recently_evicted: u64,
}

/// The number of `cachestat(2)`, the same on every architecture that Rust's standard library has.
const SYS_CACHESTAT: c_long = 451;

/// Asks how much of `range` is in the page cache. Linux 6.5 and later.
pub fn cachestat(file: &File, range: Range<u64>) -> io::Result<CacheStat> {
    #[repr(C)]
    struct CacheStatRange {
        offset: u64,
        len: u64,
    }
    const _: () = assert!(size_of::<CacheStatRange>() == 16 && size_of::<CacheStat>() == 40);

    let asked = CacheStatRange { offset: range.start, len: range.end - range.start };
    let mut stat = CacheStat::default();
    // SAFETY: 1. `asked` and `stat` have the kernel's layout (`struct cachestat_range`, `struct
    // cachestat`: two and five u64) and live until the call returns. 2. The descriptor is borrowed
    // from an open file. 3. A kernel without the call returns ENOSYS and touches nothing.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const asked, &raw mut stat, 0 as c_uint)
    };
    counted(result as isize).map(|_| stat)
}

/// Reads at `at` only what is in memory; `EAGAIN` where nothing is (`preadv2` with `RWF_NOWAIT`).
pub fn read_cached(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let at = offset(at)?;
    // SAFETY: `iov` names `buffer`, which is exclusively borrowed and as long as it says.
    counted(unsafe { libc::preadv2(file.as_raw_fd(), &raw const iov, 1, at, libc::RWF_NOWAIT) })
}

/// Writes to a stream what it takes without blocking; `EAGAIN` where it takes nothing and
/// `EOPNOTSUPP` where the kind of file cannot tell.
pub fn write_nowait(file: &File, bytes: &[u8]) -> io::Result<usize> {
    let iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: `iov` names `bytes`, which is borrowed, as long as it says, and only read.
    counted(unsafe { libc::pwritev2(file.as_raw_fd(), &raw const iov, 1, -1, libc::RWF_NOWAIT) })
}

/// What to wait for.
#[derive(Clone, Copy, Debug)]
pub enum Readiness {
    /// Bytes to read, or the end.
    Readable,
    /// Room to write.
    Writable,
}

/// Waits until `file` is ready or `timeout_ms` have passed; says whether it is ready.
pub fn poll(file: &File, readiness: Readiness, timeout_ms: c_int) -> io::Result<bool> {
    let events = match readiness {
        Readiness::Readable => libc::POLLIN,
        Readiness::Writable => libc::POLLOUT,
    };
    let mut asked = libc::pollfd { fd: file.as_raw_fd(), events, revents: 0 };
    // SAFETY: `asked` is one valid pollfd, exclusively borrowed for the call.
    counted(unsafe { libc::poll(&raw mut asked, 1, timeout_ms) } as isize).map(|ready| ready > 0)
}

/// Moves up to `len` bytes between a pipe and another file without passing through user space.
/// `None` is the file's own position.
pub fn splice(
    source: &File,
    source_at: Option<u64>,
    target: &File,
    target_at: Option<u64>,
    len: usize,
) -> io::Result<usize> {
    let mut from = source_at.map(offset).transpose()?;
    let mut to = target_at.map(offset).transpose()?;
    let from = from.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    let to = to.as_mut().map_or(ptr::null_mut(), ptr::from_mut);
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: 1. The offsets are null or point to locals that outlive the call. 2. The descriptors
    // are borrowed from open files. No memory of ours is read or written otherwise.
    counted(unsafe { libc::splice(source.as_raw_fd(), from, target.as_raw_fd(), to, len, flags) })
}

/// Reads from `source` at `source_at` into a part of a mapping; `EFAULT` where a page of it cannot
/// be had.
pub fn read_into_map(
    source: &File,
    source_at: u64,
    map: &MmapRaw,
    part: Range<usize>,
) -> io::Result<usize> {
    assert!(part.start <= part.end && part.end <= map.len(), "{part:?} leaves the mapping");
    let at = offset(source_at)?;
    // SAFETY: 1. The part lies in the mapping, which outlives the call. 2. Nobody refers to its
    // bytes: it is raw, and the kernel alone writes there.
    counted(unsafe {
        let buffer = map.as_mut_ptr().add(part.start).cast();
        libc::pread(source.as_raw_fd(), buffer, part.len(), at)
    })
}

/// Copies up to `len` bytes inside the kernel.
pub fn copy_file_range(
    source: &File,
    source_at: u64,
    target: &File,
    target_at: u64,
    len: usize,
) -> io::Result<usize> {
    let mut from = offset(source_at)?;
    let mut to = offset(target_at)?;
    // SAFETY: both offsets are locals that outlive the call; the descriptors are borrowed from
    // open files. No memory of ours is read or written otherwise.
    counted(unsafe {
        libc::copy_file_range(
            source.as_raw_fd(),
            &raw mut from,
            target.as_raw_fd(),
            &raw mut to,
            len,
            0,
        )
    })
}

/// `_IOW(0x94, number, size)` of linux/fs.h, in the encoding of most architectures.
const fn write_code(number: c_ulong, size: usize) -> c_ulong {
    // MIPS, PowerPC and SPARC encode "write" as 4 in the topmost three bits.
    let write: c_ulong = if cfg!(any(
        target_arch = "mips",
        target_arch = "mips64",
        target_arch = "powerpc",
        target_arch = "powerpc64",
        target_arch = "sparc64"
    )) {
        0x8000_0000
    } else {
        0x4000_0000
    };
    write | (size as c_ulong) << 16 | 0x9400 | number
}

const FICLONE: c_ulong = write_code(9, size_of::<c_int>());
const FICLONERANGE: c_ulong = write_code(13, size_of::<CloneRange>());

/// `struct file_clone_range` of linux/fs.h.
#[repr(C)]
struct CloneRange {
    source: i64,
    source_offset: u64,
    len: u64,
    target_offset: u64,
}
const _: () = assert!(FICLONE & !0xC000_0000 == 0x0004_9409 && size_of::<CloneRange>() == 32);

/// Makes `target` share all blocks of `source`.
pub fn clone_file(source: &File, target: &File) -> io::Result<()> {
    // SAFETY: FICLONE takes a descriptor by value and touches no memory of ours; both are borrowed
    // from open files.
    counted(unsafe { libc::ioctl(target.as_raw_fd(), FICLONE as _, source.as_raw_fd()) } as isize)
        .map(|_| ())
}

/// Makes `target` share the blocks of `source` in `range`, at the same offsets. It begins and ends where blocks
/// do, or where the source does.
pub fn clone_range(source: &File, target: &File, range: &Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(()); // which the call takes for all of it
    }
    let asked = CloneRange {
        source: source.as_raw_fd().into(),
        source_offset: range.start,
        len: range.end - range.start,
        target_offset: range.start,
    };
    // SAFETY: 1. `asked` has the kernel's layout and lives until the call returns. 2. Both descriptors are
    // borrowed from open files.
    let result = unsafe { libc::ioctl(target.as_raw_fd(), FICLONERANGE as _, &raw const asked) };
    counted(result as isize).map(|_| ())
}

/// How `fallocate(2)` changes the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Reserve blocks; the length stays.
    KeepSize,
    /// Free the blocks; the range reads as zeros.
    PunchHole,
}

/// `fallocate(2)` over `range`.
pub fn fallocate(file: &File, how: Allocate, range: Range<u64>) -> io::Result<()> {
    let mode = match how {
        Allocate::KeepSize => libc::FALLOC_FL_KEEP_SIZE,
        Allocate::PunchHole => libc::FALLOC_FL_KEEP_SIZE | libc::FALLOC_FL_PUNCH_HOLE,
    };
    let (start, len) = (offset(range.start)?, offset(range.end - range.start)?);
    // SAFETY: the call takes integers and a descriptor borrowed from an open file.
    counted(unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) } as isize).map(|_| ())
}

/// `sync_file_range(2)`: begins to write out all of `file`, and waits for nothing but room to ask for that.
pub fn begin_writing_out(file: &File) -> io::Result<()> {
    let how = libc::SYNC_FILE_RANGE_WRITE;
    // SAFETY: the call takes integers and a descriptor borrowed from an open file.
    counted(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, how) } as isize).map(|_| ())
}

/// Where `lseek(2)` looks.
#[derive(Clone, Copy, Debug)]
pub enum Seek {
    /// The first data at or after.
    Data,
    /// The first hole at or after; the end of the file counts as one.
    Hole,
}

/// Finds data or a hole from `from` on; `ENXIO` where there is none. Moves the file's position.
pub fn seek(file: &File, what: Seek, from: u64) -> io::Result<u64> {
    let whence = match what {
        Seek::Data => libc::SEEK_DATA,
        Seek::Hole => libc::SEEK_HOLE,
    };
    // SAFETY: the call takes integers and a descriptor borrowed from an open file.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset(from)?, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

/// `BLKFLSBUF` of linux/fs.h: writes a block device's pages back and drops those that nobody uses.
pub fn flush_device(file: &File) -> io::Result<()> {
    const BLKFLSBUF: c_ulong = nix::request_code_none!(0x12, 97) as c_ulong;
    // SAFETY: the request takes no argument; the descriptor is borrowed from an open file.
    counted(unsafe { libc::ioctl(file.as_raw_fd(), BLKFLSBUF as _, 0) } as isize).map(|_| ())
}

/// `BLKZEROOUT` of linux/fs.h: a range of a block device reads as zeros from now on, and pages of it in
/// memory are gone.
pub fn zero_out(file: &File, range: Range<u64>) -> io::Result<()> {
    const BLKZEROOUT: c_ulong = nix::request_code_none!(0x12, 127) as c_ulong;
    let asked = [range.start, range.end - range.start];
    // SAFETY: the request reads two u64, first byte and length, which live until the call returns; the
    // descriptor is borrowed from an open file, and the blocks are its own.
    let zeroed = unsafe { libc::ioctl(file.as_raw_fd(), BLKZEROOUT as _, asked.as_ptr()) };
    counted(zeroed as isize).map(|_| ())
}

/// How many pages of a mapping are in memory: `mincore(2)`.
pub fn resident_pages(map: &MmapRaw) -> io::Result<u64> {
    let page = usize::try_from(super::probe::page_bytes()).unwrap_or(4096);
    let mut pages = vec![0_u8; map.len().div_ceil(page)];
    // SAFETY: 1. The mapping is whole and outlives the call, which touches none of its bytes. 2. `pages` has a
    // byte for each of its pages.
    let result = unsafe { libc::mincore(map.as_mut_ptr().cast(), map.len(), pages.as_mut_ptr()) };
    counted(result as isize)?;
    Ok(pages.iter().filter(|&&state| state & 1 != 0).count() as u64)
}

/// What `posix_fadvise(2)` is told.
#[derive(Clone, Copy, Debug)]
pub enum Advice {
    /// Read ahead further.
    Sequential,
    /// Drop clean pages.
    DontNeed,
}

/// Advises the kernel about all of `file`. Advice is optional, so its failure is not reported.
pub fn advise(file: &File, advice: Advice) {
    let advice = match advice {
        Advice::Sequential => libc::POSIX_FADV_SEQUENTIAL,
        Advice::DontNeed => libc::POSIX_FADV_DONTNEED,
    };
    // SAFETY: the call takes integers and a descriptor borrowed from an open file.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) };
}

/// Alignments that O_DIRECT asks of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DirectAlignment {
    /// Of the memory, in bytes.
    pub memory: u32,
    /// Of offsets and lengths, in bytes.
    pub offset: u32,
}

/// `STATX_DIOALIGN` of linux/stat.h.
const STATX_DIOALIGN: c_uint = 0x2000;

/// Asks `statx(2)` for the alignments of O_DIRECT: `Ok(None)` where the file system does not say,
/// `Ok(Some)` with zeros where it says that there is no O_DIRECT.
pub fn direct_alignment(file: &File) -> io::Result<Option<DirectAlignment>> {
    /// Words 38 and on of `struct statx`: `stx_mnt_id` at byte 144, then the two alignments.
    const ALIGN_AT: usize = 152;
    #[repr(C, align(8))]
    struct Statx([u8; 256]);
    const _: () = assert!(size_of::<Statx>() == size_of::<libc::statx>());

    let mut stat = Statx([0; 256]);
    // SAFETY: 1. `stat` is as long and as aligned as `struct statx` and zeroed, so every byte is
    // initialised whatever the kernel fills in. 2. The path is an empty NUL-terminated string,
    // which with AT_EMPTY_PATH names the borrowed descriptor itself.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            STATX_DIOALIGN,
            (&raw mut stat).cast(),
        )
    };
    counted(result as isize)?;
    let word = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&stat.0[at..at + 4]);
        u32::from_ne_bytes(bytes)
    };
    let known = word(0) & STATX_DIOALIGN != 0;
    Ok(known.then(|| DirectAlignment { memory: word(ALIGN_AT), offset: word(ALIGN_AT + 4) }))
}
