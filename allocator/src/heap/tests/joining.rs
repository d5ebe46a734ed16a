//! Objects made of neighbours of a shorter class.

use std::sync::Mutex;

use super::*;

/// Frees all but one in so many, in no order.
fn thin_out<O: Os>(thread: &Thread<'_, O>, objects: Vec<Stamped>, keep: u64) -> Vec<Stamped> {
    let (mut kept, mut gone, mut state) = (Vec::new(), Vec::new(), 5);
    for object in objects {
        (if random(&mut state).is_multiple_of(keep) { &mut kept } else { &mut gone }).push(object);
    }
    gone.into_iter().for_each(|object| object.free(thread));
    kept
}

fn slabs<O: Os>(heap: &Heap<O>) -> u64 {
    heap.with(|central| central.stats().slabs).unwrap()
}

/// The same stamps, in an object that is joined if there is any way.
fn joined<O: Os>(thread: &Thread<'_, O>, size: usize, stamp: u64) -> Stamped {
    Stamped::at(thread.allocate_joined(size), size, stamp)
}

#[test]
fn longer_objects_fill_what_shorter_ones_left() {
    for (short, long) in
        [(240, 492), (64, 250), (160, 450), (512, 1_024), (1_024, 2_048), (3_000, 9_000)]
    {
        let heap = heap();
        attached(&heap, |thread| {
            let count = (40 << 20) / short as u64;
            let all: Vec<_> = (0..count).map(|n| Stamped::new(thread, short, n)).collect();
            let full = slabs(&heap);
            let kept = thin_out(thread, all, 8);
            // Half of what was freed; without being joined they would take as much again.
            let bytes = 40usize << 19;
            let new: Vec<_> =
                (0..bytes / long).map(|n| Stamped::new(thread, long, n as u64)).collect();
            assert!(heap.joins.load(std::sync::atomic::Ordering::Relaxed));
            let now = slabs(&heap);
            assert!(
                now <= full + full / 10,
                "{full} bytes of slabs became {now} ({short}, {long})"
            );
            validate(&heap);
            new.into_iter().chain(kept).for_each(|object| object.free(thread));
        });
        assert_empty(&heap);
    }
}

#[test]
fn all_of_a_joined_object_can_be_used() {
    let heap = heap();
    attached(&heap, |thread| {
        let all: Vec<_> = (0..10_000).map(|n| Stamped::new(thread, 224, n)).collect();
        let kept = thin_out(thread, all, 4);
        let mut usable = Vec::new();
        let new: Vec<_> = (0..500)
            .map(|n| {
                let new = joined(thread, 440, n);
                // SAFETY: it is in use.
                usable.push(unsafe { thread::usable(&heap, new.at) });
                new
            })
            .collect();
        assert!(usable.iter().all(|&usable| usable == 448), "{usable:?}");
        let of_kept = kept.iter().map(|object| {
            // SAFETY: as above.
            unsafe { thread::usable(&heap, object.at) }
        });
        assert!(of_kept.clone().all(|usable| usable == 224), "{:?}", of_kept.collect::<Vec<_>>());
        // Both of the two places, to the last byte: `kept` would find them changed.
        for object in &new {
            // SAFETY: as much as may be used; the stamps are written again.
            unsafe { object.at.write_bytes(0xa5, 448) };
        }
        kept.into_iter().for_each(|object| object.free(thread));
        for object in new {
            // SAFETY: ours, and given up.
            unsafe { thread.free(object.at) };
        }
    });
    assert_empty(&heap);
}

#[test]
fn nothing_is_joined_where_frees_are_checked_at_once() {
    let heap = heap_on(Linux, Config::DEFAULT.secure(true));
    attached(&heap, |thread| {
        let all: Vec<_> = (0..10_000).map(|n| Stamped::new(thread, 256, n)).collect();
        let kept = thin_out(thread, all, 8);
        let new: Vec<_> = (0..1_000).map(|n| joined(thread, 512, n)).collect();
        assert!(!heap.joins.load(std::sync::atomic::Ordering::Relaxed));
        kept.into_iter().chain(new).for_each(|object| object.free(thread));
    });
    assert_empty(&heap);
}

/// Sizes from 30 bytes to 8 KiB, longer ones later.
fn drifting(random: u64, step: u64, steps: u64) -> usize {
    let doublings = step as f64 / steps as f64 * 7.0 + (random >> 40) as f64 / (1u64 << 24) as f64;
    (30.0 * doublings.exp2()) as usize
}

/// Threads whose objects become longer and that free each other's: nobody finds one changed.
#[test]
fn joined_objects_stay_whole_whoever_frees_them() {
    let heap = heap();
    let shelf: Vec<Mutex<Option<Stamped>>> = (0..4_000).map(|_| Mutex::new(None)).collect();
    for round in 0..6 {
        by_four_threads(&heap, round, |thread, state| {
            for n in 0..8_000 {
                let place = random(state) as usize % shelf.len();
                let size = drifting(random(state), n, 8_000);
                let new = joined(thread, size, n);
                let mut held = shelf[place].lock().unwrap();
                if let Some(old) = &*held {
                    // SAFETY: it is in use.
                    let usable = unsafe { thread::usable(&heap, old.at) };
                    assert!(usable >= old.size, "{usable} of {}", old.size);
                }
                let old = held.replace(new);
                drop(held);
                if let Some(old) = old {
                    old.free(thread);
                }
                if n % 500 == 0 {
                    thread.look_at_all();
                }
            }
        });
    }
    assert!(heap.joins.load(std::sync::atomic::Ordering::Relaxed));
    attached(&heap, |thread| {
        let left = shelf.into_iter().filter_map(|place| place.into_inner().unwrap());
        left.for_each(|object| object.free(thread));
    });
    assert_empty(&heap);
}
