//! [`Ranks`] by MPI, which only the thread that started it calls.

use std::fmt;

use mpi::Threading;
use mpi::environment::Universe;
use mpi::point_to_point::Status;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, Destination, MatchedReceiveVec, Source};

use super::{Kind, Message, Ranks};

/// All processes of this launch.
pub struct World {
    world: SimpleCommunicator,
    /// Ends MPI when dropped.
    _universe: Universe,
}

impl World {
    /// Starts MPI, once in a process; `None` where it cannot be.
    pub fn start() -> Option<Self> {
        let (universe, threads) = mpi::initialize_with_threading(Threading::Funneled)?;
        (threads >= Threading::Funneled)
            .then(|| Self { world: universe.world(), _universe: universe })
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "World({} of {})", self.index(), self.count())
    }
}

impl Ranks for World {
    fn index(&self) -> usize {
        self.world.rank() as usize // never negative
    }

    fn count(&self) -> usize {
        self.world.size() as usize
    }

    fn send(&self, to: usize, kind: Kind, bytes: &[u8]) {
        self.world.process_at_rank(to as i32).send_with_tag(bytes, kind as i32);
    }

    fn receive(&self) -> Option<Message> {
        let arrived = self.world.any_process().immediate_matched_probe()?;
        let (bytes, status): (Vec<u8>, Status) = arrived.matched_receive_vec();
        let kind = *Kind::ALL.get(status.tag() as usize)?; // nobody sends others
        Some(Message { from: status.source_rank() as usize, kind, bytes })
    }

    fn abort(&self, status: u8) -> ! {
        self.world.abort(status.into())
    }
}
