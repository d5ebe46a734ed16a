//! `--check`: comparing trees, and copying nothing. (Files are compared with a list in [`super::check_list`].)

use std::collections::{BTreeSet, HashMap};
use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::fcntl::readlinkat;
use serde::Serialize;
use xattr::FileExt;

use super::check_pair::{Opened, Pair, Room};
use super::contents::{Compared, Contents, is_device, look_at, open_to_read};
use super::engine::Progress;
use super::error::said;
use super::quote::quote;
use super::tree::context::lock;
use super::tree::directory::{Id, Shelf, id_of};
use super::tree::entry::{by_descriptor, look};
use super::tree::filter::Rules;
use super::tree::list;
use super::tree::pool::Pool;
use super::tree::special;

/// What a comparison looks at.
#[derive(Clone, Debug)]
pub struct Checking {
    /// Modes, owners, times, attributes and ACLs too.
    pub attributes: bool,
    /// Which names of one file are names of one file on the other side.
    pub links: bool,
    /// What symbolic links lead to, instead of them, on both sides.
    pub follow: bool,
    /// What those lead to that are named.
    pub follow_operands: bool,
    /// Names that are left out.
    pub rules: Rules,
    /// Threads to compare with.
    pub threads: usize,
}

/// What a comparison found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Found {
    /// Regular files compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What differs, or could not be compared, in order.
    pub differences: Vec<String>,
}

/// What a comparison says of a name, after its path.
pub mod words {
    /// The source has it.
    pub const MISSING: &str = "is missing";
    /// The source has it not.
    pub const TOO_MUCH: &str = "is not in the source";
    /// Of another kind.
    pub const OTHER_KIND: &str = "is something else than in the source";
    /// A symbolic link.
    pub const LEADS_ELSEWHERE: &str = "leads elsewhere";
    /// A device.
    pub const OTHER_DEVICE: &str = "is another device";
    /// A regular file.
    pub const OTHER_CONTENTS: &str = "has other contents";
    /// One of several names of a file.
    pub const NOT_LINKED: &str = "is no name of the file that it is a name of in the source";
    /// One name of a file that has more of them than there.
    pub const LINKED: &str = "is a name of a file of which it is none in the source";
    /// Extended attributes.
    pub const OTHER_XATTRS: &str = "has other extended attributes or ACLs";

    /// A regular file of `found` bytes instead of `expected`.
    pub fn other_length(found: u64, expected: u64) -> String {
        format!("has {found} bytes, the source {expected}")
    }
}

/// Mode, owner and time of modification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Basics {
    /// As `stat(2)` has it.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Seconds since 1970, and nanoseconds.
    pub modified: (i64, i64),
}

impl Basics {
    /// Those of what `metadata` is about.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// How these differ from those of the `source`, in words. The mode of a symbolic link means nothing.
    pub fn differences(&self, source: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let is_symlink = source.mode & libc::S_IFMT == libc::S_IFLNK;
        if !is_symlink && source.mode != self.mode {
            let (is, was) = (self.mode & 0o7777, source.mode & 0o7777);
            found.push(format!("has mode {is:04o}, the source {was:04o}"));
        }
        if source.owner != self.owner {
            let ((uid, gid), (was, its)) = (self.owner, source.owner);
            found.push(format!("belongs to {uid}:{gid}, the source to {was}:{its}"));
        }
        if source.modified != self.modified {
            found.push("has another time of modification".to_owned());
        }
        found
    }
}

/// A directory to go into.
struct Work {
    above: Arc<Pair>,
    name: CString,
}

struct Check<'a> {
    what: &'a Checking,
    target: &'a Path,
    progress: &'a Progress,
    pool: Pool<Work>,
    files: AtomicU64,
    bytes: AtomicU64,
    differences: Mutex<BTreeSet<(PathBuf, String)>>,
    /// Which file of the target is which of the source, and the other way.
    links: Mutex<HashMap<Id, Id>>,
    sources: Mutex<HashMap<Id, Id>>,
}

