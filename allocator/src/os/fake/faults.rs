//! Calls that fail on demand.

use crate::os::{Advice, Errno};

/// A kind of call that can be made to fail: a method of [`crate::os::Os`], and for `advise` one
/// kind each advice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[expect(missing_docs, reason = "they are named after the methods and the advice")]
pub enum Call {
    Map,
    Unmap,
    HugePage,
    NoHugePage,
    Collapse,
    PopulateWrite,
    DontNeed,
    DontFork,
    Bind,
    MemoryFile,
    Punch,
    Frames,
    HugeMapped,
    Nodes,
    ReadFile,
    ListDirectory,
}

impl Call {
    /// Every kind, for tests that fail each of them in turn.
    pub const ALL: [Self; 16] = [
        Self::Map,
        Self::Unmap,
        Self::HugePage,
        Self::NoHugePage,
        Self::Collapse,
        Self::PopulateWrite,
        Self::DontNeed,
        Self::DontFork,
        Self::Bind,
        Self::MemoryFile,
        Self::Punch,
        Self::Frames,
        Self::HugeMapped,
        Self::Nodes,
        Self::ReadFile,
        Self::ListDirectory,
    ];

    pub(super) fn of(advice: Advice) -> Self {
        match advice {
            Advice::HugePage => Self::HugePage,
            Advice::NoHugePage => Self::NoHugePage,
            Advice::Collapse => Self::Collapse,
            Advice::PopulateWrite => Self::PopulateWrite,
            Advice::DontNeed => Self::DontNeed,
            Advice::DontFork => Self::DontFork,
        }
    }
}

const _: () = {
    let mut i = 0;
    while i < Call::ALL.len() {
        assert!(Call::ALL[i] as usize == i, "a call's number is its place in ALL");
        i += 1;
    }
};

/// For how long a call fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fails {
    /// At that call only.
    Once,
    /// At that call and every one after it.
    FromThenOn,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    call: Call,
    /// The number of the call that fails first, counted as [`Faults::counts`] counts.
    at: u64,
    errno: Errno,
    fails: Fails,
}

/// Counts calls and knows which are to fail.
#[derive(Default, Debug)]
pub(super) struct Faults {
    counts: [u64; Call::ALL.len()],
    plans: Vec<Plan>,
    injected: u64,
    /// How long a call of each kind takes, in nanoseconds of the simulated clock.
    pub(super) costs_ns: [u64; Call::ALL.len()],
}

impl Faults {
    /// Counts a call, and fails it where that is planned.
    pub(super) fn enter(&mut self, call: Call) -> Result<(), Errno> {
        let count = &mut self.counts[call as usize];
        *count += 1;
        let planned = self.plans.iter().find(|plan| {
            plan.call == call
                && match plan.fails {
                    Fails::Once => *count == plan.at,
                    Fails::FromThenOn => *count >= plan.at,
                }
        });
        match planned {
            Some(plan) => {
                self.injected += 1;
                Err(plan.errno)
            }
            None => Ok(()),
        }
    }

    /// Plans that the `nth` call of a kind from now on fails; 1 is the next.
    pub(super) fn plan(&mut self, call: Call, nth: u64, errno: Errno, fails: Fails) {
        assert!(nth > 0, "calls are counted from 1");
        self.plans.push(Plan { call, at: self.counts[call as usize] + nth, errno, fails });
    }

    pub(super) fn clear(&mut self) {
        self.plans.clear();
    }

    pub(super) fn count(&self, call: Call) -> u64 {
        self.counts[call as usize]
    }

    pub(super) fn injected(&self) -> u64 {
        self.injected
    }
}
