//! What can go wrong with a pool, by the operation that did.

use core::fmt;

use super::Rung;
use crate::os::Errno;
use crate::units::{BlockId, BlockRange, Blocks, Bytes, PageSize};

/// Why a pool could not be built, grown or shrunk.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum PoolError {
    /// The capacity is nothing, or more than 2^32 − 1 blocks.
    Capacity {
        /// As asked for.
        asked: Bytes,
    },
    /// Every rung of the ladder is forbidden.
    EmptyLadder,
    /// The machine's PMD-sized huge page is not a block of ours.
    BlockSize {
        /// What the machine has.
        machine: PageSize,
    },
    /// No address space for the pool or its table.
    Reserve {
        /// How much was wanted.
        len: Bytes,
        /// What the system said.
        cause: Errno,
    },
    /// No memory file for a shareable pool.
    MemoryFile {
        /// For which pages.
        rung: Rung,
        /// What the system said.
        cause: Errno,
    },
    /// Memory could not be mapped into the reserved span.
    Map {
        /// Where.
        block: BlockId,
        /// Of which rung.
        rung: Rung,
        /// What the system said.
        cause: Errno,
    },
    /// No permitted rung had memory left for a block. What had been populated for the same request
    /// has been given back.
    NoMemory {
        /// The first block that got none.
        block: BlockId,
        /// The last rung tried.
        rung: Rung,
        /// What the system said about it.
        cause: Errno,
    },
    /// A range that leaves the pool.
    OutOfRange {
        /// As asked for.
        range: BlockRange,
        /// The pool's.
        capacity: Blocks,
    },
    /// A block that is pinned, or being populated or released by another thread.
    InUse {
        /// The block.
        block: BlockId,
        /// Its pins; 0 where another thread is at it.
        pins: u32,
    },
    /// A range that would release only a part of a gigantic page.
    PartOfPage {
        /// The block whose page leaves the range.
        block: BlockId,
    },
    /// A block with no memory behind it was to be pinned or looked at.
    Absent {
        /// The block.
        block: BlockId,
    },
    /// Pages could not be given back.
    Release {
        /// The block.
        block: BlockId,
        /// What the system said.
        cause: Errno,
    },
    /// Pages could not be moved.
    Move {
        /// The block.
        block: BlockId,
        /// What the system said.
        cause: Errno,
    },
    /// Frame numbers could not be read.
    Frames {
        /// What the system said; [`Errno::PERM`] means that CAP_SYS_ADMIN is missing.
        cause: Errno,
    },
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { asked } => {
                write!(f, "a pool of {asked} is not possible: ask for 1 byte to 8 PiB")
            }
            Self::EmptyLadder => f.write_str("every page size is forbidden: allow at least one"),
            Self::BlockSize { machine } => {
                write!(f, "this machine's huge page is {machine}, but Bookend was built for 2 MiB")
            }
            Self::Reserve { len, cause } => {
                write!(f, "cannot reserve {len} of address space: {cause} (see ulimit -v)")
            }
            Self::MemoryFile { rung, cause } => {
                write!(f, "cannot create a memory file of {} pages: {cause}", rung.name())
            }
            Self::Map { block, rung, cause } => {
                write!(f, "cannot map {} pages at block {}: {cause}", rung.name(), block.get())
            }
            // What the kernel says where a touch would raise SIGBUS is "bad address".
            Self::NoMemory { block, rung, cause: Errno::FAULT } => write!(
                f,
                "no memory for block {}: no {} page is left for this process (allow smaller \
                 pages, raise nr_hugepages, or look at the hugetlb limit of its cgroup)",
                block.get(),
                rung.name()
            ),
            Self::NoMemory { block, rung, cause } => write!(
                f,
                "no memory for block {}: {} pages refused: {cause} (allow smaller pages, or \
                 reserve more)",
                block.get(),
                rung.name()
            ),
            Self::OutOfRange { range, capacity } => {
                write!(f, "blocks {range:?} leave the pool of {} blocks", capacity.get())
            }
            Self::InUse { block, pins: 0 } => {
                write!(f, "block {} is being populated or released by another thread", block.get())
            }
            Self::InUse { block, pins } => {
                write!(f, "block {} is held by {pins} pins", block.get())
            }
            Self::PartOfPage { block } => {
                write!(f, "block {} is part of a 1 GiB page that leaves the range", block.get())
            }
            Self::Absent { block } => write!(f, "block {} has no memory behind it", block.get()),
            Self::Release { block, cause } => {
                write!(f, "cannot give back the pages of block {}: {cause}", block.get())
            }
            Self::Move { block, cause } => {
                write!(f, "cannot move the pages of block {}: {cause}", block.get())
            }
            Self::Frames { cause: Errno::PERM } => {
                f.write_str("cannot read frame numbers: CAP_SYS_ADMIN is missing")
            }
            Self::Frames { cause } => write!(f, "cannot read frame numbers: {cause}"),
        }
    }
}

impl std::error::Error for PoolError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Reserve { cause, .. }
            | Self::MemoryFile { cause, .. }
            | Self::Map { cause, .. }
            | Self::NoMemory { cause, .. }
            | Self::Release { cause, .. }
            | Self::Move { cause, .. }
            | Self::Frames { cause } => Some(cause),
            _ => None,
        }
    }
}
