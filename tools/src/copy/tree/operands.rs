//! From operands to entries of directories that are open.
//!
//! The last name of an operand is looked up in the directory before it, like every name further
//! down; what comes before the last name is the user's word, and links in it are followed.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::context::{Context, Work, lock};
use super::directory::{Directory, Opened, Origin, id_of, open_place};
use super::enter::DEFAULT_ACL;
use super::entry::by_descriptor;
use super::list::Entry;
use super::wishes::Follow;
use crate::copy::error::FileError;
use crate::copy::request::{Destination, Endpoint, Request};
use crate::copy::resolve::{self, Task};

/// So many directories that operands are in stay open. There may be more of them than descriptors.
const STAYING: usize = 4;

/// Directories that operands are in, each opened once.
#[derive(Debug, Default)]
struct Places {
    outer: HashMap<(PathBuf, PathBuf), Arc<Directory>>,
    /// Those on the way to an operand, by the one that they are in and their path in it.
    passed: HashMap<(PathBuf, PathBuf), Arc<Directory>>,
}

impl Context<'_> {
    /// Makes work of the operands, and gives those that are to [follow](Self::take_tasks) when that is done, since they
    /// go where others go.
    ///
    /// # Errors
    /// Where the destination cannot be: nothing was done then. What is wrong with one operand is
    /// told, and the others are copied.
    pub fn take_operands(&self, request: &Request) -> Result<Vec<Vec<Task>>, FileError> {
        let mut places = Places::default();
        let mut work = Vec::new();
        let mut later = Vec::new();
        let mut add = |found| work.extend(self.to_begin_with(found));
        if let Some(list) = &self.wishes.files_from {
            let (source, target) = both_directories(request)?;
            let mut seen = HashSet::new();
            let list = listed(list, self.wishes.from0)?;
            let all: Vec<_> = list.iter().map(|path| names_of(path)).collect();
            let known: HashSet<&[CString]> = all.iter().flatten().map(Vec::as_slice).collect();
            for names in &all {
                match names {
                    // It is copied already, or with what it is in.
                    Ok(names)
                        if !seen.insert(names) || self.is_below_one(source, names, &known) => {}
                    Ok(names) => add(self.descend(&mut places, source, target, names.clone())),
                    Err(_) => {}
                }
            }
            all.into_iter().filter_map(Result::err).for_each(|error| add(Err(error)));
        } else if self.wishes.parents {
            let target = directory_of(request)?;
            let mut seen = HashSet::new();
            for source in &request.sources {
                let path = source.name();
                let top = Path::new(if path.is_absolute() { "/" } else { "." });
                match names_of(&path) {
                    Ok(names) if !seen.insert((top, names.clone())) => {
                        self.talk.remark(&resolve::named_twice(&path));
                    }
                    names => add(names.and_then(|n| self.descend(&mut places, top, target, n))),
                }
            }
        } else {
            let (tasks, twice) = resolve::tasks(request)?;
            for path in twice {
                self.talk.remark(&resolve::named_twice(&path));
            }
            later = one_after_the_other(tasks);
            if !later.is_empty() {
                self.take_tasks(later.remove(0));
            }
        }
        work.reverse(); // the last is done first
        self.pool.push(work);
        // Deep ones first, so that none is finished before those in it.
        let mut passed: Vec<_> = places.passed.into_iter().collect();
        passed.sort_by_key(|((_, path), _)| std::cmp::Reverse(path.components().count()));
        for (_, directory) in passed {
            self.release(&directory);
        }
        Ok(later)
    }

    /// Makes work of operands that do not go where others of them go.
    pub fn take_tasks(&self, tasks: Vec<Task>) {
        let mut places = Places::default();
        let found = tasks.iter().map(|task| {
            let found = self.operand(&mut places, &task.source.name(), &task.target.name());
            self.to_begin_with(found)
        });
        let mut work: Vec<Work> = found.flatten().collect();
        work.reverse(); // the last is done first
        self.pool.push(work);
    }

    /// The work that an operand begins with, if it is one.
    fn to_begin_with(&self, found: Result<(Arc<Directory>, Entry), FileError>) -> Option<Work> {
        match found {
            Ok((directory, entry)) => {
                directory.hold();
                Some(Work::Batch(directory, vec![entry]))
            }
            Err(error) => {
                self.talk.failed(&error);
                self.tally.failed(error.to_string());
                None
            }
        }
    }

    /// Whether `names` lead to something in what other names of `all` lead to, that is copied with it: no pattern leaves
    /// it out there.
    fn is_below_one(&self, top: &Path, names: &[CString], all: &HashSet<&[CString]>) -> bool {
        let rules = &self.wishes.rules;
        let is_left_out = |below: &[CString]| {
            let parts: Vec<&[u8]> = below.iter().map(|name| name.to_bytes()).collect();
            (1..=parts.len()).any(|len| {
                let path = parts[..len].join(&b'/');
                rules.excludes(&path, true) || (len == parts.len() && rules.excludes(&path, false))
            })
        };
        // Not a link, which is copied as one.
        let is_directory = |above: &[CString]| {
            let names = above.iter().map(|name| OsStr::from_bytes(name.to_bytes()));
            let path = top.join(names.collect::<PathBuf>());
            match self.wishes.follow {
                Follow::Always => path.is_dir(),
                _ => path.symlink_metadata().is_ok_and(|found| found.is_dir()),
            }
        };
        // With -x something may be mounted on the way.
        (self.wishes.recursive && !self.wishes.one_file_system)
            && (0..names.len()).any(|len| {
                let (above, below) = names.split_at(len);
                all.contains(above)
                    && (rules.is_empty() || !is_left_out(below))
                    && (above.is_empty() || is_directory(above))
            })
    }

    fn operand(
        &self,
        places: &mut Places,
        source: &Path,
        target: &Path,
    ) -> Result<(Arc<Directory>, Entry), FileError> {
        let (source_above, source_name) = split(source);
        let ends_in_slash = target.as_os_str().as_bytes().ends_with(b"/");
        let name = without_slash(target);
        let (target_above, target_name) = match ends_in_slash && name.is_symlink() && name.is_dir()
        {
            true => split(target), // `link/` is what the link leads to
            false => split(&name),
        };
        if ends_in_slash && !source.is_dir() && !target.is_dir() {
            return Err(FileError::NotADirectory(target.to_owned()));
        }
        let outer = self.outer(places, &source_above, &target_above)?;
        Ok((outer, Entry::operand(source_name, target_name)))
    }

    /// What surrounds operands: `source` and `target` are directories.
    fn outer(
        &self,
        places: &mut Places,
        source: &Path,
        target: &Path,
    ) -> Result<Arc<Directory>, FileError> {
        let key = (source.to_owned(), target.to_owned());
        if let Some(outer) = places.outer.get(&key) {
            return Ok(Arc::clone(outer));
        }
        let open = |path: &Path| {
            let file = open_place(path)?;
            let metadata = file.metadata()?;
            Ok((file, metadata))
        };
        let (from, metadata) = open(source).map_err(|cause| FileError::Source {
            path: source.to_owned(),
            operation: "open",
            cause,
        })?;
        let (to, to_metadata) = open(target).map_err(|cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound => FileError::NoDirectory(target.to_owned()),
            io::ErrorKind::NotADirectory => FileError::NotADirectory(target.to_owned()),
            _ => FileError::target(target, "open", cause),
        })?;
        if self.settings.fsync
            && let Ok(file) = File::open(by_descriptor(&to))
        {
            lock(&self.written).entry(id_of(&to_metadata).0).or_insert(file);
        }
        let acl = xattr::get_deref(by_descriptor(&to), DEFAULT_ACL);
        let opened = Opened {
            source: from.into(),
            metadata,
            target: to.into(),
            target_id: id_of(&to_metadata),
        };
        let origin = Origin::Outer { source: shown(source), target: shown(target) };
        let mut outer = Directory::new(origin, opened, false, matches!(acl, Ok(Some(_))));
        outer.stays = places.outer.len() < STAYING;
        let outer = Arc::new(outer);
        if !outer.stays {
            self.shelf.keep(&outer);
        }
        places.outer.insert(key, Arc::clone(&outer));
        Ok(outer)
    }

    /// An operand whose path is repeated in the target, with the directories on the way to it.
    fn descend(
        &self,
        places: &mut Places,
        top: &Path,
        target: &Path,
        mut names: Vec<CString>,
    ) -> Result<(Arc<Directory>, Entry), FileError> {
        let mut at = self.outer(places, top, target)?;
        let last = names.pop().unwrap_or_else(|| c".".to_owned());
        let mut so_far = PathBuf::new();
        for name in names {
            so_far.push(OsStr::from_bytes(name.to_bytes()));
            let key = (top.to_owned(), so_far.clone());
            at = match places.passed.get(&key) {
                Some(known) => Arc::clone(known),
                None => {
                    let mut entry = Entry::operand(name.clone(), name);
                    entry.passed = true;
                    let mut directory = self.make_directory(&at, &entry)?;
                    directory.passed = true;
                    directory.root = false;
                    let directory = Arc::new(directory);
                    at.hold();
                    self.keep_for_the_end(&directory);
                    self.shelf.keep(&directory);
                    places.passed.insert(key, Arc::clone(&directory));
                    directory
                }
            };
        }
        Ok((at, Entry::operand(last.clone(), last)))
    }
}

