//! The global allocator is to stand on `os` and on pools: neither may take from the heap, but for
//! building a pool and reporting on it.
#![allow(unsafe_code)] // counts what the system's allocator is asked for; maps memory

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bookend::os::{Advice, Array, Backing, Linux, Os, SystemInfo};
use bookend::pool::{Pool, Populate};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes, PageSize};

thread_local! {
    /// Allocations of this thread. Needs no destructor, so that the allocator may use it always.
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// How often `work` takes from the heap.
fn allocations<T>(work: impl FnOnce() -> T) -> usize {
    let before = COUNT.get();
    let result = work();
    let taken = COUNT.get() - before;
    drop(result);
    taken
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| vec![0u8; 100]), 1);
}

#[test]
fn the_machine_is_read_without_the_heap() {
    assert_eq!(allocations(|| SystemInfo::read(&Linux).unwrap()), 0);
}

#[test]
fn calls_take_nothing_from_the_heap() {
    let taken = allocations(|| {
        let len = Bytes::mib(4);
        let base = Linux.base_page_size();
        assert!(Linux.processors() >= 1);
        // SAFETY: no address is given.
        let at = unsafe { Linux.map(None, len, Backing::Anonymous) }.unwrap();
        // SAFETY: the mapping was made just now.
        unsafe { Linux.advise(at, len, Advice::PopulateWrite) }.unwrap();
        let _ = Linux.frames(at, base, &mut [None; 8]); // may be hidden
        let _ = Linux.nodes(at, base, &mut [None; 8]); // may be unknown
        Linux.huge_mapped(at, len).unwrap();
        // SAFETY: this is the mapping's last use.
        unsafe { Linux.unmap(at, len) }.unwrap();
        let file = Linux.memory_file(c"no-heap", len, None).unwrap();
        Linux.list_directory(c"/sys/kernel", &mut |_| ()).unwrap();
        let _ = Linux.memory_file(c"no-heap", Bytes::mib(1), Some(PageSize::MIB2));
        Array::<u64, _>::new(Linux, 1000).unwrap()[999] = 1;
        drop(file);
    });
    assert_eq!(taken, 0);
}

#[test]
fn a_pool_gives_and_takes_blocks_without_the_heap() {
    let builder = Pool::builder().capacity(Bytes::mib(16)).populate(Populate::OnDemand);
    let pool = builder.build().unwrap();
    let some = BlockRange::new(BlockId::new(2), Blocks::new(3));
    let taken = allocations(|| {
        pool.populate(some).unwrap();
        drop(pool.pin(some).unwrap());
        // SAFETY: nothing refers to the blocks.
        unsafe { pool.release(some) }.unwrap();
    });
    assert_eq!(taken, 0);
}
