//! Directories that several runs fill at a time (`--shard`, `mpirun`): whoever is through with one gives it the rights that
//! the source has, which may be fewer than the others need to go on. They take them again.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{Mode, fchmod, fstat};
use nix::unistd::geteuid;

use super::context::Context;
use super::directory::Directory;
use crate::copy::engine::CopyError;
use crate::copy::error::FileError;

/// How often rights are taken again for one thing that is made: each of the others is through with a directory once.
const TIMES: usize = 64;

/// What its owner needs to fill a directory.
const NEEDED: u32 = 0o300;

impl Context<'_> {
    /// Whether others fill the same directories.
    pub fn shares(&self) -> bool {
        self.wishes.shard.is_some() || self.team.is_some()
    }

    /// Whether rights to the copy of `directory` may be lost while this run fills it.
    pub fn may_lose_rights(&self, directory: &Directory) -> bool {
        self.shares() && directory.metadata.mode() & NEEDED != NEEDED && !geteuid().is_root()
    }

    /// Does `make`, which makes something in the copy of a directory open as `target`; once more for each time that the
    /// rights to that were lost.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn with_rights<T>(
        &self,
        target: impl AsFd,
        mut make: impl FnMut() -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        for _ in 1..if self.shares() { TIMES } else { 1 } {
            match make() {
                Err(error) if is_denied(&error) && admit(&target).is_ok() => {}
                other => return other,
            }
        }
        make()
    }
}

/// Whether it failed for want of rights to the target.
fn is_denied(error: &FileError) -> bool {
    let cause = match error {
        FileError::Target { cause, .. } => cause,
        FileError::Copy { error: CopyError::Operation { cause, .. }, .. } => cause,
        _ => return false,
    };
    cause.raw_os_error() == Some(libc::EACCES)
}

/// Gives the owner all rights to a directory.
fn admit(directory: impl AsFd) -> io::Result<()> {
    let mode = Mode::from_bits_truncate(fstat(&directory)?.st_mode & 0o7777);
    Ok(fchmod(&directory, mode | Mode::S_IRWXU)?) // it may be another's
}
