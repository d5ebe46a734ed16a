//! The BLAKE3 of a whole file from its pieces, which come in any order.
//!
//! BLAKE3 is a binary tree over chunks of 1 KiB. The value of a subtree depends on its bytes and on where it begins, so
//! it can be taken while the bytes are at hand; values of neighbours are merged as soon as both are there, and few are
//! kept. What was never at hand (a hole, a piece that need not be sent) is read in the end.

use std::collections::BTreeMap;
use std::ops::Range;

use blake3::hazmat::{
    ChainingValue, HasherExt, Mode, left_subtree_len, max_subtree_len, merge_subtrees_non_root,
    merge_subtrees_root,
};
use blake3::{CHUNK_LEN, Hash, Hasher};
use serde::{Deserialize, Serialize};

const CHUNK: u64 = CHUNK_LEN as u64;

/// A subtree that is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Subtree {
    start: u64,
    len: u64,
    value: ChainingValue,
}

/// See the module.
#[derive(Debug)]
pub struct Whole {
    len: u64,
    /// By where they begin: the length, and the value.
    known: BTreeMap<u64, (u64, ChainingValue)>,
}

/// The subtrees that `bytes` are, at `offset` of a file of `len` bytes. Bytes that are no whole subtree are in none.
pub fn subtrees(len: u64, offset: u64, bytes: &[u8]) -> Vec<Subtree> {
    let end = offset + bytes.len() as u64;
    let mut start = offset.next_multiple_of(CHUNK);
    let mut found = Vec::new();
    while start < end {
        let most = max_subtree_len(start).unwrap_or(u64::MAX);
        let rest = end - start;
        let size = match end == len && start > 0 && rest <= most {
            true => rest, // the last one may be of any length
            false if rest < CHUNK => break,
            false => most.min(1 << rest.ilog2()),
        };
        let size = match size >= len {
            true if len > CHUNK => left_subtree_len(len), // the root is another value
            true => break,
            false => size,
        };
        let bytes = &bytes[(start - offset) as usize..][..size as usize];
        let value = Hasher::new().set_input_offset(start).update(bytes).finalize_non_root();
        found.push(Subtree { start, len: size, value });
        start += size;
    }
    found
}

impl Whole {
    /// Of a file of `len` bytes, of which nothing is known.
    pub fn new(len: u64) -> Self {
        Self { len, known: BTreeMap::new() }
    }

    /// Takes note of `subtrees` of it, each of which comes once.
    pub fn add(&mut self, subtrees: Vec<Subtree>) {
        for Subtree { mut start, mut len, mut value } in subtrees {
            while len.is_power_of_two() && len >= CHUNK && 2 * len < self.len {
                let is_left = start.is_multiple_of(2 * len);
                let other = if is_left { start + len } else { start - len };
                let Some((_, theirs)) = self.known.get(&other).copied().filter(|(l, _)| *l == len)
                else {
                    break;
                };
                self.known.remove(&other);
                let (left, right) = if is_left { (value, theirs) } else { (theirs, value) };
                value = merge_subtrees_non_root(&left, &right, Mode::Hash);
                (start, len) = (start.min(other), 2 * len);
            }
            self.known.insert(start, (len, value));
        }
    }

    /// All that is known, for another who has the rest.
    pub fn into_subtrees(self) -> Vec<Subtree> {
        let subtree = |(start, (len, value))| Subtree { start, len, value };
        self.known.into_iter().map(subtree).collect()
    }

    /// The checksum; `read` puts ranges that were never at hand into a hasher.
    ///
    /// # Errors
    /// What `read` says.
    pub fn finish<E>(
        self,
        mut read: impl FnMut(Range<u64>, &mut Hasher) -> Result<(), E>,
    ) -> Result<Hash, E> {
        if self.known.is_empty() {
            let mut hasher = Hasher::new();
            read(0..self.len, &mut hasher)?;
            return Ok(hasher.finalize());
        }
        let left = left_subtree_len(self.len); // what is known is less than all
        let (one, other) =
            (self.value(0, left, &mut read)?, self.value(left, self.len - left, &mut read)?);
        Ok(merge_subtrees_root(&one, &other, Mode::Hash))
    }

