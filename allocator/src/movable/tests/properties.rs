//! Random courses of everything that a heap can do, against a model that knows every object's bytes.

use proptest::prelude::*;

use super::*;
use crate::movable::{MovableError, Pinned};
use crate::placement::{Class, Extent};
use crate::units::BLOCK_BYTES;

#[derive(Clone, Debug)]
enum Action {
    Insert(usize),
    Drop(prop::sample::Index),
    Change(prop::sample::Index),
    Empty(prop::sample::Index),
    EmptySeveral(u32),
    Carry(prop::sample::Index, u32),
    PinLongTerm(prop::sample::Index),
    Pin(prop::sample::Index),
    Unpin(prop::sample::Index),
    MakeRoom(Class, u32),
    GiveRoom(prop::sample::Index),
}

const BLOCKS: u32 = 24;

fn action() -> impl Strategy<Value = Action> {
    let index = any::<prop::sample::Index>;
    let len = prop_oneof![
        4 => 0usize..300,
        4 => 1000usize..50_000,
        2 => 200_000usize..BLOCK_BYTES,
        1 => BLOCK_BYTES..3 * BLOCK_BYTES
    ];
    let class = prop_oneof![Just(Class::Pinned), Just(Class::Huge)];
    prop_oneof![
        12 => len.prop_map(Action::Insert),
        6 => index().prop_map(Action::Drop),
        3 => index().prop_map(Action::Change),
        3 => index().prop_map(Action::Empty),
        1 => (0u32..BLOCKS).prop_map(Action::EmptySeveral),
        3 => (index(), 0u32..BLOCKS).prop_map(|(of, to)| Action::Carry(of, to)),
        1 => index().prop_map(Action::PinLongTerm),
        2 => index().prop_map(Action::Pin),
        3 => index().prop_map(Action::Unpin),
        2 => (class, 1u32..4).prop_map(|(class, blocks)| Action::MakeRoom(class, blocks)),
        2 => index().prop_map(Action::GiveRoom),
    ]
}

/// The objects of a course. Pins borrow from boxes that stay until the course is over.
struct Course<'a> {
    heap: &'a MovableHeap,
    live: Vec<(usize, MovableBytes)>,
    pinned: Vec<(usize, Pinned<'a, [u8]>)>,
    room: Vec<Extent<'a>>,
    next: usize,
}

impl<'a> Course<'a> {
    fn step(&mut self, action: Action) {
        let heap = self.heap;
        match action {
            Action::Insert(len) => {
                if let Ok(bytes) = heap.insert_bytes(&content(self.next, len)) {
                    self.live.push((self.next, bytes));
                }
                self.next += 1;
            }
            Action::Drop(of) if !self.live.is_empty() => {
                self.live.swap_remove(of.index(self.live.len()));
            }
            Action::Change(of) if !self.live.is_empty() => {
                let at = of.index(self.live.len());
                let (number, bytes) = &mut self.live[at];
                *number = self.next;
                let len = bytes.len();
                heap.session().bytes_mut(bytes).copy_from_slice(&content(self.next, len));
                self.next += 1;
            }
            Action::Empty(of) => {
                let blocks = movable_blocks(heap);
                if !blocks.is_empty() {
                    // Refused where one long object begins there.
                    let _ = heap.empty(blocks[of.index(blocks.len())], &mut unlimited());
                }
            }
            Action::EmptySeveral(from) => {
                let blocks = movable_blocks(heap).into_iter().filter(|block| block.get() >= from);
                let closed = heap.close(blocks);
                for &block in closed.blocks() {
                    heap.empty(block, &mut unlimited()).unwrap();
                }
            }
            Action::Carry(of, to) => {
                let extents = heap.snapshot().movable;
                if !extents.is_empty() {
                    let extent = extents[of.index(extents.len())].range;
                    // Refused where the target is not free.
                    let _ = heap.carry(extent, BlockId::new(to), &mut unlimited());
                }
            }
            Action::PinLongTerm(of) if !self.live.is_empty() => {
                let bytes = &self.live[of.index(self.live.len())].1;
                match heap.pin_bytes_long_term(bytes, unlimited()) {
                    Ok(_) | Err(MovableError::Arena(_) | MovableError::Busy(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Action::Pin(of) if !self.live.is_empty() => {
                let (number, bytes) = self.live.swap_remove(of.index(self.live.len()));
                let kept: &'a MovableBytes = Box::leak(Box::new(bytes));
                self.pinned.push((number, heap.pin_bytes(kept).unwrap()));
            }
            Action::Unpin(of) if !self.pinned.is_empty() => {
                self.pinned.swap_remove(of.index(self.pinned.len()));
            }
            Action::MakeRoom(class, blocks) => {
                let made = heap.make_room(class, Blocks::new(blocks), &mut unlimited());
                match made {
                    Ok(extent) => self.room.push(extent),
                    Err(MovableError::Arena(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Action::GiveRoom(of) if !self.room.is_empty() => {
                self.room.swap_remove(of.index(self.room.len()));
            }
            _ => {}
        }
    }

    fn check(&self) {
        self.heap.validate();
        for (number, bytes) in &self.live {
            assert_content(self.heap, bytes, *number);
        }
        for (number, pin) in &self.pinned {
            assert!(**pin == *content(*number, pin.len()), "pinned object {number} has changed");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_whatever_happens(actions in prop::collection::vec(action(), 1..60)) {
        let heap = heap(BLOCKS);
        heap.arena().placement().set_gap(Blocks::ONE);
        let mut course =
            Course { heap: &heap, live: Vec::new(), pinned: Vec::new(), room: Vec::new(), next: 0 };
        for action in actions {
            course.step(action);
            course.check();
        }
    }
}
