//! A thread's place in the recording: a chunk of the file, mapped.
//!
//! Events are written into the mapping, so there is nothing left to write when a program ends, however
//! it does: by exit, by exec, killed. The kernel has the bytes as soon as they stand in memory.
//!
//! What a thread knows of its chunk stands in a page that a child process finds empty
//! (`MADV_WIPEONFORK`), as does what the process knows of itself. So a child begins a chunk of its own,
//! whichever way it was made; the parent's is not mapped in it.
#![allow(unsafe_code)] // mappings of a file

use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, compiler_fence};

use super::format::{Before, EVENT_BYTES_MAX, Event, HEADER_BYTES, Header, Kind, USED_AT};

/// Bytes of a chunk: a multiple of every machine's base page, so that each can be mapped.
pub const CHUNK: usize = 64 << 10;
const ROOM: usize = CHUNK - HEADER_BYTES;
/// What a chunk is made of before anything stands in it.
static ZEROS: [u8; ROOM] = [0; ROOM];

/// What is known of this process; zeros in a child that has not recorded yet.
#[derive(Debug)]
#[repr(C)]
pub struct Process {
    began_ns: AtomicU64,
}

/// A thread's place; zeros before its first event.
#[derive(Debug)]
#[repr(C)]
pub struct Lane {
    /// The thread is writing an event: another one comes from a signal's handler, and is lost.
    busy: AtomicBool,
    /// How many were.
    lost: AtomicU32,
    /// For whoever has set `busy`.
    chunk: UnsafeCell<Chunk>,
}

/// What a thread knows of its chunk.
#[derive(Debug)]
#[repr(C)]
struct Chunk {
    /// The mapping; null where there is none.
    at: *mut u8,
    /// Of its room, used.
    used: usize,
    before: Before,
}

