//! The one place that makes system calls.
//!
//! Every layer above sees the machine through [`Os`]. [`Linux`] is the machine itself;
//! `fake::FakeOs` (feature `fake-os`) simulates one whose every call can be made to fail, which
//! is how the layers above are tested on failures that a healthy machine does not have.
//!
//! Nothing here allocates from the heap: the global allocator stands on this module.
#![allow(unsafe_code)] // declares and makes system calls on memory

use core::fmt;
use core::ptr::NonNull;
use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::units::{Bytes, Node, PageSize, Pfn};

mod array;
pub(crate) mod barrier;
#[cfg(any(test, feature = "fake-os"))]
pub mod fake;
mod linux;
pub mod system_info;

pub use array::{Array, Zeroed};
pub use linux::Linux;
pub use system_info::SystemInfo;

/// An error number of the kernel, as in errno(3).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Out of memory, or a limit on mappings was met.
    pub const NOMEM: Self = Self(libc::ENOMEM);
    /// Not permitted without a privilege.
    pub const PERM: Self = Self(libc::EPERM);
    /// An argument that this kernel does not take.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// What [`Advice::PopulateWrite`] answers where a touch would raise SIGBUS: the hugetlb pool is
    /// empty, exhausted, or limited by a cgroup.
    pub const FAULT: Self = Self(libc::EFAULT);
    /// No such file: usually a kernel without the feature.
    pub const NOENT: Self = Self(libc::ENOENT);

    /// The error of that number.
    pub const fn new(number: i32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> i32 {
        self.0
    }

    /// What the last failed call of the C library on this thread left behind.
    pub fn last() -> Self {
        Self(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&std::io::Error::from_raw_os_error(self.0), f)
    }
}

impl std::error::Error for Errno {}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}

/// What stands behind a mapping.
#[derive(Clone, Copy, Debug)]
pub enum Backing<'a> {
    /// Address space only: no access, no memory, not counted against overcommit.
    Reserved,
    /// Private pages that read as zeros and cannot be written.
    Zeros,
    /// Private base pages, zeroed when touched; not counted against overcommit.
    Anonymous,
    /// Private hugetlb pages of that size, taken from the machine's pool when populated (none are
    /// set aside at the time of mapping).
    Huge(PageSize),
    /// Shared memory of a file (see [`Os::memory_file`]), from that offset.
    File(BorrowedFd<'a>, Bytes),
}

/// Advice on a range of memory, as in madvise(2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Advice {
    /// `MADV_HUGEPAGE`: transparent huge pages are wanted here.
    HugePage,
    /// `MADV_NOHUGEPAGE`: they are not.
    NoHugePage,
    /// `MADV_COLLAPSE` (Linux 6.1): make what is there into a huge page now.
    Collapse,
    /// `MADV_POPULATE_WRITE` (Linux 5.14): fault every page in, writable; [`Errno::FAULT`] where a
    /// touch would raise SIGBUS. Pages before the one that failed stay.
    PopulateWrite,
    /// `MADV_DONTNEED`: give private pages back; they read as zero afterwards.
    DontNeed,
    /// `MADV_DONTFORK`: a child process does not get the range.
    DontFork,
}

