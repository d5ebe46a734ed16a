//! Several processes of one launcher (`mpirun`, `srun`) that make one copy together.
//!
//! - [`launcher`]: whether there are others, by what launchers tell their processes.
//! - [`Ranks`]: messages between them. `mpi` (with the feature of that name) has them from MPI.
//! - [`words`]: what they tell each other.
//! - [`run`]: the copy; what each process does of it is [`team`](super::tree::team)'s.
//!
//! Messages go to the first process and from it, and none is waited for in the library, which would take a
//! processor for it: everybody looks, and sleeps in between.

pub mod launcher;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod run;
pub mod words;

use std::fmt;

/// What a message is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// From the first: what there is to do.
    Plan,
    /// To the first: files and bytes so far.
    Progress,
    /// To the first: what was done.
    Outcome,
    /// From the first: it is over.
    End,
    /// To the first, before what was done: checksums of files, as lines of a manifest.
    Checksums,
    /// To the first: records for the journal of a divided file.
    Records,
}

impl Kind {
    /// All of them, at their numbers.
    pub const ALL: [Self; 6] =
        [Self::Plan, Self::Progress, Self::Outcome, Self::End, Self::Checksums, Self::Records];
}

/// A message that has arrived.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who sent it.
    pub from: usize,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub bytes: Vec<u8>,
}

/// The processes of one launch, from one of them.
pub trait Ranks: fmt::Debug {
    /// Which one this is, from 0 on.
    fn index(&self) -> usize;

    /// How many there are.
    fn count(&self) -> usize;

    /// Sends `bytes`.
    fn send(&self, to: usize, kind: Kind, bytes: &[u8]);

    /// A message that has arrived, without waiting for one.
    fn receive(&self) -> Option<Message>;

    /// Ends all of them.
    fn abort(&self, status: u8) -> !;
}
