//! Several processes that copy the same trees together, as under `mpirun`: what each does.
//!
//! 1. The *leader* ([`prepare`]) goes through the trees before the others: it makes all directories, and stages
//!    each file that is to be divided under a temporary name, as long as it will be.
//! 2. Every *member*, the leader among them, goes through them again ([`share`]) and copies its shard of the
//!    files, and its range of each divided file into the staged one, which it finds in the directory that it has
//!    open anyway.
//! 3. The leader ([`Prepared::conclude`]) gives what all members have filled its name and its attributes, removes
//!    what is not complete, and sets the attributes of the directories, deepest first.
//!
//! So no member waits for another, and nothing that is not complete has its final name, whoever dies when:
//! small files too get their names when they are complete.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr};
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use nix::dir::Type;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use serde::{Deserialize, Serialize};

use super::context::{Context, Talk, lock};
use super::directory::{Directory, Side, file_of};
use super::entry::{Spot, set_blocking};
use super::list::Entry;
use super::regular::Way;
use super::tally::Totals;
use super::wishes::Wishes;
use crate::copy::attributes;
use crate::copy::engine::{EngineName, Progress, Sparse};
use crate::copy::error::FileError;
use crate::copy::fill::Fill;
use crate::copy::journal::Identity;
use crate::copy::request::{Conflict, Request, Settings};
use crate::copy::source::Source;
use crate::copy::sys::clone_file;
use crate::copy::target::Target;

/// From this length on a file is divided among the members.
pub const DIVIDED_BYTES: u64 = 64 << 20;
/// Members' ranges begin at multiples of this.
const RANGE_BYTES: u64 = 2 << 20;
/// Each takes a few descriptors of the leader until the end. Where there are more big files than this, whole ones
/// are work enough for everybody.
const DIVIDED_MAX: usize = 64;

/// A file that members fill together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Divided {
    /// Its path in the source, the same for all members.
    pub source: Vec<u8>,
    /// What it is called meanwhile, in the directory of the target; `None` where there is nothing left to do.
    pub temporary: Option<Vec<u8>>,
    /// In which state the leader saw it.
    pub state: Identity,
}

/// A member's range of a divided file, which is written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Which file.
    pub source: Vec<u8>,
}

/// What this process does in the team.
#[derive(Debug)]
pub enum Duty {
    /// Step 1, and later 3.
    Lead(Lead),
    /// Step 2.
    Share(Share),
}

/// What the leader has begun.
#[derive(Debug, Default)]
pub struct Lead {
    staged: Mutex<Vec<Staged>>,
    /// Directories that are not finished yet, each after the one that it is in.
    held: Mutex<Vec<Arc<Directory>>>,
}

/// What a member shares in.
#[derive(Debug)]
pub struct Share {
    index: usize,
    count: usize,
    divided: HashMap<Vec<u8>, Divided>,
    parts: Mutex<Vec<Part>>,
}

#[derive(Debug)]
struct Staged {
    divided: Divided,
    directory: Arc<Directory>,
    entry: Entry,
    target: Option<Target>,
}

/// What is done about a name that is no directory.
#[derive(Debug)]
pub enum Role<'a> {
    /// Nothing: another process does it.
    Nothing,
    /// It is copied.
    Copy,
    /// A range of it is.
    Part(&'a Share, &'a Divided),
}

/// The range of the member `index` of `count` in a file of `len` bytes; all of them together are the file.
pub fn range_of(index: usize, count: usize, len: u64) -> Range<u64> {
    let pieces = len.div_ceil(RANGE_BYTES);
    let edge = |index: usize| {
        let pieces = u128::from(pieces) * index as u128 / count.max(1) as u128;
        (pieces as u64).saturating_mul(RANGE_BYTES).min(len)
    };
    edge(index)..edge(index + 1)
}

impl Share {
    /// The member `index` of `count`, from 0 on.
    pub fn new(index: usize, count: usize, divided: Vec<Divided>) -> Self {
        let divided = divided.into_iter().map(|file| (file.source.clone(), file)).collect();
        Self { index, count, divided, parts: Mutex::default() }
    }
}

