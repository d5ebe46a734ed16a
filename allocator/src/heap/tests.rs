//! Tests of the heap as a whole: a heap of its own for each, on the machine or a simulated one.
#![allow(unsafe_code)] // uses memory by hand

use std::sync::mpsc;

use proptest::prelude::*;

mod joining;
mod parts;

use super::classes::{CLASSES, Class, SLAB_OBJECT_MAX, SLICE_RUN_MAX};
use super::config::Config;
use super::core::Heap;
use super::tables::Owner;
use super::thread::{self, Thread};
use crate::os::{Linux, Os};

/// A heap on the machine.
fn heap() -> Heap<Linux> {
    heap_on(Linux, Config::default())
}

fn heap_on<O: Os>(os: O, config: Config) -> Heap<O> {
    let heap = Heap::new();
    assert!(heap.start(os, || config));
    heap
}

/// Runs something with a thread's heap, which is retired afterwards.
fn attached<O: Os, R>(heap: &Heap<O>, run: impl FnOnce(&Thread<'_, O>) -> R) -> R {
    let local = heap.attach().expect("there is memory for a thread's heap");
    // SAFETY: attached to this thread.
    let thread = unsafe { Thread::new(heap, heap.shared().unwrap(), local) };
    let result = run(&thread);
    // SAFETY: as above, and not used any more.
    unsafe { heap.retire(local) };
    result
}

/// Runs something in four threads at a time, each with a heap and a random state of its own.
fn by_four_threads<O: Os>(
    heap: &Heap<O>,
    round: u64,
    run: impl Fn(&Thread<'_, O>, &mut u64) + Sync,
) {
    std::thread::scope(|scope| {
        for seed in 1..=4 {
            let run = &run;
            scope.spawn(move || attached(heap, |thread| run(thread, &mut (seed + 10 * round))));
        }
    });
    validate(heap);
}

/// An allocation with a stamp at both ends that tells if anybody else has written there.
struct Stamped {
    at: *mut u8,
    size: usize,
    stamp: u64,
}

// SAFETY: it owns what it points to.
unsafe impl Send for Stamped {}

impl Stamped {
    fn new<O: Os>(thread: &Thread<'_, O>, size: usize, stamp: u64) -> Self {
        Self::at(thread.allocate(size), size, stamp)
    }

    fn at(at: *mut u8, size: usize, stamp: u64) -> Self {
        assert!(!at.is_null(), "{size} bytes");
        assert_eq!(at as usize % 16, 0);
        let stamped = Self { at, size, stamp };
        for place in stamped.places() {
            // SAFETY: inside the allocation.
            unsafe { at.add(place).write(stamped.byte(place)) };
        }
        stamped
    }

    fn places(&self) -> impl Iterator<Item = usize> + use<> {
        let size = self.size;
        (0..size.min(16)).chain(size.saturating_sub(16)..size)
    }

    fn byte(&self, place: usize) -> u8 {
        (self.stamp as usize).wrapping_mul(31).wrapping_add(place) as u8
    }

    fn free<O: Os>(self, thread: &Thread<'_, O>) {
        for place in self.places() {
            // SAFETY: as above.
            let found = unsafe { self.at.add(place).read() };
            assert_eq!(found, self.byte(place), "{} bytes at {:p}+{place}", self.size, self.at);
        }
        // SAFETY: ours, and given up.
        unsafe { thread.free(self.at) };
    }
}

/// Sizes of all kinds, mostly small.
fn size_of(random: u64) -> usize {
    let shift = (random >> 32) % 24;
    let size = (random as u32 as usize) & ((1 << shift) - 1);
    if shift > 20 && random >> 60 != 0 { size >> 8 } else { size }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

fn validate<O: Os>(heap: &Heap<O>) {
    heap.with(|central| central.validate()).unwrap().unwrap();
}

/// Nothing is in use any more.
fn assert_empty<O: Os>(heap: &Heap<O>) {
    validate(heap);
    heap.trim(Owner::NOBODY);
    validate(heap);
    let stats = heap.with(|central| central.stats()).unwrap();
    assert_eq!((stats.slabs, stats.runs, stats.huge, stats.threads), (0, 0, 0, 0), "{stats:?}");
}

#[test]
fn every_size_is_given_and_taken_back() {
    let heap = heap();
    attached(&heap, |thread| {
        let mut live = Vec::new();
        for class in (0..CLASSES as u8).map(Class) {
            for size in [class.size() - 1, class.size()] {
                live.extend((0..3).map(|n| Stamped::new(thread, size, n)));
            }
        }
        for size in [SLAB_OBJECT_MAX + 1, SLICE_RUN_MAX, SLICE_RUN_MAX + 1, 5 << 20, 64 << 20] {
            live.extend((0..2).map(|n| Stamped::new(thread, size, n)));
        }
        validate(&heap);
        live.into_iter().for_each(|stamped| stamped.free(thread));
    });
    assert_empty(&heap);
}

#[test]
fn allocations_of_random_sizes_never_overlap() {
    let heap = heap();
    attached(&heap, |thread| {
        let mut state = 7;
        let mut live: Vec<Stamped> = Vec::new();
        for step in 0..200_000 {
            let draw = random(&mut state);
            if live.len() > 2_000 || (draw & 1 == 0 && !live.is_empty()) {
                let index = random(&mut state) as usize % live.len();
                live.swap_remove(index).free(thread);
            } else {
                live.push(Stamped::new(thread, size_of(random(&mut state)), step));
            }
            if step % 20_000 == 0 {
                validate(&heap);
            }
        }
        live.into_iter().for_each(|stamped| stamped.free(thread));
    });
    assert_empty(&heap);
}

#[test]
fn what_one_thread_allocates_another_may_free() {
    let heap = heap();
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel::<Stamped>(1_000);
        let heap = &heap;
        scope.spawn(move || {
            attached(heap, |thread| {
                let mut state = 3;
                for n in 0..200_000 {
                    let size = size_of(random(&mut state)) % 5_000;
                    sender.send(Stamped::new(thread, size, n)).unwrap();
                }
            });
        });
        scope.spawn(move || {
            attached(heap, |thread| receiver.iter().for_each(|stamped| stamped.free(thread)));
        });
    });
    assert_empty(&heap);
}

#[test]
fn threads_pass_objects_around_and_come_and_go() {
    let heap = heap();
    let shelf: Vec<std::sync::Mutex<Option<Stamped>>> = (0..500).map(|_| None.into()).collect();
    for round in 0..20 {
        by_four_threads(&heap, round, |thread, state| {
            for n in 0..5_000 {
                let place = random(state) as usize % shelf.len();
                let size = size_of(random(state)) % 20_000;
                let new = Stamped::new(thread, size, n);
                let old = shelf[place].lock().unwrap().replace(new);
                if let Some(old) = old {
                    old.free(thread);
                }
            }
        });
    }
    let owners = heap.with(|central| central.owners()).unwrap();
    assert!(owners <= 8, "heaps of threads that left are used again: {owners}");
    attached(&heap, |thread| {
        shelf
            .into_iter()
            .flat_map(|place| place.into_inner().unwrap())
            .for_each(|s| s.free(thread));
    });
    // Slabs of retired heaps became empty by frees from elsewhere.
    assert_empty(&heap);
}

#[test]
fn a_small_heap_stays_on_base_pages_and_a_large_one_does_not() {
    let heap = heap();
    attached(&heap, |thread| {
        let small: Vec<_> = (0..1_000).map(|n| Stamped::new(thread, 1_000, n)).collect();
        let rungs = |heap: &Heap<Linux>| {
            heap.with(|central| {
                let pool = central.supply.pool();
                let extents =
                    central.supply.placement().iter_extents(crate::units::BlockId::new(0));
                extents
                    .flat_map(|e| e.range.iter())
                    .filter_map(|b| pool.rung(b))
                    .collect::<Vec<_>>()
            })
            .unwrap()
        };
        assert!(rungs(&heap).iter().all(|&rung| rung == crate::pool::Rung::Base));
        let large = Stamped::new(thread, 256 << 20, 1);
        let huge = rungs(&heap);
        let transparent = huge.iter().filter(|&&r| r == crate::pool::Rung::Transparent).count();
        assert_eq!(transparent, 128);
        large.free(thread);
        small.into_iter().for_each(|stamped| stamped.free(thread));
    });
}

#[test]
fn freed_memory_goes_back_when_it_is_trimmed() {
    let heap = heap();
    attached(&heap, |thread| {
        let large: Vec<_> = (0..4).map(|n| Stamped::new(thread, 32 << 20, n)).collect();
        large.into_iter().for_each(|stamped| stamped.free(thread));
        let committed = |heap: &Heap<Linux>| heap.with(|c| c.stats().committed).unwrap();
        assert!(committed(&heap) >= 128 << 20, "it stays for a while");
        assert!(heap.trim(Owner::NOBODY));
        assert!(committed(&heap) <= 4 << 20, "{}", committed(&heap));
    });
}

#[test]
fn long_allocations_grow_in_place_or_by_moving_their_pages() {
    let heap = heap();
    attached(&heap, |thread| {
        for (from, to) in [(300 << 10, 700 << 10), (4 << 20, 40 << 20), (40 << 20, 6 << 20)] {
            let at = thread.allocate(from);
            // SAFETY: ours; the content is looked at within both lengths.
            unsafe {
                for place in (0..from).step_by(1000) {
                    at.add(place).write(place as u8);
                }
                // What a huge extent would grow into is taken, so that its pages must move.
                let blocker = (from > SLICE_RUN_MAX).then(|| thread.allocate(from));
                let new = thread::resize_long(&heap, at, to);
                assert!(!new.is_null(), "{from} to {to}");
                assert!(thread::usable(&heap, new) >= to);
                for place in (0..from.min(to)).step_by(1000) {
                    assert_eq!(new.add(place).read(), place as u8);
                }
                new.add(to - 1).write(1);
                thread.free(new);
                thread.free(blocker.unwrap_or(std::ptr::null_mut()));
            }
            validate(&heap);
        }
    });
    assert_empty(&heap);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn aligned_allocations_are_aligned(
        requests in prop::collection::vec((0usize..3 << 20, 4u32..25), 1..20),
    ) {
        let heap = heap();
        let mut live = Vec::new();
        for (size, shift) in requests {
            let (at, _) = thread::allocate_long(&heap, size, 1 << shift);
            prop_assert!(!at.is_null());
            prop_assert_eq!(at as usize % (1 << shift), 0);
            live.push(at);
            validate(&heap);
        }
        for at in live {
            // SAFETY: allocated above, and not used any more.
            unsafe { thread::free_elsewhere(&heap, at) };
            validate(&heap);
        }
        assert_empty(&heap);
    }
}

#[test]
fn threads_of_the_process_that_come_and_go_use_the_same_objects() {
    let work = || {
        let live: Vec<_> = (0..100).map(|n| super::raw::allocate(16 + 8 * n)).collect();
        // SAFETY: allocated above, and not used any more.
        live.into_iter().for_each(|at| unsafe { super::raw::free(at) });
    };
    let slabs = |threads: usize| {
        (0..threads).for_each(|_| std::thread::spawn(work).join().unwrap());
        super::raw::stats().slabs
    };
    let (before, after) = (slabs(100), slabs(2_000));
    assert!(after <= before + (1 << 20), "{before} bytes of slabs became {after}");
}

#[test]
fn threads_that_come_and_go_leave_nothing_behind() {
    let heap = heap();
    // Both have their objects at the same time, so that each round takes the same.
    let both = std::sync::Barrier::new(2);
    let work = |thread: &Thread<'_, Linux>| {
        let live: Vec<_> = (0..100).map(|n| Stamped::new(thread, 16 + 8 * n, 1)).collect();
        both.wait();
        live.into_iter().for_each(|stamped| stamped.free(thread));
    };
    let mut slabs = Vec::new();
    for round in 0..600 {
        std::thread::scope(|scope| {
            (0..2).for_each(|_| drop(scope.spawn(|| attached(&heap, work))));
        });
        if round % 200 == 199 {
            validate(&heap);
            slabs.push(heap.with(|central| central.stats().slabs).unwrap());
        }
    }
    assert_eq!(slabs[1], slabs[2], "{slabs:?}");
    assert_empty(&heap);
}

