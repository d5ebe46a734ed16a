//! From the operands to pairs of source and target: the one question that the command line leaves
//! open is whether the destination is a directory.

use std::collections::HashSet;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::FileError;
use super::quote::quote;
use super::request::{Destination, Endpoint, Request};

/// One copy to make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Task {
    /// From.
    pub source: Endpoint,
    /// To.
    pub target: Endpoint,
}

/// The copies that `request` asks for, and sources that were named twice, which `cp` copies once.
///
/// # Errors
/// [`FileError`] where the destination of several sources is no directory, and where standard
/// input would need a name in one.
pub fn tasks(request: &Request) -> Result<(Vec<Task>, Vec<PathBuf>), FileError> {
    let directory = match &request.destination {
        Destination::Into(directory) => {
            check_directory(directory)?;
            Some(directory)
        }
        Destination::Either(path) if path.is_dir() => Some(path),
        Destination::Either(_) | Destination::Exactly(_) => None,
    };
    let Some(directory) = directory else {
        let target = match &request.destination {
            Destination::Exactly(end) => end.clone(),
            Destination::Either(path) | Destination::Into(path) => Endpoint::Path(path.clone()),
        };
        let tasks = request
            .sources
            .iter()
            .map(|source| Task { source: source.clone(), target: target.clone() });
        return Ok((tasks.collect(), Vec::new()));
    };
    let mut seen = HashSet::new();
    let mut tasks = Vec::new();
    let mut twice = Vec::new();
    for source in &request.sources {
        let Endpoint::Path(path) = source else {
            return Err(FileError::Nameless(directory.clone()));
        };
        if !seen.insert(path.as_os_str()) {
            twice.push(path.clone());
            continue;
        }
        tasks.push(Task {
            source: source.clone(),
            target: Endpoint::Path(name_in(directory, path)),
        });
    }
    Ok((tasks, twice))
}

/// What is said of a source that was named twice.
pub fn named_twice(path: &Path) -> String {
    format!("source {} was named twice and is copied once", quote(path))
}

/// Checks that it is one.
///
/// # Errors
/// Where it is missing or something else.
pub fn check_directory(directory: &Path) -> Result<(), FileError> {
    match std::fs::metadata(directory) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(FileError::NotADirectory(directory.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(FileError::NoDirectory(directory.to_owned()))
        }
        Err(error) => Err(FileError::target(directory, "look at", error)),
    }
}

/// The target for `source` in `directory`: by its last name, slashes at its end aside. What ends in
/// `.` or `..`, and `/` itself, stands for what is in it, and that goes into `directory` itself.
pub fn name_in(directory: &Path, source: &Path) -> PathBuf {
    let bytes = source.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
    let bytes = &bytes[..end];
    let name = bytes.rsplit(|&byte| byte == b'/').next().unwrap_or(bytes);
    let name = if matches!(name, b"" | b"..") { b"." } else { name };
    directory.join(std::ffi::OsStr::from_bytes(name))
}

#[cfg(test)]
mod tests {
    use super::super::options::Options;
    use super::*;

    fn request(arguments: &[&str]) -> Request {
        let line = ["hugecp"].iter().chain(arguments);
        Request::new(Options::read(line).unwrap()).unwrap()
    }

    fn targets(arguments: &[&str]) -> Vec<PathBuf> {
        tasks(&request(arguments)).unwrap().0.into_iter().map(|task| task.target.name()).collect()
    }

    #[test]
    fn a_directory_takes_files_in_and_a_file_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let d = dir.path().to_str().unwrap();
        assert_eq!(targets(&["x/a", d]), [dir.path().join("a")]);
        assert_eq!(targets(&["x/a", "/b", d]), [dir.path().join("a"), dir.path().join("b")]);
        assert_eq!(targets(&["-T", "x/a", d]), [dir.path()]);
        assert_eq!(targets(&["x/a", "nowhere/b"]), [Path::new("nowhere/b")]);
    }

    #[test]
    fn a_source_named_twice_is_copied_once() {
        let dir = tempfile::tempdir().unwrap();
        let request = request(&["a", "b", "a", dir.path().to_str().unwrap()]);
        let (tasks, twice) = tasks(&request).unwrap();
        assert_eq!((tasks.len(), twice), (2, vec![PathBuf::from("a")]));
    }

    #[test]
    fn what_is_no_directory_takes_no_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().to_str().unwrap();
        for (arguments, part) in [
            (["-t", "/nowhere/d", "a"], "does not exist: create it first"),
            (["-t", name, "a"], "is not a directory"),
            (["a", "b", name], "is not a directory"),
            (["-T", "-", "-"], ""), // no names at all: this one is fine
        ] {
            match tasks(&request(&arguments)) {
                Ok(_) => assert_eq!(part, "", "{arguments:?}"),
                Err(error) => assert!(error.to_string().contains(part), "{error}"),
            }
        }
        let error = tasks(&request(&["-", "/"])).unwrap_err().to_string();
        assert!(error.contains("standard input has no name"), "{error}");
    }
}
