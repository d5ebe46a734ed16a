//! Files with several names: the first name is copied, the others are linked to it once it is there.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

use super::place::{Place, Way};
use super::{Receiver, Spot};
use crate::copy::error::FileError;
use crate::copy::tree::directory::{Id, id_of, open_directory};
use crate::copy::tree::entry::{by_descriptor, look};
use crate::remote::attributes;
use crate::remote::protocol::{Entry, Message, Moment};
use crate::remote::sender::LINKS_MAX;
use crate::remote::session::lock;

/// By their numbers.
#[derive(Debug, Default)]
pub(super) struct Links {
    files: Mutex<HashMap<u64, State>>,
    /// Those of whose first name something else was left.
    left: Mutex<HashSet<u64>>,
    /// Bytes that names which wait take.
    waiting: AtomicU64,
    /// Checksums of those that were copied, where they are to be told.
    sums: Mutex<HashMap<u64, [u8; 32]>>,
}

/// A further name of a file.
pub(super) struct Further {
    pub spot: Spot,
    /// When the file was written, as its sender says.
    pub modified: Moment,
}

/// Bytes that names may take that wait for their file.
const WAITING_MAX: u64 = 64 << 20;

impl Further {
    fn bytes(&self) -> u64 {
        (size_of::<Self>() + self.spot.source.as_os_str().len() + self.spot.name.count_bytes())
            as u64
    }
}

/// What there is of a file with several names.
enum State {
    /// Nothing yet; these are to be linked to it.
    Awaited(Vec<Further>),
    /// It is there.
    Made(Made),
    /// It will not be.
    Failed,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("State")
    }
}

/// Where it is: directories are not kept open for it.
#[derive(Clone, Debug)]
struct Made {
    outer: Arc<Place>,
    way: Arc<Way>,
    id: Id,
}

impl Links {
    /// Those that wait for what does not come any more.
    pub fn take_awaiting(&self) -> Vec<Further> {
        let states = std::mem::take(&mut *lock(&self.files));
        let awaiting = |state| match state {
            State::Awaited(names) => names,
            State::Made(_) | State::Failed => Vec::new(),
        };
        states.into_values().flat_map(awaiting).collect()
    }

    /// Takes note of the checksum of a file that was announced.
    pub fn note_sum(&self, link: u64, sum: [u8; 32]) {
        if link != 0 {
            lock(&self.sums).insert(link, sum);
        }
    }

    /// The checksum of a file, if it was copied.
    pub fn sum(&self, link: u64) -> Option<[u8; 32]> {
        lock(&self.sums).get(&link).copied()
    }

    /// A file with several names is on its way. `false` where there are too many.
    pub fn announce(&self, message: &Message) -> bool {
        let Some(entry) = message.entry().filter(|_| !matches!(message, Message::Link { .. }))
        else {
            return true;
        };
        if entry.link != 0 {
            let mut links = lock(&self.files);
            links.entry(entry.link).or_insert(State::Awaited(Vec::new()));
            return links.len() <= LINKS_MAX;
        }
        true
    }
}

/// A name of a file of whose first name something else was left as it was.
fn left(spot: &Spot) -> FileError {
    let why = "the file whose name it is was not copied, since something newer, or else, has its first name; \
               copy it by itself";
    FileError::target(&spot.path(), "link", io::Error::other(why))
}

/// A name of a file that did not come.
pub(super) fn not_copied(spot: &Spot) -> FileError {
    let cause = io::Error::other("the file whose name it is was not copied");
    FileError::target(&spot.path(), "link", cause)
}

impl Receiver<'_, '_> {
    /// The file of this number is there, as `id`, or will not be.
    pub(super) fn settle(&self, link: u64, spot: &Spot, id: Option<Id>) {
        if link == 0 {
            return;
        }
        let state = match id {
            Some(id) => {
                let place = &spot.place;
                let outer = Arc::clone(place.outer.as_ref().unwrap_or(place));
                let way = Way::further(place.way.as_ref(), &spot.name);
                State::Made(Made { outer, way, id })
            }
            None => State::Failed,
        };
        let before = lock(&self.links.files).insert(link, state);
        if let Some(State::Awaited(waiting)) = before {
            for name in waiting {
                self.links.waiting.fetch_sub(name.bytes(), Ordering::Relaxed);
                self.link(link, name);
            }
        }
    }

    /// What stays where a file of `len` bytes was to go. Where that is no copy of it, as far as length and
    /// time tell, other names of the file are not linked to it.
    pub(super) fn stays(&self, spot: &Spot, entry: &Entry, len: u64) -> Option<Id> {
        let (_, there) = look(&spot.place.file, &spot.name, false).ok()?;
        let time = attributes::time(&entry.attributes.modified);
        let is_copy = there.len() == len && (there.mtime(), there.mtime_nsec()) == time;
        if entry.link != 0 && !is_copy {
            lock(&self.links.left).insert(entry.link);
        }
        Some(id_of(&there))
    }

    /// Makes another name of the file of this number, now or when it is there.
    pub(super) fn link(&self, link: u64, name: Further) {
        let made = match lock(&self.links.files).get_mut(&link) {
            Some(State::Awaited(waiting)) => {
                let bytes = name.bytes();
                if self.links.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes > WAITING_MAX {
                    self.breach("it names too much that is to be linked to what does not come");
                }
                return waiting.push(name);
            }
            Some(State::Made(made)) => Some(made.clone()),
            Some(State::Failed) | None => None,
        };
        let result = match made {
            Some(made) => self.make_link(link, &made, &name),
            None => Err(not_copied(&name.spot)),
        };
        if let Err(error) = result {
            self.failed(&error);
        }
    }

    fn make_link(&self, link: u64, made: &Made, name: &Further) -> Result<(), FileError> {
        let Further { spot, modified } = name;
        let path = spot.path();
        let failed =
            |cause: io::Error| FileError::target(&path, "find the file to link to, of", cause);
        let file = find(made).map_err(failed)?;
        let there = look(&spot.place.file, &spot.name, false);
        if matches!(&there, Ok((_, now)) if id_of(now) == made.id) {
            self.tally.left.add(1);
            return self.list_link(spot, link, &file); // it is one already
        }
        if lock(&self.links.left).contains(&link) {
            if there.is_err() {
                return Err(left(spot));
            }
            self.tally.left.add(1);
            return Ok(());
        }
        let from = by_descriptor(&file);
        let into = &spot.place.file;
        let made = self.put(spot, modified, "link", |name| {
            linkat(AT_FDCWD, from.as_str(), into, name, AtFlags::AT_SYMLINK_FOLLOW)
        })?;
        if !made {
            return Ok(());
        }
        self.tally.hard_links.add(1);
        self.list_link(spot, link, &file)
    }
}

/// Opens what was made, if it is still there.
fn find(made: &Made) -> io::Result<File> {
    let stale = || io::Error::from_raw_os_error(libc::ESTALE);
    let names = made.way.names();
    let (name, above) = names.split_last().ok_or_else(stale)?;
    let mut at = made.outer.file.try_clone()?;
    for name in above {
        at = open_directory(&at, name, false)?.into();
    }
    let (file, now) = look(&at, name, false)?;
    if id_of(&now) == made.id { Ok(file) } else { Err(stale()) }
}
