//! A directory in which things are made: it is open as long as somebody has something to do in it, and
//! gets its attributes when nobody has any more; before that, what the source does not have is removed, if that is asked
//! for. Of each directory that the sender is in, the names are kept that it has not told of: as many as there are here.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::geteuid;

use super::names::Coming;
use super::{Level, Position, Receiver, Spot};
use crate::copy::error::{FileError, said};
use crate::copy::tree::delete;
use crate::copy::tree::directory::open_directory;
use crate::copy::tree::enter::admit_owner;
use crate::copy::tree::entry::look;
use crate::copy::tree::filter::Rules;
use crate::copy::tree::list;
use crate::copy::tree::tally::Count;
use crate::remote::attributes;
use crate::remote::protocol::{Attributes, Entry, Naming};
use crate::remote::sender::DEPTH_MAX;
use crate::remote::session::{Over, lock};

/// See the module.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory.
    pub file: File,
    /// The path of what the operand goes into, for messages.
    path: Arc<PathBuf>,
    /// Where it is, from there on; none for that itself.
    pub way: Option<Arc<Way>>,
    /// The operand's place; none for that itself.
    pub outer: Option<Arc<Place>>,
    /// For which operand it is, and whether that went into a directory.
    pub operand: (u32, bool),
    /// The one that it is in, which is finished after it.
    _above: Option<Arc<Place>>,
    /// What is to be removed from it; nothing as long as not all of it is known.
    too_much: OnceLock<BTreeSet<CString>>,
    finish: Option<Finish>,
}

/// Names from an operand's place on: directories in one another share what is above them.
#[derive(Debug)]
pub(super) struct Way {
    above: Option<Arc<Way>>,
    name: CString,
}

impl Way {
    /// One name further than `above`.
    pub fn further(above: Option<&Arc<Self>>, name: &CStr) -> Arc<Self> {
        Arc::new(Self { above: above.cloned(), name: name.to_owned() })
    }

    /// The names, the outermost first.
    pub fn names(&self) -> Vec<&CStr> {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(way) = at {
            names.push(way.name.as_c_str());
            at = way.above.as_deref();
        }
        names.reverse();
        names
    }
}

impl Way {
    /// The path from the operand on, which is the first name.
    pub fn below_operand(&self) -> Vec<u8> {
        let names = self.names().into_iter().skip(1).map(CStr::to_bytes);
        names.collect::<Vec<_>>().join(&b'/')
    }
}

/// What is left to do when all in it is done.
#[derive(Debug)]
struct Finish {
    attributes: Attributes,
    preserve: bool,
    fresh: bool,
    /// Rights that its owner has only while it is filled.
    lent: u32,
    finished: Arc<Finished>,
}

/// What came of finishing directories.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// What failed.
    pub failures: Mutex<Vec<FileError>>,
    /// How many names were removed.
    pub deleted: Count,
    /// Whether it was broken off, or something could not be made: nothing is removed any more.
    pub broken_off: AtomicBool,
    /// What is left out stays, wherever it is.
    pub rules: Rules,
}

/// A name as the system's strings are.
pub(super) fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

impl Place {
    /// What an operand goes into.
    pub fn outer(file: File, path: PathBuf, operand: (u32, bool)) -> Self {
        Self {
            file,
            path: Arc::new(path),
            way: None,
            outer: None,
            operand,
            _above: None,
            too_much: OnceLock::new(),
            finish: None,
        }
    }

    /// The directory at `spot`, of which nothing is left to do.
    pub fn inner(spot: &Spot, file: File) -> Self {
        Self {
            file,
            path: Arc::clone(&spot.place.path),
            way: Some(Way::further(spot.place.way.as_ref(), &spot.name)),
            outer: Some(Arc::clone(spot.place.outer.as_ref().unwrap_or(&spot.place))),
            operand: spot.place.operand,
            _above: Some(Arc::clone(&spot.place)),
            too_much: OnceLock::new(),
            finish: None,
        }
    }

