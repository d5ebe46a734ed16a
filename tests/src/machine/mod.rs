//! Changing the machine and putting it back.
//!
//! Whoever changes what all processes share (pool sizes, mounts, loop devices, cgroups, caches)
//! holds the [`MachineLock`]; each guard here borrows it, so that one cannot be had without. A
//! guard undoes its change when it is dropped, in a panic too. What a killed run left behind is
//! undone by the next one that takes the lock: everything is made inside, or written down in, the
//! run's [`Scratch`] directory, and a directory whose owner is dead is cleaned.

mod cgroup;
mod filesystem;
mod hugepages;
mod network;
mod scratch;

pub use cgroup::Cgroup;
pub use filesystem::{FsKind, Image, LoopDevice, MountedFs};
pub use hugepages::{HugePages, Setting};
pub use network::{End, Network};
pub use scratch::{Scratch, clean_leftovers, scratch};

use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;

use nix::fcntl::{Flock, FlockArg};

/// Held by whoever changes the machine; one holder at a time, over all processes.
///
/// It is `flock(2)` on [`lock_path`], so that shell scripts can take it too (`flock FILE command`)
/// and that it goes with its holder.
#[derive(Debug)]
pub struct MachineLock {
    _file: Flock<File>,
}

/// The file behind [`MachineLock`].
pub fn lock_path() -> PathBuf {
    std::env::temp_dir().join("bookend-machine.lock")
}

impl MachineLock {
    /// Waits for the lock, then cleans what killed runs have left.
    ///
    /// # Panics
    /// When the lock file cannot be opened.
    pub fn take() -> Self {
        let lock = Self::wait().unwrap_or_else(|error| {
            panic!("{}: cannot lock the machine: {error}", lock_path().display())
        });
        clean_leftovers(&lock);
        lock
    }

    fn wait() -> io::Result<Self> {
        let path = lock_path();
        // Another user's file can be read, and that is enough to lock it.
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .or_else(|_| File::open(&path))?;
        loop {
            match Flock::lock(file, FlockArg::LockExclusive) {
                Ok(held) => return Ok(Self { _file: held }),
                Err((again, nix::errno::Errno::EINTR)) => file = again,
                Err((_, errno)) => return Err(errno.into()),
            }
        }
    }

    /// Empties the page cache of clean pages, after writing back the dirty ones. There is nothing
    /// to undo: caches fill again.
    ///
    /// # Errors
    /// Not root.
    pub fn drop_caches(&self) -> io::Result<()> {
        nix::unistd::sync();
        std::fs::write("/proc/sys/vm/drop_caches", "3")
    }
}
