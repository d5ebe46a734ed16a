//! What every engine does before the first byte and after the last: room, length and the check
//! that the source was at rest. And reads and writes that finish what they begin.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::sys::statfs;

use crate::copy::cached::Slices;
use crate::copy::engine::{CopyError, Job, Kind, Side, Sparse};
use crate::copy::holes;
use crate::copy::sys::{self, Allocate};

/// Blocks reserved with one call: long enough to be one extent, short enough to notice an
/// interruption on a file system that must write zeros instead.
const ALLOCATE_STEP: u64 = 1 << 30;

impl Side<'_> {
    /// An error about something other than reading or writing.
    pub fn cannot(&self, operation: impl Into<String>, cause: io::Error) -> CopyError {
        CopyError::Operation { path: self.path.to_owned(), operation: operation.into(), cause }
    }

    /// A failed read at `offset`.
    pub fn read_error(&self, offset: u64, cause: io::Error) -> CopyError {
        CopyError::Read { path: self.path.to_owned(), offset, cause }
    }

    /// A failed write at `offset`.
    pub fn write_error(&self, offset: u64, cause: io::Error) -> CopyError {
        CopyError::Write { path: self.path.to_owned(), offset, cause }
    }

    /// Reads until `buffer` is full or the file ends; says how much it read.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, CopyError> {
        let mut done = 0;
        while done < buffer.len() {
            let at = offset + done as u64;
            match self.file.read_at(&mut buffer[done..], at) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.read_error(at, error)),
            }
        }
        Ok(done)
    }

    /// Reads a whole buffer of a file of known length.
    ///
    /// # Errors
    /// [`CopyError::Shrank`] if the file ends before.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), CopyError> {
        let done = self.read_at(buffer, offset)?;
        if done == buffer.len() { Ok(()) } else { Err(self.shrank(offset + done as u64)) }
    }

    /// Writes all of `bytes`, in `slices`.
    pub fn write_all_at(&self, bytes: &[u8], offset: u64, slices: Slices) -> Result<(), CopyError> {
        let mut done = 0;
        while done < bytes.len() {
            let at = offset + done as u64;
            let slice = &bytes[done..][..slices.next(bytes.len() - done)];
            match self.file.write_at(slice, at) {
                Ok(0) => return Err(self.write_error(at, io::ErrorKind::WriteZero.into())),
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.write_error(at, error)),
            }
        }
        Ok(())
    }

    /// The source ended at `found`.
    pub fn shrank(&self, found: u64) -> CopyError {
        let expected = self.len.unwrap_or(found);
        CopyError::Shrank { path: self.path.to_owned(), expected, found }
    }
}

/// Gives an empty regular target its length and the blocks that it will need, so that a full file
/// system is an error before the first byte and the file lies in few extents. Checks that a device
/// is large enough. Returns whether blocks were allocated for all that `--sparse` asks for.
///
/// # Errors
/// No space, a quota, or a length that the file system cannot have.
pub fn prepare_target(job: &Job<'_>, len: u64) -> Result<bool, CopyError> {
    let target = &job.target;
    match target.kind {
        Kind::Stream => Ok(true),
        Kind::BlockDevice => match target.len {
            Some(room) if room < len => {
                let cause = io::Error::from_raw_os_error(libc::ENOSPC);
                Err(target.cannot(format!("hold {len} bytes on a device of {room}"), cause))
            }
            _ => Ok(true),
        },
        Kind::Regular => {
            target
                .file
                .set_len(len)
                .map_err(|cause| target.cannot(format!("set the length to {len} bytes"), cause))?;
            let everything = std::slice::from_ref(&(0..len)).to_vec();
            match job.tuning.sparse {
                Sparse::Auto => reserve(job, job.data),
                Sparse::Never => reserve(job, &everything),
                Sparse::Always => Ok(true),
            }
        }
    }
}

/// Allocates the blocks of `ranges`; `Ok(false)` where the file system cannot.
fn reserve(job: &Job<'_>, ranges: &[Range<u64>]) -> Result<bool, CopyError> {
    let target = &job.target;
    let total: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let cannot = |cause| target.cannot(format!("reserve {total} bytes for the copy"), cause);
    if job.tuning.sparse == Sparse::Auto && !pays(target.file, total).map_err(cannot)? {
        return Ok(false);
    }
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            if job.progress.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            let end = range.end.min(at + ALLOCATE_STEP);
            match sys::fallocate(target.file, Allocate::KeepSize, at..end) {
                Ok(()) => at = end,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => return Ok(false),
                    _ => return Err(cannot(error)),
                },
            }
        }
    }
    Ok(true)
}

