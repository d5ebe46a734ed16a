//! Where a workload's values come from: `malloc`, or a heap of values that can move.
//!
//! Every value is filled when it is made and looked at when it goes, so that an allocator that loses or
//! doubles bytes is found.
#![allow(unsafe_code)] // calls malloc and free

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bookend::movable::{MovableBytes, MovableError, MovableHeap};
use bookend::placement::{Arena, ArenaError};
use bookend::pool::{Pool, PoolError, Populate};
use bookend::units::{Blocks, Bytes};
use bookend_defrag::process::{Background, Duty, Target};

/// What went wrong with values.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ValueError {
    /// `malloc` gave nothing.
    #[error("malloc({0}) failed: there is no more memory, or the allocator refuses it")]
    Refused(usize),
    /// The movable heap gave nothing.
    #[error(transparent)]
    Movable(#[from] MovableError),
    /// There is no movable heap.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The same.
    #[error(transparent)]
    Arena(#[from] ArenaError),
    /// No thread for the defragmenter.
    #[error("cannot start the defragmenter's thread")]
    Thread(#[from] std::io::Error),
    /// A value is not what was put there.
    #[error(
        "a value of {len} bytes has lost what was written into it: the allocator handed its memory out \
         twice, or moved it wrongly"
    )]
    Corrupt {
        /// Its length.
        len: usize,
    },
}

/// Makes values and ends them.
pub trait Values: Sync {
    /// One of them.
    type Value: Send;

    /// A value of so many bytes, all of them `stamp`.
    ///
    /// # Errors
    /// There is no memory.
    fn make(&self, len: usize, stamp: u8) -> Result<Self::Value, ValueError>;

    /// Ends one, after a look at it.
    ///
    /// # Errors
    /// It is not what it was.
    fn end(&self, value: Self::Value, len: usize, stamp: u8) -> Result<(), ValueError>;

    /// Called every now and then, when nothing else is going on.
    fn rest(&self) {}
}

/// Whether a value is still what it was: its first, its last and a middle byte.
fn is_whole(bytes: &[u8], stamp: u8) -> bool {
    let at = |index: usize| bytes.get(index).is_none_or(|&byte| byte == stamp);
    at(0) && at(bytes.len() / 2) && at(bytes.len().saturating_sub(1))
}

/// The process's `malloc`.
#[derive(Clone, Copy, Debug)]
pub struct Malloc;

/// A value of `malloc`'s.
#[derive(Debug)]
pub struct Allocated(NonNull<u8>);

// SAFETY: it is owned, as a Box is.
unsafe impl Send for Allocated {}

impl Values for Malloc {
    type Value = Allocated;

    fn make(&self, len: usize, stamp: u8) -> Result<Allocated, ValueError> {
        // SAFETY: a call of malloc, and so many bytes of what it gave are written.
        let at = unsafe { libc::malloc(len) }.cast::<u8>();
        let at = NonNull::new(at).ok_or(ValueError::Refused(len))?;
        // SAFETY: the allocation is as long.
        unsafe { at.write_bytes(stamp, len) };
        Ok(Allocated(at))
    }

    fn end(&self, value: Allocated, len: usize, stamp: u8) -> Result<(), ValueError> {
        // SAFETY: the value has been written as long, and nobody else has it.
        let bytes = unsafe { std::slice::from_raw_parts(value.0.as_ptr(), len) };
        let whole = is_whole(bytes, stamp);
        // SAFETY: it came from malloc, and is ended once, because the handle is taken.
        unsafe { libc::free(value.0.as_ptr().cast()) };
        if whole { Ok(()) } else { Err(ValueError::Corrupt { len }) }
    }
}

/// A heap of values that can move, and the defragmenter beside it.
#[derive(Debug)]
pub struct Moving {
    heap: MovableHeap,
    /// Ended before the heap.
    _defragmenter: Background,
}

/// What the defragmenter may do: a quarter of the time, for all blocks that can be had.
const DUTY: Duty = Duty {
    share: 0.25,
    slice: std::time::Duration::from_millis(1),
    rest: std::time::Duration::from_millis(20),
    target: Target::Release,
    block_cost_max: Bytes::mib(2),
};

