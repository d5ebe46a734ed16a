//! The workloads: what programs do to a heap that makes it old.
//!
//! | workload | what happens |
//! | --- | --- |
//! | `lru` | the cache of Mesh's paper (Powers and others, PLDI 2019, 6.2.2) after Redis's own test of fragmentation: 700,000 values of 240 bytes, then 170,000 of 492, at most 100 MiB; as in Redis the oldest of five taken at random goes |
//! | `drift` | 100 MiB of values; their usual size doubles from 64 bytes to 8 KiB in 28 steps, in each of which half of the bytes are replaced, at random |
//! | `sawtooth` | up to 100 MiB and down to 10, six times, short values (16 to 512 bytes) and long ones (256 bytes to 16 KiB) in turn; what goes is chosen at random |
//! | `sessions` | a server of four threads: a session has 20 values of 16 bytes to 2 KiB and a buffer of 4 to 64 KiB, and any thread ends it; 100 MiB by day and 20 by night, two days, new threads each half day |
//!
//! Sizes within bounds are drawn with the logarithm uniform. All counts and bytes are scaled by
//! `--scale`, sizes are not. At the end there is rest of two seconds, with few requests, so that an
//! allocator that gives memory back after a delay comes to do so.

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::ValueEnum;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::table::Table;
use super::values::{Counted, ValueError, Values};
use super::watch::Watch;

/// Which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Workload {
    /// The cache of Mesh's paper
    Lru,
    /// Values that become longer over time
    Drift,
    /// Memory that is filled and emptied
    Sawtooth,
    /// A server whose threads end each other's sessions
    Sessions,
}

/// Why a workload stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkloadError {
    /// The allocator.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// The tables that the workload keeps, or the files of `/proc` that it reads.
    #[error("cannot watch the heap")]
    Watch(#[from] io::Error),
    /// More values than there was room for.
    #[error("the workload's own table of {0} values is full, which is a defect of fragbench")]
    Full(usize),
}

/// What limits a workload at scale 1.
const LIMIT: f64 = (100u64 << 20) as f64;
const LRU: [(f64, usize); 2] = [(700_000.0, 240), (170_000.0, 492)];
/// Redis looks at so many before one goes.
const LRU_LOOKS: usize = 5;
const DRIFT_STEPS: u32 = 28;
const DRIFT_FIRST: f64 = 64.0;
const TEETH: u32 = 6;
const SHORT: (f64, f64) = (16.0, 512.0);
const LONG: (f64, f64) = (256.0, 16384.0);
const THREADS: u64 = 4;
const SESSION_VALUES: usize = 20;
const SESSION_SIZES: (f64, f64) = (16.0, 2048.0);
const BUFFER_SIZES: (f64, f64) = (4096.0, 65536.0);
/// Parts of the limit by day and by night; and how often each thread works, in bytes over the limit.
const HALF_DAYS: [f64; 4] = [1.0, 0.2, 1.0, 0.2];
const SESSION_WORK: f64 = 2.0;
const SHARDS: usize = 64;
const RESTS: u32 = 200;
const REST: Duration = Duration::from_millis(10);

impl Workload {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lru, Self::Drift, Self::Sawtooth, Self::Sessions];

    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lru => "lru",
            Self::Drift => "drift",
            Self::Sawtooth => "sawtooth",
            Self::Sessions => "sessions",
        }
    }
}

/// Most bytes that live at a time.
pub fn limit(scale: f64) -> u64 {
    (LIMIT * scale) as u64
}

