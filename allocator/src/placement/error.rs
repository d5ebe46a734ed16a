//! What a placement answers when it cannot do what it was asked.

use core::fmt;

use super::Class;
use super::clearing::Clearing;
use crate::os::Errno;
use crate::units::{BlockId, BlockRange, Blocks};

/// The table of a placement could not be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unmapped {
    /// Blocks that the table was to describe.
    pub capacity: Blocks,
    /// What the system said.
    pub cause: Errno,
}

impl fmt::Display for Unmapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { capacity, cause } = self;
        write!(
            f,
            "cannot map the table of a placement of {} blocks ({}): {cause}; ask for a smaller \
             capacity or raise the limit on address space (ulimit -v)",
            capacity.get(),
            capacity.bytes(),
        )
    }
}

impl core::error::Error for Unmapped {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        Some(&self.cause)
    }
}

/// Why blocks were not allocated, and what would help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No blocks were asked for.
    Zero,
    /// Movable extents stand where the pinned one belongs. Move them up and ask again; see
    /// [`Placement::next_move`](super::Placement::next_move).
    Evict(Clearing),
    /// No run of free blocks is long enough, but moving movable extents down makes one. Move them
    /// and ask again.
    Compact(Clearing),
    /// Extents in this range are being moved. Ask again when those moves have ended.
    Busy(BlockRange),
    /// There is no place, and no move would make one.
    NoRoom {
        /// The class asked for.
        class: Class,
        /// Blocks asked for.
        wanted: Blocks,
        /// Free blocks, wherever they stand.
        free: Blocks,
        /// The longest run of them.
        largest: Blocks,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("an extent has at least one block, none was asked for"),
            Self::Evict(clearing) => write!(
                f,
                "{} movable blocks stand in {:?}, where pinned blocks belong; move them up and \
                 ask again",
                clearing.displaced().get(),
                clearing.window(),
            ),
            Self::Compact(clearing) => write!(
                f,
                "no run of {} free blocks; moving {} movable blocks out of {:?} makes one",
                clearing.window().len().get(),
                clearing.displaced().get(),
                clearing.window(),
            ),
            Self::Busy(window) => {
                write!(f, "extents in {window:?} are being moved; ask again when they have been")
            }
            Self::NoRoom { class, wanted, free, largest } => write!(
                f,
                "no place for {} {class} blocks: {} are free, the longest run is {}; free some, \
                 or use a larger pool",
                wanted.get(),
                free.get(),
                largest.get(),
            ),
        }
    }
}

impl core::error::Error for Refusal {}

/// A range that is not what the caller takes it for. Nothing was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misuse {
    /// The range holds no blocks.
    Zero(BlockRange),
    /// It ends beyond the table.
    Outside {
        /// The range.
        range: BlockRange,
        /// Blocks of the table.
        capacity: Blocks,
    },
    /// It begins with a block that is free: freed already, or never allocated.
    Free(BlockRange),
    /// It is neither an extent nor, where that is allowed, within one.
    Mismatch {
        /// The range.
        range: BlockRange,
        /// The extent that its first block belongs to.
        extent: BlockRange,
    },
    /// The extent is being moved, or is where another is being moved to.
    Moving(BlockRange),
    /// Only movable extents move, and this one is not.
    NotMovable {
        /// The extent.
        extent: BlockRange,
        /// Its class.
        class: Class,
    },
    /// Blocks that were to be taken are not free: this one is not.
    Occupied(BlockId),
    /// A movable extent may not go below the end of the pinned ones.
    BelowPinned {
        /// Where it was to go.
        to: BlockRange,
        /// The block after the highest pinned one.
        pinned_end: BlockId,
    },
    /// The move to be ended was not begun here, or has ended.
    NotBegun {
        /// Where from.
        from: BlockRange,
        /// Where to.
        to: BlockRange,
    },
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero(range) => write!(f, "{range:?} holds no blocks"),
            Self::Outside { range, capacity } => {
                write!(f, "{range:?} ends beyond the table's {} blocks", capacity.get())
            }
            Self::Free(range) => {
                write!(f, "{range:?} begins with a free block: freed twice, or never allocated")
            }
            Self::Mismatch { range, extent } => {
                write!(f, "{range:?} does not match the extent {extent:?} that it begins in")
            }
            Self::Moving(extent) => {
                write!(f, "the extent {extent:?} is being moved; end the move first")
            }
            Self::NotMovable { extent, class } => {
                write!(f, "the extent {extent:?} is {class}: only movable ones move")
            }
            Self::Occupied(block) => write!(f, "block {block:?} is not free"),
            Self::BelowPinned { to, pinned_end } => {
                write!(f, "{to:?} lies below {pinned_end:?}, where pinned blocks end")
            }
            Self::NotBegun { from, to } => {
                write!(f, "no move from {from:?} to {to:?} is under way")
            }
        }
    }
}

impl core::error::Error for Misuse {}
