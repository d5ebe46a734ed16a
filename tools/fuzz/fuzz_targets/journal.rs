//! Any bytes are a journal or none; what it claims lies in the file, in order, no piece over another.
//!
//! Damage alone finds little behind the checks, so that half of the inputs are records in their own right:
//! each three bytes are one.
#![no_main]

use libfuzzer_sys::fuzz_target;

mod engine {
    #[derive(Clone, PartialEq, Eq, Debug)]
    pub struct PieceSum {
        pub range: std::ops::Range<u64>,
        pub hash: blake3::Hash,
    }
}

#[allow(dead_code)] // what only copies need
#[path = "../../src/copy/journal.rs"]
mod journal;

use engine::PieceSum;
use journal::{Identity, parse, without};

fn check(bytes: &[u8]) {
    let Some(found) = parse(bytes) else { return };
    assert!(found.valid_bytes <= bytes.len());
    let len = found.identity.len();
    assert!(found.pieces.iter().all(|piece| piece.range.start < piece.range.end));
    assert!(found.pieces.iter().all(|piece| piece.range.end <= len));
    assert!(found.pieces.windows(2).all(|two| two[0].range.end <= two[1].range.start));
    let bytes_of = |ranges: &[std::ops::Range<u64>]| ranges.iter().map(|r| r.end - r.start).sum::<u64>();
    let done: Vec<_> = found.pieces.iter().map(|piece| piece.range.clone()).collect();
    let everything = std::iter::once(0..len).filter(|all| !all.is_empty()).collect::<Vec<_>>();
    let left = without(&everything, &found.pieces);
    assert_eq!(bytes_of(&left) + bytes_of(&done), len);
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let Some((identity, rest)) = bytes.split_first_chunk::<56>() else { return };
    let identity = Identity::from_bytes(identity);
    let mut made = identity.header();
    for three in rest.chunks_exact(3) {
        let start = u64::from(three[0]) * 16;
        let hash = blake3::hash(&three[2..]);
        made.extend(identity.record(&PieceSum { range: start..start + u64::from(three[1]), hash }));
        if three[2] & 7 == 7 {
            made.push(three[2]); // and what a crash leaves
        }
    }
    check(&made);
});
