//! How work requests end.

use std::io;
use std::time::Duration;

/// The end of a work request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Completion {
    /// As it was posted with.
    pub id: u64,
    /// Immediate data that the peer sent along.
    pub immediate: Option<u32>,
    /// Bytes received.
    pub bytes: u32,
}

/// Why a work request has failed, or did not end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// It ended with an error; the queue pair takes no more requests.
    #[error("work request {id} failed: {status}")]
    Failed {
        /// As it was posted with.
        id: u64,
        /// What libibverbs calls the error.
        status: String,
    },
    /// Nothing ended in time.
    #[error("no work request ended in {0:?}")]
    TimedOut(Duration),
    /// The queue could not be asked.
    #[error("cannot poll the completion queue: {0}")]
    Poll(io::Error),
}
