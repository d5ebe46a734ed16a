//! Plans: which blocks to empty and which extents to move, for a target.

use core::fmt;

use bookend::movable::Snapshot;
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::{choose, window};

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// So many free blocks more, wherever they stand.
    FreeBlocks(Blocks),
    /// One run of so many free blocks.
    FreeRun(Blocks),
    /// As many free blocks as can be had.
    Release,
    /// So many free blocks right above the pinned ones, for those that come next.
    PinnedRoom(Blocks),
    /// So many free blocks right below the huge ones, for those that come next.
    HugeRoom(Blocks),
}

/// One step of a plan.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The objects of a block go into room that others have.
    Empty(BlockId),
    /// An extent goes whole to free blocks from `to` on.
    Move {
        /// The extent.
        extent: BlockRange,
        /// Where it goes.
        to: BlockId,
    },
}

/// What a plan does not reach, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shortfall {
    /// Fewer blocks can be emptied: the objects of the others have no room elsewhere.
    NoRoom {
        /// Blocks that are missing.
        short: Blocks,
    },
    /// Fewer blocks than that are free in all.
    TooFew {
        /// Free blocks, and those that can be emptied.
        free: Blocks,
    },
    /// Between extents that do not move, no range has as many free blocks as are wanted, where they are
    /// wanted.
    NoWindow {
        /// The longest range without one.
        longest: Blocks,
    },
}

/// What to do, what it costs, and what it does not reach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// What was wanted.
    pub target: Target,
    /// In this order.
    pub steps: Vec<Step>,
    /// Bytes of the objects that they move.
    pub cost: Bytes,
    /// The least that any plan could move for as many blocks: the live bytes of the cheapest ones, or of
    /// the cheapest window.
    pub least: Bytes,
    /// What is missing, if anything is.
    pub shortfall: Option<Shortfall>,
}

impl Plan {
    pub(super) fn nothing(target: Target, shortfall: Option<Shortfall>) -> Self {
        Self { target, steps: Vec::new(), cost: Bytes::ZERO, least: Bytes::ZERO, shortfall }
    }
}

/// Plans moves for a target. Pure, and linear in the number of movable extents.
pub fn plan(snapshot: &Snapshot, target: Target) -> Plan {
    match target {
        Target::FreeBlocks(wanted) => choose::cheapest(snapshot, target, wanted),
        Target::Release => choose::cheapest(snapshot, target, snapshot.capacity),
        Target::FreeRun(wanted) => window::run_of(snapshot, target, wanted),
        Target::PinnedRoom(wanted) => window::above_pinned(snapshot, target, wanted),
        Target::HugeRoom(wanted) => window::below_huge(snapshot, target, wanted),
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FreeBlocks(n) => write!(f, "{} more free blocks", n.get()),
            Self::FreeRun(n) => write!(f, "one run of {} free blocks", n.get()),
            Self::Release => f.write_str("all the free blocks that can be had"),
            Self::PinnedRoom(n) => write!(f, "room for {} more pinned blocks", n.get()),
            Self::HugeRoom(n) => write!(f, "room for {} more huge blocks", n.get()),
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRoom { short } => write!(
                f,
                "{} blocks fewer than wanted: what is in the others has no room elsewhere; free \
                 objects, or use a larger pool",
                short.get()
            ),
            Self::TooFew { free } => write!(
                f,
                "only {} blocks are free or can be made so; free objects, or use a larger pool",
                free.get()
            ),
            Self::NoWindow { longest } => write!(
                f,
                "no range between extents that do not move can be made free (the longest is {} \
                 blocks); free huge or pinned extents",
                longest.get()
            ),
        }
    }
}

/// What it does, what it costs, and what it does not reach.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let empties = self.steps.iter().filter(|step| matches!(step, Step::Empty(_))).count();
        let moves = self.steps.len() - empties;
        write!(f, "for {}: ", self.target)?;
        match (empties, moves) {
            (0, 0) => f.write_str("nothing to move")?,
            _ => write!(
                f,
                "empty {empties} blocks and move {moves} extents, {} in all (at least {})",
                self.cost, self.least
            )?,
        }
        match &self.shortfall {
            Some(shortfall) => write!(f, "; {shortfall}"),
            None => Ok(()),
        }
    }
}
