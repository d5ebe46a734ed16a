//! A fence of total order in two halves: light for those who pass it often, heavy for the one who seldom
//! does, as membarrier(2) offers it.
//!
//! Of a thread that passes the light one and one that passes the heavy one, one comes first, as with two
//! fences of total order: what stands before the first is seen behind the second. Where the kernel has no
//! `MEMBARRIER_CMD_PRIVATE_EXPEDITED` (Linux before 4.14, or a filter that forbids the call) both are fences
//! of total order.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use core::sync::atomic::{AtomicBool, compiler_fence, fence};
use std::sync::Once;

/// Whether the heavy half makes all running threads of the process pass a fence.
static LOPSIDED: AtomicBool = AtomicBool::new(false);

/// Finds out what the kernel offers. To be called before anybody passes either half.
pub(crate) fn set_up() {
    static ONCE: Once = Once::new();
    // Tried once as well: a filter may allow the one and not the other.
    ONCE.call_once(|| LOPSIDED.store(register() && all_pass(), SeqCst));
}

/// The half that costs next to nothing.
#[inline(always)]
pub(crate) fn light() {
    if LOPSIDED.load(Relaxed) {
        compiler_fence(SeqCst);
    } else {
        fence(SeqCst);
    }
}

/// The other half: some microseconds. `false` where it could not be passed, because the kernel refuses what
/// it has allowed before (a filter that was installed since): nothing may rely on the order then.
#[must_use]
pub(crate) fn heavy() -> bool {
    fence(SeqCst);
    !LOPSIDED.load(Relaxed) || all_pass()
}

fn register() -> bool {
    membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)
}

fn all_pass() -> bool {
    membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED)
}

fn membarrier(command: libc::c_int) -> bool {
    // SAFETY: the call touches no memory of ours.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn of_two_threads_one_sees_what_the_other_wrote() {
        set_up();
        let (one, other, at) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        // In step, so that they meet: each waits for the other before it begins.
        let meet = |step: u64| {
            at.fetch_add(1, SeqCst);
            while at.load(SeqCst) < 2 * step {
                std::thread::yield_now();
            }
        };
        std::thread::scope(|scope| {
            let light = scope.spawn(|| {
                let mut seen = Vec::new();
                for step in 1..=2000 {
                    meet(step);
                    one.store(step, Relaxed);
                    super::light();
                    seen.push(other.load(Relaxed) == step);
                }
                seen
            });
            let mut seen = Vec::new();
            for step in 1..=2000 {
                meet(step);
                other.store(step, Relaxed);
                assert!(heavy(), "it could be passed a moment ago");
                seen.push(one.load(Relaxed) == step);
            }
            let light = light.join().unwrap();
            assert!(light.iter().zip(&seen).all(|(one, other)| *one || *other));
        });
    }
}
