//! What lies free in blocks that are in use goes back, and nothing else.

use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::os::fake::{Call, Fails, FakeOs};
use crate::units::{Blocks, Bytes, PageSize};

const PAGE: usize = 4096;

/// Heaps whose blocks are huge pages from the first, and never; everything that is free goes at the second
/// look.
fn configs() -> [Config; 2] {
    let config = Config::DEFAULT.return_delay_ms(0);
    [Blocks::ZERO, Blocks::new(u32::MAX)].map(|base_blocks| Config { base_blocks, ..config })
}

/// Has a thread look at every block, so often.
fn look<O: Os>(thread: &Thread<'_, O>, times: u32) {
    (0..times).for_each(|_| thread.look_at_all());
}

/// Objects of 1,000 bytes, in slabs of a slice.
fn objects<O: Os>(thread: &Thread<'_, O>, count: u64) -> Vec<Stamped> {
    (0..count).map(|stamp| Stamped::new(thread, 1_000, stamp)).collect()
}

/// Frees all but one in so many.
fn thin_out<O: Os>(thread: &Thread<'_, O>, objects: Vec<Stamped>, keep: usize) -> Vec<Stamped> {
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for (index, object) in objects.into_iter().enumerate() {
        (if index % keep == 0 { &mut kept } else { &mut gone }).push(object);
    }
    gone.into_iter().for_each(|object| object.free(thread));
    kept
}

/// How many pages of the blocks that objects stand in have memory.
fn present(objects: &[Stamped]) -> usize {
    let mut blocks: Vec<_> = objects.iter().map(|object| object.at as usize >> 21).collect();
    blocks.sort_unstable();
    blocks.dedup();
    let page = PageSize::from_bytes(Bytes::of_len(PAGE)).unwrap();
    let pages = blocks.into_iter().map(|block| {
        let mut nodes = [None; 512];
        let at = std::ptr::NonNull::new((block << 21) as *mut u8).unwrap();
        Linux.nodes(at, page, &mut nodes).expect("this kernel says where pages are");
        nodes.iter().flatten().count()
    });
    pages.sum()
}

#[test]
fn pages_and_slices_go_back_and_what_is_in_use_stays() {
    for config in configs() {
        let heap = heap_on(Linux, config);
        attached(&heap, |thread| {
            let all = objects(thread, 30_000);
            let before = present(&all);
            let kept = thin_out(thread, all, 100);
            look(thread, 2);
            let after = present(&kept);
            assert!(after < before / 4, "{after} of {before} pages are left");
            let stats = heap.with(|central| central.stats()).unwrap();
            assert!(stats.returned_parts as usize >= (before - after) * PAGE, "{stats:?}");
            assert_eq!(stats.split_blocks > 0, config.base_blocks == Blocks::ZERO, "{stats:?}");
            validate(&heap);
            // The same memory again, with other stamps.
            let again = objects(thread, 30_000);
            validate(&heap);
            kept.into_iter().chain(again).for_each(|object| object.free(thread));
        });
        assert_empty(&heap);
        let stats = heap.with(|central| central.stats()).unwrap();
        assert_eq!(stats.split_blocks, 0, "blocks that are no more");
    }
}

#[test]
fn a_block_that_is_full_again_is_wanted_as_a_huge_page_again() {
    let [config, _] = configs();
    let heap = heap_on(Linux, config);
    attached(&heap, |thread| {
        let kept = thin_out(thread, objects(thread, 30_000), 100);
        look(thread, 2);
        let split = || heap.with(|central| central.stats().split_blocks).unwrap();
        assert!(split() > 5, "{}", split());
        let again = objects(thread, 30_000);
        look(thread, 1);
        assert!(split() <= 2, "{} blocks are split still", split());
        kept.into_iter().chain(again).for_each(|object| object.free(thread));
    });
    assert_empty(&heap);
}

