//! Calls to the system fail one after the other: nothing is lost, and nothing moves half-way.

use crate::movable::{Budget, MovableHeap};
use crate::os::Errno;
use crate::os::fake::{Call, Fails, FakeOs};
use crate::placement::{Arena, Class};
use crate::pool::{PoolBuilder, Populate, Rung, Use};
use crate::units::{BLOCK_BYTES, BlockId, Blocks};
use std::sync::Arc;

fn arena(os: &FakeOs) -> Option<Arc<Arena<FakeOs>>> {
    let pool = PoolBuilder::with_os(os.clone())
        .capacity(Blocks::new(16).bytes())
        .rung(Rung::Gigantic, Use::Forbidden)
        .rung(Rung::Huge, Use::Forbidden)
        .populate(Populate::OnDemand)
        .build();
    Some(Arc::new(Arena::new(pool.ok()?).ok()?))
}

/// Makes, moves, pins, frees; what cannot be done is left.
fn course(heap: &MovableHeap<FakeOs>) {
    let lens = [100, 5000, 300_000, BLOCK_BYTES + 1];
    let objects: Vec<_> =
        (0..40).filter_map(|n| heap.insert_bytes(&vec![n as u8; lens[n % 4]]).ok()).collect();
    let first: Vec<u8> = objects.iter().map(|bytes| heap.session().bytes(bytes)[0]).collect();
    for extent in heap.snapshot().movable {
        for to in [0, 9, 13] {
            let _ = heap.carry(extent.range, BlockId::new(to), &mut Budget::UNLIMITED.clone());
        }
        let _ = heap.empty(extent.range.start(), &mut Budget::UNLIMITED.clone());
        heap.validate();
    }
    let pin = objects.first().map(|bytes| heap.pin_bytes_long_term(bytes, Budget::UNLIMITED));
    let room = heap.make_room(Class::Pinned, Blocks::new(2), &mut Budget::UNLIMITED.clone());
    heap.validate();
    drop((pin, room));
    for (bytes, first) in objects.iter().zip(first) {
        assert!(heap.session().bytes(bytes).iter().all(|&byte| byte == first));
    }
}

#[test]
fn a_call_that_fails_loses_nothing() {
    for call in [Call::Map, Call::PopulateWrite, Call::HugePage, Call::Collapse] {
        for fails in [Fails::Once, Fails::FromThenOn] {
            for nth in (1..40).step_by(if call == Call::Map { 1 } else { 3 }) {
                let os = FakeOs::new();
                os.fail(call, nth, Errno::NOMEM, fails);
                let heap = arena(&os).and_then(|arena| MovableHeap::with_objects(arena, 4096).ok());
                if let Some(heap) = heap {
                    course(&heap);
                    heap.validate();
                    assert_eq!(heap.snapshot().movable.len(), 0, "{call:?} {nth}");
                }
                assert_eq!(os.outstanding(), FakeOs::new().outstanding(), "{call:?} {nth}");
            }
        }
    }
}
