//! The core against a brute-force model.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::units::{Bytes, PageSize};

/// A page of a model: its size is 4 or 16 bytes, so that every list can be tried.
#[derive(Clone, Copy, Debug)]
struct Page {
    address: u64,
    size: u64,
    physical: Option<u64>,
}

/// Pages of a mapping, some of them neighbours in memory.
fn mapping() -> impl Strategy<Value = Vec<Page>> {
    // For each group of 16 bytes: one page or four, and for each page how it is placed.
    vec((any::<bool>(), [0u8..8, 0..8, 0..8, 0..8]), 1..7).prop_map(|groups| {
        let mut pages: Vec<Page> = Vec::new();
        let mut fresh = 1u64 << 20;
        for (group, (huge, places)) in (0..).zip(groups) {
            let size = if huge { 16 } else { 4 };
            for (slot, place) in (0..16 / size).zip(places) {
                let address = 1600 + group * 16 + slot * size;
                let follows = pages.last().and_then(|p| Some(p.physical? + p.size));
                let physical = match (place, follows) {
                    (0, _) => None,
                    (1..6, Some(next)) if next % size == 0 => Some(next),
                    _ => {
                        fresh += 64;
                        // Aligned to the page only, or as the address is.
                        Some(if place == 7 { fresh + size } else { fresh + address % 16 })
                    }
                };
                pages.push(Page { address, size, physical });
            }
        }
        pages
    })
}

fn limits() -> impl Strategy<Value = Limits> {
    (proptest::option::of(1u64..50), 0u32..6).prop_map(|(longest, shift)| Limits {
        max_entries: None,
        max_entry_bytes: longest.map(Bytes::new),
        alignment: Alignment::from_bytes(Bytes::new(1 << shift)).unwrap(),
    })
}

/// What the core makes of `start..end`.
fn merged(
    pages: &[Page],
    start: u64,
    end: u64,
    limits: &Limits,
    join: bool,
) -> Result<Vec<Span>, ScatterError> {
    let mut spans = Vec::new();
    let mut merger = Merger::new(start, limits, |span| spans.push(span))?;
    let mut pending: Option<Piece> = None;
    for page in pages {
        let (from, to) = (page.address.max(start), (page.address + page.size).min(end));
        if from >= to {
            continue;
        }
        let piece = Piece {
            len: Bytes::new(to - from),
            physical: page.physical.map(|p| PhysicalAddress::new(p + from - page.address)),
            page: PageSize::from_bytes(Bytes::new(page.size)).unwrap(),
        };
        // Pieces of several pages must give the same list.
        let joined = pending.filter(|before| {
            join && before.page == piece.page
                && before.physical.is_some()
                && before.physical.map(|p| p.offset(before.len)) == piece.physical
        });
        if let Some(before) = joined {
            pending = Some(Piece { len: before.len + piece.len, ..before });
        } else if let Some(before) = pending.replace(piece) {
            merger.push(before)?;
        }
    }
    if let Some(last) = pending {
        merger.push(last)?;
    }
    merger.finish()?;
    Ok(spans)
}

