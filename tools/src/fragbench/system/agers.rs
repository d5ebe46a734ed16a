//! What brings a machine into a bad state.
//!
//! - `files`: small files are written while large ones are read, so that inodes and dentries stand
//!   among pages of files (the experiment of Gorman's and Lameter's).
//! - `movable`: one page is kept in every block of 2 MiB; it could be moved.
//! - `pinned`: the same, and it cannot.
//! - `slab`: names are looked up that do not exist, while a large file is read; what is remembered of
//!   each is slab that nothing but shrinking frees.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use bookend::units::{Bytes, PageSize};
use clap::ValueEnum;
use serde::Serialize;

use super::SystemFailure;
use super::cache::CachedFile;
use super::strewn::Strewn;
use crate::cli::interrupt::Interrupts;

/// The agers by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AgerName {
    /// Many small files among large ones.
    Files,
    /// A page in every block that could be moved.
    Movable,
    /// A page in every block that cannot.
    Pinned,
    /// Names that do not exist.
    Slab,
}

impl AgerName {
    /// Pages of 2 MiB that a way is asked for, where nobody says: most of memory, which after `slab`
    /// cannot be had without shrinking it; and of strewn memory as much as is free.
    pub fn wanted(self, total: Bytes) -> u64 {
        let percent = match self {
            Self::Files | Self::Slab => 80,
            Self::Movable | Self::Pinned => 50,
        };
        total.get() / 100 * percent / PageSize::MIB2.bytes().get()
    }

    /// In words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Files => "small files written among large reads",
            Self::Movable => "one movable page kept in each block",
            Self::Pinned => "one pinned page kept in each block",
            Self::Slab => "names looked up that do not exist",
        }
    }
}

/// A directory that goes with everything in it.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Scratch {
    fn new(parent: &Path) -> Result<Self, SystemFailure> {
        let path = parent.join(format!("fragbench-{}", std::process::id()));
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(SystemFailure::File { path, what: "cannot be made", source }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An ager with what it holds.
#[derive(Debug)]
pub struct Ager {
    name: AgerName,
    small: u64,
    /// As large as memory.
    large: CachedFile,
    strewn: Option<Strewn>,
    directory: Scratch,
}

/// Small files a directory.
const A_DIRECTORY: u64 = 1000;
/// Bytes of a small file.
const SMALL: usize = 4096;
/// Names that are looked up for each small file that would have been written: a dentry is a tenth
/// of what such a file leaves in memory.
const LOOKUPS: u64 = 40;

impl Ager {
    /// Makes what is made once.
    ///
    /// # Errors
    /// Files cannot be made.
    pub fn new(
        name: AgerName,
        parent: &Path,
        small: u64,
        total: Bytes,
        interrupts: Interrupts,
    ) -> Result<Self, SystemFailure> {
        let directory = Scratch::new(parent)?;
        let large = CachedFile::new(&directory.0, "large", total)?;
        let this = Self { name, small, large, strewn: None, directory };
        if name == AgerName::Files {
            this.each_directory(interrupts, |path, files| {
                fs::create_dir(path)?;
                files.into_iter().try_for_each(|n| fs::write(path.join(n.to_string()), [0; SMALL]))
            })?;
        }
        Ok(this)
    }

    /// Where its files are.
    pub fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// Lets go of the memory it holds.
    pub fn forget(&mut self) {
        self.strewn = None;
    }

    /// Ages the machine, whose caches have been dropped.
    ///
    /// # Errors
    /// Files or memory cannot be had, or a signal came.
    pub fn age(&mut self, interrupts: Interrupts) -> Result<(), SystemFailure> {
        match self.name {
            AgerName::Files => self.each_directory(interrupts, |path, files| {
                files.into_iter().try_for_each(|n| overwrite(&path.join(n.to_string())))
            }),
            AgerName::Slab => self.each_directory(interrupts, |path, files| {
                let names = files.start * LOOKUPS..files.end * LOOKUPS;
                names.into_iter().try_for_each(|n| self.look_up(path, n))
            }),
            AgerName::Movable | AgerName::Pinned => {
                let pinned = self.name == AgerName::Pinned;
                self.strewn = Some(Strewn::new(pinned, interrupts)?);
                Ok(())
            }
        }
    }

    /// Works on the small files directory by directory, and reads a part of the large one after each
    /// until all of both is done.
    fn each_directory(
        &self,
        interrupts: Interrupts,
        mut work: impl FnMut(&Path, std::ops::Range<u64>) -> io::Result<()>,
    ) -> Result<(), SystemFailure> {
        let directories = self.small.div_ceil(A_DIRECTORY).max(1);
        let part = self.large.size().get().div_ceil(directories);
        for number in 0..directories {
            interrupts.check()?;
            let path = self.directory.0.join(number.to_string());
            let first = number * A_DIRECTORY;
            let files = first..(first + A_DIRECTORY).min(self.small);
            work(&path, files).map_err(|source| SystemFailure::File {
                path: path.clone(),
                what: "cannot be filled with small files",
                source,
            })?;
            self.large.read_range(number * part..(number + 1) * part, interrupts)?;
        }
        Ok(())
    }

    /// Looks a name up that does not exist; the kernel remembers that it does not.
    fn look_up(&self, path: &Path, number: u64) -> io::Result<()> {
        let directory = path.parent().unwrap_or(path);
        match fs::symlink_metadata(directory.join(format!("no-such-file-{number}"))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

/// Writes a file without cutting it short first: the disk's room for it stays, which some disks
/// would be told of one by one.
fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path)?;
    io::Write::write_all(&mut file, &[1; SMALL])
}
