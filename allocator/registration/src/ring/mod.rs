//! Rings of slots between two machines: what one end puts into a slot lies in the same slot of the other.
//!
//! Each end has a queue pair and a ring of buffers in pool memory, registered once. Slots are used in order;
//! one may be written to as soon as the other end has given a key for it, and once for each key:
//!
//! ```text
//! SendRing                                       ReceiveRing
//!                                           ←    address and key of every slot
//!   write with immediate data, or a write   →    a receive request ends
//!   and a message                                takes the key back, then shows the bytes
//!                                           ←    the slot's next key, when they are used up
//! ```
//!
//! The words that go back, and where the ends are ([`Endpoint`](crate::verbs::Endpoint)), the caller carries
//! by a channel of his own, which should be authenticated: what RDMA itself has to connect two ends (its
//! connection manager) is not.
//!
//! **A peer cannot change what was accepted**: [`ReceiveRing::data`] is of a slot whose key was invalidated, or,
//! where the device has no memory windows, of a copy. It can write to slots that it has a key for, and nowhere
//! else; the sender gives its peer no rights at all. What a peer says is checked, and bounds nothing here:
//! memory is what this end's [`Shape`] says.

mod flow;
mod memory;
mod receive;
mod send;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bookend::units::Bytes;

pub use flow::{Credits, Turns};
pub use receive::ReceiveRing;
pub use send::SendRing;

use crate::RegisterError;
use crate::verbs::{Completion, QueuePair, WorkError};

/// How large a ring is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Slots, of which as many can be under way at once; 1 to [`Shape::SLOTS_MAX`].
    pub slots: u32,
    /// Bytes of a slot at most.
    pub slot: Bytes,
}

impl Shape {
    /// More slots are not made, and not taken from a peer.
    pub const SLOTS_MAX: u32 = 64;
    /// A message of RDMA has no more bytes.
    const SLOT_MAX: Bytes = Bytes::gib(1);

    fn check(self) -> Result<Self, RegisterError> {
        let slots = (1..=Self::SLOTS_MAX).contains(&self.slots);
        if slots && self.slot > Bytes::ZERO && self.slot <= Self::SLOT_MAX {
            return Ok(self);
        }
        let (most, longest) = (Self::SLOTS_MAX, Self::SLOT_MAX);
        Err(RegisterError::Unsupported {
            what: "a ring of slots",
            why: format!(
                "{} of {} were asked for: 1 to {most} of up to {longest} can be",
                self.slots, self.slot
            ),
        })
    }
}

/// How long something is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// No longer than that.
    pub limit: Duration,
    /// Nor any longer when this is true.
    pub stop: &'a AtomicBool,
}

/// Why a ring does not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// A request could not be posted.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A request failed, or did not end in time.
    #[error(transparent)]
    Work(#[from] WorkError),
    /// The peer does what it may not.
    #[error("the other end of the ring {0}")]
    Breach(&'static str),
    /// This end was told to stop waiting.
    #[error("stopped")]
    Stopped,
}

/// The end of the next request of `queue`.
fn next_end(queue: &QueuePair, patience: &Patience<'_>) -> Result<Completion, RingError> {
    /// Between two looks whether to stop.
    const STEP: Duration = Duration::from_millis(20);
    let since = Instant::now();
    loop {
        match queue.wait(STEP.min(patience.limit)) {
            Ok(completion) => return Ok(completion),
            Err(WorkError::TimedOut(_)) if patience.stop.load(Ordering::Acquire) => {
                return Err(RingError::Stopped);
            }
            Err(WorkError::TimedOut(_)) if since.elapsed() < patience.limit => {}
            Err(WorkError::TimedOut(_)) => return Err(WorkError::TimedOut(patience.limit).into()),
            Err(error) => return Err(error.into()),
        }
    }
}
