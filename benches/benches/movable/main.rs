//! Movable objects: what access, pins and moving cost.
//!
//! Dimensions:
//! - **access** (`access.rs`): hash tables and a linked list over handles in sessions and over raw pointers;
//! - **pins**: a pin and unpin of one object, and of random ones;
//! - **moving**: blocks emptied into others, by size of object, beside `memcpy` of as many bytes in pieces
//!   of 2 MiB, between memory that neither has in its caches;
//! - **bytes moved** to free a quarter of the blocks of an aged heap, beside the live bytes of the cheapest;
//! - **planning** for a table of 4 TiB, 2,097,152 blocks, without memory behind it;
//! - **latency** of two threads that change random objects of 1 GiB, with and without a thread that
//!   empties and moves blocks all the time.
//!
//! Peers run in turn in the same process, several rounds; ratios are of medians, and the fastest of each
//! stand beside. `--test` runs everything small, to see that it runs.

#![allow(unsafe_code)] // the peer follows raw pointers

mod access;

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bookend::movable::{
    BinShape, Budget, Holds, MovableBytes, MovableHeap, Occupied, Share, Snapshot,
};
use bookend::placement::Arena;
use bookend::pool::{Pool, Populate, Rung, Use};
use bookend::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};
use bookend_defrag::process::{Execution, Target, plan};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const ROUNDS: usize = 15;

