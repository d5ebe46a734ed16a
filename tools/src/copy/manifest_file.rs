//! Where a list of checksums goes.
//!
//! A regular file, or a name that is free, gets it complete or not at all: it is staged beside that. Links are followed
//! first, so that they stay. What is something else (a pipe, a terminal, a device, or what `/dev/stdout` and
//! `/proc/self/fd` lead to) is opened and written.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::engine::Kind;
use super::error::FileError;
use super::manifest::Manifest;
use super::probe::{FileSystem, file_system};
use super::request::{Destination, Endpoint, Request};
use super::resolve::name_in;
use super::source::kind_of;
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

impl Place {
    fn file_name(&self) -> Option<&OsStr> {
        match self {
            Self::Name(path) => path.file_name(),
            Self::Standard | Self::Open(_) => None,
        }
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
/// worth more than that. None is written over a copy that is on it.
///
/// # Errors
/// What creating or writing says; a regular file is what it was then. What making it durable says.
pub fn write(
    manifest: Option<Manifest>,
    request: &Request,
    here: Here,
    failed: bool,
    stopped: bool,
) -> Result<(), FileError> {
    let (Some(manifest), Some(path)) = (manifest, &request.manifest) else { return Ok(()) };
    if stopped || (failed && manifest.is_empty()) {
        return Ok(());
    }
    let place = Place::find(path).ok();
    if here != Here::Sources
        && let Some(own @ Identity::File(..)) = place.as_ref().and_then(Identity::of)
        && let Some(name) = place.as_ref().and_then(Place::file_name)
        && manifest.has(|path| {
            path.file_name() == Some(name)
                && Identity::of(&Place::Name(path.to_owned())).as_ref() == Some(&own)
        })
    {
        return Err(overwrites(path, "the list would overwrite a copy that was just made"));
    }
    put(manifest, path, request.settings.fsync)
        .map_err(|error| FileError::target(path, "write the checksums to", error))
}

/// Which of its ends are on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Here {
    /// All.
    Both,
    /// The sources.
    Sources,
    /// The target.
    Target,
}

/// Refuses a list that would overwrite what `request` names: a source, the target, or what will be one.
///
/// # Errors
/// [`FileError::NotForThis`].
pub fn check_apart(request: &Request, here: Here) -> Result<(), FileError> {
    let Some(list) = &request.manifest else { return Ok(()) };
    let Some(own) = Place::find(list).ok().and_then(|place| Identity::of(&place)) else {
        return Ok(()); // writing it will tell
    };
    let mut names: Vec<PathBuf> = Vec::new();
    let sources = || request.sources.iter().map(Endpoint::name);
    if here != Here::Target {
        names.extend(sources());
    }
    if let (Some(target), false) = (request.destination.path(), here == Here::Sources) {
        names.push(target.to_owned());
        let is_exact = matches!(request.destination, Destination::Exactly(_));
        let is_below = request
            .trees
            .as_ref()
            .is_some_and(|wishes| wishes.parents || wishes.files_from.is_some());
        if !is_exact && !is_below && target.is_dir() {
            names.extend(sources().map(|source| name_in(target, &source)));
        }
    }
    names.extend(request.trees.as_ref().and_then(|wishes| wishes.files_from.clone()));
    let is_own = |name: &PathBuf| {
        let is_input = name == Path::new("-"); // to write there is told apart
        let name = if is_input { Path::new("/dev/stdin") } else { name };
        Place::find(name).ok().and_then(|place| Identity::of(&place)).as_ref() == Some(&own)
    };
    match names.iter().any(is_own) {
        true => Err(overwrites(list, "the list would overwrite what this command copies or reads")),
        false => Ok(()),
    }
}

fn overwrites(list: &Path, why: &'static str) -> FileError {
    FileError::NotForThis { option: "--manifest", path: list.to_owned(), why }
}

/// What tells one file from others; of a stream there is nothing to overwrite.
#[derive(PartialEq, Eq, Debug)]
enum Identity {
    /// Device and inode.
    File(u64, u64),
    /// A block device, by whichever node.
    Device(u64),
    /// A name that is free, in the directory of that device and inode.
    Free(u64, u64, OsString),
}

impl Identity {
    fn of(place: &Place) -> Option<Self> {
        let path = match place {
            Place::Standard => Path::new("/proc/self/fd/1"),
            Place::Name(path) | Place::Open(path) => path,
        };
        if let Ok(found) = fs::metadata(path) {
            return match kind_of(found.file_type()) {
                Some(Kind::Stream) => None,
                Some(Kind::BlockDevice) => Some(Self::Device(found.rdev())),
                _ => Some(Self::File(found.dev(), found.ino())),
            };
        }
        let above = fs::metadata(parent(path)).ok()?;
        Some(Self::Free(above.dev(), above.ino(), path.file_name()?.to_owned()))
    }
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
