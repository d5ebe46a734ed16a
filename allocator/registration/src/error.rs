//! Why memory could not be registered.

use std::io;

use bookend::pool::PoolError;
use bookend::units::{Bytes, PageSize};

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
        /// What is to be registered; what is registered already counts as well.
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
    /// A registrar has no room for so many more pieces.
    #[error(
        "{wanted} more registrations are wanted and {free} of {most} are free: drop some, or make room for more"
    )]
    Full {
        /// How many pieces the memory makes.
        wanted: usize,
        /// How many more there may be.
        free: usize,
        /// How many there may be.
        most: usize,
    },
    /// Nothing was to be registered.
    #[error("no memory was given to register")]
    Nothing,
    /// The ring has buffers already.
    #[error("the ring has registered buffers already; drop them first")]
    Busy,
    /// The device takes whole pages only.
    #[error(
        "cannot {operation}: the device refused {len} at {start:#x}, which does not begin and end on \
         pages of {page}: register whole pages ({cause})"
    )]
    Unaligned {
        /// What was tried.
        operation: &'static str,
        /// The first byte.
        start: usize,
        /// How long.
        len: Bytes,
        /// The pages there.
        page: PageSize,
        /// What the system said.
        cause: io::Error,
    },
    /// The device cannot do it.
    #[error("{what} cannot be had here: {why}")]
    Unsupported {
        /// What was wanted.
        what: &'static str,
        /// Why not, and what would be needed.
        why: String,
    },
    /// The memory could not be pinned.
    #[error("cannot hold the memory that is to be registered: {0}")]
    Pin(#[from] PoolError),
    /// Anything else.
    #[error("cannot {operation}: {cause}")]
    System {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        cause: io::Error,
    },
}

impl RegisterError {
    /// What the system said, where it was the system that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { cause, .. } | Self::Unaligned { cause, .. } => cause.raw_os_error(),
            Self::LockedMemory { .. } => Some(libc::ENOMEM),
            Self::Busy => Some(libc::EBUSY),
            _ => None,
        }
    }
}
