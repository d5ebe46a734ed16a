//! The format of a recording: chunks, one after the other, of one thread's events each.
//!
//! A chunk is a header of 64 bytes and room for events, of which a part is used. All numbers are
//! little-endian. Chunks of several processes and threads follow each other in any order; those of one
//! thread in the order of time. Recordings put one after the other are a recording.
//!
//! | offset | bytes | header |
//! | ---: | ---: | --- |
//! | 0 | 8 | `BKNDREC1` |
//! | 8 | 4 | bytes of room for events after the header |
//! | 12 | 4 | of these, bytes used |
//! | 16 | 4 | process |
//! | 20 | 4 | thread, or rather its heap: a number that a later thread may have again |
//! | 24 | 8 | nanoseconds at which the recording of this process began, on the machine's monotonic clock; with the process's number it tells processes apart |
//! | 32 | 8 | nanoseconds at which this chunk begins |
//! | 40 | 4 | events of this thread that were lost before this chunk |
//! | 44 | 4 | 0 |
//! | 48 | 16 | the program's name, cut off or filled up with zeros |
//!
//! An event is two or three numbers in LEB128 (seven bits a byte, the lowest first, the eighth says that
//! another byte follows):
//!
//! 1. Nanoseconds since the event before it (or since the chunk began), times 4, plus the kind:
//!    0 an allocation, 1 a free.
//! 2. The address over 16, less that of the event before it (or less 0), as a number with its sign in
//!    the lowest bit ("zigzag").
//! 3. Of an allocation, the bytes that were asked for.
//!
//! What `realloc` does is a free and an allocation. A free stands before the memory is given back, an
//! allocation after it was had: so by time no address is allocated twice.

use core::fmt;

/// How a chunk begins.
pub const MAGIC: [u8; 8] = *b"BKNDREC1";
/// Bytes of a header.
pub const HEADER_BYTES: usize = 64;
/// Where the bytes used stand in it.
pub(super) const USED_AT: usize = 12;
/// Bytes of an event at most: three numbers of 64 bits.
pub const EVENT_BYTES_MAX: usize = 30;

const ALLOCATION: u64 = 0;
const FREE: u64 = 1;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// So many bytes were allocated.
    Allocated(u64),
    /// They were freed.
    Freed,
}

/// What happened when and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Nanoseconds on the machine's monotonic clock.
    pub time_ns: u64,
    /// An address; a multiple of 16.
    pub address: u64,
    /// What happened to it.
    pub kind: Kind,
}

/// How a chunk is not what it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Malformed {
    /// It does not begin with [`MAGIC`].
    Magic,
    /// It ends before its header does, or before its room for events.
    Short,
    /// More bytes are used than there are.
    Used,
    /// A number does not end, or has more than 64 bits.
    Number,
    /// An event of no kind that there is.
    Kind(u8),
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("no chunk of a recording begins here"),
            Self::Short => f.write_str("the file ends in the middle of a chunk"),
            Self::Used => f.write_str("a chunk claims to use more bytes than it has"),
            Self::Number => f.write_str("a number of an event is cut off, or too long"),
            Self::Kind(kind) => write!(f, "an event is of kind {kind}, which does not exist"),
        }
    }
}

impl core::error::Error for Malformed {}

/// What is said of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Bytes of room after the header.
    pub room: u32,
    /// Of these, used.
    pub used: u32,
    /// The process.
    pub process: u32,
    /// Its thread's heap.
    pub thread: u32,
    /// When the recording of this process began.
    pub began_ns: u64,
    /// When the chunk begins.
    pub base_ns: u64,
    /// Events that were lost before it.
    pub lost: u32,
    /// The program's name.
    pub program: [u8; 16],
}

impl Header {
    /// As it stands in a file.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&self.room.to_le_bytes());
        bytes[USED_AT..16].copy_from_slice(&self.used.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.process.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.thread.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.began_ns.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.base_ns.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.lost.to_le_bytes());
        bytes[48..].copy_from_slice(&self.program);
        bytes
    }

    /// Reads one from the beginning of a file's rest.
    ///
    /// # Errors
    /// [`Malformed`]: it is no header, or not all of its chunk is there.
    pub fn read(file: &[u8]) -> Result<Self, Malformed> {
        if !file.starts_with(&MAGIC[..file.len().min(8)]) {
            return Err(Malformed::Magic);
        }
        let Some(bytes) = file.first_chunk::<HEADER_BYTES>() else { return Err(Malformed::Short) };
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let mut program = [0; 16];
        program.copy_from_slice(&bytes[48..]);
        let header = Self {
            room: word(8),
            used: word(USED_AT),
            process: word(16),
            thread: word(20),
            began_ns: long(24),
            base_ns: long(32),
            lost: word(40),
            program,
        };
        if header.used > header.room {
            return Err(Malformed::Used);
        }
        if file.len() - HEADER_BYTES < header.room as usize {
            return Err(Malformed::Short);
        }
        Ok(header)
    }
}

/// What the next event of a chunk is told from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    time_ns: u64,
    sixteenth: u64,
}

impl Before {
    /// At the beginning of a chunk.
    pub const fn new(base_ns: u64) -> Self {
        Self { time_ns: base_ns, sixteenth: 0 }
    }

    /// Writes an event; how many bytes that took. A time before that of the event before it counts as
    /// the same.
    pub fn write(&mut self, event: Event, to: &mut [u8; EVENT_BYTES_MAX]) -> usize {
        let (kind, size) = match event.kind {
            Kind::Allocated(size) => (ALLOCATION, Some(size)),
            Kind::Freed => (FREE, None),
        };
        // Beyond 146 years it would not fit.
        let passed = event.time_ns.saturating_sub(self.time_ns) & (u64::MAX >> 2);
        let sixteenth = event.address / 16;
        let step = sixteenth.wrapping_sub(self.sixteenth) as i64;
        self.time_ns += passed;
        self.sixteenth = sixteenth;
        let mut len = put(to, 0, passed << 2 | kind);
        len = put(to, len, (step << 1 ^ step >> 63) as u64);
        size.map_or(len, |size| put(to, len, size))
    }