/// Compares `source` with `target`, which may be trees.
///
/// # Errors
/// Where one of them cannot be looked at.
pub fn trees(
    source: &Path,
    target: &Path,
    what: &Checking,
    progress: &Progress,
) -> Result<Found, String> {
    let open = |path: &Path| {
        let failed = |error: io::Error| format!("cannot open {}: {}", quote(path), said(&error));
        let is_inside = path.as_os_str().as_bytes().ends_with(b"/"); // of what it leads to
        if !what.follow_operands && !is_inside {
            let (place, found) = look_at(path).map_err(failed)?;
            if found.is_symlink() {
                return Ok((place, found));
            }
        }
        let file = open_to_read(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        Ok::<_, String>((file, metadata))
    };
    let ((one, one_found), (other, other_found)) = (open(source)?, open(target)?);
    let check = Check {
        what,
        target,
        progress,
        pool: Pool::default(),
        files: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        differences: Mutex::default(),
        links: Mutex::default(),
        sources: Mutex::default(),
    };
    let shelf = Shelf::new(); // as many descriptors as the system allows
    let top = PathBuf::new();
    if one_found.is_dir() && other_found.is_dir() {
        let failed =
            |error: io::Error| format!("cannot compare {}: {}", quote(source), said(&error));
        let room = Room::new(shelf.most() / 2, what.follow);
        let pair = Pair::top([one.into(), other.into()], &room);
        let (pair, opened) = pair.map_err(failed)?;
        if let (Ok(one), Ok(other)) = (look(&opened[0], c".", false), look(&opened[1], c".", false))
        {
            check.attributes(&top, (&one.0, &one.1), (&other.0, &other.1));
        }
        check.compare(&pair, &opened);
        drop((pair, opened)); // as far as nobody needs it
        check.pool.run(what.threads, false, |work| check.directory(&work));
    } else if is_device(&one_found) || is_device(&other_found) {
        check.with_device(&top, (&one, &one_found), (&other, &other_found));
    } else {
        check.same(&top, (&one, &one_found), (&other, &other_found));
    }
    let differences =
        check.differences.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    Ok(Found {
        files: check.files.into_inner(),
        bytes: check.bytes.into_inner(),
        differences: differences.into_iter().map(|(_, words)| words).collect(),
    })
}

impl Check<'_> {
    fn differs(&self, path: &Path, how: &str) {
        let whole =
            if path == Path::new("") { self.target.to_owned() } else { self.target.join(path) };
        let words = format!("{}: {how}", quote(whole));
        lock(&self.differences).insert((path.to_owned(), words));
    }

    fn failed(&self, path: &Path, what: &str, error: &io::Error) {
        self.differs(path, &format!("cannot {what}: {}", said(error)));
    }

    fn directory(&self, work: &Work) {
        if self.progress.is_cancelled() {
            return;
        }
        let path = join(&work.above.path, &work.name);
        let (pair, opened) = match work.above.enter(work.name.clone(), path.clone()) {
            Ok(entered) => entered,
            Err((0, error)) => return self.failed(&path, "open it in the source", &error),
            Err((_, error)) => return self.failed(&path, "open it", &error),
        };
        // Without links that are followed there is no way back.
        if let Some(again) = self.what.follow.then(|| pair.loops()).flatten() {
            let again = quote(self.target.join(again));
            return self.differs(&path, &format!("is {again} again, which it lies in: left out"));
        }
        self.compare(&pair, &opened);
    }

    /// Compares what is in two directories.
    fn compare(&self, pair: &Arc<Pair>, [source_at, target_at]: &Opened) {
        let names = |at: &OwnedFd| -> io::Result<BTreeSet<CString>> {
            Ok(list::list(at)?.into_iter().map(|entry| entry.name).collect())
        };
        let (source, target) = match (names(source_at), names(target_at)) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(error), _) => return self.failed(&pair.path, "read it in the source", &error),
            (_, Err(error)) => return self.failed(&pair.path, "read it", &error),
        };
        for name in &source {
            if target.contains(name) {
                self.entry(pair, (source_at, target_at), name);
            } else if !self.is_excluded(source_at, &pair.path, name) {
                self.differs(&join(&pair.path, name), words::MISSING);
            }
        }
        for name in target.difference(&source) {
            if !self.is_excluded(target_at, &pair.path, name) {
                self.differs(&join(&pair.path, name), words::TOO_MUCH);
            }
        }
    }

    fn is_excluded(&self, at: &OwnedFd, above: &Path, name: &CString) -> bool {
        if self.what.rules.is_empty() {
            return false;
        }
        let found = look(at, name, self.what.follow);
        let is_directory = found.is_ok_and(|(_, metadata)| metadata.is_dir());
        self.what.rules.excludes(join(above, name).as_os_str().as_bytes(), is_directory)
    }

    fn entry(&self, pair: &Arc<Pair>, (source, target): (&OwnedFd, &OwnedFd), name: &CString) {
        let path = join(&pair.path, name);
        if self.progress.is_cancelled() || self.is_excluded(source, &pair.path, name) {
            return;
        }
        let follow = self.what.follow;
        let (one, other) = match (look(source, name, follow), look(target, name, follow)) {
            (Ok(one), Ok(other)) => (one, other),
            (Err(error), _) => return self.failed(&path, "look at it in the source", &error),
            (_, Err(error)) => return self.failed(&path, "look at it", &error),
        };
        self.same(&path, (&one.0, &one.1), (&other.0, &other.1));
        if one.1.is_dir() && other.1.is_dir() {
            self.pool.push([Work { above: Arc::clone(pair), name: name.clone() }]);
        }
    }

    /// Compares what is open on both sides, directories without what is in them.
    fn same(&self, path: &Path, one: (&File, &Metadata), other: (&File, &Metadata)) {
        if one.1.file_type() != other.1.file_type() {
            return self.differs(path, words::OTHER_KIND);
        }
        if one.1.is_file() {
            self.contents(path, one, other);
        } else if one.1.is_symlink() {
            if readlinkat(one.0, c"") != readlinkat(other.0, c"") {
                self.differs(path, words::LEADS_ELSEWHERE);
            }
        } else if one.1.rdev() != other.1.rdev() {
            self.differs(path, words::OTHER_DEVICE);
        }
        self.attributes(path, one, other);
    }

    /// Compares a file or a device with another by what is in them. A device that was copied to may be longer.
    fn with_device(&self, path: &Path, one: (&File, &Metadata), other: (&File, &Metadata)) {
        let is_either = |found: &Metadata| found.is_file() || is_device(found);
        if !is_either(one.1) || !is_either(other.1) {
            return self.differs(path, words::OTHER_KIND);
        }
        self.contents(path, one, other);
    }

    fn contents(&self, path: &Path, one: (&File, &Metadata), other: (&File, &Metadata)) {
        self.files.fetch_add(1, Ordering::Relaxed);
        let (source, target) = match (Contents::open(one), Contents::open(other)) {
            (Ok(source), Ok(target)) => (source, target),
            (Err(error), _) => return self.failed(path, "read it in the source", &error),
            (_, Err(error)) => return self.failed(path, "read it", &error),
        };
        match source.compare(&target, self.progress) {
            Ok(Compared::Same(len)) => {
                self.bytes.fetch_add(len, Ordering::Relaxed);
                self.progress.add(len);
            }
            Ok(Compared::Other(len)) => {
                self.bytes.fetch_add(len, Ordering::Relaxed);
                self.differs(path, words::OTHER_CONTENTS);
            }
            Ok(Compared::OtherLength { found, expected }) => {
                self.differs(path, &words::other_length(found, expected));
            }
            Err(error) => self.failed(path, "compare it", &error),
        }
    }

    fn attributes(&self, path: &Path, one: (&File, &Metadata), other: (&File, &Metadata)) {
        let (source, target) = (one.1, other.1);
        if self.what.links && !source.is_dir() && source.nlink().max(target.nlink()) > 1 {
            let first = |links: &Mutex<HashMap<Id, Id>>, one, other| {
                *lock(links).entry(id_of(one)).or_insert_with(|| id_of(other))
            };
            if first(&self.links, source, target) != id_of(target) {
                self.differs(path, words::NOT_LINKED);
            } else if first(&self.sources, target, source) != id_of(source) {
                self.differs(path, words::LINKED);
            }
        }
        if !self.what.attributes {
            return;
        }
        for how in Basics::of(target).differences(&Basics::of(source)) {
            self.differs(path, &how);
        }
        let read = match source.is_file() || source.is_dir() {
            true => xattrs,
            false => xattrs_of_special,
        };
        match (read(one.0), read(other.0)) {
            (Ok(one), Ok(other)) if one == other => {}
            (Ok(_), Ok(_)) => self.differs(path, words::OTHER_XATTRS),
            (Err(error), _) | (_, Err(error)) => {
                self.failed(path, "read its extended attributes", &error);
            }
        }
    }
}

