//! Pins: what holds blocks where they are.
#![allow(unsafe_code)] // declares who always gives the same pool

use core::fmt;
use std::sync::Arc;

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

/// What keeps a pool alive, and gives it.
///
/// # Safety
/// [`PoolRef::pool`] gives the same pool each time, also from clones, and that lives as long as any of
/// them.
pub unsafe trait PoolRef: Clone {
    /// The machine that the pool is of.
    type Os: Os;

    /// The pool.
    fn pool(&self) -> &Pool<Self::Os>;
}

// SAFETY: a shared reference gives what it refers to.
unsafe impl<O: Os> PoolRef for &Pool<O> {
    type Os = O;
    fn pool(&self) -> &Pool<O> {
        self
    }
}

// SAFETY: clones of an `Arc` are the same pool, and keep it.
unsafe impl<O: Os> PoolRef for Arc<Pool<O>> {
    type Os = O;
    fn pool(&self) -> &Pool<O> {
        self
    }
}

/// As [`PoolPin`], for whoever keeps the pool alive himself: it borrows nothing.
pub struct SharedPin<P: PoolRef> {
    pool: P,
    range: BlockRange,
}

impl<P: PoolRef> SharedPin<P> {
    /// Holds the blocks of a range.
    ///
    /// # Errors
    /// As [`Pool::pin`].
    pub fn new(pool: P, range: BlockRange) -> Result<Self, PoolError> {
        core::mem::forget(pool.pool().pin(range)?);
        Ok(Self { pool, range })
    }

    /// The pool they are of.
    pub fn pool(&self) -> &Pool<P::Os> {
        self.pool.pool()
    }

    /// The blocks.
    pub fn range(&self) -> BlockRange {
        self.range
    }
}

impl<P: PoolRef> Drop for SharedPin<P> {
    fn drop(&mut self) {
        self.pool.pool().table.unpin(self.range);
    }
}

impl<P: PoolRef> fmt::Debug for SharedPin<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SharedPin({:?})", self.range)
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
