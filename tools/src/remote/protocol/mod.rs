//! What the two ends of a copy say to each other: messages to bytes, and back.
//!
//! This module is pure: bytes in, messages out, no file and no socket. What comes in may have been
//! made by anybody; reading it takes memory in proportion to its length, which [`FRAME_MAX`] bounds,
//! and gives a message that keeps its promises (a [`Name`] is one, a piece has a length that fits)
//! or [`Malformed`].
//!
//! Numbers are little-endian, lists and strings have their length before them in 32 bits. A message
//! begins with a byte that tells which it is; what is behind it is in the order of its fields.
//!
//! ```text
//! sender                                         receiver
//!   Operand, Enter, Small, Symlink, Leave, …  →            (main lane, in order)
//!   File                                      →
//!                                             ←  Compare    (if it has one as long, and is to look)
//!   Sum                                       →
//!                                             ←  Have*, Go  (what an earlier run left), or Skip
//!   Piece + its bytes, on any data lane       →
//!   Written, where bytes go over RDMA         →
//!                                             ←  Credit     (on the same lane)
//!   End                                       →            (the copy takes its name)
//!   Finish                                    →
//!                                             ←  Done       (durable, if that was asked for)
//! ```
//!
//! Where names below an operand are listed, each is told as what it is, between [`Message::Pass`] and
//! [`Message::Leave`] of the directories on the way to it. A sender that does not have the list asks for it:
//!
//! ```text
//!   More                                      →            (a message at a time, no more than it takes)
//!                                             ←  Names      (in order; the last says that it is)
//! ```
//!
//! The first data lane that is to use RDMA begins with `Devices` from both ends. Each goes on with `Ring` from both
//! ends, `Slots` from the receiver, `Ready`, `Credit`; either end may `Refuse` instead of its word, and both begin
//! again with the `Ring` of another device then, or go on over TCP where there is none.

mod fields;
mod records;

pub use fields::{Blob, Malformed, Name, PathText, Relative};
use fields::{Field, Input};
pub use records::{
    Attributes, Counts, Entry, ExtendedAttribute, Extent, Moment, Port, Request, RuleText, Slot,
};

use crate::copy::sum::Summer;

/// The version of what is said here. Two ends with different ones do not talk.
pub const VERSION: u16 = 7;
/// Bytes of a message at most, the bytes of a piece aside.
pub const FRAME_MAX: usize = 1 << 20;
/// Bytes of a file that goes in one message with its name.
pub const SMALL_MAX: usize = 256 << 10;
/// Bytes of a piece at most.
pub const PIECE_MAX: usize = 1 << 20;
/// Bytes of all extended attributes of a file together.
pub const ATTRIBUTES_MAX: usize = 128 << 10;
/// Bytes of a queue pair's text at most.
const ENDPOINT_MAX: usize = 128;
/// RDMA devices of one end that a session may use.
pub const DEVICES_MAX: usize = 8;
/// Bytes of a device's name at most.
const DEVICE_NAME_MAX: usize = 64;
/// Slots that a ring may have.
pub const SLOTS_MAX: usize = bookend_registration::ring::Shape::SLOTS_MAX as usize;

