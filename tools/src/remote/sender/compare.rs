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
    files: Mutex<VecDeque<Arc<Outgoing>>>,
    bell: Condvar,
}

impl Comparisons {
    /// Wakes those who wait, to look whether it is over.
    pub fn wake(&self) {
        self.bell.notify_all();
    }
}

impl Sender<'_, '_> {
    /// The receiver wants the checksum of a file.
    pub(super) fn compare(&self, number: u32) -> Result<(), Over> {
        let Some(file) = self.file(number) else { return Ok(()) };
        if !self.task.compares() || !file.ask() {
            return Err(self.breach("it asks for a checksum that it does not need"));
        }
        lock(&self.comparisons.files).push_back(file); // each once, and so many are under way
        self.comparisons.bell.notify_all();
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
            let Some(file) = file else { continue };
            match file.checksum(&self.session.work) {
                Ok(hash) => {
                    let hash = *hash.as_bytes();
                    self.session.send_now(&Message::Sum { file: file.number, hash })?;
                }
                Err(error) => {
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