/// Names and values, in order.
type Xattrs = Vec<(std::ffi::OsString, Option<Vec<u8>>)>;

/// Of what is not opened, since that waits for somebody or does something.
fn xattrs_of_special(place: &File) -> io::Result<Xattrs> {
    let found = special::xattrs(place).into_iter().map(|(name, value)| (name, Some(value)));
    let mut found: Xattrs = found.collect();
    found.sort();
    Ok(found)
}

/// Extended attributes and ACLs, but for labels that the system gives.
fn xattrs(place: &File) -> io::Result<Xattrs> {
    // What is open as a place only has no attributes by its descriptor.
    let file = File::open(by_descriptor(place))?;
    let names = match file.list_xattr() {
        Ok(names) => names,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let is_label = |name: &std::ffi::OsString| {
        name.as_bytes().starts_with(b"security.") && name != "security.capability"
    };
    let mut found = Vec::new();
    for name in names.filter(|name| !is_label(name)) {
        let value = file.get_xattr(&name)?;
        found.push((name, value));
    }
    found.sort();
    Ok(found)
}

fn join(above: &Path, name: &CString) -> PathBuf {
    if name.as_c_str() == c"." {
        return above.to_owned();
    }
    above.join(OsStr::from_bytes(name.to_bytes()))
}
