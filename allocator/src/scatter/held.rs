//! Memory that stays where it is, of which a list can be made.

use core::ptr::NonNull;

use crate::os::Os;
use crate::units::{Bytes, PageSize};

/// What stands behind a block of held memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HeldPages {
    /// Size of the page or pages.
    pub page: PageSize,
    /// Whether they keep that size while held: hugetlb pages do; the kernel may split transparent
    /// ones at any time, so that their frames are read base page by base page.
    pub fixed: bool,
}

/// Mapped memory that is neither unmapped, nor given back, nor moved while the value lives.
///
/// Its implementation by a pool's pin is what makes "not moved, not freed" a type: a list owns the
/// value, so memory and list end together.
///
/// # Safety
/// While the value lives and however it is moved,
/// 1. [`Held::len`] bytes from [`Held::base`] on are mapped, readable and writable, and both stay
///    the same;
/// 2. their content is not given back to the system or moved elsewhere;
/// 3. a page that [`Held::pages`] names stands at a multiple of its size.
///
/// Nothing is promised about who else reads or writes the memory.
pub unsafe trait Held {
    /// The machine that the memory is of.
    type Os: Os;

    /// The machine, to read frame numbers from.
    fn os(&self) -> &Self::Os;

    /// The first byte. Where it is not a multiple of a block, the first block counts in part.
    fn base(&self) -> NonNull<u8>;

    /// How long.
    fn len(&self) -> Bytes;

    /// Whether nothing is held.
    fn is_empty(&self) -> bool {
        self.len() == Bytes::ZERO
    }

    /// What stands behind the block that contains the byte at `offset` from the base, below
    /// [`Held::len`]; `None` where nothing does. It is the same for all bytes of a block.
    fn pages(&self, offset: Bytes) -> Option<HeldPages>;
}
