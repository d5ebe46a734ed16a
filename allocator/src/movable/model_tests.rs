//! What the [protocol](super::protocol) promises, on every interleaving of a few threads: by loom.
//!
//! The object's two places are cells that loom watches: to read or write one while somebody else
//! writes it is an error. So is to find another value than the last one written.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::thread;

use super::protocol::{self, Ended, IDLE, Role, Wait};
use super::word::{Hint, KEEP, LATE, Offset, Word, first_block};

/// Every interleaving with at most so many preemptions.
fn model(preemptions: usize, run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.max_branches = 10_000;
    model.check(run);
}

const BLOCK: u64 = 2 << 20;
/// Where the heap would begin.
const BASE: u64 = 16 * BLOCK;

/// One object that begins in block 0, and a place for it in block 1; slots of two threads.
struct World {
    word: AtomicU64,
    stamps: [AtomicU32; 2],
    epoch: AtomicU64,
    insists: AtomicU64,
    slots: [AtomicU64; 2],
    places: [UnsafeCell<u64>; 2],
}

/// A handle's hint.
struct Handle(AtomicU64);

impl World {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU64::new(Word::live(place(0)).0),
            stamps: [AtomicU32::new(0), AtomicU32::new(0)],
            epoch: AtomicU64::new(1),
            insists: AtomicU64::new(u64::MAX),
            slots: [AtomicU64::new(IDLE), AtomicU64::new(IDLE)],
            places: [UnsafeCell::new(10), UnsafeCell::new(0)],
        })
    }

    fn stamp(&self, at: Offset) -> &AtomicU32 {
        &self.stamps[at.block().as_usize()]
    }

    /// Adds one to the object. The owner's own synchronization orders those who do.
    fn add(&self, at: Offset) {
        // SAFETY: loom checks that nobody else is at it.
        #[allow(unsafe_code)]
        self.places[at.block().as_usize()].with_mut(|value| unsafe { *value += 1 });
    }

    fn read(&self, at: Offset) -> u64 {
        // SAFETY: as above.
        #[allow(unsafe_code)]
        self.places[at.block().as_usize()].with(|value| unsafe { *value })
    }

    /// As `Session::address` and `Tables::find`.
    fn look(&self, slot: usize, handle: &Handle, change: impl FnOnce(&Self, Offset)) {
        let shown = protocol::enter(&self.slots[slot], &self.epoch);
        let first = first_block(BASE);
        let at = match protocol::look(&handle.0, |hint| &self.stamps[hint.block(first)]) {
            Some(hint) => place(hint.block(first) as u32),
            None => self.find(handle, shown),
        };
        change(self, at);
        protocol::leave(&self.slots[slot]);
    }

    fn find(&self, handle: &Handle, shown: u64) -> Offset {
        let mut late = false;
        loop {
            let role = match (shown >= self.insists.load(Ordering::Acquire), late) {
                (false, _) => Role::WaitedFor,
                (true, false) => Role::Waiting,
                (true, true) => Role::Late,
            };
            match protocol::find(&self.word, |at| self.stamp(at), role) {
                Ok(seen) => {
                    let hint = Hint::new(BASE, seen.at, seen.stamp);
                    protocol::renew(&handle.0, hint);
                    return seen.at;
                }
                Err(Wait::Copied) => thread::yield_now(),
                Err(Wait::Insisted) => {
                    late = true;
                    thread::yield_now();
                }
                Err(other) => panic!("{other:?}"),
            }
        }
    }

    /// One round for the object, from where it is to the other block; as the mover's. Whether it was
    /// moved. The mover gives up where a session is in the way.
    fn carry(&self) -> bool {
        self.carry_as(false)
    }

    fn carry_as(&self, insist: bool) -> bool {
        let from = Word(self.word.load(Ordering::Relaxed)).offset();
        let to = place(1 - from.block().get());
        protocol::ready(&self.word, from, KEEP | LATE);
        protocol::turn(self.stamp(from));
        if insist {
            self.insists.store(self.epoch.load(Ordering::Acquire) + 1, Ordering::Release);
        }
        let epoch = protocol::advance(&self.epoch);
        let passed = || self.slots.iter().all(|slot| protocol::has_passed(slot, epoch));
        let mut free = passed();
        if insist && free {
            protocol::ready(&self.word, from, KEEP);
            loom::sync::atomic::fence(Ordering::SeqCst);
            free = passed();
        }
        let moved = free && protocol::claim(&self.word, from).is_ok();
        if moved {
            let value = self.read(from);
            // SAFETY: loom checks that nobody else is at it.
            #[allow(unsafe_code)]
            self.places[to.block().as_usize()].with_mut(|copy| unsafe { *copy = value });
            if protocol::publish(&self.word, to, false) {
                protocol::bury(&self.word);
            }
            // The old place is used again at once.
            // SAFETY: as above.
            #[allow(unsafe_code)]
            self.places[from.block().as_usize()].with_mut(|old| unsafe { *old = 0xDEAD });
        }
        self.insists.store(u64::MAX, Ordering::Release);
        protocol::turn(self.stamp(from));
        moved
    }

    fn value(&self) -> u64 {
        self.read(Word(self.word.load(Ordering::Relaxed)).offset())
    }
}

