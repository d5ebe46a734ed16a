//! Pools on a machine that has not enough huge pages: an error or a step down, and never a signal.
#![allow(unsafe_code)] // touches the memory of a pool

use std::cell::Cell;

use bookend::os::Errno;
use bookend::pool::{Pool, PoolError, Populate, Rung, Use};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};
use bookend_tests::child::{self, Part};
use bookend_tests::machine::{Cgroup, HugePages, MachineLock};
use bookend_tests::skip::or_say;

const PAGE: u64 = 2 << 20;

fn built(blocks: u32, threads: usize, huge: Use) -> Result<Pool, PoolError> {
    Pool::builder()
        .capacity(Blocks::new(blocks).bytes())
        .rung(Rung::Huge, huge)
        .threads(threads)
        .build()
}

/// Writes and reads every base page of every block.
fn touch(pool: &Pool) {
    let len = pool.capacity().bytes().as_usize();
    let pin = pool.pin(pool.blocks()).expect("all present");
    for offset in (0..len).step_by(4096) {
        let value = (offset >> 12) as u8 ^ 0x5a;
        // SAFETY: the offset lies in the pool, whose blocks are present and pinned, and nobody
        // else uses them.
        let read = unsafe {
            let byte = pool.base().add(offset);
            byte.write_volatile(value);
            byte.read_volatile()
        };
        assert_eq!(read, value);
    }
    drop(pin);
}

fn huge_blocks(pool: &Pool) -> u32 {
    pool.blocks().iter().filter(|&b| pool.rung(b) == Some(Rung::Huge)).count() as u32
}

/// Huge pages stand together at the high end, and the rest of the pool is there all the same.
fn assert_huge_at_the_high_end(pool: &Pool, huge: u32) {
    assert_eq!(huge_blocks(pool), huge, "{:?}", pool.report());
    for block in pool.blocks().iter() {
        let is_high = block.get() >= pool.capacity().get() - huge;
        assert_eq!(pool.rung(block) == Some(Rung::Huge), is_high, "{block:?}");
        assert!(pool.is_present(block));
    }
    pool.validate();
    touch(pool);
}

#[test]
fn an_empty_hugetlb_pool_is_an_error_or_a_step_down() {
    let lock = MachineLock::take();
    let Some(_pages) = or_say(HugePages::set(&lock, PAGE, None, 0)) else { return };
    let error = built(8, 2, Use::Required).unwrap_err();
    assert!(
        matches!(error, PoolError::NoMemory { rung: Rung::Huge, cause: Errno::FAULT, .. }),
        "{error}"
    );
    for threads in [1, 2] {
        let pool = built(40, threads, Use::Allowed).unwrap();
        assert_huge_at_the_high_end(&pool, 0);
        let refused = pool.report().refused;
        let huge = refused.iter().find(|r| r.rung == Rung::Huge).expect("counted");
        assert_eq!((huge.blocks, huge.free), (40, Some(0)), "{huge}");
    }
}

#[test]
fn a_hugetlb_pool_that_is_too_small_is_used_to_its_last_page() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 37)) else { return };
    for threads in [1, 2, 4] {
        let pool = built(100, threads, Use::Allowed).unwrap();
        assert_huge_at_the_high_end(&pool, 37);
        assert_eq!(pages.free(), 0);
        let refused = pool.report().refused;
        assert!(refused.iter().any(|r| r.rung == Rung::Huge && r.blocks == 63), "{refused:?}");
        drop(pool);
        assert_eq!(pages.free(), 37, "all given back");
    }
    let error = built(38, 2, Use::Required).unwrap_err();
    assert!(matches!(error, PoolError::NoMemory { rung: Rung::Huge, .. }), "{error}");
    assert_eq!(pages.free(), 37, "a pool that was not built holds nothing");
    assert_eq!(huge_blocks(&built(37, 2, Use::Required).unwrap()), 37);
}

