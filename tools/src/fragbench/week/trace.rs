//! The trace of a week: what a server asks for, and when it gives it back.
//!
//! The workload is that of a machine on which very large and very small files are copied. There are
//! three *populations*, each with a share of the memory in use:
//!
//! | population | share | sizes |
//! | --- | --- | --- |
//! | extents: buffers of files, caches | 94% | 2 MiB to 1 GiB in whole blocks |
//! | small movable objects, with owners that follow a move | 5% | 4 KiB to 256 KiB, powers of two |
//! | small pinned objects: what devices and the kernel hold | 1% | the same |
//!
//! - **Sizes** of extents are those of very small and very large files: bounded Pareto with exponent 2
//!   (three quarters are of one block), but one in 2,000 is of 64 MiB to 1 GiB, its logarithm uniform.
//!   Sizes of small objects are bounded Pareto with exponent 0.5, rounded down to powers of two.
//! - **Lifetimes** are heavy-tailed: bounded Pareto from 2 minutes to 14 days with exponent 0.4. Half
//!   of all objects are gone after 11 minutes; four fifths of the memory is held by those that stay for
//!   more than a day.
//! - **Occupancy** wanders: straight lines between knots 2 to 8 hours apart, alternately 50–60% and
//!   80–90% of the capacity. While it is below the line, the population that is furthest behind its
//!   share asks, so that requests for small and for large are mixed. What would lead beyond 90% is put
//!   off to the next minute. Where lifetimes alone do not let occupancy fall with the line (5% of the
//!   capacity is tolerated), objects chosen at random are freed early, as when jobs end.
//!
//! The generator keeps its own books. It knows sizes and times, nothing of addresses and of policies, and is
//! never told whether a request succeeded: the same seed and capacity give the same trace to each.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use bookend::units::{BLOCK_BYTES, Blocks, Bytes};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// Minutes of the five days.
pub const MINUTES: u32 = HOURS * 60;
/// Hours of the five days.
pub const HOURS: u32 = 5 * 24;
/// The smallest small object, and the unit of their places.
pub const PAGE: Bytes = Bytes::kib(4);

/// Small objects have 2^0 to 2^6 pages.
const ORDERS: u8 = 7;
/// The longest extent, 1 GiB.
const LONGEST: Blocks = Blocks::new(512);
/// One extent in 2,000 is a very large file: 64 MiB to 1 GiB, the logarithm uniform.
const VERY_LARGE: f64 = 0.0005;
const LARGE: Blocks = Blocks::new(32);
/// Exponents of the sizes of all others.
const EXTENT_EXPONENT: f64 = 2.0;
const SMALL_EXPONENT: f64 = 0.5;
/// Shares of the memory in use, by [`Population`].
const SHARES: [f64; 3] = [0.94, 0.05, 0.01];
/// Occupancy at the knots, alternately.
const LOW: (f64, f64) = (0.50, 0.60);
const HIGH: (f64, f64) = (0.80, 0.90);
/// Never more than that.
const CEILING: f64 = 0.90;
/// Occupancy above the line at which objects are freed early.
const TOLERANCE: f64 = 0.05;
/// Lifetimes in minutes, and the exponent of their distribution.
const LIFETIME: (f64, f64) = (2.0, 14.0 * 24.0 * 60.0);
const LIFETIME_EXPONENT: f64 = 0.4;

/// The number of an object. Numbers of objects that have gone are used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ItemId(NonZeroU32);

impl ItemId {
    /// Of the object with that index. Panics beyond 2^32 - 2 objects, which is more than any table
    /// holds.
    pub fn new(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer than 2^32 objects, as the most that a table may have see to"))
    }

    /// For indexing: 0 is the first.
    pub const fn as_usize(self) -> usize {
        self.0.get() as usize - 1
    }
}

const _: () = assert!(size_of::<Option<ItemId>>() == 4);

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item {
    /// Whole blocks that follow one another.
    Extent(Blocks),
    /// 2^`order` pages of 4 KiB.
    Small {
        /// Binary logarithm of its pages.
        order: u8,
        /// Whether its owner lets it be moved.
        movable: bool,
    },
}

impl Item {
    /// Its length.
    pub const fn bytes(self) -> Bytes {
        match self {
            Self::Extent(blocks) => blocks.bytes(),
            Self::Small { order, .. } => Bytes::new(PAGE.get() << order),
        }
    }
}

/// One thing that happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An object is asked for.
    Allocate(ItemId, Item),
    /// It is given back. Policies that had refused it have nothing to do.
    Free(ItemId),
    /// So many hours have passed.
    Hour(u32),
}

/// In the order of [`SHARES`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Population {
    Extents,
    Movable,
    Pinned,
}

const POPULATIONS: [Population; 3] = [Population::Extents, Population::Movable, Population::Pinned];

/// An object that lives, or a number that is free.
#[derive(Clone, Copy, Debug)]
struct Entry {
    item: Item,
    population: Population,
    /// Where it stands in the list of its population; `None` where the number is free.
    position: Option<u32>,
    /// Told apart from those that had the number before.
    generation: u32,
}