/// Why nothing can be recorded: what failed, and `errno`.
pub type Failed = (&'static str, i32);

/// A page of zeros that a child process finds empty.
///
/// # Errors
/// [`Failed`].
pub fn wiped_at_fork<T>() -> Result<NonNull<T>, Failed> {
    const { assert!(size_of::<T>() <= 4096) };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping at a place of the kernel's choice; then advice on it.
    let at = unsafe { libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(("no memory: mmap", errno()));
    }
    // SAFETY: the mapping is ours.
    if unsafe { libc::madvise(at, 4096, libc::MADV_WIPEONFORK) } != 0 {
        return Err(("needs Linux 4.14: MADV_WIPEONFORK", errno()));
    }
    NonNull::new(at.cast()).ok_or(("no memory: mmap", libc::ENOMEM))
}

impl Lane {
    /// Writes an event down.
    ///
    /// # Errors
    /// [`Failed`]: it is lost, and so will be the next ones.
    ///
    /// # Safety
    /// `lane` is this thread's.
    pub unsafe fn record(
        lane: NonNull<Self>,
        address: usize,
        kind: Kind,
        about: &About<'_>,
    ) -> Result<(), Failed> {
        // SAFETY: (1) it is the thread's, and zeros are a value of it; (2) it is only ever shared: a handler
        // that interrupts this makes a reference of its own, and what both change is atomic or a cell.
        let lane = unsafe { lane.as_ref() };
        if lane.busy.load(Ordering::Relaxed) {
            lane.lost.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        lane.busy.store(true, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        // SAFETY: no other thread has it, and a handler finds `busy` set and leaves it alone.
        let chunk = unsafe { &mut *lane.chunk.get() };
        let time_ns = now_ns();
        let event = Event { time_ns, address: address as u64, kind };
        let result = chunk.write(event, &lane.lost, about);
        compiler_fence(Ordering::SeqCst);
        lane.busy.store(false, Ordering::Relaxed);
        result
    }
}

impl Chunk {
    fn write(&mut self, event: Event, lost: &AtomicU32, about: &About<'_>) -> Result<(), Failed> {
        if self.at.is_null() || self.used + EVENT_BYTES_MAX > ROOM {
            self.next(event.time_ns, lost, about)?;
        }
        let mut bytes = [0; EVENT_BYTES_MAX];
        let len = self.before.write(event, &mut bytes);
        // SAFETY: (1) there is room for so many in the chunk, which is mapped; (2) its header has the
        // count at a multiple of 4. The count comes last, so that whoever reads the file finds whole
        // events.
        unsafe {
            let place = self.at.add(HEADER_BYTES + self.used);
            place.copy_from_nonoverlapping(bytes.as_ptr(), len);
            self.used += len;
            let count: &AtomicU32 = &*self.at.add(USED_AT).cast();
            count.store((self.used as u32).to_le(), Ordering::Release);
        }
        Ok(())
    }

    /// Leaves the chunk, if there is one, and begins another at the end of the file.
    #[cold]
    fn next(&mut self, time_ns: u64, lost: &AtomicU32, about: &About<'_>) -> Result<(), Failed> {
        if !self.at.is_null() {
            // SAFETY: the mapping is ours, and nothing refers to it any more.
            unsafe { libc::munmap(self.at.cast(), CHUNK) };
            self.at = ptr::null_mut();
        }
        // SAFETY: getpid has no conditions.
        let process = unsafe { libc::getpid() } as u32;
        let told = lost.load(Ordering::Relaxed);
        let header = Header {
            room: ROOM as u32,
            used: 0,
            process,
            thread: about.thread,
            began_ns: about.process.began(time_ns),
            base_ns: time_ns,
            lost: told,
            program: about.program,
        };
        self.at = append(about.path, header)?.as_ptr();
        self.used = 0;
        lost.fetch_sub(told, Ordering::Relaxed); // a handler may have lost one since
        self.before = Before::new(time_ns);
        Ok(())
    }
}

/// What a chunk's header says of who writes it, and where the file is.
#[derive(Debug)]
pub struct About<'a> {
    pub path: &'a CStr,
    pub process: &'a Process,
    pub program: [u8; 16],
    pub thread: u32,
}

impl Process {
    /// When its recording began: now, if it had not.
    fn began(&self, now_ns: u64) -> u64 {
        match self.began_ns.compare_exchange(0, now_ns, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => now_ns,
            Err(earlier) => earlier,
        }
    }
}

/// Adds a chunk at the end of the file, and maps it.
///
/// The file is opened for each: then the kernel's answer where the write ended is this thread's alone,
/// and no descriptor stays open in a program that may count on its numbers.
fn append(path: &CStr, header: Header) -> Result<NonNull<u8>, Failed> {
    let flags = libc::O_RDWR | libc::O_APPEND | libc::O_CREAT | libc::O_CLOEXEC;
    // SAFETY: the path ends.
    let file = unsafe { libc::open(path.as_ptr(), flags, 0o600) };
    if file < 0 {
        return Err(("open", errno()));
    }
    let chunk = append_to(file, &header.to_bytes());
    // SAFETY: opened above. The mapping stays.
    unsafe { libc::close(file) };
    chunk
}

fn append_to(file: libc::c_int, header: &[u8; HEADER_BYTES]) -> Result<NonNull<u8>, Failed> {
    let part = |bytes: &[u8]| libc::iovec {
        iov_base: bytes.as_ptr().cast_mut().cast(),
        iov_len: bytes.len(),
    };
    let parts = [part(header), part(&ZEROS)];
    // SAFETY: two ranges that are only read. One call, so that no other writer comes between.
    let written = unsafe { libc::writev(file, parts.as_ptr(), 2) };
    if written != CHUNK as isize {
        return Err(("write", if written < 0 { errno() } else { libc::ENOSPC }));
    }
    // SAFETY: asks where the write ended.
    let end = unsafe { libc::lseek(file, 0, libc::SEEK_CUR) };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let start = end - CHUNK as libc::off_t;
    // SAFETY: a new mapping at a place of the kernel's choice, of what has just been written.
    let at = unsafe { libc::mmap(ptr::null_mut(), CHUNK, access, libc::MAP_SHARED, file, start) };
    if at == libc::MAP_FAILED {
        return Err(("mmap", errno()));
    }
    // A child has its own. Where this fails it has this one as well, and does not write to it.
    // SAFETY: the mapping is ours.
    unsafe { libc::madvise(at, CHUNK, libc::MADV_DONTFORK) };
    NonNull::new(at.cast()).ok_or(("mmap", libc::ENOMEM))
}

fn errno() -> i32 {
    // SAFETY: the place is this thread's.
    unsafe { *libc::__errno_location() }
}

/// The monotonic clock, which all threads and processors agree on.
fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes one time.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
