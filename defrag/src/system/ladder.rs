//! The ladder: ways to get huge pages, each dearer than the one before, until there are enough.
//!
//! ```text
//! ask → compact → reclaim what is missing → shrink slab → (drop all caches) → split gigantic → offline
//! ```
//!
//! After each step the pool is asked for again and read back, and the climb ends where the goal is
//! met. Five rules keep it cheap: the pool is asked only for pages that are ready, since a kernel that
//! is asked for more reclaims and compacts page by page, hot or cold; compaction is tried only where
//! there is free memory to move pages to; no more is reclaimed than is missing; nothing is given up or
//! moved for more pages than can be had ([`Ceiling`]); and caches as a whole are dropped only where
//! that was allowed. Where long runs are wanted ([`Goal::contiguous`]) gigantic pages come first.
//!
//! What a step tried and gained nothing by is undone: gigantic pages that were not split go back,
//! memory blocks come online again. Pages that were won stay, however the climb ends; giving them
//! back is the caller's choice ([`roll_back`]). A step that this machine cannot do, or may not, is
//! noted in its report and passed over; only a pool that cannot be asked at all is an error.

use std::time::Duration;

use bookend::units::PageSize;

use super::bounded::Stop;
use super::climber::Climber;
use super::files::FileError;
use super::machine::Machine;
use super::rung::{Rung, RungReport};

/// What may become of the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cache {
    /// None of it is given up on purpose.
    Keep,
    /// The coldest of it, as much as is missing.
    Coldest,
    /// All of it, as a last resort.
    Drop,
}

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Goal {
    /// Size of the pages.
    pub page: PageSize,
    /// How many the pool is to have.
    pub pages: u64,
    /// Whether 2 MiB pages are to come from split gigantic ones, in long runs.
    pub contiguous: bool,
    /// What may become of the page cache.
    pub cache: Cache,
    /// The last rung that may be tried.
    pub max_rung: Rung,
    /// Beyond what trying harder would only do harm, where that is known.
    pub ceiling: Option<Ceiling>,
}

/// How many pages the pool could have, by what is known of who stands where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ceiling {
    /// If all page cache went that can, while slab is as it is.
    pub reclaim: u64,
    /// The same, once slab has been shrunk.
    pub slab: u64,
    /// The same, once memory blocks have been offline.
    pub offline: u64,
}

/// How far a climb has come, for a display.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// The rung being tried.
    pub rung: Rung,
    /// Pages that the pool has.
    pub pages: u64,
}

/// How a climb ended.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Pages that the pool had.
    pub before: u64,
    /// Pages that it has, no more than were wanted.
    pub obtained: u64,
    /// How long it took.
    pub time: Duration,
    /// What each rung gave, in the order in which they were tried.
    pub rungs: Vec<RungReport>,
    /// Why it ended early, if it did.
    pub stopped: Option<Stop>,
}

/// Climbs until the goal is met, the last rung is done, or it is time to stop.
///
/// # Errors
/// [`FileError`] where the pool cannot be read or asked at all.
pub fn climb<M: Machine>(
    machine: &mut M,
    goal: &Goal,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, FileError> {
    let started = machine.now();
    let before = machine.pool(goal.page)?;
    let mut climber = Climber::new(machine, goal, progress);
    let mut rungs = Vec::new();
    for &rung in order(goal) {
        if rung > goal.max_rung && !(goal.contiguous && rung == Rung::Contiguous) {
            continue;
        }
        if climber.missing()? == 0 || climber.stopped().is_some() {
            break;
        }
        rungs.push(climber.step(rung)?);
    }
    let stopped = climber.stopped();
    let obtained = machine.pool(goal.page)?.min(goal.pages);
    let time = machine.now().saturating_sub(started);
    // Reached in the last moment is reached.
    let stopped = stopped.filter(|_| obtained < goal.pages);
    Ok(Outcome { before, obtained, time, rungs, stopped })
}

/// Gives back what a climb has won, and no more.
///
/// # Errors
/// [`FileError`] of the pool's files.
pub fn roll_back<M: Machine>(
    machine: &mut M,
    goal: &Goal,
    outcome: &Outcome,
) -> Result<u64, FileError> {
    if machine.pool(goal.page)? > outcome.before {
        machine.resize(goal.page, outcome.before)?;
    }
    machine.pool(goal.page)
}

fn order(goal: &Goal) -> &'static [Rung] {
    use Rung::{Ask, Compact, Contiguous, Drop, Offline, Reclaim, Slab};
    if goal.page > PageSize::MIB2 {
        // The kernel empties the range of a gigantic page itself, just as it would to take it offline.
        &[Ask, Reclaim, Slab, Drop]
    } else if goal.contiguous {
        &[Contiguous, Ask, Compact, Reclaim, Slab, Drop, Offline]
    } else {
        &[Ask, Compact, Reclaim, Slab, Drop, Contiguous, Offline]
    }
}

#[cfg(test)]
#[path = "ladder_tests.rs"]
mod tests;