/// The generator: an iterator over the events of a week.
#[derive(Debug)]
pub struct Trace {
    rng: Xoshiro256PlusPlus,
    capacity: Bytes,
    minute: u32,
    entries: Vec<Entry>,
    unused: Vec<ItemId>,
    /// Those that live, by population, and their bytes.
    living: [Vec<ItemId>; 3],
    bytes: [u64; 3],
    /// By minute, who goes then: the number and its generation.
    deaths: Vec<Vec<(ItemId, u32)>>,
    curve: Curve,
    events: VecDeque<Event>,
}

impl Trace {
    /// A week on a machine with that much memory.
    pub fn new(capacity: Bytes, seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let curve = Curve::new(&mut rng);
        Self {
            rng,
            capacity,
            minute: 0,
            entries: Vec::new(),
            unused: Vec::new(),
            living: Default::default(),
            bytes: [0; 3],
            deaths: vec![Vec::new(); MINUTES as usize],
            curve,
            events: VecDeque::new(),
        }
    }

    /// Minutes that have been played.
    pub fn minute(&self) -> u32 {
        self.minute
    }

    fn live(&self) -> u64 {
        self.bytes.iter().sum()
    }

    /// All that happens in one minute.
    fn play(&mut self) {
        for (id, generation) in std::mem::take(&mut self.deaths[self.minute as usize]) {
            let entry = self.entries[id.as_usize()];
            if entry.generation == generation && entry.position.is_some() {
                self.free(id);
            }
        }
        let line = self.curve.at(self.minute, &mut self.rng) * self.capacity.get() as f64;
        self.shed(line);
        self.fill(line);
        self.minute += 1;
        if self.minute.is_multiple_of(60) {
            self.events.push_back(Event::Hour(self.minute / 60));
        }
    }

    /// Frees objects at random while a population is too far above its share of the line.
    fn shed(&mut self, line: f64) {
        let most = line + TOLERANCE * self.capacity.get() as f64;
        for population in POPULATIONS {
            let most = most * SHARES[population as usize];
            while self.bytes[population as usize] as f64 > most {
                let living = &self.living[population as usize];
                let id = living[self.rng.random_range(0..living.len())];
                self.free(id);
            }
        }
    }

    /// Lets the population that is furthest behind ask, until the line is reached.
    fn fill(&mut self, line: f64) {
        let ceiling = (CEILING * self.capacity.get() as f64) as u64;
        loop {
            let behind = |p: &Population| self.bytes[*p as usize] as f64 / SHARES[*p as usize];
            let Some(population) =
                POPULATIONS.into_iter().min_by(|a, b| behind(a).total_cmp(&behind(b)))
            else {
                return;
            };
            if behind(&population) >= line {
                return;
            }
            let item = self.draw(population);
            if self.live() + item.bytes().get() > ceiling {
                return; // drawn again in the next minute
            }
            self.allocate(population, item);
        }
    }

    fn draw(&mut self, population: Population) -> Item {
        match population {
            Population::Extents => {
                let most = LONGEST.get().min(Blocks::holding(self.capacity).map_or(1, Blocks::get));
                let blocks = if self.rng.random_bool(VERY_LARGE) {
                    let (low, high) = (f64::from(LARGE.get()), f64::from(LONGEST.get()));
                    low * (high / low).powf(self.rng.random())
                } else {
                    pareto(&mut self.rng, EXTENT_EXPONENT, (1.0, f64::from(LONGEST.get())))
                };
                Item::Extent(Blocks::new((blocks as u32).clamp(1, most)))
            }
            Population::Movable | Population::Pinned => {
                let pages = pareto(&mut self.rng, SMALL_EXPONENT, (1.0, f64::from(1 << ORDERS)));
                let order = (pages.log2() as u8).min(ORDERS - 1);
                Item::Small { order, movable: population == Population::Movable }
            }
        }
    }

    fn allocate(&mut self, population: Population, item: Item) {
        let living = &mut self.living[population as usize];
        let position = Some(living.len() as u32);
        let id = self.unused.pop().unwrap_or_else(|| ItemId::new(self.entries.len()));
        living.push(id);
        let generation = match self.entries.get_mut(id.as_usize()) {
            Some(entry) => {
                let generation = entry.generation.wrapping_add(1);
                *entry = Entry { item, population, position, generation };
                generation
            }
            None => {
                self.entries.push(Entry { item, population, position, generation: 0 });
                0
            }
        };
        self.bytes[population as usize] += item.bytes().get();
        let lifetime = pareto(&mut self.rng, LIFETIME_EXPONENT, LIFETIME) as u32;
        if let Some(deaths) = self.deaths.get_mut((self.minute + lifetime) as usize) {
            deaths.push((id, generation));
        }
        self.events.push_back(Event::Allocate(id, item));
    }

