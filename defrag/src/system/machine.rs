//! What the ladder does to a machine: a trait, so that its decisions can be tried on a simulated one.

use std::time::Duration;

use bookend::units::{Bytes, PageSize};

use super::bounded::Stop;
use super::files::FileError;

/// What an attempt came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Did {
    /// It was carried out.
    Done,
    /// It was carried out in part: there was no more to be had.
    Short,
    /// This machine cannot do it, and why.
    Unsupported(String),
    /// It was cut short.
    Stopped(Stop),
}

/// What the ladder looks at between its steps.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct State {
    /// Free memory beyond what the kernel keeps for itself.
    pub spare: Bytes,
    /// Pages of files.
    pub cache: Bytes,
    /// Slab that can be shrunk.
    pub slab: Bytes,
    /// Base pages moved since boot.
    pub migrated: u64,
}

/// A machine, or a part of one, whose pools are to grow.
pub trait Machine {
    /// Persistent pages of a pool.
    ///
    /// # Errors
    /// [`FileError`] of the pool's files.
    fn pool(&self, page: PageSize) -> Result<u64, FileError>;

    /// Asks for a pool of that size; gives the size it has.
    ///
    /// # Errors
    /// [`FileError`] of the pool's files.
    fn resize(&mut self, page: PageSize, pages: u64) -> Result<u64, FileError>;

    /// Pages that could be had without any work; `None` for gigantic ones, which always take some.
    ///
    /// # Errors
    /// [`FileError`] of the zones.
    fn ready(&self, page: PageSize) -> Result<Option<u64>, FileError>;

    /// What there is now.
    ///
    /// # Errors
    /// [`FileError`] of the files with it.
    fn state(&self) -> Result<State, FileError>;

    /// Has pages moved together.
    ///
    /// # Errors
    /// [`FileError`] of the kernel's file for it.
    fn compact(&mut self) -> Result<Did, FileError>;

    /// Has that much memory given up, the coldest first.
    ///
    /// # Errors
    /// [`FileError`] of the kernel's file for it.
    fn reclaim(&mut self, bytes: Bytes) -> Result<Did, FileError>;

    /// Writes back, and drops slab, or with `all` the page cache too.
    ///
    /// # Errors
    /// [`FileError`] of the kernel's file for it.
    fn drop_caches(&mut self, all: bool) -> Result<Did, FileError>;

    /// Splits so many free pages of size `page` into pages of size `into`.
    ///
    /// # Errors
    /// [`FileError`] of the pool's files.
    fn split(&mut self, page: PageSize, into: PageSize, pages: u64) -> Result<Did, FileError>;

    /// Takes a memory block that could be emptied offline and back; [`Did::Short`] when there is
    /// none left.
    ///
    /// # Errors
    /// [`FileError`] of the memory block's files.
    fn recycle(&mut self) -> Result<Did, FileError>;

    /// Whether it is time to stop.
    fn stopped(&self) -> Option<Stop>;

    /// Time since some moment in the past.
    fn now(&self) -> Duration;
}