fn heap(size: Bytes) -> MovableHeap {
    let pool = Pool::builder()
        .capacity(size)
        .rung(Rung::Gigantic, Use::Forbidden)
        .rung(Rung::Huge, Use::Forbidden)
        .populate(Populate::Now);
    let arena = Arena::new(pool.build().expect("memory for the pool")).expect("a table");
    MovableHeap::new(Arc::new(arena)).expect("tables")
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Prints ours beside a peer's.
fn beside(what: &str, unit: &str, ours: &mut [f64], peers: &mut [f64]) {
    let (our, peer) = (median(ours), median(peers));
    println!(
        "{what:<52} {our:9.2} {unit}, peer {peer:9.2}: {:.3} (fastest {:.3})",
        our / peer,
        ours[0] / peers[0]
    );
}

fn seconds(work: impl FnOnce() -> u64) -> f64 {
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

fn pins(scale: u64) {
    let heap = heap(Bytes::mib(64));
    let objects: Vec<_> = (0..10_000u64).map(|n| heap.insert([n; 8]).expect("room")).collect();
    let count = 5_000_000 / scale;
    for (name, step) in [("one object", 0), ("10,000 objects", 7919)] {
        let (mut times, mut sessions) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            times.push(
                1e9 / count as f64
                    * seconds(|| {
                        let pin = |n: u64| {
                            heap.pin(&objects[(n * step % 10_000) as usize]).expect("a pin")[0]
                        };
                        (0..count).map(pin).fold(0, u64::wrapping_add)
                    }),
            );
            sessions.push(
                1e9 / count as f64
                    * seconds(|| {
                        let get =
                            |n: u64| heap.session().get(&objects[(n * step % 10_000) as usize])[0];
                        (0..count).map(get).fold(0, u64::wrapping_add)
                    }),
            );
        }
        let (pin, session) = (median(&mut times), median(&mut sessions));
        println!(
            "pin, read, unpin, {name:<27} {pin:9.2} ns (fastest {:.2}); a session for one read {session:.2} ns",
            times[0]
        );
    }
}

fn moving(scale: u64) {
    let blocks = (256 / scale).max(4) as usize;
    for len in [64usize, 240, 1024, 4096, 65_536, BLOCK_BYTES] {
        let (mut ours, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let heap = heap(Bytes::new(((blocks * 3 + 8) * BLOCK_BYTES) as u64));
            let objects: Vec<_> =
                (0..blocks * BLOCK_BYTES / len).map(|_| heap.zeroed(len).expect("room")).collect();
            let extents = heap.snapshot().movable;
            let (mut bytes, mut budget) = (0, Budget::UNLIMITED);
            let took = seconds(|| {
                for (n, extent) in extents.iter().enumerate() {
                    let to = BlockId::new(
                        (heap.arena().pool().capacity().get() as usize - 1 - n) as u32,
                    );
                    let carried = heap.carry(extent.range, to, &mut budget).expect("free blocks");
                    bytes += carried.bytes.get();
                }
                bytes
            });
            ours.push(took * 1e9 / bytes as f64);
            let (from, mut to) = (vec![1u8; bytes as usize], vec![2u8; bytes as usize]);
            let took = seconds(|| {
                for (from, to) in from.chunks(BLOCK_BYTES).zip(to.chunks_mut(BLOCK_BYTES)) {
                    black_box(&mut *to).copy_from_slice(black_box(from));
                }
                0
            });
            peers.push(took * 1e9 / bytes as f64);
            drop(objects);
        }
        let (our, peer) = (median(&mut ours), median(&mut peers));
        println!(
            "moving objects of {len:>8} bytes: {:6.2} GB/s, memcpy {:6.2}: {:.2} of its speed (fastest {:.2})",
            1.0 / our,
            1.0 / peer,
            peer / our,
            peers[0] / ours[0]
        );
    }
}

/// Objects of sizes as programs have them, many of them short-lived.
fn aged(heap: &MovableHeap, mut bytes: u64, seed: u64) -> Vec<MovableBytes> {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut objects = Vec::new();
    while bytes > 0 {
        let len = 16usize << random.random_range(0..10);
        let len = len + random.random_range(0..len);
        objects.push(heap.zeroed(len).expect("room"));
        bytes = bytes.saturating_sub(len as u64);
    }
    // Neighbours die together: by runs.
    let mut keep = true;
    objects.retain(|_| {
        if random.random_ratio(1, 200) {
            keep = random.random_ratio(1, 3);
        }
        keep
    });
    objects
}

fn bytes_moved(scale: u64) {
    for seed in 0..3 {
        let heap = heap(Bytes::new(Bytes::gib(1).get() / scale));
        let objects = aged(&heap, Bytes::mib(800).get() / scale, seed);
        let before = heap.snapshot();
        let wanted = Blocks::new(before.movable.len() as u32 / 4);
        let planned = plan(&before, Target::FreeBlocks(wanted));
        let mut execution = Execution::begin(&heap, &planned);
        execution.run(&mut Budget::UNLIMITED.clone()).expect("no session");
        let outcome = execution.finish();
        let freed = heap.snapshot().free_blocks() - before.free_blocks();
        println!(
            "to free {} of {} blocks (freed {}): moved {}, least {}: {:.3}",
            wanted.get(),
            before.movable.len(),
            freed.get(),
            outcome.bytes,
            planned.least,
            outcome.bytes.get() as f64 / planned.least.get() as f64
        );
        drop(objects);
    }
}

fn planning(scale: u64) {
    let blocks = 2_097_152 / scale as u32;
    let mut random = SmallRng::seed_from_u64(9);
    let mut snapshot = Snapshot { capacity: Blocks::new(blocks), ..Snapshot::default() };
    let shape = |n: u64| BinShape { place: Bytes::new(64 << n), places: 512 >> n, slices: 1 };
    snapshot.bins = (0..8).map(shape).collect();
    for block in 0..blocks {
        let range = BlockRange::new(BlockId::new(block), Blocks::ONE);
        match random.random_range(0..20) {
            0 => snapshot.fixed.push(range),
            1..5 => {}
            _ => {
                let first = snapshot.shares.len() as u32;
                let mut live = 0;
                for _ in 0..random.random_range(1..3) {
                    let bin = random.random_range(0..8u32);
                    let slabs = random.random_range(1..30);
                    let taken = random.random_range(1..=slabs * (512u32 >> bin));
                    live += u64::from(taken) * (64 << bin);
                    snapshot.shares.push(Share { bin, taken, free: slabs * (512 >> bin) - taken });
                }
                let shares = (first, (snapshot.shares.len() as u32 - first) as u8);
                let live = Bytes::new(live);
                snapshot.movable.push(Occupied {
                    range,
                    live,
                    holds: Holds::Slabs,
                    free_slices: 4,
                    shares,
                });
            }
        }
    }
    for target in [
        Target::FreeBlocks(Blocks::new(blocks / 20)),
        Target::Release,
        Target::FreeRun(Blocks::new(16)),
        Target::FreeRun(Blocks::new(4096)),
    ] {
        let mut times: Vec<_> =
            (0..5).map(|_| seconds(|| plan(&snapshot, target).cost.get()) * 1e3).collect();
        println!(
            "planning {} blocks: {:6.1} ms: {}",
            blocks,
            median(&mut times),
            plan(&snapshot, target)
        );
    }
}

/// How long a change of a random object takes, for a while; sorted.
fn latencies(
    heap: &MovableHeap,
    mut objects: Vec<MovableBytes>,
    seed: u64,
    until: Instant,
) -> (Vec<u32>, Vec<MovableBytes>) {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut times = Vec::new();
    while Instant::now() < until {
        for _ in 0..64 {
            let at = random.random_range(0..objects.len());
            let start = Instant::now();
            if random.random_ratio(1, 8) {
                let len = objects[at].len();
                objects[at] = heap.zeroed(len).expect("room");
            } else {
                let session = heap.session();
                let bytes = session.bytes_mut(&mut objects[at]);
                bytes[0] = bytes[0].wrapping_add(1);
                bytes.fill(bytes[0]);
            }
            times.push(start.elapsed().as_nanos().min(u128::from(u32::MAX)) as u32);
        }
    }
    (times, objects)
}

fn latency(scale: u64) {
    let heap = heap(Bytes::new(Bytes::mib(1600).get() / scale));
    let mut shares: Vec<Vec<MovableBytes>> = vec![Vec::new(), Vec::new()];
    let mut random = SmallRng::seed_from_u64(4);
    let mut left = Bytes::gib(1).get() / scale;
    while left > 0 {
        let len = random.random_range(64..1024);
        shares[random.random_range(0..2)].push(heap.zeroed(len).expect("room"));
        left = left.saturating_sub(len as u64);
    }
    let span = Duration::from_millis(6000 / scale.min(20));
    for compacting in [false, true, false, true] {
        let (until, stop) = (Instant::now() + span, AtomicBool::new(false));
        let (mut all, mut moved, mut blocks) = (Vec::new(), 0u64, 0u64);
        std::thread::scope(|scope| {
            let (heap, stop) = (&heap, &stop);
            let mover = scope.spawn(move || {
                let (mut moved, mut blocks, mut random) = (0, 0, SmallRng::seed_from_u64(6));
                while compacting && !stop.load(Ordering::Relaxed) {
                    let extents = heap.snapshot().movable;
                    let extent = &extents[random.random_range(0..extents.len())];
                    let Some(to) = heap.snapshot_free(&mut random) else { continue };
                    if let Ok(carried) =
                        heap.carry(extent.range, to, &mut Budget::UNLIMITED.clone())
                    {
                        (moved, blocks) = (moved + carried.bytes.get(), blocks + 1);
                    }
                }
                (moved, blocks)
            });
            let workers: Vec<_> = shares
                .drain(..)
                .enumerate()
                .map(|(n, objects)| scope.spawn(move || latencies(heap, objects, n as u64, until)))
                .collect();
            for worker in workers {
                let (times, objects) = worker.join().expect("it ends");
                all.extend(times);
                shares.push(objects);
            }
            stop.store(true, Ordering::Relaxed);
            (moved, blocks) = mover.join().expect("it ends");
        });
        all.sort_unstable();
        let at = |share: f64| f64::from(all[((all.len() - 1) as f64 * share) as usize]) / 1e3;
        println!(
            "{} of {} changes: p50 {:.2} us, p99 {:.2} us, p99.99 {:.2} us, longest {:.0} us; moved {} in {blocks} blocks",
            if compacting { "compacting:" } else { "without:   " },
            all.len(),
            at(0.5),
            at(0.99),
            at(0.9999),
            at(1.0),
            Bytes::new(moved)
        );
    }
}

/// A free block to move to.
trait FreeBlock {
    fn snapshot_free(&self, random: &mut SmallRng) -> Option<BlockId>;
}

impl FreeBlock for MovableHeap {
    fn snapshot_free(&self, random: &mut SmallRng) -> Option<BlockId> {
        let snapshot = self.snapshot();
        let taken: std::collections::HashSet<_> =
            snapshot.movable.iter().map(|extent| extent.range.start().get()).collect();
        let free: Vec<_> =
            (0..snapshot.capacity.get()).filter(|block| !taken.contains(block)).collect();
        (!free.is_empty()).then(|| BlockId::new(free[random.random_range(0..free.len())]))
    }
}

fn main() {
    let small = std::env::args().any(|argument| argument == "--test");
    let scale = if small { 40 } else { 1 };
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    type Part = (&'static str, fn(u64));
    let parts: [Part; 6] = [
        ("access", access::access),
        ("pins", pins),
        ("moving", moving),
        ("bytes", bytes_moved),
        ("planning", planning),
        ("latency", latency),
    ];
    for (name, part) in parts {
        if only.as_ref().is_none_or(|only| only == name) {
            part(scale);
        }
    }
}
