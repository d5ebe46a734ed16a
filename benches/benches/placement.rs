//! Allocating and freeing blocks: does the time depend on the size of the table?
//!
//! Dimensions:
//! - **size** of the table: 4 GiB, 256 GiB and 4 TiB, with no memory behind it;
//! - **state** it is in: `fresh` (empty), `half` (full, then half of the extents freed at random),
//!   `full` (two in a hundred freed at random), `long` (as `half`, with extents of 1 to 64 blocks);
//! - **allocator**: ours, and two peers that search from the low end: a bitmap scanned word by
//!   word, and a `BTreeMap` of free runs.
//!
//! An operation is a free of a random extent of the whole table, or an allocation of the same
//! class: a quarter of the blocks pinned, half movable, a quarter huge. What to free is read from a
//! trace made beforehand, so that the caches are the allocator's alone. When an eighth of the
//! extents has been replaced the table is set up anew: a small table would otherwise have changed
//! its state a hundred times over while a large one was still in its first. Each time another seed
//! is taken, so that no branch predictor learns a short trace by heart.
//!
//! After criterion's figures come the ratios to 4 GiB, from runs of the sizes in turn, which is
//! what the bar is about: at 4 TiB at most 1.5 times the time at 4 GiB.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use bookend::placement::{Class, Placement};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};
use criterion::{BenchmarkId, Criterion};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const SIZES: [(&str, Bytes); 3] =
    [("4GiB", Bytes::gib(4)), ("256GiB", Bytes::gib(256)), ("4TiB", Bytes::gib(4096))];
const STATES: [State; 4] = [State::Fresh, State::Half, State::Full, State::Long];
/// Steps of a trace, at most.
const TRACE: usize = 200_000;
/// The same for the peers, which are slow on large tables.
const PEER_TRACE: usize = 2_000;
/// How often each trace is run for the ratios, and in how many pieces.
const ROUNDS: usize = 3;
const PIECES: usize = 20;

/// How a table is set up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Fresh,
    Half,
    Full,
    Long,
}

impl State {
    /// How many extents of a hundred stay when the table has been filled.
    fn stay(self) -> u32 {
        match self {
            Self::Fresh => 0,
            Self::Half | Self::Long => 50,
            Self::Full => 98,
        }
    }

    /// Blocks of the next extent.
    fn len(self, rng: &mut SmallRng) -> Blocks {
        Blocks::new(match self {
            Self::Long => 1 << rng.random_range(0..=6),
            _ if rng.random_ratio(1, 8) => rng.random_range(2..=8),
            _ => 1,
        })
    }
}

/// What is compared.
trait Allocator {
    /// Begins with the blocks free that are free there: setting up a table with a peer itself takes
    /// hours.
    fn adopt(placement: Placement) -> Self;
    fn allocate(&mut self, class: Class, len: Blocks) -> Option<BlockRange>;
    fn free(&mut self, extent: BlockRange);
}

impl Allocator for Placement {
    fn adopt(placement: Placement) -> Self {
        placement
    }

    fn allocate(&mut self, class: Class, len: Blocks) -> Option<BlockRange> {
        self.allocate_now(class, len)
    }

    fn free(&mut self, extent: BlockRange) {
        Placement::free(self, extent).expect("the extent is one");
    }
}

/// One bit a block, set where it is free; a search reads every word from the low end on.
struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    fn fill(&mut self, range: BlockRange, free: bool) {
        for block in range.iter().map(BlockId::get) {
            let word = &mut self.words[block as usize / 64];
            *word = *word & !(1 << (block % 64)) | u64::from(free) << (block % 64);
        }
    }
}

impl Allocator for Bitmap {
    fn adopt(placement: Placement) -> Self {
        let mut bitmap = Self { words: vec![0; placement.capacity().as_usize() / 64] };
        placement.iter_free().for_each(|run| bitmap.fill(run, true));
        bitmap
    }

