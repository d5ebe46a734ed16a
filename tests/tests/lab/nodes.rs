//! Memory on the NUMA node where it is wanted.
#![allow(unsafe_code)] // sets the processor that a thread runs on; touches memory

use std::alloc::{GlobalAlloc, Layout};
use std::ptr::NonNull;

use bookend::Bookend;
use bookend::heap::raw;
use bookend::os::{Linux, Os};
use bookend::pool::{Pool, PoolError, Rung, Use};
use bookend::units::{Bytes, Node, PageSize};
use bookend_tests::machine::{HugePages, MachineLock, Setting};
use bookend_tests::skip::or_say;

use super::{in_lab, number, pool_of};

const PAGE: u64 = 2 << 20;

#[test]
fn each_node_has_memory_and_a_processor() {
    if !in_lab() {
        return;
    }
    for node in 0..2 {
        let directory = format!("/sys/devices/system/node/node{node}");
        let processors = std::fs::read_to_string(format!("{directory}/cpulist")).unwrap();
        assert_eq!(processors.trim(), node.to_string());
        let memory = std::fs::read_to_string(format!("{directory}/meminfo")).unwrap();
        let total: u64 = memory.split_whitespace().nth(3).unwrap().parse().unwrap();
        assert!(total > 1 << 20, "node {node} has {total} KiB");
    }
}

/// As tests/lab/tests asks for; other tests of this binary reserve beyond it, under the lock.
#[test]
fn each_node_has_huge_pages() {
    if !in_lab() {
        return;
    }
    let _lock = MachineLock::take();
    assert_eq!([pool_of(0, "nr_hugepages"), pool_of(1, "nr_hugepages")], [64, 64]);
}

#[test]
fn a_pool_takes_its_pages_from_the_node_it_is_told() {
    if !in_lab() {
        return;
    }
    let lock = MachineLock::take();
    let _still = without_balancing(&lock);
    let here = or_say(HugePages::reserve(&lock, PAGE, Some(0), 40)).expect("pages on node 0");
    let there = or_say(HugePages::reserve(&lock, PAGE, Some(1), 24)).expect("pages on node 1");
    for node in [0, 1] {
        for (huge, rung) in [(Use::Required, Rung::Huge), (Use::Forbidden, Rung::Base)] {
            let built = |blocks: u64| {
                Pool::builder()
                    .capacity(Bytes::new(blocks * PAGE))
                    .rung(Rung::Huge, huge)
                    .rung(Rung::Transparent, Use::Forbidden)
                    .node(Node::new(node))
                    .build()
            };
            let pool = built(20).unwrap();
            let report = pool.report();
            let held: Vec<_> = report.rungs.iter().map(|held| (held.rung, held.node)).collect();
            assert_eq!(held, [(rung, Some(Node::new(node)))], "{report:?}");
            pool.validate();
            let taken = if huge == Use::Required { 20 } else { 0 };
            let left = |of: u32, all: u64| all - if of == node { taken } else { 0 };
            assert_eq!((here.free(), there.free()), (left(0, 40), left(1, 24)));
        }
    }
    // The other node would have enough.
    let pool = Pool::builder()
        .capacity(Bytes::new(30 * PAGE))
        .rung(Rung::Huge, Use::Required)
        .node(Node::new(1))
        .build();
    assert!(matches!(pool, Err(PoolError::NoMemory { rung: Rung::Huge, .. })), "{pool:?}");
    assert_eq!((here.free(), there.free()), (40, 24));
}

/// NUMA balancing takes pages away for a moment to see who comes for them; Linux 6.1 then says that
/// they are on no node.
fn without_balancing(lock: &MachineLock) -> Setting<'_> {
    Setting::set(lock, "/proc/sys/kernel/numa_balancing", "0").unwrap()
}

/// Lets this thread run on one processor only: number N is on node N.
fn run_on(processor: usize) {
    // SAFETY: 1. all zeros is an empty set; 2. the set lives throughout the call; 3. only where this
    // thread runs is changed.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(processor, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set)
    };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

/// On which nodes the heap's memory for `len` bytes lies, in runs of pages, when a thread on
/// `processor` takes it.
fn nodes_of_allocation(processor: usize, len: usize) -> Vec<(Option<Node>, usize)> {
    run_on(processor);
    let layout = Layout::from_size_align(len, 64).unwrap();
    // SAFETY: the layout has a size; the memory is written within it, and given back with it.
    unsafe {
        let at = NonNull::new(Bookend.alloc(layout)).expect("memory");
        at.write_bytes(1, len);
        let mut nodes = vec![None; len >> 12];
        Linux.nodes(at, PageSize::KIB4, &mut nodes).unwrap();
        Bookend.dealloc(at.as_ptr(), layout);
        nodes.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
    }
}

/// A freed extent is kept; taken again by a thread of the other node, its memory comes anew.
#[test]
fn the_heap_gives_memory_of_the_node_that_takes_it() {
    if !in_lab() {
        return;
    }
    let lock = MachineLock::take();
    let _still = without_balancing(&lock);
    let thread = std::thread::spawn(|| {
        let far = raw::stats().other_node_blocks;
        for processor in [0, 1, 0] {
            let nodes = nodes_of_allocation(processor, 16 << 20);
            let near = Some(Node::new(processor as u32));
            assert_eq!(nodes, [(near, 4096)], "on processor {processor}");
        }
        assert!(raw::stats().other_node_blocks > far, "no block of another node was met");
    });
    thread.join().unwrap();
    assert!(number("/proc/sys/vm/zone_reclaim_mode") == 0, "else nodes were emptied for it");
}
