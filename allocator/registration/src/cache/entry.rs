//! An entry: a region, and a word that says who has it.
//!
//! ```text
//!   63      62                  32 31             0
//!  +------+-----------------------+----------------+
//!  | LIVE |           0           |     users      |
//!  +------+-----------------------+----------------+
//! ```
//!
//! 1. Users come only while LIVE is set ([`Entry::acquire`] is a compare-and-exchange).
//! 2. What an entry holds is written only by its *owner*: whoever holds the lock and finds the word 0
//!    ([`Entry::install`]), or whoever made it 0: [`Entry::retire`] where there were no users, else the last
//!    [`Entry::release`] after it. Each is one atomic operation on the word, so exactly one of the two finds
//!    itself last.
//! 3. So between a successful acquire and its release the entry's contents stay as they are. They may be
//!    another region's than the caller had in mind, where the entry was used anew in between: he looks at
//!    the range, which is part of the contents, before he uses anything else.
#![allow(unsafe_code)] // a cell that the word guards

use core::cell::UnsafeCell;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU64, fence};

use bookend::units::BlockRange;

const LIVE: u64 = 1 << 63;

pub(super) struct Entry<T> {
    word: AtomicU64,
    /// When it was last found, by the clock of misses.
    used: AtomicU64,
    hits: AtomicU64,
    held: UnsafeCell<Option<Held<T>>>,
}

pub(super) struct Held<T> {
    pub range: BlockRange,
    pub region: T,
}

// SAFETY: contents are shared between users of several threads (T: Sync), and dropped by any (T: Send).
unsafe impl<T: Send + Sync> Sync for Entry<T> {}

impl<T> Entry<T> {
    pub fn new() -> Self {
        let (word, used, hits) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { word, used, hits, held: UnsafeCell::new(None) }
    }

    /// Puts a region in, with one user: the caller.
    ///
    /// # Safety
    /// The caller owns the entry: it is free, and he holds the cache's lock.
    pub unsafe fn install(&self, held: Held<T>, now: u64) {
        debug_assert_eq!(self.word.load(Relaxed), 0, "a free entry has no users");
        // SAFETY: nobody else has it (2).
        unsafe { *self.held.get() = Some(held) };
        self.used.store(now, Relaxed);
        self.word.store(LIVE | 1, Release);
    }

    /// Becomes a user, if it is live.
    #[inline]
    pub fn acquire(&self) -> bool {
        let mut word = self.word.load(Relaxed);
        while word & LIVE != 0 {
            match self.word.compare_exchange_weak(word, word + 1, Acquire, Relaxed) {
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
        let last = self.word.fetch_sub(1, Release) == 1;
        if last {
            fence(Acquire);
        }
        last
    }

    /// Lets no more users come. Whether the caller owns the entry now, and has to empty it; else its last
    /// user will.
    #[must_use]
    pub fn retire(&self) -> bool {
        self.word.fetch_and(!LIVE, AcqRel) == LIVE
    }

    /// The same, if nobody uses it; else it stays live.
    #[must_use]
    pub fn retire_idle(&self) -> bool {
        self.word.compare_exchange(LIVE, 0, AcqRel, Relaxed).is_ok()
    }

    pub fn is_idle(&self) -> bool {
        self.word.load(Relaxed) == LIVE
    }

    pub fn users(&self) -> u64 {
        self.word.load(Relaxed) & !LIVE
    }

    /// Takes the contents out.
    ///
    /// # Safety
    /// The caller owns the entry.
    pub unsafe fn empty(&self) -> Option<Held<T>> {
        // SAFETY: nobody else has it (2).
        unsafe { (*self.held.get()).take() }
    }

    /// The contents.
    ///
    /// # Safety
    /// The caller is a user for as long as he uses them.
    #[inline]
    pub unsafe fn held(&self) -> &Held<T> {
        // SAFETY: nobody writes while there are users (3), and live entries have contents.
        unsafe { (*self.held.get()).as_ref().unwrap_unchecked() }
    }

    /// Notes a hit.
    #[inline]
    pub fn touch(&self, now: u64) {
        // The line is this processor's already, since the word was just written.
        self.hits.fetch_add(1, Relaxed);
        if self.used.load(Relaxed) != now {
            self.used.store(now, Relaxed);
        }
    }

    pub fn used(&self) -> u64 {
        self.used.load(Relaxed)
    }

    /// Hits since they were last taken.
    pub fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }

    pub fn take_hits(&self) -> u64 {
        self.hits.swap(0, Relaxed)
    }
}
