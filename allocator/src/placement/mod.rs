//! Where in a pool things go: the two-ended block allocator.
//!
//! A [`Placement`] cuts a table of blocks into free runs and *extents* of one [`Class`]. It decides
//! and touches no memory but its own table, so a table of terabytes can be had without them.
//!
//! ```text
//! 0          pinned end      movable from                        huge start        capacity
//! | pinned, holes |     gap      | movable extents and free runs     | huge, ... |
//!    lowest first   left free as    lowest first                       highest first
//!                  long as it can
//! ```
//!
//! # Invariants
//!
//! Let the *pinned end* be the block after the highest pinned one, and the *huge start* the lowest
//! huge block. [`Placement::validate`] checks both:
//!
//! 1. **Pinned blocks stand below huge ones**: pinned end ≤ huge start.
//! 2. **Pinned blocks stand below movable ones**: a movable extent below the pinned end is *stuck*,
//!    which is to say that its owner refused to move it when it was asked.
//!
//! They hold whatever the order of events, because every event keeps them. Pinned blocks go into
//! holes below the pinned end, or to the pinned end itself: never above a huge block, and only when
//! no extent that could move is left in between; until then the answer is [`Refusal::Evict`], which
//! names what has to go up. Movable and huge extents are never put below the pinned end, and moves
//! never lead there. Freeing only lowers the pinned end and raises the huge start. An extent that is
//! on its way stops the pinned end ([`Refusal::Busy`]) until the move has ended.
//!
//! # What follows
//!
//! *Pinned blocks are dense.* When k of them are granted, no lower place could have held them: below
//! the pinned end there was no hole of k, and from the pinned end on only stuck extents were passed
//! over.
//!
//! *Eviction succeeds.* If nothing between the pinned end E and the huge start H is stuck or on its
//! way, and k blocks there are free, then moving what is asked for ends with the k pinned blocks
//! granted. Each move goes up and the sum of addresses is bounded, so the moves end. They end early
//! only if the lowest movable extent of the window and all that follow it up to H stand without a
//! gap; then every free block of [E, H) lies below that extent, k of them in one run from E on: so
//! the window was free, and nothing had to move.
//!
//! *Compaction succeeds.* Take a range above E of free blocks and movable extents that are neither
//! stuck nor on their way. If k of its blocks are free, then moving what is asked for ends with a
//! run of k. Each move goes down, so they end. They end only without a free block below an extent
//! of the range; so all of its free blocks stand in one run above them. The range from E to H is
//! such a one: *the middle can always be made one piece*.
//!
//! # What is given up for it
//!
//! Pinned blocks do not go above the huge start, nor huge ones into holes below the pinned end, even
//! where nothing else is free. A caller for whom a place matters more than order asks again with the
//! other class: both never move, and the counts by class then tell what stands where.
//!
//! # The gap
//!
//! Movable extents leave the blocks just above the pinned end free while they find a place
//! elsewhere. Pinned memory that grows and shrinks by less than the gap never evicts; without one
//! each swing would. It costs no capacity, since the gap is used when the rest is full. What stands
//! in it can be moved out ahead of need ([`Placement::iter_gap`]). See [`Placement::set_gap`].
//!
//! # Cost
//!
//! Allocating and freeing look at the ends of runs only, never at each of their blocks, and climb
//! trees of 16 and 64 children a node: logarithmic in the capacity, with no heap. Half a byte a
//! block. A refusal that names moves has looked at every extent it might name, so it can take time
//! linear in their number; [`Placement::allocate_now`] does without.
//!
//! # Example
//!
//! ```
//! use bookend::placement::{Class, Moved, Placement, Refusal};
//! use bookend::units::Blocks;
//!
//! let mut placement = Placement::new(Blocks::new(100)).unwrap();
//! placement.set_gap(Blocks::ZERO);
//! let pinned = placement.allocate(Class::Pinned, Blocks::new(1)).unwrap();
//! let movable = placement.allocate(Class::Movable, Blocks::new(3)).unwrap();
//! let huge = placement.allocate(Class::Huge, Blocks::new(10)).unwrap();
//! assert_eq!(format!("{pinned:?} {movable:?} {huge:?}"), "B0..B1 B1..B4 B90..B100");
//!
//! // The movable extent stands where the next pinned block belongs.
//! let refusal = placement.allocate(Class::Pinned, Blocks::new(1)).unwrap_err();
//! let Refusal::Evict(clearing) = refusal else { panic!("{refusal}") };
//! let begun = placement.next_move(&clearing).unwrap();
//! assert_eq!((begun.from(), format!("{:?}", begun.to())), (movable, "B4..B7".to_string()));
//! // ... copy the memory, redirect its owner ...
//! placement.moved(begun).unwrap();
//! let second = placement.allocate(Class::Pinned, Blocks::new(1)).unwrap();
//! assert_eq!(format!("{second:?}"), "B1..B2");
//!
//! // The same in one call, with a mover that always agrees.
//! let third = placement.allocate_moving(Class::Pinned, Blocks::new(5), |_, _| Moved::Done);
//! assert_eq!(format!("{:?}", third.unwrap()), "B2..B7");
//! ```

mod arena;
mod bitmaps;
mod bounds;
mod clearing;
mod error;
mod kind;
mod max_tree;
mod moving;
#[allow(clippy::module_inception)] // the type that the module is about
mod placement;
mod query;
mod table;
mod validate;
pub(crate) mod word;

#[cfg(test)]
mod model;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

pub use arena::{Arena, ArenaError, Extent};
pub use clearing::Clearing;
pub use error::{Misuse, Refusal, Unmapped};
pub use kind::Class;
pub use moving::{Move, Moved};
pub use placement::{Placed, Placement};
pub use validate::Broken;

#[cfg(test)]
use crate::os::Os;
#[cfg(test)]
use crate::units::{BlockId, BlockRange, Blocks};
