//! Objects that can be moved, so that blocks can be emptied.
//!
//! A [`MovableHeap`] stands on an [arena](crate::placement::Arena). Objects of up to a block stand in
//! slabs of one size in movable blocks, longer ones in movable extents of their own. Whoever made one
//! has a handle, [`Movable<T>`] or [`MovableBytes`], and reaches it
//!
//! - in a [`Session`], which is for runs of accesses: one comparison each, and everything touched stays
//!   where it is until the session ends;
//! - through a [pin](MovableHeap::pin), which keeps one object where it is, for as long as need be;
//! - through a [long-term pin](MovableHeap::pin_long_term), for devices: the object goes to the pinned
//!   end of the arena first, so that it spoils no block.
//!
//! Owners who keep pointers of their own to objects put them into a [`Cache`], and are asked before an
//! object moves and told afterwards; see [`Owner`].
//!
//! [`MovableVec`] is a vector in one object, [`MovableSlab`] holds records by keys, each an object of its
//! own. [`MovableHeap::compact`] empties blocks.
//!
//! # How an access is cheap
//! A table of handles puts a load before each access which everything else waits for; in a linked
//! structure larger than the caches that doubles the time. Here a handle has the object's own address,
//! and beside it the *stamp* that the object's block had when that was looked up. An access compares the
//! stamp with that of now, in a table of four bytes a block that stays in the nearest cache; the
//! processor goes on with the address while it does. Only where the block has been emptied since does
//! the access go through the object's word, once, and renews the handle. A session that begins when
//! nothing is being moved, and everything moved has been looked at since, compares nothing.
//!
//! # What it guarantees
//! 1. What a session or a pin has given out stays where it is until the one ends or the other is
//!    dropped. The proof stands in `protocol.rs`.
//! 2. Sessions and pins wait for a mover only while the one object that they want is copied, or, where
//!    the mover insists since the object is wanted all the time, for a millisecond more at most.
//! 3. A mover waits for sessions for as long as its [`Budget`] says, and then leaves everything as it is.
//! 4. An object whose owner refuses or panics is where it was, intact.
//! 5. To free never waits: what the mover has at that time ends when it is done.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use bookend::movable::{Budget, MovableHeap};
//! use bookend::placement::Arena;
//! use bookend::pool::{Pool, Populate, Rung, Use};
//! use bookend::units::Bytes;
//!
//! let pool = Pool::builder().capacity(Bytes::mib(64)).populate(Populate::OnDemand);
//! let pool = pool.rung(Rung::Gigantic, Use::Forbidden).rung(Rung::Huge, Use::Forbidden);
//! let heap = MovableHeap::new(Arc::new(Arena::new(pool.build().unwrap()).unwrap())).unwrap();
//!
//! let mut words: Vec<_> = (0u64..40_000).map(|n| heap.insert([n; 16]).unwrap()).collect();
//! // Most of them go, and what is left stands scattered over blocks.
//! let mut n = 0;
//! words.retain(|_| { n += 1; n % 10 == 0 });
//! let before = heap.snapshot().movable.len();
//! let sparse: Vec<_> = heap.snapshot().movable.iter().map(|extent| extent.range.start()).skip(1).collect();
//! for block in sparse {
//!     heap.empty(block, &mut Budget::UNLIMITED.clone()).unwrap();
//! }
//! assert!(before == 3 && heap.snapshot().movable.len() == 1);
//! let session = heap.session();
//! assert!(words.iter().all(|word| session.get(word)[3] % 10 == 9));
//! ```

mod by_id;
mod compact;
mod error;
mod grow;
mod handle;
mod heap;
mod movable_heap;
mod mover;
mod owner;
mod pin;
pub(crate) mod protocol;
mod records;
mod registry;
mod session;
mod slab;
mod snapshot;
mod stamps;
mod store;
mod tables;
mod threads;
mod validate;
mod vec;
mod word;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;

pub use compact::Compacted;
pub use error::{MovableError, Obstacle};
pub use handle::{Movable, MovableBytes};
pub use movable_heap::{Cache, MovableHeap};
pub use mover::{Budget, Carried, Closed};
pub use owner::{Answer, Owner, Subject};
pub use pin::{Pinned, PinnedMut};
pub use records::{Key, MovableSlab};
pub use session::Session;
pub use snapshot::{BinShape, Holds, Occupied, Share, Snapshot};
pub use tables::ObjectId;
pub use vec::MovableVec;
