//! One server under one policy: plays the trace's events, and answers the probe's requests.

use std::time::Instant;

use bookend::placement::{Class, Moved, Placement, Unmapped};
use bookend::units::{BlockRange, Blocks, Bytes};
use bookend_defrag::process::Target;

use super::backing::{Backing, Corrupt};
use super::compact;
use super::contents::{Contents, Side, WARMED};
use super::latency::Latencies;
use super::policy::{Policy, Purpose};
use super::trace::{Event, Item, ItemId};

/// Of the free bytes, the part that must be had in one piece: what is left is for the ends of blocks
/// that small objects share.
pub const FITS: f64 = 0.97;

/// What a server was asked by the trace, since it was last looked at.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// How long requests took that needed blocks.
    pub latencies: Latencies,
    /// Requests.
    pub requests: u64,
    /// Requests that were refused, though they fit in 97% of the free bytes.
    pub refused: u64,
}

/// A table of blocks, and what is in it.
#[derive(Debug)]
pub struct Server<B> {
    policy: Policy,
    table: Placement,
    contents: Contents<B>,
    asked: Asked,
}

impl<B: Backing> Server<B> {
    /// An empty one.
    ///
    /// # Errors
    /// Where there is no memory for the table.
    pub fn new(policy: Policy, capacity: Blocks, backing: B) -> Result<Self, Unmapped> {
        let table = Placement::new(capacity)?;
        let contents = Contents::new(capacity.as_usize(), policy.moves(), backing);
        Ok(Self { policy, table, contents, asked: Asked::default() })
    }

    /// Its policy.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// The table, to look at.
    pub fn table(&self) -> &Placement {
        &self.table
    }

    /// Bytes that no object has, also in blocks that others share.
    pub fn free_bytes(&self) -> Bytes {
        self.table.capacity().bytes() - self.contents.live()
    }

    /// Bytes moved so far.
    pub fn moved(&self) -> Bytes {
        self.contents.moved()
    }

    /// What the trace asked for since this was called last.
    pub fn take_asked(&mut self) -> Asked {
        std::mem::take(&mut self.asked)
    }

    /// Plays events, and says when an hour is over.
    ///
    /// # Errors
    /// As [`Server::play`].
    pub fn play_all(
        &mut self,
        events: &[Event],
        mut hour: impl FnMut(&mut Self, u32),
    ) -> Result<(), Corrupt> {
        for some in events.chunks(WARMED) {
            self.contents.warm(some.iter().filter_map(|event| match *event {
                Event::Free(id) => Some(id),
                _ => None,
            }));
            for &event in some {
                self.play(event)?;
                if let Event::Hour(over) = event {
                    hour(self, over);
                }
            }
        }
        Ok(())
    }

    /// Plays one event.
    ///
    /// # Errors
    /// Where an object's bytes are not what was put there.
    pub fn play(&mut self, event: Event) -> Result<(), Corrupt> {
        match event {
            Event::Allocate(id, item) => self.allocate(id, item),
            Event::Free(id) => {
                if let Some(freed) = self.contents.take(id)? {
                    self.give(freed);
                }
            }
            Event::Hour(_) => {}
        }
        Ok(())
    }

    fn allocate(&mut self, id: ItemId, item: Item) {
        self.asked.requests += 1;
        let granted = match item {
            Item::Extent(blocks) => match self.timed(Purpose::Extent, blocks) {
                Some((range, class)) => {
                    self.contents.put_extent(id, range, class);
                    true
                }
                None => false,
            },
            Item::Small { order, movable } => self.allocate_small(id, order, movable),
        };
        if !granted && fits(item.bytes(), self.free_bytes()) {
            self.asked.refused += 1;
        }
    }

    fn allocate_small(&mut self, id: ItemId, order: u8, movable: bool) -> bool {
        let (side, purpose) = match movable {
            true if self.policy.sets_movable_apart() => (Side::Movable, Purpose::Movable),
            true => (Side::Pinned, Purpose::Movable),
            false => (Side::Pinned, Purpose::Pinned),
        };
        if self.contents.put_small(id, side, order) {
            return true;
        }
        let Some((range, class)) = self.timed(purpose, Blocks::ONE) else { return false };
        self.contents.open(side, range.start(), class);
        self.contents.put_small(id, side, order)
    }

    fn timed(&mut self, purpose: Purpose, blocks: Blocks) -> Option<(BlockRange, Class)> {
        let start = Instant::now();
        let taken = self.take(purpose, blocks);
        self.asked.latencies.add(start.elapsed());
        taken
    }

    /// Makes room for so many requests of the probe at once, or for as many as can be had. Does nothing
    /// under policies that move nothing.
    pub fn prepare(&mut self, blocks: Blocks, requests: u64) {
        let mut requests = if self.policy.moves() { requests } else { 0 };
        while requests > 0 {
            // Not more than the table has, for they fit into the free bytes.
            let all = Blocks::new(blocks.get() * requests as u32);
            if let Some(range) = self.take_top(all) {
                return self.give(range);
            }
            requests /= 2;
        }
    }

    /// A request of the probe.
    pub fn probe(&mut self, blocks: Blocks) -> Option<BlockRange> {
        self.take(Purpose::Probe, blocks).map(|(range, _)| range)
    }

