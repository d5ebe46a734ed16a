//! A process's own memory: emptying blocks of a [movable heap](bookend::movable).
//!
//! - [`plan`]: from a [`Snapshot`](bookend::movable::Snapshot) to steps, without touching any memory,
//!   and what they would cost beside the least that is possible.
//! - [`Execution`]: carries a plan out within a budget of bytes and time, step by step, and can be left
//!   at any time: what has been moved stays moved, and nothing is half-way.
//! - [`Background`]: a thread that does so again and again, for a share of the time. Nobody starts it
//!   but the user.

mod background;
mod choose;
mod close;
mod execute;
mod free;
mod pieces;
mod plan;
mod window;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use background::{Background, Duty};
pub use execute::{Execution, Outcome, make_room};
pub use plan::{Plan, Shortfall, Step, Target, plan};
