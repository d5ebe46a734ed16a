//! Who has a thread's heap: a thread, nobody, or somebody who looks after it for a moment.
//!
//! ```text
//!   Active --retire--> Retired --visit--> Visited --leave--> Retired
//!                         \--adopt--> Active
//! ```
//!
//! # Nothing is left lying
//! Whoever frees into a slab of a heap changes the heap's list and then asks whether it is retired;
//! whoever retires or leaves it says so, and then changes the list by a `fetch_or` of nothing to see
//! whether it is empty. Of the two changes one comes first. If it is the freeing thread's, the other
//! sees the list; if not, the freeing thread reads what the other wrote, and so sees that the heap is
//! retired. Hence, whenever no call is under way, a retired heap's list is empty.
//!
//! Generic over what an atomic word is, as [`remote`](super::remote), for the model checker.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use super::remote;
use crate::primitive::Atomic;

const ACTIVE: u32 = 0;
const RETIRED: u32 = 1;
const VISITED: u32 = 2;

/// The word that says who has it.
#[derive(Debug)]
pub(super) struct Holder<A>(A);

impl<A> Holder<A> {
    /// A thread has it; `word` is zero.
    pub const fn new(word: A) -> Self {
        Self(word)
    }
}

impl<A: Atomic<u32>> Holder<A> {
    pub fn is_retired(&self) -> bool {
        self.0.load(Acquire) == RETIRED
    }

    /// The thread leaves it. Afterwards it must [look after](Holder::look_after) it.
    pub fn retire(&self) {
        self.0.store(RETIRED, Release);
    }

    /// A thread takes it, if nobody has it.
    pub fn adopt(&self) -> bool {
        self.0.compare_exchange(RETIRED, ACTIVE, AcqRel).is_ok()
    }

    /// Takes it for a moment, if nobody has it.
    pub fn visit(&self) -> bool {
        self.0.compare_exchange(RETIRED, VISITED, AcqRel).is_ok()
    }

    /// Ends a visit. Afterwards the visitor must [look after](Holder::look_after) it.
    pub fn leave(&self) {
        self.0.store(RETIRED, Release);
    }

    /// Hears what is pending for as long as there is something and nobody else has the heap.
    pub fn look_after(&self, pending: &A, mut hear: impl FnMut()) {
        while pending.fetch_or(0, AcqRel) != remote::NONE && self.visit() {
            hear();
            self.leave();
        }
    }
}
