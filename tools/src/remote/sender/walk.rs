//! Going through an operand: everything in it is opened by one name in a directory that is open, and
//! told to the receiver in order.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::fcntl::{OFlag, readlinkat};

use super::pieces::Outgoing;
use super::{OPEN_MAX, Operand, Sender};
use crate::copy::engine::Sparse;
use crate::copy::error::FileError;
use crate::copy::holes;
use crate::copy::journal::Identity;
use crate::copy::source::device_len;
use crate::copy::sys::begin_writing_out;
use crate::copy::tree::directory::{Id, id_of};
use crate::copy::tree::entry::{by_descriptor, set_blocking};
use crate::copy::tree::list::{self, Entry};
use crate::copy::tree::operands::split;
use crate::copy::tree::small::has_holes;
use crate::copy::tree::wishes::Follow;
use crate::copy::unfinished::RESUMABLE_BYTES;
use crate::remote::attributes::{self, Carrier};
use crate::remote::direct::Direct;
use crate::remote::protocol::{self, Blob, Message, Name, PathText, SMALL_MAX};
use crate::remote::session::{Over, lock, wait};

/// Directories in each other: both ends keep each of them open.
pub const DEPTH_MAX: usize = 1000;
/// Files with several names that the receiver keeps in mind.
pub const LINKS_MAX: usize = 1 << 20;

/// A directory that is being gone through.
pub(super) struct Level {
    directory: OwnedFd,
    pub id: Id,
    entries: std::vec::IntoIter<Entry>,
    /// Whether the receiver was told of everything in it.
    complete: bool,
    path: PathBuf,
    shown: PathBuf,
    relative: Vec<u8>,
}

/// What is known on the way.
#[derive(Default)]
pub(super) struct Walk {
    /// The device of the operand.
    device: u64,
    /// Numbers of the files with several names.
    links: HashMap<Id, u64>,
    /// The directories that the walk is in, from what was named on.
    above: HashMap<Id, PathBuf>,
    /// And how many there are on the way to that.
    pub passed: usize,
}

/// Where something is.
pub(super) struct Spot<'a> {
    pub at: &'a OwnedFd,
    pub name: &'a CStr,
    /// As the receiver is told; none for the operand itself.
    pub told: Option<Name>,
    /// Whether it was named.
    pub named: bool,
    /// What it was listed below, and how: links to what lies in that are followed, where links are.
    pub listed: Option<(&'a OwnedFd, PathBuf)>,
    pub path: PathBuf,
    pub shown: PathBuf,
    /// From what was named on.
    pub relative: Vec<u8>,
}

/// Something failed: with this entry, or altogether.
pub(super) enum Stop {
    Entry(Box<FileError>),
    Over,
}

impl From<Over> for Stop {
    fn from(_: Over) -> Self {
        Self::Over
    }
}

impl Spot<'_> {
    pub fn error(&self, operation: &'static str, cause: impl Into<io::Error>) -> Stop {
        let (path, cause) = (self.path.clone(), cause.into());
        Stop::Entry(Box::new(match cause.raw_os_error() {
            Some(libc::ENOENT) if !self.named => FileError::Vanished(path),
            _ => FileError::Source { path, operation, cause },
        }))
    }
}

impl Sender<'_, '_> {
    /// Sends an operand with everything in it. What fails is told, and the rest is sent.
    pub(super) fn walk(&self, operand: &Operand, walk: &mut Walk) -> Result<(), Over> {
        let (above, name) = split(&operand.path);
        let path = self.root.shown(&operand.path);
        let above = match self.root.directory(&above) {
            Ok(above) => OwnedFd::from(above),
            Err(cause) => {
                self.failed(&FileError::Source { path, operation: "find", cause });
                return Ok(());
            }
        };
        let (shown, relative) = (operand.shown.clone(), Vec::new());
        let spot = Spot {
            at: &above,
            name: &name,
            told: None,
            named: true,
            listed: None,
            path,
            shown,
            relative,
        };
        match self.or_tell(self.entry(&spot, walk))?.flatten() {
            Some(level) => self.go_through(level, walk),
            None => Ok(()),
        }
    }

