//! The source of a copy, opened and asked what it is.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::engine::{Kind, Side};
use super::error::FileError;
use super::probe;
use super::request::Endpoint;

/// The source of a copy.
#[derive(Debug)]
pub struct Source {
    /// Open for reading.
    pub file: File,
    /// Its name.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its length in bytes; `None` where only reading to its end tells.
    pub len: Option<u64>,
    /// What `stat(2)` said when it was opened.
    pub metadata: Metadata,
}

/// What kind of file `file_type` is to a copy; `None` for what cannot be copied.
pub fn kind_of(file_type: FileType) -> Option<Kind> {
    if file_type.is_file() {
        Some(Kind::Regular)
    } else if file_type.is_block_device() {
        Some(Kind::BlockDevice)
    } else if file_type.is_dir() || file_type.is_symlink() {
        None
    } else {
        Some(Kind::Stream)
    }
}

impl Source {
    /// Opens `endpoint`. A FIFO waits for its writer, as with any program.
    ///
    /// # Errors
    /// [`FileError`] for what is missing, may not be read, or is no file.
    pub fn open(endpoint: &Endpoint) -> Result<Self, FileError> {
        match endpoint {
            Endpoint::Standard => Self::standard_input(),
            Endpoint::Path(path) => Self::open_path(path),
        }
    }

    fn standard_input() -> Result<Self, FileError> {
        let path = PathBuf::from("-");
        let failed = |cause| FileError::Source {
            path: PathBuf::from("-"),
            operation: "read standard input as",
            cause,
        };
        let file: File = io::stdin().as_fd().try_clone_to_owned().map_err(failed)?.into();
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(FileError::SourceIsDirectory(path));
        }
        // Even where it is a file: it is read from where it stands.
        Ok(Self { file, path, kind: Kind::Stream, len: None, metadata })
    }

    fn open_path(path: &Path) -> Result<Self, FileError> {
        let failed =
            |operation| move |cause| FileError::Source { path: path.to_owned(), operation, cause };
        // Asked before it is opened: opening a device or a socket may have effects.
        let before = std::fs::metadata(path).map_err(failed("find"))?;
        if before.is_dir() {
            return Err(FileError::SourceIsDirectory(path.to_owned()));
        }
        if before.file_type().is_socket() {
            return Err(FileError::NotReadable { path: path.to_owned(), what: "a socket" });
        }
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOCTTY)
            .open(path)
            .map_err(failed("open"))?;
        let metadata = file.metadata().map_err(failed("stat"))?;
        Self::opened(file, metadata, path.to_owned())
    }

    /// What is open already; `path` is for messages.
    ///
    /// # Errors
    /// [`FileError`] for directories, and where a device does not tell its size.
    pub fn opened(file: File, metadata: Metadata, path: PathBuf) -> Result<Self, FileError> {
        let Some(kind) = kind_of(metadata.file_type()) else {
            return Err(FileError::SourceIsDirectory(path)); // it was exchanged
        };
        let failed = |operation| {
            let path = path.clone();
            move |cause| FileError::Source { path, operation, cause }
        };
        let len = match kind {
            Kind::Regular if probe::length_is_a_guess(&file) => None,
            Kind::Regular => Some(metadata.len()),
            Kind::BlockDevice => Some(device_len(&file).map_err(failed("find the size of"))?),
            Kind::Stream => None,
        };
        Ok(Self { file, path, kind, len, metadata })
    }

    /// Has what is stored through mappings from now on change the ctime: pages that are written out are clean, and
    /// the kernel notes when one is written to. What was stored since `stat(2)` was asked is copied. In memory it has
    /// no effect (see [`changes_unseen`](Self::changes_unseen)).
    ///
    /// # Errors
    /// What writing out fails with.
    pub fn settle(&self) -> Result<(), FileError> {
        if self.kind != Kind::Regular || self.changes_unseen() {
            return Ok(());
        }
        match self.file.sync_data() {
            // Some file systems have nothing to write out.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            synced => synced.map_err(|cause| {
                let (path, operation) = (self.path.clone(), "write out what was changed of");
                FileError::Source { path, operation, cause }
            }),
        }
    }

    /// Whether stores through a mapping leave no trace in what `stat(2)` says.
    pub fn changes_unseen(&self) -> bool {
        probe::file_system(&self.file).is_ok_and(|found| found.is_memory())
    }

    /// As engines see it.
    pub fn side(&self) -> Side<'_> {
        Side { file: &self.file, path: &self.path, kind: self.kind, len: self.len }
    }

    /// Whether `other` is the same file, or the same device by another name.
    pub fn is_same(&self, other: &Metadata) -> bool {
        let mine = &self.metadata;
        let devices = self.kind == Kind::BlockDevice && other.file_type().is_block_device();
        (mine.dev(), mine.ino()) == (other.dev(), other.ino())
            || (devices && mine.rdev() == other.rdev())
    }

    /// Whether it has attributes of its own that a copy could have: standard input has not.
    pub fn has_attributes(&self) -> bool {
        self.path.as_os_str() != "-"
    }
}

/// The size of a block device in bytes.
///
/// # Errors
/// What `lseek(2)` says.
pub fn device_len(file: &File) -> io::Result<u64> {
    let mut file = file;
    let len = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> Result<Source, FileError> {
        Source::open(&Endpoint::Path(path.to_owned()))
    }

    #[test]
    fn files_have_a_length_and_streams_have_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, b"12345").unwrap();
        let source = open(&path).unwrap();
        assert_eq!((source.kind, source.len), (Kind::Regular, Some(5)));
        let null = open(Path::new("/dev/null")).unwrap();
        assert_eq!((null.kind, null.len), (Kind::Stream, None));
        assert!(null.is_same(&null.metadata) && !null.is_same(&source.metadata));
    }

    #[test]
    fn lengths_that_the_kernel_makes_up_are_not_believed() {
        assert_eq!(open(Path::new("/proc/self/status")).unwrap().len, None);
        let empty = tempfile::NamedTempFile::new().unwrap();
        if !matches!(
            probe::file_system(empty.as_file()),
            Ok(probe::FileSystem::Fuse | probe::FileSystem::Nfs | probe::FileSystem::Other(_))
        ) {
            assert_eq!(open(empty.path()).unwrap().len, Some(0));
        }
    }

    #[test]
    fn what_is_no_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("is a directory"), "{error}");
        let socket = dir.path().join("s");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let error = open(&socket).unwrap_err().to_string();
        assert!(error.contains("is a socket"), "{error}");
        let error = open(&dir.path().join("none")).unwrap_err().to_string();
        assert!(error.contains("none': No such file or directory"), "{error}");
    }
}
