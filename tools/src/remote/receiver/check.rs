//! `--check`: what the sender tells of is compared with what is there, and nothing is written.
//!
//! The listening thread compares names, kinds and attributes; contents are for those who otherwise write them.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::fcntl::readlinkat;

use super::compare::Candidate;
use super::entries::{has_contents, open_same};
use super::place::{Place, names_in};
use super::{Position, Receiver, Spot};
use crate::copy::check::{Basics, words};
use crate::copy::error::said;
use crate::copy::journal::Identity;
use crate::copy::quote::quote;
use crate::copy::tree::directory::{id_of, open_directory};
use crate::copy::tree::entry::{by_descriptor, look};
use crate::remote::attributes::{self, Carrier};
use crate::remote::protocol::{Entry, ExtendedAttribute, Message};
use crate::remote::sender::LINKS_MAX;
use crate::remote::session::Over;

impl Receiver<'_, '_> {
    fn differs(&self, path: &Path, how: &str) {
        self.talk.differs(&format!("{}: {how}", quote(path)));
    }

    fn cannot(&self, path: &Path, what: &str, error: &io::Error) {
        self.differs(path, &format!("cannot {what}: {}", said(error)));
    }

    /// What has the name of an entry, if it is of its kind.
    fn check_kind_of(&self, spot: &Spot, entry: &Entry) -> Option<(File, Metadata)> {
        let (there, now) = match look(&spot.place.file, &spot.name, false) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.differs(&spot.path(), words::MISSING);
                return None;
            }
            Err(error) => {
                self.cannot(&spot.path(), "look at it", &error);
                return None;
            }
        };
        if (entry.attributes.mode ^ now.mode()) & libc::S_IFMT != 0 {
            self.differs(&spot.path(), words::OTHER_KIND);
            return None;
        }
        Some((there, now))
    }

    /// Compares a directory that the sender enters; gives it with the names in it, if it is there.
    pub(super) fn check_directory(
        &self,
        spot: &Spot,
        entry: &Entry,
    ) -> Option<(Place, BTreeSet<CString>)> {
        let (there, now) = self.check_kind_of(spot, entry)?;
        let directory = match open_directory(&there, c".", false) {
            Ok(directory) => directory,
            Err(errno) => {
                self.cannot(&spot.path(), "open it", &errno.into());
                return None;
            }
        };
        let names = names_in(&directory).unwrap_or_else(|error| {
            self.cannot(&spot.path(), "read it", &error);
            BTreeSet::new()
        });
        let file = File::from(directory);
        self.check_attributes(spot, entry, (&file, &now));
        Some((Place::inner(spot, file), names))
    }

    /// Tells of what the sender does not have in a directory.
    pub(super) fn check_left(&self, place: &Place, unseen: impl Iterator<Item = CString>) {
        unseen.for_each(|name| self.differs(&place.path_of(&name), words::TOO_MUCH));
    }

    /// Compares an entry that is no directory, but for its contents; gives where it is if these are to be compared.
    pub(super) fn check_entry(
        &self,
        at: &mut Position,
        message: &Message,
        spot: Option<Spot>,
    ) -> Result<Option<Spot>, Over> {
        let Some(entry) = message.entry() else { return Ok(None) };
        let Some(spot) = spot else { return Ok(None) };
        let Some((there, now)) = self.check_kind_of(&spot, entry) else { return Ok(None) };
        if entry.link != 0 {
            if at.linked.len() >= LINKS_MAX {
                return Err(self.breach("it has more hard links than can be"));
            }
            if *at.linked.entry(entry.link).or_insert(id_of(&now)) != id_of(&now) {
                self.differs(&spot.path(), words::NOT_LINKED);
            }
        }
        let path = spot.path();
        let len = match message {
            Message::Small { content, .. } => Some(content.0.len() as u64),
            Message::File { identity, .. } => Some(Identity::from_bytes(identity).len()),
            Message::Symlink { text, .. } => {
                if !readlinkat(&there, c"").is_ok_and(|there| there.as_bytes() == text.0) {
                    self.differs(&path, words::LEADS_ELSEWHERE);
                }
                None
            }
            Message::Node { device, .. } => {
                if *device != now.rdev() {
                    self.differs(&path, words::OTHER_DEVICE);
                }
                None
            }
            _ => None, // another name of what was compared
        };
        if !matches!(message, Message::Link { .. }) {
            self.check_attributes(&spot, entry, (&there, &now));
        }
        let Some(len) = len else { return Ok(None) };
        self.tally.files.add(1);
        if len != now.len() {
            self.differs(&path, &words::other_length(now.len(), len));
            return Ok(None);
        }
        self.tally.bytes.add(len);
        Ok(Some(spot))
    }

    fn check_attributes(&self, spot: &Spot, entry: &Entry, (there, now): (&File, &Metadata)) {
        if !self.task.settings.preserve {
            return;
        }
        let (path, theirs) = (spot.path(), &entry.attributes);
        let source = Basics {
            mode: theirs.mode,
            owner: (theirs.uid, theirs.gid),
            modified: (theirs.modified.seconds, i64::from(theirs.modified.nanoseconds)),
        };
        for how in Basics::of(now).differences(&source) {
            self.differs(&path, &how);
        }
        if !now.is_file() && !now.is_dir() {
            return;
        }
        // What is open as a place only has no attributes by its descriptor.
        let file = match File::open(by_descriptor(there)) {
            Ok(file) => file,
            Err(error) => return self.cannot(&path, "read its extended attributes", &error),
        };
        let mut lost = Vec::new();
        let ours = attributes::collect(now, Some(Carrier::Open(&file)), &mut lost);
        if !lost.is_empty() || sorted(&ours.xattrs) != sorted(&theirs.xattrs) {
            self.differs(&path, words::OTHER_XATTRS);
        }
    }

    /// Compares the contents of a regular file of the same length, whose checksums are the `same` if that is known.
    pub(super) fn check_contents(
        &self,
        spot: Spot,
        message: Message,
        same: Option<bool>,
    ) -> Result<(), Over> {
        let path = spot.path();
        let file = match look(&spot.place.file, &spot.name, false) {
            Ok((_, now)) => open_same(&spot, &now),
            Err(_) => None,
        };
        match (message, file, same) {
            (Message::File { file: number, .. }, _, Some(same)) => {
                if !same {
                    self.differs(&path, words::OTHER_CONTENTS);
                }
                self.session.send_now(&Message::Skip { file: number })
            }
            (Message::File { entry, file: number, identity }, Some(file), None) => {
                let identity = Identity::from_bytes(&identity);
                self.session.progress.add(identity.len());
                self.ask(number, Candidate::new(spot, entry, identity, file))
            }
            (Message::Small { content, .. }, Some(file), _) => {
                if !has_contents(&file, &content.0) {
                    self.differs(&path, words::OTHER_CONTENTS);
                }
                self.session.progress.add(content.0.len() as u64);
                Ok(())
            }
            (message, None, _) => {
                self.differs(&path, "cannot be read, or was exchanged meanwhile");
                match message {
                    Message::File { file, .. } => self.session.send_now(&Message::Skip { file }),
                    _ => Ok(()),
                }
            }
            _ => Ok(()), // nothing else has contents
        }
    }
}

fn sorted(xattrs: &[ExtendedAttribute]) -> Vec<(&[u8], &[u8])> {
    let pairs = xattrs.iter().map(|xattr| (xattr.name.0.as_slice(), xattr.value.0.as_slice()));
    let mut pairs: Vec<_> = pairs.collect();
    pairs.sort_unstable();
    pairs
}
