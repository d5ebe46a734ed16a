//! What an access costs: a hash table with chains, the standard library's with nodes as values, and a linked list in
//! random order, each over [`Movable`] handles in sessions and over raw pointers, the same code for both, and
//! the nodes of both in the same pool, so that nothing differs but the access; `small` fits into the second
//! cache, `large` into none. The tables look a random key up, the list is followed to its end. Sessions of
//! 1,000 lookups, or one pass of the list. Twice: where nothing has been moved that was not looked at since, so
//! that sessions are settled, and where one handle in the process is stale.

use std::collections::HashMap;
use std::ptr::NonNull;

use bookend::movable::{Budget, Movable, MovableHeap, Session};
use bookend::placement::{Class, Extent};
use bookend::units::{BlockId, Blocks, Bytes};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::{ROUNDS, beside, heap, seconds};

/// A hash table with chains and a linked list, the same code for each way to own a node and to reach it.
macro_rules! structures {
    ($name:ident, $link:ident, $pad:expr, $get:ident, $get_mut:ident) => {
        mod $name {
            use super::*;

            pub struct Node {
                key: u64,
                value: [u64; 4],
                next: Option<$link<Node>>,
                /// So that nodes of either kind are as long.
                _pad: [u64; $pad],
            }

            impl Node {
                fn new(key: u64, next: Option<$link<Self>>) -> Self {
                    Self { key, value: [key; 4], next, _pad: [0; $pad] }
                }
            }

            const _: () = assert!(size_of::<Node>() == 64);

            pub struct Table {
                buckets: Vec<Option<$link<Node>>>,
            }

            impl Table {
                pub fn new(mut make: impl FnMut(Node) -> $link<Node>, keys: u64) -> Self {
                    let mut order: Vec<u64> = (0..keys).collect();
                    order.shuffle(&mut SmallRng::seed_from_u64(1));
                    let mut table = Self { buckets: (0..keys).map(|_| None).collect() };
                    for key in order {
                        let bucket = table.bucket(key);
                        let next = table.buckets[bucket].take();
                        table.buckets[bucket] = Some(make(Node::new(key, next)));
                    }
                    table
                }

                #[inline(always)]
                fn bucket(&self, key: u64) -> usize {
                    let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
                    (mixed * self.buckets.len() as u64 >> 32) as usize
                }

                /// The sum of the values of random keys, one after the other.
                #[inline(never)]
                pub fn look_up(&self, session: &Session<'_>, seed: u64, count: u64) -> u64 {
                    let (mut random, mut sum) = (seed, 0u64);
                    for _ in 0..count {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let key = (random >> 32) * self.buckets.len() as u64 >> 32;
                        let mut at = self.buckets[self.bucket(key)].as_ref();
                        while let Some(link) = at {
                            let node: &Node = $get(session, link);
                            if node.key == key {
                                sum = sum.wrapping_add(node.value[3]);
                                break;
                            }
                            at = node.next.as_ref();
                        }
                    }
                    sum
                }
            }

            /// The standard library's table, with the hash function that it comes with.
            pub struct Map {
                nodes: HashMap<u64, $link<Node>>,
            }

            impl Map {
                pub fn new(mut make: impl FnMut(Node) -> $link<Node>, keys: u64) -> Self {
                    let mut order: Vec<u64> = (0..keys).collect();
                    order.shuffle(&mut SmallRng::seed_from_u64(1));
                    let node = |key| (key, make(Node::new(key, None)));
                    Self { nodes: order.into_iter().map(node).collect() }
                }

                /// As [`Table::look_up`].
                #[inline(never)]
                pub fn look_up(&self, session: &Session<'_>, seed: u64, count: u64) -> u64 {
                    let (mut random, mut sum) = (seed, 0u64);
                    for _ in 0..count {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let key = (random >> 32) * self.nodes.len() as u64 >> 32;
                        if let Some(link) = self.nodes.get(&key) {
                            let node: &Node = $get(session, link);
                            sum = sum.wrapping_add(node.value[3]);
                        }
                    }
                    sum
                }
            }

            pub struct List {
                head: Option<$link<Node>>,
                heap: MovableHeap,
            }

            impl List {
                /// Nodes in random order in memory.
                pub fn new(
                    heap: &MovableHeap,
                    mut make: impl FnMut(Node) -> $link<Node>,
                    len: u64,
                ) -> Self {
                    let mut links: Vec<_> =
                        (0..len).map(|key| make(Node::new(key, None))).collect();
                    links.shuffle(&mut SmallRng::seed_from_u64(2));
                    let (session, mut head) = (heap.session(), None);
                    for mut link in links {
                        let node: &mut Node = $get_mut(&session, &mut link);
                        node.next = head.take();
                        head = Some(link);
                    }
                    Self { head, heap: heap.clone() }
                }

                #[inline(never)]
                pub fn follow(&self, session: &Session<'_>) -> u64 {
                    let (mut sum, mut at) = (0u64, self.head.as_ref());
                    while let Some(link) = at {
                        let node: &Node = $get(session, link);
                        sum = sum.wrapping_add(node.value[1]);
                        at = node.next.as_ref();
                    }
                    sum
                }
            }

            /// Without recursion, which a long list's would overflow the stack by.
            impl Drop for List {
                fn drop(&mut self) {
                    let session = self.heap.session();
                    let mut at = self.head.take();
                    while let Some(mut link) = at {
                        let node: &mut Node = $get_mut(&session, &mut link);
                        at = node.next.take();
                    }
                }
            }
        }
    };
}

structures!(movable, Movable, 1, reach, reach_mut);
structures!(pointers, Raw, 2, raw, raw_mut);

