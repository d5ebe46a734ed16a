//! Why memory could not be registered.

use std::io;

use bookend::units::Bytes;

/// Why memory could not be registered, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// The limit on locked memory is too low, and CAP_IPC_LOCK is missing.
    #[error(
        "registering {needed} exceeds the limit on locked memory ({limit}): raise RLIMIT_MEMLOCK \
         (ulimit -l) to that, or run with CAP_IPC_LOCK"
    )]
    LockedMemory {
        /// What is to be registered.
        needed: Bytes,
        /// The soft limit of this process.
        limit: Bytes,
    },
    /// More buffers than a ring can hold.
    #[error("{wanted} buffers are more than the {most} that one ring can register")]
    TooMany {
        /// After splitting at 1 GiB.
        wanted: usize,
        /// The kernel's limit.
        most: usize,
    },
    /// Nothing was to be registered.
    #[error("no memory was given to register")]
    Nothing,
    /// The ring has buffers already.
    #[error("the ring has registered buffers already; drop them first")]
    Busy,
    /// Anything else.
    #[error("cannot {operation}: {cause}")]
    System {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}
