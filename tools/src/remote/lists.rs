//! What is to be copied, where paths below a directory name it, as the end knows that the user is at: those of a list
//! (`--files-from`) below the operand, those of the operands (`--parents`) below the directory that they begin at.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::protocol::{Naming, Relative};
use super::request::Wanted;
use crate::copy::error::FileError;
use crate::copy::tree::operands::{listed, names_of, shown};

/// Paths below one directory of the source.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct List {
    /// The directory.
    pub top: PathBuf,
    /// The paths, in order and each once.
    pub names: Vec<Relative>,
}

/// All that is named.
#[derive(Debug, Default)]
pub struct Lists {
    /// By the directories that the paths are below.
    pub lists: Vec<List>,
    /// What is no path that can be copied.
    pub failures: Vec<FileError>,
    /// Operands that were named twice.
    pub twice: Vec<PathBuf>,
}

impl Lists {
    /// What `wanted` names; nothing where operands do.
    ///
    /// # Errors
    /// A list that cannot be read.
    pub fn of(wanted: &Wanted) -> Result<Self, FileError> {
        let wishes = &wanted.task.wishes;
        let mut lists = Self::default();
        match (wanted.task.naming, &wishes.files_from) {
            (Naming::Listed, Some(list)) => {
                let top = wanted.sources.first().cloned().unwrap_or_default(); // there is one
                let paths = listed(list, wishes.from0)?;
                lists.add(top, paths.iter().map(PathBuf::as_path));
            }
            (Naming::Parents, _) => lists.add_operands(&wanted.sources),
            _ => {}
        }
        Ok(lists)
    }

    /// Adds operands: relative ones, and absolute ones.
    fn add_operands(&mut self, operands: &[PathBuf]) {
        let mut seen = HashSet::new();
        let mut once = Vec::new();
        for path in operands {
            let names = names_of(path).ok();
            if names.is_some_and(|names| !seen.insert((path.is_absolute(), names))) {
                self.twice.push(path.clone());
            } else {
                once.push(path.as_path());
            }
        }
        for (top, absolute) in [(".", false), ("/", true)] {
            let mut paths = once.iter().filter(|path| path.is_absolute() == absolute).peekable();
            if paths.peek().is_some() {
                self.add(top.into(), paths.copied());
            }
        }
    }

    /// Adds `paths` below `top`.
    fn add<'p>(&mut self, top: PathBuf, paths: impl Iterator<Item = &'p Path>) {
        let mut names = Vec::new();
        for path in paths {
            match relative(&top, path) {
                Ok(relative) => names.push(relative),
                Err(error) => self.failures.push(error),
            }
        }
        names.sort_unstable();
        names.dedup();
        self.lists.push(List { top, names });
    }
}

/// What a path says of what is below `top`.
fn relative(top: &Path, path: &Path) -> Result<Relative, FileError> {
    let names = names_of(path)?;
    let empty = names.iter().any(|name| name.is_empty());
    let names: Vec<&[u8]> = names.iter().map(|name| name.to_bytes()).collect();
    let names = names.join(&b'/');
    let relative = if empty { Err(()) } else { Relative::new(&names).map_err(|_| ()) };
    relative.map_err(|()| {
        let cause = if empty { libc::ENOENT } else { libc::ENAMETOOLONG };
        let cause = std::io::Error::from_raw_os_error(cause);
        let path = shown(top).join(OsStr::from_bytes(&names));
        FileError::Source { path, operation: "find", cause }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(paths: &[&str]) -> (Vec<String>, usize) {
        let mut lists = Lists::default();
        lists.add("top".into(), paths.iter().map(Path::new));
        let names = lists.lists[0].names.iter();
        let names = names.map(|name| String::from_utf8(name.as_bytes().to_vec()).unwrap());
        (names.collect(), lists.failures.len())
    }

    #[test]
    fn paths_are_put_in_the_order_of_a_tree_and_each_once() {
        let (found, failed) = names(&["b", "a-b", "/a/b/", "./a//b", "a", "../x", "a/..", "."]);
        assert_eq!(
            (found.as_slice(), failed),
            (["", "a", "a/b", "a-b", "b"].map(String::from).as_slice(), 2)
        );
        let long = "n".repeat(256);
        assert_eq!(names(&[&long, "a\0b/c", "\0x"]), (vec!["a/c".to_owned()], 2));
    }

    #[test]
    fn operands_begin_where_their_paths_do() {
        let mut lists = Lists::default();
        let operands = ["b/c", "/b/c", "./b//c", "../b", "a/", "/"].map(PathBuf::from);
        lists.add_operands(&operands);
        let found: Vec<_> = lists.lists.iter().map(|list| (&list.top, list.names.len())).collect();
        assert_eq!(found, [(&PathBuf::from("."), 2), (&PathBuf::from("/"), 2)]);
        assert_eq!((lists.twice, lists.failures.len()), (vec![PathBuf::from("./b//c")], 1));
    }

    proptest! {
        #[test]
        fn what_is_in_a_directory_follows_it(mut paths: Vec<String>) {
            paths.iter_mut().for_each(|path| path.retain(|c| c != '\0'));
            let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
            let mut lists = Lists::default();
            lists.add("top".into(), paths.iter().map(Path::new));
            let names = &lists.lists[0].names;
            prop_assert!(names.windows(2).all(|two| two[0] < two[1]));
            for (at, name) in names.iter().enumerate() {
                let inside = names.iter().skip(at).take_while(|other| other.below(name).is_some());
                let all = names.iter().filter(|other| other.below(name).is_some());
                prop_assert_eq!(inside.count(), all.count());
            }
        }
    }
}
