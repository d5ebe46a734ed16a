//! Owners that refuse, panic, come back in, pin, and free what is being moved.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use super::*;
use crate::movable::{
    Answer, Cache, Carried, Movable, MovableError, ObjectId, Obstacle, Owner, Subject,
};

type Step = fn(&Script, Subject) -> Answer;

/// What an owner does at each step, what it has, and what it has seen.
struct Script {
    isolate: Step,
    migrate: Step,
    put_back: Step,
    log: Mutex<Vec<&'static str>>,
    /// Where the owner's own pointers lead, of those objects that have been moved.
    pointers: Mutex<HashMap<ObjectId, usize>>,
    heap: OnceLock<MovableHeap>,
    object: Mutex<Option<Movable<Loud>>>,
    drops: Arc<AtomicUsize>,
}

/// Says when it is dropped.
struct Loud(u64, Arc<AtomicUsize>);

impl Drop for Loud {
    fn drop(&mut self) {
        assert_eq!(self.0, 4711, "it is whole");
        self.1.fetch_add(1, Ordering::Relaxed);
    }
}

fn agree(_: &Script, _: Subject) -> Answer {
    Answer::Agreed
}

impl Script {
    fn new(isolate: Step, migrate: Step, put_back: Step) -> Arc<Self> {
        Arc::new(Self {
            isolate,
            migrate,
            put_back,
            log: Mutex::default(),
            pointers: Mutex::default(),
            heap: OnceLock::new(),
            object: Mutex::default(),
            drops: Arc::default(),
        })
    }

    fn note(&self, what: &'static str) {
        self.log.lock().unwrap().push(what);
    }

    fn log(&self) -> Vec<&'static str> {
        self.log.lock().unwrap().clone()
    }

    fn heap(&self) -> &MovableHeap {
        self.heap.get().unwrap()
    }

    fn drops(&self) -> usize {
        self.drops.load(Ordering::Relaxed)
    }
}

impl Owner for Script {
    fn isolate(&self, object: Subject) -> Answer {
        self.note("isolate");
        (self.isolate)(self, object)
    }

    fn migrate(&self, object: Subject, new: NonNull<u8>) -> Answer {
        self.note("migrate");
        let answer = (self.migrate)(self, object);
        if answer == Answer::Agreed {
            self.pointers.lock().unwrap().insert(object.id, new.as_ptr() as usize);
        }
        answer
    }

    fn put_back(&self, object: Subject) {
        self.note("put back");
        if let Some(&at) = self.pointers.lock().unwrap().get(&object.id) {
            assert_eq!(at, object.address.as_ptr() as usize);
        }
        (self.put_back)(self, object);
    }
}

/// A heap with one object of the script's in a block of its own, which the script has.
fn stage(script: &Arc<Script>) -> (MovableHeap, Cache, ObjectId) {
    let heap = heap(8);
    let cache = heap.cache(script.clone()).unwrap();
    let object = cache.insert(Loud(4711, script.drops.clone())).unwrap();
    let id = object.id();
    *script.object.lock().unwrap() = Some(object);
    assert!(script.heap.set(heap.clone()).is_ok());
    (heap, cache, id)
}

/// Moves the block of that object elsewhere.
fn carry(heap: &MovableHeap) -> Carried {
    let from = heap.snapshot().movable[0].range;
    let to = BlockId::new((from.start().get() + 1) % 8);
    heap.carry(from, to, &mut unlimited()).unwrap()
}

/// Drops what the script has.
fn drop_object(script: &Script) {
    let object = script.object.lock().unwrap().take();
    drop(object);
}

/// The heap holds on to its owners, and this owner to the heap.
fn end(heap: &MovableHeap, script: &Script, drops: usize) {
    drop_object(script);
    assert_eq!(script.drops(), drops, "dropped once");
    heap.validate();
    assert_eq!(heap.snapshot().movable.len(), 0);
}

