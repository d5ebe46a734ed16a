//! Several processes that copy the same trees together, as under `mpirun`: what each does.
//!
//! 1. The *leader* ([`prepare`]) goes through the trees before the others: it makes all directories, and stages
//!    each file that is to be divided under a temporary name, as long as it will be. With `--resume` it begins or
//!    goes on with a copy that has a [journal](crate::copy::unfinished), as one process does.
//! 2. Every *member*, the leader among them, goes through them again ([`share`]) and copies its shard of the
//!    files, and its range of each divided file ([`part`](super::part)).
//! 3. The leader ([`Prepared::conclude`]) gives what all members have filled its name and its attributes, removes
//!    what is not complete, and sets the attributes of the directories, deepest first.
//!
//! With `--resume`, each member reads in the journal what is claimed of its range, compares that, and copies the rest;
//! [records](super::records) of what it copies go to the leader, which alone writes the journal. So there is one
//! journal, whoever and however many began, and another number of members, or one process, can go on.
//!
//! So no member waits for another, and nothing that is not complete has its final name, whoever dies when:
//! small files too get their names when they are complete.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use nix::dir::Type;
use nix::fcntl::AtFlags;
use nix::sys::stat::fstatat;
use serde::{Deserialize, Serialize};

use super::context::{Context, Talk, lock};
use super::directory::{Directory, file_of};
use super::entry::{Became, Spot, set_blocking};
use super::list::Entry;
use super::records::{Recorder, Records};
use super::regular::Way;
use super::tally::Totals;
use super::wishes::Wishes;
use crate::copy::attributes;
use crate::copy::engine::{EngineName, Progress, Sparse};
use crate::copy::error::FileError;
use crate::copy::journal::{Header, Identity};
use crate::copy::manifest::Manifest;
use crate::copy::manifest_file::{self, Here};
use crate::copy::request::{Request, Settings};
use crate::copy::source::Source;
use crate::copy::sys::clone_file;
use crate::copy::target::{self, Target};
use crate::copy::unfinished;
use crate::copy::whole::Subtree;

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
    /// Its path in the target, the same for all members: a source may be copied to two.
    pub target: Vec<u8>,
    /// What it is called meanwhile, in the directory of the target; `None` where there is nothing left to do.
    pub temporary: Option<Vec<u8>>,
    /// In which state the leader saw it.
    pub state: Identity,
    /// Whether the checksums of the ranges are wanted, for a manifest.
    pub listed: bool,
    /// Whether it has a journal, by which a later run can go on with it.
    pub resumed: bool,
    /// Its number, from 0 on.
    pub number: u32,
}

/// A member's range of a divided file, which is done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Part {
    /// Which file.
    pub target: Vec<u8>,
    /// The BLAKE3 of it, where that is wanted.
    pub subtrees: Vec<Subtree>,
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
    records: Arc<Records>,
}

/// What a member did.
#[derive(Debug)]
pub struct Shared {
    /// Counted.
    pub totals: Totals,
    /// Its ranges that are done.
    pub parts: Vec<Part>,
    /// Checksums of the files that it copied as a whole, where they are asked for.
    pub manifest: Option<Manifest>,
}

/// A file that the leader has staged for all, or that needs no copy.
#[derive(Debug)]
pub struct Staged {
    /// What the others know of it.
    pub divided: Divided,
    /// Where it is.
    pub directory: Arc<Directory>,
    /// Its name there.
    pub entry: Entry,
    /// What is to get that name, if there is something to do.
    pub target: Option<Target>,
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
    /// The member `index` of `count`, from 0 on, whose `records` go to the leader.
    pub fn new(index: usize, count: usize, divided: Vec<Divided>, records: Arc<Records>) -> Self {
        let divided = divided.into_iter().map(|file| (file.target.clone(), file)).collect();
        Self { index, count, divided, parts: Mutex::default(), records }
    }

    /// Who makes records of the file of that number.
    pub fn recorder(&self, number: u32, header: Header) -> Recorder {
        Recorder { records: Arc::clone(&self.records), number, header }
    }

    /// Its range of a file of `len` bytes.
    pub fn range(&self, len: u64) -> Range<u64> {
        range_of(self.index, self.count, len)
    }

    /// Takes note of a range that is done.
    pub fn done(&self, part: Part) {
        lock(&self.parts).push(part);
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
    manifest_file::check_apart(request, Here::Both)?;
    context.team = Some(Duty::Lead(Lead::default()));
    context.manifest = request.manifest.is_some().then(Manifest::default);
    let later = context.take_operands(request)?;
    later.into_iter().for_each(|tasks| context.take_tasks(tasks));
    context.run();
    let mut divided = Vec::new();
    if let Some(Duty::Lead(lead)) = &context.team {
        divided.extend(lock(&lead.staged).iter().map(|staged| staged.divided.clone()));
        lock(&lead.held).iter().for_each(|directory| directory.close());
    }
    Ok((Prepared { context }, divided))
}

/// Step 2.
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
) -> Result<Shared, FileError> {
    let mut context = Context::new(settings, wishes, progress, talk, request.sources.len());
    context.team = Some(Duty::Share(share));
    context.manifest = request.manifest.is_some().then(Manifest::default);
    let later = context.take_operands(request)?;
    later.into_iter().for_each(|tasks| context.take_tasks(tasks));
    context.run();
    context.make_durable();
    let parts = match context.team.take() {
        Some(Duty::Share(share)) => {
            share.parts.into_inner().unwrap_or_else(PoisonError::into_inner)
        }
        _ => Vec::new(),
    };
    Ok(Shared { manifest: context.manifest.take(), totals: context.tally.totals(), parts })
}

