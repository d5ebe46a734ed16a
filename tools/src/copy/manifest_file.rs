//! Where a list of checksums goes.
//!
//! A regular file, or a name that is free, gets it complete or not at all: it is staged beside that. Links are followed
//! first, so that they stay. What is something else (a pipe, a terminal, a device, or what `/dev/stdout` and
//! `/proc/self/fd` lead to) is opened and written.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::manifest::Manifest;
use super::probe::{FileSystem, file_system};
use super::request::Request;
use super::staging::Staging;
use super::target::{self, parent};

/// As many links as the kernel follows.
const LINKS_MAX: usize = 40;

/// What a name leads to.
#[derive(PartialEq, Eq, Debug)]
enum Place {
    /// Standard output.
    Standard,
    /// A regular file, or nothing yet.
    Name(PathBuf),
    /// What is written where it is.
    Open(PathBuf),
}

impl Place {
    fn find(path: &Path) -> io::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Standard);
        }
        let mut path = path.to_owned();
        for _ in 0..LINKS_MAX {
            let found = match fs::symlink_metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return free(path),
                found => found?,
            };
            if !found.is_symlink() {
                return Ok(if found.is_file() { Self::Name(path) } else { Self::Open(path) });
            }
            let above = parent(&path);
            if is_made_up(above) {
                // It leads to what is open, whatever that is called by now.
                return Ok(if is_own_output(&path) { Self::Standard } else { Self::Open(path) });
            }
            path = above.join(fs::read_link(&path)?);
        }
        Err(io::Error::from_raw_os_error(libc::ELOOP))
    }
}

/// A name that no file has; a directory cannot be made of a list.
fn free(path: PathBuf) -> io::Result<Place> {
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    match path.file_name() {
        Some(_) => Ok(Place::Name(path)),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

/// Whether links in `directory` are those of the kernel, as in `/proc/self/fd`.
fn is_made_up(directory: &Path) -> bool {
    let found = File::open(directory).and_then(|directory| file_system(&directory));
    found.is_ok_and(|found| found == FileSystem::Pseudo)
}

/// Whether `path` is this process's way to its standard output.
fn is_own_output(path: &Path) -> bool {
    let real = |path: &Path| fs::canonicalize(path).ok();
    path.file_name() == Some(OsStr::new("1"))
        && real(parent(path)).is_some_and(|found| Some(found) == real(Path::new("/proc/self/fd")))
}

/// Writes the list that `request` asks for, if it does, in the order of the paths; with `--fsync` it is made durable.
///
/// What was `stopped` writes none, and neither does what `failed` so that nothing is on it: the list of an earlier run is
/// worth more than that.
///
/// # Errors
/// What creating or writing says; a regular file is what it was then. What making it durable says.
pub fn write(
    manifest: Option<Manifest>,
    request: &Request,
    failed: bool,
    stopped: bool,
) -> Result<(), FileError> {
    let (Some(manifest), Some(path)) = (manifest, &request.manifest) else { return Ok(()) };
    if stopped || (failed && manifest.is_empty()) {
        return Ok(());
    }
    put(manifest, path, request.settings.fsync)
        .map_err(|error| FileError::target(path, "write the checksums to", error))
}

fn put(manifest: Manifest, path: &Path, fsync: bool) -> io::Result<()> {
    let place = Place::find(path)?;
    let text = manifest.into_text();
    match place {
        Place::Standard => {
            let mut out = io::stdout().lock();
            out.write_all(&text).and_then(|()| out.flush())
        }
        Place::Open(path) => {
            let mut file = open(&path)?;
            file.write_all(&text)?;
            if fsync { target::sync(&file) } else { Ok(()) }
        }
        Place::Name(path) => {
            let name = path.file_name().unwrap_or(OsStr::new("manifest")).to_owned();
            let (mut file, staging) = Staging::create(parent(&path), name, None, 0o666)?;
            file.write_all(&text)?;
            if fsync {
                target::sync(&file)?;
            }
            staging.commit(&file, false)?;
            if fsync { target::sync(&File::open(parent(&path))?) } else { Ok(()) }
        }
    }
}

/// Opens what is written where it is: a regular file that is open elsewhere after what was written to it.
fn open(path: &Path) -> io::Result<File> {
    let is_file = fs::metadata(path)?.is_file();
    let mut options = OpenOptions::new();
    options.write(true).append(is_file).custom_flags(libc::O_NOCTTY).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_what_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let find = |path: &Path| Place::find(path).unwrap();
        fs::write(at("file"), "").unwrap();
        fs::create_dir(at("d")).unwrap();
        for (name, to) in [("a", "file"), ("b", "d/c"), ("d/c", "../none"), ("e", "e"), ("f", "d")]
        {
            symlink(to, at(name)).unwrap();
        }
        assert_eq!(find(&at("a")), Place::Name(at("file")));
        assert_eq!(find(&at("b")), Place::Name(at("d/../none")));
        assert_eq!(find(&at("f")), Place::Open(at("d")));
        assert_eq!(find(Path::new("-")), Place::Standard);
        assert_eq!(find(Path::new("/dev/null")), Place::Open("/dev/null".into()));
        assert_eq!(Place::find(&at("e")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(Place::find(&at("n/")).unwrap_err().kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn what_is_open_is_not_replaced() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"before\n").unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
        let list = Manifest::default();
        list.add("x".into(), blake3::hash(b""));
        put(list, &path, true).unwrap();
        let text = fs::read_to_string(file.path()).unwrap();
        assert!(text.starts_with("before\n") && text.ends_with("  x\n"), "{text}");
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(Place::find(Path::new("/proc/self/fd/1")).unwrap(), Place::Standard);
    }
}
