//! What was done in a tree, counted.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Counters that all threads share.
#[derive(Debug, Default)]
pub struct Tally {
    /// Regular files copied.
    pub files: Count,
    /// Their bytes.
    pub bytes: Count,
    /// Directories made.
    pub directories: Count,
    /// Symbolic links made.
    pub symlinks: Count,
    /// Names linked to a file that was copied already.
    pub hard_links: Count,
    /// FIFOs, sockets and devices made.
    pub specials: Count,
    /// Targets left as they were.
    pub left: Count,
    /// Names removed from the target.
    pub deleted: Count,
    /// Big files, each by an engine.
    pub by_engine: Count,
    /// Ranges of files that several processes fill.
    pub parts: Count,
    /// Bytes that an earlier run had brought.
    pub resumed: Count,
    failures: Mutex<Vec<String>>,
}

/// A number that many threads count up.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// How many by now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters when all is done.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Regular files copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Directories made.
    pub directories: u64,
    /// Symbolic links made.
    pub symlinks: u64,
    /// Names linked to a file that was copied already.
    pub hard_links: u64,
    /// FIFOs, sockets and devices made.
    pub specials: u64,
    /// Targets left as they were.
    pub left: u64,
    /// Names removed from the target.
    pub deleted: u64,
    /// Ranges of files that several processes filled.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parts: u64,
    /// Of the bytes, those that an earlier run had brought, where that is known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resumed: u64,
    /// What could not be copied, and why.
    pub failures: Vec<String>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Totals {
    /// Adds what another process did.
    pub fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.directories += other.directories;
        self.symlinks += other.symlinks;
        self.hard_links += other.hard_links;
        self.specials += other.specials;
        self.left += other.left;
        self.deleted += other.deleted;
        self.parts += other.parts;
        self.resumed += other.resumed;
        self.failures.extend(other.failures);
    }
}

impl Tally {
    /// Takes note of a failure.
    pub fn failed(&self, why: String) {
        self.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(why);
    }

    /// Whether there was any.
    pub fn has_failures(&self) -> bool {
        !self.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).is_empty()
    }

    /// The sums.
    pub fn totals(self) -> Totals {
        Totals {
            files: self.files.get(),
            bytes: self.bytes.get(),
            directories: self.directories.get(),
            symlinks: self.symlinks.get(),
            hard_links: self.hard_links.get(),
            specials: self.specials.get(),
            left: self.left.get(),
            deleted: self.deleted.get(),
            parts: self.parts.get(),
            resumed: self.resumed.get(),
            failures: self.failures.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()),
        }
    }
}
