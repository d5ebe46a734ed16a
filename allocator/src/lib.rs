//! Bookend keeps large memory contiguous.
//!
//! Small pinned objects stand at the low end of a [`pool`], huge ones at the high end, and what
//! can move stands between them, so that the middle can always be made one piece again.
//!
//! The layers, each seeing only those before it:
//!
//! 1. [`units`]: a type for every quantity.
//! 2. [`os`]: the one place that makes system calls, behind a trait.
//! 3. [`pool`]: what memory we hold, page size by page size, proven present.
//! 4. [`placement`]: where in a pool things go.
//! 5. [`heap`]: small and large objects; the global allocator.
//! 6. [`movable`]: objects that can be moved, so that blocks can be emptied.
//! 7. [`scatter`]: a range of a pool as the fewest physically contiguous entries.
//!
//! `DESIGN.md` beside this crate tells the whole story.
#![deny(missing_docs)]

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("Bookend needs 64-bit Linux: huge pages and the address space to reserve them in");

pub mod heap;
mod lock;
pub mod movable;
pub mod os;
pub mod placement;
pub mod pool;
mod primitive;
pub mod scatter;
pub mod units;

pub use heap::Bookend;
