//! A lock that can be held across fork(2): the C library's and Rust's own cannot be released by a
//! child that did not take them through a guard.
//!
//! 0 is free, 1 held, 2 held with others waiting; the futex protocol of Drepper's "Futexes Are
//! Tricky" (mutex 2). A waiter spins first: what is done under the lock is short.
#![allow(unsafe_code)] // hands out what it guards

use core::cell::UnsafeCell;
use core::hint;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};

const FREE: u32 = 0;
const HELD: u32 = 1;
const CONTENDED: u32 = 2;
/// How often a waiter looks before it sleeps.
const SPINS: u32 = 100;

/// Something that one thread at a time may use.
#[derive(Debug)]
pub(super) struct Lock<T> {
    state: AtomicU32,
    guarded: UnsafeCell<T>,
}

// SAFETY: one thread at a time gets at what is inside.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub const fn new(guarded: T) -> Self {
        Self { state: AtomicU32::new(FREE), guarded: UnsafeCell::new(guarded) }
    }

    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        self.acquire();
        Guard { lock: self }
    }

    /// Takes the lock without a guard, for [`Lock::release`] to give back.
    #[inline]
    pub fn acquire(&self) {
        let taken =
            self.state.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if !taken {
            self.acquire_slowly();
        }
    }

    #[cold]
    fn acquire_slowly(&self) {
        for _ in 0..SPINS {
            hint::spin_loop();
            if self.state.load(Ordering::Relaxed) == FREE
                && self
                    .state
                    .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
            {
                return;
            }
        }
        while self.state.swap(CONTENDED, Ordering::Acquire) != FREE {
            wait(&self.state, CONTENDED);
        }
    }

    /// Gives back what [`Lock::acquire`] took.
    ///
    /// # Safety
    /// This thread took it (or, in a child process, the thread that this one is a copy of), and
    /// nothing borrowed through it is used any more.
    #[inline]
    pub unsafe fn release(&self) {
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            wake_one(&self.state);
        }
    }
}

/// Holds a [`Lock`].
pub(super) struct Guard<'a, T> {
    lock: &'a Lock<T>,
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the lock is held, so nobody else refers to it mutably.
        unsafe { &*self.lock.guarded.get() }
    }
}

impl<T> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, and the guard is borrowed exclusively.
        unsafe { &mut *self.lock.guarded.get() }
    }
}

impl<T> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: this guard took it and was the way to what it guards.
        unsafe { self.lock.release() }
    }
}

/// Sleeps while the word is `while_is`, or wakes early; leaves errno alone.
fn wait(word: &AtomicU32, while_is: u32) {
    // SAFETY: the word outlives the call; errno is this thread's own.
    unsafe {
        let errno = *libc::__errno_location();
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            while_is,
            core::ptr::null::<libc::timespec>(),
        );
        *libc::__errno_location() = errno;
    }
}

fn wake_one(word: &AtomicU32) {
    // SAFETY: as above.
    unsafe {
        let errno = *libc::__errno_location();
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        );
        *libc::__errno_location() = errno;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_together() {
        let lock = Lock::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..20_000).for_each(|_| *lock.lock() += 1));
            }
        });
        assert_eq!(*lock.lock(), 80_000);
    }

    #[test]
    fn a_waiter_sleeps_until_the_lock_is_released() {
        let lock = Lock::new(());
        lock.acquire();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| drop(lock.lock()));
            while lock.state.load(Ordering::Relaxed) != CONTENDED {
                std::thread::yield_now();
            }
            assert!(!waiter.is_finished());
            // SAFETY: taken above by this thread.
            unsafe { lock.release() }
        });
    }
}