/// Step 1; the members need what is divided.
///
/// # Errors
/// Where the destination cannot be, so that nothing was done.
pub fn prepare<'a>(
    request: &Request,
    settings: &'a Settings,
    wishes: &'a Wishes,
    progress: Arc<Progress>,
    talk: &'a dyn Talk,
) -> Result<(Prepared<'a>, Vec<Divided>), FileError> {
    let mut context = Context::new(settings, wishes, progress, talk, request.sources.len());
    context.team = Some(Duty::Lead(Lead::default()));
    context.take_operands(request)?;
    context.run();
    let mut divided = Vec::new();
    if let Some(Duty::Lead(lead)) = &context.team {
        divided.extend(lock(&lead.staged).iter().map(|staged| staged.divided.clone()));
        lock(&lead.held).iter().for_each(|directory| directory.close());
    }
    Ok((Prepared { context }, divided))
}

/// Step 2: what this member did, and which parts it has written.
///
/// # Errors
/// As [`prepare`].
pub fn share(
    request: &Request,
    settings: &Settings,
    wishes: &Wishes,
    progress: Arc<Progress>,
    talk: &dyn Talk,
    share: Share,
) -> Result<(Totals, Vec<Part>), FileError> {
    let mut context = Context::new(settings, wishes, progress, talk, request.sources.len());
    context.team = Some(Duty::Share(share));
    context.take_operands(request)?;
    context.run();
    context.make_durable();
    let parts = match context.team.take() {
        Some(Duty::Share(share)) => {
            share.parts.into_inner().unwrap_or_else(PoisonError::into_inner)
        }
        _ => Vec::new(),
    };
    Ok((context.tally.totals(), parts))
}

/// What step 1 has left to do.
#[derive(Debug)]
pub struct Prepared<'a> {
    context: Context<'a>,
}

impl Prepared<'_> {
    /// Step 3: `parts` are those of each member, `complete` says that none of them failed anywhere.
    pub fn conclude(mut self, parts: &[Vec<Part>], complete: bool) -> Totals {
        let lead = match self.context.team.take() {
            Some(Duty::Lead(lead)) => lead,
            _ => Lead::default(),
        };
        let written: Vec<HashSet<&[u8]>> = parts
            .iter()
            .map(|parts| parts.iter().map(|part| part.source.as_slice()).collect())
            .collect();
        for staged in lead.staged.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let Staged { divided, directory, entry, target: Some(target) } = staged else {
                continue;
            };
            let missing = match divided.temporary {
                Some(_) => written.iter().position(|w| !w.contains(divided.source.as_slice())),
                None => None, // it was whole when it was staged
            };
            let result = match missing {
                Some(index) => {
                    let path = directory.path_of(Side::Target, entry.target());
                    Err(FileError::PartMissing { path, rank: index, count: parts.len() })
                }
                None => self.context.publish(&directory, &entry, &divided, target),
            };
            if let Err(error) = result {
                self.context.failed(&directory, &error);
            }
            self.context.progress.file_done();
        }
        let held = lead.held.into_inner().unwrap_or_else(PoisonError::into_inner);
        for directory in held.iter().rev() {
            if !complete {
                directory.incomplete.store(true, Ordering::Relaxed);
            }
            self.context.release(directory);
        }
        self.context.make_durable();
        self.context.tally.totals()
    }
}

