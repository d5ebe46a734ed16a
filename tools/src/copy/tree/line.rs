//! Small files on Btrfs: one thread makes them, and the others do all else meanwhile.
//!
//! New files are neighbours in its tree, and threads that make some at the same time hand the same leaf of it from
//! one processor's cache to the other's, and get less done than one. So the [first](super::pool) thread makes all
//! files and directories; others read the directories, open the sources of a few files and put them in a line for it, and
//! finish directories. It makes what it opens itself at once.

use std::fs::{File, Metadata};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::context::{Context, Work, lock};
use super::directory::{AHEAD, Directory};
use super::entry::Spot;
use super::list::Entry;
use crate::copy::error::FileError;

/// Files that are opened and made at a stretch.
const STRETCH: usize = 32;
/// Files that are opened before they are made.
const ROOM: usize = 192;
const _: () = assert!((ROOM + STRETCH) as u64 <= AHEAD); // the first thread opens some too

/// How many files are open, to be made by the first thread.
#[derive(Debug, Default)]
pub struct Line {
    open: Mutex<usize>,
    room: Condvar,
}

/// A few files of one directory, which they hold.
#[derive(Debug)]
pub struct Stretch {
    directory: Arc<Directory>,
    source: Arc<OwnedFd>,
    target: Arc<OwnedFd>,
    files: Vec<(Entry, Opened)>,
}

/// What became of opening a source.
#[derive(Debug)]
pub enum Opened {
    /// It is a regular file.
    File {
        /// Open for reading.
        file: File,
        /// What it was then.
        metadata: Metadata,
        /// Whether it was looked whether it has extended attributes, and it had none.
        is_bare: bool,
    },
    /// It has to be looked at: it may be anything.
    Unknown,
    /// It was not tried.
    Untried,
    /// It failed.
    Failed(FileError),
}

impl Line {
    /// Waits until there is room for so many more.
    fn enter(&self, files: usize) {
        let mut open = lock(&self.open);
        while *open + files > ROOM {
            open = self.room.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
        *open += files;
    }

    /// So many are made. Who waits is not woken before there is room for several times as many: to wake a processor
    /// takes as long as to make a file.
    fn leave(&self, files: usize) {
        let mut open = lock(&self.open);
        let before = *open;
        *open -= files;
        if before > ROOM / 2 && *open <= ROOM / 2 {
            drop(open);
            self.room.notify_all();
        }
    }
}

impl Context<'_> {
    /// Gets files of a directory made by the first thread.
    pub fn line_up(
        &self,
        directory: &Arc<Directory>,
        source: &Arc<OwnedFd>,
        target: &Arc<OwnedFd>,
        entries: Vec<Entry>,
    ) {
        let is_first = self.pool.is_first();
        let mut entries = entries.into_iter();
        while entries.len() > 0 {
            if !is_first {
                self.line.enter(entries.len().min(STRETCH));
            }
            let open = |entry: Entry| {
                let opened = self.open_ahead(Spot::new(directory, source, target, &entry));
                (entry, opened)
            };
            let files = entries.by_ref().take(STRETCH).map(open).collect();
            directory.hold();
            let (source, target) = (Arc::clone(source), Arc::clone(target));
            let stretch = Stretch { directory: Arc::clone(directory), source, target, files };
            match is_first {
                true => self.make_files(stretch),
                false => self.pool.push_next(Work::Make(stretch)),
            }
        }
    }

    /// Makes what was in the line.
    pub fn make_next(&self, stretch: Stretch) {
        let files = stretch.files.len();
        self.make_files(stretch);
        self.line.leave(files);
    }

    fn make_files(&self, stretch: Stretch) {
        let Stretch { directory, source, target, files } = stretch;
        for (entry, opened) in files {
            if self.is_cancelled() {
                break;
            }
            let spot = Spot::new(&directory, &source, &target, &entry);
            if let Err(error) = self.go_on(spot, opened) {
                self.failed(&directory, &error);
            }
        }
        self.release_aside(&directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_open_than_there_is_room_for() {
        let line = Line::default();
        (0..ROOM / STRETCH).for_each(|_| line.enter(STRETCH));
        std::thread::scope(|scope| {
            let last = scope.spawn(|| line.enter(1));
            assert!(!last.is_finished());
            (0..ROOM / STRETCH / 2).for_each(|_| line.leave(STRETCH));
            last.join().unwrap();
        });
        assert_eq!(*lock(&line.open), ROOM / 2 + 1);
    }
}
