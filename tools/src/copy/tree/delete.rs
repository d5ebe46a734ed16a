//! `--delete`: removing what the source does not have.
//!
//! Only in directories whose source was read without an error, and never through a link or into
//! what is mounted there.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::list;

/// What was removed, and what was not.
#[derive(Debug, Default)]
pub struct Deleted {
    /// How many names, with all below them.
    pub removed: u64,
    /// Which names stay, and why.
    pub failures: Vec<(CString, io::Error)>,
}

/// Removes from `directory` what `keep` does not want, given a name and whether it is a directory.
pub fn extra(directory: &OwnedFd, keep: impl Fn(&CStr, bool) -> bool) -> Deleted {
    let mut deleted = Deleted::default();
    let entries = match list::list(directory) {
        Ok(entries) => entries,
        Err(error) => {
            deleted.failures.push((c".".to_owned(), error));
            return deleted;
        }
    };
    for entry in entries {
        if keep(&entry.name, entry.kind == Some(Type::Directory)) {
            continue;
        }
        match remove(directory, &entry.name, &mut deleted.removed) {
            Ok(()) => {}
            Err(error) => deleted.failures.push((entry.name, error)),
        }
    }
    deleted
}

fn remove(directory: &OwnedFd, name: &CStr, removed: &mut u64) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {
            *removed += 1;
            return Ok(());
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
    for entry in list::list(&inner)? {
        remove(&inner, &entry.name, removed)?;
    }
    unlinkat(directory, name, UnlinkatFlags::RemoveDir)?;
    *removed += 1;
    Ok(())
}