macro_rules! messages {
    ($($(#[$about:meta])* $tag:literal $name:ident {
        $($(#[$about_field:meta])* $field:ident: $kind:ty),* $(,)?
    })*) => {
        /// One message.
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub enum Message {
            $($(#[$about])* $name { $($(#[$about_field])* $field: $kind),* }),*
        }

        impl Message {
            /// Appends the message to `out`.
            pub fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $(Self::$name { $($field),* } => {
                        out.push($tag);
                        $($field.put(out);)*
                    })*
                }
            }

            /// Reads one message, which is all of `bytes`.
            ///
            /// # Errors
            /// [`Malformed`].
            pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
                if bytes.len() > FRAME_MAX {
                    return Err(Malformed("a message that is too long"));
                }
                let mut input = Input(bytes);
                let message = match u8::take(&mut input)? {
                    $($tag => Self::$name { $($field: <$kind as Field>::take(&mut input)?),* },)*
                    _ => return Err(Malformed("a message of no known kind")),
                };
                if !input.0.is_empty() {
                    return Err(Malformed("bytes after the end of a message"));
                }
                message.check()
            }
        }
    };
}
messages! {
    /// The first word of both ends.
    1 Hello {
        /// [`VERSION`] of whoever speaks.
        version: u16,
        /// And its program's.
        program: String,
        /// Whether it has instructions for AES.
        aes: bool,
    }
    /// Where lanes can be opened, and with which secret.
    2 Offer {
        /// Which session they are for.
        session: [u8; 16],
        /// Known to the two ends alone, used once.
        secret: [u8; 32],
        /// The port; 0 for that of the connection that this came over.
        port: u16,
        /// Addresses to try first.
        addresses: Vec<String>,
    }
    /// What the client wants.
    3 Ask { /** It. */ request: Request }
    /// It can be done.
    4 Accept {}
    /// It cannot.
    5 Refuse { /** Why. */ why: String }
    /// Nothing new; the end is there.
    6 Alive {}
    /// What follows is of this operand.
    10 Operand { /** Counted from 0. */ index: u32 }
    /// A directory; what follows is in it.
    11 Enter { /** It. */ entry: Entry }
    /// The directory is at its end.
    12 Leave {
        /// Whether all of it was told of that is to be copied: what else is there, the source does not have.
        complete: bool,
    }
    /// A file with its contents.
    13 Small {
        /** It. */ entry: Entry,
        /** All of it. */ content: Blob,
        /** The BLAKE3 of that, where checksums are to be told. */ sum: Option<[u8; 32]>,
    }
    /// A file whose contents come in pieces.
    14 File {
        /** It. */ entry: Entry,
        /** Its number among those under way. */ file: u32,
        /** Which file in which state, as the journal has it. */ identity: [u8; 56],
    }
    /// A symbolic link.
    15 Symlink { /** It. */ entry: Entry, /** What it says. */ text: PathText }
    /// A FIFO, a socket or a device.
    16 Node { /** It. */ entry: Entry, /** Which device. */ device: u64 }
    /// Another name of what has the number `entry.link`.
    17 Link { /** It. */ entry: Entry }
    /// A directory on the way to what was named; what follows is in it.
    24 Pass { /** It. */ entry: Entry }
    /// All pieces of a file were sent.
    18 End {
        /** Which. */ file: u32,
        /** How many. */ pieces: u64,
        /** The BLAKE3 of all of it, where checksums are to be told. */ sum: Option<[u8; 32]>,
    }
    /// A file will not be complete.
    19 Abandon { /** Which. */ file: u32, /** Whether what there is of it is of no use. */ discard: bool }
    /// All was sent.
    20 Finish {}
    /// A part of a file; its bytes follow.
    21 Piece {
        /** Of which. */ file: u32,
        /** Where. */ offset: u64,
        /** How many bytes. */ len: u32,
        /** Their sum, as the receiver wants it. */ sum: [u8; 32],
    }
    /// A part of a file; its bytes are written to the next slot over RDMA.
    22 Written {
        /** Of which. */ file: u32,
        /** Where. */ offset: u64,
        /** How many bytes. */ len: u32,
        /** Their sum, as the receiver wants it. */ sum: [u8; 32],
    }
    /// The checksum that was asked for.
    23 Sum { /** Of which file. */ file: u32, /** The BLAKE3 of all of it. */ hash: [u8; 32] }
    /// The next names below the operand.
    25 Names {
        /// In order, and each once.
        names: Vec<Relative>,
        /// Whether they are the last.
        last: bool,
    }
    /// The sender has room for the next names.
    26 More {}
    /// Parts of a file that the receiver has.
    30 Have { /** Which file. */ file: u32, /** In order. */ extents: Vec<Extent> }
    /// The receiver is ready for the pieces.
    31 Go { /** Of which. */ file: u32, /** What makes their sums. */ summer: Summer }
    /// The receiver does not want it, or any more of it.
    32 Skip { /** Which. */ file: u32 }
    /// Something failed, which is no reason to stop.
    33 Trouble { /** In words. */ text: String }
    /// The receiver has something as long, and compares checksums.
    34 Compare { /** With which file. */ file: u32 }
    /// There is a copy of a regular file; only where checksums are to be told.
    37 Copied {
        /** Of which operand it is, or below which. */ operand: u32,
        /** Whether that went into a directory. */ into: bool,
        /** Where it is in that. */ way: Relative,
        /** The BLAKE3 that the sender told. */ hash: [u8; 32],
    }
    /// What a comparison has found.
    36 Differs { /** In words. */ text: String }
    /// A lane's end of a ring, which both ends tell; or [`Message::Refuse`].
    40 Ring {
        /// Its queue pair, as text.
        endpoint: String,
        /// Whether its device has immediate data.
        immediates: bool,
        /// Whether it takes keys back before it uses data.
        windows: bool,
    }
    /// Where the sender may write, in order.
    41 Slots { /** All of them. */ slots: Vec<Slot> }
    /// The sender could write to the first slot.
    42 Ready {}
    /// The receiver has used up the oldest slot.
    43 Credit { /** The key for its next use. */ key: u32 }
    /// Whose lanes may be RDMA's: what both ends tell first; or [`Message::Refuse`].
    44 Devices { /** At least one. */ devices: Vec<Port> }
    /// All is done.
    35 Done { /** What was. */ counts: Counts }
}

/// What a destination may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Onto {
    /// A directory that is there.
    Into = 0,
    /// The name itself.
    Exactly = 1,
    /// A directory if it is one, the name itself otherwise.
    Either = 2,
}

