//! What a movable heap answers when it cannot do what it was asked.

use core::fmt;

use super::word::{PINS_MAX, REACH};
use crate::os::Errno;
use crate::placement::ArenaError;
use crate::units::{BlockRange, Blocks, Bytes};

/// Why a movable heap did not do what it was asked.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum MovableError {
    /// No memory for the heap's tables.
    Tables {
        /// Objects that they were to hold.
        objects: u32,
        /// What the system said.
        cause: Errno,
    },
    /// The arena is longer than a heap reaches.
    TooLong {
        /// Its length.
        arena: Blocks,
    },
    /// Another heap stands on the arena.
    ArenaTaken {
        /// Where it begins.
        base: usize,
    },
    /// There are as many heaps in this process as can be.
    TooManyHeaps {
        /// How many.
        most: usize,
    },
    /// The heap has as many objects as its tables hold.
    TooManyObjects {
        /// How many.
        most: u32,
    },
    /// The heap has as many owners as it can tell apart.
    TooManyOwners {
        /// How many.
        most: usize,
    },
    /// The object has as many pins as can be counted.
    TooManyPins,
    /// No object can be aligned so.
    Alignment {
        /// In bytes.
        asked: usize,
        /// The largest there is.
        most: usize,
    },
    /// More than a heap can hold.
    Size {
        /// In bytes.
        asked: usize,
    },
    /// The arena has no place, or no memory.
    Arena(ArenaError),
    /// This thread is moving objects: it called from an owner's callback.
    InCallback,
    /// This thread is in a session, which the mover would wait for.
    InSession,
    /// The object cannot be moved now.
    Busy(Obstacle),
    /// It is pinned, and so not to be freed.
    Pinned,
    /// No object has this handle: it was freed, or the number was never one.
    NoSuchObject {
        /// The number.
        raw: u64,
    },
    /// Not blocks of this heap that can be moved.
    NotOurs {
        /// The blocks.
        blocks: BlockRange,
    },
}

/// What kept an object or a block where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Obstacle {
    /// A pin.
    Pinned,
    /// A session that has the object's address, or one that did not end in time.
    InUse,
    /// Its owner refused.
    Refused,
    /// No room for it elsewhere.
    NoRoom,
    /// Time or bytes allowed were used up.
    Budget,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pinned => "it is pinned",
            Self::InUse => "a session uses it",
            Self::Refused => "its owner refuses",
            Self::NoRoom => "there is no room elsewhere",
            Self::Budget => "the budget is used up",
        })
    }
}

impl fmt::Display for MovableError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tables { objects, cause } => write!(
                f,
                "cannot map the tables of a movable heap of {objects} objects: {cause}; ask for \
                 fewer, or raise the limit on address space (ulimit -v)"
            ),
            Self::TooLong { arena } => write!(
                f,
                "an arena of {} is longer than a movable heap reaches; use one of at most {REACH}",
                arena.bytes()
            ),
            Self::ArenaTaken { base } => write!(
                f,
                "the arena at {base:#x} has a movable heap already, and holds one heap at a time; \
                 use that one (clones of it are the same heap), or another arena"
            ),
            Self::TooManyHeaps { most } => {
                write!(f, "this process has {most} movable heaps, which is the most; drop one")
            }
            Self::TooManyObjects { most } => write!(
                f,
                "the heap holds {most} objects, which is the most; build it with a larger number"
            ),
            Self::TooManyOwners { most } => {
                write!(f, "the heap has {most} owners, which is the most; share them")
            }
            Self::TooManyPins => {
                write!(f, "the object has {PINS_MAX} pins, which is the most; drop some")
            }
            Self::Alignment { asked, most } => {
                write!(f, "objects are aligned to powers of two up to {most} bytes, not {asked}")
            }
            Self::Size { asked } => {
                write!(f, "an object of {} is more than a heap holds", Bytes::of_len(*asked))
            }
            Self::Arena(cause) => cause.fmt(f),
            Self::InCallback => f.write_str(
                "an owner's callback cannot move objects or wait for one that it is called for; \
                 do it when the callback has returned",
            ),
            Self::InSession => f.write_str(
                "objects cannot be moved by a thread in a session, which would wait for itself; \
                 end the session first",
            ),
            Self::Busy(obstacle) => write!(f, "the object cannot be moved now: {obstacle}"),
            Self::Pinned => f.write_str("the object is pinned; unpin it before it is freed"),
            Self::NoSuchObject { raw } => {
                write!(f, "no object has the handle {raw:#x}: freed already, or never one")
            }
            Self::NotOurs { blocks } => {
                write!(f, "{blocks:?} does not hold movable objects of this heap")
            }
        }
    }
}

impl std::error::Error for MovableError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Tables { cause, .. } => Some(cause),
            Self::Arena(cause) => Some(cause),
            _ => None,
        }
    }
}

impl From<ArenaError> for MovableError {
    fn from(cause: ArenaError) -> Self {
        Self::Arena(cause)
    }
}
