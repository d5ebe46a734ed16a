//! The journal of a copy that can be resumed: of which source it is, and the checksum of each piece
//! that was written.
//!
//! ```text
//! header   "hugecp journal 3" | device, inode, length, mtime s, ns, ctime s, ns (8 bytes each)
//!          | what sums are made with (33 bytes) | check
//! record   start | length (8 bytes each) | sum of the piece (32 bytes) | check
//! ```
//!
//! Numbers are little-endian. A check is the first 8 bytes of a BLAKE3 over what precedes it, the
//! record's keyed with the header: what a crash left half-written, and records of another journal
//! in recycled blocks, do not pass. Records are only ever appended.
//!
//! A record is a claim and no proof: it may have reached the disk when the piece had not. Whoever
//! resumes reads the piece and compares.

use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::engine::PieceSum;
use super::sum::{SUM_BYTES, SUMMER_BYTES, Sum, Summer};

const MAGIC: &[u8; 16] = b"hugecp journal 3";
/// Numbers in an identity.
const FIELDS: usize = 7;
const CHECK_BYTES: usize = 8;
/// Bytes of the header.
pub const HEADER_BYTES: usize = MAGIC.len() + 8 * FIELDS + SUMMER_BYTES + CHECK_BYTES;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 8 + 8 + SUM_BYTES + CHECK_BYTES;

/// What tells one state of a source from any other: what writes to a file changes its ctime. Stores through a mapping
/// change it when a page that is clean is written to first, so [`Source::settle`](super::source::Source::settle) has the
/// pages clean; in memory no page ever is, and what is known of such a source is compared with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity([u64; FIELDS]);

impl Identity {
    /// Of what `metadata` is about.
    pub fn of(metadata: &Metadata) -> Self {
        Self([
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            metadata.mtime().cast_unsigned(),
            metadata.mtime_nsec().cast_unsigned(),
            metadata.ctime().cast_unsigned(),
            metadata.ctime_nsec().cast_unsigned(),
        ])
    }

    /// The same on whatever machine it is looked at: the number of a device is that machine's own.
    pub fn anywhere(metadata: &Metadata) -> Self {
        let mut identity = Self::of(metadata);
        identity.0[0] = 0;
        identity
    }

    /// Whether both are of the same state of a file, as far as they tell: one [anywhere](Self::anywhere) tells no
    /// device.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let (device, state) = (self.0[0], &self.0[1..]);
        *state == other.0[1..] && (device == other.0[0] || device == 0 || other.0[0] == 0)
    }

    /// As it is told to another machine.
    pub fn to_bytes(self) -> [u8; 8 * FIELDS] {
        let mut bytes = [0; 8 * FIELDS];
        for (place, field) in bytes.chunks_exact_mut(8).zip(self.0) {
            place.copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// As another machine told it.
    pub fn from_bytes(bytes: &[u8; 8 * FIELDS]) -> Self {
        let mut fields = [0; FIELDS];
        for (field, bytes) in fields.iter_mut().zip(bytes.chunks_exact(8)) {
            *field = number(bytes);
        }
        Self(fields)
    }

    /// Of something that is read as a file of `len` bytes.
    pub fn set_len(&mut self, len: u64) {
        self.0[2] = len;
    }

    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.0[2]
    }

    /// Whether the file has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a journal is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which source, in which state.
    pub identity: Identity,
    /// What makes the sums of its pieces.
    pub summer: Summer,
}

impl Header {
    /// As it begins the journal.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.identity.to_bytes());
        bytes.extend(self.summer.to_bytes());
        bytes.extend(check(blake3::hash(&bytes)));
        bytes
    }

    /// `None` where `bytes` are no whole header.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fields = bytes.get(MAGIC.len()..)?;
        let identity = Identity::from_bytes(fields.first_chunk()?);
        let summer = Summer::from_bytes(fields.get(8 * FIELDS..)?.first_chunk()?)?;
        let header = Self { identity, summer };
        (header.to_bytes() == bytes).then_some(header)
    }

    /// The record of a piece.
    pub fn record(&self, piece: &PieceSum) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(RECORD_BYTES);
        bytes.extend(piece.range.start.to_le_bytes());
        bytes.extend((piece.range.end - piece.range.start).to_le_bytes());
        bytes.extend(piece.sum.0);
        bytes.extend(check(self.keyed(&bytes)));
        bytes
    }

    fn keyed(&self, bytes: &[u8]) -> blake3::Hash {
        blake3::keyed_hash(blake3::hash(&self.to_bytes()).as_bytes(), bytes)
    }
}

