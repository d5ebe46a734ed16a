//! What is in two files or block devices, compared as `--check` does: the second should be a copy of the first.
//!
//! The length of a regular file is believed where it is true ([`length_is_a_guess`]); what is in others is read to its
//! end. A device that was copied to may be longer than its source.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;

use super::compare::{self, CompareError};
use super::engine::Progress;
use super::plan::SMALL_BYTES;
use super::probe::length_is_a_guess;
use super::reread::Reread;
use super::source::device_len;
use super::tree::entry::by_descriptor;

/// A regular file or block device, open for reading.
#[derive(Debug)]
pub struct Contents {
    file: File,
    /// As the system has it, which may be a guess.
    len: u64,
    is_device: bool,
}

/// What a comparison says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Compared {
    /// All of so many bytes are the same.
    Same(u64),
    /// Some of these bytes differ.
    Other(u64),
    /// They cannot be the same.
    OtherLength {
        /// Bytes in the second.
        found: u64,
        /// Bytes in the first.
        expected: u64,
    },
}

impl Contents {
    /// What is open, perhaps as a place only.
    ///
    /// # Errors
    /// Where it cannot be read, or a device does not tell its size.
    pub fn open((place, found): (&File, &Metadata)) -> io::Result<Self> {
        let file = File::open(by_descriptor(place))?;
        let is_device = is_device(found);
        let len = if is_device { device_len(&file)? } else { found.len() };
        Ok(Self { file, len, is_device })
    }

    /// It, to be read.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The length of it; `None` where only reading to its end tells.
    ///
    /// # Errors
    /// What reading says.
    pub fn true_len(&self) -> io::Result<Option<u64>> {
        if self.is_device || !length_is_a_guess(&self.file) {
            return Ok(Some(self.len));
        }
        Ok((compare::read(&self.file, &mut [0], 0)? == 0).then_some(0))
    }

    /// Compares this with what should be a copy of it.
    ///
    /// # Errors
    /// What reading one of them says; `Interrupted` where the user stopped it.
    pub fn compare(&self, copy: &Self, progress: &Progress) -> io::Result<Compared> {
        let devices = self.is_device || copy.is_device;
        if !devices && self.len == copy.len && self.len < SMALL_BYTES {
            return self.to_the_end(copy, self.len, progress);
        }
        match (self.true_len()?, copy.true_len()?) {
            (Some(len), Some(found)) if found == len || (found > len && copy.is_device) => {
                let is_same = match devices || len >= SMALL_BYTES {
                    true => self.on_devices(copy, len, progress)?,
                    false => return self.to_the_end(copy, len, progress),
                };
                Ok(if is_same { Compared::Same(len) } else { Compared::Other(len) })
            }
            (Some(expected), Some(found)) => Ok(Compared::OtherLength { found, expected }),
            // If it is the same, what does not tell its length has that of the other.
            (expected, found) => self.to_the_end(copy, expected.or(found).unwrap_or(0), progress),
        }
    }

    /// Reads both to their ends; `len` is for the report.
    fn to_the_end(&self, copy: &Self, len: u64, progress: &Progress) -> io::Result<Compared> {
        match compare::same_contents(&self.file, &copy.file, progress) {
            Ok(true) => Ok(Compared::Same(len)),
            Ok(false) => Ok(Compared::Other(len)),
            Err(CompareError::First(_, error) | CompareError::Second(_, error)) => Err(error),
            Err(CompareError::Cancelled) => Err(io::ErrorKind::Interrupted.into()),
        }
    }

    /// Big files are read past the page cache, and devices.
    fn on_devices(&self, copy: &Self, len: u64, progress: &Progress) -> io::Result<bool> {
        const CHUNK: u64 = 4 << 20;
        let (mut one, mut other) = (Reread::open(&self.file, len)?, Reread::open(&copy.file, len)?);
        let mut at = 0;
        while at < len {
            if progress.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let range = at..len.min(at + CHUNK);
            if one.read(range.clone())? != other.read(range)? {
                return Ok(false);
            }
            at += CHUNK;
        }
        Ok(true)
    }
}

