//! Directories that several runs fill at a time (`--shard`, `mpirun`): whoever is through with one gives it the rights that
//! the source has, which may be fewer than the others need to go on. They take them again.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

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
        (directory, target): (&Directory, impl AsFd),
        mut make: impl FnMut() -> Result<T, FileError>,
    ) -> Result<T, FileError> {
        for _ in 1..if self.shares() { TIMES } else { 1 } {
            match make() {
                Err(error) if is_denied(&error) && directory.admit(&target).is_ok() => {}
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

impl Directory {
    /// Gives its owner all rights to the copy of it, until it is finished.
    fn admit(&self, copy: impl AsFd) -> nix::Result<()> {
        let mode = fstat(&copy)?.st_mode & 0o7777;
        fchmod(&copy, Mode::from_bits_truncate(mode) | Mode::S_IRWXU)?; // it may be another's
        self.lent.fetch_or(0o700 & !mode, Ordering::Relaxed);
        Ok(())
    }
}
