//! What becomes of a pool's memory: released and taken again, dropped, left behind by a killed
//! process, shared with another one.
#![allow(unsafe_code)] // touches and releases the memory of pools; takes descriptors of a child

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;

use bookend::os::Linux;
use bookend::pool::{Attached, Pool, PoolError, Populate, Rung, Segment, Use};
use bookend::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};
use bookend_tests::child::{self, Part};
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::or_say;

const PAGE: u64 = 2 << 20;

fn huge(blocks: u32) -> Pool {
    Pool::builder()
        .capacity(Blocks::new(blocks).bytes())
        .rung(Rung::Huge, Use::Required)
        .build()
        .unwrap()
}

fn blocks(start: u32, len: u32) -> BlockRange {
    BlockRange::new(BlockId::new(start), Blocks::new(len))
}

/// Writes a value to the first byte of a block; the caller uses nothing else that touches it.
fn write(at: NonNull<u8>, value: u8) {
    // SAFETY: tests pass addresses of present blocks that no reference points to.
    unsafe { at.write_volatile(value) }
}

fn read(at: NonNull<u8>) -> u8 {
    // SAFETY: as above.
    unsafe { at.read_volatile() }
}

fn release(pool: &Pool, range: BlockRange) -> Result<(), PoolError> {
    // SAFETY: the tests hold no reference to the memory.
    unsafe { pool.release(range) }
}

#[test]
fn released_blocks_go_to_the_machine_and_come_back_as_zeros() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 8)) else { return };
    for shareable in [false, true] {
        let pool = Pool::builder()
            .capacity(Bytes::new(8 * PAGE))
            .rung(Rung::Huge, Use::Required)
            .shareable(shareable)
            .build()
            .unwrap();
        assert_eq!(pages.free(), 0);
        pool.blocks().iter().for_each(|block| write(pool.address(block), 7));
        let pin = pool.pin(blocks(3, 1)).unwrap();
        let refused = release(&pool, blocks(2, 3)).unwrap_err();
        assert_eq!(refused, PoolError::InUse { block: BlockId::new(3), pins: 1 });
        assert_eq!(pages.free(), 0, "a refused release gives nothing back");
        drop(pin);
        release(&pool, blocks(2, 3)).unwrap();
        pool.validate();
        assert_eq!(pages.free(), 3);
        assert!(!pool.is_present(BlockId::new(3)) && pool.is_present(BlockId::new(5)));
        assert!(matches!(pool.pin(blocks(2, 1)), Err(PoolError::Absent { .. })));
        pool.populate(pool.blocks()).unwrap();
        assert_eq!(pages.free(), 0);
        let values: Vec<_> = pool.blocks().iter().map(|b| read(pool.address(b))).collect();
        assert_eq!(values, [7, 7, 0, 0, 0, 7, 7, 7]);
        drop(pool);
        assert_eq!(pages.free(), 8);
    }
}

#[test]
fn what_stepped_down_takes_huge_pages_when_there_are_some_again() {
    let lock = MachineLock::take();
    let Some(mut pages) = or_say(HugePages::reserve(&lock, PAGE, None, 2)) else { return };
    let pool = Pool::builder()
        .capacity(Bytes::new(4 * PAGE))
        .rung(Rung::Huge, Use::Allowed)
        .build()
        .unwrap();
    assert_ne!(pool.rung(BlockId::new(0)), Some(Rung::Huge));
    pages.resize(4);
    release(&pool, blocks(0, 2)).unwrap();
    pool.populate(blocks(0, 2)).unwrap();
    assert_eq!(pool.rung(BlockId::new(0)), Some(Rung::Huge));
    pool.validate();
}

#[test]
fn two_pools_with_different_settings_live_side_by_side() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 4)) else { return };
    let first = huge(4);
    let second = Pool::builder()
        .capacity(Bytes::new(6 * PAGE))
        .rung(Rung::Transparent, Use::Forbidden)
        .populate(Populate::OnDemand)
        .build()
        .unwrap();
    second.populate(blocks(1, 2)).unwrap();
    assert_eq!(second.rung(BlockId::new(1)), Some(Rung::Base));
    assert_eq!(second.page_size(BlockId::new(1)).unwrap().bytes(), Bytes::kib(4));
    first.blocks().iter().for_each(|block| write(first.address(block), 1));
    write(second.address(BlockId::new(1)), 2);
    assert_eq!(first.locate(second.base().as_ptr()), None);
    let inside = second.address(BlockId::new(2)).as_ptr().wrapping_add(BLOCK_BYTES - 1);
    assert_eq!(second.locate(inside), Some(BlockId::new(2)));
    drop(first);
    assert_eq!((pages.free(), read(second.address(BlockId::new(1)))), (4, 2));
    second.validate();
}

