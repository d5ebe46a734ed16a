//! `--delete`: removing what the source does not have.
//!
//! Only in directories whose source was read without an error, and never through a link or into
//! what is mounted there.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

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
/// stays further down too, with the directories that it is in.
pub fn extra(directory: &OwnedFd, keep: impl Fn(&[u8], bool) -> bool) -> Deleted {
    let mut deleted = Deleted::default();
    let entries = match list::list(directory) {
        Ok(entries) => entries,
        Err(error) => {
            deleted.failures.push((c".".to_owned(), error));
            return deleted;
        }
    };
    for entry in entries {
        let (mut path, name) = (Vec::new(), entry.name.clone());
        match remove(directory, &entry, &mut path, &keep, &mut deleted.removed) {
            Ok(_) => {}
            Err(error) => deleted.failures.push((name, error)),
        }
    }
    deleted
}

/// Whether it is gone, and not kept; `path` is that of the directory, and is as it was afterwards.
fn remove(
    directory: &OwnedFd,
    entry: &Entry,
    path: &mut Vec<u8>,
    keep: &impl Fn(&[u8], bool) -> bool,
    removed: &mut u64,
) -> io::Result<bool> {
    let len = path.len();
    if len > 0 {
        path.push(b'/');
    }
    path.extend(entry.name.to_bytes());
    let gone = match keep(path, entry.is_directory(directory, false)) {
        true => Ok(false),
        false => remove_all(directory, &entry.name, path, keep, removed),
    };
    path.truncate(len);
    gone
}

fn remove_all(
    directory: &OwnedFd,
    name: &CStr,
    path: &mut Vec<u8>,
    keep: &impl Fn(&[u8], bool) -> bool,
    removed: &mut u64,
) -> io::Result<bool> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {
            *removed += 1;
            return Ok(true);
        }
        // POSIX says EPERM of directories, Linux EISDIR.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let resolve = ResolveFlag::RESOLVE_BENEATH
        | ResolveFlag::RESOLVE_NO_SYMLINKS
        | ResolveFlag::RESOLVE_NO_XDEV;
    let inner = match openat2(directory, name, OpenHow::new().flags(flags).resolve(resolve)) {
        Ok(inner) => inner,
        Err(Errno::EXDEV) => {
            return Err(io::Error::other("something is mounted there: unmount it, or leave it"));
        }
        // It was no directory, so it was the unlinking that is not permitted.
        Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(Errno::EPERM.into()),
        Err(errno) => return Err(errno.into()),
    };
    let mut all = true;
    for entry in list::list(&inner)? {
        all &= remove(&inner, &entry, path, keep, removed)?;
    }
    if all {
        unlinkat(directory, name, UnlinkatFlags::RemoveDir)?;
        *removed += 1;
    }
    Ok(all)
}
