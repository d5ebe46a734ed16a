//! Threads and what they have to do: two queues, so that big files and small ones go on side by
//! side.
//!
//! Light work (directories and batches of small files) is a stack: the tree is gone through depth
//! first, and little of it is open at a time. Heavy work (big files) is a queue that one thread of
//! its own empties: a big file occupies the device, not the processor. Work makes more work; the
//! threads end when there is none and nobody is at any.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard};

/// Which queue a thread serves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// Directories and batches of small files.
    Light,
    /// Big files.
    Heavy,
    /// All there is, light work first.
    Both,
}

/// Enough for going down into directories of directories.
const STACK_BYTES: usize = 16 << 20;

/// Work to do.
#[derive(Debug)]
pub struct Pool<W> {
    state: Mutex<State<W>>,
    light: Condvar,
    heavy: Condvar,
}

#[derive(Debug)]
struct State<W> {
    light: Vec<W>,
    heavy: VecDeque<W>,
    /// How many pieces of work somebody is at.
    under_way: usize,
}

impl<W: Send> Default for Pool<W> {
    fn default() -> Self {
        let state = State { light: Vec::new(), heavy: VecDeque::new(), under_way: 0 };
        Self { state: Mutex::new(state), light: Condvar::new(), heavy: Condvar::new() }
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
        drop(state);
        match added {
            0 => {}
            1 => self.light.notify_one(),
            _ => self.light.notify_all(),
        }
    }

    /// Adds heavy work; the first is done first.
    pub fn push_heavy(&self, work: W) {
        self.state().heavy.push_back(work);
        self.heavy.notify_one();
        self.light.notify_one(); // there may be no thread for heavy work alone
    }

    /// Does all the work on `light` threads, this one among them, and one more for heavy work if
    /// `beside`. Fewer threads do where the system has no more.
    pub fn run(&self, light: usize, beside: bool, work: impl Fn(W) + Sync) {
        let lane = if beside { Lane::Light } else { Lane::Both };
        std::thread::scope(|scope| {
            let work = &work;
            let start = |name: &str, lane| {
                let builder = std::thread::Builder::new().name(name.to_owned());
                builder.stack_size(STACK_BYTES).spawn_scoped(scope, move || self.serve(lane, work))
            };
            let mut others = Vec::new();
            for _ in 1..light {
                others.extend(start("hugecp-small", lane));
            }
            let has_heavy = !beside || start("hugecp-big", Lane::Heavy).is_ok();
            self.serve(if has_heavy { lane } else { Lane::Both }, work);
        });
    }

    fn serve(&self, lane: Lane, work: &impl Fn(W)) {
        while let Some(next) = self.next(lane) {
            work(next);
            self.ended();
        }
    }

    /// The next piece of work; `None` when there will be none.
    fn next(&self, lane: Lane) -> Option<W> {
        let mut state = self.state();
        loop {
            let mut found = None;
            if lane != Lane::Heavy {
                found = state.light.pop();
            }
            if found.is_none() && lane != Lane::Light {
                found = state.heavy.pop_front();
            }
            if found.is_some() {
                state.under_way += 1;
                return found;
            }
            if state.under_way == 0 && state.light.is_empty() && state.heavy.is_empty() {
                drop(state);
                self.light.notify_all();
                self.heavy.notify_all();
                return None;
            }
            let changed = if lane == Lane::Heavy { &self.heavy } else { &self.light };
            state = changed.wait(state).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
    }

    fn ended(&self) {
        let mut state = self.state();
        state.under_way -= 1;
        if state.under_way == 0 {
            drop(state);
            self.light.notify_all();
            self.heavy.notify_all();
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
    fn nothing_to_do_ends_at_once() {
        Pool::<()>::default().run(3, true, |()| panic!("there was nothing"));
    }
}
