//! The heap on real memory: small pools of base pages.

mod basics;
mod callbacks;
mod containers;
mod failures;
mod moves;
mod places;
mod properties;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use super::{Budget, MovableBytes, MovableHeap};
use crate::placement::Arena;
use crate::pool::{Pool, Populate, Rung, Use};
use crate::units::{BlockId, Blocks};

/// A heap on a pool of so many blocks.
fn heap(blocks: u32) -> MovableHeap {
    MovableHeap::new(arena(blocks)).unwrap()
}

/// A pool of so many blocks.
fn arena(blocks: u32) -> Arc<Arena> {
    let pool = Pool::builder()
        .capacity(Blocks::new(blocks).bytes())
        .rung(Rung::Gigantic, Use::Forbidden)
        .rung(Rung::Huge, Use::Forbidden)
        .rung(Rung::Transparent, Use::Forbidden)
        .populate(Populate::OnDemand)
        .build()
        .unwrap();
    Arc::new(Arena::new(pool).unwrap())
}

/// A budget without a limit. Tests beside this one have sessions too, which are short.
fn unlimited() -> Budget {
    Budget::UNLIMITED.patience(Duration::from_secs(2))
}

/// The movable blocks and extents, by their first blocks.
fn movable_blocks(heap: &MovableHeap) -> Vec<BlockId> {
    heap.snapshot().movable.iter().map(|extent| extent.range.start()).collect()
}

/// Bytes that tell a number.
fn content(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (number.wrapping_mul(31) + at / 7) as u8).collect()
}

fn insert(heap: &MovableHeap, number: usize, len: usize) -> MovableBytes {
    heap.insert_bytes(&content(number, len)).unwrap()
}

fn assert_content(heap: &MovableHeap, object: &MovableBytes, number: usize) {
    let session = heap.session();
    assert!(session.bytes(object) == content(number, object.len()), "object {number} has changed");
}