/// The machine, as far as Bookend needs it.
///
/// Implementations are handles: cloning one is cheap and reaches the same machine. Lengths and
/// addresses are multiples of the base page unless a method says otherwise.
pub trait Os: Clone + fmt::Debug + Send + Sync + 'static {
    /// Size of a base page.
    fn base_page_size(&self) -> PageSize;

    /// How many processors this process may run on; at least 1.
    fn processors(&self) -> usize;

    /// The NUMA node of the processor that the caller runs on, at this moment; `None` where it is not
    /// known.
    fn processor_node(&self) -> Option<Node> {
        None
    }

    /// Maps `len` bytes of `backing`, readable and writable (but for [`Backing::Reserved`]).
    /// Without `at` the kernel chooses the address; with it, what was mapped there is replaced.
    ///
    /// # Safety
    /// Where `at` is given, the caller owns those `len` bytes of address space and nothing else
    /// refers to what is mapped there.
    unsafe fn map(
        &self,
        at: Option<NonNull<u8>>,
        len: Bytes,
        backing: Backing<'_>,
    ) -> Result<NonNull<u8>, Errno>;

    /// Unmaps `len` bytes from `at`.
    ///
    /// # Safety
    /// The caller owns the range and nothing refers to it any more.
    unsafe fn unmap(&self, at: NonNull<u8>, len: Bytes) -> Result<(), Errno>;

    /// Moves the pages of a private anonymous range to another one (`MREMAP_DONTUNMAP`, Linux 5.7):
    /// no byte is copied. What was there is lost; the old range stays mapped and reads as zeros.
    ///
    /// # Safety
    /// The caller owns both ranges, which do not overlap, and nothing refers to either's content.
    ///
    /// # Errors
    /// `ENOSYS` or [`Errno::INVAL`] where the kernel has no such call: nothing has moved then.
    unsafe fn move_pages(
        &self,
        from: NonNull<u8>,
        len: Bytes,
        to: NonNull<u8>,
    ) -> Result<(), Errno> {
        let _ = (from, len, to);
        Err(Errno::new(libc::ENOSYS))
    }

    /// How much address space this process may have (`RLIMIT_AS`); `None` without a limit.
    fn address_space_limit(&self) -> Option<Bytes> {
        None
    }

    /// How much memory the machine has.
    fn memory(&self) -> Bytes {
        Bytes::gib(16)
    }

    /// Gives advice on a range.
    ///
    /// # Safety
    /// The caller owns the range; for [`Advice::DontNeed`], nothing relies on its content.
    unsafe fn advise(&self, at: NonNull<u8>, len: Bytes, advice: Advice) -> Result<(), Errno>;

    /// Binds future pages of a mapped range to `node` (`MPOL_BIND`).
    ///
    /// # Safety
    /// The caller owns the range.
    unsafe fn bind(&self, at: NonNull<u8>, len: Bytes, node: Node) -> Result<(), Errno>;

    /// Creates a memory file (memfd_create(2)) of `len` bytes: of hugetlb pages where a size is
    /// given (`len` is then a multiple of it), else of base pages. No page is taken yet. Its length
    /// is sealed, so that nobody who has the descriptor can take memory away by truncating it.
    fn memory_file(
        &self,
        name: &CStr,
        len: Bytes,
        huge: Option<PageSize>,
    ) -> Result<OwnedFd, Errno>;

    /// Gives back the pages of a range of a memory file; they read as zero afterwards.
    fn punch(&self, file: BorrowedFd<'_>, offset: Bytes, len: Bytes) -> Result<(), Errno>;

    /// Reads frame numbers: of the base page at `at`, at `at + stride`, at `at + 2·stride` and so
    /// on, until `frames` is full; `None` where no page is present. Within a huge page the frames
    /// follow one another, so a stride of its size is enough.
    ///
    /// # Errors
    /// [`Errno::PERM`] without CAP_SYS_ADMIN (the kernel shows such readers zeros, which this
    /// method tells from absence).
    fn frames(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        frames: &mut [Option<Pfn>],
    ) -> Result<(), Errno>;

    /// How much of a range is mapped by huge pages, transparent or hugetlb, at the PMD level or
    /// above; needs no privilege. It is how a caller learns whether [`Advice::HugePage`] or
    /// [`Advice::Collapse`] gave what was asked.
    ///
    /// Exact from Linux 6.7 on. Older kernels tell it for whole mappings only, and the answer is
    /// exact where the range covers each mapping that it touches, else an upper bound.
    fn huge_mapped(&self, at: NonNull<u8>, len: Bytes) -> Result<Bytes, Errno>;

    /// Reads the NUMA nodes of pages, one every `stride`, as [`Os::frames`] reads frames; `None`
    /// where no page is present. Needs no privilege. Linux 6.1 was seen to say the same of
    /// pages that automatic NUMA balancing waits at.
    ///
    /// # Errors
    /// `ENOSYS` from a kernel without NUMA, where all memory is on node 0.
    fn nodes(
        &self,
        at: NonNull<u8>,
        stride: PageSize,
        nodes: &mut [Option<Node>],
    ) -> Result<(), Errno>;

    /// Reads a small file of `/proc` or `/sys` from its beginning into `buffer`; returns the
    /// length, which is at most that of `buffer` (the rest of a longer file is not read).
    fn read_file(&self, path: &CStr, buffer: &mut [u8]) -> Result<usize, Errno>;

    /// Calls `visit` with each name in a directory of `/proc` or `/sys`.
    fn list_directory(&self, path: &CStr, visit: &mut dyn FnMut(&CStr)) -> Result<(), Errno>;

    /// Monotonic time in nanoseconds since some start.
    fn now_ns(&self) -> u64;
}

/// Says why a test, or a part of one, does not run here: past the harness, which keeps what a
/// passing test prints to itself.
#[cfg(test)]
pub(crate) fn say_skipped(reason: impl fmt::Display) {
    use std::io::Write;
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason}");
}
