//! The four policies: where each kind of request goes, and what may move.
//!
//! | policy | small pinned | small movable | extents | requests of the probe |
//! | --- | --- | --- | --- | --- |
//! | `first-fit` | low, on one shelf | the same shelf | low | low |
//! | `two-ended` | low, on one shelf | the same shelf | high | high |
//! | `two-ended+movable` | low | a shelf of its own, in the middle | high | high |
//! | `defrag` | low | a shelf of its own, in the middle | the middle | high |
//!
//! Only `defrag` moves anything: where a request finds no place, what can move makes one. So its
//! extents stand in the middle, with what else can move; where nothing moves they are better off at
//! the high end.
//!
//! Where an end has no room the other is tried, so that a request fails only where no place is free.

use bookend::placement::Class;
use serde::Serialize;

/// How memory is handed out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Policy {
    /// One-ended, and nothing moves.
    #[serde(rename = "first-fit")]
    FirstFit,
    /// Small from the bottom, large from the top.
    #[serde(rename = "two-ended")]
    TwoEnded,
    /// And small objects that could move stand apart from those that cannot. Nothing moves.
    #[serde(rename = "two-ended+movable")]
    Movable,
    /// What can move does.
    #[serde(rename = "defrag")]
    Defrag,
}

/// What blocks are wanted for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Small objects that never move.
    Pinned,
    /// Small objects that can be moved.
    Movable,
    /// An extent of the trace, which can be moved.
    Extent,
    /// A request of the probe, which cannot: memory for a device.
    Probe,
}

impl Policy {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::FirstFit, Self::TwoEnded, Self::Movable, Self::Defrag];

    /// As in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstFit => "first-fit",
            Self::TwoEnded => "two-ended",
            Self::Movable => "two-ended+movable",
            Self::Defrag => "defrag",
        }
    }

    /// Whether anything moves.
    pub const fn moves(self) -> bool {
        matches!(self, Self::Defrag)
    }

    /// Whether movable objects have a shelf of their own.
    pub const fn sets_movable_apart(self) -> bool {
        matches!(self, Self::Movable | Self::Defrag)
    }

    /// Where blocks are looked for, in this order.
    pub const fn classes(self, purpose: Purpose) -> &'static [Class] {
        use Class::{Huge, Movable, Pinned};
        match (self, purpose) {
            // A table of pinned blocks alone is a one-ended one: lowest address first.
            (Self::FirstFit, _) => &[Pinned],
            (_, Purpose::Pinned) => &[Pinned, Huge],
            (Self::Defrag, Purpose::Probe) => &[Huge], // which has all that can move out of its way
            (_, Purpose::Probe) => &[Huge, Pinned],
            (Self::TwoEnded, Purpose::Movable) => &[Pinned, Huge],
            (Self::TwoEnded, Purpose::Extent) => &[Huge, Pinned],
            (Self::Movable, Purpose::Extent) => &[Huge, Movable, Pinned],
            (_, Purpose::Movable | Purpose::Extent) => &[Movable, Huge, Pinned],
        }
    }
}
