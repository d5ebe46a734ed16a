//! Files under registration.
//!
//! A device that has registered a mapped file keeps its pages, whatever becomes of the file. When somebody
//! truncates it the pages are taken out of it, and the device goes on writing into memory that nobody will
//! ever read: no error, no data. [`LeasedFile`] registers under a lease (`F_SETLEASE` of fcntl(2)): who opens or
//! truncates the file in conflict with it is made to wait, the registration is withdrawn, its user told, and
//! the lease let go, within the system's `lease-break-time` (`/proc/sys/fs`, 45 s).
//!
//! **This protects programs that cooperate**: those that use the file through this kernel, and open or truncate
//! it anew. What has the file open already keeps the lease from being taken at all. Other machines of a network
//! file system are not held up, nor is a file system that moves blocks by itself.
//!
//! # Which files
//! The kernel pins pages for long only where the file system need not write them back or move them: tmpfs,
//! hugetlbfs and memory files, and what is registered for reading alone. Files of other file systems are
//! refused ([`RegisterError::System`] or
//! [`Unsupported`](crate::RegisterError::Unsupported) say so), and so are files on persistent memory that are
//! mapped directly (FS-DAX), since truncating would free the very memory that the device writes to. A whole
//! persistent memory as a character device can be registered: [`DaxDevice`]. Where the device faults pages in on
//! demand ([`verbs::Access::ON_DEMAND`](crate::verbs::Access::ON_DEMAND)), any file can.

mod dax;
mod keeper;
mod lease;
mod mapping;
#[cfg(test)]
mod tests;

pub use dax::DaxDevice;
pub use keeper::{Event, LeasedFile, Withdrawn};
pub use mapping::Mapping;

use std::io;

use crate::RegisterError;

/// Why a file could not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// It is empty.
    #[error("an empty file has nothing to register")]
    Empty,
    /// The lease was refused.
    #[error("cannot take a lease of the file: {}", lease_refused(.0))]
    Lease(#[source] io::Error),
    /// Something else that the system refused.
    #[error("cannot {operation}: {cause}")]
    System {
        /// What was tried, as a verb.
        operation: &'static str,
        /// What the system said.
        cause: io::Error,
    },
    /// It could not be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

fn lease_refused(cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::EAGAIN) => "somebody else has it open".to_owned(),
        Some(libc::EACCES) => "it is another user's (CAP_LEASE is missing)".to_owned(),
        Some(libc::EINVAL) => "its file system, or its kind of file, has none".to_owned(),
        _ => cause.to_string(),
    }
}