#[test]
fn an_owner_is_asked_told_and_told_that_it_is_over() {
    let script = Script::new(agree, agree, agree);
    let (heap, _cache, id) = stage(&script);
    let carried = carry(&heap);
    assert_eq!((carried.objects, carried.obstacle), (1, None));
    assert_eq!(script.log(), ["isolate", "migrate", "put back"]);
    {
        let object = script.object.lock().unwrap();
        let pin = heap.pin(object.as_ref().unwrap()).unwrap();
        assert_eq!(pin.as_ptr().as_ptr() as usize, script.pointers.lock().unwrap()[&id]);
        assert_eq!(object.as_ref().unwrap().id(), id);
    }
    end(&heap, &script, 1);
}

#[test]
fn what_an_owner_refuses_or_panics_about_stays_where_it_was() {
    fn refuse(_: &Script, _: Subject) -> Answer {
        Answer::Refused
    }
    fn panic(_: &Script, _: Subject) -> Answer {
        panic!("as planned")
    }
    let all = ["isolate", "migrate", "put back"];
    for (isolate, migrate, calls) in [
        (refuse as Step, agree as Step, 1),
        (panic, agree, 1),
        (agree, refuse, 3),
        (agree, panic, 3),
    ] {
        let script = Script::new(isolate, migrate, agree);
        let (heap, _cache, _) = stage(&script);
        let before = movable_blocks(&heap);
        let carried = carry(&heap);
        assert_eq!((carried.objects, carried.obstacle), (0, Some(Obstacle::Refused)));
        assert_eq!(script.log(), all[..calls]);
        assert_eq!(movable_blocks(&heap), before);
        end(&heap, &script, 1);
    }
    let script = Script::new(agree, agree, panic);
    let (heap, _cache, _) = stage(&script);
    assert_eq!(carry(&heap).objects, 1, "what put back does changes nothing any more");
    end(&heap, &script, 1);
}

#[test]
fn an_object_that_was_isolated_and_then_pinned_is_put_back_where_it_was() {
    fn pin(script: &Script, _: Subject) -> Answer {
        let object = script.object.lock().unwrap();
        // Forgotten, so that it holds until the test is over.
        std::mem::forget(script.heap().pin(object.as_ref().unwrap()).unwrap());
        Answer::Agreed
    }
    let script = Script::new(pin, agree, agree);
    let (heap, _cache, _) = stage(&script);
    let before = movable_blocks(&heap);
    let carried = carry(&heap);
    assert_eq!((carried.objects, carried.obstacle), (0, Some(Obstacle::Pinned)));
    assert_eq!(script.log(), ["isolate", "put back"]);
    assert_eq!(movable_blocks(&heap), before);
    heap.validate();
    // A pin that was forgotten keeps the object for good: its handle goes, and it does not.
    drop_object(&script);
    assert_eq!(script.drops(), 0);
    heap.validate();
}

#[test]
fn an_object_freed_by_a_callback_ends_when_it_is_put_back() {
    fn free(script: &Script, _: Subject) -> Answer {
        drop_object(script);
        assert_eq!(script.drops(), 0, "not before it is put back");
        Answer::Agreed
    }
    fn whole(script: &Script, subject: Subject) -> Answer {
        assert_eq!(script.drops(), 0);
        // SAFETY: the object stands there until put back has returned.
        #[allow(unsafe_code)]
        let value = unsafe { subject.address.cast::<u64>().read() };
        let _ = value;
        Answer::Agreed
    }
    for (isolate, migrate, put_back) in
        [(free as Step, agree as Step, whole as Step), (agree, free, whole), (agree, agree, free)]
    {
        let script = Script::new(isolate, migrate, put_back);
        let (heap, _cache, _) = stage(&script);
        carry(&heap);
        assert_eq!(script.log().last(), Some(&"put back"));
        end(&heap, &script, 1);
    }
}