    /// Removes what the source does not have. Not before all that is made in it is there: what an earlier run left of
    /// that is among it.
    fn remove_too_much(&self, finish: &Finish) {
        let Some(too_much) = self.too_much.get().filter(|names| !names.is_empty()) else { return };
        let Finished { failures, deleted, broken_off, rules } = &*finish.finished;
        if broken_off.load(Ordering::Relaxed) {
            return;
        }
        let failed = |name: &CStr, cause| {
            let path = self.path_of(name);
            lock(failures).push(FileError::target(&path, "delete", cause));
        };
        match self.file.try_clone() {
            Ok(directory) => {
                let above = self.way.as_ref().map(|way| way.below_operand()).unwrap_or_default();
                let keep = |path: &[u8], is_directory| {
                    let is_here = !path.contains(&b'/');
                    let known = || !CString::new(path).is_ok_and(|name| too_much.contains(&name));
                    let whole = || match above.as_slice() {
                        b"" => path.to_owned(),
                        above => [above, b"/", path].concat(),
                    };
                    (is_here && known())
                        || (!rules.is_empty() && rules.excludes(&whole(), is_directory))
                };
                let result = delete::extra(&directory.into(), keep, |_| false);
                deleted.add(result.removed);
                result.failures.into_iter().for_each(|(name, cause)| failed(&name, cause));
            }
            Err(cause) => failed(c".", cause),
        }
    }

    fn path(&self) -> PathBuf {
        let mut path = self.path.as_path().to_owned();
        let names = self.way.as_ref().map(|way| way.names()).unwrap_or_default();
        path.extend(names.into_iter().filter(|name| *name != c".").map(os));
        path
    }

    /// The path of `name` in it, for messages.
    pub fn path_of(&self, name: &CStr) -> PathBuf {
        let path = self.path();
        if name == c"." { path } else { path.join(os(name)) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(finish) = self.finish.take() else { return };
        self.remove_too_much(&finish);
        let what = if finish.preserve {
            attributes::give(&self.file, &finish.attributes)
        } else {
            close_up(&self.file, &finish).err().map(mode_lost).into_iter().collect()
        };
        if !what.is_empty() {
            let path = self.path();
            lock(&finish.finished.failures).push(FileError::Attributes { path, what });
        }
    }
}

fn mode_lost(error: io::Error) -> String {
    format!("its mode ({})", said(&error))
}

/// Without `-p`, a new directory loses the rights that it needed while it was filled.
fn close_up(file: &File, finish: &Finish) -> io::Result<()> {
    let added = 0o700 & !finish.attributes.mode | finish.lent;
    if !finish.fresh || added == 0 {
        return Ok(());
    }
    let mode = file.metadata()?.mode() & 0o7777 & !added;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
}

impl Receiver<'_, '_> {
    /// Goes into a directory that the sender has entered, or is only passing through.
    pub(super) fn enter(
        &self,
        at: &mut Position,
        entry: &Entry,
        passing: bool,
    ) -> Result<(), Over> {
        let may =
            if passing { self.task.naming != Naming::Operands } else { self.task.wishes.recursive };
        if !may {
            return Err(self.breach("it sends a directory, where files were asked for"));
        }
        if at.stack.len() - at.base >= DEPTH_MAX {
            return Err(self.breach("its directories lie too deep in each other"));
        }
        let spot = self.spot(at, entry)?;
        let coming = if passing { Coming::Passing } else { Coming::Directory };
        self.check_wanted(spot.as_ref(), entry, coming)?;
        let source = match (&entry.name, at.stack.last()) {
            (Some(name), Some(level)) => level.source.join(os(name.as_c_str())),
            _ => at.source.clone(),
        };
        at.see(entry);
        let (place, unseen) = match spot {
            Some(spot) if self.task.check => self.check_directory(&spot, entry),
            Some(spot) => {
                let made = self.make_directory(&spot, entry, passing);
                made.map_err(|error| self.failed(&error)).ok()
            }
            None => None,
        }
        .unzip();
        let (place, unseen) = (place.map(Arc::new), unseen.unwrap_or_default());
        at.stack.push(Level { place, unseen, source });
        Ok(())
    }

