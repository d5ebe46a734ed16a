//! A registrar that only counts, and fails where it is told to: for tests of code that registers.
#![allow(unsafe_code)] // implements an unsafe method

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bookend::units::Bytes;

use crate::pieces::Piece;
use crate::{RegisterError, Registrar, RegistrarLimits};

/// What a [`Counting`] registrar has seen.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Calls that registered something.
    pub registered: u64,
    /// Calls that failed.
    pub refused: u64,
    /// Registrations that were dropped.
    pub released: u64,
    /// Pieces that are registered now.
    pub pieces: usize,
    /// Bytes that are registered now; what is registered twice counts twice.
    pub bytes: Bytes,
    /// The most that was registered at once.
    pub most_bytes: Bytes,
}

#[derive(Debug, Default)]
struct State {
    counts: Counts,
    limits: RegistrarLimits,
    calls: u64,
    /// Call → errno.
    failures: BTreeMap<u64, i32>,
    fail_all: Option<i32>,
    next_key: u32,
}

/// A registrar without a device. Clones are the same one.
#[derive(Clone, Default)]
pub struct Counting {
    state: Arc<Mutex<State>>,
}

impl Counting {
    /// One that takes anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// One with limits. Where their count is reached it refuses as a ring does.
    pub fn with_limits(limits: RegistrarLimits) -> Self {
        let counting = Self::default();
        counting.state().limits = limits;
        counting
    }

    /// Lets the `nth` call from now on fail (1 is the next) with an errno, `ENOMEM` say.
    pub fn fail_nth(&self, nth: u64, errno: i32) {
        let mut state = self.state();
        let call = state.calls + nth;
        state.failures.insert(call, errno);
    }

    /// Lets all calls fail until told otherwise with `None`.
    pub fn fail_all(&self, errno: Option<i32>) {
        self.state().fail_all = errno;
    }

    /// What it has seen.
    pub fn counts(&self) -> Counts {
        self.state().counts
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refusal(&mut self, pieces: &[Piece]) -> Option<RegisterError> {
        self.calls += 1;
        if let Some(errno) = self.failures.remove(&self.calls).or(self.fail_all) {
            let cause = io::Error::from_raw_os_error(errno);
            return Some(RegisterError::System { operation: "register with the fake", cause });
        }
        let most = self.limits.count?;
        let free = most.saturating_sub(self.counts.pieces);
        (pieces.len() > free).then_some(RegisterError::Full { wanted: pieces.len(), free, most })
    }
}

impl Registrar for Counting {
    type Registration = Counted;

    fn name(&self) -> &'static str {
        "counting"
    }

    fn limits(&self) -> RegistrarLimits {
        self.state().limits
    }

    unsafe fn register_pieces(&self, pieces: &[Piece]) -> Result<Counted, RegisterError> {
        let mut state = self.state();
        if let Some(refusal) = state.refusal(pieces) {
            state.counts.refused += 1;
            return Err(refusal);
        }
        state.next_key += 1;
        let key = state.next_key;
        let counted = Counted { registrar: self.clone(), key, pieces: pieces.to_vec() };
        let counts = &mut state.counts;
        counts.registered += 1;
        counts.pieces += pieces.len();
        counts.bytes = counts.bytes + counted.bytes();
        counts.most_bytes = counts.most_bytes.max(counts.bytes);
        Ok(counted)
    }
}

/// What a [`Counting`] registrar gives.
pub struct Counted {
    registrar: Counting,
    key: u32,
    pieces: Vec<Piece>,
}

impl Counted {
    /// A number that no other registration has.
    pub fn key(&self) -> u32 {
        self.key
    }

    /// What was registered.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    fn bytes(&self) -> Bytes {
        self.pieces.iter().fold(Bytes::ZERO, |sum, piece| sum + piece.len)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut state = self.registrar.state();
        let counts = &mut state.counts;
        counts.released += 1;
        counts.pieces -= self.pieces.len();
        counts.bytes = counts.bytes - self.bytes();
    }
}

impl fmt::Debug for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counting({:?})", self.counts())
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Counted({}, {} pieces)", self.key, self.pieces.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bookend::pool::{Pool, PoolError, Rung, Use};
    use bookend::scatter::{Limits, ScatterList};
    use bookend::units::Blocks;

    fn pool(blocks: u32) -> Pool {
        Pool::builder().capacity(Blocks::new(blocks).bytes()).build().unwrap()
    }

    #[test]
    fn a_region_holds_its_memory_and_goes_in_any_order() {
        let (pool, counting) = (pool(3), Counting::new());
        let first = counting.register(pool.pin(pool.blocks()).unwrap()).unwrap();
        let range = Bytes::mib(1)..Bytes::mib(3);
        let list = ScatterList::of_pool(&pool, range, &Limits::NONE).unwrap();
        let second = counting.register(list).unwrap();
        assert_eq!(
            second.registration().pieces()[0].address(),
            pool.base().addr().get() + (1 << 20)
        );
        assert_eq!(counting.counts().bytes, Bytes::mib(8));
        drop(first);
        // SAFETY: nobody uses the pool.
        let release = |range| unsafe { pool.release(range) };
        assert!(matches!(release(pool.blocks()), Err(PoolError::InUse { pins: 1, .. })));
        let list = second.into_held();
        assert_eq!(counting.counts().bytes, Bytes::ZERO);
        drop(list);
        release(pool.blocks()).unwrap();
        let Counts { registered, released, most_bytes, .. } = counting.counts();
        assert_eq!((registered, released, most_bytes), (2, 2, Bytes::mib(8)));
    }

    #[test]
    fn it_fails_when_told_to_and_holds_nothing_then() {
        let (pool, counting) = (pool(1), Counting::new());
        counting.fail_nth(2, libc::ENOMEM);
        let register = || counting.register(pool.pin(pool.blocks()).unwrap());
        let _first = register().unwrap();
        assert_eq!(register().unwrap_err().errno(), Some(libc::ENOMEM));
        let _third = register().unwrap();
        assert_eq!((counting.counts().pieces, counting.counts().refused), (2, 1));
        counting.fail_all(Some(libc::EIO));
        assert_eq!(register().unwrap_err().errno(), Some(libc::EIO));
        // SAFETY: nobody uses the pool.
        let held = unsafe { pool.release(pool.blocks()) };
        assert!(matches!(held, Err(PoolError::InUse { pins: 2, .. })), "{held:?}");
    }

    #[test]
    fn limits_cut_and_refuse() {
        let builder = Pool::builder().capacity(Bytes::mib(8));
        let pool = builder.rung(Rung::Transparent, Use::Forbidden).build().unwrap();
        let register = |count| {
            let limits = RegistrarLimits { longest: Some(Bytes::mib(3)), count: Some(count) };
            let counting = Counting::with_limits(limits);
            counting.register(pool.pin(pool.blocks()).unwrap())
        };
        let refused = register(2).unwrap_err();
        assert!(
            matches!(refused, RegisterError::Full { wanted: 3, free: 2, most: 2 }),
            "{refused}"
        );
        let lengths = [3, 3, 2].map(Bytes::mib);
        let region = register(3).unwrap();
        assert!(region.registration().pieces().iter().map(|piece| piece.len).eq(lengths));
    }
}
