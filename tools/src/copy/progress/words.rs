//! What is said of a copy under way.

use std::time::Duration;

use bookend::units::Bytes;

use super::Phase;
use crate::cli::format;

/// What is known of a copy at a moment.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Snapshot {
    pub phase: Phase,
    /// Bytes copied of this run.
    pub copied: u64,
    /// Bytes to copy in this run, if every source has a length.
    pub total: Option<u64>,
    /// Bytes of this file that the device has, where that is asked for and known.
    pub durable: Option<u64>,
    /// Bytes a second, once there is something to measure.
    pub rate: Option<f64>,
    pub elapsed: Duration,
    /// Of a tree: files done, files seen ahead, and whether those are all.
    pub files: Option<(u64, u64, bool)>,
}

impl Snapshot {
    /// `3.2 GiB of 6 GiB (53%)`, `1.5 GiB/s`, `2 s left`, `1.1 GiB on disk`.
    pub fn words(&self) -> Vec<String> {
        let verb = match self.phase {
            Phase::Copying => "",
            Phase::Verifying => "verifying ",
            Phase::Syncing => "syncing ",
        };
        let mut words = Vec::new();
        if let Some((done, seen, all)) = self.files {
            let of = match (seen, all) {
                (0, false) => String::new(), // nobody looks ahead
                (_, true) => format!(" of {seen}"),
                (_, false) => format!(" of so far {seen}"),
            };
            words.push(format!("{done}{of} files"));
        }
        let copied = Bytes::new(self.copied);
        words.push(match self.total {
            Some(total) if total > 0 => {
                let percent = u128::from(self.copied) * 100 / u128::from(total);
                format!("{verb}{copied} of {} ({percent}%)", Bytes::new(total))
            }
            _ => format!("{verb}{copied}"),
        });
        if self.phase == Phase::Syncing {
            words.push(format!("{} so far", format::duration(self.elapsed)));
        } else if let Some(rate) = self.rate.filter(|rate| *rate >= 1.0) {
            words.push(format!("{}/s", Bytes::new(rate as u64)));
            if let Some(total) = self.total {
                words.push(format!("{} left", clock((total - self.copied) as f64 / rate)));
            }
        }
        if let Some(durable) = self.durable.filter(|_| self.phase != Phase::Verifying) {
            words.push(format!("{} on disk", Bytes::new(durable)));
        }
        words
    }
}

/// As many of `words` as there is room for, from the first on: a figure that is cut off is another one.
pub(super) fn fitting(words: &[String], columns: usize) -> String {
    let mut text = String::new();
    for word in words {
        let comma = if text.is_empty() { "" } else { ", " };
        if text.len() + comma.len() + word.len() <= columns {
            text.push_str(comma);
            text.push_str(word);
        }
    }
    text
}

/// Whole seconds below a minute: tenths would flicker.
fn clock(seconds: f64) -> String {
    if seconds < 60.0 {
        format!("{} s", seconds.ceil() as u64)
    } else {
        // A rate near zero must not overflow a Duration.
        format::duration(Duration::from_secs(seconds.min(1e9) as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(snapshot: &Snapshot) -> String {
        snapshot.words().join(", ")
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            phase: Phase::Copying,
            copied: 3 << 30,
            total: Some(6 << 30),
            durable: None,
            rate: Some(1.5 * (1u64 << 30) as f64),
            elapsed: Duration::from_secs(2),
            files: None,
        }
    }

    #[test]
    fn a_tree_has_its_files_too() {
        let tree = |files| words(&Snapshot { files: Some(files), ..snapshot() });
        assert!(tree((3, 8, true)).starts_with("3 of 8 files, 3 GiB of 6 GiB (50%)"));
        assert!(tree((3, 8, false)).starts_with("3 of so far 8 files, 3 GiB"));
        assert!(tree((3, 0, false)).starts_with("3 files, 3 GiB"));
    }

    #[test]
    fn a_line_has_bytes_rate_and_time_left() {
        assert_eq!(words(&snapshot()), "3 GiB of 6 GiB (50%), 1.5 GiB/s, 2 s left");
        let durable = Snapshot { durable: Some(1 << 30), ..snapshot() };
        assert!(words(&durable).ends_with("1 GiB on disk"), "{}", words(&durable));
        let unknown = Snapshot { total: None, ..snapshot() };
        assert_eq!(words(&unknown), "3 GiB, 1.5 GiB/s");
        let syncing = Snapshot { phase: Phase::Syncing, ..durable };
        assert_eq!(words(&syncing), "syncing 3 GiB of 6 GiB (50%), 2.00 s so far, 1 GiB on disk");
        let verifying = Snapshot { phase: Phase::Verifying, ..syncing };
        assert_eq!(words(&verifying), "verifying 3 GiB of 6 GiB (50%), 1.5 GiB/s, 2 s left");
    }

    #[test]
    fn odd_moments_do_not_divide_by_zero() {
        let stalled = Snapshot { rate: Some(0.0), ..snapshot() };
        assert_eq!(words(&stalled), "3 GiB of 6 GiB (50%)");
        let empty = Snapshot { copied: 0, total: Some(0), rate: None, ..snapshot() };
        assert_eq!(words(&empty), "0 B");
        assert_eq!(clock(f64::INFINITY), format::duration(Duration::from_secs(1_000_000_000)));
    }

    #[test]
    fn what_does_not_fit_is_left_out_as_a_whole() {
        let tree = Snapshot { files: Some((3, 8, true)), ..snapshot() };
        assert_eq!(fitting(&tree.words(), 60), words(&tree));
        assert_eq!(fitting(&tree.words(), 40), "3 of 8 files, 3 GiB of 6 GiB (50%)");
        assert_eq!(fitting(&tree.words(), 33), "3 of 8 files, 1.5 GiB/s, 2 s left");
        assert_eq!(fitting(&tree.words(), 5), "");
    }
}
