//! What [`Word`] promises, on every interleaving of a few threads: by loom, which also sees when what an
//! entry holds is written while somebody reads it.
#![allow(unsafe_code)] // cells, as the entries are

use std::sync::PoisonError;

use loom::cell::UnsafeCell;
use loom::sync::atomic::{self, AtomicU32, AtomicU64, Ordering};
use loom::sync::{Arc, Mutex, MutexGuard};
use loom::thread;

use super::word::{Atomic, Word, passed_on};

passed_on!(AtomicU64, atomic::fence);

/// An atomic that orders nothing: with it the model must find what is wrong.
struct Careless(AtomicU64);

impl Atomic for Careless {
    fn load(&self, _: Ordering) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn store(&self, value: u64, _: Ordering) {
        self.0.store(value, Ordering::Relaxed);
    }
    fn fetch_sub(&self, value: u64, _: Ordering) -> u64 {
        self.0.fetch_sub(value, Ordering::Relaxed)
    }
    fn fetch_and(&self, value: u64, _: Ordering) -> u64 {
        self.0.fetch_and(value, Ordering::Relaxed)
    }
    fn compare_exchange(&self, now: u64, new: u64, _: Ordering) -> Result<u64, u64> {
        self.0.compare_exchange(now, new, Ordering::Relaxed, Ordering::Relaxed)
    }
    fn fence(_: Ordering) {}
}

/// A cache of one entry, as `inner.rs` uses it. What is held is the number of a block.
struct Cache<A> {
    /// The hint of the block that is looked for.
    hint: AtomicU32,
    word: Word<A>,
    held: UnsafeCell<Option<u32>>,
    state: Mutex<State>,
}

/// What is under the lock.
#[derive(Default)]
struct State {
    live: Option<u32>,
    free: bool,
    ended: u32,
}

/// The block that is looked for, and another that may take its entry.
const WANTED: u32 = 7;
const OTHER: u32 = 8;

impl<A: Atomic> Cache<A> {
    /// With WANTED in it, which nobody uses.
    fn new(zero: A) -> Arc<Self> {
        let state = State { free: true, ..State::default() };
        let cache = Arc::new(Self {
            hint: AtomicU32::new(0),
            word: Word::new(zero),
            held: UnsafeCell::new(None),
            state: Mutex::new(state),
        });
        cache.install(&mut cache.lock(), WANTED);
        cache.release();
        cache
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As `Inner::install`.
    fn install(&self, state: &mut State, block: u32) {
        assert!(state.free && state.live.is_none());
        state.free = false;
        // SAFETY: loom looks whether anybody else is there.
        self.held.with_mut(|held| unsafe { *held = Some(block) });
        self.word.open();
        state.live = Some(block);
        self.hint.store(block, Ordering::Relaxed);
    }

    /// As `Inner::find` and the drop of its lease.
    fn use_it(&self) {
        if self.hint.load(Ordering::Relaxed) == 0 || !self.word.acquire() {
            return;
        }
        let first = self.read();
        thread::yield_now();
        assert_eq!(self.read(), first, "it stays what it was while it is used");
        self.release();
    }

    fn read(&self) -> u32 {
        // SAFETY: loom looks whether anybody writes.
        self.held.with(|held| unsafe { *held }).expect("a live entry holds something")
    }

    fn release(&self) {
        if self.word.release() {
            self.end(&mut self.lock());
        }
    }

    /// As `Inner::end_locked`.
    fn end(&self, state: &mut State) {
        // SAFETY: loom looks whether anybody else is there.
        let held = self.held.with_mut(|held| unsafe { (*held).take() });
        assert!(held.is_some() && !state.free, "it ends once");
        state.free = true;
        state.ended += 1;
    }

    /// As `Inner::forget`.
    fn forget(&self) {
        let mut state = self.lock();
        if state.live.take().is_some() {
            self.hint.store(0, Ordering::Relaxed);
            if self.word.retire() {
                self.end(&mut state);
            }
        }
    }

    /// As `Inner::leaving` and `evict`; whether it went.
    fn evict(&self) -> bool {
        let mut state = self.lock();
        let retired = state.live.is_some() && self.word.retire_idle();
        if retired {
            state.live = None;
            self.hint.store(0, Ordering::Relaxed);
            self.end(&mut state);
        }
        retired
    }

    /// As a miss for another block, which makes room and takes the entry.
    fn replace(&self) {
        self.evict();
        let mut state = self.lock();
        if state.free {
            self.install(&mut state, OTHER);
            drop(state);
            self.release();
        }
    }
}

/// Every interleaving with at most two preemptions: with three threads more takes minutes.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(run);
}

/// Runs each on a thread of its own, and waits for all.
fn together<A: Atomic + Send + Sync + 'static>(cache: &Arc<Cache<A>>, actions: &[fn(&Cache<A>)]) {
    let threads: Vec<_> = actions
        .iter()
        .map(|&action| {
            let cache = Arc::clone(cache);
            thread::spawn(move || action(&cache))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn what_is_forgotten_ends_once_and_not_under_its_users() {
    model(|| {
        let cache = Cache::new(AtomicU64::new(0));
        together(&cache, &[Cache::use_it, Cache::use_it, Cache::forget]);
        let state = cache.lock();
        assert!(state.free && state.ended == 1 && cache.word.users() == 0);
    });
}

#[test]
fn what_is_used_is_not_evicted() {
    model(|| {
        let cache = Cache::new(AtomicU64::new(0));
        let evict = |cache: &Cache<AtomicU64>| {
            cache.evict();
        };
        together(&cache, &[Cache::use_it, evict, evict]);
        assert_eq!(cache.word.users(), 0);
        assert!(cache.lock().free || cache.evict(), "what was used can be evicted afterwards");
        assert_eq!(cache.lock().ended, 1);
    });
}

#[test]
fn an_entry_that_is_used_anew_is_whole_when_it_is_found() {
    model(|| {
        let cache = Cache::new(AtomicU64::new(0));
        together(&cache, &[Cache::use_it, Cache::replace]);
        let live = cache.lock().live;
        assert!(cache.word.is_idle() && live == Some(cache.read()), "{live:?}");
    });
}

#[test]
fn forgetting_and_reuse_leave_nothing_behind() {
    model(|| {
        let cache = Cache::new(AtomicU64::new(0));
        together(&cache, &[Cache::use_it, Cache::forget, Cache::replace]);
        let state = cache.lock();
        assert_eq!(state.free, state.live.is_none());
        assert_eq!(cache.word.users(), 0);
    });
}

#[test]
#[should_panic(expected = "Causality violation")]
fn the_model_sees_what_orders_are_for() {
    model(|| {
        let cache = Cache::new(Careless(AtomicU64::new(0)));
        together(&cache, &[Cache::use_it, Cache::replace]);
    });
}
