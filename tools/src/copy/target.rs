//! The target of a copy, from before it exists until it has its name.
//!
//! A regular target is staged (see [`super::staging`]): it grows without a name, or under a
//! temporary one, and takes its own when it is complete.
//!
//! Devices, pipes, files without a name and `--in-place` targets are written where they are.

use std::ffi::{CStr, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess};

use super::attributes::{self, OWNER};
use super::engine::{Kind, Side};
use super::error::FileError;
use super::journal::{Header, Identity};
use super::request::{Endpoint, Settings};
use super::source::{device_len, kind_of};
use super::staging::Staging;
use super::sum::Summer;
use super::unfinished::{RESUMABLE_BYTES, Unfinished};

/// The directory that `path` is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Where a copy goes, as found before anything is written.
#[derive(Debug)]
pub enum Place {
    /// Standard output.
    Standard,
    /// A name that is not taken.
    New(PathBuf),
    /// What is there, by its own name: symbolic links are followed.
    Existing(PathBuf, Metadata),
    /// What is open and has no name, or none any more: a link of `/proc` leads there, as `/dev/stdout` does.
    Nameless(PathBuf, Metadata),
}

impl Place {
    /// Finds what `endpoint` names.
    ///
    /// # Errors
    /// [`FileError`] for directories, dangling links and sockets, and where the way is barred.
    pub fn find(endpoint: &Endpoint) -> Result<Self, FileError> {
        let Endpoint::Path(path) = endpoint else { return Ok(Self::Standard) };
        let found = match std::fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return if is_name_of_directory(path) {
                    Err(FileError::NotADirectory(path.clone()))
                } else {
                    Ok(Self::New(path.clone()))
                };
            }
            Err(error) => return Err(FileError::target(path, "look at", error)),
        };
        let place = match found.is_symlink() {
            true => follow(path)?,
            false => Self::Existing(path.clone(), found),
        };
        match place {
            Self::Existing(path, found) | Self::Nameless(path, found) if found.is_dir() => {
                Err(FileError::TargetIsDirectory(path))
            }
            Self::Existing(path, found) | Self::Nameless(path, found)
                if found.file_type().is_socket() =>
            {
                Err(FileError::TargetIsSocket(path))
            }
            place => Ok(place),
        }
    }

    /// What is there, if anything.
    pub fn existing(&self) -> Option<&Metadata> {
        match self {
            Self::Existing(_, metadata) | Self::Nameless(_, metadata) => Some(metadata),
            Self::New(_) | Self::Standard => None,
        }
    }

    /// Whether what is there is written where it is, not replaced, if it is a regular file.
    pub fn is_kept(&self, settings: &Settings) -> bool {
        settings.in_place || matches!(self, Self::Standard | Self::Nameless(..))
    }
}

/// What a symbolic link leads to.
fn follow(path: &Path) -> Result<Place, FileError> {
    let dangling = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => FileError::Dangling(path.to_owned()),
        _ => FileError::target(path, "follow", error),
    };
    let metadata = std::fs::metadata(path).map_err(dangling)?;
    match std::fs::canonicalize(path) {
        Ok(name) if metadata.nlink() > 0 => Ok(Place::Existing(name, metadata)),
        // What the link says is not where it leads.
        Ok(_) => Ok(Place::Nameless(path.to_owned(), metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Place::Nameless(path.to_owned(), metadata))
        }
        Err(error) => Err(dangling(error)),
    }
}

/// Whether only a directory can be called so.
fn is_name_of_directory(path: &Path) -> bool {
    let last = path.as_os_str().as_bytes().rsplit(|&byte| byte == b'/').next();
    matches!(last, Some(b"" | b"." | b".."))
}

/// The target of a copy.
#[derive(Debug)]
pub struct Target {
    /// Open for writing, and for reading where it can be read.
    pub file: File,
    /// The name that it has or will have.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes before the copy; `None` for a stream.
    pub len: Option<u64>,
    staging: Option<Staging>,
    /// Whether a regular file was made here under its own name.
    created: bool,
}

