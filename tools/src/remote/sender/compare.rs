//! Checksums of whole files, for a receiver that has one as long and wants to know whether it is the same.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};

use super::Sender;
use super::pieces::Outgoing;
use crate::copy::error::FileError;
use crate::copy::manifest::HashError;
use crate::remote::protocol::Message;
use crate::remote::session::{Over, lock, wait};

/// Files whose checksums are wanted.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    files: Mutex<VecDeque<(Arc<Outgoing>, What)>>,
    bell: Condvar,
}

/// What a checksum is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// The receiver compares it, before anything is sent.
    Comparison,
    /// It is told with the end of the file, all of which was sent.
    End,
}

impl Comparisons {
    /// Adds a file: for each purpose once, and so many are under way.
    pub fn push(&self, file: Arc<Outgoing>, what: What) {
        lock(&self.files).push_back((file, what));
        self.bell.notify_all();
    }

    /// Wakes those who wait, to look whether it is over.
    pub fn wake(&self) {
        self.bell.notify_all();
    }
}

impl Sender<'_, '_> {
    /// The receiver wants the checksum of a file.
    pub(super) fn compare(&self, number: u32) -> Result<(), Over> {
        let Some(file) = self.file(number) else { return Ok(()) };
        if !(self.task.compares() || self.task.sums) || !file.ask() {
            return Err(self.breach("it asks for a checksum that it does not need"));
        }
        self.comparisons.push(file, What::Comparison);
        Ok(())
    }

    /// Takes checksums until it is over.
    pub(super) fn compare_files(&self) -> Result<(), Over> {
        loop {
            let files = lock(&self.comparisons.files);
            let mut files =
                wait(self.session, &self.comparisons.bell, files, |files| !files.is_empty())?;
            let file = files.pop_front();
            drop(files);
            let Some((file, what)) = file else { continue };
            let hash = match what {
                What::Comparison => file.checksum(&self.session.work),
                What::End => file.whole(&self.session.work),
            };
            match (hash, what) {
                (Ok(hash), What::End) => self.end(&file, Some(hash))?,
                (Ok(hash), What::Comparison) => {
                    let hash = *hash.as_bytes();
                    self.session.send_now(&Message::Sum { file: file.number, hash })?;
                }
                (Err(error), _) => {
                    self.failed(&error);
                    self.abandon(&file)?;
                }
            }
        }
    }
}

/// Why a file has no checksum.
pub(super) fn without_checksum(path: std::path::PathBuf, error: HashError) -> FileError {
    let cause = match error {
        HashError::Read(cause) => cause,
        HashError::Cancelled => std::io::ErrorKind::Interrupted.into(),
    };
    FileError::Source { path, operation: "read, for its checksum,", cause }
}