/// Opens `path` for reading, without waiting for the writer of a FIFO, or making a terminal this process's own.
///
/// # Errors
/// What opening says.
pub fn open_to_read(path: &Path) -> io::Result<File> {
    open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
}

/// Opens `path` as a place, and looks at what is there: of a symbolic link that is the link.
///
/// # Errors
/// What the system says.
pub fn look_at(path: &Path) -> io::Result<(File, Metadata)> {
    let place = open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
    let found = place.metadata()?;
    Ok((place, found))
}

fn open(path: &Path, flags: OFlag) -> io::Result<File> {
    let mut above: Option<OwnedFd> = None;
    let mut rest = path.as_os_str().as_bytes();
    // The system takes no more at once: a tree may be deeper.
    while rest.len() >= PATH_MAX {
        let slash = rest[..PATH_MAX].iter().rposition(|&byte| byte == b'/').filter(|&at| at > 0);
        let slash = slash.ok_or(Errno::ENAMETOOLONG)?;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        above = Some(open_at(above.as_ref(), &rest[..slash], flags)?);
        let next = rest[slash..].iter().position(|&byte| byte != b'/');
        rest = next.map_or(b".", |next| &rest[slash + next..]);
    }
    Ok(open_at(above.as_ref(), rest, flags | OFlag::O_CLOEXEC)?.into())
}

/// Bytes of a path that the system takes at most, with a zero byte at its end.
const PATH_MAX: usize = libc::PATH_MAX as usize;

fn open_at(above: Option<&OwnedFd>, path: &[u8], flags: OFlag) -> nix::Result<OwnedFd> {
    match above {
        Some(above) => openat(above, path, flags, Mode::empty()),
        None => openat(AT_FDCWD, path, flags, Mode::empty()),
    }
}

/// Whether `found` is about a block device.
pub fn is_device(found: &Metadata) -> bool {
    found.file_type().is_block_device()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(bytes: &[u8], is_device: bool) -> (tempfile::NamedTempFile, Contents) {
        let temporary = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temporary.path(), bytes).unwrap();
        let (file, len) = (File::open(temporary.path()).unwrap(), bytes.len() as u64);
        (temporary, Contents { file, len, is_device })
    }

    #[test]
    fn a_device_may_be_longer_than_what_was_copied_to_it() {
        let compared = |one: (&[u8], bool), other: (&[u8], bool)| {
            let (one, other) = (contents(one.0, one.1), contents(other.0, other.1));
            one.1.compare(&other.1, &Progress::default()).unwrap()
        };
        let other_length = |found, expected| Compared::OtherLength { found, expected };
        for is_device in [false, true] {
            let copy: &[u8] = b"12345and more";
            assert_eq!(compared((b"12345", is_device), (copy, true)), Compared::Same(5));
            assert_eq!(compared((b"12335", is_device), (copy, true)), Compared::Other(5));
            assert_eq!(compared((copy, is_device), (b"1", true)), other_length(1, 13));
            assert_eq!(compared((b"12345", is_device), (copy, false)), other_length(13, 5));
            assert_eq!(compared((b"12345", is_device), (b"12345", false)), Compared::Same(5));
        }
    }

    #[test]
    fn what_does_not_tell_its_length_is_read_to_its_end() {
        let open = |path: &Path| {
            let file = open_to_read(path).unwrap();
            Contents::open((&file, &file.metadata().unwrap())).unwrap()
        };
        let source = Path::new("/proc/sys/kernel/ostype");
        let mut text = std::fs::read(source).unwrap();
        let (_copy, copy) = contents(&text, false);
        text.push(b'x');
        let (_longer, longer) = contents(&text, false);
        let compared = |one: &Contents, other: &Contents| one.compare(other, &Progress::default());
        let len = text.len() as u64 - 1;
        assert_eq!(compared(&open(source), &copy).unwrap(), Compared::Same(len));
        assert_eq!(compared(&copy, &open(source)).unwrap(), Compared::Same(len));
        assert_eq!(compared(&open(source), &longer).unwrap(), Compared::Other(len + 1));
        let (_empty, empty) = contents(b"", false);
        assert_eq!(compared(&open(source), &empty).unwrap(), Compared::Other(0));
    }
}