/// Runs one.
///
/// # Errors
/// [`WorkloadError`].
pub fn run<V: Values>(
    workload: Workload,
    values: &Counted<V>,
    seed: u64,
    scale: f64,
    watch: &mut Watch,
) -> Result<(), WorkloadError> {
    let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    if workload == Workload::Sessions {
        return sessions(values, seed, scale, watch);
    }
    let smallest = match workload {
        Workload::Lru => LRU[0].1,
        Workload::Drift => 45, // 64 over the root of two
        _ => SHORT.0 as usize,
    };
    // A tooth of short values has a mean of 143 bytes; a third of that is room enough.
    let room = limit(scale) as usize / smallest.min(48) + 1024;
    let mut one = Single { values, watch, rng, held: Table::new(room)?, clock: 0 };
    match workload {
        Workload::Lru => one.lru(scale)?,
        Workload::Drift => one.drift(scale)?,
        _ => one.sawtooth(scale)?,
    }
    one.end()
}

/// A size within bounds, its logarithm uniform.
fn between(rng: &mut Xoshiro256PlusPlus, (low, high): (f64, f64)) -> usize {
    (low * (high / low).powf(rng.random())) as usize
}

struct Held<T> {
    value: T,
    len: u32,
    /// When it was made.
    age: u64,
}

/// A workload of one thread.
struct Single<'a, V: Values> {
    values: &'a Counted<V>,
    watch: &'a mut Watch,
    rng: Xoshiro256PlusPlus,
    held: Table<Held<V::Value>>,
    clock: u64,
}

impl<V: Values> Single<'_, V> {
    fn live(&self) -> u64 {
        self.values.live().0
    }

    fn make(&mut self, len: usize) -> Result<(), WorkloadError> {
        let age = self.clock;
        self.clock += 1;
        let value = self.values.make(len, age as u8)?;
        let room = self.held.len();
        self.held.push(Held { value, len: len as u32, age }).map_err(|_| WorkloadError::Full(room))
    }

    fn end_at(&mut self, index: usize) -> Result<(), WorkloadError> {
        let Held { value, len, age } = self.held.swap_remove(index);
        Ok(self.values.end(value, len as usize, age as u8)?)
    }

    fn end_any(&mut self) -> Result<(), WorkloadError> {
        let index = self.rng.random_range(0..self.held.len());
        self.end_at(index)
    }

    /// Of a few, the one that was made first.
    fn evict(&mut self) -> Result<(), WorkloadError> {
        let (held, rng) = (&self.held, &mut self.rng);
        let looks = (0..LRU_LOOKS).map(|_| rng.random_range(0..held.len()));
        let oldest = looks.min_by_key(|&index| held[index].age);
        oldest.map_or(Ok(()), |index| self.end_at(index))
    }

    fn lru(&mut self, scale: f64) -> Result<(), WorkloadError> {
        let total: f64 = LRU.iter().map(|(count, _)| count * scale).sum();
        for (count, len) in LRU {
            for _ in 0..(count * scale) as u64 {
                while self.live() + len as u64 > limit(scale) && !self.held.is_empty() {
                    self.evict()?;
                }
                self.make(len)?;
                self.watch.at(self.clock as f64 / total, self.values)?;
            }
        }
        Ok(())
    }

    fn drift(&mut self, scale: f64) -> Result<(), WorkloadError> {
        for step in 0..DRIFT_STEPS {
            let usual = DRIFT_FIRST * 2f64.powf(f64::from(step) / 4.0);
            let sizes = (usual / 2f64.sqrt(), usual * 2f64.sqrt());
            // The first step fills the heap as well.
            let bytes = limit(scale) / 2 * if step == 0 { 3 } else { 1 };
            let mut made = 0;
            while made < bytes {
                let len = between(&mut self.rng, sizes);
                while self.live() + len as u64 > limit(scale) && !self.held.is_empty() {
                    self.end_any()?;
                }
                self.make(len)?;
                made += len as u64;
                let part = (f64::from(step) + made as f64 / bytes as f64) / f64::from(DRIFT_STEPS);
                self.watch.at(part, self.values)?;
            }
        }
        Ok(())
    }

    fn sawtooth(&mut self, scale: f64) -> Result<(), WorkloadError> {
        let (top, bottom) = (limit(scale), limit(scale) / 10);
        for tooth in 0..TEETH {
            let sizes = if tooth % 2 == 0 { SHORT } else { LONG };
            let whole = |part: f64| (f64::from(tooth) + part) / f64::from(TEETH);
            while self.live() < top {
                let len = between(&mut self.rng, sizes);
                self.make(len)?;
                let up = self.live() as f64 / top as f64;
                self.watch.at(whole(up / 2.0), self.values)?;
            }
            while self.live() > bottom {
                self.end_any()?;
                let down = 1.0 - self.live() as f64 / top as f64;
                self.watch.at(whole(0.5 + down / 2.0), self.values)?;
            }
        }
        Ok(())
    }

    /// Rests, has a last look, and ends what is left, which looks at its bytes.
    fn end(mut self) -> Result<(), WorkloadError> {
        self.watch.rests();
        rest(self.values, &mut self.rng)?;
        self.watch.finish(self.values)?;
        while !self.held.is_empty() {
            self.end_at(self.held.len() - 1)?;
        }
        Ok(())
    }
}

