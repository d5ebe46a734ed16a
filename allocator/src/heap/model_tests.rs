//! What [`remote`] and [`Holder`] promise, on every interleaving of a few threads: by loom.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::thread;

use super::holder::Holder;
use super::remote::{self, Freed};

/// Every interleaving with at most two preemptions. All of them were run once, and held: with three
/// threads that takes minutes.
fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(run);
}

/// A slab by its number in lists.
const SLAB: u32 = 1;

/// A thread's heap with one slab.
struct Heap {
    /// One word of bits, whose flag is the first.
    bits: AtomicU64,
    flags: AtomicU32,
    link: AtomicU32,
    pending: AtomicU32,
    holder: Holder<AtomicU32>,
    /// What the owner, or whoever looked after it, has heard.
    heard: AtomicU64,
}

impl Heap {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            bits: AtomicU64::new(0),
            flags: AtomicU32::new(0),
            link: AtomicU32::new(0),
            pending: AtomicU32::new(remote::NONE),
            holder: Holder::new(AtomicU32::new(0)),
            heard: AtomicU64::new(0),
        })
    }

    /// As `core::Heap::free_remotely` and `tell`.
    fn free(&self, bit: u64) {
        match remote::free(&self.bits, bit, &self.flags, 1) {
            Freed::Twice(_) => panic!("freed once"),
            Freed::Told => {}
            Freed::Tell => {
                remote::push(&self.pending, SLAB, &self.link);
                if self.holder.is_retired() {
                    self.holder.look_after(&self.pending, || self.hear());
                }
            }
        }
    }

    /// As `local::Own::hear`.
    fn hear(&self) {
        let slab = remote::take_list(&self.pending);
        if slab == remote::NONE {
            return;
        }
        assert_eq!(slab, SLAB);
        assert_eq!(self.link.load(Ordering::Relaxed), remote::NONE, "it is on the list once");
        assert_eq!(remote::hear(&self.flags), 1, "it is on the list because of its word");
        let bits = remote::take(&self.bits);
        let before = self.heard.load(Ordering::Relaxed);
        assert_eq!(before & bits, 0, "nothing is heard twice");
        self.heard.store(before | bits, Ordering::Relaxed);
    }
}

#[test]
fn what_two_threads_free_is_heard_once_and_not_forgotten() {
    model(|| {
        let heap = Heap::new();
        let threads = [1, 2].map(|bit| {
            let heap = Arc::clone(&heap);
            thread::spawn(move || heap.free(bit))
        });
        heap.hear();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        heap.hear();
        assert_eq!(heap.heard.load(Ordering::Relaxed), 3);
    });
}

#[test]
fn what_is_freed_while_a_thread_leaves_is_heard_by_one_of_the_two() {
    model(|| {
        let heap = Heap::new();
        let thread = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || {
                heap.free(1);
                heap.free(2);
            })
        };
        heap.hear();
        heap.holder.retire();
        heap.holder.look_after(&heap.pending, || heap.hear());
        thread.join().unwrap();
        assert_eq!(heap.heard.load(Ordering::Relaxed), 3, "nobody is left to hear it");
    });
}

#[test]
fn a_heap_is_adopted_or_visited_but_not_both_at_a_time() {
    model(|| {
        let heap = Heap::new();
        heap.holder.retire();
        let thread = {
            let heap = Arc::clone(&heap);
            thread::spawn(move || heap.free(1))
        };
        if heap.holder.adopt() {
            heap.hear();
            thread.join().unwrap();
            heap.hear();
        } else {
            thread.join().unwrap();
        }
        assert_eq!(heap.heard.load(Ordering::Relaxed), 1);
    });
}

/// As `core::Heap::settle`: the slab ended and was begun anew by another owner between a thread's
/// freeing the last object of its first life and its telling so.
#[test]
fn a_slab_that_changes_owners_is_told_to_the_owner_of_now() {
    model(|| {
        // Both owners' lists, and whose the slab is: what the word of its slice says.
        let slab = Heap::new();
        let lists = Arc::new([AtomicU32::new(remote::NONE), AtomicU32::new(remote::NONE)]);
        let owner = Arc::new(AtomicU32::new(0));
        let tell = |slab: &Heap, lists: &[AtomicU32; 2], owner: &AtomicU32| {
            let now = owner.load(Ordering::SeqCst) as usize;
            remote::push(&lists[now], SLAB, &slab.link);
        };
        let threads = [1, 4].map(|bit| {
            let (slab, lists, owner) = (slab.clone(), lists.clone(), owner.clone());
            thread::spawn(move || {
                if remote::free(&slab.bits, bit, &slab.flags, 1) == Freed::Tell {
                    tell(&slab, &lists, &owner);
                }
            })
        });
        // One has told, and the first owner hears of what the other has freed as well.
        let mut first = 0;
        if remote::take_list(&lists[0]) == SLAB {
            remote::hear(&slab.flags);
            first = remote::take(&slab.bits);
        }
        if first == 5 {
            // All is free: the slab is the second's now, who has an object of it freed by us.
            owner.store(1, Ordering::SeqCst);
            if remote::free(&slab.bits, 2, &slab.flags, 1) == Freed::Tell {
                tell(&slab, &lists, &owner);
            }
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let now = owner.load(Ordering::SeqCst) as usize;
        // Whoever finds it on a list of one who does not own it passes it on.
        if now == 1 && remote::take_list(&lists[0]) == SLAB {
            remote::hear(&slab.flags);
            if remote::look(&slab.bits) != 0 && remote::raise(&slab.flags, 1) {
                tell(&slab, &lists, &owner);
            }
        }
        let mut heard = first;
        if remote::take_list(&lists[now]) == SLAB {
            remote::hear(&slab.flags);
            heard |= remote::take(&slab.bits);
        }
        assert_eq!(heard, if now == 1 { 7 } else { 5 });
    });
}

/// Two words of one slab: the flag of each is raised by whoever frees into it first.
#[test]
fn what_is_freed_into_two_words_is_heard_through_one_list() {
    model(|| {
        let words = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (flags, link) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        let pending = Arc::new(AtomicU32::new(remote::NONE));
        let threads = [0, 1].map(|at| {
            let (words, flags, link) = (words.clone(), flags.clone(), link.clone());
            let pending = pending.clone();
            thread::spawn(move || match remote::free(&words[at], 1, &*flags, 1 << at) {
                Freed::Twice(_) => panic!("freed once"),
                Freed::Told => {}
                Freed::Tell => remote::push(&*pending, SLAB, &link),
            })
        });
        let mut heard = [0, 0];
        let mut hear = || {
            if remote::take_list(&*pending) == remote::NONE {
                return;
            }
            assert_eq!(link.load(Ordering::Relaxed), remote::NONE, "it is on the list once");
            let flags = remote::hear(&*flags);
            assert_ne!(flags, 0, "it is on the list because of a word");
            (0..2).filter(|at| flags >> at & 1 == 1).for_each(|at| {
                heard[at] += remote::take(&words[at]);
            });
        };
        hear();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        hear();
        assert_eq!(heard, [1, 1]);
    });
}