/// What a journal says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Journal {
    /// What it is of.
    pub header: Header,
    /// The pieces claimed to be written, in the order of the file, none over another.
    pub pieces: Vec<PieceSum>,
    /// Bytes of the journal up to the end of its last whole record.
    pub valid_bytes: usize,
}

/// Reads a journal; `None` where it has no whole header. What follows the last whole record is
/// what a crash left of another.
pub fn parse(bytes: &[u8]) -> Option<Journal> {
    let begin = bytes.get(..HEADER_BYTES)?;
    let header = Header::from_bytes(begin)?;
    let key = *blake3::hash(begin).as_bytes();
    let (mut pieces, mut valid_bytes) = (Vec::new(), HEADER_BYTES);
    for record in bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES) {
        let (body, its_check) = record.split_at(RECORD_BYTES - CHECK_BYTES);
        if check(blake3::keyed_hash(&key, body)) != its_check {
            break;
        }
        valid_bytes += RECORD_BYTES;
        let (start, len) = (number(&body[..8]), number(&body[8..16]));
        let mut sum = Sum([0; SUM_BYTES]);
        sum.0.copy_from_slice(&body[16..]);
        let range = start..start.saturating_add(len);
        if range.start < range.end && range.end <= header.identity.len() && len <= PIECE_BYTES_MAX {
            pieces.push(PieceSum { range, sum });
        }
    }
    Some(Journal { header, pieces: apart(pieces), valid_bytes })
}

/// Whether `bytes` may be a journal, of another version or half written too: nothing else is thrown away.
pub fn may_be_one(bytes: &[u8]) -> bool {
    let begin = &MAGIC[..MAGIC.len() - 1]; // without the version
    let begin = &begin[..begin.len().min(bytes.len())];
    bytes.starts_with(begin) || bytes.iter().all(|&byte| byte == 0) // which a crash may leave
}

/// No engine writes longer pieces, and nobody shall be made to read them into memory.
const PIECE_BYTES_MAX: u64 = 1 << 30;

/// The pieces in order, without those that lie over an earlier one. Of two for the same range the
/// later counts: it was written because the earlier did not hold.
fn apart(pieces: Vec<PieceSum>) -> Vec<PieceSum> {
    let mut order: Vec<(usize, PieceSum)> = pieces.into_iter().enumerate().collect();
    order.sort_by(|(at, one), (other_at, other)| {
        one.range.start.cmp(&other.range.start).then(other_at.cmp(at))
    });
    let mut end = 0;
    order.retain(|(_, piece)| {
        let apart = piece.range.start >= end;
        if apart {
            end = piece.range.end;
        }
        apart
    });
    order.into_iter().map(|(_, piece)| piece).collect()
}

