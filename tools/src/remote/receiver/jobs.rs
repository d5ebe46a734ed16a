//! What is to be made, by whoever has time.

use std::collections::VecDeque;

use super::{Receiver, Spot};
use crate::remote::protocol::Message;
use crate::remote::session::{Over, lock, wait};

/// Jobs that wait; each has at most a small file's contents.
const JOBS_MAX: usize = 128;

/// What is to be made, in which directory, under which name.
pub(super) struct Job {
    pub spot: Spot,
    pub message: Message,
    /// Whether a file is the same as what is there, where that was found out.
    pub same: Option<bool>,
    /// And the checksum of it then.
    pub sum: Option<[u8; 32]>,
}

#[derive(Default)]
pub(super) struct Jobs {
    pub waiting: VecDeque<Job>,
    /// Taken and not done yet.
    pub under_way: usize,
}

impl Receiver<'_, '_> {
    /// Puts `job` where it gets done, when there is room.
    pub(super) fn push(&self, job: Job) -> Result<(), Over> {
        let jobs = lock(&self.jobs);
        let mut jobs =
            wait(self.session, &self.jobs_bell, jobs, |jobs| jobs.waiting.len() < JOBS_MAX)?;
        jobs.waiting.push_back(job);
        drop(jobs);
        self.jobs_bell.notify_all();
        Ok(())
    }

    /// Does jobs until it is over.
    pub(super) fn work(&self) -> Result<(), Over> {
        loop {
            let jobs = lock(&self.jobs);
            let mut jobs =
                wait(self.session, &self.jobs_bell, jobs, |jobs| !jobs.waiting.is_empty())?;
            let job = jobs.waiting.pop_front();
            jobs.under_way += 1;
            drop(jobs);
            self.jobs_bell.notify_all();
            let result = job.map_or(Ok(()), |job| self.make(job));
            lock(&self.jobs).under_way -= 1;
            self.jobs_bell.notify_all();
            result?;
        }
    }
}