impl Onto {
    /// As told.
    ///
    /// # Errors
    /// A number that stands for nothing.
    pub fn of(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Into),
            1 => Ok(Self::Exactly),
            2 => Ok(Self::Either),
            _ => Err(Malformed("a destination of no known kind")),
        }
    }
}

/// How what is to be copied is named.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Naming {
    /// By operands, each of which gets its own name.
    Operands = 0,
    /// By paths below an operand, which are made again in a directory, which is made.
    Listed = 1,
    /// By paths as well, which are those of the operands; the directory is there.
    Parents = 2,
}

impl Naming {
    /// As told.
    ///
    /// # Errors
    /// A number that stands for nothing.
    pub fn of(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Operands),
            1 => Ok(Self::Listed),
            2 => Ok(Self::Parents),
            _ => Err(Malformed("names of no known kind")),
        }
    }
}

/// Lanes that one session may have.
pub const LANES_MAX: u32 = 64;

impl Message {
    /// The entry that it is about, if it is about one.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Enter { entry }
            | Self::Small { entry, .. }
            | Self::File { entry, .. }
            | Self::Symlink { entry, .. }
            | Self::Node { entry, .. }
            | Self::Link { entry }
            | Self::Pass { entry } => Some(entry),
            _ => None,
        }
    }

    /// What must hold between the fields.
    fn check(self) -> Result<Self, Malformed> {
        if let Some(entry) = self.entry() {
            let bytes = |xattr: &ExtendedAttribute| xattr.name.0.len() + xattr.value.0.len();
            if entry.attributes.xattrs.iter().map(bytes).sum::<usize>() > ATTRIBUTES_MAX {
                return Err(Malformed("more extended attributes than may be"));
            }
        }
        let good = match &self {
            Self::Piece { offset, len, .. } | Self::Written { offset, len, .. } => {
                (1..=PIECE_MAX as u32).contains(len)
                    && offset.checked_add(u64::from(*len)).is_some()
            }
            Self::Small { content, .. } => content.0.len() <= SMALL_MAX,
            Self::Ring { endpoint, .. } => endpoint.len() <= ENDPOINT_MAX,
            Self::Devices { devices } => {
                (1..=DEVICES_MAX).contains(&devices.len())
                    && devices.iter().all(|device| device.name.len() <= DEVICE_NAME_MAX)
            }
            Self::Slots { slots } => (1..=SLOTS_MAX).contains(&slots.len()),
            Self::Have { extents, .. } => {
                extents.iter().all(|extent| extent.start < extent.end)
                    && extents.windows(2).all(|two| two[0].end <= two[1].start)
            }
            Self::Ask { request } => {
                Onto::of(request.onto)?;
                let whole = Naming::of(request.naming)? == Naming::Operands;
                request.follow <= 2
                    && request.conflict <= 2
                    && request.sparse <= 2
                    && (1..=LANES_MAX).contains(&request.lanes)
                    && !request.operands.is_empty()
                    && (whole || !(request.delete || request.check))
                    && !(request.sums && request.check)
            }
            _ => true,
        };
        if good { Ok(self) } else { Err(Malformed("a field with a value that it cannot have")) }
    }
}

#[cfg(test)]
mod tests;
