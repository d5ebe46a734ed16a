//! Threads and what they have to do: queues, so that big files and small ones go on side by side.
//!
//! Light work (directories and batches of small files) is a stack: the tree is gone through depth
//! first, and little of it is open at a time. Heavy work (big files) is a queue that one thread of
//! its own empties: a big file occupies the device, not the processor. What one thread should do
//! alone is left to the *first* one, which runs the pool: what others wait for, and what makes light
//! work, unless there is much of that. Work makes more work; the threads end when there is none and nobody is at
//! any.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::{self, ThreadId};

/// Which queues a thread serves, in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lane {
    /// Both that are the first thread's.
    first: bool,
    /// Directories and batches of small files.
    light: bool,
    /// Big files.
    heavy: bool,
}

/// From so much light work on the first thread makes no more of it.
const ENOUGH: usize = 64;
/// So much light work is worth waking somebody for, where the first thread comes to it too.
const WORTH_WAKING: usize = 8;
/// Enough for going down into directories of directories.
const STACK_BYTES: usize = 16 << 20;

/// Work to do.
#[derive(Debug)]
pub struct Pool<W> {
    state: Mutex<State<W>>,
    first: Condvar,
    light: Condvar,
    heavy: Condvar,
    runner: OnceLock<ThreadId>,
}

#[derive(Debug)]
struct State<W> {
    /// For the first thread, before light work.
    next: VecDeque<W>,
    light: Vec<W>,
    /// For the first thread, unless there is much light work.
    first: Vec<W>,
    heavy: VecDeque<W>,
    /// How many pieces of work somebody is at.
    under_way: usize,
    asleep: Asleep,
}

/// Threads that wait for work. Whoever adds some looks here first: to tell nobody is a system call too.
#[derive(Debug, Default)]
struct Asleep {
    first: usize,
    light: usize,
    heavy: usize,
}

impl<W> State<W> {
    fn is_empty(&self) -> bool {
        self.next.is_empty()
            && self.light.is_empty()
            && self.first.is_empty()
            && self.heavy.is_empty()
    }
}

impl<W: Send> Default for Pool<W> {
    fn default() -> Self {
        let (next, heavy) = (VecDeque::new(), VecDeque::new());
        let (light, first) = (Vec::new(), Vec::new());
        let state = State { next, light, first, heavy, under_way: 0, asleep: Asleep::default() };
        Self {
            state: Mutex::new(state),
            first: Condvar::new(),
            light: Condvar::new(),
            heavy: Condvar::new(),
            runner: OnceLock::new(),
        }
    }
}

impl<W: Send> Pool<W> {
    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Adds light work; the last is done first.
    pub fn push(&self, work: impl IntoIterator<Item = W>) {
        let mut state = self.state();
        let before = state.light.len();
        state.light.extend(work);
        let added = state.light.len() - before;
        if added > 0 {
            self.wake(state, [1, added, 0]);
        }
    }

    /// As [`push`](Self::push), of work that the first thread does itself when it has done its own: others are not woken
    /// for little of it.
    pub fn push_aside(&self, work: W) {
        let mut state = self.state();
        state.light.push(work);
        let others = usize::from(state.light.len() >= WORTH_WAKING);
        self.wake(state, [1, others, 0]);
    }

    /// Adds work that others wait for to that of the first thread; the first is done first.
    pub fn push_next(&self, work: W) {
        let mut state = self.state();
        state.next.push_back(work);
        self.wake(state, [1, 0, 0]);
    }

    /// Adds work that makes more to that of the first thread; the last is done first.
    pub fn push_first(&self, work: impl IntoIterator<Item = W>) {
        let mut state = self.state();
        state.first.extend(work);
        self.wake(state, [1, 0, 0]);
    }

    /// Whether this is the first thread.
    pub fn is_first(&self) -> bool {
        self.runner.get() == Some(&thread::current().id())
    }

    /// Adds heavy work; the first is done first.
    pub fn push_heavy(&self, work: W) {
        let mut state = self.state();
        state.heavy.push_back(work);
        self.wake(state, [1, 1, 1]); // there may be no thread for heavy work alone
    }

    /// Wakes so many of those that wait for the first thread's work, for light, and for heavy work.
    fn wake(&self, state: MutexGuard<'_, State<W>>, wanted: [usize; 3]) {
        let Asleep { first, light, heavy } = state.asleep;
        drop(state);
        let bells = [&self.first, &self.light, &self.heavy];
        for ((bell, asleep), wanted) in bells.into_iter().zip([first, light, heavy]).zip(wanted) {
            match asleep.min(wanted) {
                0 => {}
                1 => bell.notify_one(),
                _ => bell.notify_all(),
            }
        }
    }