impl Target {
    /// Opens or stages what `place` says, for a copy of a source of `metadata`, so that it can be resumed if it is
    /// to be `resumable` and is long enough.
    ///
    /// # Errors
    /// [`FileError`] where it cannot be written; nothing has changed then.
    pub fn open(
        place: Place,
        source: Option<&Metadata>,
        settings: &Settings,
        resumable: bool,
    ) -> Result<Self, FileError> {
        let mode = attributes::new_mode(source);
        let resumed = resumed(source.filter(|_| resumable), settings, false);
        let is_kept = place.is_kept(settings);
        match place {
            Place::Standard => Self::standard_output(),
            Place::New(path) if is_kept => Self::in_place(path, None, mode),
            Place::New(path) => Self::stage(path, None, mode, settings.preserve, resumed),
            Place::Existing(path, old) | Place::Nameless(path, old) => {
                match kind_of(old.file_type()) {
                    Some(Kind::BlockDevice) => Self::device(&path.clone(), path, settings.force),
                    Some(Kind::Stream) => Self::stream(path),
                    _ if is_kept => Self::in_place(path, Some(old), mode),
                    _ => {
                        check_writable(&path, &old, settings.force)?;
                        Self::stage(path, Some(old), mode, settings.preserve, resumed)
                    }
                }
            }
        }
    }

