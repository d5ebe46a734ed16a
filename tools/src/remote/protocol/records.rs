//! Groups of fields that messages have in common, and the request that a session begins with.

use super::fields::{Blob, Field, Input, Malformed, Name, PathText};

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

records! {
    /// What is to be copied, and how. Both ends know it; each uses what is its part.
    Request {
        /// Whether the client sends; otherwise it receives.
        push: bool,
        /// Names of the operands where the client sends, paths where it receives.
        operands: Vec<PathText>,
        /// Where to, where the client sends.
        destination: PathText,
        /// What the destination may be: see [`Onto`](super::Onto).
        onto: u8,
        /// How what is to be copied is named: see [`Naming`](super::Naming).
        naming: u8,
        /// Go into directories.
        recursive: bool,
        /// Which links are followed: 0 none, 1 those of operands, 2 all.
        follow: u8,
        /// Keep hard links.
        links: bool,
        /// Stay on one file system.
        one_file_system: bool,
        /// Remove what the source does not have.
        delete: bool,
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
        /// Leave targets of the same contents.
        checksum: bool,
        /// Make durable before saying that it is done.
        fsync: bool,
        /// Tell the checksum of every regular file that was copied.
        sums: bool,
        /// Compare with what is there, and write nothing.
        check: bool,
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
        /// Bytes of pieces go over RDMA where they can; the first lane then begins with
        /// [`Devices`](super::Message::Devices), each further one with [`Ring`](super::Message::Ring).
        rdma: bool,
        /// Which congestion control the end that sends has on its connections, as `--congestion` names it.
        congestion: String,
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
    /// A device for RDMA.
    Port {
        /// Its name, for people.
        name: String,
        /// The address that its queue pairs are reached at; zeros where it has none.
        address: [u8; 16],
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
        /// Names removed, with all below them.
        deleted: u64,
    }
}
