//! Reads journals that are damaged in every way: as they come, and made of whole headers and records, which no
//! fuzzer guesses, with rubbish in between.
//!
//! The first byte says which; then come the source's seven numbers, and parts: a byte that says what it is,
//! and what it takes.
#![no_main]

use bookend_tools::copy::engine::PieceSum;
use bookend_tools::copy::journal::{self, Header, Identity};
use bookend_tools::copy::sum::{SUMMER_BYTES, Sum, Summer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((&made, rest)) = input.split_first() else { return };
    check(rest);
    if made % 2 == 1 {
        check(&journal_of(rest));
    }
});

/// What holds of whatever is read.
fn check(bytes: &[u8]) {
    let Some(found) = journal::parse(bytes) else { return };
    let len = found.header.identity.len();
    assert!(found.valid_bytes <= bytes.len());
    assert!(found.pieces.iter().all(|piece| piece.range.start < piece.range.end));
    assert!(found.pieces.iter().all(|piece| piece.range.end <= len));
    assert!(found.pieces.windows(2).all(|two| two[0].range.end <= two[1].range.start));
    // What is whole says the same without what follows.
    assert_eq!(journal::parse(&bytes[..found.valid_bytes]).as_ref(), Some(&found));
    // What is done and what is left make up the file, without any byte twice.
    let left = journal::without(&[0..len], &found.pieces);
    let mut all: Vec<_> =
        found.pieces.iter().map(|piece| piece.range.clone()).chain(left).collect();
    all.sort_by_key(|range| range.start);
    let end = all.iter().fold(0, |at, range| {
        assert_eq!(range.start, at);
        range.end
    });
    assert_eq!(end, len);
}

fn journal_of(mut input: &[u8]) -> Vec<u8> {
    let mut number = |bytes: usize| -> Option<u64> {
        let (taken, rest) = input.split_at_checked(bytes)?;
        input = rest;
        Some(taken.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let mut fields = [0; 56];
    for field in fields.chunks_exact_mut(8) {
        field.copy_from_slice(&number(4).unwrap_or_default().to_le_bytes());
    }
    // Without a key, or with one.
    let summer = [number(1).unwrap_or_default() as u8 % 2; SUMMER_BYTES];
    let Some(summer) = Summer::from_bytes(&summer) else { return Vec::new() };
    let header = Header { identity: Identity::from_bytes(&fields), summer };
    let mut bytes = header.to_bytes();
    while let Some(part) = number(1) {
        match part {
            // A whole record, of a range that may be none of this file.
            0..=127 => {
                let (start, len) = (number(3).unwrap_or_default(), number(3).unwrap_or_default());
                let start = if part == 0 { u64::MAX - start } else { start };
                let sum = Sum(*blake3::hash(&start.to_le_bytes()).as_bytes());
                let range = start..start.saturating_add(len);
                bytes.extend(header.record(&PieceSum { range, sum }));
            }
            128..=191 => bytes.push(number(1).unwrap_or_default() as u8),
            // A change of what is there.
            _ => {
                let at = number(2).unwrap_or_default() as usize % bytes.len();
                bytes[at] ^= number(1).unwrap_or_default() as u8;
            }
        }
    }
    bytes
}
