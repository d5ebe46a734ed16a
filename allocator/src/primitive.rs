//! What the concurrent parts are written against: an atomic word, so that a model checker can run
//! the very code that ships on words of its own.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::os::barrier;

/// An atomic word, as far as this crate needs one.
pub(crate) trait Atomic<T> {
    fn load(&self, order: Ordering) -> T;
    fn store(&self, value: T, order: Ordering);
    fn swap(&self, value: T, order: Ordering) -> T;
    fn fetch_or(&self, value: T, order: Ordering) -> T;
    fn fetch_add(&self, value: T, order: Ordering) -> T;
    fn fetch_sub(&self, value: T, order: Ordering) -> T;
    fn compare_exchange(&self, now: T, new: T, order: Ordering) -> Result<T, T>;
    /// Two halves of a fence of total order, of the same world as the word; see [`barrier`].
    fn light_fence();
    /// `false` where it could not be passed.
    fn heavy_fence() -> bool;
}

/// Passes everything on to the word's own methods.
macro_rules! atomic {
    ($atomic:ty, $value:ty, $light:path, $heavy:path) => {
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
            fn light_fence() {
                $light();
            }
            fn heavy_fence() -> bool {
                $heavy()
            }
        }
    };
}
atomic!(AtomicU32, u32, barrier::light, barrier::heavy);
atomic!(AtomicU64, u64, barrier::light, barrier::heavy);

/// The model checker's words.
#[cfg(test)]
mod model {
    use loom::sync::atomic::{self, AtomicU32, AtomicU64, Ordering};

    fn light() {
        atomic::fence(Ordering::SeqCst);
    }

    fn heavy() -> bool {
        atomic::fence(Ordering::SeqCst);
        true
    }

    atomic!(AtomicU32, u32, light, heavy);
    atomic!(AtomicU64, u64, light, heavy);
}
