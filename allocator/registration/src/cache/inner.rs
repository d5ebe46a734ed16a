//! What a cache is, behind its handle.
#![allow(unsafe_code)] // owns entries as `word.rs` says

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bookend::pool::{PoolRef, SharedPin, Watch};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::entry::{Entry, Held};
use super::lease::Lease;
use super::{CacheCounts, CacheError, CacheLimits};
use crate::{Region, RegisterError, Registrar};

type Cached<P, R> = Region<<R as Registrar>::Registration, SharedPin<P>>;

pub(super) struct Inner<P: PoolRef, R: Registrar> {
    pub pool: P,
    pub registrar: R,
    limits: CacheLimits,
    /// For each block the live entry that it lies in, counted from 1; 0 for none. A hint: the entry's
    /// own range decides.
    words: Box<[AtomicU32]>,
    entries: Box<[Entry<Cached<P, R>>]>,
    /// Misses so far: by this clock entries are used.
    clock: AtomicU64,
    state: Mutex<State>,
}

/// What is under the lock.
#[derive(Debug, Default)]
struct State {
    /// Live entries by their first block. They do not overlap.
    live: BTreeMap<u32, (BlockRange, u32)>,
    free: Vec<u32>,
    /// Of all regions, also those that are no longer live but still in use. Hits are in the entries.
    counts: CacheCounts,
}

impl State {
    /// Live entries that overlap a range.
    fn overlapping(&self, range: BlockRange) -> Vec<(BlockRange, u32)> {
        let before = self.live.range(..range.end().get()).rev();
        let overlapping = before.map(|(_, &entry)| entry);
        overlapping.take_while(|(other, _)| other.end() > range.start()).collect()
    }

    fn ending_at(&self, end: BlockId) -> Option<(BlockRange, u32)> {
        let (_, &entry) = self.live.range(..end.get()).next_back()?;
        (entry.0.end() == end).then_some(entry)
    }

    fn beginning_at(&self, start: BlockId) -> Option<(BlockRange, u32)> {
        self.live.get(&start.get()).copied()
    }
}

fn hull(a: BlockRange, b: BlockRange) -> BlockRange {
    let (start, end) = (a.start().min(b.start()), a.end().max(b.end()));
    BlockRange::new(start, Blocks::new(end.get() - start.get()))
}

impl<P: PoolRef, R: Registrar> Inner<P, R> {
    pub fn new(pool: P, registrar: R, limits: CacheLimits) -> Self {
        let blocks = pool.pool().capacity().as_usize();
        let regions = limits.regions.max(1);
        let state = State { free: (0..regions).rev().collect(), ..State::default() };
        Self {
            pool,
            registrar,
            limits,
            words: (0..blocks).map(|_| AtomicU32::new(0)).collect(),
            entries: (0..regions).map(|_| Entry::new()).collect(),
            clock: AtomicU64::new(0),
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub fn entry(&self, index: u32) -> &Entry<Cached<P, R>> {
        &self.entries[index as usize]
    }

    /// A live entry that covers the range. Takes no lock.
    #[inline]
    pub fn find(&self, range: BlockRange) -> Option<Lease<'_, P, R>> {
        let word = self.words.get(range.start().as_usize())?.load(Relaxed);
        let index = word.checked_sub(1)?;
        let entry = self.entry(index);
        if !entry.word.acquire() {
            return None;
        }
        // SAFETY: acquire made us a user.
        let lease = unsafe { Lease::new(self, index) };
        let has = lease.range();
        let covers = has.start() <= range.start() && range.end() <= has.end() && !range.is_empty();
        if !covers {
            return None;
        }
        entry.touch(self.clock.load(Relaxed));
        Some(lease)
    }

    /// Registers a range, together with its neighbours where that is possible.
    #[cold]
    pub fn register(&self, range: BlockRange) -> Result<Lease<'_, P, R>, CacheError> {
        if range.is_empty() {
            return Err(RegisterError::Nothing.into());
        }
        let mut state = self.lock();
        if let Some(lease) = self.find(range) {
            return Ok(lease); // somebody else was faster
        }
        state.counts.misses += 1;
        let merged = self.merged(&state, range);
        for entry in state.overlapping(merged) {
            state.counts.merges += 1;
            self.retire(&mut state, entry);
        }
        let (range, region) = self.pin_and_register(&mut state, merged).or_else(|error| {
            if merged == range { Err(error) } else { self.pin_and_register(&mut state, range) }
        })?;
        Ok(self.install(&mut state, range, region))
    }

    /// What is registered in place of a range: it with the entries that it overlaps, and with idle ones
    /// beside it that are not longer.
    fn merged(&self, state: &State, range: BlockRange) -> BlockRange {
        let overlapping = state.overlapping(range);
        let mut merged = overlapping.into_iter().fold(range, |all, (other, _)| hull(all, other));
        loop {
            let beside = [state.ending_at(merged.start()), state.beginning_at(merged.end())];
            let fits = |(other, index): &(BlockRange, u32)| {
                let bytes = merged.len().bytes() + other.len().bytes();
                other.len() <= merged.len()
                    && bytes <= self.limits.bytes
                    && self.entry(*index).word.is_idle()
            };
            match beside.into_iter().flatten().find(fits) {
                Some((other, _)) => merged = hull(merged, other),
                None => return merged,
            }
        }
    }

