//! Going to names below an operand: the directories on the way are opened, and told, once for all that is listed in
//! them, which the order of the names allows.
//!
//! A directory that is listed is sent with all that is in it, and what is listed in it as well was sent then, unless
//! something kept it from that: a pattern, a link, or another file system.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::names::Names;
use super::walk::{Spot, Stop, Walk, too_deep};
use super::{DEPTH_MAX, Operand, Sender};
use crate::copy::error::FileError;
use crate::copy::tree::operands::shown;
use crate::copy::tree::wishes::Follow;
use crate::remote::attributes::Carrier;
use crate::remote::protocol::{Message, Name, Relative};
use crate::remote::session::Over;

/// What names are below.
struct Top<'o> {
    directory: OwnedFd,
    operand: &'o Operand,
    /// In messages.
    path: PathBuf,
}

/// A directory on the way, open.
struct Passed {
    name: Name,
    directory: OwnedFd,
}

/// A directory that was sent with all that is in it.
struct Whole {
    way: Relative,
    device: u64,
}

impl Sender<'_, '_> {
    /// Sends what is listed below an operand. What fails is told, and the rest is sent.
    pub(super) fn walk_names(&self, operand: &Operand, walk: &mut Walk) -> Result<(), Over> {
        let mut names = Names::of(operand);
        let path = shown(&self.root.shown(&operand.path));
        let top = match self.root.directory(&operand.path) {
            Ok(directory) => Top { directory: directory.into(), operand, path },
            Err(cause) => {
                self.failed(&FileError::Source { path, operation: "open", cause });
                while names.next(self)?.is_some() {} // others may follow
                return Ok(());
            }
        };
        let mut way = Vec::new();
        let mut wholes: Vec<Whole> = Vec::new();
        while let Some(name) = names.next(self)? {
            while wholes.last().is_some_and(|whole| name.below(&whole.way).is_none()) {
                wholes.pop();
            }
            let whole = wholes.last();
            if whole.is_some_and(|whole| self.is_sent(&top, whole, &name)) {
                continue;
            }
            let entered = whole.map(|whole| whole.way.names().len());
            let device = self.or_tell(self.named(&top, &mut way, &name, entered, walk))?;
            if let Some(device) = device.flatten() {
                wholes.push(Whole { way: name, device });
            }
        }
        self.back(&mut way, 0)
    }

    /// Leaves directories on the way, until `depth` are left.
    fn back(&self, way: &mut Vec<Passed>, depth: usize) -> Result<(), Over> {
        while way.len() > depth {
            way.pop();
            self.session.send(&Message::Leave { complete: false })?;
        }
        Ok(())
    }

    /// Sends what has a name, with all that is in it; gives the device of a directory. Directories on the way that lie
    /// `entered` deep, or deeper, were sent before.
    fn named(
        &self,
        top: &Top<'_>,
        way: &mut Vec<Passed>,
        relative: &Relative,
        entered: Option<usize>,
        walk: &mut Walk,
    ) -> Result<Option<u64>, Stop> {
        let mut names = relative.names();
        let last = names.pop();
        let same = way.iter().zip(&names).take_while(|(passed, name)| passed.name == **name);
        let same = same.count();
        self.back(way, same)?;
        for at in same..names.len() {
            let again = entered.is_some_and(|entered| at + 1 >= entered);
            self.pass(top, way, &names[..=at], again, walk)?;
        }
        walk.passed = way.len();
        let spot = top.spot(way, &names, last.as_ref());
        let Some(level) = self.entry(&spot, walk)? else { return Ok(None) };
        let device = level.id.0;
        self.go_through(level, walk)?;
        Ok(Some(device))
    }

    /// Goes into the last of `names`, a directory on the way; `again` if it was sent before, and is to have its
    /// attributes afterwards, whatever is made in it now.
    fn pass(
        &self,
        top: &Top<'_>,
        way: &mut Vec<Passed>,
        names: &[Name],
        again: bool,
        walk: &mut Walk,
    ) -> Result<(), Stop> {
        let Some((name, above)) = names.split_last() else { return Ok(()) };
        let spot = top.spot(way, above, Some(name));
        if way.len() >= DEPTH_MAX {
            return Err(spot.error("go into", too_deep()));
        }
        let below = joined(Path::new(""), names);
        let directory =
            self.root.directory_below(&top.directory, &below, (spot.at, name.as_c_str()));
        let directory = File::from(directory.map_err(|errno| spot.error("open", errno))?);
        let metadata = directory.metadata().map_err(|cause| spot.error("stat", cause))?;
        let entry = self.described(&spot, walk, &metadata, Some(Carrier::Open(&directory)));
        if self.task.settings.verbose {
            self.talk.copying(&spot.path, &spot.shown);
        }
        self.session.send(&match again {
            true => Message::Enter { entry },
            false => Message::Pass { entry },
        })?;
        way.push(Passed { name: name.clone(), directory: directory.into() });
        Ok(())
    }

    /// Whether a name in a directory that was sent as a whole was sent with it.
    fn is_sent(&self, top: &Top<'_>, whole: &Whole, name: &Relative) -> bool {
        let Some(below) = name.below(&whole.way) else { return false };
        let wishes = &self.task.wishes;
        let path = Path::new(OsStr::from_bytes(name.as_bytes()));
        let follow = wishes.follow == Follow::Always;
        let there = self.root.look_below(&top.directory, path, follow).map(File::from);
        let Ok(metadata) = there.map_err(Into::into).and_then(|there| there.metadata()) else {
            return false; // why not will be told
        };
        if wishes.one_file_system && metadata.dev() != whole.device {
            return false;
        }
        let ends = below.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let excluded = ends.map(|end| (&below[..end], true)).chain([(below, metadata.is_dir())]);
        wishes.rules.is_empty()
            || !excluded.into_iter().any(|(path, is_dir)| wishes.rules.excludes(path, is_dir))
    }
}

impl Top<'_> {
    /// What is called `name` in the directory `above`, the last of those on the `way`; none for the top itself.
    fn spot<'a>(&'a self, way: &'a [Passed], above: &[Name], name: Option<&'a Name>) -> Spot<'a> {
        let (path, shown) = (joined(&self.path, above), joined(&self.operand.shown, above));
        let and = |path: PathBuf| match name {
            Some(name) => path.join(OsStr::from_bytes(name.as_c_str().to_bytes())),
            None => path,
        };
        Spot {
            at: way.last().map_or(&self.directory, |passed| &passed.directory),
            name: name.map_or(c".", Name::as_c_str),
            told: name.cloned(),
            named: true,
            listed: name.map(|_| (&self.directory, and(joined(Path::new(""), above)))),
            path: and(path),
            shown: and(shown),
            relative: Vec::new(),
        }
    }
}

fn joined(path: &Path, names: &[Name]) -> PathBuf {
    let mut path = path.to_owned();
    path.extend(names.iter().map(|name| OsStr::from_bytes(name.as_c_str().to_bytes())));
    path
}
