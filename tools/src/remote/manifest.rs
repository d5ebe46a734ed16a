//! `--manifest` between machines: the end that writes tells which copies there are, where, and with which checksum, and
//! the one that the user is at puts them on its list, under the names that a copy on one machine would put there.
//!
//! The checksums are those of what the sender has read: of a small file in the message that brings it, of others with
//! the end of their pieces (see [`whole`](crate::copy::whole)).

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::protocol::{Naming, Onto, Relative};
use super::request::Wanted;
use crate::copy::manifest::Manifest;
use crate::copy::resolve::name_in;
use crate::copy::tree::operands::{shown, split, without_slash};

/// A copy, where it is, as both ends know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Of which operand it is, or below which.
    pub operand: u32,
    /// Whether that went into a directory.
    pub into: bool,
    /// Where it is in that.
    pub way: Relative,
    /// The BLAKE3 of all of it.
    pub hash: [u8; 32],
}

/// Who is told of copies.
pub trait Listing: Sync {
    /// There is a copy. Whether that can be.
    fn copied(&self, copied: Copied) -> bool;
}

/// The list of the end that the user is at.
#[derive(Debug)]
pub struct List<'a> {
    wanted: &'a Wanted,
    /// The operands, or what listed names are below.
    operands: &'a [PathBuf],
    /// What is on it.
    pub manifest: Manifest,
}

impl<'a> List<'a> {
    /// Of copies of `operands`, with nothing on it.
    pub fn new(wanted: &'a Wanted, operands: &'a [PathBuf]) -> Self {
        Self { wanted, operands, manifest: Manifest::default() }
    }
}

impl Listing for List<'_> {
    fn copied(&self, copied: Copied) -> bool {
        let Some(operand) = self.operands.get(copied.operand as usize) else { return false };
        let Some(path) = path(self.wanted, operand, copied.into, &copied.way) else { return false };
        self.manifest.add(path, copied.hash.into());
        true
    }
}

/// What a copy on one machine would call the target; `None` where there can be none.
fn path(wanted: &Wanted, operand: &Path, into: bool, way: &Relative) -> Option<PathBuf> {
    let target = &wanted.target;
    let below = |mut path: PathBuf| {
        path.extend(way.names().iter().map(|name| OsStr::from_bytes(name.as_c_str().to_bytes())));
        path
    };
    if wanted.task.naming != Naming::Operands {
        return Some(below(shown(&target.path)));
    }
    match target.onto {
        Onto::Into if !into => return None,
        Onto::Exactly if into => return None,
        _ => {}
    }
    let own = if into { name_in(&target.path, operand) } else { target.path.clone() };
    if wanted.request.trees.is_none() {
        return way.names().is_empty().then_some(own);
    }
    let (above, name) = split(&without_slash(&own));
    let mut path = shown(&above);
    if name.as_c_str() != c"." {
        path.push(OsStr::from_bytes(name.to_bytes()));
    }
    Some(below(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::copy::options::Options;

    #[test]
    fn copies_are_called_as_on_one_machine() {
        for (line, into, way, called) in [
            ("a h:b", false, "", Some("b")),
            ("a h:b", true, "", Some("b/a")),
            ("a h:b", false, "c", None),
            ("x/a h:./b/", true, "", Some("./b/a")),
            ("-r x/a h:./b//", true, "c/d", Some("./b/a/c/d")),
            ("-r a/ h:.", true, "c", Some("a/c")),
            ("-r a/. h:b/", true, "c", Some("b/c")),
            ("-T a h:b", true, "", None),
            ("-r -t h:b a", false, "c", None),
            ("-r a h:/b", false, "", Some("/b")),
            ("--files-from l a h:b/", false, "c/d", Some("b/c/d")),
            ("--files-from l a h:.", false, "c", Some("c")),
        ] {
            let options = Options::read(["hugecp"].into_iter().chain(line.split(' '))).unwrap();
            let wanted = Wanted::new(&options).unwrap().unwrap();
            let way = Relative::new(way.as_bytes()).unwrap();
            let found = path(&wanted, &wanted.sources[0], into, &way);
            assert_eq!(found.as_deref(), called.map(Path::new), "{line}");
        }
    }
}