    /// Sends everything in a directory that the receiver was told of, and leaves it.
    pub(super) fn go_through(&self, level: Level, walk: &mut Walk) -> Result<(), Over> {
        let mut levels = vec![level];
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.entries.next() else {
                walk.above.remove(&level.id);
                self.session.send(&Message::Leave { complete: level.complete })?;
                levels.pop();
                continue;
            };
            let Ok(told) = Name::new(entry.name.to_bytes()) else { continue }; // the system gives names
            let name = OsStr::from_bytes(entry.name.to_bytes());
            let mut relative = level.relative.clone();
            if !relative.is_empty() {
                relative.push(b'/');
            }
            relative.extend_from_slice(entry.name.to_bytes());
            let spot = Spot {
                at: &level.directory,
                name: &entry.name,
                told: Some(told),
                named: false,
                listed: None,
                path: level.path.join(name),
                shown: level.shown.join(name),
                relative,
            };
            match self.or_tell(self.entry(&spot, walk))? {
                Some(inner) => levels.extend(inner),
                None => level.complete = false,
            }
        }
        Ok(())
    }

    /// Tells what failed with one entry.
    pub(super) fn or_tell<T>(&self, result: Result<T, Stop>) -> Result<Option<T>, Over> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Stop::Over) => Err(Over),
            Err(Stop::Entry(error)) => {
                self.failed(&error);
                Ok(None)
            }
        }
    }

    /// Sends what is called `spot`; a directory is to be gone through then.
    pub(super) fn entry(&self, spot: &Spot<'_>, walk: &mut Walk) -> Result<Option<Level>, Stop> {
        let follow = match self.task.wishes.follow {
            Follow::Always => true,
            Follow::Operands => spot.named,
            Follow::Never => false,
        };
        let place = match &spot.listed {
            Some((top, path)) if follow => self.root.look_below(top, path, true),
            _ => self.root.open(spot.at, spot.name, OFlag::O_PATH, follow),
        };
        let place = File::from(place.map_err(|errno| spot.error("find", errno))?);
        let metadata = place.metadata().map_err(|cause| spot.error("stat", cause))?;
        let is_directory = metadata.is_dir();
        let rules = &self.task.wishes.rules;
        if !spot.named && rules.excludes(&spot.relative, is_directory) {
            return Ok(None);
        }
        if is_directory {
            return self.directory(spot, walk, &place);
        }
        if self.task.settings.verbose {
            self.talk.copying(&spot.path, &spot.shown);
        }
        let kind = metadata.file_type();
        if self.link(spot, walk, &metadata)? {
            return Ok(None);
        }
        if kind.is_file() || (kind.is_block_device() && !self.task.has_trees()) {
            self.contents(spot, walk, &place)?;
        } else if self.task.has_trees() || kind.is_symlink() {
            self.special(spot, walk, &place, &metadata)?;
        } else {
            let what = "neither a file nor a directory; -r copies it as what it is";
            let path = spot.path.clone();
            return Err(Stop::Entry(Box::new(FileError::NotReadable { path, what })));
        }
        Ok(None)
    }

    /// An entry with attributes, those that are lost told.
    pub(super) fn described(
        &self,
        spot: &Spot<'_>,
        walk: &mut Walk,
        metadata: &Metadata,
        from: Option<Carrier<'_>>,
    ) -> protocol::Entry {
        let mut lost = Vec::new();
        let from = from.filter(|_| self.task.settings.preserve);
        let attributes = attributes::collect(metadata, from, &mut lost);
        if !lost.is_empty() {
            self.failed(&FileError::Attributes { path: spot.path.clone(), what: lost });
        }
        let several = self.task.wishes.links && metadata.nlink() > 1 && !metadata.is_dir();
        let mut link = 0;
        if several && walk.links.len() < LINKS_MAX {
            link = walk.links.len() as u64 + 1;
            walk.links.insert(id_of(metadata), link);
        }
        protocol::Entry { name: spot.told.clone(), link, attributes }
    }

    /// Another name of a file that was sent. Whether it is one.
    fn link(&self, spot: &Spot<'_>, walk: &Walk, metadata: &Metadata) -> Result<bool, Stop> {
        if !self.task.wishes.links || metadata.nlink() < 2 {
            return Ok(false);
        }
        let Some(&link) = walk.links.get(&id_of(metadata)) else { return Ok(false) };
        let attributes = attributes::collect(metadata, None, &mut Vec::new());
        let entry = protocol::Entry { name: spot.told.clone(), link, attributes };
        self.offered.fetch_add(1, Ordering::Relaxed);
        self.session.send(&Message::Link { entry })?;
        self.session.progress.add(metadata.len());
        self.session.progress.file_done();
        Ok(true)
    }

    fn directory(
        &self,
        spot: &Spot<'_>,
        walk: &mut Walk,
        place: &File,
    ) -> Result<Option<Level>, Stop> {
        if !self.task.wishes.recursive {
            let path = spot.path.clone();
            return Err(Stop::Entry(Box::new(FileError::SourceIsDirectory(path))));
        }
        // By what is open: who may read it may not go into it.
        let mut options = OpenOptions::new();
        let options = options.read(true).custom_flags(libc::O_DIRECTORY);
        let directory = options.open(by_descriptor(place));
        let directory = directory.map_err(|cause| spot.error("open", cause))?;
        let metadata = directory.metadata().map_err(|cause| spot.error("stat", cause))?;
        let id = id_of(&metadata);
        if let Some(again) = walk.above.get(&id) {
            let (path, again) = (spot.path.clone(), again.clone());
            return Err(Stop::Entry(Box::new(FileError::Loop { path, again })));
        }
        if walk.above.len() + walk.passed >= DEPTH_MAX {
            return Err(spot.error("go into", too_deep()));
        }
        if walk.above.is_empty() {
            walk.device = id.0;
        }
        let entry = self.described(spot, walk, &metadata, Some(Carrier::Open(&directory)));
        if self.task.settings.verbose {
            self.talk.copying(&spot.path, &spot.shown);
        }
        self.session.send(&Message::Enter { entry })?;
        let directory = OwnedFd::from(directory);
        let entries = if self.task.wishes.one_file_system && id.0 != walk.device {
            None
        } else {
            let failed = |cause| {
                let path = spot.path.clone();
                self.failed(&FileError::Source { path, operation: "read directory", cause });
            };
            list::list(&directory).map_err(failed).ok()
        };
        walk.above.insert(id, spot.path.clone());
        Ok(Some(Level {
            directory,
            id,
            complete: entries.is_some(),
            entries: entries.unwrap_or_default().into_iter(),
            path: spot.path.clone(),
            shown: spot.shown.clone(),
            relative: spot.relative.clone(),
        }))
    }

    /// What is no file: told in one message.
    fn special(
        &self,
        spot: &Spot<'_>,
        walk: &mut Walk,
        place: &File,
        metadata: &Metadata,
    ) -> Result<(), Stop> {
        let entry = self.described(spot, walk, metadata, Some(Carrier::Place(place)));
        let message = if metadata.is_symlink() {
            let text = readlinkat(place, c"").map_err(|errno| spot.error("read link", errno))?;
            Message::Symlink { entry, text: PathText(text.as_bytes().to_vec()) }
        } else {
            Message::Node { entry, device: metadata.rdev() }
        };
        Ok(self.session.send(&message)?)
    }

    /// A regular file, or a device to be read as one.
    fn contents(&self, spot: &Spot<'_>, walk: &mut Walk, place: &File) -> Result<(), Stop> {
        // The very file that was looked at.
        let file = File::open(by_descriptor(place)).map_err(|cause| spot.error("open", cause))?;
        let metadata = file.metadata().map_err(|cause| spot.error("stat", cause))?;
        set_blocking(&file).map_err(|errno| spot.error("read", errno))?;
        let device = metadata.file_type().is_block_device();
        if device && !self.root.has_devices() {
            let what = "a device, which a server does not read";
            let path = spot.path.clone();
            return Err(Stop::Entry(Box::new(FileError::NotReadable { path, what })));
        }
        let len = if device { device_len(&file) } else { Ok(metadata.len()) };
        let len = len.map_err(|cause| spot.error("find the size of", cause))?;
        let entry =
            self.described(spot, walk, &metadata, (!device).then_some(Carrier::Open(&file)));
        let holes =
            || self.task.settings.tuning.sparse != Sparse::Never && has_holes(&file, &metadata);
        if len > SMALL_MAX as u64 || device || holes() {
            return self.big(spot, entry, file, &metadata, len);
        }
        let mut content = Vec::with_capacity(len as usize);
        // It may have grown; what no longer fits a message would be a big file.
        let read = (&file).take(SMALL_MAX as u64 + 1).read_to_end(&mut content);
        read.map_err(|cause| spot.error("read", cause))?;
        if content.len() > SMALL_MAX {
            return self.big(spot, entry, file, &metadata, len);
        }
        let bytes = content.len() as u64;
        let _ = self.limiter.take(bytes, &self.session.progress); // cancelled: the beat tells
        let sum = self.task.sums.then(|| *blake3::hash(&content).as_bytes());
        self.offered.fetch_add(1, Ordering::Relaxed);
        self.session.send(&Message::Small { entry, content: Blob(content), sum })?;
        self.session.progress.add(bytes);
        self.session.progress.file_done();
        Ok(())
    }

    /// A file whose contents go in pieces, once the receiver is ready.
    fn big(
        &self,
        spot: &Spot<'_>,
        entry: protocol::Entry,
        file: File,
        metadata: &Metadata,
        len: u64,
    ) -> Result<(), Stop> {
        let everything = || std::iter::once(0..len).collect();
        let data = match self.task.settings.tuning.sparse {
            Sparse::Never => Ok(everything()),
            _ if metadata.is_file() => holes::data_ranges(&file, len),
            _ => Ok(everything()),
        };
        let data = data.map_err(|cause| spot.error("find the holes of", cause))?;
        let mut identity = Identity::of(metadata);
        identity.set_len(len); // of a device it is not in the metadata
        if metadata.is_file() && len >= RESUMABLE_BYTES {
            // What is stored through mappings shall change the ctime, if it can: in memory nothing makes it.
            let _ = begin_writing_out(&file);
        }
        let number = self.number();
        let path = spot.path.clone();
        let direct = self.task.rdma.then(|| Direct::to_read(&file, len)).flatten();
        let sums = self.task.sums;
        let outgoing = Outgoing::new(number, (file, direct), metadata, path, len, data, sums);
        let mut files =
            wait(self.session, &self.room, lock(&self.files), |files| files.len() < OPEN_MAX)?;
        files.insert(number, Arc::new(outgoing));
        drop(files);
        let identity = identity.to_bytes();
        self.offered.fetch_add(1, Ordering::Relaxed);
        Ok(self.session.send_now(&Message::File { entry, file: number, identity })?)
    }
}

/// Why a directory is not gone into.
pub(super) fn too_deep() -> io::Error {
    io::Error::other(format!("{DEPTH_MAX} directories lie in each other above it"))
}

/// The path that an operand's copy has in messages.
pub fn shown(host: &str, destination: &Path) -> PathBuf {
    let mut text = std::ffi::OsString::from(host);
    text.push(":");
    text.push(destination);
    PathBuf::from(text)
}