/// The fewest entries by trying all, under the rule of the module; `None` where there are none.
fn fewest(pages: &[Page], start: u64, end: u64, limits: &Limits) -> Option<usize> {
    let align = limits.alignment;
    let longest = align.round_down(limits.max_entry_bytes.map_or(1 << 40, Bytes::get));
    let page_of = |at: u64| pages.iter().position(|p| p.address <= at && at < p.address + p.size);
    let physical =
        |at: u64| page_of(at).and_then(|i| Some(pages[i].physical? + at - pages[i].address));
    let boundary = |at: u64| align.divides(at) && pages.iter().any(|p| p.address == at);
    // Whether the byte at `at` and the one before may be in one entry.
    let joined = |at: u64| {
        page_of(at) == page_of(at - 1)
            || matches!((physical(at - 1), physical(at)), (Some(a), Some(b)) if a + 1 == b)
    };
    let may_be = |from: u64, to: u64| {
        let contiguous = (from + 1..to).all(joined);
        let aligned = align.divides(from)
            && align.divides(to)
            && physical(from).is_none_or(|p| align.divides(p));
        let run_ends = to == end || !joined(to);
        let in_reach = (from + 1..=from.saturating_add(longest).min(end))
            .take_while(|&at| (from + 1..at).all(joined))
            .any(boundary);
        contiguous && aligned && to - from <= longest && (run_ends || boundary(to) || !in_reach)
    };
    let mut best = vec![None; (end - start) as usize + 1];
    best[0] = Some(0usize);
    for to in start + 1..=end {
        best[(to - start) as usize] = (start..to)
            .filter(|&from| may_be(from, to))
            .filter_map(|from| best[(from - start) as usize].map(|n| n + 1))
            .min();
    }
    best[(end - start) as usize]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn greedy_is_fewest(
        pages in mapping(),
        limits in limits(),
        ends in (0u64..100, 0u64..100),
        join in any::<bool>(),
    ) {
        let first = pages[0].address;
        let len = pages.iter().map(|p| p.size).sum::<u64>();
        let (a, b) = (ends.0 % len, ends.1 % len);
        let (start, end) = (first + a.min(b), first + a.max(b) + 1);
        let model = fewest(&pages, start, end, &limits);
        match merged(&pages, start, end, &limits, join) {
            Ok(spans) => {
                prop_assert_eq!(Some(spans.len()), model, "{:?}", spans);
                let mut at = start;
                for span in &spans {
                    prop_assert_eq!(span.address, at);
                    prop_assert!(limits.max_entry_bytes.is_none_or(|max| span.len <= max));
                    at += span.len.get();
                }
                prop_assert_eq!(at, end);
            }
            Err(error) => prop_assert_eq!(model, None, "{}", error),
        }
    }
}

fn mib(n: u64) -> Bytes {
    Bytes::mib(n)
}

/// One piece of 2 MiB pages, all neighbours, from an address that is a multiple of 1 GiB.
fn lengths(len: Bytes, page: PageSize, max: Bytes) -> Vec<Bytes> {
    let limits = Limits { max_entry_bytes: Some(max), ..Limits::NONE };
    let mut lengths = Vec::new();
    let mut merger = Merger::new(1 << 40, &limits, |span| lengths.push(span.len)).unwrap();
    merger.push(Piece { len, physical: Some(PhysicalAddress::new(1 << 33)), page }).unwrap();
    merger.finish().unwrap();
    lengths
}

#[test]
fn cuts_fall_on_huge_page_boundaries_where_the_limit_allows() {
    assert_eq!(lengths(mib(7), PageSize::MIB2, mib(3)), [mib(2), mib(2), mib(3)]);
    assert_eq!(lengths(mib(8), PageSize::MIB2, mib(5)), [mib(4), mib(4)]);
    let below_4g = Bytes::new(u64::from(u32::MAX));
    assert_eq!(
        lengths(Bytes::gib(5), PageSize::MIB2, below_4g),
        [Bytes::gib(4) - mib(2), Bytes::gib(1) + mib(2)]
    );
}

#[test]
fn a_limit_below_the_page_cuts_within_it() {
    assert_eq!(lengths(mib(4), PageSize::MIB2, mib(1)), [mib(1); 4]);
    assert_eq!(lengths(Bytes::gib(1), PageSize::GIB1, mib(512)), [mib(512); 2]);
}

#[test]
fn entries_that_cannot_be_aligned_are_an_error() {
    let alignment = Alignment::from_bytes(Bytes::kib(4)).unwrap();
    let limits = Limits { max_entry_bytes: Some(Bytes::new(4095)), alignment, ..Limits::NONE };
    let error = Merger::new(0, &limits, |_| ()).map(drop).unwrap_err();
    assert!(matches!(error, ScatterError::EntryTooShort { .. }));
    assert!(error.to_string().contains("4 KiB"), "{error}");
}
