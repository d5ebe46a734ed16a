//! The word of an entry: who has it.
//!
//! ```text
//!   63      62                  32 31             0
//!  +------+-----------------------+----------------+
//!  | LIVE |           0           |     users      |
//!  +------+-----------------------+----------------+
//! ```
//!
//! 1. Users come only while LIVE is set ([`Word::acquire`] is a compare-and-exchange).
//! 2. What an entry holds is written only by its *owner*: whoever holds the lock and finds the word 0 (and
//!    then says [`Word::open`]), or whoever made it 0: [`Word::retire`] where there were no users, else the
//!    last [`Word::release`] after it. Each is one atomic operation on the word, so exactly one of the two
//!    finds itself last.
//! 3. So between a successful acquire and its release the entry's contents stay as they are. They may be
//!    another region's than the caller had in mind, where the entry was used anew in between: he looks at
//!    the range, which is part of the contents, before he uses anything else.
//!
//! `model_tests` runs this very code under loom.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{self, AtomicU64, Ordering};

const LIVE: u64 = 1 << 63;

/// What the word is written against, so that a model checker can run it on atomics of its own.
pub(super) trait Atomic {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
    fn fetch_sub(&self, value: u64, order: Ordering) -> u64;
    fn fetch_and(&self, value: u64, order: Ordering) -> u64;
    fn compare_exchange(&self, now: u64, new: u64, order: Ordering) -> Result<u64, u64>;
    /// A fence of the same world as the word.
    fn fence(order: Ordering);
}

/// Passes everything on to the atomic's own methods.
macro_rules! passed_on {
    ($atomic:ty, $fence:path) => {
        impl crate::cache::word::Atomic for $atomic {
            #[inline(always)]
            fn load(&self, order: Ordering) -> u64 {
                <$atomic>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: u64, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            #[inline(always)]
            fn fetch_sub(&self, value: u64, order: Ordering) -> u64 {
                <$atomic>::fetch_sub(self, value, order)
            }
            #[inline(always)]
            fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
                <$atomic>::fetch_and(self, value, order)
            }
            #[inline(always)]
            fn compare_exchange(&self, now: u64, new: u64, order: Ordering) -> Result<u64, u64> {
                <$atomic>::compare_exchange_weak(self, now, new, order, Ordering::Relaxed)
            }
            #[inline(always)]
            fn fence(order: Ordering) {
                $fence(order);
            }
        }
    };
}
#[cfg(test)]
pub(super) use passed_on;

passed_on!(AtomicU64, atomic::fence);

pub(super) struct Word<A>(A);

impl<A: Atomic> Word<A> {
    /// The word of a free entry, around an atomic that is 0.
    pub const fn new(zero: A) -> Self {
        Self(zero)
    }

    /// Makes the entry live, with one user: the caller, who owned it and has filled it.
    pub fn open(&self) {
        debug_assert_eq!(self.0.load(Relaxed), 0, "a free entry has no users");
        self.0.store(LIVE | 1, Release);
    }

    /// Becomes a user, if it is live.
    #[inline]
    pub fn acquire(&self) -> bool {
        let mut word = self.0.load(Relaxed);
        while word & LIVE != 0 {
            match self.0.compare_exchange(word, word + 1, Acquire) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// Ends a use. Whether the caller owns the entry now, and has to empty it.
    #[inline]
    #[must_use]
    pub fn release(&self) -> bool {
        let last = self.0.fetch_sub(1, Release) == 1;
        if last {
            A::fence(Acquire);
        }
        last
    }

    /// Lets no more users come. Whether the caller owns the entry now, and has to empty it; else its last
    /// user will.
    #[must_use]
    pub fn retire(&self) -> bool {
        self.0.fetch_and(!LIVE, AcqRel) == LIVE
    }

    /// The same, if nobody uses it; else it stays live.
    #[must_use]
    pub fn retire_idle(&self) -> bool {
        // A spurious failure would leave an idle entry where it should have gone.
        while self.is_idle() {
            if self.0.compare_exchange(LIVE, 0, AcqRel).is_ok() {
                return true;
            }
        }
        false
    }

    pub fn is_idle(&self) -> bool {
        self.0.load(Relaxed) == LIVE
    }

    pub fn users(&self) -> u64 {
        self.0.load(Relaxed) & !LIVE
    }
}
