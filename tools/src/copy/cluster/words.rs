//! What the processes of one copy tell each other.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::Kind;
use crate::copy::engine::Progress;
use crate::copy::manifest::Manifest;
use crate::copy::tree::tally::Totals;
use crate::copy::tree::team::{Divided, Part};

/// What the first process tells the others.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Whether the destination was a directory before it began.
    pub into: bool,
    /// What is divided, by number.
    pub divided: Vec<Divided>,
}

/// What a process did.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Counted.
    pub totals: Totals,
    /// Ranges of divided files that are done.
    pub parts: Vec<Part>,
}

impl Outcome {
    /// Nothing, for this reason.
    pub fn failed(why: &str) -> Self {
        let totals = Totals { failures: vec![why.to_owned()], ..Totals::default() };
        Self { totals, parts: Vec::new() }
    }
}

/// What the first process has heard of all.
#[derive(Debug)]
pub struct Heard {
    /// What each did, once it has said so.
    pub outcomes: Vec<Option<Outcome>>,
    /// Checksums of files that were copied as a whole.
    pub manifest: Manifest,
    /// Whose checksums could not be read.
    garbled: HashSet<usize>,
}

impl Heard {
    /// Of `count` processes, nothing.
    pub fn new(count: usize) -> Self {
        let outcomes = (0..count).map(|_| None).collect();
        Self { outcomes, manifest: Manifest::default(), garbled: HashSet::new() }
    }

    /// Takes what a process says of what it did.
    pub fn take(&mut self, from: usize, kind: Kind, bytes: &[u8]) {
        let unread = "what it said of itself cannot be read";
        match kind {
            Kind::Checksums if !self.manifest.add_page(bytes) => {
                self.garbled.insert(from);
            }
            Kind::Outcome => {
                let read = serde_json::from_slice(bytes);
                let mut outcome: Outcome = read.unwrap_or_else(|_| Outcome::failed(unread));
                if self.garbled.contains(&from) {
                    outcome.totals.failures.push(unread.to_owned());
                }
                self.outcomes[from] = Some(outcome);
            }
            _ => {} // the others go the other way
        }
    }
}

/// As it is sent.
pub fn json(what: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(what).unwrap_or_default() // numbers and strings can always be written
}

/// Files and bytes, as they are sent.
pub fn news(progress: &Progress) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&progress.files().to_le_bytes());
    bytes[8..].copy_from_slice(&progress.copied().to_le_bytes());
    bytes
}

/// As they were sent.
pub fn news_of(bytes: &[u8]) -> [u64; 2] {
    let mut numbers = [0; 2];
    for (number, bytes) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        *number = bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte));
    }
    numbers
}

/// Records of the journal of the divided file of that number, as they are sent.
pub fn records(number: u32, records: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes()[..], records].concat()
}

/// As they were sent.
pub fn records_of(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, records) = bytes.split_first_chunk()?;
    Some((u32::from_le_bytes(*number), records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_are_read_as_they_were_sent() {
        let progress = Progress::default();
        progress.add(1 << 40);
        progress.file_done();
        assert_eq!(news_of(&news(&progress)), [1, 1 << 40]);
        assert_eq!(news_of(&[]), [0, 0]);
        let first = Progress::default();
        first.add_from_elsewhere([0, 0], [2, 10]);
        first.add_from_elsewhere([2, 10], [3, 4]); // an engine began again
        first.add_from_elsewhere([3, 4], [3, 12]);
        assert_eq!((first.files(), first.copied()), (3, 12));
    }

    #[test]
    fn records_are_read_as_they_were_sent() {
        assert_eq!(records_of(&records(7, b"abc")), Some((7, &b"abc"[..])));
        assert_eq!(records_of(b"abc"), None);
    }

    #[test]
    fn whose_checksums_cannot_be_read_has_failed() {
        let mut heard = Heard::new(2);
        heard.take(1, Kind::Checksums, b"nothing of a list\n");
        heard.take(1, Kind::Outcome, &json(&Outcome::default()));
        let failures = &heard.outcomes[1].as_ref().unwrap().totals.failures;
        assert!(failures.len() == 1 && failures[0].contains("cannot be read"), "{failures:?}");
        heard.take(0, Kind::Outcome, b"{");
        assert_eq!(heard.outcomes[0].as_ref().unwrap().totals.failures.len(), 1);
    }
}