    fn allocate(&mut self, _: Class, len: Blocks) -> Option<BlockRange> {
        let (mut start, mut have) = (0, 0);
        'words: for (index, &word) in self.words.iter().enumerate() {
            if word == 0 {
                have = 0;
                continue;
            }
            for bit in 0..64 {
                if word >> bit & 1 == 0 {
                    have = 0;
                    continue;
                }
                if have == 0 {
                    start = index as u32 * 64 + bit;
                }
                have += 1;
                if have == len.get() {
                    break 'words;
                }
            }
        }
        let found = BlockRange::new(BlockId::new(start), len);
        (have == len.get()).then(|| {
            self.fill(found, false);
            found
        })
    }

    fn free(&mut self, extent: BlockRange) {
        self.fill(extent, true);
    }
}

/// Free runs in order of their addresses; a search looks at each from the low end on.
struct Runs {
    free: BTreeMap<u32, u32>,
}

impl Allocator for Runs {
    fn adopt(placement: Placement) -> Self {
        let runs = placement.iter_free().map(|run| (run.start().get(), run.len().get()));
        Self { free: runs.collect() }
    }

    fn allocate(&mut self, _: Class, len: Blocks) -> Option<BlockRange> {
        let len = len.get();
        let (start, have) = self.free.iter().map(|(&s, &l)| (s, l)).find(|run| run.1 >= len)?;
        self.free.remove(&start);
        if have > len {
            self.free.insert(start + len, have - len);
        }
        Some(BlockRange::new(BlockId::new(start), Blocks::new(len)))
    }

    fn free(&mut self, extent: BlockRange) {
        let (mut start, mut end) = (extent.start().get(), extent.end().get());
        if let Some(len) = self.free.remove(&end) {
            end += len;
        }
        if let Some((&before, &len)) = self.free.range(..start).next_back()
            && before + len == start
        {
            start = before;
        }
        self.free.insert(start, end - start);
    }
}

/// One step of a trace: an extent to free, then one to allocate.
#[derive(Clone, Copy)]
struct Step {
    free: Option<BlockRange>,
    class: Class,
    len: Blocks,
}

/// Sets a table up. The same for every call with the same arguments.
fn set_up<A: Allocator>(
    capacity: Blocks,
    state: State,
    seed: u64,
) -> (A, Vec<(Class, BlockRange)>, SmallRng) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut table = Placement::new(capacity).expect("the table is mapped");
    let mut live = Vec::new();
    let quarter = capacity.get() / 4;
    let shares = [(Class::Pinned, quarter), (Class::Huge, quarter), (Class::Movable, 2 * quarter)];
    for (class, share) in shares {
        let mut left = if state == State::Fresh { 0 } else { share };
        while left > 0 {
            let len = state.len(&mut rng).min(Blocks::new(left));
            let Some(extent) = table.allocate_now(class, len) else { break };
            left -= len.get();
            live.push((class, extent));
        }
    }
    live.retain(|&(_, extent)| {
        let stays = rng.random_ratio(state.stay(), 100);
        if !stays {
            table.free(extent).expect("the extent is one");
        }
        stays
    });
    (A::adopt(table), live, rng)
}

/// A table in its state, and steps from there on.
struct Course<A> {
    capacity: Blocks,
    state: State,
    steps_max: usize,
    seed: u64,
    steps: Vec<Step>,
    table: A,
    next: usize,
}

impl<A: Allocator> Course<A> {
    fn new(size: Bytes, state: State, steps_max: usize) -> Self {
        let capacity = Blocks::holding(size).expect("a table of that many blocks");
        let table = set_up::<A>(capacity, state, 0).0;
        let steps = Vec::new();
        let mut course = Self { capacity, state, steps_max, seed: 0, steps, table, next: 0 };
        course.rewind();
        course
    }

    /// Another trace, and a table at its beginning.
    fn rewind(&mut self) {
        self.seed += 1;
        self.trace();
        self.table = set_up::<A>(self.capacity, self.state, self.seed).0;
        self.next = 0;
    }