    /// Does all the work on `light` threads, this one among them, and one more for heavy work if
    /// `beside`. Fewer threads do where the system has no more.
    pub fn run(&self, light: usize, beside: bool, work: impl Fn(W) + Sync) {
        let _ = self.runner.set(thread::current().id()); // a pool is run once
        let lane = Lane { first: false, light: true, heavy: !beside };
        thread::scope(|scope| {
            let work = &work;
            let start = |name: &str, lane| {
                let builder = thread::Builder::new().name(name.to_owned());
                builder.stack_size(STACK_BYTES).spawn_scoped(scope, move || self.serve(lane, work))
            };
            let mut others = Vec::new();
            for _ in 1..light {
                others.extend(start("hugecp-small", lane));
            }
            let big = Lane { first: false, light: false, heavy: true };
            let has_heavy = beside && start("hugecp-big", big).is_ok();
            self.serve(Lane { first: true, light: true, heavy: !has_heavy }, work);
        });
    }

    fn serve(&self, lane: Lane, work: &impl Fn(W)) {
        let mut state = self.state();
        while let Some(next) = self.next(lane, state) {
            work(next);
            state = self.state();
            state.under_way -= 1;
        }
    }

    /// The next piece of work; `None` when there will be none.
    fn next(&self, lane: Lane, mut state: MutexGuard<'_, State<W>>) -> Option<W> {
        loop {
            let mut found = None;
            if lane.first {
                found = state.next.pop_front();
            }
            if found.is_none() && lane.first && state.light.len() < ENOUGH {
                found = state.first.pop();
            }
            if found.is_none() && lane.light {
                found = state.light.pop();
            }
            if found.is_none() && lane.heavy {
                found = state.heavy.pop_front();
            }
            if found.is_some() {
                state.under_way += 1;
                return found;
            }
            if state.under_way == 0 && state.is_empty() {
                self.wake(state, [usize::MAX; 3]);
                return None;
            }
            let bell = match lane {
                Lane { first: true, .. } => &self.first,
                Lane { light: true, .. } => &self.light,
                _ => &self.heavy,
            };
            *state.asleep.of(lane) += 1;
            state = bell.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
            *state.asleep.of(lane) -= 1;
        }
    }
}

impl Asleep {
    fn of(&mut self, lane: Lane) -> &mut usize {
        match lane {
            Lane { first: true, .. } => &mut self.first,
            Lane { light: true, .. } => &mut self.light,
            _ => &mut self.heavy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn work_that_makes_work_is_all_done() {
        for (threads, beside) in [(1, false), (1, true), (4, true), (3, false)] {
            let pool = Pool::default();
            let (light, heavy) = (AtomicU64::new(0), AtomicU64::new(0));
            pool.push([(10_u32, false)]);
            pool.run(threads, beside, |(depth, is_heavy)| {
                if is_heavy {
                    heavy.fetch_add(1, Ordering::Relaxed);
                } else {
                    light.fetch_add(1, Ordering::Relaxed);
                    if depth > 0 {
                        pool.push([(depth - 1, false), (depth - 1, false)]);
                        pool.push_heavy((0, true));
                    }
                }
            });
            assert_eq!((light.into_inner(), heavy.into_inner()), (2047, 1023), "{threads}");
        }
    }

    #[test]
    fn what_is_for_the_first_is_done_by_it_in_order() {
        for threads in [1, 4] {
            let pool = Pool::default();
            let (here, done) = (thread::current().id(), Mutex::new(Vec::new()));
            pool.push((0..100).map(|n| (n, false)));
            assert!(!pool.is_first(), "nobody runs it");
            pool.run(threads, true, |(n, first)| {
                if first {
                    assert!(pool.is_first());
                    assert_eq!(thread::current().id(), here);
                    done.lock().unwrap().push(n);
                } else {
                    match n % 2 {
                        0 => pool.push_next((n, true)),
                        _ => pool.push_first([(n, true)]),
                    }
                }
            });
            let mut done = done.into_inner().unwrap();
            if threads == 1 {
                // Light work is done from 99 on. What is odd waits until there is little of it.
                let first = done.iter().position(|n| n % 2 == 1).unwrap();
                assert_eq!(first, (100 - ENOUGH).div_ceil(2), "{done:?}");
                assert!(done[..first].iter().copied().eq((0..50).rev().map(|n| 2 * n).take(first)));
            }
            done.sort_unstable();
            assert!(done.into_iter().eq(0..100), "{threads}");
        }
    }

    #[test]
    fn work_that_nobody_is_woken_for_is_done() {
        for threads in [1, 4] {
            let pool = Pool::default();
            let done = AtomicU64::new(0);
            pool.push([(100, true)]);
            pool.run(threads, true, |(left, makes)| {
                done.fetch_add(1, Ordering::Relaxed);
                if makes && left > 0 {
                    pool.push_first([(left - 1, true)]);
                    pool.push_aside((left, false));
                    pool.push_next((left, false));
                }
            });
            assert_eq!(done.into_inner(), 301, "{threads}");
        }
    }

    #[test]
    fn nothing_to_do_ends_at_once() {
        Pool::<()>::default().run(3, true, |()| panic!("there was nothing"));
    }
}
