//! Cutting memory into pieces that a registrar takes.
//!
//! One large registration beats many, so memory is cut only where it is longer than one may be, and on
//! boundaries between its pages, since some devices refuse what ends inside a huge page. Where a page is
//! longer than a piece may be, the limit rules.

use core::ptr::NonNull;

use bookend::os::Os;
use bookend::scatter::Held;
use bookend::units::{Bytes, PageSize};

/// Consecutive bytes that are registered together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The first byte.
    pub start: NonNull<u8>,
    /// How long.
    pub len: Bytes,
    /// Size of the pages at its beginning.
    pub page: PageSize,
}

// SAFETY: an address and a length; nothing is read through them here.
#[allow(unsafe_code)]
unsafe impl Send for Piece {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for Piece {}

impl Piece {
    /// The address of the first byte.
    pub fn address(&self) -> usize {
        self.start.addr().get()
    }

    /// Whether `len` bytes from `start` on lie in it.
    pub fn holds(&self, start: *const u8, len: usize) -> bool {
        let offset = start.addr().wrapping_sub(self.address());
        let room = self.len.as_usize();
        len <= room && offset <= room - len
    }
}

/// The memory that `held` holds, in pieces no longer than `longest`.
pub fn pieces<H: Held>(held: &H, longest: Option<Bytes>) -> Vec<Piece> {
    let base = held.base();
    let page = |offset| {
        let pages = held.pages(offset);
        pages.map_or_else(|| held.os().base_page_size(), |pages| pages.page)
    };
    let first = base.addr().get() as u64;
    cut(first, held.len(), longest, held.os().base_page_size(), page)
        .into_iter()
        .map(|(start, len)| Piece {
            // Within the held memory, so that it is no null pointer.
            start: base
                .map_addr(|_| core::num::NonZero::new(start as usize).unwrap_or(base.addr())),
            len,
            page: page(Bytes::new(start - first)),
        })
        .collect()
}

/// Pieces as addresses and lengths; `page` says how long the page at an offset is.
fn cut(
    first: u64,
    len: Bytes,
    longest: Option<Bytes>,
    base_page: PageSize,
    page: impl Fn(Bytes) -> PageSize,
) -> Vec<(u64, Bytes)> {
    let longest = longest.map_or(u64::MAX, |longest| longest.get().max(1));
    let (end, mut at) = (first + len.get(), first);
    let mut pieces = Vec::new();
    while at < end {
        let next = if end - at <= longest {
            end
        } else {
            let most = at + longest;
            let candidates = [page(Bytes::new(most - first)), base_page];
            let boundaries = candidates.map(|page| Bytes::new(most).round_down(page).get());
            boundaries.into_iter().find(|&boundary| boundary > at).unwrap_or(most)
        };
        pieces.push((at, Bytes::new(next - at)));
        at = next;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const K4: PageSize = PageSize::from_bytes(Bytes::kib(4)).unwrap();

    fn lengths(first: u64, len: Bytes, longest: Bytes, page: PageSize) -> Vec<Bytes> {
        let pieces = cut(first, len, Some(longest), K4, |_| page);
        let mut at = first;
        for (start, len) in &pieces {
            assert_eq!(*start, at, "without gaps");
            at += len.get();
        }
        assert_eq!(at, first + len.get());
        pieces.into_iter().map(|(_, len)| len).collect()
    }

    #[test]
    fn what_fits_is_one_piece_of_any_length() {
        assert_eq!(cut(5, Bytes::new(77), None, K4, |_| K4), [(5, Bytes::new(77))]);
        assert_eq!(lengths(1 << 21, Bytes::gib(1), Bytes::gib(1), PageSize::MIB2), [Bytes::gib(1)]);
        assert_eq!(cut(5, Bytes::ZERO, None, K4, |_| K4), []);
    }

    #[test]
    fn cuts_are_at_boundaries_of_pages() {
        let mib2 = PageSize::MIB2;
        let gib = Bytes::gib(1);
        assert_eq!(lengths(1 << 21, gib + gib, gib, mib2), [gib, gib]);
        // Begins inside a page: the first piece is shorter, so that the others begin on one.
        assert_eq!(
            lengths(1 << 20, Bytes::mib(8), Bytes::mib(4), mib2),
            [Bytes::mib(3), Bytes::mib(4), Bytes::mib(1)]
        );
        assert_eq!(lengths(0, Bytes::mib(9), Bytes::mib(5), mib2), [Bytes::mib(4), Bytes::mib(5)]);
    }

    #[test]
    fn where_pages_are_longer_than_pieces_the_limit_rules() {
        let expected = [Bytes::mib(512), Bytes::mib(512)];
        assert_eq!(lengths(1 << 30, Bytes::gib(1), Bytes::mib(512), PageSize::GIB1), expected);
        let odd = lengths(0, Bytes::new(3000), Bytes::new(1000), PageSize::MIB2);
        assert_eq!(odd, [Bytes::new(1000); 3]);
    }
}
