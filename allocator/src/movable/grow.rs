//! Making an object longer where it is: for containers.

use super::heap::Inner;
use super::protocol;
use super::store::Big;
use super::word::Offset;
use crate::os::Os;
use crate::units::{BlockRange, Blocks, Bytes};

impl<O: Os> Inner<O> {
    /// Makes an object that is longer than a block, and that the caller has the handle of, `len` bytes
    /// long, without moving it. `false` where it is not so long, the blocks behind it are not free, or
    /// there is no memory for them; nothing is changed then.
    pub fn grow(&self, index: u32, len: usize) -> bool {
        // Pinned, so that no mover has begun to copy as many bytes as there were.
        let Ok(at) = self.pin(index) else { return false };
        let grown = self.grow_pinned(at, len);
        protocol::unpin(self.tables.word(index));
        grown
    }

    fn grow_pinned(&self, at: Offset, len: usize) -> bool {
        let big = self.state().store.big(at.block());
        let blocks = Blocks::holding(Bytes::of_len(len));
        let Some((big, blocks)) = big.zip(blocks) else { return false };
        if blocks <= big.range.len() {
            return false;
        }
        let Some(range) = self.lengthen(big.range, blocks - big.range.len()) else { return false };
        self.state().store.add_big(Big { range, len: len as u64, ..big });
        true
    }

    /// Lengthens an extent by blocks with memory behind them.
    fn lengthen(&self, range: BlockRange, by: Blocks) -> Option<BlockRange> {
        // The lock is held until the blocks are there, so that no move of an extent begins that is to be
        // cut again.
        let mut placement = self.arena.placement();
        let grown = placement.grow(range, by).ok()?;
        let added = BlockRange::new(range.end(), by);
        if self.arena.populate(added).is_err() {
            let trimmed = placement.trim(added);
            debug_assert!(trimmed.is_ok(), "the blocks were just added: {trimmed:?}");
            return None;
        }
        Some(grown)
    }
}
