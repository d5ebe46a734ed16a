//! Regular files: the short way for small ones whose name is free, and an engine for the rest.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::time::Instant;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};

use super::context::{Context, lock};
use super::directory::{file_of, id_of};
use super::entry::{Became, Spot, look, set_blocking};
use super::small::Tried;
use crate::copy::attributes;
use crate::copy::compare;
use crate::copy::engine::Progress;
use crate::copy::error::FileError;
use crate::copy::file::Ended;
use crate::copy::fill::Fill;
use crate::copy::report::{FileReport, Outcome};
use crate::copy::request::Conflict;
use crate::copy::source::Source;
use crate::copy::target::{self, Target};
use crate::copy::unfinished;

/// What stands where a copy is to go.
#[derive(Debug)]
pub enum Standing {
    /// Nothing.
    Nothing,
    /// Something to replace: a regular file, whose attributes the copy may take over, or not.
    Replaceable(Option<Metadata>),
    /// Something that stays, for this reason.
    Stays(&'static str),
    /// A regular file with the same contents, which stays and may need other attributes.
    Same(File, Metadata),
}

/// What is left to do about a regular file.
#[derive(Debug)]
pub enum Way {
    /// Nothing: it became this.
    Done(Became),
    /// It is copied, perhaps in place of a file with attributes of its own.
    Copy(Option<Metadata>),
}

impl Context<'_> {
    /// Copies a regular file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn regular(
        &self,
        spot: Spot<'_>,
        file: File,
        metadata: Metadata,
        identify: bool,
    ) -> Result<Became, FileError> {
        if self.is_simple(&file, &metadata) {
            match self.small(spot, &file, &metadata, identify)? {
                Tried::Made(id) => return Ok(Became::Copied(id)),
                Tried::Taken | Tried::Odd => {}
            }
        }
        set_blocking(&file).map_err(|errno| spot.source_error("read", errno))?;
        match self.way(spot, &file, &metadata)? {
            Way::Done(became) => Ok(became),
            Way::Copy(old) => self.by_engine(spot, file, metadata, old),
        }
    }

    /// What is left to do about a regular file, after a look at what has its name.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn way(&self, spot: Spot<'_>, file: &File, metadata: &Metadata) -> Result<Way, FileError> {
        match self.standing(spot, metadata, Some(file))? {
            Standing::Stays(_) => {
                self.leave(metadata);
                Ok(Way::Done(Became::Left))
            }
            Standing::Same(target, there) => {
                self.leave(metadata);
                let lost = match self.settings.preserve {
                    true => attributes::preserve(&target, file, metadata),
                    false => Vec::new(),
                };
                self.tell_lost(spot, lost);
                Ok(Way::Done(Became::Copied(Some(id_of(&there)))))
            }
            Standing::Nothing => Ok(Way::Copy(None)),
            Standing::Replaceable(old) => Ok(Way::Copy(old)),
        }
    }

    /// Tells which attributes a file has lost, if any. It is there: it goes on the list of checksums, and its other
    /// names are linked to it.
    pub fn tell_lost(&self, spot: Spot<'_>, lost: Vec<String>) {
        if !lost.is_empty() {
            let path = spot.target_path();
            self.failed(spot.directory, &FileError::Attributes { path, what: lost });
        }
    }

    /// Counts a file that was left as it was; its bytes count as passed.
    fn leave(&self, metadata: &Metadata) {
        self.tally.left.add(1);
        self.progress.add(metadata.len());
    }

    /// Copies by an engine to a file that is staged, or written where it is.
    fn by_engine(
        &self,
        spot: Spot<'_>,
        file: File,
        metadata: Metadata,
        old: Option<Metadata>,
    ) -> Result<Became, FileError> {
        self.announce(spot.directory, spot.entry);
        let started = Instant::now();
        let mode = attributes::new_mode(Some(&metadata));
        let source = Source::opened(file, metadata, spot.source_path())?;
        if self.settings.resume {
            source.settle()?;
        }
        let target = match old {
            Some(_) if self.settings.in_place => self.in_place(spot)?,
            _ => {
                let directory = file_of(spot.target)
                    .map_err(|cause| spot.target_error("open the directory of", cause))?;
                let name = OsStr::from_bytes(spot.entry.target().to_bytes());
                let (path, preserve) = (spot.target_path(), self.settings.preserve);
                // Who is one of several may go on with what another machine began.
                let anywhere = self.team.is_some();
                let resumed = target::resumed(Some(&source.metadata), self.settings, anywhere)
                    .filter(|_| !unfinished::has_such(spot.source, spot.target, name));
                Target::stage_in(directory, name, path, old, mode, preserve, resumed)?
            }
        };
        let progress = Progress::part_of(&self.progress);
        let fill =
            Fill { settings: self.settings, progress: &progress, monitor: None, fsync: false };
        let filled = fill.run(&source, target);
        if filled.is_err() {
            progress.reset(); // none of it is there
        }
        let filled = filled?;
        let made = filled.made;
        if let (Some(files), Some(id)) = (&self.made, made) {
            lock(files).insert(id);
        }
        let (ended, lost) = filled.and_lost();
        if let Some(error) = lost {
            self.failed(spot.directory, &error);
        }
        match ended {
            Ended::Left(_) => self.tally.left.add(1),
            Ended::Copied(copied) => {
                self.tally.files.add(1);
                self.tally.by_engine.add(1);
                self.tally.bytes.add(copied.bytes);
                self.tally.resumed.add(copied.resumed.unwrap_or(0));
                self.talk.explain(&FileReport {
                    source: spot.source_path(),
                    target: spot.target_path(),
                    outcome: Outcome::Copied(copied),
                    time: started.elapsed(),
                });
            }
        }
        Ok(Became::Copied(made))
    }

    /// Opens an existing regular file to write it where it is.
    fn in_place(&self, spot: Spot<'_>) -> Result<Target, FileError> {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let failed = |errno: Errno| spot.target_error("open", errno);
        let file = openat(spot.target, spot.entry.target(), flags, Mode::empty());
        let file = File::from(file.map_err(failed)?);
        let metadata = file.metadata().map_err(|cause| spot.target_error("stat", cause))?;
        if !metadata.is_file() {
            return Err(failed(Errno::EINVAL)); // it was exchanged
        }
        set_blocking(&file).map_err(failed)?;
        file.set_len(0).map_err(|cause| spot.target_error("truncate", cause))?;
        Ok(Target::regular(file, spot.target_path()))
    }

    /// Finds what stands in the way of a copy of what `metadata` is about, and whether it goes.
    ///
    /// # Errors
    /// Where it must not be replaced.
    pub fn standing(
        &self,
        spot: Spot<'_>,
        metadata: &Metadata,
        contents: Option<&File>,
    ) -> Result<Standing, FileError> {
        let name = spot.entry.target();
        let there = match look(spot.target, name, false) {
            Ok((_, there)) => there,
            Err(cause) if cause.raw_os_error() == Some(libc::ENOENT) => {
                return Ok(Standing::Nothing);
            }
            Err(cause) => return Err(spot.target_error("look at", cause)),
        };
        let ends = || (spot.source_path(), spot.target_path());
        if there.is_dir() {
            return Err(FileError::DirectoryInTheWay(spot.target_path()));
        }
        // A link in the place of what it leads to would lead to itself.
        let leads_there = || {
            metadata.is_symlink()
                && look(spot.source, &spot.entry.name, true)
                    .is_ok_and(|(_, end)| id_of(&end) == id_of(&there))
        };
        if id_of(&there) == id_of(metadata) || (!there.is_symlink() && leads_there()) {
            let (source_path, target) = ends();
            return Err(FileError::SameFile { source_path, target });
        }
        // Below operands the later one replaces what is of an earlier one.
        let is_made = || self.made.as_ref().is_some_and(|made| lock(made).contains(&id_of(&there)));
        if spot.entry.root && is_made() {
            let (source_path, target) = ends();
            return Err(FileError::JustCreated { source_path, target });
        }
        let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        match self.settings.conflict {
            Conflict::Leave => return Ok(Standing::Stays("it exists")),
            Conflict::ReplaceOlder if time(metadata) <= time(&there) => {
                return Ok(Standing::Stays("it is not older than the source"));
            }
            _ => {}
        }
        let device = there.file_type().is_block_device() || there.file_type().is_char_device();
        if device && metadata.is_file() {
            return Err(FileError::DeviceInTheWay(spot.target_path()));
        }
        if !there.is_file() {
            return Ok(Standing::Replaceable(None));
        }
        if let Some(contents) = contents
            && there.len() == metadata.len()
            && let Some(same) = self.same(spot, contents, metadata, &there)?
        {
            return Ok(Standing::Same(same, there));
        }
        let access = faccessat(spot.target, name, AccessFlags::W_OK, AtFlags::AT_EACCESS);
        match access {
            Err(Errno::EACCES | Errno::EPERM) if !self.settings.force => {
                let mode = there.mode() & 0o7777;
                return Err(FileError::Unwritable { path: spot.target_path(), mode });
            }
            _ => {} // replacing it, or a later call, will tell
        }
        Ok(Standing::Replaceable(Some(there)))
    }

    /// Whether the target of the same length is a copy already, as far as the user wants to know:
    /// by its contents (`--checksum`), or with `--resume` by its time, where times are preserved
    /// and set last.
    fn same(
        &self,
        spot: Spot<'_>,
        source: &File,
        metadata: &Metadata,
        there: &Metadata,
    ) -> Result<Option<File>, FileError> {
        let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        let by_time = self.settings.resume && self.settings.preserve;
        let by_contents = self.settings.checksum || (self.settings.resume && !by_time);
        let same_time = by_time && time(metadata) == time(there);
        if !by_contents && !same_time {
            return Ok(None);
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let Ok(target) = openat(spot.target.as_fd(), spot.entry.target(), flags, Mode::empty())
        else {
            return Ok(None); // what cannot be read is replaced, or not, by the usual rules
        };
        let target = File::from(target);
        if !target.metadata().is_ok_and(|now| id_of(&now) == id_of(there)) {
            return Ok(None);
        }
        if by_contents {
            let same = compare::same_contents(source, &target, &self.progress);
            if !same.map_err(|error| error.of(spot.source_path(), spot.target_path()))? {
                return Ok(None);
            }
        }
        Ok(Some(target))
    }
}
