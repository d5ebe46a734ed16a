//! Telling others that blocks are about to lose their memory.
//!
//! Whoever keeps pins of blocks that nobody uses at the moment (a cache of registrations, say) watches
//! the pool, and lets go of them when the pool asks. So no hook into `malloc` or `munmap` is needed, and
//! what is cached is never stale: while it holds a pin its blocks cannot go, and before they go it is told.

use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, Weak};

use super::Pool;
use crate::os::Os;
use crate::units::BlockRange;

/// Is told before blocks lose their memory.
pub trait Watch: Send + Sync {
    /// The memory of these blocks is to be given back, or moved elsewhere. Pins of them that are merely
    /// kept are to be dropped before this returns; what is in use may be held on, and the operation fails
    /// then.
    ///
    /// Called on the thread that wants the memory gone, which waits. It may use the pool, but not
    /// [watch](Pool::watch) it.
    fn leaving(&self, range: BlockRange);
}

/// Who watches a pool. Costs a load where nobody does.
#[derive(Default)]
pub(super) struct Watchers {
    count: AtomicU32,
    list: RwLock<Vec<Weak<dyn Watch>>>,
}

impl Watchers {
    fn add(&self, watch: Weak<dyn Watch>) {
        let mut list = self.list.write().unwrap_or_else(PoisonError::into_inner);
        list.retain(|watch| watch.strong_count() > 0);
        list.push(watch);
        self.count.store(list.len() as u32, Ordering::Release);
    }

    /// Tells all of them.
    pub(super) fn tell(&self, range: BlockRange) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let list = self.list.read().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(Weak::upgrade).for_each(|watch| watch.leaving(range));
    }
}

impl<O: Os> Pool<O> {
    /// Has somebody told before blocks are [released](Pool::release) or their pages
    /// [moved](Pool::move_pages), for as long as he lives.
    pub fn watch(&self, watch: Weak<dyn Watch>) {
        self.watchers.add(watch);
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watchers({})", self.count.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
#[allow(unsafe_code)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::pool::{PoolError, SharedPin};
    use crate::units::{BlockId, Blocks, Bytes};

    /// Keeps a pin until it is told.
    struct Keeper(Mutex<Option<SharedPin<Arc<Pool>>>>);

    impl Watch for Keeper {
        fn leaving(&self, range: BlockRange) {
            let mut kept = self.0.lock().unwrap();
            kept.take_if(|pin| pin.range().overlaps(range));
        }
    }

    #[test]
    fn a_kept_pin_goes_when_its_block_is_to_go_and_not_before() {
        let pool = Arc::new(Pool::builder().capacity(Bytes::mib(8)).build().unwrap());
        let range = |block| BlockRange::new(BlockId::new(block), Blocks::ONE);
        let pin = SharedPin::new(pool.clone(), range(2)).unwrap();
        let keeper = Arc::new(Keeper(Mutex::new(Some(pin))));
        let watch: Arc<dyn Watch> = keeper.clone();
        pool.watch(Arc::downgrade(&watch));
        // SAFETY: nobody uses the pool's memory.
        let release = |block| unsafe { pool.release(range(block)) };
        release(1).unwrap();
        assert!(keeper.0.lock().unwrap().is_some());
        release(2).unwrap();
        assert!(keeper.0.lock().unwrap().is_none());
        // One who is gone is told nothing, and his pins hold as any.
        drop((watch, keeper));
        let _pin = SharedPin::new(pool.clone(), range(3)).unwrap();
        assert_eq!(release(3), Err(PoolError::InUse { block: BlockId::new(3), pins: 1 }));
    }
}
