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
//!                                             ←  Have*, Go  (what an earlier run left)
//!   Piece + its bytes, on any data lane       →
//!   Written, where bytes go over RDMA         →
//!                                             ←  Credit     (on the same lane)
//!   End                                       →            (the copy takes its name)
//!   Finish                                    →
//!                                             ←  Done       (durable, if that was asked for)
//! ```
//!
//! A data lane that is to use RDMA begins with `Ring` from both ends, `Slots` from the receiver, `Ready`,
//! `Credit`; either end may `Refuse` instead of its word, and the lane is one of TCP then.

use std::ffi::{CStr, CString};

/// The version of what is said here. Two ends with different ones do not talk.
pub const VERSION: u16 = 2;
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
/// Slots that a ring may have.
pub const SLOTS_MAX: usize = bookend_registration::ring::Shape::SLOTS_MAX as usize;
/// Bytes of a path.
const PATH_MAX: usize = 64 << 10;
/// Bytes of a name in a directory.
const NAME_MAX: usize = 255;

/// Bytes that are no message, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// What is left of a message that is being read.
#[derive(Debug)]
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        if len > self.0.len() {
            return Err(Malformed("a message ends before its last field"));
        }
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        Ok(bytes)
    }
}

/// Something that messages are made of.
trait Field: Sized {
    fn put(&self, out: &mut Vec<u8>);
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed>;
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Field for $number {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                let mut bytes = [0; size_of::<$number>()];
                bytes.copy_from_slice(input.bytes(size_of::<$number>())?);
                Ok(Self::from_le_bytes(bytes))
            }
        }
    )*};
}
numbers!(u8, u16, u32, u64, i64);

impl Field for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        match input.bytes(1)? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Malformed("neither yes nor no")),
        }
    }
}

impl<const N: usize> Field for [u8; N] {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(input.bytes(N)?);
        Ok(bytes)
    }
}

/// A length, as the message tells it. Sizes that this machine makes fit: messages are bounded.
fn put_len(len: usize, out: &mut Vec<u8>) {
    u32::try_from(len).unwrap_or(u32::MAX).put(out);
}

/// Bytes without a meaning of their own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Blob(pub Vec<u8>);

impl Field for Blob {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.0.len(), out);
        out.extend_from_slice(&self.0);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let len = u32::take(input)? as usize;
        Ok(Self(input.bytes(len)?.to_vec()))
    }
}

impl Field for String {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        out.extend_from_slice(self.as_bytes());
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let Blob(bytes) = Blob::take(input)?;
        String::from_utf8(bytes).map_err(|_| Malformed("a text that is not UTF-8"))
    }
}

impl<T: Field> Field for Vec<T> {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.len(), out);
        self.iter().for_each(|item| item.put(out));
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let len = u32::take(input)? as usize;
        let mut items = Vec::new(); // grows as items are read: no item is without bytes
        for _ in 0..len {
            items.push(T::take(input)?);
        }
        Ok(items)
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.is_some().put(out);
        if let Some(inner) = self {
            inner.put(out);
        }
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        Ok(if bool::take(input)? { Some(T::take(input)?) } else { None })
    }
}

/// A name in a directory: it has no slash and leads neither up nor nowhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(CString);

impl Name {
    /// `name`, if it is one.
    ///
    /// # Errors
    /// [`Malformed`] says why it is none.
    pub fn new(name: &[u8]) -> Result<Self, Malformed> {
        if name.is_empty() || name.len() > NAME_MAX {
            return Err(Malformed("a name that is empty or longer than names are"));
        }
        if name.contains(&b'/') || name == b"." || name == b".." {
            return Err(Malformed("a name that leads out of its directory"));
        }
        let name = CString::new(name).map_err(|_| Malformed("a name with a zero byte"))?;
        Ok(Self(name))
    }

    /// As the system wants it.
    pub fn as_c_str(&self) -> &CStr {
        &self.0
    }
}

impl Field for Name {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.0.as_bytes().len(), out);
        out.extend_from_slice(self.0.as_bytes());
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let len = u32::take(input)? as usize;
        Self::new(input.bytes(len)?)
    }
}

/// A path, or the text of a symbolic link: bytes without a zero.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PathText(pub Vec<u8>);

impl Field for PathText {
    fn put(&self, out: &mut Vec<u8>) {
        put_len(self.0.len(), out);
        out.extend_from_slice(&self.0);
    }
    fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
        let len = u32::take(input)? as usize;
        let bytes = input.bytes(len)?;
        if bytes.len() > PATH_MAX || bytes.contains(&0) {
            return Err(Malformed("a path with a zero byte, or longer than paths are"));
        }
        Ok(Self(bytes.to_vec()))
    }
}