    fn trace(&mut self) {
        let (state, steps) = (self.state, self.steps_max);
        let (mut table, mut live, mut rng) = set_up::<A>(self.capacity, state, self.seed);
        let steps = match state {
            State::Fresh => steps,
            _ => steps.min(live.len() / 8),
        };
        self.steps = (0..steps)
            .map(|_| {
                // In a fresh table few extents live at a time.
                let few = state == State::Fresh && live.len() < 64;
                let freed = (!few && !live.is_empty())
                    .then(|| live.swap_remove(rng.random_range(0..live.len())));
                let class = freed.map_or_else(|| Class::ALL[rng.random_range(0..3)], |f| f.0);
                let len = state.len(&mut rng);
                if let Some((_, extent)) = freed {
                    table.free(extent);
                }
                live.extend(table.allocate(class, len).map(|extent| (class, extent)));
                Step { free: freed.map(|freed| freed.1), class, len }
            })
            .collect();
    }

    /// Time for that many steps, without the setting up.
    #[inline(never)]
    fn run(&mut self, steps: u64) -> Duration {
        let (mut left, mut took) = (steps as usize, Duration::ZERO);
        while left > 0 {
            if self.next == self.steps.len() {
                self.rewind();
            }
            let now = left.min(self.steps.len() - self.next);
            let start = Instant::now();
            for step in &self.steps[self.next..self.next + now] {
                if let Some(extent) = step.free {
                    self.table.free(extent);
                }
                black_box(self.table.allocate(step.class, step.len));
            }
            took += start.elapsed();
            self.next += now;
            left -= now;
        }
        took
    }
}

/// Criterion's figures: one step, which is a free and an allocation.
fn figures<A: Allocator>(c: &mut Criterion, name: &str, steps: usize) {
    for state in STATES {
        let mut group = c.benchmark_group(format!("placement/{state:?}"));
        group.sample_size(10).warm_up_time(Duration::from_millis(50));
        group.measurement_time(Duration::from_millis(200));
        for (size, bytes) in SIZES {
            let mut course = None;
            group.bench_function(BenchmarkId::new(name, size), |b| {
                let course = course.get_or_insert_with(|| Course::<A>::new(bytes, state, steps));
                b.iter_custom(|iterations| course.run(iterations));
            });
        }
    }
}

/// Nanoseconds an operation at each size, and the ratios to the smallest. The sizes run in turn and
/// for a few milliseconds each, so that what else the machine does hits all of them.
fn ratios<A: Allocator>(name: &str, steps: usize) {
    for state in STATES {
        let mut courses = SIZES.map(|(_, size)| Course::<A>::new(size, state, steps));
        let mut times = [const { Vec::new() }; SIZES.len()];
        let piece = steps / PIECES;
        for _ in 0..ROUNDS * PIECES {
            for (course, times) in courses.iter_mut().zip(&mut times) {
                let took = course.run(piece as u64);
                times.push(took.as_secs_f64() * 1e9 / (2 * piece) as f64);
            }
        }
        print!("{name:>10} {:<6}", format!("{state:?}").to_lowercase());
        for times in &mut times {
            times.sort_by(f64::total_cmp);
        }
        let (median, least) =
            (|at: usize| times[at][times[at].len() / 2], |at: usize| times[at][0]);
        for (at, (size, _)) in SIZES.iter().enumerate() {
            let (of_median, of_least) = (median(at) / median(0), least(at) / least(0));
            print!("  {size}: {:8.1} {:8.1} ({of_median:.2} {of_least:.2})", median(at), least(at));
        }
        println!();
    }
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    figures::<Placement>(&mut criterion, "bookend", TRACE);
    criterion.final_summary();
    if std::env::args().any(|argument| argument == "--test") {
        return; // `cargo test --benches` asks whether it runs, not how fast
    }
    println!("\nnanoseconds an operation: median and least of runs in turn (ratios to 4GiB)");
    ratios::<Placement>("bookend", TRACE);
    ratios::<Bitmap>("bitmap", PEER_TRACE);
    ratios::<Runs>("btreemap", PEER_TRACE);
}
