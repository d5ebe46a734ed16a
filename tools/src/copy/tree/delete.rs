//! `--delete`: removing what the source does not have.
//!
//! Only in directories whose source was read without an error, and never through a link or into
//! what is mounted there.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::fstat;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::directory::{Id, open_directory};
use super::list::{self, Entry};

/// What was removed, and what was not.
#[derive(Debug, Default)]
pub struct Deleted {
    /// How many names, with all below them.
    pub removed: u64,
    /// Which names stay, and why.
    pub failures: Vec<(CString, io::Error)>,
}

/// Removes from `directory` what `keep` does not want, given a path in it and whether that is a directory. What it wants
/// stays further down too, with the directories that it is in, and a directory that `is_source` knows, whatever leads
/// there.
pub fn extra(
    directory: &OwnedFd,
    keep: impl Fn(&[u8], bool) -> bool,
    is_source: impl Fn(Id) -> bool,
) -> Deleted {
    let mut deleted = Deleted::default();
    let entries = match list::list(directory) {
        Ok(entries) => entries,
        Err(error) => {
            deleted.failures.push((c".".to_owned(), error));
            return deleted;
        }
    };
    for entry in entries {
        let name = entry.name.clone();
        match remove(directory, entry, (&keep, &is_source), &mut deleted.removed) {
            Ok(()) => {}
            Err(error) => deleted.failures.push((name, error)),
        }
    }
    deleted
}

/// So many of the directories that are being emptied, one in the other, stay open. There may be more of them than
/// descriptors.
const OPEN: usize = 4;

/// A directory that is being emptied.
#[derive(Debug)]
struct Level {
    place: Place,
    /// Its name in the one before it.
    name: CString,
    /// How much of the path is its own.
    path_len: usize,
    /// What is still to be removed.
    left: std::vec::IntoIter<Entry>,
    /// Whether all that was in it so far is gone, and nothing kept.
    gone: bool,
}

#[derive(Debug)]
enum Place {
    Open(OwnedFd),
    /// Closed for now: which one it was.
    Closed(Id),
}

impl Level {
    fn new(directory: OwnedFd, name: CString, path_len: usize, entries: Vec<Entry>) -> Self {
        let (place, left) = (Place::Open(directory), entries.into_iter());
        Self { place, name, path_len, left, gone: true }
    }

    /// Its descriptor, and if it was closed that of the same directory, by way of what is in it.
    fn open(&mut self, below: Option<&OwnedFd>) -> io::Result<&OwnedFd> {
        if let (Place::Closed(id), Some(below)) = (&self.place, below) {
            let directory = open_directory(below, c"..", false)?;
            if file_id(&directory)? != *id {
                return Err(Errno::ESTALE.into()); // what is in it was moved meanwhile
            }
            self.place = Place::Open(directory);
        }
        match &self.place {
            Place::Open(directory) => Ok(directory),
            Place::Closed(_) => Err(Errno::ESTALE.into()),
        }
    }

    fn close(&mut self) -> io::Result<()> {
        if let Place::Open(directory) = &self.place {
            self.place = Place::Closed(file_id(directory)?);
        }
        Ok(())
    }
}

fn file_id(directory: &OwnedFd) -> io::Result<Id> {
    let stat = fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Removes `entry` of `top` with all below it, but for what is kept.
fn remove(
    top: &OwnedFd,
    entry: Entry,
    (keep, is_source): (&impl Fn(&[u8], bool) -> bool, &impl Fn(Id) -> bool),
    removed: &mut u64,
) -> io::Result<()> {
    let mut path = Vec::new();
    let mut levels = vec![Level::new(top.try_clone()?, c".".to_owned(), 0, vec![entry])];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.left.next() else {
            let Some(done) = levels.pop() else { break };
            let Some(above) = levels.last_mut() else { break };
            let below = match &done.place {
                Place::Open(directory) => Some(directory),
                Place::Closed(_) => None,
            };
            above.gone &= done.gone;
            let directory = above.open(below)?;
            if done.gone {
                unlinkat(directory, &*done.name, UnlinkatFlags::RemoveDir)?;
                *removed += 1;
            }
            continue;
        };
        path.truncate(level.path_len);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(entry.name.to_bytes());
        let directory = level.open(None)?;
        if keep(&path, entry.is_directory(directory, false)) {
            level.gone = false;
        } else if let Some(inner) = unlink_or_open(directory, &entry.name)? {
            if is_source(file_id(&inner)?) {
                return Err(io::Error::other("the source lies there"));
            }
            let entries = list::list(&inner)?;
            levels.push(Level::new(inner, entry.name, path.len(), entries));
            if let Some(outer) = levels.len().checked_sub(OPEN + 1) {
                levels[outer].close()?;
            }
        } else {
            *removed += 1;
        }
    }
    Ok(())
}

/// Removes what is no directory; a directory it opens.
fn unlink_or_open(directory: &OwnedFd, name: &CStr) -> io::Result<Option<OwnedFd>> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(None),
        // POSIX says EPERM of directories, Linux EISDIR.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    match openat2(directory, name, OpenHow::new().flags(flags).resolve(resolve)) {
        Ok(inner) => Ok(Some(inner)),
        Err(Errno::EXDEV) => {
            Err(io::Error::other("something is mounted there: unmount it, or leave it"))
        }
        // It was no directory, so it was the unlinking that is not permitted.
        Err(Errno::ENOTDIR | Errno::ELOOP) => Err(Errno::EPERM.into()),
        Err(errno) => Err(errno.into()),
    }
}
