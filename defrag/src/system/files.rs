//! The files of `/proc` and `/sys`, below a root that tests replace by a made-up tree.
//!
//! Every figure about the machine comes through here, and every change to it goes through here, so
//! that what a parser or the ladder does with missing, unreadable, read-only or strange files can
//! be tried without the machine. What is absent (a kernel without the feature) is told apart from
//! what is refused (a user without the right, a container with a read-only `/sys`).

use std::path::{Path, PathBuf};
use std::{fs, io};

/// Why a file of the kernel cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// The kernel has no such file: it lacks the feature, or the thing does not exist.
    #[error("{}: this kernel has no such file", path.display())]
    Absent {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{}: cannot read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written; as a rule only root may.
    #[error("{}: cannot write \"{value}\"", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: \"{text}\" is not what was expected there", path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
}

impl FileError {
    /// What the system said, where it said something.
    pub fn kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Absent { .. } => Some(io::ErrorKind::NotFound),
            Self::Read { source, .. } | Self::Write { source, .. } => Some(source.kind()),
            Self::Strange { .. } => None,
        }
    }

    /// Whether a user with more rights could go on.
    pub fn is_denied(&self) -> bool {
        self.kind() == Some(io::ErrorKind::PermissionDenied)
    }

    /// Whether the file lies in a read-only mount, as `/sys` does in most containers.
    pub fn is_read_only(&self) -> bool {
        self.kind() == Some(io::ErrorKind::ReadOnlyFilesystem)
    }
}

/// A tree with `proc` and `sys` in it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Files {
    root: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self::of_machine()
    }
}

impl Files {
    /// Those of this machine.
    pub fn of_machine() -> Self {
        Self::at("/")
    }

    /// Those below another root, for tests.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The path of `name`, which has no slash in front: `proc/vmstat`.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A whole file as text, without blanks at the end.
    ///
    /// # Errors
    /// [`FileError::Absent`] or [`FileError::Read`].
    pub fn text(&self, name: impl AsRef<Path>) -> Result<String, FileError> {
        get(&self.path(name))
    }

    /// A file that holds one number.
    ///
    /// # Errors
    /// As [`Files::text`], and [`FileError::Strange`].
    pub fn number(&self, name: impl AsRef<Path>) -> Result<u64, FileError> {
        number(&self.path(name))
    }

    /// Writes `value` to a file that exists.
    ///
    /// # Errors
    /// [`FileError::Absent`] or [`FileError::Write`].
    pub fn write(&self, name: impl AsRef<Path>, value: &str) -> Result<(), FileError> {
        put(&self.path(name), value)
    }

    /// Whether there is such a file.
    pub fn exists(&self, name: impl AsRef<Path>) -> bool {
        self.path(name).exists()
    }

    /// The numbers N of all entries `{prefix}N{suffix}` of a directory, ascending.
    ///
    /// # Errors
    /// As [`Files::text`].
    pub fn numbered(
        &self,
        directory: impl AsRef<Path>,
        prefix: &str,
        suffix: &str,
    ) -> Result<Vec<u64>, FileError> {
        numbered(&self.path(directory), prefix, suffix)
    }

    /// The choice in brackets of a file like `always [madvise] never`.
    ///
    /// # Errors
    /// As [`Files::text`], and [`FileError::Strange`] where nothing is in brackets.
    pub fn choice(&self, name: impl AsRef<Path>) -> Result<String, FileError> {
        let path = self.path(name);
        let text = get(&path)?;
        let chosen = text.split_once('[').and_then(|(_, rest)| Some(rest.split_once(']')?.0));
        match chosen {
            Some(chosen) => Ok(chosen.to_owned()),
            None => Err(FileError::Strange { path, text }),
        }
    }

    /// The error for a file whose text, or a part of it, is not what it should be.
    pub fn strange(&self, name: impl AsRef<Path>, text: &str) -> FileError {
        FileError::Strange { path: self.path(name), text: text.to_owned() }
    }
}

pub(super) fn numbered(
    directory: &Path,
    prefix: &str,
    suffix: &str,
) -> Result<Vec<u64>, FileError> {
    let failed = |source| read_error(directory, source);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(suffix));
        numbers.extend(number.and_then(|n| n.parse::<u64>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(super) fn read_error(path: &Path, source: io::Error) -> FileError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => FileError::Absent { path },
        _ => FileError::Read { path, source },
    }
}

pub(super) fn get(path: &Path) -> Result<String, FileError> {
    match fs::read(path) {
        // Names of processes and caches are any bytes.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
        Err(source) => Err(read_error(path, source)),
    }
}

pub(super) fn number(path: &Path) -> Result<u64, FileError> {
    let text = get(path)?;
    text.trim().parse().map_err(|_| FileError::Strange { path: path.to_owned(), text })
}

/// Writes without creating: a file that is not there is a feature that is not there.
pub(super) fn put(path: &Path, value: &str) -> Result<(), FileError> {
    let written = fs::OpenOptions::new().write(true).truncate(true).open(path);
    match written.and_then(|mut file| write_once(&mut file, value)) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(FileError::Absent { path: path.to_owned() })
        }
        Err(source) => {
            Err(FileError::Write { path: path.to_owned(), value: value.to_owned(), source })
        }
    }
}

/// One write and no more: a signal that cuts short what the kernel is at (EINTR) is the caller's
/// to judge, and a repetition would begin all over.
fn write_once(file: &mut fs::File, value: &str) -> io::Result<()> {
    match io::Write::write(file, value.as_bytes())? {
        n if n == value.len() => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_not_what_is_strange() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::at(root.path());
        assert!(matches!(files.number("proc/x"), Err(FileError::Absent { .. })));
        assert!(matches!(files.write("proc/x", "1"), Err(FileError::Absent { .. })));
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/x"), "many\n").unwrap();
        let error = files.number("proc/x").unwrap_err();
        assert!(error.to_string().contains("proc/x: \"many\""), "{error}");
        assert!(error.kind().is_none() && !error.is_denied() && !error.is_read_only());
        files.write("proc/x", "12").unwrap();
        assert_eq!(files.number("proc/x").unwrap(), 12);
    }

    #[test]
    fn a_directory_that_cannot_be_read_as_a_file_is_said_so() {
        let root = tempfile::tempdir().unwrap();
        let error = Files::at(root.path()).text("").unwrap_err();
        assert!(matches!(error, FileError::Read { .. }), "{error}");
    }

    #[test]
    fn choices_stand_in_brackets() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::at(root.path());
        fs::write(root.path().join("enabled"), "always [madvise] never\n").unwrap();
        assert_eq!(files.choice("enabled").unwrap(), "madvise");
        fs::write(root.path().join("enabled"), "always").unwrap();
        assert!(matches!(files.choice("enabled"), Err(FileError::Strange { .. })));
    }

    #[test]
    fn only_numbered_entries_are_listed() {
        let root = tempfile::tempdir().unwrap();
        for name in ["node10", "node2", "nodeX", "has_memory"] {
            fs::create_dir(root.path().join(name)).unwrap();
        }
        assert_eq!(Files::at(root.path()).numbered("", "node", "").unwrap(), [2, 10]);
    }
}