    /// The sender is through with the directory that it has entered last.
    pub(super) fn leave(&self, at: &mut Position, complete: bool) -> Result<(), Over> {
        let level = if at.stack.len() > at.base { at.stack.pop() } else { None };
        let Some(Level { place, unseen, .. }) = level else {
            return Err(self.breach("it leaves a directory that it did not enter"));
        };
        let Some(place) = place else { return Ok(()) };
        let unseen = unseen.into_iter().filter(|name| !self.is_excluded(&place, name));
        if self.task.check {
            self.check_left(&place, unseen);
        } else if complete {
            let _ = place.too_much.set(unseen.collect()); // it is left once
        }
        Ok(())
    }

    fn is_excluded(&self, place: &Place, name: &CString) -> bool {
        let rules = &self.task.wishes.rules;
        if rules.is_empty() {
            return false;
        }
        let is_directory = look(&place.file, name, false).is_ok_and(|(_, found)| found.is_dir());
        let way = Way::further(place.way.as_ref(), name);
        rules.excludes(&way.below_operand(), is_directory)
    }

    /// Makes a directory, or opens the one that is there; gives also what may be too much in it. One that is only passed
    /// through loses nothing that was in it.
    fn make_directory(
        &self,
        spot: &Spot,
        entry: &Entry,
        passing: bool,
    ) -> Result<(Place, BTreeSet<CString>), FileError> {
        let (path, preserve) = (spot.path(), self.task.settings.preserve);
        let attributes = entry.attributes.clone();
        // Nobody else may look in until it has its own mode.
        let mode = if preserve { 0o700 } else { attributes.mode & 0o777 | 0o700 };
        let fresh = match spot.name.as_c_str() {
            name if name == c"." => false,
            name => match mkdirat(&spot.place.file, name, Mode::from_bits_truncate(mode)) {
                Ok(()) => true,
                Err(Errno::EEXIST) => false,
                Err(errno) => return Err(FileError::target(&path, "create directory", errno)),
            },
        };
        if self.task.settings.verbose {
            self.talk.copying(&spot.source, &path);
        }
        let mut lent = 0;
        let opened = open_directory(&spot.place.file, &spot.name, false);
        if fresh && !geteuid().is_root() && !opened.as_ref().is_ok_and(has_owners_rights) {
            // The umask, or an ACL that it inherited, has taken what it needs to be filled.
            lent = admit_owner(&spot.place.file, &spot.name).unwrap_or(0); // what needs it will tell
        }
        let opened = match opened {
            Err(Errno::EACCES) if lent != 0 => open_directory(&spot.place.file, &spot.name, false),
            opened => opened,
        };
        let directory = match opened {
            Ok(directory) => directory,
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(FileError::InTheWay(path)),
            Err(errno) => return Err(FileError::target(&path, "open", errno)),
        };
        if fresh {
            self.tally.directories.add(1);
        }
        let there = match self.task.wishes.delete && !fresh {
            true => names_in(&directory),
            false => Ok(BTreeSet::new()),
        };
        let there = there.map_err(|cause| FileError::target(&path, "read directory", cause))?;
        let file = File::from(directory);
        self.will_write(&file);
        let finished = Arc::clone(&self.finished);
        let mut place = Place::inner(spot, file);
        place.finish = (fresh || preserve || !passing).then_some(Finish {
            attributes,
            preserve,
            fresh,
            lent,
            finished,
        });
        Ok((place, there))
    }
}

fn has_owners_rights(directory: &OwnedFd) -> bool {
    fstat(directory).is_ok_and(|found| found.st_mode & 0o700 == 0o700)
}

impl Position {
    /// The sender has told of an entry.
    pub(super) fn see(&mut self, entry: &Entry) {
        if let (Some(name), Some(level)) = (&entry.name, self.stack.last_mut()) {
            level.unseen.remove(name.as_c_str());
        }
    }
}

/// The names in a directory.
pub(super) fn names_in(directory: &OwnedFd) -> io::Result<BTreeSet<CString>> {
    Ok(list::list(directory)?.into_iter().map(|entry| entry.name).collect())
}