#[test]
fn what_is_aligned_to_more_than_a_block_stays_so_when_it_grows() {
    use super::raw;
    let align = 8 << 20;
    let mut at = raw::allocate_aligned(3 << 20, align);
    // What it would grow into is taken.
    let mut blockers = Vec::new();
    for size in [5 << 20, 9 << 20, 40 << 20, 2 << 20] {
        blockers.push(raw::allocate(2 << 20));
        // SAFETY: ours; looked at within both lengths.
        unsafe {
            at.write(size as u8 ^ 0x5a);
            at = raw::reallocate_aligned(at, size, align);
            assert_eq!((at as usize % align, at.read()), (0, size as u8 ^ 0x5a), "{size}");
            at.add(size - 1).write(1);
        }
    }
    // SAFETY: as above, and not used any more.
    unsafe {
        raw::free(at);
        blockers.into_iter().for_each(|blocker| raw::free(blocker));
    }
    raw::validate().unwrap();
}

#[test]
fn with_checks_on_a_guard_follows_what_is_long() {
    let heap = Heap::new();
    assert!(heap.start(Linux, || Config::DEFAULT.secure(true).return_delay_ms(0)));
    attached(&heap, |thread| {
        // What is freed is taken again, so that guards fall on blocks that had memory.
        for round in 0..3 {
            let live: Vec<_> = (1..6).map(|n| Stamped::new(thread, n * (2 << 20), round)).collect();
            validate(&heap);
            for stamped in &live {
                let end = stamped.at.wrapping_add(stamped.size);
                assert_eq!(mapped(end.wrapping_sub(4096)), Some(true));
                assert_eq!(mapped(end), Some(false), "{end:p} cannot be touched");
            }
            let aligned = thread::allocate_long(&heap, 3 << 20, 8 << 20).0;
            assert_eq!(aligned as usize % (8 << 20), 0);
            assert_eq!(mapped(aligned.wrapping_add(4 << 20)), Some(false));
            // SAFETY: ours.
            unsafe { thread.free(aligned) };
            live.into_iter().for_each(|stamped| stamped.free(thread));
        }
    });
    assert_empty(&heap);
}

/// Whether an address may be written, by /proc/self/maps; `None` where nothing is mapped.
fn mapped(at: *mut u8) -> Option<bool> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap());
        (start..end).contains(&(at as usize)).then(|| rest.starts_with("rw"))
    })
}