    /// The value of a subtree, of which nothing may be known.
    fn value<E>(
        &self,
        start: u64,
        len: u64,
        read: &mut impl FnMut(Range<u64>, &mut Hasher) -> Result<(), E>,
    ) -> Result<ChainingValue, E> {
        match self.known.range(start..start + len).next() {
            Some((&at, (known, value))) if at == start && *known == len => Ok(*value),
            Some(_) if len > CHUNK => {
                let left = left_subtree_len(len);
                let one = self.value(start, left, read)?;
                let other = self.value(start + left, len - left, read)?;
                Ok(merge_subtrees_non_root(&one, &other, Mode::Hash))
            }
            _ => {
                let mut hasher = Hasher::new();
                hasher.set_input_offset(start);
                read(start..start + len, &mut hasher)?;
                Ok(hasher.finalize_non_root())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data(len: usize) -> Vec<u8> {
        (0..len).map(|at| (at * 7 + at / 251 + at / 65_536) as u8).collect()
    }

    /// The checksum of `data` from those of its `pieces`, and how much was read again.
    fn from_pieces(data: &[u8], pieces: &[Range<usize>]) -> (Hash, usize) {
        let len = data.len() as u64;
        let mut whole = Whole::new(len);
        for piece in pieces {
            whole.add(subtrees(len, piece.start as u64, &data[piece.clone()]));
        }
        let mut again = 0;
        let hash = whole.finish(|range, hasher| {
            let bytes = &data[range.start as usize..range.end as usize];
            again += bytes.len();
            hasher.update(bytes);
            Ok::<_, ()>(())
        });
        (hash.unwrap(), again)
    }

    fn pieces(len: usize, piece: usize) -> Vec<Range<usize>> {
        (0..len).step_by(piece).map(|start| start..len.min(start + piece)).collect()
    }

    #[test]
    fn pieces_in_any_order_are_the_whole() {
        for len in
            [0, 1, 1023, 1024, 1025, 2048, 3000, 65_536, 65_537, 100_000, 1 << 20, (1 << 20) + 5]
        {
            let data = data(len);
            for piece in [1024, 4096, 65_536, 3 * 4096] {
                let mut pieces = pieces(len, piece);
                for _ in 0..3 {
                    let (hash, again) = from_pieces(&data, &pieces);
                    assert_eq!(hash, blake3::hash(&data), "{len} in pieces of {piece}");
                    assert!(again == 0 || len <= CHUNK_LEN, "{again} of {len} were read again");
                    let half = pieces.len() / 2;
                    pieces.reverse();
                    pieces.rotate_left(half);
                }
            }
        }
    }

    #[test]
    fn neighbours_are_merged_as_they_come() {
        let data = data(1 << 20);
        let mut whole = Whole::new(1 << 20);
        for piece in pieces(1 << 20, 4096) {
            whole.add(subtrees(1 << 20, piece.start as u64, &data[piece.clone()]));
            assert!(whole.known.len() <= 9, "{} are kept", whole.known.len());
        }
        assert_eq!(whole.known.len(), 2);
    }

    proptest! {
        #[test]
        fn what_is_not_there_is_read(
            len in 0..200_000_usize,
            cuts in proptest::collection::vec((0..200_000_usize, any::<bool>()), 0..12),
            aligned: bool,
        ) {
            let data = data(len);
            let mut cuts: Vec<_> = cuts
                .into_iter()
                .map(|(at, there)| (if aligned { at / 4096 * 4096 } else { at }.min(len), there))
                .collect();
            cuts.push((len, true));
            cuts.sort_unstable();
            let mut before = 0;
            let mut pieces = Vec::new();
            for (at, there) in cuts {
                if there && at > before {
                    pieces.push(before..at);
                }
                before = at;
            }
            pieces.reverse();
            prop_assert_eq!(from_pieces(&data, &pieces).0, blake3::hash(&data));
        }
    }
}
