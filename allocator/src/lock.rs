//! A lock that goes on after a panic, and that ThreadSanitizer sees.
//!
//! For state that a panic of a user's code leaves whole. Under `--cfg bookend_sanitized` a word of its own
//! says what the lock orders: the slow path of the standard library's is in a library that was built
//! without the sanitizer, which would take everything behind it for a race.

use core::fmt;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// See the [module](self).
#[derive(Default)]
pub(crate) struct Lock<T> {
    state: Mutex<T>,
    /// How many wait for it.
    waiting: AtomicU32,
    #[cfg(bookend_sanitized)]
    handed_on: AtomicU32,
}

impl<T> Lock<T> {
    pub fn new(state: T) -> Self {
        Self {
            state: Mutex::new(state),
            waiting: AtomicU32::new(0),
            #[cfg(bookend_sanitized)]
            handed_on: AtomicU32::new(0),
        }
    }

    pub fn lock(&self) -> Locked<'_, T> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => self.wait(),
        };
        #[cfg(bookend_sanitized)]
        self.handed_on.load(Ordering::Acquire);
        Locked {
            state,
            #[cfg(bookend_sanitized)]
            handed_on: &self.handed_on,
        }
    }

    #[cold]
    fn wait(&self) -> MutexGuard<'_, T> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        state
    }

    /// Lets those have the lock who wait for it, before this thread takes it again: it is not handed on by itself, and
    /// whoever takes it again and again would have it before anybody is awake. For a bounded time.
    pub fn let_others(&self) {
        const PATIENCE: Duration = Duration::from_micros(200);
        if self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let start = Instant::now();
        while self.waiting.load(Ordering::Relaxed) > 0 && start.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Lock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

/// What is under a [`Lock`], until dropped.
pub(crate) struct Locked<'a, T> {
    state: MutexGuard<'a, T>,
    #[cfg(bookend_sanitized)]
    handed_on: &'a AtomicU32,
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

/// Before the guard goes, as fields go after this.
#[cfg(bookend_sanitized)]
impl<T> Drop for Locked<'_, T> {
    fn drop(&mut self) {
        self.handed_on.fetch_add(1, Ordering::Release);
    }
}