#[test]
#[ignore = "a part of the test below"]
fn part_holds_a_pool() {
    let Some(shareable) = child::argument() else { return };
    let pool = Pool::builder()
        .capacity(Bytes::new(16 * PAGE))
        .rung(Rung::Huge, Use::Required)
        .shareable(shareable == "true")
        .build()
        .unwrap();
    child::say("holds");
    child::hear();
    drop(pool);
}

#[test]
fn a_killed_holder_leaves_the_machine_as_it_was() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 16)) else { return };
    for shareable in ["false", "true"] {
        let mut holder = Part::start("part_holds_a_pool", shareable);
        assert_eq!(holder.listen(), "holds");
        assert_eq!(pages.free(), 0);
        holder.kill();
        assert_eq!(pages.free(), 16, "shareable: {shareable}");
    }
}

fn file_of(pool: &Pool, segment: &Segment) -> i32 {
    pool.file(segment.rung).expect("a shareable pool has files").as_raw_fd()
}

/// Opens the pool that the parent describes as `PID CAPACITY START:LEN:RUNG:OFFSET:FD …`, adds one
/// to each block's first byte, and waits.
#[test]
#[ignore = "a part of the test below"]
fn part_opens_a_pool() {
    let Some(described) = child::argument() else { return };
    let mut words = described.split(' ');
    let owner = words.next().unwrap();
    let segments: Vec<(Segment, File)> = words
        .map(|word| {
            let n: Vec<u64> = word.split(':').map(|n| n.parse().unwrap()).collect();
            let file = format!("/proc/{owner}/fd/{}", n[4]);
            let file = File::options().read(true).write(true).open(file).unwrap();
            let range = blocks(n[0] as u32, n[1] as u32);
            let rung = Rung::ALL[n[2] as usize];
            (Segment { range, rung, offset: Bytes::new(n[3]) }, file)
        })
        .collect();
    let passed: Vec<(Segment, BorrowedFd<'_>)> =
        segments.iter().map(|(segment, file)| (*segment, file.as_fd())).collect();
    let pool = Attached::new(Linux, &passed).unwrap();
    let all = BlockRange::new(BlockId::new(0), pool.capacity());
    pool.populate(all).unwrap();
    for block in all.iter() {
        // SAFETY: the offset lies in the pool.
        let at = unsafe { pool.base().add(block.offset().as_usize()) };
        write(at, read(at) + 1);
    }
    child::say("opened");
    child::hear();
}

#[test]
fn another_process_opens_a_pool_and_sees_what_is_written() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 5)) else { return };
    // More than there are huge pages, so that the pool has two files.
    let pool = Pool::builder()
        .capacity(Bytes::new(8 * PAGE))
        .rung(Rung::Huge, Use::Allowed)
        .shareable(true)
        .build()
        .unwrap();
    let segments = pool.segments();
    assert_eq!(segments.len(), 2, "{segments:?}");
    pool.blocks().iter().for_each(|block| write(pool.address(block), block.get() as u8));
    let mut described = std::process::id().to_string();
    for s in &segments {
        let (start, len) = (s.range.start().get(), s.range.len().get());
        let (rung, offset, fd) = (s.rung as usize, s.offset.get(), file_of(&pool, s));
        described += &format!(" {start}:{len}:{rung}:{offset}:{fd}");
    }
    let mut other = Part::start("part_opens_a_pool", &described);
    assert_eq!(other.listen(), "opened");
    for block in pool.blocks().iter() {
        assert_eq!(read(pool.address(block)), block.get() as u8 + 1, "{block:?}");
    }
    assert_eq!(pages.free(), 0, "one set of pages for both");
    // The owner goes first: the other keeps the memory, and its end gives it back.
    drop(pool);
    assert_eq!(pages.free(), 0);
    other.kill();
    assert_eq!(pages.free(), 5);
}

#[test]
fn the_files_of_a_pool_cannot_be_truncated() {
    let pool = Pool::builder().capacity(Bytes::new(PAGE)).shareable(true).build().unwrap();
    let file = pool.file(Rung::Base).expect("a shareable pool has files");
    let file = File::from(file.try_clone_to_owned().unwrap());
    assert_eq!(file.metadata().unwrap().len(), PAGE);
    let error = file.set_len(0).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    write(pool.base(), 1);
}