/// What step 1 has left to do.
#[derive(Debug)]
pub struct Prepared<'a> {
    context: Context<'a>,
}

impl Prepared<'_> {
    /// Writes down records of the divided file of that number, as members make them.
    pub fn append(&self, number: u32, records: &[u8]) {
        let Some(Duty::Lead(lead)) = &self.context.team else { return };
        let staged = lock(&lead.staged);
        let target = staged.get(number as usize).and_then(|staged| staged.target.as_ref());
        if let Some(unfinished) = target.and_then(Target::unfinished) {
            unfinished.append(records);
        }
    }

    /// Step 3: `parts` are those of each member, `complete` says that none of them failed anywhere. Gives the
    /// checksums of divided files too, where they are asked for.
    pub fn conclude(mut self, parts: &[Vec<Part>], complete: bool) -> (Totals, Option<Manifest>) {
        let lead = match self.context.team.take() {
            Some(Duty::Lead(lead)) => lead,
            _ => Lead::default(),
        };
        let by_target = |part: &'_ Part| (part.target.clone(), part.subtrees.clone());
        let done: Vec<HashMap<_, _>> =
            parts.iter().map(|parts| parts.iter().map(by_target).collect()).collect();
        for staged in lead.staged.into_inner().unwrap_or_else(PoisonError::into_inner) {
            let directory = Arc::clone(&staged.directory);
            if let Err(error) = self.context.complete(staged, &done) {
                self.context.failed(&directory, &error);
            }
        }
        let held = lead.held.into_inner().unwrap_or_else(PoisonError::into_inner);
        for directory in held.iter().rev() {
            if !complete {
                directory.incomplete.store(true, Ordering::Relaxed);
            }
            self.context.release(directory);
        }
        self.context.make_durable();
        let manifest = self.context.manifest.take();
        (self.context.tally.totals(), manifest)
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
                match share.divided.get(spot.target_path().as_os_str().as_bytes()) {
                    Some(Divided { temporary: None, listed: false, .. }) => Ok(Role::Nothing),
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
        let note = |target: Option<Target>, temporary, is_copy| {
            let path = spot.target_path().into_os_string().into_vec();
            let (state, listed) =
                (Identity::anywhere(metadata), is_copy && self.manifest.is_some());
            let (directory, entry) = (Arc::clone(spot.directory), spot.entry.clone());
            let resumed = target.as_ref().is_some_and(|target| target.unfinished().is_some());
            let mut staged = lock(&lead.staged);
            let number = staged.len() as u32; // DIVIDED_MAX, and a few that fail
            let divided = Divided { target: path, temporary, state, listed, resumed, number };
            staged.push(Staged { divided, directory, entry, target });
        };
        let failed = |_: &FileError| note(None, None, false);
        let old = match self.way(spot, file, metadata).inspect_err(failed)? {
            Way::Copy(old) => old,
            Way::Done(became) => {
                note(None, None, matches!(became, Became::Copied(_)));
                return Ok(());
            }
        };
        if settings.resume {
            let again = file.try_clone().map_err(|cause| spot.source_error("open again", cause));
            let settled = again.and_then(|file| {
                Source::opened(file, metadata.clone(), spot.source_path())?.settle()
            });
            settled.inspect_err(failed)?;
        }
        let target = self.stage_for_all(spot, metadata, old).inspect_err(failed)?;
        let shared = settings.wishes.reflink
            && settings.wishes.engine.is_none()
            && !settings.wishes.verify
            && settings.wishes.sparse == Sparse::Auto
            && clone_file(file, &target.file).is_ok();
        if shared {
            self.tally.bytes.add(metadata.len());
            self.progress.add(metadata.len());
            note(Some(target), None, true);
            return Ok(());
        }
        let sized = target.file.set_len(metadata.len());
        sized.map_err(|cause| spot.target_error("set the length of", cause)).inspect_err(failed)?;
        let shared = target.share();
        shared.map_err(|cause| spot.target_error("share", cause)).inspect_err(failed)?;
        let name = target.temporary_name().map(|name| name.to_bytes().to_vec());
        note(Some(target), name, true);
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
        let (path, preserve) = (spot.target_path(), self.settings.preserve);
        let resumed = target::resumed(Some(metadata), self.settings, true)
            .filter(|_| !unfinished::has_such(spot.source, spot.target, name));
        match resumed {
            None => Target::stage_named(directory, name, path, old, mode, preserve),
            some => Target::stage_in(directory, name, path, old, mode, preserve, some),
        }
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
