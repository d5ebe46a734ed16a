//! Threads that come and go pass allocations around, for ThreadSanitizer: `./races [ROUNDS]`.
//!
//! Every byte of an allocation is written by whoever makes it and read by whoever frees it, by plain
//! accesses. So if what a thread frees could be handed to another without the one happening before
//! the other, the sanitizer sees two accesses without an order between them. The threads meet in
//! atomic words of this program alone: the standard library is not instrumented, and an order that
//! comes about inside of it would not be seen. They meet seldom, a batch at a time, because each
//! meeting is an order too, behind which one that the heap lacks could hide.

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use bookend::heap::raw;

const THREADS: u64 = 4;
const BATCHES: u64 = 60;
const BATCH: usize = 500;

/// Addresses of batches that anybody may take.
static SHELF: [AtomicUsize; 16] = [const { AtomicUsize::new(0) }; 16];

/// Allocations and their lengths.
type Batch = Vec<(*mut u8, usize)>;

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// Mostly small; now and then a run of slices, or a block.
fn size_of(random: u64) -> usize {
    match random >> 56 {
        0 => 40_000,
        1..=8 => 1 + random as usize % 20_000,
        _ => 1 + random as usize % 600,
    }
}

fn write_all(at: *mut u8, size: usize, stamp: u8) {
    for place in 0..size {
        // SAFETY: the caller's allocation is that long.
        unsafe { at.add(place).write(stamp ^ place as u8) };
    }
}

/// Reads all bytes of an allocation; its first one says what they are.
fn check(at: *const u8, size: usize) {
    // SAFETY: the caller's allocation is that long; so below.
    let stamp = unsafe { at.read() };
    for place in 0..size {
        // SAFETY: as above.
        assert_eq!(unsafe { at.add(place).read() }, stamp ^ place as u8, "byte {place} of {size}");
    }
}

/// Puts a batch onto the shelf, and takes the one that was there.
fn exchange(place: &AtomicUsize, batch: Option<Box<Batch>>) -> Option<Box<Batch>> {
    let word = batch.map_or(0, |batch| Box::into_raw(batch) as usize);
    let taken = place.swap(word, Ordering::AcqRel) as *mut Batch;
    // SAFETY: it was a box when it was put there, and only one can take it.
    (!taken.is_null()).then(|| unsafe { Box::from_raw(taken) })
}

fn give_back(batch: Option<Box<Batch>>) {
    for (at, size) in batch.into_iter().flat_map(|batch| *batch) {
        check(at, size);
        // SAFETY: the batch was taken off the shelf, so it is nobody else's.
        unsafe { raw::free(at) };
    }
}

fn allocate(state: &mut u64) -> (*mut u8, usize) {
    let (draw, size) = (random(state), size_of(random(state)));
    let zeroed = draw & 7 == 0;
    let at = if zeroed { raw::allocate_zeroed(size) } else { raw::allocate(size) };
    assert!(!at.is_null(), "{size} bytes");
    if zeroed {
        // SAFETY: ours, and as long.
        (0..size).for_each(|place| assert_eq!(unsafe { at.add(place).read() }, 0));
    }
    write_all(at, size, draw as u8);
    if draw & 0x70 != 0 {
        return (at, size);
    }
    let now = size_of(random(state));
    // SAFETY: as above, and the old address is used no more.
    let at = unsafe { raw::reallocate(at, now) };
    check(at, size.min(now));
    write_all(at, now, draw as u8);
    (at, now)
}

fn work(seed: u64) {
    let mut state = seed;
    for step in 0..BATCHES {
        let batch: Batch = (0..BATCH).map(|_| allocate(&mut state)).collect();
        let place = &SHELF[random(&mut state) as usize % SHELF.len()];
        give_back(exchange(place, Some(Box::new(batch))));
        if step % 20 == 0 {
            raw::trim();
        }
    }
}

fn main() -> ExitCode {
    let rounds = match std::env::args().nth(1).map(|text| text.parse::<u64>()) {
        None => 20,
        Some(Ok(rounds)) => rounds,
        Some(Err(why)) => {
            eprintln!("races: rounds: {why}");
            return ExitCode::FAILURE;
        }
    };
    for round in 0..rounds {
        let threads: Vec<_> = (1..=THREADS)
            .map(|n| thread::spawn(move || work((round * THREADS + n).wrapping_mul(0x9e37_79b9))))
            .collect();
        for thread in threads {
            thread.join().expect("a thread checks what it reads");
        }
    }
    SHELF.iter().for_each(|place| give_back(exchange(place, None)));
    if let Err(why) = raw::validate() {
        eprintln!("races: {why}");
        return ExitCode::FAILURE;
    }
    println!("{rounds} rounds of {THREADS} threads, {BATCHES} batches of {BATCH} each");
    ExitCode::SUCCESS
}