/// What of `data` is not in `done`; both in order.
pub fn without(data: &[Range<u64>], done: &[PieceSum]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    let mut done = done.iter().map(|piece| &piece.range).peekable();
    for range in data {
        let mut at = range.start;
        while let Some(next) = done.peek().filter(|next| next.start < range.end) {
            if at < next.start {
                left.push(at..next.start);
            }
            at = at.max(next.end);
            if next.end > range.end {
                break; // it reaches into what comes next
            }
            done.next();
        }
        if at < range.end {
            left.push(at..range.end);
        }
    }
    left
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn check(hash: blake3::Hash) -> [u8; CHECK_BYTES] {
    let mut check = [0; CHECK_BYTES];
    check.copy_from_slice(&hash.as_bytes()[..CHECK_BYTES]);
    check
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        let summer = Summer::from_bytes(&[2; SUMMER_BYTES]).unwrap();
        Header { identity: Identity([1, 2, 10_000, 4, 5, 6, 7]), summer }
    }

    fn piece(range: Range<u64>) -> PieceSum {
        PieceSum { sum: header().summer.sum(range.start, b"its bytes"), range }
    }

    fn journal(pieces: &[PieceSum]) -> Vec<u8> {
        let mut bytes = header().to_bytes();
        pieces.iter().for_each(|piece| bytes.extend(header().record(piece)));
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let pieces = [piece(0..100), piece(100..200), piece(500..10_000)];
        let bytes = journal(&pieces);
        let found = parse(&bytes).unwrap();
        assert_eq!((found.header, &found.pieces[..]), (header(), &pieces[..]));
        assert_eq!(found.valid_bytes, bytes.len());
    }

    #[test]
    fn a_journal_that_was_cut_anywhere_says_what_is_whole() {
        let pieces = [piece(0..100), piece(100..200)];
        let bytes = journal(&pieces);
        for cut in 0..bytes.len() {
            match parse(&bytes[..cut]) {
                None => assert!(cut < HEADER_BYTES),
                Some(found) => {
                    assert_eq!(found.pieces.len(), (cut - HEADER_BYTES) / RECORD_BYTES);
                    assert_eq!(found.valid_bytes % RECORD_BYTES, HEADER_BYTES % RECORD_BYTES);
                }
            }
        }
    }

    #[test]
    fn records_of_another_source_do_not_count() {
        let other_source = Header { identity: Identity([1, 2, 10_000, 4, 5, 6, 8]), ..header() };
        let other_key = Header { summer: Summer::new(true), ..header() };
        for other in [other_source, other_key] {
            let mut bytes = header().to_bytes();
            bytes.extend(other.record(&piece(0..100)));
            assert!(parse(&bytes).unwrap().pieces.is_empty());
        }
    }

    #[test]
    fn pieces_beyond_the_end_or_over_each_other_do_not_count() {
        let mut again = piece(0..100);
        again.sum = header().summer.sum(0, b"again");
        let bytes = journal(&[
            piece(0..100),
            piece(50..150),
            piece(9_999..10_001),
            piece(7..7),
            again.clone(),
        ]);
        assert_eq!(parse(&bytes).unwrap().pieces, [again]);
    }

    #[test]
    fn identities_agree_in_all_that_both_tell() {
        let here = header().identity;
        let with = |at: usize, value| {
            let mut other = here;
            other.0[at] = value;
            other
        };
        assert!(here.agrees_with(&here) && here.agrees_with(&with(0, 0)));
        assert!(with(0, 0).agrees_with(&here) && !here.agrees_with(&with(0, 9)));
        for field in 1..FIELDS {
            assert!(!here.agrees_with(&with(field, 0)), "{field}");
        }
    }

    #[test]
    fn what_is_left_is_the_data_without_what_is_done() {
        let left = |data: &[Range<u64>], done: &[Range<u64>]| {
            without(data, &done.iter().cloned().map(piece).collect::<Vec<_>>())
        };
        assert_eq!(left(&[0..100], &[]), [0..100]);
        assert_eq!(left(&[0..100], &[0..100]), []);
        assert_eq!(left(&[0..100, 200..300], &[10..20, 50..250]), [0..10, 20..50, 250..300]);
        assert_eq!(left(&[0..100, 200..300], &[0..10, 100..200, 290..400]), [10..100, 200..290]);
        assert_eq!(left(&[0..10, 20..30, 40..50], &[5..45]), [0..5, 45..50]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(mut bytes: Vec<u8>, flips: Vec<(usize, u8)>) {
            let _ = parse(&bytes);
            let mut damaged = journal(&[piece(0..100), piece(100..200)]);
            for (at, byte) in flips {
                let at = at % damaged.len();
                damaged[at] ^= byte;
            }
            damaged.append(&mut bytes);
            if let Some(found) = parse(&damaged) {
                prop_assert!(found.valid_bytes <= damaged.len());
                for piece in &found.pieces {
                    prop_assert!(piece.range.end <= found.header.identity.len());
                }
                prop_assert!(found.pieces.windows(2).all(|p| p[0].range.end <= p[1].range.start));
            }
        }
    }
}