macro_rules! records {
    ($($(#[$about:meta])* $name:ident {
        $($(#[$about_field:meta])* $field:ident: $kind:ty),* $(,)?
    })*) => {$(
        $(#[$about])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $name { $($(#[$about_field])* pub $field: $kind),* }

        impl Field for $name {
            fn put(&self, out: &mut Vec<u8>) {
                $(self.$field.put(out);)*
            }
            fn take(input: &mut Input<'_>) -> Result<Self, Malformed> {
                Ok(Self { $($field: <$kind as Field>::take(input)?),* })
            }
        }
    )*};
}

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

records! {
    /// What is to be copied, and how. Both ends know it; each uses what is its part.
    Request {
        /// Whether the client sends; otherwise it receives.
        push: bool,
        /// Names of the operands where the client sends, paths where it receives.
        operands: Vec<PathText>,
        /// Where to, where the client sends.
        destination: PathText,
        /// What the destination may be: see [`Onto`].
        onto: u8,
        /// Go into directories.
        recursive: bool,
        /// Which links are followed: 0 none, 1 those of operands, 2 all.
        follow: u8,
        /// Keep hard links.
        links: bool,
        /// Stay on one file system.
        one_file_system: bool,
        /// What to leave out: whether it is that or the contrary, and the pattern.
        rules: Vec<RuleText>,
        /// Carry over mode, times, ownership and attributes.
        preserve: bool,
        /// Replace what may not be written.
        force: bool,
        /// Existing targets: 0 replaced, 1 left, 2 replaced if older.
        conflict: u8,
        /// Leave targets of the same length and time.
        resume: bool,
        /// Make durable before saying that it is done.
        fsync: bool,
        /// Read the targets again.
        verify: bool,
        /// Holes: 0 as in the source, 1 wherever there are zeros, 2 none.
        sparse: u8,
        /// Bytes a second at most; 0 for no limit.
        bwlimit: u64,
        /// Bytes of a piece; 0 for as many as may be.
        block_size: u64,
        /// Bytes of pieces go as they are.
        plain: bool,
        /// Data lanes.
        lanes: u32,
        /// Bytes of pieces go over RDMA where they can; each lane then begins with [`Message::Ring`].
        rdma: bool,
    }
    /// A pattern.
    RuleText {
        /// Take what matches, instead of leaving it out.
        include: bool,
        /// The pattern.
        pattern: PathText,
    }
    /// An extended attribute.
    ExtendedAttribute {
        /// Its name.
        name: PathText,
        /// Its value.
        value: Blob,
    }
    /// A moment.
    Moment {
        /// Seconds since 1970.
        seconds: i64,
        /// And nanoseconds.
        nanoseconds: u32,
    }
    /// What a file has besides its contents.
    Attributes {
        /// Kind and permissions, as `stat(2)` has them.
        mode: u32,
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// When it was read.
        accessed: Moment,
        /// When it was written.
        modified: Moment,
        /// Where preserved.
        xattrs: Vec<ExtendedAttribute>,
    }
    /// Something in a directory, or an operand.
    Entry {
        /// Its name; none for an operand, whose name the receiver knows.
        name: Option<Name>,
        /// A number for a file with several names, to which they refer; 0 for any other.
        link: u64,
        /// What it has.
        attributes: Attributes,
    }
    /// Memory that the other end may write to over RDMA.
    Slot {
        /// Where, in the address space of whoever tells.
        address: u64,
        /// The key for it.
        key: u32,
    }
    /// A range of a file.
    Extent {
        /// Its first byte.
        start: u64,
        /// The byte after its last.
        end: u64,
    }
    /// What was done.
    Counts {
        /// Regular files.
        files: u64,
        /// Their bytes.
        bytes: u64,
        /// Of them, those that an earlier run had brought.
        resumed: u64,
        /// Directories.
        directories: u64,
        /// Symbolic links.
        symlinks: u64,
        /// Names linked to a file that was copied already.
        hard_links: u64,
        /// FIFOs, sockets and devices.
        specials: u64,
        /// Targets left as they were.
        left: u64,
    }
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
    12 Leave {}
    /// A file with its contents.
    13 Small { /** It. */ entry: Entry, /** All of it. */ content: Blob }
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
    /// All pieces of a file were sent.
    18 End { /** Which. */ file: u32, /** How many. */ pieces: u64 }
    /// A file will not be complete.
    19 Abandon { /** Which. */ file: u32, /** Whether what there is of it is of no use. */ discard: bool }
    /// All was sent.
    20 Finish {}
    /// A part of a file; its bytes follow.
    21 Piece {
        /** Of which. */ file: u32,
        /** Where. */ offset: u64,
        /** How many bytes. */ len: u32,
        /** Their BLAKE3. */ hash: [u8; 32],
    }
    /// A part of a file; its bytes are written to the next slot over RDMA.
    22 Written {
        /** Of which. */ file: u32,
        /** Where. */ offset: u64,
        /** How many bytes. */ len: u32,
        /** Their BLAKE3. */ hash: [u8; 32],
    }
    /// Parts of a file that the receiver has.
    30 Have { /** Which file. */ file: u32, /** In order. */ extents: Vec<Extent> }
    /// The receiver is ready for the pieces.
    31 Go { /** Of which. */ file: u32 }
    /// The receiver does not want it, or any more of it.
    32 Skip { /** Which. */ file: u32 }
    /// Something failed, which is no reason to stop.
    33 Trouble { /** In words. */ text: String }
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
            | Self::Link { entry } => Some(entry),
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
            Self::Slots { slots } => (1..=SLOTS_MAX).contains(&slots.len()),
            Self::Have { extents, .. } => {
                extents.iter().all(|extent| extent.start < extent.end)
                    && extents.windows(2).all(|two| two[0].end <= two[1].start)
            }
            Self::Ask { request } => {
                Onto::of(request.onto)?;
                request.follow <= 2
                    && request.conflict <= 2
                    && request.sparse <= 2
                    && (1..=LANES_MAX).contains(&request.lanes)
                    && !request.operands.is_empty()
            }
            _ => true,
        };
        if good { Ok(self) } else { Err(Malformed("a field with a value that it cannot have")) }
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