/// Whether reserving blocks before writing helps.
///
/// Not in memory, where it does the work of the writes a second time and on one thread; there
/// it is enough that the room is there (`ENOSPC` if not). And not on Btrfs, which would leave
/// reserved ranges uncompressed.
fn pays(file: &File, bytes: u64) -> io::Result<bool> {
    let Ok(stat) = statfs::fstatfs(file) else { return Ok(true) };
    if stat.filesystem_type() != statfs::TMPFS_MAGIC {
        return Ok(stat.filesystem_type() != statfs::BTRFS_SUPER_MAGIC);
    }
    let block = u64::try_from(stat.block_size()).unwrap_or(0);
    // No blocks in all means that this tmpfs has no limit.
    if stat.blocks() == 0 || bytes <= stat.blocks_available().saturating_mul(block) {
        return Ok(false);
    }
    Err(io::Error::from_raw_os_error(libc::ENOSPC))
}

/// Checks after the last byte that the source still has the length that was copied.
///
/// # Errors
/// [`CopyError::Shrank`] and [`CopyError::Grew`].
pub fn check_source(source: &Side<'_>, len: u64) -> Result<(), CopyError> {
    if source.kind != Kind::Regular {
        return Ok(());
    }
    let now = source.file.metadata().map_err(|cause| source.cannot("stat", cause))?.len();
    if now < len {
        return Err(source.shrank(now));
    }
    // A file system may answer with an old length from a cache of attributes; reading tells.
    let beyond = if now > len { 1 } else { source.read_at(&mut [0], len)? };
    if beyond > 0 {
        let found = now.max(len + 1);
        return Err(CopyError::Grew { path: source.path.to_owned(), expected: len, found });
    }
    Ok(())
}

/// The ranges that an engine must write: the data, or everything where the target cannot or shall
/// not have holes. Reading a hole gives zeros. Holes become zeros on a block device here, by its own command
/// where it has one, and then need not be written.
///
/// # Errors
/// [`CopyError::Cancelled`].
pub fn ranges_to_write(
    job: &Job<'_>,
    len: u64,
    allocated: bool,
) -> Result<Vec<Range<u64>>, CopyError> {
    let everything = || std::iter::once(0..len).collect();
    let holes = holes::between(job.data, len);
    Ok(match job.target.kind {
        _ if holes.is_empty() => job.data.to_vec(),
        Kind::Regular if job.tuning.sparse != Sparse::Never || allocated => job.data.to_vec(),
        Kind::BlockDevice if job.tuning.sparse != Sparse::Never => {
            holes::between(&zeroed(job, &holes)?, len)
        }
        Kind::Regular | Kind::BlockDevice | Kind::Stream => everything(),
    })
}

/// Has the target read as zeros in `holes`, as far as it can; says in which ranges it does.
fn zeroed(job: &Job<'_>, holes: &[Range<u64>]) -> Result<Vec<Range<u64>>, CopyError> {
    let zero = |hole| {
        let done = holes::zero(job.target.file, hole, || job.progress.is_cancelled());
        done.ok_or(CopyError::Cancelled)
    };
    let mut zeroed = holes.iter().map(zero).collect::<Result<Vec<_>, _>>()?;
    zeroed.retain(|range| !range.is_empty());
    Ok(zeroed)
}

/// A buffer of a thread, aligned to pages so that the kernel copies whole ones.
#[derive(Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    /// Pages are aligned at least so.
    const ALIGN: usize = 4096;

    /// Allocates `len` bytes.
    ///
    /// # Errors
    /// `ENOMEM`, in the name of the target.
    pub fn new(job: &Job<'_>, len: u64) -> Result<Self, CopyError> {
        let cannot = || {
            let cause = io::Error::from(io::ErrorKind::OutOfMemory);
            job.target.cannot(format!("get a buffer of {len} bytes for it"), cause)
        };
        let len = usize::try_from(len).map_err(|_| cannot())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len + Self::ALIGN).map_err(|_| cannot())?;
        bytes.resize(len + Self::ALIGN, 0);
        let start = bytes.as_ptr().align_offset(Self::ALIGN).min(Self::ALIGN);
        Ok(Self { bytes, start, len })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}
