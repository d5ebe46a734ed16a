//! Files of which there is one as long already: both ends take the checksum of theirs at the same time, and only what
//! differs is sent.

use std::fs::File;

use super::jobs::Job;
use super::{FILES_MAX, Receiver, Spot};
use crate::copy::journal::Identity;
use crate::copy::manifest;
use crate::remote::protocol::{Entry, Message};
use crate::remote::session::{Over, lock};

/// A file that was offered, and what is there.
#[derive(Debug)]
pub(super) struct Candidate {
    pub spot: Spot,
    pub entry: Entry,
    identity: Identity,
    file: Option<File>,
    /// The checksum of what is there; of what cannot be read none.
    ours: Option<Option<blake3::Hash>>,
    theirs: Option<blake3::Hash>,
}

impl Candidate {
    /// `file` is there, and `identity` tells what is offered.
    pub fn new(spot: Spot, entry: Entry, identity: Identity, file: File) -> Self {
        Self { spot, entry, identity, file: Some(file), ours: None, theirs: None }
    }

    /// Whether the two are the same, if that is known.
    fn same(&self) -> Option<bool> {
        Some(self.ours? == Some(self.theirs?))
    }

    /// What is to be done then.
    fn job(self, number: u32, same: bool) -> Job {
        let identity = self.identity.to_bytes();
        let message = Message::File { entry: self.entry, file: number, identity };
        let sum = self.theirs.map(|theirs| *theirs.as_bytes());
        Job { spot: self.spot, message, same: Some(same), sum }
    }
}

impl Receiver<'_, '_> {
    /// Asks for the checksum of what is offered, and takes that of what is there.
    pub(super) fn ask(&self, number: u32, mut candidate: Candidate) -> Result<(), Over> {
        let Some(file) = candidate.file.take() else { return Ok(()) }; // it was made with one
        let len = candidate.identity.len();
        {
            let mut candidates = lock(&self.candidates);
            if candidates.len() >= FILES_MAX || candidates.insert(number, candidate).is_some() {
                drop(candidates);
                return Err(self.breach("it sends too many files at once"));
            }
        }
        self.session.send_now(&Message::Compare { file: number })?;
        let hash = manifest::hash(&file, len, &self.session.work).ok();
        drop(file);
        match self.note(number, |candidate| candidate.ours = Some(hash)) {
            Some(job) => self.make(job),
            None => Ok(()), // the other one is still to come, or it was given up
        }
    }

    /// The checksum of what is offered has come.
    pub(super) fn hear_sum(&self, number: u32, hash: [u8; 32]) -> Result<(), Over> {
        let hash = blake3::Hash::from_bytes(hash);
        match self.note(number, |candidate| candidate.theirs = Some(hash)) {
            Some(job) => self.push(job),
            None => Ok(()),
        }
    }

    /// Takes note of one of the two checksums; gives what is to be done when both are there.
    fn note(&self, number: u32, take: impl FnOnce(&mut Candidate)) -> Option<Job> {
        let mut candidates = lock(&self.candidates);
        let candidate = candidates.get_mut(&number)?;
        take(candidate);
        let same = candidate.same()?;
        candidates.remove(&number).map(|candidate| candidate.job(number, same))
    }
}
