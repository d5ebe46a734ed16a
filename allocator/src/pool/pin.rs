//! Pins: what holds blocks where they are.

use core::fmt;

use super::table::State;
use super::{Pool, PoolError};
use crate::os::{Linux, Os};
use crate::units::{BlockRange, Bytes};

impl<O: Os> Pool<O> {
    /// Holds the blocks of a range: until the pin is dropped they are neither released nor moved.
    ///
    /// # Errors
    /// [`PoolError::Absent`] where a block has no memory, [`PoolError::InUse`] where another thread
    /// is populating or releasing it, [`PoolError::OutOfRange`].
    pub fn pin(&self, range: BlockRange) -> Result<PoolPin<'_, O>, PoolError> {
        self.check(range)?;
        self.table.pin(range).map_err(PoolError::from)?;
        Ok(PoolPin { pool: self, range })
    }
}

/// Blocks that stay where they are for as long as this lives.
pub struct PoolPin<'pool, O: Os = Linux> {
    pool: &'pool Pool<O>,
    range: BlockRange,
}

impl<'pool, O: Os> PoolPin<'pool, O> {
    /// The pool they are of.
    pub fn pool(&self) -> &'pool Pool<O> {
        self.pool
    }

    /// The blocks.
    pub fn range(&self) -> BlockRange {
        self.range
    }

    /// Their length.
    pub fn bytes(&self) -> Bytes {
        self.range.len().bytes()
    }
}

impl<O: Os> Drop for PoolPin<'_, O> {
    fn drop(&mut self) {
        self.pool.table.unpin(self.range);
    }
}

impl<O: Os> fmt::Debug for PoolPin<'_, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolPin({:?})", self.range)
    }
}

impl From<super::table::Refused> for PoolError {
    fn from(refused: super::table::Refused) -> Self {
        let block = refused.block;
        match refused.state {
            State::Absent => Self::Absent { block },
            State::Busy { .. } => Self::InUse { block, pins: 0 },
            State::Present { pins, .. } => Self::InUse { block, pins },
        }
    }
}
