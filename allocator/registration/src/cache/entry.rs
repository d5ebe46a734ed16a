//! An entry: a region, and the [word](super::word) that says who has it.
#![allow(unsafe_code)] // a cell that the word guards

use core::cell::UnsafeCell;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use bookend::units::BlockRange;

use super::word::Word;

pub(super) struct Entry<T> {
    pub word: Word<AtomicU64>,
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
        let (used, hits) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { word: Word::new(AtomicU64::new(0)), used, hits, held: UnsafeCell::new(None) }
    }

    /// Puts a region in, with one user: the caller.
    ///
    /// # Safety
    /// The caller owns the entry: it is free, and he holds the cache's lock.
    pub unsafe fn install(&self, held: Held<T>, now: u64) {
        // SAFETY: nobody else has it (2 of the word's facts).
        unsafe { *self.held.get() = Some(held) };
        self.used.store(now, Relaxed);
        self.word.open();
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
