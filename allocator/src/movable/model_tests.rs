//! What the [protocol](super::protocol) promises, on every interleaving of a few threads: by loom.
//!
//! The object's two places are cells that loom watches: to read or write one while somebody else
//! writes it is an error. So is to find another value than the last one written.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::thread;

use super::protocol::{self, Buried, Ended, Hint, IDLE, Role, Wait};
use super::word::{KEEP, LATE, Offset, STALE, STAMP_FIRST, Sight, Word};

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
/// The stamps that its blocks have.
const STAMPS: [u32; 2] = [STAMP_FIRST, STAMP_FIRST + 2];

/// One object that begins in block 0, and a place for it in block 1; slots of two threads.
struct World {
    word: AtomicU64,
    stamps: [AtomicU32; 2],
    /// As `stamps::next`: only the mover asks.
    next: AtomicU32,
    epoch: AtomicU64,
    unsettled: AtomicU64,
    insists: AtomicU64,
    slots: [AtomicU64; 2],
    /// As a thread's slot for pins, where there is one: each load makes a model longer.
    pin: Option<AtomicU64>,
    places: [UnsafeCell<u64>; 2],
}

/// A handle's hint.
struct Handle {
    address: AtomicU64,
    stamp: AtomicU32,
}

impl Handle {
    fn new(sight: Sight) -> Self {
        Self { address: AtomicU64::new(sight.address), stamp: AtomicU32::new(sight.stamp) }
    }

    fn hint(&self) -> Hint<'_, AtomicU64, AtomicU32> {
        Hint { address: &self.address, stamp: &self.stamp }
    }
}

impl World {
    fn new() -> Arc<Self> {
        Self::with_pin(None)
    }

    fn with_pin(pin: Option<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            word: AtomicU64::new(Word::live(place(0)).0),
            stamps: STAMPS.map(AtomicU32::new),
            next: AtomicU32::new(STAMPS[1] + 2),
            epoch: AtomicU64::new(1),
            unsettled: AtomicU64::new(0),
            insists: AtomicU64::new(u64::MAX),
            slots: [AtomicU64::new(IDLE), AtomicU64::new(IDLE)],
            pin,
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
        let at = if protocol::is_settled(&self.unsettled) {
            offset(protocol::trust(&handle.address))
        } else {
            self.look_unsettled(handle, shown)
        };
        change(self, at);
        protocol::leave(&self.slots[slot]);
    }

    fn look_unsettled(&self, handle: &Handle, shown: u64) -> Offset {
        match protocol::look(handle.hint(), |address| self.stamp(offset(address))) {
            Some(address) => offset(address),
            None => self.find(handle, shown),
        }
    }

    /// As `MovableHeap::hold_own` where a slot is free. `None`: the pin would be counted.
    fn pin_in_slot(&self, handle: &Handle) -> Option<(Offset, &AtomicU64)> {
        let stamp_of = |address| self.stamp(offset(address));
        let slot = self.pin.as_ref()?;
        let address = protocol::pin_in_slot(slot, handle.hint(), stamp_of)?;
        Some((offset(address), slot))
    }

    /// As `Tables::renew`.
    fn renew(&self, handle: &Handle, sight: Sight) {
        if protocol::renew(handle.hint(), &self.word, sight) {
            protocol::settle(&self.unsettled, 1);
        }
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
                    self.renew(handle, Sight::new(BASE, seen.at, seen.stamp));
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
        // As `Inner::begin_moving`.
        protocol::unsettle(&self.unsettled, 1);
        protocol::ready(&self.word, from, KEEP | LATE);
        protocol::begin_emptying(self.stamp(from));
        if insist {
            self.insists.store(self.epoch.load(Ordering::Acquire) + 1, Ordering::Release);
        }
        let epoch = protocol::advance(&self.epoch).unwrap();
        let passed = || self.slots.iter().all(|slot| protocol::has_passed(slot, epoch));
        let mut free = passed();
        if insist && free {
            protocol::ready(&self.word, from, KEEP);
            loom::sync::atomic::fence(Ordering::SeqCst);
            free = passed();
        }
        let is_pinned = |pin| protocol::pinned_in(pin) == address(from);
        let pinned = free && self.pin.as_ref().is_some_and(is_pinned);
        let moved = free && !pinned && protocol::claim(&self.word, from).is_ok();
        if moved {
            let value = self.read(from);
            // SAFETY: loom checks that nobody else is at it.
            #[allow(unsafe_code)]
            self.places[to.block().as_usize()].with_mut(|copy| unsafe { *copy = value });
            protocol::unsettle(&self.unsettled, 1);
            let published = protocol::publish(&self.word, to, false);
            if !published.stale {
                protocol::settle(&self.unsettled, 1);
            }
            if published.doomed && protocol::bury(&self.word).stale {
                protocol::settle(&self.unsettled, 1);
            }
            // The old place is used again at once.
            // SAFETY: as above.
            #[allow(unsafe_code)]
            self.places[from.block().as_usize()].with_mut(|old| unsafe { *old = 0xDEAD });
        }
        self.insists.store(u64::MAX, Ordering::Release);
        let new = self.next.fetch_add(2, Ordering::Relaxed);
        protocol::end_emptying(self.stamp(from), new);
        protocol::settle(&self.unsettled, 1);
        moved
    }