/// Two seconds with few requests.
fn rest<V: Values>(values: &Counted<V>, rng: &mut Xoshiro256PlusPlus) -> Result<(), WorkloadError> {
    for _ in 0..RESTS {
        thread::sleep(REST);
        for _ in 0..8 {
            let len = between(rng, LONG);
            let value = values.make(len, 1)?;
            values.end(value, len, 1)?;
        }
        values.rest();
    }
    Ok(())
}

/// Of one session; the last of its values is the buffer.
struct Session<T> {
    values: [Option<(T, u32)>; SESSION_VALUES + 1],
    bytes: u64,
    stamp: u8,
}

type Shard<T> = Mutex<Table<Session<T>>>;

struct Server<'a, V: Values> {
    values: &'a Counted<V>,
    shards: [Shard<V::Value>; SHARDS],
    /// Bytes of all sessions, those that are being made included.
    wanted: AtomicU64,
    /// Bytes that have been asked for.
    worked: AtomicU64,
}

fn sessions<V: Values>(
    values: &Counted<V>,
    seed: u64,
    scale: f64,
    watch: &mut Watch,
) -> Result<(), WorkloadError> {
    // A session has 4 KiB at least; the shards differ by chance.
    let room = (limit(scale) / 4096) as usize / SHARDS * 4 + 64;
    let mut shards = Vec::with_capacity(SHARDS);
    for _ in 0..SHARDS {
        shards.push(Mutex::new(Table::new(room)?));
    }
    let shards = shards.try_into().map_err(|_| WorkloadError::Full(SHARDS))?;
    let server = Server { values, shards, wanted: AtomicU64::new(0), worked: AtomicU64::new(0) };
    for (index, part) in HALF_DAYS.into_iter().enumerate() {
        let most = (limit(scale) as f64 * part) as u64;
        let work = (limit(scale) as f64 * SESSION_WORK) as u64 * (index as u64 + 1);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let seed = seed ^ (index as u64 * THREADS + thread + 1) << 32;
                    let server = &server;
                    scope.spawn(move || server.serve(seed, most, work))
                })
                .collect();
            while threads.iter().any(|thread| !thread.is_finished()) {
                thread::sleep(Duration::from_millis(2));
                let all = limit(scale) as f64 * SESSION_WORK * HALF_DAYS.len() as f64;
                let done = server.worked.load(Ordering::Relaxed) as f64 / all;
                watch.at(done.min(1.0), values)?;
            }
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })?;
    }
    watch.rests();
    rest(values, &mut Xoshiro256PlusPlus::seed_from_u64(seed))?;
    watch.finish(values)?;
    for shard in server.shards {
        let mut shard = shard.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        while let Some(session) = shard.pop() {
            end_session(values, session)?;
        }
    }
    Ok(())
}