/// Tasks in groups, none of which go to the same place, or one into that of another: of what several have, that of
/// the last shall stay.
fn one_after_the_other(tasks: Vec<Task>) -> Vec<Vec<Task>> {
    let (mut groups, mut group) = (Vec::new(), Vec::new());
    // Where those of the last group go, and what these are in.
    let (mut places, mut above) = (HashSet::new(), HashSet::new());
    for task in tasks {
        // Without `.` and slashes that say nothing.
        let place: PathBuf = task.target.name().components().collect();
        let meets = above.contains(&place) || place.ancestors().any(|up| places.contains(up));
        if meets {
            groups.push(std::mem::take(&mut group));
            places.clear();
            above.clear();
        }
        above.extend(place.ancestors().map(Path::to_owned));
        places.insert(place);
        group.push(task);
    }
    groups.extend(Some(group).filter(|group| !group.is_empty()));
    groups
}

/// The names in a path that is made again in the target: those below the directory that it begins at, absolute or not.
///
/// # Errors
/// A path with `..` in it.
pub fn names_of(path: &Path) -> Result<Vec<CString>, FileError> {
    let mut names = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => names.push(c_string(name)),
            Component::ParentDir => return Err(FileError::LeadsOut(path.to_owned())),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(names)
}

/// The directory before the last name, and that name; the path itself and `.` where it ends in no
/// name.
pub fn split(path: &Path) -> (PathBuf, CString) {
    let bytes = path.as_os_str().as_bytes();
    let cut = bytes.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
    match &bytes[cut..] {
        b"" | b"." | b".." => (path.to_owned(), c".".to_owned()),
        name => {
            let above = if cut > 1 { &bytes[..cut - 1] } else { &bytes[..cut] };
            (PathBuf::from(OsStr::from_bytes(above)), c_string(OsStr::from_bytes(name)))
        }
    }
}