fn place(block: u32) -> Offset {
    Offset::of_bytes(u64::from(block) * BLOCK)
}

fn handle() -> Handle {
    Handle(AtomicU64::new(Hint::new(BASE, place(0), Some(0)).0))
}

#[test]
fn a_session_changes_the_object_where_it_is() {
    model(3, || {
        let world = World::new();
        let session = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let handle = handle();
                // Twice: by the hint, and by what was found.
                world.look(0, &handle, World::add);
                world.look(0, &handle, World::add);
            })
        };
        world.carry();
        session.join().unwrap();
        assert_eq!(world.value(), 12);
    });
}

#[test]
fn an_object_whose_block_is_emptied_while_it_is_made_is_changed_where_it_is() {
    model(3, || {
        let world = World::new();
        world.word.store(Word::live(place(0)).pinned().0, Ordering::Relaxed);
        let making = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                // As `Tables::hint` and `MovableHeap::finish`.
                let stamp = world.stamp(place(0)).load(Ordering::Acquire);
                let handle = Handle(AtomicU64::new(Hint::new(BASE, place(0), Some(stamp)).0));
                protocol::unpin(&world.word);
                world.look(0, &handle, World::add);
            })
        };
        world.carry();
        making.join().unwrap();
        assert_eq!(world.value(), 11);
    });
}

#[test]
fn an_object_that_comes_back_to_its_block_is_not_taken_for_where_it_was() {
    model(3, || {
        let world = World::new();
        let session = {
            let world = Arc::clone(&world);
            thread::spawn(move || world.look(0, &handle(), World::add))
        };
        world.carry();
        world.carry();
        session.join().unwrap();
        assert_eq!(world.value(), 11);
    });
}

#[test]
fn a_mover_that_insists_takes_nothing_from_under_a_session() {
    model(3, || {
        let world = World::new();
        let session = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let handle = handle();
                world.look(0, &handle, World::add);
                world.look(0, &handle, World::add);
            })
        };
        world.carry_as(true);
        session.join().unwrap();
        assert_eq!(world.value(), 12);
    });
}

#[test]
fn two_sessions_read_while_it_is_moved() {
    model(1, || {
        let world = World::new();
        let sessions: Vec<_> = [0, 1]
            .into_iter()
            .map(|slot| {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    world.look(slot, &handle(), |world, at| assert_eq!(world.read(at), 10));
                })
            })
            .collect();
        world.carry();
        sessions.into_iter().for_each(|session| session.join().unwrap());
        assert_eq!(world.value(), 10);
    });
}

#[test]
fn a_pin_holds_the_object_where_it_says() {
    a_pin_holds(protocol::pin);
}

#[test]
fn a_pin_of_who_has_the_handle_holds_the_object_where_it_says() {
    a_pin_holds(protocol::pin_own);
}

fn a_pin_holds(pin: fn(&AtomicU64) -> Result<Offset, Wait>) {
    model(3, move || {
        let world = World::new();
        let pinning = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let at = loop {
                    match pin(&world.word) {
                        Ok(at) => break at,
                        Err(Wait::Copied) => thread::yield_now(),
                        Err(other) => panic!("{other:?}"),
                    }
                };
                world.add(at);
                world.add(at);
                protocol::unpin(&world.word);
            })
        };
        world.carry();
        pinning.join().unwrap();
        assert_eq!(world.value(), 12);
    });
}

#[test]
fn what_is_freed_while_it_is_moved_ends_once() {
    model(3, || {
        let world = World::new();
        let freeing = {
            let world = Arc::clone(&world);
            thread::spawn(move || protocol::end(&world.word, 0))
        };
        let moved = world.carry();
        let ended = freeing.join().unwrap();
        match ended {
            Ended::Freed(at) => assert_eq!(at, place(u32::from(moved))),
            Ended::Doomed => assert!(moved),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.word.load(Ordering::Relaxed), Word::DEAD.0);
    });
}
