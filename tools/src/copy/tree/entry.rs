//! One name in a directory, whatever it stands for.

use std::ffi::CStr;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::Mode;

use super::context::{Context, Work};
use super::directory::{Directory, Id, Side, id_of};
use super::line::Opened;
use super::links::{Claim, Made};
use super::list::Entry;
use super::sys;
use super::team::Role;
use crate::copy::engine::CopyError;
use crate::copy::error::FileError;
use crate::copy::manifest;
use crate::copy::plan::SMALL_BYTES;
use crate::copy::probe::length_is_a_guess;

/// Where an entry is, open on both sides.
#[derive(Clone, Copy, Debug)]
pub struct Spot<'a> {
    /// The directory.
    pub directory: &'a Arc<Directory>,
    /// The directory in the source.
    pub source: &'a OwnedFd,
    /// The directory in the target.
    pub target: &'a OwnedFd,
    /// The name in it.
    pub entry: &'a Entry,
    /// Whether its source is open and was seen to have no extended attributes.
    pub is_bare: bool,
}

impl<'a> Spot<'a> {
    /// Of which nothing is known.
    pub fn new(
        directory: &'a Arc<Directory>,
        source: &'a OwnedFd,
        target: &'a OwnedFd,
        entry: &'a Entry,
    ) -> Self {
        Self { directory, source, target, entry, is_bare: false }
    }

    /// The path of the source, for messages.
    pub fn source_path(&self) -> std::path::PathBuf {
        self.directory.path_of(Side::Source, &self.entry.name)
    }

    /// The path of the target, for messages.
    pub fn target_path(&self) -> std::path::PathBuf {
        self.directory.path_of(Side::Target, self.entry.target())
    }

    /// An error about the source.
    pub fn source_error(&self, operation: &'static str, cause: impl Into<io::Error>) -> FileError {
        FileError::Source { path: self.source_path(), operation, cause: cause.into() }
    }

    /// An error about the target.
    pub fn target_error(&self, operation: &'static str, cause: impl Into<io::Error>) -> FileError {
        FileError::target(&self.target_path(), operation, cause)
    }
}

/// What became of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Became {
    /// The target is a copy, of this device and inode where that was looked at.
    Copied(Option<Id>),
    /// The target was left as it is.
    Left,
}

/// Opens `name` without reading it or waiting for anybody, to see what it is.
///
/// # Errors
/// What opening and `statx(2)` say.
pub fn look(at: impl AsFd, name: &CStr, follow: bool) -> io::Result<(File, Metadata)> {
    let nofollow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    let file =
        File::from(openat(at, name, OFlag::O_PATH | OFlag::O_CLOEXEC | nofollow, Mode::empty())?);
    let metadata = file.metadata()?;
    Ok((file, metadata))
}

