//! What is free goes back to the system, whole blocks at a time, when its delay is over.
#![allow(unsafe_code)] // gives free blocks back

use super::Supply;
use crate::os::Os;
use crate::units::{BlockId, BlockRange, Blocks};

/// How many frees of ranges wait for their delay at once; the oldest goes early when one more comes.
const QUEUE: usize = 256;
/// Blocks given back in one go: whoever does it has asked for something else.
const AT_ONCE: u32 = 64;

/// A range that was freed, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Idle {
    start: BlockId,
    len: Blocks,
    since_ms: u32,
}

/// What was freed and waits, the oldest first.
#[derive(Debug)]
pub(super) struct Queue {
    ranges: [Idle; QUEUE],
    first: usize,
    len: usize,
}

impl Queue {
    pub const EMPTY: Self = Self {
        ranges: [Idle { start: BlockId::new(0), len: Blocks::ZERO, since_ms: 0 }; QUEUE],
        first: 0,
        len: 0,
    };

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn is_full(&self) -> bool {
        self.len == QUEUE
    }

    /// The oldest; there must be one.
    fn front(&mut self) -> &mut Idle {
        &mut self.ranges[self.first]
    }

    /// Takes the oldest out; there must be one.
    fn pop(&mut self) -> BlockRange {
        let Idle { start, len, .. } = *self.front();
        self.first = (self.first + 1) % QUEUE;
        self.len -= 1;
        BlockRange::new(start, len)
    }

    /// Adds one; there must be room.
    fn push(&mut self, idle: Idle) {
        self.ranges[(self.first + self.len) % QUEUE] = idle;
        self.len += 1;
    }
}

impl<O: Os> Supply<O> {
    pub(super) fn idle(&mut self, range: BlockRange, now_ms: u32) {
        for block in range.iter() {
            self.freed_ms[block.as_usize()] = now_ms;
        }
        if self.queue.is_full() {
            let oldest = self.queue.pop();
            self.release(oldest, now_ms, 0);
        }
        self.queue.push(Idle { start: range.start(), len: range.len(), since_ms: now_ms });
    }

    /// Gives back what has been free for longer than the delay, a bounded part at a time.
    #[inline]
    pub fn release_idle(&mut self, now_ms: u32) {
        if !self.queue.is_empty() && self.is_due(now_ms) {
            self.release_due(now_ms);
        }
    }

    fn is_due(&mut self, now_ms: u32) -> bool {
        now_ms.wrapping_sub(self.queue.front().since_ms) >= self.config.delay_ms
    }

    #[cold]
    fn release_due(&mut self, now_ms: u32) {
        let mut left = AT_ONCE;
        while left > 0 && !self.queue.is_empty() && self.is_due(now_ms) {
            let idle = *self.queue.front();
            let now = idle.len.get().min(left);
            let (range, rest) =
                (BlockRange::new(idle.start, Blocks::new(now)), idle.len.get() - now);
            if rest == 0 {
                self.queue.pop();
            } else {
                let front = self.queue.front();
                (front.start, front.len) = (range.end(), Blocks::new(rest));
            }
            self.release(range, now_ms, self.config.delay_ms);
            left -= now;
        }
    }

    /// Gives back everything that is free; whether that was anything.
    pub fn release_all(&mut self) -> bool {
        let before = self.present;
        while !self.queue.is_empty() {
            let range = self.queue.pop();
            self.release(range, 0, 0);
        }
        self.present < before
    }

    /// Gives back the blocks of a range that are free, and have been for `delay_ms`.
    fn release(&mut self, range: BlockRange, now_ms: u32, delay_ms: u32) {
        let mut at = range.start();
        while at < range.end() {
            let mut end = at;
            while end < range.end() && self.is_idle(end, now_ms, delay_ms) {
                end = BlockId::new(end.get() + 1);
            }
            if end > at {
                self.release_run(BlockRange::new(at, Blocks::new(end.get() - at.get())));
            }
            at = BlockId::new(end.get() + 1);
        }
    }

    fn is_idle(&self, block: BlockId, now_ms: u32, delay_ms: u32) -> bool {
        self.pool.is_present(block)
            && now_ms.wrapping_sub(self.freed_ms[block.as_usize()]) >= delay_ms
            && self.placement.class_of(block).is_none()
    }

    pub(super) fn release_run(&mut self, run: BlockRange) {
        let before = self.behind(run);
        // SAFETY: the blocks are free: nothing of the heap stands in them, and whoever wants them
        // waits for the lock that this runs under.
        let released = unsafe { self.pool.release(run) };
        self.recount(run, before);
        if released.is_err() {
            // A filter on system calls, perhaps: the blocks stay, and hold what they held.
            self.counts.kept += u64::from(self.behind(run).present);
        }
    }
}