    fn standard_output() -> Result<Self, FileError> {
        let path = PathBuf::from("-");
        let file = io::stdout()
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| FileError::target(&path, "write standard output as", error))?;
        Ok(Self::opened(file.into(), path, Kind::Stream, None))
    }

    fn opened(file: File, path: PathBuf, kind: Kind, len: Option<u64>) -> Self {
        Self { file, path, kind, len, staging: None, created: false }
    }

    fn stream(path: PathBuf) -> Result<Self, FileError> {
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY).open(&path);
        let file = opened.map_err(|error| FileError::target(&path, "open", error))?;
        Ok(Self::opened(file, path, Kind::Stream, None))
    }

    /// The block device that `way` leads to; `path` is for messages. An exclusive open fails where the device is
    /// mounted or part of a volume.
    ///
    /// # Errors
    /// What opening it says.
    pub fn device(way: &Path, path: PathBuf, force: bool) -> Result<Self, FileError> {
        let flags = if force { 0 } else { libc::O_EXCL };
        let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(way);
        let file = opened.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY) => FileError::DeviceInUse(path.clone()),
            _ => FileError::target(&path, "open", error),
        })?;
        let len = device_len(&file)
            .map_err(|error| FileError::target(&path, "find the size of", error))?;
        Ok(Self::opened(file, path, Kind::BlockDevice, Some(len)))
    }

    fn in_place(path: PathBuf, old: Option<Metadata>, mode: u32) -> Result<Self, FileError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).truncate(true);
        let opened = match old {
            Some(_) => options.open(&path),
            None => options.create_new(true).mode(mode | OWNER).open(&path),
        };
        let file = opened.map_err(|error| cannot_create(&path, "open", error))?;
        let mut target = Self::opened(file, path, Kind::Regular, Some(0));
        target.created = old.is_none();
        if target.created {
            attributes::finish_new(&target.file, mode)
                .map_err(|error| FileError::target(&target.path, "set the mode of", error))?;
        }
        Ok(target)
    }

    fn stage(
        path: PathBuf,
        old: Option<Metadata>,
        mode: u32,
        preserve: bool,
        resumed: Option<Header>,
    ) -> Result<Self, FileError> {
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            return Err(FileError::TargetIsDirectory(path));
        };
        let flags = libc::O_PATH | libc::O_DIRECTORY;
        match OpenOptions::new().read(true).custom_flags(flags).open(parent(&path)) {
            Ok(directory) => Self::stage_in(directory, &name, path, old, mode, preserve, resumed),
            Err(error) => Err(cannot_create(&path, "create", error)),
        }
    }

    /// Stages `name` in a directory that is open; `path` is for messages.
    ///
    /// # Errors
    /// What creating the file fails with.
    pub fn stage_in(
        directory: File,
        name: &OsStr,
        path: PathBuf,
        old: Option<Metadata>,
        mode: u32,
        preserve: bool,
        resumed: Option<Header>,
    ) -> Result<Self, FileError> {
        let mode = private_mode(mode, old.is_some() || preserve);
        let name = name.to_owned();
        Self::staged(
            path,
            match resumed {
                None => Staging::create_in(directory, name, old, mode),
                Some(header) => Staging::resume_in(directory, name, old, mode, header),
            },
        )
    }

    /// As [`stage_in`](Self::stage_in), under a temporary name by which other processes find it.
    ///
    /// # Errors
    /// As there.
    pub fn stage_named(
        directory: File,
        name: &OsStr,
        path: PathBuf,
        old: Option<Metadata>,
        mode: u32,
        preserve: bool,
    ) -> Result<Self, FileError> {
        let mode = private_mode(mode, old.is_some() || preserve);
        Self::staged(path, Staging::create_named(directory, name.to_owned(), old, mode))
    }

    /// Lets other processes fill it, if it is a copy that can be resumed: it has its length.
    ///
    /// # Errors
    /// What syncing and locking say.
    pub fn share(&self) -> io::Result<()> {
        self.unfinished().map_or(Ok(()), |unfinished| unfinished.share(&self.file))
    }

    /// The temporary name of one that other processes fill.
    pub fn temporary_name(&self) -> Option<&CStr> {
        self.staging.as_ref().and_then(Staging::temporary_name)
    }

    fn staged(path: PathBuf, staged: io::Result<(File, Staging)>) -> Result<Self, FileError> {
        match staged {
            Ok((file, staging)) => Ok(Self {
                staging: Some(staging),
                ..Self::opened(file, path, Kind::Regular, Some(0))
            }),
            Err(error) => Err(cannot_create(&path, "create", error)),
        }
    }

    /// A regular file that is open for reading and writing, and empty, to be written where it is.
    pub fn regular(file: File, path: PathBuf) -> Self {
        Self::opened(file, path, Kind::Regular, Some(0))
    }

    /// As engines see it.
    pub fn side(&self) -> Side<'_> {
        Side { file: &self.file, path: &self.path, kind: self.kind, len: self.len }
    }

    /// What an earlier run began, where this is a copy that can be resumed.
    pub fn unfinished(&self) -> Option<&Arc<Unfinished>> {
        self.staging.as_ref().and_then(Staging::unfinished)
    }

    /// Empties it for the next engine, but for what an earlier run left in it.
    ///
    /// # Errors
    /// What truncating fails with.
    pub fn reset(&self) -> Result<(), FileError> {
        match self.kind {
            _ if self.unfinished().is_some() => Ok(()),
            Kind::Regular => {
                empty(&self.file).map_err(|error| FileError::target(&self.path, "truncate", error))
            }
            Kind::BlockDevice | Kind::Stream => Ok(()),
        }
    }

    /// Gives it the mode, owner and attributes that it has without `-p`. Returns what was lost.
    pub fn set_own_attributes(&self) -> Vec<String> {
        match &self.staging {
            Some(staging @ Staging { old: Some(old), .. }) => {
                attributes::take_over(&self.file, &staging.old_path(), old)
            }
            Some(staging) => {
                let finish = match staging.unfinished() {
                    Some(_) => attributes::open_up,
                    None => attributes::finish_new,
                };
                let lost = finish(&self.file, staging.mode).err();
                lost.map(|error| super::error::lost("its mode", error)).into_iter().collect()
            }
            None => Vec::new(),
        }
    }

    /// How many other names the file that will be replaced has.
    pub fn other_links(&self) -> u64 {
        let old = self.staging.as_ref().and_then(|staging| staging.old.as_ref());
        old.map_or(0, |old| old.nlink().saturating_sub(1))
    }

    /// Gives the complete file its name. `Ok(false)`: with `keep_existing`, somebody else took the
    /// name meanwhile, and the copy is dropped. One that replaces another is written out first if all is to be
    /// `durable` in the end: a crash before that shall not find the old one gone and the new one empty.
    ///
    /// # Errors
    /// What writing out, linking or renaming fails with; the old file is untouched and the copy is dropped.
    pub fn commit(&mut self, keep_existing: bool, durable: bool) -> Result<bool, FileError> {
        let Some(staging) = self.staging.take() else { return Ok(true) };
        if durable && staging.old.is_some() {
            let synced = self.file.sync_data();
            synced.map_err(|error| FileError::target(&self.path, "make durable", error))?;
        }
        match staging.commit(&self.file, keep_existing) {
            Ok(()) => {
                self.created = true;
                Ok(true)
            }
            Err(Errno::EEXIST) if keep_existing => Ok(false),
            Err(Errno::ESTALE) => Err(FileError::Exchanged(self.path.clone())),
            Err(error) => {
                Err(FileError::target(&self.path, "give the finished copy the name", error))
            }
        }
    }

    /// Makes the directory entry durable, if there is a new one.
    ///
    /// # Errors
    /// What opening or syncing the directory fails with.
    pub fn sync_directory(&self) -> Result<(), FileError> {
        if !self.created {
            return Ok(());
        }
        let directory = parent(&self.path);
        File::open(directory)
            .and_then(|directory| sync(&directory))
            .map_err(|error| FileError::target(directory, "make durable the directory", error))
    }
}