impl Moving {
    /// One with room for `live` bytes, and as much again.
    ///
    /// # Errors
    /// There is no memory, or no thread.
    pub fn new(live: Bytes) -> Result<Self, ValueError> {
        let capacity = Bytes::new(live.get() * 2) + Bytes::mib(64);
        let pool = Pool::builder().capacity(capacity).populate(Populate::OnDemand).build()?;
        let heap = MovableHeap::new(Arc::new(Arena::new(pool)?))?;
        let defragmenter = Background::start(heap.clone(), DUTY)?;
        Ok(Self { heap, _defragmenter: defragmenter })
    }
}

impl Values for Moving {
    type Value = MovableBytes;

    fn make(&self, len: usize, stamp: u8) -> Result<MovableBytes, ValueError> {
        let mut value = self.heap.zeroed(len)?;
        self.heap.session().bytes_mut(&mut value).fill(stamp);
        Ok(value)
    }

    fn end(&self, value: MovableBytes, len: usize, stamp: u8) -> Result<(), ValueError> {
        let session = self.heap.session();
        let bytes = session.bytes(&value);
        if bytes.len() == len && is_whole(bytes, stamp) {
            Ok(())
        } else {
            Err(ValueError::Corrupt { len })
        }
    }

    /// Gives free blocks back to the system, and what the heap's books have left behind in `malloc`.
    fn rest(&self) {
        // SAFETY: malloc_trim has no conditions.
        unsafe { libc::malloc_trim(0) };
        // What cannot be given back now can be the next time.
        let _released: Result<Blocks, PoolError> = self.heap.arena().release_free();
    }
}

/// Values, and how many bytes of them there are.
#[derive(Debug)]
pub struct Counted<V> {
    values: V,
    live: AtomicU64,
    peak: AtomicU64,
}

impl<V: Values> Counted<V> {
    /// None yet.
    pub fn new(values: V) -> Self {
        Self { values, live: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    /// Bytes asked for that live; and the most that ever did.
    pub fn live(&self) -> (u64, u64) {
        (self.live.load(Ordering::Relaxed), self.peak.load(Ordering::Relaxed))
    }

    /// As [`Values::make`].
    ///
    /// # Errors
    /// The same.
    pub fn make(&self, len: usize, stamp: u8) -> Result<V::Value, ValueError> {
        let value = self.values.make(len, stamp)?;
        let live = self.live.fetch_add(len as u64, Ordering::Relaxed) + len as u64;
        if live > self.peak.load(Ordering::Relaxed) {
            self.peak.fetch_max(live, Ordering::Relaxed);
        }
        Ok(value)
    }

    /// As [`Values::end`].
    ///
    /// # Errors
    /// The same.
    pub fn end(&self, value: V::Value, len: usize, stamp: u8) -> Result<(), ValueError> {
        self.live.fetch_sub(len as u64, Ordering::Relaxed);
        self.values.end(value, len, stamp)
    }

    /// As [`Values::rest`].
    pub fn rest(&self) {
        self.values.rest();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_looked_at_when_they_go() {
        for len in [1, 2, 240, 1 << 20] {
            let value = Malloc.make(len, 7).unwrap();
            // SAFETY: the value's last byte.
            unsafe { value.0.add(len - 1).write(8) };
            let ended = Malloc.end(value, len, 7);
            assert!(matches!(ended, Err(ValueError::Corrupt { len: l }) if l == len), "{ended:?}");
        }
        let moving = Moving::new(Bytes::mib(8)).unwrap();
        let value = moving.make(240, 7).unwrap();
        assert!(matches!(moving.end(value, 240, 9), Err(ValueError::Corrupt { len: 240 })));
    }

    #[test]
    fn bytes_that_live_are_counted() {
        let counted = Counted::new(Moving::new(Bytes::mib(8)).unwrap());
        let values: Vec<_> = (0..100).map(|n| counted.make(1000, n).unwrap()).collect();
        assert_eq!(counted.live(), (100_000, 100_000));
        for (n, value) in values.into_iter().enumerate() {
            counted.end(value, 1000, n as u8).unwrap();
        }
        counted.rest();
        assert_eq!(counted.live(), (0, 100_000));
    }
}