    /// Makes room and registers; what is idle goes, the longest unused first, until that works.
    fn pin_and_register(
        &self,
        state: &mut State,
        range: BlockRange,
    ) -> Result<(BlockRange, Cached<P, R>), CacheError> {
        let wanted = range.len().bytes();
        let room = |state: &State| {
            let left = self.limits.bytes.get().saturating_sub(state.counts.bytes.get());
            wanted.get() <= left && !state.free.is_empty()
        };
        while !room(state) {
            if wanted > self.limits.bytes || !self.evict(state) {
                let CacheCounts { bytes, regions, .. } = state.counts;
                let limits = self.limits;
                return Err(CacheError::Full { wanted, used: bytes, regions, limits });
            }
        }
        loop {
            let pin = SharedPin::new(self.pool.clone(), range).map_err(RegisterError::Pin)?;
            match self.registrar.register(pin) {
                Ok(region) => return Ok((range, region)),
                Err(RegisterError::Full { .. } | RegisterError::LockedMemory { .. })
                    if self.evict(state) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn install(
        &self,
        state: &mut State,
        range: BlockRange,
        region: Cached<P, R>,
    ) -> Lease<'_, P, R> {
        let index = state.free.pop().expect("room was made under the same lock");
        let now = self.clock.fetch_add(1, Relaxed) + 1;
        // SAFETY: the entry was free, and the lock is held.
        unsafe { self.entry(index).install(Held { range, region }, now) };
        state.live.insert(range.start().get(), (range, index));
        state.counts.regions += 1;
        state.counts.bytes = state.counts.bytes + range.len().bytes();
        range.iter().for_each(|block| self.words[block.as_usize()].store(index + 1, Relaxed));
        // SAFETY: installing made us a user.
        unsafe { Lease::new(self, index) }
    }

    /// Lets the idle entry go that was not used for longest; whether there was one.
    fn evict(&self, state: &mut State) -> bool {
        let mut oldest: Vec<_> = state.live.values().copied().collect();
        oldest.sort_by_key(|&(_, index)| self.entry(index).used());
        let evicted = oldest.into_iter().any(|entry| self.retire_idle(state, entry));
        state.counts.evictions += u64::from(evicted);
        evicted
    }

    /// Takes a live entry out; its region goes now, or with its last user.
    fn retire(&self, state: &mut State, (range, index): (BlockRange, u32)) {
        self.unlist(state, range);
        if self.entry(index).word.retire() {
            // SAFETY: retire says that the entry is ours.
            unsafe { self.end_locked(state, index) };
        }
    }

    /// The same, if nobody uses it.
    fn retire_idle(&self, state: &mut State, (range, index): (BlockRange, u32)) -> bool {
        let retired = self.entry(index).word.retire_idle();
        if retired {
            self.unlist(state, range);
            // SAFETY: retire_idle says that the entry is ours.
            unsafe { self.end_locked(state, index) };
        }
        retired
    }

    fn unlist(&self, state: &mut State, range: BlockRange) {
        state.live.remove(&range.start().get());
        range.iter().for_each(|block| self.words[block.as_usize()].store(0, Relaxed));
    }

    /// Drops what an entry holds.
    ///
    /// # Safety
    /// The caller owns the entry.
    pub unsafe fn end(&self, index: u32) {
        // SAFETY: passed on.
        unsafe { self.end_locked(&mut self.lock(), index) };
    }

    /// # Safety
    /// The caller owns the entry.
    unsafe fn end_locked(&self, state: &mut State, index: u32) {
        let entry = self.entry(index);
        // SAFETY: passed on.
        let Some(held) = (unsafe { entry.empty() }) else { return };
        state.counts.regions -= 1;
        state.counts.bytes = state.counts.bytes - held.range.len().bytes();
        state.counts.hits += entry.take_hits();
        drop(held);
        state.free.push(index);
    }

    pub fn forget(&self, range: BlockRange) -> usize {
        let mut state = self.lock();
        let overlapping = state.overlapping(range);
        overlapping.iter().for_each(|&entry| self.retire(&mut state, entry));
        overlapping.iter().filter(|(_, index)| self.entry(*index).word.users() > 0).count()
    }

    pub fn counts(&self) -> CacheCounts {
        let counts = self.lock().counts;
        let hits = self.entries.iter().map(Entry::hits).sum::<u64>();
        CacheCounts { hits: counts.hits + hits, ..counts }
    }

    pub fn validate(&self) {
        let state = self.lock();
        let mut end = BlockId::new(0);
        for (&start, &(range, index)) in &state.live {
            assert!(
                start == range.start().get() && range.start() >= end,
                "{range:?} overlaps another"
            );
            end = range.end();
            assert!(
                self.entry(index).word.is_idle() || self.entry(index).word.users() > 0,
                "{range:?} is not live"
            );
            let word = |block: BlockId| self.words[block.as_usize()].load(Relaxed);
            assert!(range.iter().all(|block| word(block) == index + 1), "{range:?} is not found");
            assert!(!state.free.contains(&index), "{range:?} is free as well");
        }
        let listed = self.words.iter().filter(|word| word.load(Relaxed) != 0).count();
        let live: usize = state.live.values().map(|(range, _)| range.len().as_usize()).sum();
        assert_eq!(listed, live, "blocks are found that are not registered");
        let CacheCounts { regions, bytes, .. } = state.counts;
        assert_eq!(
            regions as usize + state.free.len(),
            self.entries.len(),
            "regions were miscounted"
        );
        assert!(bytes >= Bytes::new(live as u64 * bookend::units::BLOCK_BYTES as u64));
        assert!(bytes <= self.limits.bytes, "more is registered than is allowed");
    }
}

impl<P, R> Watch for Inner<P, R>
where
    P: PoolRef + Send + Sync,
    R: Registrar + Send + Sync,
    R::Registration: Send + Sync,
{
    fn leaving(&self, range: BlockRange) {
        let mut state = self.lock();
        for entry in state.overlapping(range) {
            if self.retire_idle(&mut state, entry) {
                state.counts.invalidations += 1;
            }
        }
    }
}
