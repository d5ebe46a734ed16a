//! `--bwlimit`: a rate that all threads of an engine share.
//!
//! A virtual clock. The limiter keeps the moment at which the next byte may go; taking n bytes
//! moves it n/rate further, and the taker sleeps until the moment at which its bytes begin. Time
//! in which nobody took anything is not saved up beyond a short burst, so a slow stream does not earn
//! the right to a flood.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::engine::{CopyError, Progress};

/// Unused time that is kept.
const BURST: Duration = Duration::from_millis(100);
/// The longest sleep before looking at cancellation again.
const NAP: Duration = Duration::from_millis(50);
/// Requests a second below which the flow would be jerky.
const REQUESTS_PER_SECOND: u64 = 20;

/// A limit of bytes a second, or none.
#[derive(Debug)]
pub struct Limiter {
    clock: Option<Clock>,
}

#[derive(Debug)]
struct Clock {
    bytes_per_second: u64,
    next: Mutex<Instant>,
}

impl Limiter {
    /// A limiter of `bytes_per_second`; `None` and zero limit nothing.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        let clock = bytes_per_second
            .filter(|&rate| rate > 0)
            .map(|rate| Clock { bytes_per_second: rate, next: Mutex::new(Instant::now()) });
        Self { clock }
    }

    /// Whether it limits anything.
    pub fn is_limited(&self) -> bool {
        self.clock.is_some()
    }

    /// The request size to use instead of `wanted` bytes, so that the flow is even: a power of two
    /// not under 4 KiB, or `wanted` itself.
    pub fn request_size(&self, wanted: u64) -> u64 {
        match &self.clock {
            None => wanted,
            Some(clock) => {
                let even = (clock.bytes_per_second / REQUESTS_PER_SECOND).max(4096);
                wanted.min(1 << even.ilog2())
            }
        }
    }

    /// Waits until `bytes` more may go.
    ///
    /// # Errors
    /// [`CopyError::Cancelled`] if the user stops the copy meanwhile.
    pub fn take(&self, bytes: u64, progress: &Progress) -> Result<(), CopyError> {
        let Some(clock) = &self.clock else { return Ok(()) };
        let start = clock.reserve(bytes, Instant::now());
        loop {
            if progress.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            let left = start.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

impl Clock {
    /// Reserves the time for `bytes` and returns when it begins.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let start = (*next).max(now.checked_sub(BURST).unwrap_or(now));
        let seconds = bytes as f64 / self.bytes_per_second as f64;
        let lasts = Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        *next = start.checked_add(lasts).unwrap_or(start);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_follow_each_other_at_the_rate() {
        let clock = Clock { bytes_per_second: 1000, next: Mutex::new(Instant::now()) };
        let now = Instant::now();
        let first = clock.reserve(500, now);
        let second = clock.reserve(500, now);
        let third = clock.reserve(1, now);
        assert_eq!(second - first, Duration::from_millis(500));
        assert_eq!(third - second, Duration::from_millis(500));
    }

    #[test]
    fn idle_time_is_saved_up_to_the_burst_only() {
        let clock = Clock { bytes_per_second: 1000, next: Mutex::new(Instant::now()) };
        let later = Instant::now() + Duration::from_secs(3600);
        assert_eq!(clock.reserve(1, later), later - BURST);
    }

    #[test]
    fn no_limit_changes_nothing() {
        for limiter in [Limiter::new(None), Limiter::new(Some(0))] {
            assert!(!limiter.is_limited());
            assert_eq!(limiter.request_size(1 << 20), 1 << 20);
            assert!(limiter.take(u64::MAX, &Progress::default()).is_ok());
        }
    }

    #[test]
    fn requests_are_small_under_a_small_limit() {
        assert_eq!(Limiter::new(Some(1)).request_size(1 << 20), 4096);
        assert_eq!(Limiter::new(Some(1 << 20)).request_size(1 << 20), 1 << 15);
        assert_eq!(Limiter::new(Some(1 << 40)).request_size(1 << 20), 1 << 20);
    }

    #[test]
    fn a_wait_ends_when_the_copy_is_cancelled() {
        let limiter = Limiter::new(Some(1));
        let progress = Progress::default();
        progress.cancel();
        let taken = limiter.take(1, &progress).and_then(|()| limiter.take(1 << 30, &progress));
        assert!(matches!(taken, Err(CopyError::Cancelled)));
    }
}