/// Makes durable what can be: a pipe, or a directory on a file system without durable ones, says EINVAL.
///
/// # Errors
/// What `fsync(2)` says otherwise.
pub fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        other => other,
    }
}

/// Of which source a copy is one that can be resumed, if it is, on this machine or `anywhere`.
pub fn resumed(source: Option<&Metadata>, settings: &Settings, anywhere: bool) -> Option<Header> {
    let identity = if anywhere { Identity::anywhere } else { Identity::of };
    source
        .filter(|found| settings.resume && found.is_file() && found.len() >= RESUMABLE_BYTES)
        .map(|source| Header { identity: identity(source), summer: Summer::here() })
}

/// Takes out of a file what is in it.
///
/// Nothing is done where nothing is: ext4 writes a file out when it is closed if it was truncated to nothing, even if
/// that is what it was (`auto_da_alloc` of ext4(5)), and who closes it waits for as long as that takes to begin.
///
/// # Errors
/// What truncating fails with.
pub fn empty(file: &File) -> io::Result<()> {
    if file.metadata()?.len() == 0 { Ok(()) } else { file.set_len(0) }
}

/// What will belong to somebody else, or has an ACL to come, is nobody's until then.
fn private_mode(mode: u32, private: bool) -> u32 {
    if private { mode & 0o700 } else { mode }
}

/// Errors of creating `path`, with the directory named where that is what is missing.
fn cannot_create(path: &Path, operation: &'static str, error: io::Error) -> FileError {
    match error.kind() {
        io::ErrorKind::ResourceBusy => FileError::BeingCopied(path.to_owned()),
        io::ErrorKind::NotFound => FileError::NoDirectory(parent(path).to_owned()),
        io::ErrorKind::NotADirectory => FileError::NotADirectory(parent(path).to_owned()),
        _ => FileError::target(path, operation, error),
    }
}

/// Replacing a file takes no right to write it, but the user expects that it does.
fn check_writable(path: &Path, old: &Metadata, force: bool) -> Result<(), FileError> {
    match eaccess(path, AccessFlags::W_OK) {
        Ok(()) => Ok(()),
        Err(Errno::EACCES | Errno::EPERM) if force => Ok(()),
        Err(Errno::EACCES | Errno::EPERM) => {
            Err(FileError::Unwritable { path: path.to_owned(), mode: old.mode() & 0o7777 })
        }
        Err(Errno::ETXTBSY) => Ok(()), // the running program keeps the old file
        Err(error) => Err(FileError::target(path, "write", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::{Duration, SystemTime};

    #[test]
    fn a_file_with_nothing_in_it_is_not_truncated() {
        let mut file = tempfile::tempfile().unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        file.set_modified(then).unwrap();
        empty(&file).unwrap();
        // Truncating would have set its time, and more.
        assert_eq!(file.metadata().unwrap().modified().unwrap(), then);
        file.write_all(b"something").unwrap();
        empty(&file).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
    }
}
