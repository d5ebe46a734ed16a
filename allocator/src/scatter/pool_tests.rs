//! Lists of pools on a simulated machine: in every state of its hugetlb pools, and where calls fail.

use super::*;
use crate::os::Errno;
use crate::os::fake::{Call, Fails, FakeOs, FreeOrder};
use crate::pool::{FrameOrder, Pool, PoolBuilder, Rung, Use};
use crate::units::{Bytes, PageSize};

fn of_huge_pages(os: &FakeOs, blocks: u64, order: FrameOrder) -> Pool<FakeOs> {
    PoolBuilder::with_os(os.clone())
        .capacity(Bytes::mib(2 * blocks))
        .rung(Rung::Huge, Use::Required)
        .frame_order(order)
        .build()
        .unwrap()
}

fn whole<'pool>(pool: &'pool Pool<FakeOs>, limits: &Limits) -> Result<ListOf<'pool>, ScatterError> {
    ScatterList::of_pool(pool, Bytes::ZERO..pool.capacity().bytes(), limits)
}

type ListOf<'pool> = ScatterList<crate::pool::PoolPin<'pool, FakeOs>>;

#[test]
fn entries_are_the_runs_that_the_pool_reports() {
    for order in [FreeOrder::Ascending, FreeOrder::Descending, FreeOrder::Shuffled(7)] {
        for in_order in [false, true] {
            let os = FakeOs::new().with_huge_pages(PageSize::MIB2, 64, order);
            let wish = if in_order {
                FrameOrder::Ascending { extra: Bytes::ZERO }
            } else {
                FrameOrder::AsFaulted
            };
            let pool = of_huge_pages(&os, 48, wish);
            let runs = pool.report().runs.unwrap();
            let list = whole(&pool, &Limits::NONE).unwrap();
            list.validate(&Limits::NONE).unwrap();
            assert_eq!(list.told_by(), Physical::Frames);
            assert_eq!(list.entries().len() as u64, runs.count, "{order:?}, ordered: {in_order}");
            assert_eq!(list.longest(), runs.longest);
            if in_order {
                assert_eq!(list.entries().len() as u64, runs.ideal);
            }
        }
    }
}

#[test]
fn a_part_of_a_gigantic_page_is_one_entry() {
    let os = FakeOs::new().with_huge_pages(PageSize::GIB1, 1, FreeOrder::Ascending);
    let pool = PoolBuilder::with_os(os.clone())
        .capacity(Bytes::gib(1))
        .rung(Rung::Gigantic, Use::Required)
        .build()
        .unwrap();
    let start = Bytes::mib(5) + Bytes::new(100);
    let limits = Limits::NONE;
    let list = ScatterList::of_pool(&pool, start..Bytes::mib(900), &limits).unwrap();
    let part: Vec<_> = list.entries().collect();
    let all = ScatterList::of_pool(&pool, Bytes::ZERO..Bytes::gib(1), &limits).unwrap();
    let first = all.entries().next().unwrap().physical.unwrap();
    assert_eq!((part.len(), part[0].len), (1, Bytes::mib(900) - start));
    assert_eq!(part[0].physical, Some(first.offset(start)));
}

#[test]
fn a_process_without_privilege_gets_an_entry_a_page() {
    let os = FakeOs::new()
        .with_huge_pages(PageSize::MIB2, 8, FreeOrder::Ascending)
        .with_privilege(false);
    let pool = of_huge_pages(&os, 8, FrameOrder::AsFaulted);
    let list = whole(&pool, &Limits::NONE).unwrap();
    assert_eq!((list.told_by(), list.entries().len()), (Physical::PageSize, 8));
    assert!(list.entries().all(|e| e.physical.is_none() && e.len == Bytes::mib(2)));
}

#[test]
fn a_failed_read_of_frames_is_an_error_and_leaves_no_pin() {
    let os = FakeOs::new().with_huge_pages(PageSize::MIB2, 8, FreeOrder::Ascending);
    let pool = of_huge_pages(&os, 8, FrameOrder::AsFaulted);
    let calls = os.calls(Call::Frames);
    drop(whole(&pool, &Limits::NONE).unwrap());
    for nth in 1..=os.calls(Call::Frames) - calls {
        os.fail(Call::Frames, nth, Errno::NOMEM, Fails::Once);
        assert_eq!(whole(&pool, &Limits::NONE).unwrap_err(), ScatterError::Frames(Errno::NOMEM));
        os.heal();
    }
    // SAFETY: nobody uses the pool's memory.
    unsafe { pool.release(pool.blocks()) }.unwrap();
    pool.validate();
    drop(pool);
    os.validate();
}

#[test]
fn privilege_lost_in_the_middle_falls_back_for_the_whole_list() {
    let os = FakeOs::new().with_huge_pages(PageSize::MIB2, 8, FreeOrder::Ascending);
    let pool = of_huge_pages(&os, 8, FrameOrder::AsFaulted);
    os.fail(Call::Frames, 2, Errno::PERM, Fails::Once);
    let list = whole(&pool, &Limits::NONE).unwrap();
    assert_eq!((list.told_by(), list.entries().len()), (Physical::PageSize, 8));
    assert_eq!(os.injected(), 1);
}