    fn free(&mut self, id: ItemId) {
        let entry = &mut self.entries[id.as_usize()];
        let (population, item) = (entry.population as usize, entry.item);
        let Some(position) = entry.position.take() else { return };
        self.living[population].swap_remove(position as usize);
        if let Some(&moved) = self.living[population].get(position as usize) {
            self.entries[moved.as_usize()].position = Some(position);
        }
        self.bytes[population] -= item.bytes().get();
        self.unused.push(id);
        self.events.push_back(Event::Free(id));
    }
}

impl Iterator for Trace {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        while self.events.is_empty() && self.minute < MINUTES {
            self.play();
        }
        self.events.pop_front()
    }
}

/// A number between two bounds, with a density that falls as x^−(1 + exponent): by inversion.
fn pareto(rng: &mut Xoshiro256PlusPlus, exponent: f64, (low, high): (f64, f64)) -> f64 {
    let tail = 1.0 - (low / high).powf(exponent);
    low / (1.0 - rng.random::<f64>() * tail).powf(1.0 / exponent)
}

/// The line that occupancy follows.
#[derive(Debug)]
struct Curve {
    from: (u32, f64),
    to: (u32, f64),
    rising: bool,
}

impl Curve {
    fn new(rng: &mut Xoshiro256PlusPlus) -> Self {
        let start = rng.random_range(LOW.0..LOW.1);
        let mut curve = Self { from: (0, start), to: (0, start), rising: false };
        curve.turn(rng);
        curve
    }

    /// Goes on to the next knot.
    fn turn(&mut self, rng: &mut Xoshiro256PlusPlus) {
        self.rising = !self.rising;
        let (low, high) = if self.rising { HIGH } else { LOW };
        self.from = self.to;
        self.to = (self.from.0 + rng.random_range(2 * 60..=8 * 60), rng.random_range(low..high));
    }

    fn at(&mut self, minute: u32, rng: &mut Xoshiro256PlusPlus) -> f64 {
        while minute >= self.to.0 {
            self.turn(rng);
        }
        let part = f64::from(minute - self.from.0) / f64::from(self.to.0 - self.from.0);
        self.from.1 + part * (self.to.1 - self.from.1)
    }
}

const _: () = assert!((PAGE.get() << (ORDERS - 1)) < BLOCK_BYTES as u64);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const CAPACITY: Bytes = Bytes::gib(4);

    #[test]
    fn a_seed_gives_one_trace_and_another_seed_another() {
        let take = |seed| Trace::new(CAPACITY, seed).take(5_000).collect::<Vec<_>>();
        assert_eq!(take(7), take(7));
        assert_ne!(take(7), take(8));
    }

    #[test]
    fn occupancy_stays_between_half_and_nine_tenths_and_reaches_both() {
        let mut living = HashMap::new();
        let (mut live, mut least, mut most, mut hours) = (0u64, f64::MAX, 0f64, 0);
        for event in Trace::new(CAPACITY, 1) {
            match event {
                Event::Allocate(id, item) => {
                    assert!(living.insert(id, item).is_none(), "{id:?} is given out twice");
                    live += item.bytes().get();
                }
                Event::Free(id) => {
                    live -= living.remove(&id).expect("freed once").bytes().get();
                }
                Event::Hour(hour) => {
                    hours += 1;
                    assert_eq!(hour, hours);
                    let part = live as f64 / CAPACITY.get() as f64;
                    (least, most) = (least.min(part), most.max(part));
                }
            }
        }
        assert_eq!(hours, HOURS);
        assert!((0.47..0.65).contains(&least) && (0.75..=0.9).contains(&most), "{least} {most}");
    }

    #[test]
    fn extents_are_mostly_very_small_and_sometimes_very_large() {
        let mut trace = Trace::new(CAPACITY, 3);
        let mut draw = || match trace.draw(Population::Extents) {
            Item::Extent(blocks) => blocks.get(),
            Item::Small { .. } => unreachable!("extents were asked for"),
        };
        let sizes: Vec<_> = (0..400_000).map(|_| draw()).collect();
        let part = |of: fn(u32) -> bool| {
            sizes.iter().filter(|&&size| of(size)).count() as f64 / sizes.len() as f64
        };
        assert!((0.74..0.76).contains(&part(|size| size == 1)), "one block: 1 - 1/4");
        // Of the Pareto part one in 1,024, and one in 2,000 besides.
        assert!((0.0012..0.0018).contains(&part(|size| size >= 32)), "{}", part(|size| size >= 32));
        assert!(part(|size| size >= 256) > 0.0, "some are half of a GiB");
        assert!(part(|size| size > 512) == 0.0);
    }

    #[test]
    fn half_of_all_lifetimes_are_short_and_some_are_days() {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(5);
        let mut minutes: Vec<_> =
            (0..10_001).map(|_| pareto(&mut rng, LIFETIME_EXPONENT, LIFETIME)).collect();
        minutes.sort_unstable_by(f64::total_cmp);
        assert!((9.0..13.0).contains(&minutes[5_000]), "{}", minutes[5_000]);
        assert!(minutes[9_900] > 3.0 * 24.0 * 60.0, "{}", minutes[9_900]);
    }
}
