//! A cache of registrations, keyed by the blocks of a pool.
//!
//! Registering takes microseconds to milliseconds, and most programs use the same memory again and again.
//! Caches in front of `malloc`'s memory have to hook into it, to learn when an address becomes another
//! piece of memory, and are wrong when they miss it. Here it is the other way round:
//!
//! 1. Every registration in the cache holds a pin of its blocks, so their memory can neither go nor
//!    move while it is there. **No key is ever stale**: there is nothing to invalidate in time.
//! 2. The cache [watches](bookend::pool::Watch) the pool. When blocks are to be released or moved, it
//!    drops the registrations that nobody uses at the moment, and with them the pins, and the pool goes on;
//!    what is in use makes the pool refuse ([`PoolError::InUse`](bookend::pool::PoolError::InUse)).
//!
//! A hit takes no lock: a word a block names the entry, and a count in the entry keeps it (`word.rs` has
//! the proof, and a model checker runs it). A miss takes the one lock, makes room, and registers. Neighbours
//! are merged: entries that the new one overlaps, and those beside it that are idle and not longer than it,
//! go, and one registration of all takes their place. So memory that is registered block by block, in order,
//! is registered O(n log n) times in all and ends as one region.
//!
//! What is in the cache can be reached by whoever has its key for as long as it is there, also after the
//! program is done with the memory. Keys that other machines get are to be withdrawn
//! ([`Cache::forget`], or a memory window) before the memory is used for something else.

mod entry;
mod inner;
mod lease;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod tests;
mod word;

pub use lease::Lease;

use std::fmt;
use std::sync::{Arc, Weak};

use bookend::pool::{PoolRef, Watch};
use bookend::units::{BLOCK_BYTES, BlockRange, Blocks, Bytes};

use crate::{RegisterError, Registrar};
use inner::Inner;

/// How much a cache may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CacheLimits {
    /// Bytes registered at once.
    pub bytes: Bytes,
    /// Regions at once.
    pub regions: u32,
}

impl Default for CacheLimits {
    /// 1,024 regions of any length.
    fn default() -> Self {
        Self { bytes: Bytes::new(u64::MAX), regions: 1024 }
    }
}

/// What a cache has done so far, and holds now.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct CacheCounts {
    /// Found.
    pub hits: u64,
    /// Not found, and registered.
    pub misses: u64,
    /// Registrations that became part of a longer one.
    pub merges: u64,
    /// Registrations that went because their blocks did.
    pub invalidations: u64,
    /// Registrations that went to make room.
    pub evictions: u64,
    /// Regions held.
    pub regions: u32,
    /// Bytes held.
    pub bytes: Bytes,
}

/// Why there is no registration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The registrar, or the pool.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// What is in use leaves no room, or the range is longer than the cache may be.
    #[error(
        "no room in the cache for {wanted}: {used} in {regions} regions are in use, of {} in {} at most",
        limits.bytes, limits.regions
    )]
    Full {
        /// Bytes wanted.
        wanted: Bytes,
        /// Bytes that are in use, and cannot be evicted.
        used: Bytes,
        /// Regions in use.
        regions: u32,
        /// What the cache may hold.
        limits: CacheLimits,
    },
    /// The memory is not the pool's.
    #[error("{len} bytes at {start:#x} do not lie in the cache's pool")]
    Foreign {
        /// The first byte.
        start: usize,
        /// How many.
        len: usize,
    },
}

/// A cache of registrations of one pool's blocks with one registrar. See the [module](self).
pub struct Cache<P: PoolRef, R: Registrar> {
    inner: Arc<Inner<P, R>>,
}

impl<P, R> Cache<P, R>
where
    P: PoolRef + Send + Sync + 'static,
    R: Registrar + Send + Sync + 'static,
    R::Registration: Send + Sync + 'static,
{
    /// An empty cache.
    ///
    /// Takes 4 bytes of memory a block of the pool.
    pub fn new(pool: P, registrar: R, limits: CacheLimits) -> Self {
        let inner = Arc::new(Inner::new(pool, registrar, limits));
        let watch: Weak<dyn Watch> = Arc::downgrade(&inner) as Weak<dyn Watch>;
        inner.pool.pool().watch(watch);
        Self { inner }
    }

    /// The registration of these blocks, alone or among others: the one there is, or a new one.
    ///
    /// # Errors
    /// [`CacheError::Full`]; [`CacheError::Register`] by what failed.
    #[inline]
    pub fn get(&self, range: BlockRange) -> Result<Lease<'_, P, R>, CacheError> {
        match self.inner.find(range) {
            Some(lease) => Ok(lease),
            None => self.inner.register(range),
        }
    }

    /// The same for the blocks that `len` bytes from `start` on lie in.
    ///
    /// # Errors
    /// As [`Cache::get`]; [`CacheError::Foreign`] where they do not lie in the pool.
    #[inline]
    pub fn get_bytes(&self, start: *const u8, len: usize) -> Result<Lease<'_, P, R>, CacheError> {
        self.get(self.blocks_of(start, len)?)
    }

    fn blocks_of(&self, start: *const u8, len: usize) -> Result<BlockRange, CacheError> {
        let pool = self.inner.pool.pool();
        let foreign = CacheError::Foreign { start: start.addr(), len };
        let Some(first) = pool.locate(start) else { return Err(foreign) };
        let inside = (start.addr() - pool.base().addr().get()) % BLOCK_BYTES;
        let end = inside.checked_add(len.max(1)).map(|end| end.div_ceil(BLOCK_BYTES));
        match end {
            Some(blocks) if blocks <= pool.capacity().as_usize() - first.as_usize() => {
                Ok(BlockRange::new(first, Blocks::new(blocks as u32)))
            }
            _ => Err(foreign),
        }
    }

    /// Takes what covers any of these blocks out of the cache, so that its keys end: at once where nobody
    /// uses it, else when the last lease goes. Says how many regions are still in use.
    pub fn forget(&self, range: BlockRange) -> usize {
        self.inner.forget(range)
    }

    /// What it has done so far, and holds now.
    pub fn counts(&self) -> CacheCounts {
        self.inner.counts()
    }

    /// The registrar.
    pub fn registrar(&self) -> &R {
        &self.inner.registrar
    }

    /// Checks the cache against itself. To be called while nobody else uses it.
    ///
    /// # Panics
    /// With what is wrong.
    pub fn validate(&self) {
        self.inner.validate();
    }
}

impl<P: PoolRef, R: Registrar> fmt::Debug for Cache<P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cache({:?})", self.inner.counts())
    }
}
