//! The heap on a simulated machine of which every call fails in turn, once and for good: whatever
//! is refused, nothing panics, nothing that was handed out is lost, and the heap stays whole.
#![allow(unsafe_code)] // uses memory by hand

use super::config::{Config, Hugetlb};
use super::core::Heap;
use super::tables::Owner;
use super::thread::{self, Thread};
use crate::os::Errno;
use crate::os::fake::{Call, Fails, FakeOs, FreeOrder};
use crate::units::{Blocks, Bytes, PageSize};

/// What happens in a program, in short: every kind of request, a second thread, and a trim. Returns
/// how many requests were refused.
fn program(heap: &Heap<FakeOs>) -> u32 {
    let mut refused = 0;
    let mut live: Vec<(*mut u8, usize)> = Vec::new();
    let Some(local) = heap.attach() else { return 1 };
    // SAFETY: attached to this thread.
    let own = unsafe { Thread::new(heap, heap.shared().unwrap(), local) };
    for round in 0..2 {
        for size in [1, 100, 3_000, 40_000, 300_000, 3 << 20, 5 << 20] {
            for align in [16, 1 << 16, 4 << 20] {
                let at = if align == 16 {
                    own.allocate(size)
                } else {
                    thread::allocate_long(heap, size, align).0
                };
                if at.is_null() {
                    refused += 1;
                    continue;
                }
                // SAFETY: allocated just now.
                unsafe { at.write_bytes(round + 1, size.min(5_000)) };
                live.push((at, size));
            }
        }
        // Every other one again, at another size.
        for (at, size) in live.iter_mut().step_by(2).filter(|live| live.1 > 262_144) {
            // SAFETY: allocated above, and known to nobody else.
            let moved = unsafe { thread::resize_long(heap, *at, *size * 2) };
            if !moved.is_null() {
                (*at, *size) = (moved, *size * 2);
            }
        }
        heap.trim(Owner::NOBODY);
    }
    for (index, (at, size)) in live.into_iter().enumerate() {
        // SAFETY: as above.
        unsafe {
            let first = at.read();
            assert!(first == 1 || first == 2, "{size} bytes hold {first}");
            assert_eq!(at.add(size.min(5_000) / 2).read(), first);
            if index % 3 == 0 { thread::free_elsewhere(heap, at) } else { own.free(at) }
        }
    }
    // SAFETY: attached above, and not used any more.
    unsafe { heap.retire(local) };
    heap.trim(Owner::NOBODY);
    refused
}

fn heap_on(os: FakeOs, hugetlb: Hugetlb) -> Option<Heap<FakeOs>> {
    let heap = Heap::new();
    let config = Config { hugetlb, base_blocks: Blocks::new(2), delay_ms: 0, ..Config::default() };
    heap.start(os, || config).then_some(heap)
}

fn machine() -> FakeOs {
    FakeOs::new().with_huge_pages(PageSize::MIB2, 6, FreeOrder::Ascending)
}

/// Runs the program on a machine with a planned failure; whether the call was reached at all.
fn survives(call: Call, nth: u64, fails: Fails, errno: Errno, hugetlb: Hugetlb) -> bool {
    let os = machine();
    os.fail(call, nth, errno, fails);
    if let Some(heap) = heap_on(os.clone(), hugetlb) {
        program(&heap);
        let valid = heap.with(|central| central.validate()).unwrap();
        assert_eq!(valid, Ok(()), "{call:?} failed at {nth}, {fails:?}, {errno}");
    }
    os.calls(call) >= nth
}

#[test]
fn a_healthy_machine_refuses_nothing() {
    for hugetlb in [Hugetlb::Never, Hugetlb::Allow] {
        let heap = heap_on(machine(), hugetlb).unwrap();
        assert_eq!(program(&heap), 0, "{hugetlb:?}");
        heap.with(|central| central.validate()).unwrap().unwrap();
    }
}

#[test]
fn no_call_that_fails_does_harm() {
    let mut reached = 0;
    for hugetlb in [Hugetlb::Never, Hugetlb::Allow, Hugetlb::Require] {
        for call in Call::ALL {
            // No memory, once or from then on; a filter on system calls refuses for good.
            for (fails, errno) in [
                (Fails::Once, Errno::NOMEM),
                (Fails::FromThenOn, Errno::NOMEM),
                (Fails::FromThenOn, Errno::PERM),
            ] {
                let nths = (1..200).take_while(|&nth| survives(call, nth, fails, errno, hugetlb));
                reached += nths.count();
            }
        }
    }
    assert!(reached > 100, "only {reached} failures were met");
}

#[test]
fn where_only_hugetlb_pages_will_do_their_end_is_an_ordinary_failure() {
    let heap = heap_on(machine(), Hugetlb::Require).unwrap();
    assert!(program(&heap) > 0, "6 pages are not enough");
    heap.with(|central| central.validate()).unwrap().unwrap();
    let held = heap.with(|central| central.stats().hugetlb).unwrap();
    assert!(Bytes::new(held) <= Bytes::mib(12));
}