#[test]
fn a_pool_on_demand_steps_down_where_the_pages_end() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 3)) else { return };
    let pool = Pool::builder()
        .capacity(Blocks::new(8).bytes())
        .rung(Rung::Huge, Use::Allowed)
        .populate(Populate::OnDemand)
        .build()
        .unwrap();
    assert_eq!(pages.free(), 3, "nothing is taken before it is asked for");
    for block in [4, 1, 6, 0, 7] {
        pool.populate(BlockRange::new(BlockId::new(block), Blocks::ONE)).unwrap();
    }
    let rungs: Vec<_> = [4, 1, 6].map(|b| pool.rung(BlockId::new(b))).into();
    assert_eq!(rungs, [Some(Rung::Huge); 3]);
    assert!(pool.rung(BlockId::new(7)).is_some_and(|rung| rung < Rung::Huge));
    pool.populate(pool.blocks()).unwrap();
    touch(&pool);
    pool.validate();
}

/// The second process: takes every huge page that is free when it is told to.
#[test]
#[ignore = "a part of the test below"]
fn part_takes_what_is_free() {
    let Some(blocks) = child::argument() else { return };
    child::say("ready");
    while child::hear().is_some_and(|line| line == "take") {
        let pool = built(blocks.parse().unwrap(), 1, Use::Allowed).unwrap();
        child::say(&huge_blocks(&pool).to_string());
        child::hear();
    }
}

#[test]
fn a_second_process_that_takes_the_rest_in_the_middle_is_survived() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 96)) else { return };
    for threads in [1, 2] {
        let mut other = Part::start("part_takes_what_is_free", "96");
        assert_eq!(other.listen(), "ready");
        let taken = std::rc::Rc::new(Cell::new(None));
        let other = std::rc::Rc::new(std::cell::RefCell::new(other));
        let (in_middle, by_other) = (taken.clone(), other.clone());
        let pool = Pool::builder()
            .capacity(Bytes::new(96 * PAGE))
            .rung(Rung::Huge, Use::Allowed)
            .threads(threads)
            .progress(move |_| {
                if in_middle.get().is_none() {
                    let mut other = by_other.borrow_mut();
                    other.tell("take");
                    in_middle.set(Some(other.listen().parse::<u32>().unwrap()));
                }
            })
            .build()
            .unwrap();
        let taken = taken.get().expect("progress was shown");
        assert!(taken > 0, "nothing was left for the other process");
        assert_eq!(huge_blocks(&pool) + taken, 96);
        assert_eq!(pages.free(), 0);
        assert_huge_at_the_high_end(&pool, 96 - taken);
    }
    assert_eq!(pages.free(), 96, "both are gone");
}

/// In a cgroup with a limit of that many huge pages.
#[test]
#[ignore = "a part of the tests below"]
fn part_meets_a_limit() {
    let Some(limit) = child::argument() else { return };
    let limit: u32 = limit.parse().unwrap();
    for threads in [1, 2] {
        let pool = built(limit + 20, threads, Use::Allowed).unwrap();
        assert_huge_at_the_high_end(&pool, limit);
        let refused = pool.report().refused;
        let huge = refused.iter().find(|r| r.rung == Rung::Huge).expect("counted");
        assert_eq!(huge.blocks, 20);
        assert!(huge.free.is_some_and(|free| free > 0), "{huge}");
        assert!(huge.to_string().contains("cgroup"), "{huge}");
    }
    assert!(built(limit + 1, 2, Use::Required).is_err());
    assert!(built(limit, 2, Use::Required).is_ok());
    child::say("kept");
}

fn meets_the_limit_of(lock: &MachineLock, group: &Cgroup<'_>) {
    let Some(pages) = or_say(HugePages::reserve(lock, PAGE, None, 64)) else { return };
    group.limit_hugetlb(PAGE, 10 * PAGE).unwrap();
    let mut command = group.command(std::env::current_exe().unwrap());
    child::instruct(&mut command, "part_meets_a_limit", "10");
    let mut part = Part::spawn(command);
    assert_eq!(part.listen(), "kept");
    part.finish();
    assert_eq!(pages.free(), 64);
}

#[test]
fn a_limit_of_cgroup_v2_is_a_step_down() {
    let lock = MachineLock::take();
    let Some(group) = or_say(Cgroup::v2(&lock)) else { return };
    meets_the_limit_of(&lock, &group);
}

#[test]
fn an_error_says_what_to_do() {
    let error =
        PoolError::NoMemory { block: BlockId::new(7), rung: Rung::Huge, cause: Errno::FAULT };
    let said = error.to_string();
    assert!(!said.contains("Bad address"), "{said}");
    assert!(said.contains("nr_hugepages"), "{said}");
}