/// Where the system shows a descriptor: a way to the very file that is open.
pub fn by_descriptor(fd: &impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

impl Context<'_> {
    /// Copies entries of one directory.
    pub fn batch(&self, directory: &Arc<Directory>, entries: Vec<Entry>) {
        let sides = directory
            .fd(Side::Source, &self.shelf)
            .and_then(|source| Ok((source, directory.fd(Side::Target, &self.shelf)?)));
        let (source, target) = match sides {
            Ok(sides) => sides,
            Err(error) => return self.failed(directory, &error),
        };
        if self.is_one_at_a_time(directory) {
            return self.line_up(directory, &source, &target, entries);
        }
        for entry in &entries {
            if self.is_cancelled() {
                return;
            }
            let spot = Spot::new(directory, &source, &target, entry);
            if let Err(error) = self.entry(spot, false) {
                self.failed(directory, &error);
            }
        }
    }

    /// Copies one entry; big files only if `heavy`, otherwise they are put where they get done.
    ///
    /// # Errors
    /// Why not.
    pub fn entry(&self, spot: Spot<'_>, heavy: bool) -> Result<(), FileError> {
        if self.is_for_members(spot) {
            return Ok(());
        }
        match spot.entry.kind {
            Some(Type::File) => self.file(spot, heavy),
            _ => self.unknown(spot, heavy),
        }
    }

    /// What should be a regular file; it is opened at once.
    fn file(&self, spot: Spot<'_>, heavy: bool) -> Result<(), FileError> {
        match self.open(spot)? {
            Some((file, metadata)) => self.known(spot, file, metadata, heavy),
            None => self.unknown(spot, heavy),
        }
    }

    /// Opens what the first thread will go on with, as far as that can be done before.
    pub fn open_ahead(&self, spot: Spot<'_>) -> Opened {
        if self.is_cancelled() || spot.entry.kind != Some(Type::File) || self.is_for_members(spot) {
            return Opened::Untried;
        }
        match self.open(spot) {
            Ok(Some((file, metadata))) => {
                let is_bare = self.settings.preserve && !sys::has_xattrs(&file);
                Opened::File { file, metadata, is_bare }
            }
            Ok(None) => Opened::Unknown,
            Err(error) => Opened::Failed(error),
        }
    }

    /// Copies an entry of which that is known.
    ///
    /// # Errors
    /// Why not.
    pub fn go_on(&self, spot: Spot<'_>, opened: Opened) -> Result<(), FileError> {
        match opened {
            Opened::File { file, metadata, is_bare } => {
                self.known(Spot { is_bare, ..spot }, file, metadata, false)
            }
            Opened::Unknown => self.unknown(spot, false),
            Opened::Untried => self.entry(spot, false),
            Opened::Failed(error) => Err(error),
        }
    }

    /// Opens what should be a regular file; `None` where it is none.
    fn open(&self, spot: Spot<'_>) -> Result<Option<(File, Metadata)>, FileError> {
        let follow = self.follows(spot.entry);
        let nofollow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        // Should it be a FIFO by now, nobody waits for its writer.
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(spot.source, &*spot.entry.name, flags | nofollow, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ELOOP | Errno::ENXIO) => return Ok(None),
            Err(errno) => return Err(cannot_open(spot, errno)),
        };
        let metadata = file.metadata().map_err(|cause| spot.source_error("stat", cause))?;
        Ok(metadata.is_file().then_some((file, metadata)))
    }

    /// What may be anything: it is looked at first.
    fn unknown(&self, spot: Spot<'_>, heavy: bool) -> Result<(), FileError> {
        let follow = self.follows(spot.entry);
        let (place, metadata) = look(spot.source, &spot.entry.name, follow)
            .map_err(|cause| spot.source_error("find", cause))?;
        if metadata.is_dir() {
            if !self.wishes.recursive {
                return Err(FileError::SourceIsDirectory(spot.source_path()));
            }
            spot.directory.hold();
            self.pool.push([Work::Enter(Arc::clone(spot.directory), spot.entry.clone())]);
            return Ok(());
        }
        if metadata.is_file() {
            let file = File::open(by_descriptor(&place))
                .map_err(|cause| spot.source_error("open", cause))?;
            return self.known(spot, file, metadata, heavy);
        }
        self.known(spot, place, metadata, heavy)
    }

    /// What is no directory, open: for reading if it is a regular file, as a place otherwise.
    fn known(
        &self,
        spot: Spot<'_>,
        file: File,
        metadata: Metadata,
        heavy: bool,
    ) -> Result<(), FileError> {
        let has_links = self.wishes.links && metadata.nlink() > 1;
        let role = self.role(spot, &file, &metadata, has_links)?;
        if let Role::Nothing = role {
            return Ok(());
        }
        if metadata.is_file() && metadata.len() >= SMALL_BYTES && !heavy {
            spot.directory.hold();
            self.pool.push_heavy(Work::Big(Arc::clone(spot.directory), spot.entry.clone()));
            return Ok(());
        }
        if let Role::Part(share, divided) = role {
            return self.part((share, divided), spot, file, metadata);
        }
        let again = self.to_list(&file, &metadata);
        if !has_links {
            let result = self.copy(spot, file, metadata, false);
            self.progress.file_done();
            return self.list(spot, again, result?);
        }
        let id = id_of(&metadata);
        match self.links.claim(id, spot.directory, spot.entry) {
            Claim::Wait => Ok(()),
            Claim::Link(made) => {
                let link = || self.hard_link(spot, &made, &metadata);
                let became = match self.with_rights((spot.directory, spot.target), link)? {
                    Some(became) => became,
                    None => self.copy(spot, file, metadata, false)?,
                };
                self.progress.file_done();
                self.list(spot, again, became)
            }
            Claim::Copy => {
                let result = self.copy(spot, file, metadata, true);
                self.progress.file_done();
                let made = match &result {
                    Ok(Became::Copied(Some(made))) => Some(Made {
                        directory: Arc::clone(spot.directory),
                        name: spot.entry.target().to_owned(),
                        id: *made,
                    }),
                    _ => None,
                };
                let waiting = self.links.settle(id, made);
                // They hold their directories already.
                self.pool.push(
                    waiting
                        .into_iter()
                        .map(|(directory, entry)| Work::Batch(directory, vec![entry])),
                );
                self.list(spot, again, result?)
            }
        }
    }

    /// What is needed to put a regular file on the list of checksums, if there is one.
    fn to_list(&self, file: &File, metadata: &Metadata) -> Option<(File, Metadata)> {
        if self.manifest.is_none() || !metadata.is_file() {
            return None;
        }
        Some((file.try_clone().ok()?, metadata.clone()))
    }

    /// Puts a copy on the list of checksums, by the checksum of its source, or by its own where the source does not tell
    /// its length.
    fn list(
        &self,
        spot: Spot<'_>,
        source: Option<(File, Metadata)>,
        became: Became,
    ) -> Result<(), FileError> {
        let (Some(manifest), Some((file, metadata)), Became::Copied(_)) =
            (&self.manifest, source, became)
        else {
            return Ok(());
        };
        let hash = if length_is_a_guess(&file) {
            let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let copy = openat(spot.target, spot.entry.target(), flags, Mode::empty());
            let copy = copy.map_err(|errno| spot.target_error("open, for its checksum,", errno))?;
            manifest::hash_copy(&File::from(copy), &spot.target_path(), &self.progress)?
        } else {
            set_blocking(&file).map_err(|errno| spot.source_error("read", errno))?;
            manifest::hash_source(&file, &metadata, &spot.source_path(), &self.progress)?
        };
        manifest.add(spot.target_path(), hash);
        Ok(())
    }

    /// Whether this run copies it, and not another shard. All names of a file have the same shard.
    pub fn is_ours(&self, spot: Spot<'_>, metadata: &Metadata, has_links: bool) -> bool {
        let Some(shard) = self.wishes.shard else { return true };
        if has_links {
            shard.takes(&metadata.ino().to_le_bytes())
        } else {
            shard.takes(&spot.directory.relative(&spot.entry.name))
        }
    }

    /// Makes a copy; `identify` asks for the device and inode of it.
    fn copy(
        &self,
        spot: Spot<'_>,
        file: File,
        metadata: Metadata,
        identify: bool,
    ) -> Result<Became, FileError> {
        if self.is_cancelled() {
            let (error, advice) = (CopyError::Cancelled, String::new());
            return Err(FileError::Copy { error, advice });
        }
        if metadata.is_file() {
            if self.may_lose_rights(spot.directory) {
                return self.with_rights((spot.directory, spot.target), || {
                    let again =
                        file.try_clone().map_err(|cause| spot.source_error("open", cause))?;
                    self.regular(spot, again, metadata.clone(), identify)
                });
            }
            self.regular(spot, file, metadata, identify)
        } else {
            self.with_rights((spot.directory, spot.target), || self.special(spot, &file, &metadata))
        }
    }
}

/// A file that is not there any more was there when its directory was read.
fn cannot_open(spot: Spot<'_>, errno: Errno) -> FileError {
    match errno {
        Errno::ENOENT if !spot.entry.root => FileError::Vanished(spot.source_path()),
        _ => spot.source_error("open", errno),
    }
}

/// Reading and writing wait for the device again: O_NONBLOCK was for opening.
///
/// # Errors
/// What `fcntl(2)` says.
pub fn set_blocking(file: &File) -> nix::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(file, FcntlArg::F_GETFL)?);
    fcntl(file, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).map(|_| ())
}