/// A path as it is put before names in messages.
pub fn shown(path: &Path) -> PathBuf {
    match path.as_os_str().as_bytes() {
        b"." => PathBuf::new(),
        _ => path.components().collect(), // which leaves out `.` and slashes at the end
    }
}

/// `dir/` is the directory `dir`.
pub fn without_slash(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let len = bytes.iter().rposition(|&byte| byte != b'/').map_or(bytes.len().min(1), |at| at + 1);
    PathBuf::from(OsStr::from_bytes(&bytes[..len]))
}

/// Paths from the system and from command lines have no zero byte, and one from a list is refused.
fn c_string(name: &OsStr) -> CString {
    let bytes = name.as_bytes();
    let len = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..len]).unwrap_or_default()
}

/// The directory that several operands go into.
fn directory_of(request: &Request) -> Result<&Path, FileError> {
    match &request.destination {
        Destination::Into(path)
        | Destination::Either(path)
        | Destination::Exactly(Endpoint::Path(path)) => {
            resolve::check_directory(path)?;
            Ok(path)
        }
        Destination::Exactly(Endpoint::Standard) => Err(FileError::NotADirectory("-".into())),
    }
}

/// The directories that listed names are relative to; that of the target is made.
fn both_directories(request: &Request) -> Result<(&Path, &Path), FileError> {
    let (Some(Endpoint::Path(source)), Some(target)) =
        (request.sources.first(), request.destination.path())
    else {
        return Err(FileError::NotADirectory("-".into()));
    };
    match std::fs::create_dir(target) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            return Err(FileError::target(target, "create directory", cause));
        }
        _ => {}
    }
    Ok((source, target))
}