    /// Reads the event at the beginning of `bytes`, and how many it took.
    ///
    /// # Errors
    /// [`Malformed::Number`], [`Malformed::Kind`].
    pub fn read(&mut self, bytes: &[u8]) -> Result<(Event, usize), Malformed> {
        let (first, len) = get(bytes, 0)?;
        let (folded, len) = get(bytes, len)?;
        let step = (folded >> 1) ^ (folded & 1).wrapping_neg();
        let (kind, len) = match first & 3 {
            ALLOCATION => get(bytes, len).map(|(size, len)| (Kind::Allocated(size), len))?,
            FREE => (Kind::Freed, len),
            other => return Err(Malformed::Kind(other as u8)),
        };
        self.time_ns = self.time_ns.checked_add(first >> 2).ok_or(Malformed::Number)?;
        self.sixteenth = self.sixteenth.wrapping_add(step);
        let address = self.sixteenth.wrapping_mul(16);
        Ok((Event { time_ns: self.time_ns, address, kind }, len))
    }
}

/// The events of a chunk.
#[derive(Clone, Debug)]
pub struct Events<'a> {
    left: &'a [u8],
    before: Before,
}

impl<'a> Events<'a> {
    /// Of the bytes used of a chunk's room.
    pub fn new(header: &Header, used: &'a [u8]) -> Self {
        Self { left: used, before: Before::new(header.base_ns) }
    }
}

/// Ends after an error.
impl Iterator for Events<'_> {
    type Item = Result<Event, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        match self.before.read(self.left) {
            Ok((event, len)) => {
                self.left = &self.left[len..];
                Some(Ok(event))
            }
            Err(malformed) => {
                self.left = &[];
                Some(Err(malformed))
            }
        }
    }
}

fn put(to: &mut [u8; EVENT_BYTES_MAX], mut at: usize, mut number: u64) -> usize {
    while number >= 0x80 {
        to[at] = number as u8 | 0x80;
        at += 1;
        number >>= 7;
    }
    to[at] = number as u8;
    at + 1
}

fn get(bytes: &[u8], mut at: usize) -> Result<(u64, usize), Malformed> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let &byte = bytes.get(at).ok_or(Malformed::Number)?;
        at += 1;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            return Err(Malformed::Number);
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Ok((number, at));
        }
    }
    Err(Malformed::Number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn header() -> Header {
        Header {
            room: 100,
            used: 3,
            process: 7,
            thread: 1,
            began_ns: u64::MAX - 5,
            base_ns: 9,
            lost: 2,
            program: *b"gcc\0\0\0\0\0\0\0\0\0\0\0\0\0",
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut file = header().to_bytes().to_vec();
        file.resize(164, 0);
        assert_eq!(Header::read(&file), Ok(header()));
        assert_eq!(Header::read(&file[..163]), Err(Malformed::Short));
        assert_eq!(Header::read(&file[..63]), Err(Malformed::Short));
        assert_eq!(Header::read(b"BKND"), Err(Malformed::Short));
        assert_eq!(Header::read(b"BKNX"), Err(Malformed::Magic));
        file[USED_AT] = 101;
        assert_eq!(Header::read(&file), Err(Malformed::Used));
    }

    #[test]
    fn numbers_of_more_than_64_bits_are_refused() {
        let mut most = [0xff; 10];
        most[9] = 1;
        assert_eq!(get(&most, 0), Ok((u64::MAX, 10)));
        most[9] = 2;
        assert_eq!(get(&most, 0), Err(Malformed::Number));
        assert_eq!(get(&[0x80; 11], 0), Err(Malformed::Number));
        assert_eq!(get(&[0x80], 0), Err(Malformed::Number));
        assert_eq!(Before::new(0).read(&[2, 0]), Err(Malformed::Kind(2)));
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let size = prop_oneof![0..5000u64, any::<u64>()];
        let address = prop_oneof![0..1u64 << 20, any::<u64>().prop_map(|address| address >> 4)];
        let event = (any::<bool>(), address, size, 0..1u64 << 33);
        prop::collection::vec(event, 0..200).prop_map(|events| {
            let mut time_ns = 1;
            let mut all = Vec::new();
            for (freed, sixteenth, size, passed) in events {
                time_ns += passed;
                let kind = if freed { Kind::Freed } else { Kind::Allocated(size) };
                all.push(Event { time_ns, address: sixteenth * 16, kind });
            }
            all
        })
    }

    proptest! {
        #[test]
        fn events_are_read_as_they_were_written(events in events()) {
            let mut before = Before::new(1);
            let mut bytes = Vec::new();
            for &event in &events {
                let mut place = [0; EVENT_BYTES_MAX];
                let len = before.write(event, &mut place);
                bytes.extend_from_slice(&place[..len]);
            }
            let header = Header { base_ns: 1, ..header() };
            let read: Result<Vec<_>, _> = Events::new(&header, &bytes).collect();
            prop_assert_eq!(read, Ok(events));
        }

        /// Whatever bytes there are: an end, and no panic.
        #[test]
        fn rubbish_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Header::read(&bytes);
            let mut with_magic = MAGIC.to_vec();
            with_magic.extend_from_slice(&bytes);
            let _ = Header::read(&with_magic);
            let read = Events::new(&header(), &bytes).count();
            prop_assert!(read <= bytes.len());
        }
    }
}
