//! What all threads of a copy of trees share.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::directory::{Directory, Id, Shelf, Side};
use super::line::{Line, Stretch};
use super::links::Links;
use super::list::Entry;
use super::pool::Pool;
use super::tally::Tally;
use super::team::Duty;
use super::wishes::{Follow, Wishes};
use crate::copy::attributes;
use crate::copy::engine::Progress;
use crate::copy::error::FileError;
use crate::copy::limit::Limiter;
use crate::copy::manifest::Manifest;
use crate::copy::report::FileReport;
use crate::copy::request::Settings;

/// Who tells the user.
pub trait Talk: Sync {
    /// `source` is copied to `target` (`-v`).
    fn copying(&self, source: &Path, target: &Path);
    /// Something failed, which is no reason to stop.
    fn failed(&self, error: &FileError);
    /// What a comparison has found (`--check`).
    fn differs(&self, words: &str) {
        let _ = words; // who copies does not compare
    }
    /// Something worth knowing, which is no failure.
    fn remark(&self, words: &str);
    /// What an engine did (`--explain`).
    fn explain(&self, report: &FileReport);
}

/// Something to do in a directory; whoever makes it holds the directory.
#[derive(Debug)]
pub enum Work {
    /// Go into a directory of it.
    Enter(Arc<Directory>, Entry),
    /// Read it, and make work of what is in it.
    List(Arc<Directory>),
    /// Copy some of what is in it.
    Batch(Arc<Directory>, Vec<Entry>),
    /// Make files that are open.
    Make(Stretch),
    /// Copy a big file.
    Big(Arc<Directory>, Entry),
    /// Finish a directory, in which all is done.
    Finish(Arc<Directory>),
}

/// See the module.
pub struct Context<'a> {
    /// How files are copied.
    pub settings: &'a Settings,
    /// How trees are.
    pub wishes: &'a Wishes,
    /// Bytes copied, and whether to stop.
    pub progress: Arc<Progress>,
    /// Who tells the user.
    pub talk: &'a dyn Talk,
    /// What was done.
    pub tally: Tally,
    /// What there is to do.
    pub pool: Pool<Work>,
    /// Directories that are open.
    pub shelf: Shelf,
    /// Files with several names.
    pub links: Links,
    /// The rate of what no engine copies.
    pub limiter: Limiter,
    /// The permissions that new files do not get.
    pub umask: u32,
    /// Directories of the target: none of them is a source.
    pub targets: Mutex<HashSet<Id>>,
    /// Directories of the source, where what the target has too much is removed: none of them is that.
    pub sources: Mutex<HashSet<Id>>,
    /// Files made, where several operands could make the same.
    pub made: Option<Mutex<HashSet<Id>>>,
    /// Pairs of devices, and from which length on files on them are to share blocks.
    pub clones: Mutex<HashMap<(u64, u64), u64>>,
    /// Room for files that wait for the one thread that makes them, on Btrfs.
    pub line: Line,
    /// What this process does among several, if it is not alone.
    pub team: Option<Duty>,
    /// Checksums of what was copied, where they are asked for.
    pub manifest: Option<Manifest>,
    /// One open directory on every file system that was written to, for `--fsync`.
    pub written: Mutex<HashMap<u64, File>>,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("wishes", self.wishes).finish_non_exhaustive()
    }
}

/// Locks what stays whole whoever panics.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Context<'a> {
    /// For a run of `operands` trees.
    pub fn new(
        settings: &'a Settings,
        wishes: &'a Wishes,
        progress: Arc<Progress>,
        talk: &'a dyn Talk,
        operands: usize,
    ) -> Self {
        Self {
            settings,
            wishes,
            progress,
            talk,
            tally: Tally::default(),
            pool: Pool::default(),
            shelf: Shelf::new(),
            links: Links::default(),
            limiter: Limiter::new(settings.tuning.bwlimit),
            umask: attributes::umask(),
            targets: Mutex::default(),
            sources: Mutex::default(),
            made: (operands > 1).then(Mutex::default),
            clones: Mutex::default(),
            line: Line::default(),
            team: None,
            manifest: None,
            written: Mutex::default(),
        }
    }

    /// Whether the link that `entry` may be is followed.
    pub fn follows(&self, entry: &Entry) -> bool {
        match self.wishes.follow {
            _ if entry.passed => true,
            Follow::Always => true,
            Follow::Operands => entry.root,
            Follow::Never => false,
        }
    }

    /// Whether the user has stopped it.
    pub fn is_cancelled(&self) -> bool {
        self.progress.is_cancelled()
    }

    /// Takes note of a failure in `directory`, which is not complete then.
    pub fn failed(&self, directory: &Directory, error: &FileError) {
        directory.incomplete.store(true, Ordering::Relaxed);
        if error.is_cancelled() && self.is_cancelled() {
            return; // the user knows
        }
        self.talk.failed(error);
        self.tally.failed(error.to_string());
    }

    /// Says what is copied where to, if the user wants to know.
    pub fn announce(&self, directory: &Directory, entry: &Entry) {
        if self.settings.verbose {
            let source = directory.path_of(Side::Source, &entry.name);
            self.talk.copying(&source, &directory.path_of(Side::Target, entry.target()));
        }
    }

    /// One duty in `directory` is done; where it was the last, it is finished, and so on upwards.
    pub fn release(&self, directory: &Arc<Directory>) {
        if directory.release() {
            self.finish_up(directory);
        }
    }

    /// As [`release`](Self::release); if there is something left to do then, the others do it as soon as the first thread.
    pub fn release_aside(&self, directory: &Arc<Directory>) {
        if directory.release() {
            self.pool.push_aside(Work::Finish(Arc::clone(directory)));
        }
    }

    /// Finishes a directory in which all is done, and those that it is in as far as that was the last of them.
    pub fn finish_up(&self, directory: &Arc<Directory>) {
        let mut next = Some(Arc::clone(directory));
        let mut below: Option<[Arc<OwnedFd>; 2]> = None;
        while let Some(directory) = next {
            if directory.parent().is_some() {
                below = self.finish(&directory, below.as_ref());
            }
            directory.close();
            next = directory.parent().filter(|parent| parent.release()).cloned();
        }
    }
}
