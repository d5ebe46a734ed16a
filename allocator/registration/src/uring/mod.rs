//! io_uring: memory that a ring knows by index.
//!
//! - [`FixedBuffers`]: all of a ring's buffers at once, on any kernel that has io_uring.
//! - [`Ring`]: a [registrar](crate::Registrar) on a table of slots, where buffers come and go one by one
//!   (Linux 5.19), and which other rings can [share](Ring::share) without pinning again (Linux 6.13).
//!
//! The kernel takes 1 GiB in a buffer at most, so longer memory is cut there.

mod fixed_buffers;
mod ring;
mod slots;
mod sys;

pub use fixed_buffers::FixedBuffers;
pub use ring::{Ring, RingBuffers, Sharing};

use std::io;

use bookend::units::Bytes;

use crate::pieces::Piece;
use crate::{RegisterError, memlock};

/// The kernel takes at most this much in one buffer.
const BUFFER_BYTES_MAX: Bytes = Bytes::gib(1);
/// `IORING_MAX_REG_BUFFERS` of io_uring/rsrc.c.
const BUFFERS_MAX: usize = 1 << 14;

/// What a refusal to register pieces means.
fn explain(cause: io::Error, pieces: &[Piece]) -> RegisterError {
    let needed = pieces.iter().fold(Bytes::ZERO, |sum, piece| sum + piece.len);
    match (cause.raw_os_error(), memlock::limit()) {
        // Rings count what they pin by user, so that others may have used up what the limit leaves.
        (Some(libc::ENOMEM), Some(limit)) if limit < needed + memlock::pinned() => {
            RegisterError::LockedMemory { needed: needed + memlock::pinned(), limit }
        }
        (Some(libc::EBUSY), _) => RegisterError::Busy,
        (Some(libc::EOPNOTSUPP | libc::EFAULT), _) => RegisterError::System {
            operation: "register buffers with the ring (files' pages that the file system may have to \
                        write back cannot be pinned for long: use tmpfs, hugetlbfs or a memory file)",
            cause,
        },
        _ => RegisterError::System { operation: "register buffers with the ring", cause },
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::{AsRawFd, BorrowedFd};

    use io_uring::IoUring;

    /// A ring, or nothing and the reason printed.
    pub fn ring() -> Option<IoUring> {
        IoUring::new(8)
            .map_err(|cause| {
                use std::io::Write;
                let name = std::thread::current().name().unwrap_or("a test").to_owned();
                let _ = writeln!(std::io::stderr(), "skipped: {name}: no io_uring here: {cause}");
            })
            .ok()
    }

    pub fn fd(ring: &IoUring) -> BorrowedFd<'_> {
        // SAFETY: the ring is open for as long as it is borrowed.
        #[allow(unsafe_code)]
        unsafe {
            BorrowedFd::borrow_raw(ring.as_raw_fd())
        }
    }
}
