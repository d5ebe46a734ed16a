//! Threads in sessions, with pins, and that make and drop, while others move everything, for
//! ThreadSanitizer: `./races movable_races [ROUNDS]`.
//!
//! Every byte of an object is written and read by plain accesses: by its owner in sessions and through
//! pins, and, where it is moved, by the mover. So if a mover could copy what a session has the address
//! of, or a place be used again before everybody has left it, the sanitizer sees two accesses without
//! an order between them. Some objects are shared, and only read.
//!
//! `--plant` writes to objects through addresses that a session has given out after the session has
//! ended: the sanitizer has to find that, or it finds nothing.
//!
//! The heap's lock orders those who make and free, so most steps only look. Fences are not known to the
//! sanitizer: an order that the protocol got from a fence alone would be reported.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bookend::movable::{Budget, MovableBytes, MovableHeap, MovableVec};
use bookend::placement::Arena;
use bookend::pool::{Pool, Populate, Rung, Use};
use bookend::units::{BlockId, Bytes};

const WORKERS: u64 = 3;
const MOVERS: u64 = 2;
const STEPS: u64 = 1500;
const LIVE: usize = 200;

/// Workers that are not done. A word of this program, since the standard library is not instrumented.
static BUSY: AtomicU64 = AtomicU64::new(0);

fn random(state: &mut u64) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 20) as usize
}

fn heap() -> Option<MovableHeap> {
    let pool = Pool::builder()
        .capacity(Bytes::mib(64))
        .rung(Rung::Gigantic, Use::Forbidden)
        .rung(Rung::Huge, Use::Forbidden)
        .populate(Populate::OnDemand);
    MovableHeap::new(Arc::new(Arena::new(pool.build().ok()?).ok()?)).ok()
}

fn make(heap: &MovableHeap, draw: usize) -> MovableBytes {
    let len = [16, 100, 1000, 9000, 40_000, 2 << 20][(draw & 31).saturating_sub(26)];
    heap.zeroed(len).expect("room for few objects")
}

/// Changes an object that holds `value` all over, or looks at it through a pin.
fn touch(heap: &MovableHeap, value: &mut u8, object: &mut MovableBytes, draw: usize) {
    let part = ..object.len().min(256);
    if draw & 3 == 0 {
        let pin = heap.pin_bytes(object).expect("few pins");
        assert!(pin[part].iter().all(|byte| byte == value));
        return;
    }
    let session = heap.session();
    let bytes = session.bytes_mut(object);
    assert!(bytes[part].iter().all(|byte| byte == value));
    *value = value.wrapping_add(1);
    bytes[part].fill(*value);
}

fn work(heap: &MovableHeap, shared: &[MovableBytes], mut state: u64) {
    let mut live: Vec<(u8, MovableBytes)> = Vec::new();
    let mut numbers = MovableVec::new(heap);
    for step in 0..STEPS {
        let draw = random(&mut state);
        if live.len() < LIVE && draw & 7 == 0 {
            live.push((0, make(heap, draw >> 8)));
        }
        let session = heap.session();
        let bytes = session.bytes(&shared[draw % shared.len()]);
        assert!(bytes.iter().all(|&byte| usize::from(byte) == draw % shared.len()));
        drop(session);
        numbers.push(step).expect("room");
        if !live.is_empty() {
            let at = random(&mut state) % live.len();
            let (value, object) = &mut live[at];
            touch(heap, value, object, draw >> 3);
            if draw >> 9 & 15 == 0 {
                live.swap_remove(at);
            }
        }
    }
    assert!(numbers.as_slice(&heap.session()).iter().copied().eq(0..STEPS));
}

/// One of those that are not done; the movers must end also where it fails.
struct Busy;

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Empties blocks and moves extents until all workers are done; how many objects went.
fn move_all(heap: &MovableHeap, mut state: u64) -> u64 {
    let mut moved = 0;
    while BUSY.load(Ordering::Acquire) > 0 {
        let extents = heap.snapshot().movable;
        let Some(extent) = extents.get(random(&mut state) % extents.len().max(1)) else { continue };
        let mut budget = Budget::UNLIMITED;
        let carried = if random(&mut state) & 1 == 0 {
            heap.empty(extent.range.start(), &mut budget)
        } else {
            heap.carry(extent.range, BlockId::new(random(&mut state) as u32 % 32), &mut budget)
        };
        // It may have gone, or the target be taken, since the snapshot.
        moved += carried.map_or(0, |carried| carried.objects);
    }
    moved
}

fn round(heap: &MovableHeap, seed: u64) -> u64 {
    let shared: Vec<_> =
        (0..50u8).map(|n| heap.insert_bytes(&vec![n; 300]).expect("room")).collect();
    BUSY.store(WORKERS, Ordering::Release);
    thread::scope(|scope| {
        let shared = &shared;
        let workers = (1..=WORKERS).map(|n| {
            scope.spawn(move || {
                let _busy = Busy;
                work(heap, shared, (seed + n).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            })
        });
        let workers: Vec<_> = workers.collect();
        let movers = (1..=MOVERS).map(|n| {
            scope.spawn(move || move_all(heap, (seed + n).wrapping_mul(0xd134_2543_de82_ef95)))
        });
        let movers: Vec<_> = movers.collect();
        // Each is joined: the end of the scope orders them by a fence in the standard library, which
        // is not instrumented.
        workers.into_iter().for_each(|worker| worker.join().expect("a worker ends"));
        movers.into_iter().map(|mover| mover.join().expect("a mover ends")).sum()
    })
}

/// Uses an address after the session that gave it out, while others move.
fn plant(heap: &MovableHeap) -> u64 {
    let objects: Vec<_> = (0..2000).map(|_| heap.zeroed(1000).expect("room")).collect();
    BUSY.store(1, Ordering::Release);
    thread::scope(|scope| {
        let mover = scope.spawn(|| move_all(heap, 0x9e37_79b9));
        let mut written = 0;
        for _ in 0..200 {
            let session = heap.session();
            let places: Vec<_> =
                objects.iter().map(|object| session.bytes(object).as_ptr().cast_mut()).collect();
            drop(session);
            for at in places {
                // SAFETY: none, which is the point: the object may be gone. The pool's memory is mapped,
                // and holds zeros everywhere.
                unsafe { at.write(0) };
                written += 1;
            }
        }
        BUSY.store(0, Ordering::Release);
        mover.join().expect("a mover ends") + written
    })
}

fn main() -> ExitCode {
    let Some(heap) = heap() else {
        eprintln!("movable_races: no memory for a pool");
        return ExitCode::FAILURE;
    };
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("--plant") {
        println!("planted: {}", plant(&heap));
        return ExitCode::SUCCESS;
    }
    let rounds = match argument.map(|text| text.parse::<u64>()) {
        None => 3,
        Some(Ok(rounds)) => rounds,
        Some(Err(why)) => {
            eprintln!("movable_races: rounds: {why}");
            return ExitCode::FAILURE;
        }
    };
    let moved: u64 = (0..rounds).map(|n| round(&heap, n * 100)).sum();
    heap.validate();
    println!("{rounds} rounds of {WORKERS} workers and {MOVERS} movers: {moved} objects moved");
    if moved > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
