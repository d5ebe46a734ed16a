//! The mover: carries objects to other places, as the [protocol](super::protocol) says.
//!
//! One thread at a time moves in a heap. Objects are moved in *rounds*: a batch gets places, its
//! owners are asked, the mover waits for sessions, and then claims, copies and publishes a few objects
//! at a time. What somebody has got the address of meanwhile is tried again in later rounds, which are
//! smaller and [insist](super::protocol).

mod block;
mod extent;
mod group;
mod long_term;
mod round;
mod streaming;

pub use block::Closed;
pub(super) use round::Batch;

use std::time::{Duration, Instant};

use core::sync::atomic::Ordering::Relaxed;

use super::error::{MovableError, Obstacle};
use super::heap::Inner;
use super::tables::{NEVER, this_thread};
use super::threads::{in_session, settle, unsettle};
use crate::lock::Locked;
use crate::os::Os;
use crate::units::Bytes;

/// How much may be moved, and how long that may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    bytes: Bytes,
    until: Option<Instant>,
    patience: Duration,
}

impl Budget {
    /// How long the mover waits for the sessions of one round, unless told otherwise. Longer than a
    /// time slice, since a thread in a session may have lost its processor.
    pub const PATIENCE: Duration = Duration::from_millis(20);

    /// Without a limit, but for patience.
    pub const UNLIMITED: Self =
        Self { bytes: Bytes::new(u64::MAX), until: None, patience: Self::PATIENCE };

    /// At most that many bytes. The object that exceeds them is not begun.
    #[must_use]
    pub const fn bytes(self, bytes: Bytes) -> Self {
        Self { bytes, ..self }
    }

    /// At most that long from now. A copy that was begun is finished, which may take as long as
    /// copying a batch does (256 KiB, or one object).
    #[must_use]
    pub fn time(self, time: Duration) -> Self {
        Self { until: Instant::now().checked_add(time), ..self }
    }

    /// How long to wait for the sessions of one round.
    #[must_use]
    pub const fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Bytes left.
    pub const fn left(&self) -> Bytes {
        self.bytes
    }

    /// Whether nothing more may be done.
    pub fn is_spent(&self) -> bool {
        self.bytes == Bytes::ZERO || self.until.is_some_and(|until| Instant::now() >= until)
    }

    fn spend(&mut self, bytes: u64) {
        self.bytes = Bytes::new(self.bytes.get().saturating_sub(bytes));
    }

    /// Until when to wait for sessions.
    fn wait_until(&self) -> Instant {
        let patient = Instant::now() + self.patience;
        self.until.map_or(patient, |until| patient.min(until))
    }
}

/// What the mover did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Carried {
    /// Objects moved.
    pub objects: u64,
    /// Their bytes, with what their places have more than was asked for.
    pub bytes: Bytes,
    /// What kept the rest, if there is one, where it is.
    pub obstacle: Option<Obstacle>,
}

impl Carried {
    pub(super) fn add(&mut self, other: Self) {
        self.objects += other.objects;
        self.bytes = self.bytes + other.bytes;
        self.meet(other.obstacle);
    }

    /// Notes what is in the way. What is worth trying again at once comes before what is not, and
    /// that there is nothing left to try with before all.
    fn meet(&mut self, obstacle: Option<Obstacle>) {
        let weight = |obstacle| match obstacle {
            None => 0,
            Some(Obstacle::Budget) => 3,
            Some(Obstacle::InUse) => 2,
            Some(_) => 1,
        };
        if weight(obstacle) > weight(self.obstacle) {
            self.obstacle = obstacle;
        }
    }
}

/// The right to move: one thread's at a time.
pub(super) struct Moving<'a, O: Os> {
    heap: &'a Inner<O>,
    _turn: Locked<'a, ()>,
}

impl<O: Os> Inner<O> {
    /// Whether this thread may move: it would wait for itself in a callback or a session.
    pub(super) fn check_may_move(&self) -> Result<(), MovableError> {
        if self.tables.is_mover() {
            return Err(MovableError::InCallback);
        }
        if in_session() { Err(MovableError::InSession) } else { Ok(()) }
    }

    /// Waits for whoever moves.
    pub(super) fn begin_moving(&self) -> Result<Moving<'_, O>, MovableError> {
        self.check_may_move()?;
        let turn = self.mover.lock();
        self.tables.mover.store(this_thread(), Relaxed);
        unsettle(1);
        Ok(Moving { heap: self, _turn: turn })
    }
}

impl<O: Os> Drop for Moving<'_, O> {
    fn drop(&mut self) {
        self.heap.tables.insists.store(NEVER, Relaxed);
        self.heap.tables.mover.store(0, Relaxed);
        settle(1);
    }
}
