//! Parts of a block that go back to the system, while the block stays in use.
#![allow(unsafe_code)] // advises parts of blocks

use super::span::Kind;
use super::table::State;
use super::{Pool, PoolError};
use crate::os::{Advice, Errno, Os};
use crate::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};

impl<O: Os> Pool<O> {
    /// Gives some base pages of a block back, which stays present: they are zero, and come anew, when
    /// they are next touched. Where the block is a transparent huge page, that is broken up. Who
    /// [watches](Pool::watch) the pool is told before that the block leaves.
    ///
    /// # Safety
    /// Nothing relies on what the pages hold.
    ///
    /// # Errors
    /// [`PoolError::InUse`] where the block is pinned, and [`PoolError::Release`] where the system
    /// refused or the block is no private ordinary memory. Nothing has changed then.
    pub(crate) unsafe fn release_part(
        &self,
        block: BlockId,
        start: usize,
        len: usize,
    ) -> Result<(), PoolError> {
        debug_assert!(start + len <= BLOCK_BYTES);
        let range = BlockRange::new(block, Blocks::ONE);
        self.check(range)?;
        self.watchers.tell(range);
        let owner = self.table.new_owner();
        self.table.begin_release(range, owner)?;
        let result = if self.has_parts(block) {
            // SAFETY: (1) the pages lie in the block, which the operation owns and nobody pins; (2) the
            // rest is the caller's.
            unsafe {
                let at = self.address(block).add(start);
                self.os().advise(at, Bytes::of_len(len), Advice::DontNeed)
            }
        } else {
            Err(Errno::INVAL)
        };
        self.table.finish(range, owner);
        result.map_err(|cause| PoolError::Release { block, cause })
    }

    /// Says whether a block that is present is wanted as a transparent huge page, whatever its rung was. What
    /// stands behind it stays.
    ///
    /// # Errors
    /// With what the system said, and [`Errno::INVAL`] of blocks that have no parts.
    pub(crate) fn want_transparent(&self, block: BlockId, wanted: bool) -> Result<(), Errno> {
        let present = matches!(self.table.state(block), State::Present { .. });
        if !present || !self.has_parts(block) {
            return Err(Errno::INVAL);
        }
        let advice = if wanted { Advice::HugePage } else { Advice::NoHugePage };
        // SAFETY: the block is the pool's, and the advice leaves what it holds alone.
        unsafe { self.os().advise(self.address(block), Bytes::of_len(BLOCK_BYTES), advice) }
    }

    /// Whether a block is private ordinary memory, whose pages come and go one by one.
    fn has_parts(&self, block: BlockId) -> bool {
        self.kind(block) == Kind::Ordinary && self.span.file(Kind::Ordinary).is_none()
    }
}
