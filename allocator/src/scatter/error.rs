//! Why there is no list.

use core::fmt;

use super::limits::Alignment;
use crate::os::Errno;
use crate::pool::PoolError;
use crate::units::Bytes;

/// Which address is off the alignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Misaligned {
    /// The virtual address at which a run of contiguous memory begins.
    Virtual,
    /// Its physical address.
    Physical,
    /// The virtual address at which it ends.
    End,
}

/// What cuts the range into so many entries, and so what would help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The frames are scattered: larger pages, or pages in frame order, help.
    Scattered,
    /// Frames could not be read, so that no two pages are known to be neighbours: CAP_SYS_ADMIN or
    /// larger pages help.
    FramesHidden,
    /// Even in one physical piece it would take more: several requests help.
    EntryLength,
}

/// Why there is no list.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ScatterError {
    /// The range is empty.
    Empty,
    /// The range leaves the held memory.
    OutOfRange {
        /// Where it ends, counted from the first byte held.
        end: Bytes,
        /// How much is held.
        held: Bytes,
    },
    /// No memory stands behind a part of the range: populate it first.
    NotPresent {
        /// The first absent byte, counted from the first held.
        offset: Bytes,
    },
    /// The device takes fewer entries.
    TooManyEntries {
        /// How many it takes.
        needed: usize,
        /// How many are allowed.
        allowed: usize,
        /// Why so many.
        cause: Cause,
    },
    /// Contiguous memory begins or ends off the device's alignment.
    Unaligned {
        /// What about it.
        what: Misaligned,
        /// The address.
        address: u64,
        /// What it should be a multiple of.
        alignment: Alignment,
    },
    /// An entry of the least length is longer than an entry may be.
    EntryTooShort {
        /// How long an entry may be.
        max_entry_bytes: Bytes,
        /// The least length.
        alignment: Alignment,
    },
    /// The blocks could not be pinned: absent, or being populated or released.
    Pin(PoolError),
    /// Reading frame numbers failed, for another reason than a lack of privilege.
    Frames(Errno),
}

impl fmt::Display for ScatterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("an empty range has no scatter-gather list"),
            Self::OutOfRange { end, held } => {
                write!(f, "the range ends at byte {}, but {held} are held", end.get())
            }
            Self::NotPresent { offset } => write!(
                f,
                "no memory stands behind byte {} of the range's memory; populate the range first",
                offset.get()
            ),
            Self::TooManyEntries { needed, allowed, cause } => write!(
                f,
                "the range takes {needed} entries and the device takes {allowed}; {}",
                match cause {
                    Cause::Scattered => "larger pages, or pages in frame order, take fewer",
                    Cause::FramesHidden =>
                        "with CAP_SYS_ADMIN neighbouring pages could be told and joined, and \
                         larger pages take fewer in any case",
                    Cause::EntryLength =>
                        "even in one physical piece it would, so cut it into several requests",
                }
            ),
            Self::Unaligned { what, address, alignment } => write!(
                f,
                "contiguous memory {} address {address:#x}, which is no multiple of {}",
                match what {
                    Misaligned::Virtual => "begins at",
                    Misaligned::Physical => "begins at physical",
                    Misaligned::End => "ends at",
                },
                alignment.bytes()
            ),
            Self::EntryTooShort { max_entry_bytes, alignment } => write!(
                f,
                "entries of at most {max_entry_bytes} cannot be multiples of {}",
                alignment.bytes()
            ),
            Self::Pin(_) => f.write_str("the range cannot be pinned"),
            Self::Frames(_) => f.write_str("frame numbers cannot be read"),
        }
    }
}

impl std::error::Error for ScatterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Frames(errno) => Some(errno),
            Self::Pin(error) => Some(error),
            _ => None,
        }
    }
}
