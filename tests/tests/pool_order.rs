//! Frame order and gigantic pages on the real machine.

use bookend::pool::{FrameOrder, OrderOutcome, Pool, PoolError, Rung, Use};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes, PageSize};
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{or_say, require_root, say};

const PAGE: u64 = 2 << 20;
const GIB: u64 = 1 << 30;

fn ordered(blocks: u64, extra: u64, shareable: bool) -> Pool {
    Pool::builder()
        .capacity(Bytes::new(blocks * PAGE))
        .rung(Rung::Huge, Use::Required)
        .shareable(shareable)
        .frame_order(FrameOrder::Ascending { extra: Bytes::new(extra * PAGE) })
        .build()
        .unwrap()
}

/// Frames of the first page of each block.
fn frames(pool: &Pool) -> Vec<u64> {
    let mut frames = vec![None; pool.capacity().as_usize()];
    pool.frames(pool.blocks(), PageSize::MIB2, &mut frames).unwrap();
    frames.into_iter().map(|frame| frame.expect("present").get()).collect()
}

#[test]
fn frames_ascend_in_one_mapping_and_make_the_fewest_runs() {
    if or_say(require_root("read frame numbers")).is_none() {
        return;
    }
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve_together(&lock, PAGE, 300)) else { return };
    // Pages come back in the order in which they were given up: a pool that is released from the
    // middle shuffles the list.
    let shuffle = || {
        let pool = Pool::builder()
            .capacity(Bytes::new(300 * PAGE))
            .rung(Rung::Huge, Use::Required)
            .build()
            .unwrap();
        release_in_disorder(&pool);
    };
    for shareable in [false, true] {
        shuffle();
        let pool = ordered(300, 0, shareable);
        let frames = frames(&pool);
        assert!(frames.is_sorted(), "shareable: {shareable}");
        let runs = pool.report().runs.unwrap();
        assert_eq!(runs.count, runs.ideal);
        let Some(OrderOutcome::Ordered { runs_before, runs_after, ideal, .. }) =
            pool.report().ordered
        else {
            panic!("{:?}", pool.report())
        };
        assert_eq!((runs_after, ideal), (runs.count, runs.ideal));
        assert!(runs_before > runs_after, "the pages came in order by themselves");
        pool.validate();
        drop(pool);
        assert_eq!(pages.free(), 300);
    }
}

/// Gives the blocks back one by one, every seventh first.
#[allow(unsafe_code)] // releases blocks that nothing refers to
fn release_in_disorder(pool: &Pool) {
    for first in 0..7 {
        for block in (first..pool.capacity().get()).step_by(7) {
            let block = BlockRange::new(BlockId::new(block), Blocks::ONE);
            // SAFETY: nothing refers to the memory.
            unsafe { pool.release(block) }.unwrap();
        }
    }
}

#[test]
fn with_more_to_choose_from_the_longest_runs_are_kept() {
    if or_say(require_root("read frame numbers")).is_none() {
        return;
    }
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve_together(&lock, PAGE, 200)) else { return };
    let all = ordered(200, 0, false);
    let mut runs = run_lengths(&frames(&all));
    drop(all);
    runs.sort_unstable_by(|a, b| b.cmp(a));
    // The fewest runs that hold 120 pages: the longest ones, until it is enough.
    let (mut fewest, mut sum) = (0, 0);
    while sum < 120 {
        sum += runs[fewest];
        fewest += 1;
    }
    let pool = ordered(120, 80, false);
    assert_eq!(run_lengths(&frames(&pool)).len(), fewest);
    assert_eq!(pages.free(), 80, "the extra pages are given back");
}

fn run_lengths(frames: &[u64]) -> Vec<u64> {
    frames.chunk_by(|a, b| a + 512 == *b).map(|run| run.len() as u64).collect()
}

#[test]
fn gigantic_pages_stand_at_the_high_end_of_the_ladder() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, GIB, None, 2)) else { return };
    // 3.5 GiB of address space: three gigantic pages wanted, two had, the rest stepped down.
    let pool = Pool::builder()
        .capacity(Bytes::new(3 * GIB + GIB / 2))
        .rung(Rung::Gigantic, Use::Allowed)
        .populate(bookend::pool::Populate::OnDemand)
        .build()
        .unwrap();
    assert_eq!(pool.address(BlockId::new(pool.capacity().get())).addr().get() as u64 % GIB, 0);
    let top = BlockId::new(pool.capacity().get() - 1);
    pool.populate(BlockRange::new(top, Blocks::ONE)).unwrap();
    assert_eq!(pool.page_size(BlockId::new(top.get() - 511)), Some(PageSize::GIB1));
    assert_eq!(pages.free(), 1, "one block brings its whole page");
    let middle = BlockRange::new(BlockId::new(top.get() - 600), Blocks::ONE);
    pool.populate(middle).unwrap();
    assert_eq!((pages.free(), pool.rung(middle.start())), (0, Some(Rung::Gigantic)));
    pool.validate();
    let part = release(&pool, BlockRange::new(top, Blocks::ONE));
    assert_eq!(part, Err(PoolError::PartOfPage { block: top }));
    let page = BlockRange::new(BlockId::new(top.get() - 511), Blocks::new(512));
    release(&pool, page).unwrap();
    assert_eq!(pages.free(), 1);
    drop(pool);
    assert_eq!(pages.free(), 2);

    let ordered = Pool::builder()
        .capacity(Bytes::new(2 * GIB))
        .rung(Rung::Gigantic, Use::Required)
        .frame_order(FrameOrder::Ascending { extra: Bytes::ZERO })
        .build()
        .unwrap();
    ordered.validate();
    match ordered.report().runs {
        Ok(runs) => assert_eq!(runs.count, runs.ideal),
        Err(why) => say(&format!("order of gigantic pages not looked at: {why}")),
    }
    drop(ordered);
    assert_eq!(pages.free(), 2);
}

#[allow(unsafe_code)] // the tests hold no reference to the memory
fn release(pool: &Pool, range: BlockRange) -> Result<(), PoolError> {
    // SAFETY: the tests hold no reference to the memory.
    unsafe { pool.release(range) }
}
