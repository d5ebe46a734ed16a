//! [`MovableSlab`]: records by keys, each a movable object of its own.

use core::fmt;

use super::error::MovableError;
use super::handle::Movable;
use super::session::Session;
use super::{MovableHeap, Pinned};
use crate::os::{Linux, Os};

/// Which record of a [`MovableSlab`]. A key of a record that was removed finds nothing, also when its
/// number is used again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Key {
    index: u32,
    generation: u32,
}

/// A record, or what its number had.
#[derive(Debug)]
struct Entry<T> {
    generation: u32,
    record: Option<Movable<T>>,
}

/// Records by keys, which are small, copied freely and stay the same wherever the records go. Each is
/// an object of its own, so that a block of which most were removed can be emptied.
///
/// The table of entries is on the program's own heap: 24 bytes a record.
pub struct MovableSlab<T, O: Os = Linux> {
    heap: MovableHeap<O>,
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
    len: usize,
}

impl<T: Send + 'static, O: Os> MovableSlab<T, O> {
    /// An empty one.
    pub fn new(heap: &MovableHeap<O>) -> Self {
        Self { heap: heap.clone(), entries: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// The heap that the records are in.
    pub fn heap(&self) -> &MovableHeap<O> {
        &self.heap
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves a record in, and says its key.
    ///
    /// # Errors
    /// As [`MovableHeap::insert`]; [`MovableError::TooManyObjects`] where all keys are used.
    pub fn insert(&mut self, record: T) -> Result<Key, MovableError> {
        let record = self.heap.insert(record)?;
        let index = match self.free.pop() {
            Some(index) => index,
            None => self.add_entry()?,
        };
        let entry = &mut self.entries[index as usize];
        entry.record = Some(record);
        self.len += 1;
        Ok(Key { index, generation: entry.generation })
    }

    fn add_entry(&mut self) -> Result<u32, MovableError> {
        let most = u32::MAX;
        let index = u32::try_from(self.entries.len()).ok().filter(|&index| index < most);
        let index = index.ok_or(MovableError::TooManyObjects { most })?;
        self.entries.push(Entry { generation: 0, record: None });
        Ok(index)
    }

    /// Drops a record. Whether there was one.
    pub fn remove(&mut self, key: Key) -> bool {
        let Some(entry) = self.entries.get_mut(key.index as usize) else { return false };
        if entry.generation != key.generation {
            return false;
        }
        let Some(record) = entry.record.take() else { return false };
        self.len -= 1;
        entry.generation = entry.generation.wrapping_add(1);
        // A number whose generations are used up is never used again.
        if entry.generation != 0 {
            self.free.push(key.index);
        }
        drop(record);
        true
    }

    /// A record's handle.
    fn find(&self, key: Key) -> Option<&Movable<T>> {
        let entry = self.entries.get(key.index as usize)?;
        entry.record.as_ref().filter(|_| entry.generation == key.generation)
    }

    /// Whether there is such a record.
    pub fn contains(&self, key: Key) -> bool {
        self.find(key).is_some()
    }

    /// A record.
    pub fn get<'a>(&'a self, session: &'a Session<'_>, key: Key) -> Option<&'a T> {
        Some(session.get(self.find(key)?))
    }

    /// A record, to be changed.
    pub fn get_mut<'a>(&'a mut self, session: &'a Session<'_>, key: Key) -> Option<&'a mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        let record = entry.record.as_mut().filter(|_| entry.generation == key.generation)?;
        Some(session.get_mut(record))
    }

    /// Keeps a record where it is.
    ///
    /// # Errors
    /// As [`MovableHeap::pin`]. `None` where there is no such record.
    pub fn pin(&self, key: Key) -> Option<Result<Pinned<'_, T>, MovableError>> {
        Some(self.heap.pin(self.find(key)?))
    }

    /// All records, by number.
    pub fn iter<'a>(
        &'a self,
        session: &'a Session<'_>,
    ) -> impl Iterator<Item = (Key, &'a T)> + use<'a, T, O> {
        self.entries.iter().zip(0..).filter_map(move |(entry, index)| {
            let record = session.get(entry.record.as_ref()?);
            Some((Key { index, generation: entry.generation }, record))
        })
    }

    /// All records, to be changed.
    pub fn iter_mut<'a>(
        &'a mut self,
        session: &'a Session<'_>,
    ) -> impl Iterator<Item = (Key, &'a mut T)> + use<'a, T, O> {
        self.entries.iter_mut().zip(0..).filter_map(move |(entry, index)| {
            let key = Key { index, generation: entry.generation };
            Some((key, session.get_mut(entry.record.as_mut()?)))
        })
    }
}

impl<T, O: Os> fmt::Debug for MovableSlab<T, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MovableSlab({} records)", self.len)
    }
}