impl<V: Values> Server<'_, V> {
    /// One thread: begins and ends sessions until so much work has been done by all.
    fn serve(&self, seed: u64, most: u64, work: u64) -> Result<(), WorkloadError> {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        while self.worked.load(Ordering::Relaxed) < work {
            let session = self.begin(&mut rng)?;
            let bytes = session.bytes;
            self.worked.fetch_add(bytes, Ordering::Relaxed);
            let shard = rng.random_range(0..SHARDS);
            let pushed = self.lock(shard).push(session);
            pushed.map_err(|_| WorkloadError::Full(SHARDS))?;
            let mut wanted = self.wanted.fetch_add(bytes, Ordering::Relaxed) + bytes;
            while wanted > most {
                let shard = rng.random_range(0..SHARDS);
                let mut sessions = self.lock(shard);
                if sessions.is_empty() {
                    continue;
                }
                let index = rng.random_range(0..sessions.len());
                let session = sessions.swap_remove(index);
                drop(sessions);
                wanted = self.wanted.fetch_sub(session.bytes, Ordering::Relaxed) - session.bytes;
                end_session(self.values, session)?;
            }
        }
        Ok(())
    }

    fn lock(&self, shard: usize) -> std::sync::MutexGuard<'_, Table<Session<V::Value>>> {
        self.shards[shard].lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn begin(&self, rng: &mut Xoshiro256PlusPlus) -> Result<Session<V::Value>, WorkloadError> {
        let stamp = rng.random();
        let mut session = Session { values: [const { None }; SESSION_VALUES + 1], bytes: 0, stamp };
        for index in 0..=SESSION_VALUES {
            let sizes = if index < SESSION_VALUES { SESSION_SIZES } else { BUFFER_SIZES };
            let len = between(rng, sizes);
            session.values[index] = Some((self.values.make(len, stamp)?, len as u32));
            session.bytes += len as u64;
        }
        Ok(session)
    }
}

fn end_session<V: Values>(
    values: &Counted<V>,
    session: Session<V::Value>,
) -> Result<(), WorkloadError> {
    for (value, len) in session.values.into_iter().flatten() {
        values.end(value, len as usize, session.stamp)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::values::{Malloc, Moving};
    use super::*;
    use bookend::units::Bytes;

    const SCALE: f64 = 0.02;

    /// Each workload reaches its limit, and keeps to it.
    #[test]
    fn workloads_fill_the_heap_and_no_more() {
        for workload in Workload::ALL {
            let values = Counted::new(Malloc);
            let mut watch = Watch::new().unwrap();
            run(workload, &values, 1, SCALE, &mut watch).unwrap();
            let (live, peak) = values.live();
            let limit = limit(SCALE);
            assert_eq!(live, 0, "{workload:?} ends all of its values");
            // Threads are each one session ahead.
            let ahead = THREADS * (64 << 10) * 2;
            assert!((limit * 9 / 10..=limit + ahead).contains(&peak), "{workload:?}: {peak}");
            let seen = watch.seen(&values);
            let last = seen.samples.last().unwrap();
            // Of threads only those looks are made for which there is time.
            let looks = if workload == Workload::Sessions { 2 } else { 20 };
            assert!(seen.samples.len() >= looks, "{workload:?}: {}", seen.samples.len());
            let left = match workload {
                Workload::Lru | Workload::Drift => 0.95..=1.0,
                Workload::Sawtooth => 0.09..=0.10,
                // A fifth, but for a session or two, of which each is up to a twentieth: threads
                // that make room at the same time make too much.
                Workload::Sessions => 0.05..=0.25,
            };
            let part = last.live as f64 / limit as f64;
            assert!(left.contains(&part), "{workload:?} ends with {part}");
        }
    }

    #[test]
    fn values_that_move_are_whole_under_every_workload() {
        for workload in Workload::ALL {
            let values = Counted::new(Moving::new(Bytes::new(limit(SCALE))).unwrap());
            let mut watch = Watch::new().unwrap();
            run(workload, &values, 1, SCALE, &mut watch).unwrap();
        }
    }
}
