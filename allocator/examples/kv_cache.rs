//! A key-value cache in memory that gives memory back: `cargo run --release --example kv_cache`.
//!
//! Records stand in a [`MovableSlab`], their values in objects of their own, and the least recently
//! used goes when values take more than a limit. When the limit falls most of them go, and what is left
//! stands scattered over blocks; it is moved together, and the others are given back.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;

use bookend::movable::{Budget, Key, MovableBytes, MovableError, MovableHeap, MovableSlab};
use bookend::placement::Arena;
use bookend::pool::{Pool, Populate, Rung, Use};
use bookend::units::Bytes;

/// A record, in the order of use: `older` towards what goes first.
struct Record {
    name: String,
    value: MovableBytes,
    older: Option<Key>,
    newer: Option<Key>,
}

struct Cache {
    records: MovableSlab<Record>,
    keys: HashMap<String, Key>,
    oldest: Option<Key>,
    newest: Option<Key>,
    used: Bytes,
    limit: Bytes,
}

impl Cache {
    fn new(heap: &MovableHeap, limit: Bytes) -> Self {
        let records = MovableSlab::new(heap);
        let (keys, used) = (HashMap::new(), Bytes::ZERO);
        Self { records, keys, oldest: None, newest: None, used, limit }
    }

    fn put(&mut self, name: &str, value: &[u8]) -> Result<(), MovableError> {
        if let Some(&key) = self.keys.get(name) {
            self.remove(key);
        }
        let value = self.records.heap().insert_bytes(value)?;
        self.used = self.used + Bytes::of_len(value.len());
        let record = Record { name: name.to_owned(), value, older: None, newer: None };
        let key = self.records.insert(record)?;
        self.keys.insert(name.to_owned(), key);
        self.link(key);
        self.evict();
        Ok(())
    }

    /// Calls `with` with a value, which is the most recently used then.
    fn get<R>(&mut self, name: &str, with: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let key = *self.keys.get(name)?;
        self.unlink(key);
        self.link(key);
        let session = self.records.heap().session();
        Some(with(session.bytes(&self.records.get(&session, key)?.value)))
    }

    fn set_limit(&mut self, limit: Bytes) {
        self.limit = limit;
        self.evict();
    }

    fn evict(&mut self) {
        while self.used > self.limit
            && let Some(oldest) = self.oldest
        {
            self.remove(oldest);
        }
    }

    fn remove(&mut self, key: Key) {
        self.unlink(key);
        let heap = self.records.heap().clone();
        let session = heap.session();
        if let Some(record) = self.records.get(&session, key) {
            self.used = self.used - Bytes::of_len(record.value.len());
            self.keys.remove(&record.name);
        }
        self.records.remove(key);
    }

    /// Changes a record.
    fn change(&mut self, key: Option<Key>, change: impl FnOnce(&mut Record)) -> bool {
        let heap = self.records.heap().clone();
        let session = heap.session();
        let record = key.and_then(|key| self.records.get_mut(&session, key));
        record.map(change).is_some()
    }

    fn link(&mut self, key: Key) {
        let newest = self.newest.replace(key);
        self.change(Some(key), |record| (record.older, record.newer) = (newest, None));
        if !self.change(newest, |record| record.newer = Some(key)) {
            self.oldest = Some(key);
        }
    }

    fn unlink(&mut self, key: Key) {
        let (mut older, mut newer) = (None, None);
        self.change(Some(key), |record| (older, newer) = (record.older, record.newer));
        if !self.change(older, |record| record.newer = newer) {
            self.oldest = newer;
        }
        if !self.change(newer, |record| record.older = older) {
            self.newest = older;
        }
    }
}

fn heap() -> Result<MovableHeap, Box<dyn Error>> {
    // Huge pages on touch where there are some, and none reserved.
    let pool = Pool::builder()
        .capacity(Bytes::mib(256))
        .rung(Rung::Gigantic, Use::Forbidden)
        .rung(Rung::Huge, Use::Forbidden)
        .populate(Populate::OnDemand)
        .build()?;
    Ok(MovableHeap::new(Arc::new(Arena::new(pool)?))?)
}

/// A value that its number tells, of 100 bytes to 4 KiB.
fn value(number: usize) -> Vec<u8> {
    vec![number as u8; 100 + number.wrapping_mul(2_654_435_761) % 4000]
}

fn blocks_of(heap: &MovableHeap) -> usize {
    heap.snapshot().movable.len()
}

fn main() -> Result<(), Box<dyn Error>> {
    let heap = heap()?;
    let mut cache = Cache::new(&heap, Bytes::mib(64));
    for number in 0..60_000 {
        cache.put(&format!("key {number}"), &value(number))?;
        // Some are asked for all the time, and so stay.
        if number % 10 == 9 {
            cache.get(&format!("key {}", number / 10), |_| ());
        }
    }
    println!("filled: {} records, {} in {} blocks", cache.keys.len(), cache.used, blocks_of(&heap));

    cache.set_limit(Bytes::mib(8));
    println!("limit of 8 MiB: {} in {} blocks", cache.used, blocks_of(&heap));

    let compacted = heap.compact(&mut Budget::UNLIMITED.clone())?;
    let released = heap.arena().release_free()?;
    println!(
        "moved {} objects, {}: {} blocks emptied, {} given back; {} blocks are left",
        compacted.carried.objects,
        compacted.carried.bytes,
        compacted.emptied.get(),
        released.get(),
        blocks_of(&heap)
    );

    let names: Vec<String> = cache.keys.keys().cloned().collect();
    for name in names {
        let number = name["key ".len()..].parse()?;
        if cache.get(&name, |found| found == value(number)) != Some(true) {
            return Err(format!("{name} has changed").into());
        }
    }
    println!("every value is what it was");
    Ok(())
}