    /// Whether stale handles are counted, one by one: to be asked when nobody does anything.
    fn assert_counted(&self) {
        let stale = Word(self.word.load(Ordering::Relaxed)).has(STALE);
        assert_eq!(self.unsettled.load(Ordering::Relaxed), u64::from(stale));
    }

    fn value(&self) -> u64 {
        self.read(Word(self.word.load(Ordering::Relaxed)).offset())
    }
}

fn place(block: u32) -> Offset {
    Offset::of_bytes(u64::from(block) * BLOCK)
}

fn address(at: Offset) -> u64 {
    BASE + at.bytes() as u64
}

fn offset(address: u64) -> Offset {
    Offset::of_bytes(address - BASE)
}

fn handle() -> Handle {
    Handle::new(Sight::new(BASE, place(0), Some(STAMPS[0])))
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
        world.assert_counted();
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
                // As `Tables::finish`.
                let stamp = world.stamp(place(0)).load(Ordering::Acquire);
                let sight = Sight::new(BASE, place(0), Some(stamp));
                if !sight.lasts() {
                    protocol::unsettle(&world.unsettled, 1);
                    protocol::begin_stale(&world.word);
                }
                let handle = Handle::new(sight);
                protocol::unpin(&world.word);
                world.look(0, &handle, World::add);
            })
        };
        world.carry();
        making.join().unwrap();
        assert_eq!(world.value(), 11);
        world.assert_counted();
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
        world.assert_counted();
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
        world.assert_counted();
    });
}

#[test]
fn two_sessions_read_while_it_is_moved() {
    model(1, || {
        let world = World::new();
        // The same one: an object has one handle.
        let handle = Arc::new(handle());
        let sessions: Vec<_> = [0, 1]
            .into_iter()
            .map(|slot| {
                let (world, handle) = (Arc::clone(&world), Arc::clone(&handle));
                thread::spawn(move || {
                    world.look(slot, &handle, |world, at| assert_eq!(world.read(at), 10));
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
fn a_pin_in_a_slot_holds_the_object_where_it_says() {
    model(3, || {
        let world = World::with_pin(Some(AtomicU64::new(IDLE)));
        let pinning = {
            let world = Arc::clone(&world);
            thread::spawn(move || {
                let handle = handle();
                // Twice: the slot may have been seen in between.
                let mut added = 0;
                for _ in 0..2 {
                    let Some((at, slot)) = world.pin_in_slot(&handle) else { break };
                    world.add(at);
                    world.add(at);
                    protocol::leave(slot);
                    added += 2;
                }
                added
            })
        };
        world.carry();
        let added = pinning.join().unwrap();
        assert_eq!(world.value(), 10 + added);
    });
}

#[test]
fn sessions_that_share_a_handle_renew_it_to_the_same() {
    model(2, || {
        let world = World::new();
        let handle = Arc::new(handle());
        let session = {
            let (world, handle) = (Arc::clone(&world), Arc::clone(&handle));
            thread::spawn(move || {
                world.look(0, &handle, |world, at| assert_eq!(world.read(at), 10));
            })
        };
        world.carry();
        world.look(1, &handle, |world, at| assert_eq!(world.read(at), 10));
        session.join().unwrap();
        world.assert_counted();
        // Whoever looks now finds it, and then nothing is stale.
        world.look(1, &handle, |world, at| assert_eq!(world.read(at), 10));
        world.assert_counted();
        assert_eq!(world.unsettled.load(Ordering::Relaxed), 0);
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
            Ended::Freed(Buried { at, .. }) => assert_eq!(at, place(u32::from(moved))),
            Ended::Doomed => assert!(moved),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.word.load(Ordering::Relaxed), Word::DEAD.0);
    });
}