fn make<T: Send + 'static>(heap: &MovableHeap, value: T) -> Movable<T> {
    heap.insert(value).expect("room")
}

#[inline(always)]
fn reach<'a, T>(session: &'a Session<'_>, link: &'a Movable<T>) -> &'a T {
    session.get(link)
}

#[inline(always)]
fn reach_mut<'a, T>(session: &'a Session<'_>, link: &'a mut Movable<T>) -> &'a mut T {
    session.get_mut(link)
}

/// The peer of a handle: an address in a `Bump`, which outlives it.
struct Raw<T>(NonNull<T>);

/// Memory of the heap's own pool, handed out in order, as the heap's slabs are filled.
struct Bump<'a> {
    extent: Extent<'a>,
    used: usize,
}

impl<'a> Bump<'a> {
    fn new(heap: &'a MovableHeap, bytes: u64) -> Self {
        let blocks = Blocks::holding(Bytes::new(bytes)).expect("as many blocks");
        Self { extent: heap.arena().allocate(Class::Huge, blocks).expect("room"), used: 0 }
    }

    fn make<T>(&mut self, value: T) -> Raw<T> {
        let place = &mut self.extent[self.used..][..size_of::<T>()];
        self.used += place.len();
        let at = NonNull::from(place).cast::<T>();
        assert!(at.is_aligned());
        // SAFETY: (1) as long as a T, aligned, and handed out once; (2) within the extent.
        unsafe { at.write(value) };
        Raw(at)
    }
}

#[inline(always)]
fn raw<'a, T>(_: &'a Session<'_>, link: &'a Raw<T>) -> &'a T {
    // SAFETY: its bump outlives it, and the link is borrowed.
    unsafe { link.0.as_ref() }
}

#[inline(always)]
fn raw_mut<'a, T>(_: &'a Session<'_>, link: &'a mut Raw<T>) -> &'a mut T {
    // SAFETY: as above, exclusively.
    unsafe { link.0.as_mut() }
}

/// An object that was moved and not looked at since, of a heap of its own: as long as it lives no session is
/// settled.
fn stale() -> (MovableHeap, Movable<u64>) {
    let other = heap(Bytes::mib(8));
    let object = make(&other, 0u64);
    let extent = other.snapshot().movable[0].range;
    let moved = other.carry(extent, BlockId::new(3), &mut Budget::UNLIMITED.clone());
    assert_eq!(moved.expect("a free block").objects, 1);
    (other, object)
}

pub fn access(scale: u64) {
    access_as("settled", scale);
    let _stale = stale();
    access_as("a stale handle", scale);
}

/// What keys are looked up in.
trait Lookups {
    fn look_up(&self, session: &Session<'_>, seed: u64, count: u64) -> u64;
}

macro_rules! lookups {
    ($($name:ty),*) => {$(
        impl Lookups for $name {
            fn look_up(&self, session: &Session<'_>, seed: u64, count: u64) -> u64 {
                <$name>::look_up(self, session, seed, count)
            }
        }
    )*};
}

lookups!(movable::Table, pointers::Table, movable::Map, pointers::Map);

/// Ours and a peer's in turn, in sessions of 1,000 lookups.
fn tables(
    heap: &MovableHeap,
    lookups: u64,
    what: &str,
    (ours, peer): (&dyn Lookups, &dyn Lookups),
) {
    let (mut our_times, mut peer_times) = (Vec::new(), Vec::new());
    let rounds = lookups / 1000;
    for round in 0..ROUNDS as u64 {
        let run = |table: &dyn Lookups| {
            let sum = || {
                (0..rounds).map(|n| table.look_up(&heap.session(), round * rounds + n, 1000)).sum()
            };
            seconds(sum) * 1e6 / rounds as f64
        };
        our_times.push(run(ours));
        peer_times.push(run(peer));
    }
    beside(what, "ns", &mut our_times, &mut peer_times);
}

fn access_as(state: &str, scale: u64) {
    for (name, nodes) in [("small", 8_000 / scale.min(4)), ("large", 4_000_000 / scale)] {
        let heap = heap(Bytes::new(nodes * 160) + Bytes::mib(16));
        let mut bump = Bump::new(&heap, nodes * 64);
        let lookups = 2_000_000 / scale;
        tables(
            &heap,
            lookups,
            &format!("{state}: hash table, {name}: a lookup"),
            (
                &movable::Table::new(|node| make(&heap, node), nodes),
                &pointers::Table::new(|node| bump.make(node), nodes),
            ),
        );
        bump.used = 0;
        tables(
            &heap,
            lookups,
            &format!("{state}: HashMap, {name}: a lookup"),
            (
                &movable::Map::new(|node| make(&heap, node), nodes),
                &pointers::Map::new(|node| bump.make(node), nodes),
            ),
        );
        bump.used = 0;
        let ours = movable::List::new(&heap, |node| make(&heap, node), nodes);
        let peer = pointers::List::new(&heap, |node| bump.make(node), nodes);
        let (mut our_times, mut peer_times) = (Vec::new(), Vec::new());
        let passes = (2_000_000 / scale / nodes).max(1);
        for _ in 0..ROUNDS {
            let run = |list: &dyn Fn(&Session<'_>) -> u64| {
                let took = seconds(|| (0..passes).map(|_| list(&heap.session())).sum());
                took * 1e9 / (passes * nodes) as f64
            };
            our_times.push(run(&|session| ours.follow(session)));
            peer_times.push(run(&|session| peer.follow(session)));
        }
        beside(
            &format!("{state}: linked list, {name}: a node"),
            "ns",
            &mut our_times,
            &mut peer_times,
        );
    }
}
