//! A use of a cached registration.
#![allow(unsafe_code)] // reads what an entry keeps for its users

use core::fmt;
use core::ops::Deref;

use bookend::pool::{PoolRef, SharedPin};
use bookend::units::BlockRange;

use super::inner::Inner;
use crate::{Region, Registrar};

/// A registration out of a [`Cache`](super::Cache), kept for as long as this lives. It dereferences to
/// what the device knows the memory by.
pub struct Lease<'c, P: PoolRef, R: Registrar> {
    cache: &'c Inner<P, R>,
    entry: u32,
}

impl<'c, P: PoolRef, R: Registrar> Lease<'c, P, R> {
    /// # Safety
    /// The caller is a user of the entry, and passes that on.
    #[inline]
    pub(super) unsafe fn new(cache: &'c Inner<P, R>, entry: u32) -> Self {
        Self { cache, entry }
    }

    /// The blocks that are registered together: those that were asked for are among them.
    pub fn range(&self) -> BlockRange {
        // SAFETY: a lease is a user.
        unsafe { self.cache.entry(self.entry).held() }.range
    }

    /// The region.
    #[inline]
    pub fn region(&self) -> &Region<R::Registration, SharedPin<P>> {
        // SAFETY: a lease is a user.
        unsafe { &self.cache.entry(self.entry).held().region }
    }
}

impl<P: PoolRef, R: Registrar> Deref for Lease<'_, P, R> {
    type Target = R::Registration;
    #[inline]
    fn deref(&self) -> &R::Registration {
        self.region().registration()
    }
}

impl<P: PoolRef, R: Registrar> Drop for Lease<'_, P, R> {
    #[inline]
    fn drop(&mut self) {
        if self.cache.entry(self.entry).word.release() {
            // SAFETY: release says that the entry is ours.
            unsafe { self.cache.end(self.entry) };
        }
    }
}

impl<P: PoolRef, R: Registrar> fmt::Debug for Lease<'_, P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({:?})", self.range())
    }
}