/// The names in a list, one a line or between zero bytes; `-` is standard input.
///
/// # Errors
/// Where it cannot be read.
pub fn listed(list: &Path, from0: bool) -> Result<Vec<PathBuf>, FileError> {
    let mut bytes = Vec::new();
    let read = if list == Path::new("-") {
        io::stdin().lock().read_to_end(&mut bytes)
    } else {
        File::open(list).and_then(|mut file| file.read_to_end(&mut bytes))
    };
    read.map_err(|cause| FileError::Source {
        path: list.to_owned(),
        operation: "read the list",
        cause,
    })?;
    let end = if from0 { 0 } else { b'\n' };
    if !from0 && bytes.contains(&0) {
        let cause =
            io::Error::other("there is a zero byte in it: --from0 takes names between these");
        let (path, operation) = (list.to_owned(), "read the list");
        return Err(FileError::Source { path, operation, cause });
    }
    Ok(bytes
        .split(|&byte| byte == end)
        .filter(|name| !name.is_empty())
        .map(|name| PathBuf::from(OsStr::from_bytes(name)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_before_the_last_name() {
        for (path, above, name) in [
            ("a", "", "a"),
            ("a/b", "a", "b"),
            ("/a", "/", "a"),
            ("/", "/", "."),
            ("a/", "a/", "."),
            ("a/.", "a/.", "."),
            ("a/..", "a/..", "."),
            ("..", "..", "."),
            (".", ".", "."),
            ("a//b", "a/", "b"),
        ] {
            let (found, last) = split(Path::new(path));
            assert_eq!((found.to_str().unwrap(), last.to_str().unwrap()), (above, name), "{path}");
        }
    }

    #[test]
    fn what_goes_to_one_place_goes_there_in_turn() {
        let groups = |targets: &[&str]| -> Vec<usize> {
            let task = |target: &&str| Task {
                source: Endpoint::Standard,
                target: Endpoint::Path(target.into()),
            };
            let groups = one_after_the_other(targets.iter().map(task).collect());
            groups.iter().map(Vec::len).collect()
        };
        assert!(groups(&[]).is_empty());
        assert_eq!(groups(&["d/a", "d/b", "d/ab", "d/c/d"]), [4]);
        assert_eq!(groups(&["d/.", "d/."]), [1, 1]);
        assert_eq!(groups(&["d/a", "d/b", "d/a", "d/b", "d/c"]), [2, 3]);
        assert_eq!(groups(&["d/a", "d/./", "d/b"]), [1, 1, 1]); // into it, and beside
        assert_eq!(groups(&["d/a/b", "e", "d/a"]), [2, 1]);
    }

    #[test]
    fn slashes_at_the_end_go() {
        for (path, without) in [("a/", "a"), ("a//", "a"), ("/", "/"), ("//", "/"), ("a", "a")] {
            assert_eq!(without_slash(Path::new(path)), Path::new(without));
        }
    }
}