    /// Takes blocks, where the policy looks for them.
    fn take(&mut self, purpose: Purpose, blocks: Blocks) -> Option<(BlockRange, Class)> {
        self.policy.classes(purpose).iter().find_map(|&class| {
            let taken = if self.policy.moves() {
                self.take_moving(class, blocks)
            } else {
                self.table.allocate_now(class, blocks)
            };
            taken.map(|range| (range, class))
        })
    }

    /// Takes blocks, making room where there is none.
    fn take_moving(&mut self, class: Class, blocks: Blocks) -> Option<BlockRange> {
        match class {
            Class::Pinned => self.take_evicting(blocks),
            Class::Movable => self.take_anywhere(blocks),
            Class::Huge => self.take_top(blocks),
        }
    }

    /// Movable blocks. More room is made than is asked for (a 256th of the table), because a look at the
    /// whole table costs the same for a little as for much.
    fn take_anywhere(&mut self, blocks: Blocks) -> Option<BlockRange> {
        let Self { table, contents, .. } = self;
        if let Some(range) = table.allocate_now(Class::Movable, blocks) {
            return Some(range);
        }
        let generous = Blocks::new(table.capacity().get() / 256).max(blocks);
        let made = compact::make_room(table, contents, generous, Target::FreeRun)
            || compact::make_room(table, contents, blocks, Target::FreeRun);
        made.then(|| table.allocate_now(Class::Movable, blocks)).flatten()
    }

    /// Huge blocks, right below the others: elsewhere they would stand in the way of what moves.
    fn take_top(&mut self, blocks: Blocks) -> Option<BlockRange> {
        let top = self.table.huge_start();
        if let Some(range) = self.table.allocate_now(Class::Huge, blocks) {
            if range.end() == top {
                return Some(range);
            }
            self.give(range);
        }
        let Self { table, contents, .. } = self;
        compact::make_room(table, contents, blocks, Target::HugeRoom)
            .then(|| table.allocate_now(Class::Huge, blocks))
            .flatten()
    }

    /// Pinned blocks, which what can move makes way for.
    fn take_evicting(&mut self, blocks: Blocks) -> Option<BlockRange> {
        let Self { table, contents, .. } = self;
        loop {
            let evicted = table.allocate_moving(Class::Pinned, blocks, |from, to| {
                contents.carry(from, to);
                Moved::Done
            });
            // Movable objects may have to be put together before others can go up.
            if evicted.is_ok() || !compact::release(table, contents, Blocks::ONE) {
                return evicted.ok();
            }
        }
    }

    /// Frees blocks.
    pub fn give(&mut self, range: BlockRange) {
        let freed = self.table.free(range);
        debug_assert!(freed.is_ok(), "an extent is freed once: {freed:?}");
    }

    /// Checks the table.
    ///
    /// # Panics
    /// With what is wrong.
    #[cfg(test)]
    pub fn validate(&self) {
        if let Err(broken) = self.table.validate() {
            panic!("the table contradicts itself: {broken:?}");
        }
        let free = self.table.free_blocks().bytes() + self.contents.spare();
        assert_eq!(free, self.free_bytes(), "every byte is free, an object's or spare");
    }
}

/// Whether a request fits in 97% of the free bytes.
fn fits(wanted: Bytes, free: Bytes) -> bool {
    wanted.get() as f64 <= FITS * free.get() as f64
}

#[cfg(test)]
mod tests {
    use super::super::backing::{Nothing, Real};
    use super::super::sample::look;
    use super::super::trace::Trace;
    use super::*;
    use bookend::pool::Pool;

    const CAPACITY: Bytes = Bytes::mib(256);

    fn blocks() -> Blocks {
        Blocks::holding(CAPACITY).unwrap()
    }

    /// Plays a trace, probes every hour, and validates every so often.
    fn play(policy: Policy, backing: impl Backing, seed: u64) -> (u64, Bytes) {
        let mut server = Server::new(policy, blocks(), backing).unwrap();
        let mut refused = 0;
        for (n, event) in Trace::new(CAPACITY, seed).enumerate() {
            server.play(event).unwrap();
            if let Event::Hour(hour) = event {
                let sample = look(&mut server, hour, Bytes::ZERO);
                refused += sample.refused + sample.middle.asked - sample.middle.granted;
            }
            if n % 997 == 0 {
                server.validate();
            }
        }
        server.validate();
        (refused, server.moved())
    }

    #[test]
    fn every_byte_is_accounted_for_under_each_policy() {
        for policy in Policy::ALL {
            let (refused, moved) = play(policy, Nothing, 3);
            assert_eq!(moved > Bytes::ZERO, policy.moves(), "{policy:?}");
            // Only moving keeps every promise.
            assert!(policy.moves() || refused > 0, "the trace is too easy for {policy:?}");
        }
    }

    #[test]
    fn no_byte_is_lost_when_extents_and_small_objects_move() {
        let pool = Pool::builder().capacity(CAPACITY).build().unwrap();
        let (_, moved) = play(Policy::Defrag, Real::new(pool), 4);
        assert!(moved > CAPACITY, "something moved: {moved}");
    }
}