impl Context<'_> {
    /// Keeps `directory` from being finished before the end, if this is the leader.
    pub fn keep_for_the_end(&self, directory: &Arc<Directory>) {
        if let Some(Duty::Lead(lead)) = &self.team {
            directory.hold();
            lock(&lead.held).push(Arc::clone(directory));
        }
    }

    /// Whether somebody else sets attributes of directories.
    pub fn is_member(&self) -> bool {
        matches!(self.team, Some(Duty::Share(_)))
    }

    /// Whether the leader has nothing to do with this, as far as that is known without opening it.
    pub fn is_for_members(&self, spot: Spot<'_>) -> bool {
        if !matches!(self.team, Some(Duty::Lead(_))) || spot.entry.passed {
            return false;
        }
        match spot.entry.kind {
            Some(Type::Directory) | None => false,
            Some(Type::Symlink) => !self.follows(spot.entry),
            Some(Type::File) => {
                fstatat(spot.source, &*spot.entry.name, AtFlags::AT_SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| stat.st_size.cast_unsigned() < DIVIDED_BYTES)
            }
            Some(_) => true,
        }
    }

    /// What this process does about `spot`.
    ///
    /// # Errors
    /// [`FileError`] of staging.
    pub fn role(
        &self,
        spot: Spot<'_>,
        file: &File,
        metadata: &Metadata,
        has_links: bool,
    ) -> Result<Role<'_>, FileError> {
        let big = metadata.is_file() && metadata.len() >= DIVIDED_BYTES;
        match &self.team {
            Some(Duty::Lead(lead)) => {
                if big && !has_links {
                    self.divide(lead, spot, file, metadata)?;
                }
                Ok(Role::Nothing)
            }
            Some(Duty::Share(share)) if big => {
                match share.divided.get(spot.source_path().as_os_str().as_bytes()) {
                    Some(Divided { temporary: None, .. }) => Ok(Role::Nothing),
                    Some(divided) => Ok(Role::Part(share, divided)),
                    None => Ok(self.by_shard(spot, metadata, has_links)),
                }
            }
            _ => Ok(self.by_shard(spot, metadata, has_links)),
        }
    }

    fn by_shard(&self, spot: Spot<'_>, metadata: &Metadata, has_links: bool) -> Role<'_> {
        if self.is_ours(spot, metadata, has_links) { Role::Copy } else { Role::Nothing }
    }

    /// Stages a big file for all members, where that can be.
    fn divide(
        &self,
        lead: &Lead,
        spot: Spot<'_>,
        file: &File,
        metadata: &Metadata,
    ) -> Result<(), FileError> {
        let settings = self.settings;
        let ways = [None, Some(EngineName::Direct), Some(EngineName::Buffered)];
        // Files of several operands could have one name; those that are operands have been looked at.
        let has_own_name = self.made.is_none() || spot.entry.root;
        let is_full = lock(&lead.staged).len() >= DIVIDED_MAX;
        if !ways.contains(&settings.wishes.engine) || settings.in_place || !has_own_name || is_full
        {
            return Ok(());
        }
        set_blocking(file).map_err(|errno| spot.source_error("read", errno))?;
        let note = |target: Option<Target>, temporary| {
            let source = spot.source_path().as_os_str().as_bytes().to_vec();
            let divided = Divided { source, temporary, state: Identity::anywhere(metadata) };
            let (directory, entry) = (Arc::clone(spot.directory), spot.entry.clone());
            lock(&lead.staged).push(Staged { divided, directory, entry, target });
        };
        let old = match self.way(spot, file, metadata) {
            Ok(Way::Copy(old)) => old,
            Ok(Way::Done(_)) => {
                note(None, None);
                return Ok(());
            }
            Err(error) => {
                note(None, None);
                return Err(error);
            }
        };
        let target = self.stage_for_all(spot, metadata, old).inspect_err(|_| note(None, None))?;
        let shared = settings.wishes.reflink
            && settings.wishes.engine.is_none()
            && !settings.wishes.verify
            && settings.wishes.sparse == Sparse::Auto
            && clone_file(file, &target.file).is_ok();
        if shared {
            self.tally.bytes.add(metadata.len());
            self.progress.add(metadata.len());
            note(Some(target), None);
            return Ok(());
        }
        let sized = target.file.set_len(metadata.len());
        sized
            .map_err(|cause| spot.target_error("set the length of", cause))
            .inspect_err(|_| note(None, None))?;
        let name = target.temporary_name().map(|name| name.to_bytes().to_vec());
        note(Some(target), name);
        Ok(())
    }

    fn stage_for_all(
        &self,
        spot: Spot<'_>,
        metadata: &Metadata,
        old: Option<Metadata>,
    ) -> Result<Target, FileError> {
        self.announce(spot.directory, spot.entry);
        let directory = file_of(spot.target)
            .map_err(|cause| spot.target_error("open the directory of", cause))?;
        let name = OsStr::from_bytes(spot.entry.target().to_bytes());
        let mode = attributes::new_mode(Some(metadata));
        Target::stage_named(directory, name, spot.target_path(), old, mode, self.settings.preserve)
    }

    /// Copies this member's range of a divided file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn part(
        &self,
        (share, divided): (&Share, &Divided),
        spot: Spot<'_>,
        file: File,
        metadata: Metadata,
    ) -> Result<(), FileError> {
        let range = range_of(share.index, share.count, metadata.len());
        if divided.state != Identity::anywhere(&metadata) {
            return Err(FileError::Changed(spot.source_path()));
        }
        let Some(Ok(name)) = divided.temporary.clone().map(CString::new) else { return Ok(()) };
        if !range.is_empty() {
            set_blocking(&file).map_err(|errno| spot.source_error("read", errno))?;
            let failed = |cause| spot.target_error("open what is staged for", cause);
            let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let there = openat(spot.target, &*name, flags, Mode::empty());
            let there = File::from(there.map_err(|errno| failed(errno.into()))?);
            let found = there.metadata().map_err(failed)?;
            if !found.is_file() || found.nlink() != 1 || found.len() != metadata.len() {
                return Err(failed(std::io::Error::other("it is not what was put there")));
            }
            set_blocking(&there).map_err(|errno| failed(errno.into()))?;
            self.fill_part(spot, file, metadata, there, range)?;
        }
        lock(&share.parts).push(Part { source: divided.source.clone() });
        Ok(())
    }

    fn fill_part(
        &self,
        spot: Spot<'_>,
        file: File,
        metadata: Metadata,
        there: File,
        range: Range<u64>,
    ) -> Result<(), FileError> {
        let source = Source::opened(file, metadata, spot.source_path())?;
        let target = Target::regular(there, spot.target_path());
        let progress = Progress::part_of(&self.progress);
        let fill =
            Fill { settings: self.settings, progress: &progress, monitor: None, fsync: false };
        let filled = fill.part(&source, &target, range.clone());
        // A server may say only now that it has no room, and the others shall see what was written.
        let filled = filled.and_then(|()| {
            let kept = target.file.sync_data();
            kept.map_err(|cause| spot.target_error("finish writing", cause))
        });
        match filled {
            Ok(()) => {
                self.tally.bytes.add(range.end - range.start);
                self.tally.parts.add(1);
            }
            Err(_) => progress.reset(), // none of it counts
        }
        filled
    }

    /// Gives a file that all members have filled its attributes and its name.
    fn publish(
        &self,
        directory: &Arc<Directory>,
        entry: &Entry,
        divided: &Divided,
        mut target: Target,
    ) -> Result<(), FileError> {
        let source_side = directory.fd(Side::Source, &self.shelf)?;
        let target_side = directory.fd(Side::Target, &self.shelf)?;
        let spot = Spot::new(directory, &source_side, &target_side, entry);
        let nofollow = if self.follows(entry) { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let source = openat(spot.source, &*entry.name, flags | nofollow, Mode::empty());
        let source = File::from(source.map_err(|errno| spot.source_error("open", errno))?);
        let metadata = source.metadata().map_err(|cause| spot.source_error("stat", cause))?;
        if Identity::anywhere(&metadata) != divided.state {
            return Err(FileError::Changed(spot.source_path()));
        }
        let lost = if self.settings.preserve {
            attributes::preserve(&target.file, &source, &metadata)
        } else {
            target.set_own_attributes()
        };
        if self.is_cancelled() {
            return Ok(()); // the user knows, and the staged file goes
        }
        if !target.commit(self.settings.conflict == Conflict::Leave)? {
            self.tally.left.add(1);
            return Ok(());
        }
        self.tally.files.add(1);
        if lost.is_empty() {
            return Ok(());
        }
        Err(FileError::Attributes { path: spot.target_path(), what: lost })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_all_members_are_the_file() {
        for len in [0, 1, RANGE_BYTES, DIVIDED_BYTES + 7, 5 * RANGE_BYTES - 1, u64::MAX] {
            for count in [1, 2, 3, 4, 7, 100] {
                let mut at = 0;
                for index in 0..count {
                    let range = range_of(index, count, len);
                    assert_eq!(range.start, at);
                    assert!(
                        range.start.is_multiple_of(RANGE_BYTES) || range.is_empty(),
                        "{range:?} of {len}"
                    );
                    at = range.end;
                }
                assert_eq!(at, len);
            }
        }
        let starts: Vec<_> = (0..4).map(|index| range_of(index, 4, 1 << 30).start).collect();
        assert_eq!(starts, [0, 256 << 20, 512 << 20, 768 << 20]);
    }
}
