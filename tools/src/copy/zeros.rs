//! Finding blocks of zeros, for `--sparse=always`.

use std::ops::Range;

/// The size of the blocks that become holes, in bytes: the block of the usual file systems.
pub const BLOCK: usize = 4096;

/// Whether all of `bytes` are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    // Whole chunks without an early exit become vector instructions; leaving between chunks keeps
    // ordinary data cheap, which fails in the first one.
    bytes.chunks(256).all(|chunk| chunk.iter().fold(0, |all, &byte| all | byte) == 0)
}

/// Cuts `bytes`, which stand at `offset` of a file, into the runs of blocks that hold something;
/// what lies between them is zeros. Blocks are those of the file, so the first and the last may be
/// shorter.
pub fn data_runs(offset: u64, bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let block_end = |from: usize| {
            let into_block = ((offset + from as u64) % BLOCK as u64) as usize;
            (from + BLOCK - into_block).min(bytes.len())
        };
        while at < bytes.len() && is_zero(&bytes[at..block_end(at)]) {
            at = block_end(at);
        }
        let start = at;
        while at < bytes.len() && !is_zero(&bytes[at..block_end(at)]) {
            at = block_end(at);
        }
        (start < at).then_some(start..at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_anywhere_is_seen() {
        let mut bytes = vec![0; 1000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 255, 256, 999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes), "byte {at}");
            bytes[at] = 0;
        }
    }

    #[test]
    fn runs_are_whole_blocks_of_the_file() {
        let mut bytes = vec![0; 5 * BLOCK];
        bytes[BLOCK] = 1;
        bytes[2 * BLOCK + 7] = 1;
        bytes[5 * BLOCK - 1] = 1;
        let runs: Vec<_> = data_runs(0, &bytes).collect();
        assert_eq!(runs, [BLOCK..3 * BLOCK, 4 * BLOCK..5 * BLOCK]);
    }

    #[test]
    fn a_piece_that_starts_inside_a_block_keeps_to_the_blocks() {
        let mut bytes = vec![0; 2 * BLOCK];
        bytes[0] = 1;
        let runs: Vec<_> = data_runs(BLOCK as u64 - 10, &bytes).collect();
        assert_eq!(runs, std::slice::from_ref(&(0..10)));
    }

    #[test]
    fn zeros_have_no_runs() {
        assert_eq!(data_runs(3, &[0; 10_000]).count(), 0);
        assert_eq!(data_runs(3, &[]).count(), 0);
    }
}
