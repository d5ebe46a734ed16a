//! Many threads in sessions, with pins, making and dropping, while others compact.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;
use crate::units::BLOCK_BYTES;

/// A small generator, so that runs are alike.
pub(super) struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

/// Stops those who go on until they are told, also where an assertion of another thread has failed: the
/// test would hang instead of failing.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a worker owns: bytes that all have one value, changed in sessions and through pins.
fn work(heap: &MovableHeap, seed: u64, steps: usize, done: &AtomicU64) {
    let mut random = Random(seed);
    let mut live: Vec<(u8, MovableBytes)> = Vec::new();
    for step in 0..steps {
        if live.len() < 300 {
            let len = [16, 100, 1000, 40_000][random.below(4)];
            if let Ok(bytes) = heap.zeroed(len) {
                live.push((0, bytes));
            }
        }
        if live.is_empty() {
            continue;
        }
        let at = random.below(live.len());
        if random.below(5) == 0 {
            live.swap_remove(at);
            continue;
        }
        let new = step as u8;
        let (value, bytes) = &mut live[at];
        if random.below(4) == 0 {
            let pin = heap.pin_bytes(bytes).unwrap();
            assert!(pin.iter().all(|byte| byte == value), "step {step}");
        } else {
            let session = heap.session();
            let seen = session.bytes_mut(bytes);
            assert!(seen.iter().all(|byte| byte == value), "step {step}");
            seen.fill(new);
            *value = new;
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn objects_that_change_all_the_time_are_moved_without_losing_a_byte() {
    let heap = heap(64);
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut moved = 0;
    std::thread::scope(|scope| {
        let (heap, done, stop) = (&heap, &done, &stop);
        let workers: Vec<_> =
            (1..=3).map(|n| scope.spawn(move || work(heap, 0x9E37_79B9 * n, 6000, done))).collect();
        let movers: Vec<_> = (0..2)
            .map(|n| {
                scope.spawn(move || {
                    let (mut random, mut moved) = (Random(77 + n), 0);
                    while !stop.load(Ordering::Relaxed) {
                        moved += move_one(heap, &mut random);
                    }
                    moved
                })
            })
            .collect();
        let stopping = Stopping(stop);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        drop(stopping);
        moved = movers.into_iter().map(|mover| mover.join().unwrap()).sum();
    });
    assert!(moved > 0 && done.load(Ordering::Relaxed) > 0, "{moved} moved");
    heap.validate();
    assert_eq!(heap.snapshot().movable.len(), 0);
}

/// Empties a block, or moves it elsewhere; how many objects went.
fn move_one(heap: &MovableHeap, random: &mut Random) -> u64 {
    let extents = heap.snapshot().movable;
    if extents.is_empty() {
        return 0;
    }
    let extent = extents[random.below(extents.len())].range;
    let carried = if random.below(2) == 0 {
        heap.empty(extent.start(), &mut unlimited())
    } else {
        let to = BlockId::new(random.below(60) as u32);
        heap.carry(extent, to, &mut unlimited())
    };
    // It may have gone, or the target be taken, since the snapshot.
    carried.map_or(0, |carried| carried.objects)
}

#[test]
fn an_object_that_is_wanted_all_the_time_is_moved_by_insisting() {
    let heap = heap(8);
    let hot = heap.insert(AtomicU64::new(0)).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    heap.session().get(&hot).fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let _stopping = Stopping(&stop);
        let mut moved = 0;
        while moved < 20 {
            let from = heap.snapshot().movable[0].range;
            let to = BlockId::new((from.start().get() + 1) % 8);
            moved += heap.carry(from, to, &mut unlimited()).map_or(0, |carried| carried.objects);
            // What has refused is stuck until it is said to be asked again.
            let mut placement = heap.arena().placement();
            let stuck: Vec<_> = placement.iter_stuck().collect();
            stuck.into_iter().for_each(|stuck| assert!(placement.unstick(stuck).unwrap()));
        }
    });
    heap.validate();
}

#[test]
fn a_long_copy_is_given_up_for_who_wants_the_object() {
    let heap = heap(64);
    heap.arena().placement().set_gap(Blocks::ZERO);
    let mut long = heap.zeroed(20 * BLOCK_BYTES).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let mut random = Random(5);
            while !stop.load(Ordering::Relaxed) {
                move_one(&heap, &mut random);
            }
        });
        let stopping = Stopping(&stop);
        for n in 0..2000usize {
            let session = heap.session();
            let bytes = session.bytes_mut(&mut long);
            assert_eq!(bytes[n * 997 % bytes.len()..][0], 0);
            bytes[n * 997] = 1;
            bytes[n * 997] = 0;
        }
        drop(stopping);
        mover.join().unwrap();
    });
    assert!(heap.session().bytes(&long).iter().all(|&byte| byte == 0));
    heap.validate();
}