#[test]
fn huge_pages_of_which_little_is_free_stay_whole() {
    let [config, _] = configs();
    let heap = heap_on(Linux, config);
    attached(&heap, |thread| {
        // Of six objects one goes, and of 8,000 those of two slabs in a row.
        let mut objects: Vec<_> = objects(thread, 30_000).into_iter().map(Some).collect();
        for (index, object) in objects.iter_mut().enumerate() {
            if index % 6 == 0 || index % 8_000 < 64 {
                object.take().unwrap().free(thread);
            }
        }
        look(thread, 3);
        let stats = heap.with(|central| central.stats()).unwrap();
        assert_eq!((stats.split_blocks, stats.returned_parts), (0, 0));
        objects.into_iter().flatten().for_each(|object| object.free(thread));
    });
    assert_empty(&heap);
}

#[test]
fn what_a_thread_left_behind_goes_back_too() {
    for config in configs() {
        let heap = heap_on(Linux, config);
        let all = attached(&heap, |thread| objects(thread, 30_000));
        let before = present(&all);
        attached(&heap, |first| {
            // The second heap is this one's, and the objects are the first's.
            attached(&heap, |second| {
                let kept = thin_out(second, all, 100);
                look(second, 2);
                let half = present(&kept);
                // Whoever has them has not looked.
                assert!(half > before / 2, "{half} of {before} pages are left");
                look(first, 2);
                let after = present(&kept);
                assert!(after < before / 4, "{after} of {before} pages are left");
                kept.into_iter().for_each(|object| object.free(second));
            });
        });
        assert_empty(&heap);
    }
}

#[test]
fn a_trim_gives_back_at_once() {
    for config in configs() {
        let heap = heap_on(Linux, config.return_delay_ms(1_000_000));
        attached(&heap, |thread| {
            let all = objects(thread, 30_000);
            let before = present(&all);
            let kept = thin_out(thread, all, 100);
            assert!(thread.trim());
            let after = present(&kept);
            assert!(after < before / 4, "{after} of {before} pages are left");
            kept.into_iter().for_each(|object| object.free(thread));
        });
        assert_empty(&heap);
    }
}

#[test]
fn what_the_system_does_not_take_stays_and_is_not_offered_again() {
    let os = FakeOs::new();
    let heap = heap_on(os.clone(), configs()[1]);
    attached(&heap, |thread| {
        let kept = thin_out(thread, objects(thread, 30_000), 100);
        os.fail(Call::DontNeed, 1, crate::os::Errno::INVAL, Fails::FromThenOn);
        look(thread, 2);
        os.heal();
        look(thread, 2);
        let stats = heap.with(|central| central.stats()).unwrap();
        assert_eq!((stats.split_blocks, stats.returned_parts), (0, 0));
        validate(&heap);
        let again = objects(thread, 30_000);
        kept.into_iter().chain(again).for_each(|object| object.free(thread));
    });
    assert_empty(&heap);
}

/// Threads that allocate, free each other's objects, look for what may go, and end: nobody ever finds
/// an object changed.
#[test]
fn objects_stay_whole_while_everything_around_them_goes() {
    for config in configs() {
        let heap = heap_on(Linux, config);
        let shelf: Vec<Mutex<Option<Stamped>>> = (0..2_000).map(|_| Mutex::new(None)).collect();
        for round in 0..10 {
            by_four_threads(&heap, round, |thread, state| {
                for n in 0..6_000 {
                    let draw = random(state) as usize;
                    let place = draw % shelf.len();
                    // Now full, now almost empty.
                    let wants = n / 1_000 % 2 == 0 || draw >> 32 & 7 == 0;
                    let size = size_of(random(state)) % 30_000;
                    let new = wants.then(|| Stamped::new(thread, size, n));
                    let old = std::mem::replace(&mut *shelf[place].lock().unwrap(), new);
                    if let Some(old) = old {
                        old.free(thread);
                    }
                    if n % 200 == 0 {
                        look(thread, 1);
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(1));
        }
        let stats = heap.with(|central| central.stats()).unwrap();
        assert!(stats.returned_parts > 0, "{stats:?}");
        attached(&heap, |thread| {
            let left = shelf.into_iter().filter_map(|place| place.into_inner().unwrap());
            left.for_each(|object| object.free(thread));
        });
        assert_empty(&heap);
    }
}