#[test]
fn callbacks_may_allocate_and_free_and_may_not_move() {
    fn busy(script: &Script, _: Subject) -> Answer {
        let heap = script.heap();
        let some: Vec<_> = (0..100).map(|n| insert(heap, n, 5000)).collect();
        some.iter().enumerate().for_each(|(n, bytes)| assert_content(heap, bytes, n));
        let block = heap.snapshot().movable[0].range.start();
        assert_eq!(heap.empty(block, &mut unlimited()), Err(MovableError::InCallback));
        let long_term = heap.pin_bytes_long_term(&some[0], unlimited());
        assert_eq!(long_term.unwrap_err(), MovableError::InCallback);
        script.note("done");
        Answer::Agreed
    }
    let script = Script::new(busy, busy, busy);
    let (heap, _cache, _) = stage(&script);
    assert_eq!(carry(&heap).objects, 1);
    let log = ["isolate", "done", "migrate", "done", "put back", "done"];
    assert_eq!(script.log(), log);
    end(&heap, &script, 1);
}

#[test]
fn a_callback_cannot_reach_through_its_handle_what_it_is_asked_to_migrate() {
    fn pin(script: &Script, _: Subject) -> Answer {
        let object = script.object.lock().unwrap();
        let refused = script.heap().pin(object.as_ref().unwrap());
        assert_eq!(refused.unwrap_err(), MovableError::InCallback);
        Answer::Agreed
    }
    fn look(script: &Script, _: Subject) -> Answer {
        let object = script.object.lock().unwrap().take().unwrap();
        let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            script.heap().session().get(&object).0
        }));
        assert!(seen.is_err(), "it would wait for itself");
        *script.object.lock().unwrap() = Some(object);
        Answer::Agreed
    }
    for migrate in [pin as Step, look] {
        let script = Script::new(agree, migrate, agree);
        let (heap, _cache, _) = stage(&script);
        let carried = carry(&heap);
        assert_eq!((carried.objects, carried.obstacle), (1, None));
        end(&heap, &script, 1);
    }
}

#[test]
fn objects_of_owners_are_moved_by_long_term_pins_too() {
    let script = Script::new(agree, agree, agree);
    let (heap, cache, _) = stage(&script);
    let long = cache.zeroed(3 * crate::units::BLOCK_BYTES).unwrap();
    let pin = heap.pin_bytes_long_term(&long, unlimited()).unwrap();
    assert_eq!(pin.as_ptr().as_ptr().addr(), script.pointers.lock().unwrap()[&long.id()]);
    drop(pin);
    let calls = script.log().len();
    drop(heap.pin_bytes_long_term(&long, unlimited()).unwrap());
    assert_eq!(script.log().len(), calls, "it stays there");
    drop(long);
    end(&heap, &script, 1);
}

#[test]
fn objects_that_others_free_while_they_are_moved_are_dropped_once() {
    let script = Script::new(agree, agree, agree);
    let (heap, cache, _) = stage(&script);
    let stop = AtomicBool::new(false);
    let (made, dropped) = (AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    std::thread::scope(|scope| {
        for owned in [false, true] {
            let (heap, cache, stop) = (&heap, &cache, &stop);
            let (made, dropped) = (&made, &dropped);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let loud = || Loud(4711, dropped.clone());
                    let some: Vec<_> = (0..64)
                        .filter_map(|_| {
                            let new =
                                if owned { cache.insert(loud()) } else { heap.insert(loud()) };
                            made.fetch_add(1, Ordering::Relaxed);
                            new.ok()
                        })
                        .collect();
                    drop(some);
                }
            });
        }
        for n in 0..400u32 {
            let extents = heap.snapshot().movable;
            let Some(extent) = extents.get(n as usize % extents.len().max(1)) else { continue };
            // It may have gone, or the target be taken, since the snapshot.
            let _ = heap.carry(extent.range, BlockId::new(n % 8), &mut unlimited());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(made.load(Ordering::Relaxed), dropped.load(Ordering::Relaxed));
    end(&heap, &script, 1);
}
