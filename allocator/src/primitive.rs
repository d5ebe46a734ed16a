//! What the concurrent parts are written against: an atomic word, so that a model checker can run
//! the very code that ships on words of its own.

use core::sync::atomic::{self, AtomicU32, AtomicU64, Ordering};

/// An atomic word, as far as this crate needs one.
pub(crate) trait Atomic<T> {
    fn load(&self, order: Ordering) -> T;
    fn store(&self, value: T, order: Ordering);
    fn swap(&self, value: T, order: Ordering) -> T;
    fn fetch_or(&self, value: T, order: Ordering) -> T;
    fn fetch_add(&self, value: T, order: Ordering) -> T;
    fn fetch_sub(&self, value: T, order: Ordering) -> T;
    fn compare_exchange(&self, now: T, new: T, order: Ordering) -> Result<T, T>;
    /// A fence of the same world as the word: `fence(SeqCst)`.
    fn fence();
}

/// Passes everything on to the word's own methods.
macro_rules! atomic {
    ($atomic:ty, $value:ty, $fence:path) => {
        impl crate::primitive::Atomic<$value> for $atomic {
            #[inline(always)]
            fn load(&self, order: Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            #[inline(always)]
            fn store(&self, value: $value, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            #[inline(always)]
            fn swap(&self, value: $value, order: Ordering) -> $value {
                <$atomic>::swap(self, value, order)
            }
            #[inline(always)]
            fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                <$atomic>::fetch_or(self, value, order)
            }
            #[inline(always)]
            fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                <$atomic>::fetch_add(self, value, order)
            }
            #[inline(always)]
            fn fetch_sub(&self, value: $value, order: Ordering) -> $value {
                <$atomic>::fetch_sub(self, value, order)
            }
            #[inline(always)]
            fn compare_exchange(
                &self,
                now: $value,
                new: $value,
                order: Ordering,
            ) -> Result<$value, $value> {
                <$atomic>::compare_exchange(self, now, new, order, Ordering::Relaxed)
            }
            #[inline(always)]
            fn fence() {
                $fence(Ordering::SeqCst);
            }
        }
    };
}
atomic!(AtomicU32, u32, atomic::fence);
atomic!(AtomicU64, u64, atomic::fence);

/// The model checker's words.
#[cfg(test)]
mod model {
    use loom::sync::atomic::{self, AtomicU32, AtomicU64, Ordering};

    atomic!(AtomicU32, u32, atomic::fence);
    atomic!(AtomicU64, u64, atomic::fence);
}
