//! The end that receives.
#![allow(unsafe_code)] // posts work requests, shows what a device wrote

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::memory::{Memory, NOTE};
use super::{Patience, RingError, Shape, Turns, next_end};
use crate::RegisterError;
use crate::verbs::{
    Access, Completion, Domain, Endpoint, QueuePair, QueueSizes, RemoteMemory, Window,
};

/// Set in the numbers of receive requests, whose rest is the note; other requests are of this end's windows.
const RECEIVE: u64 = 1 << 63;

/// The end of a ring that receives; see the [module](super).
pub struct ReceiveRing {
    /// One for each slot; none where the device has none. Dropped first: devices keep a queue pair, and memory, that
    /// windows are bound to (Soft-RoCE waits 50 s for them).
    windows: Vec<Window>,
    /// Dropped before the memory: then no peer reaches it any more.
    queue: QueuePair,
    memory: Memory,
    turns: Turns,
    immediates: bool,
    /// What the sender told and nobody asked for yet, and the note it came by: each has its room again when it
    /// is asked for, so that there are never more than slots.
    told: VecDeque<(u32, usize)>,
    /// The slot whose bytes are shown, and how many.
    shown: Option<(usize, usize)>,
}

impl ReceiveRing {
    /// A ring in `domain`, at the first port, not connected yet.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn new(domain: &Arc<Domain>, shape: Shape) -> Result<Self, RegisterError> {
        match domain.device().limits().windows {
            // It may have none left.
            true => Self::with(domain, shape, true).or_else(|_| Self::with(domain, shape, false)),
            false => Self::with(domain, shape, false),
        }
    }

    /// As [`ReceiveRing::new`], without memory windows even where the device has them.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn without_windows(domain: &Arc<Domain>, shape: Shape) -> Result<Self, RegisterError> {
        Self::with(domain, shape, false)
    }

    fn with(domain: &Arc<Domain>, shape: Shape, windows: bool) -> Result<Self, RegisterError> {
        // With windows the regions' own keys give nobody anything.
        let rights = if windows { Access::WINDOWS } else { Access::REMOTE_WRITE };
        let memory = Memory::new(domain, shape, Access::LOCAL_WRITE | rights)?;
        let sizes = QueueSizes { sends: 2, receives: shape.slots, entries: 1 };
        let queue = QueuePair::new(domain, 1, sizes, Access::REMOTE_WRITE)?;
        // Made last: the kernel ends what a killed process has left from the last thing on.
        let windows = (0..if windows { shape.slots } else { 0 }).map(|_| Window::new(domain));
        let windows = windows.collect::<Result<_, _>>()?;
        let turns = Turns::new(shape.slots);
        let (told, immediates, shown) = (VecDeque::new(), true, None);
        Ok(Self { windows, queue, memory, turns, immediates, told, shown })
    }

    /// Where it is, for the other end.
    pub fn endpoint(&self) -> Endpoint {
        self.queue.endpoint()
    }

    /// Whether keys are taken back; otherwise slots are copied.
    pub fn has_windows(&self) -> bool {
        !self.windows.is_empty()
    }

    /// What its memory is of, for people.
    pub fn describe(&self) -> String {
        self.memory.describe()
    }

    /// Connects it with the other end; `immediates` as there.
    ///
    /// # Errors
    /// [`RegisterError::System`].
    pub fn connect(&mut self, peer: &Endpoint, immediates: bool) -> Result<(), RegisterError> {
        self.immediates = immediates;
        self.queue.connect(peer)
    }

    /// Makes room for what the other end tells, and gives it a key for every slot. To be called once.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn open(&mut self, patience: &Patience<'_>) -> Result<Vec<RemoteMemory>, RingError> {
        let slots = 0..self.memory.shape().slots as usize;
        slots
            .map(|slot| {
                self.make_room(slot)?;
                let key = self.bind(slot, patience)?;
                Ok(RemoteMemory { address: self.memory.slot(slot).addr() as u64, key })
            })
            .collect()
    }

    fn make_room(&mut self, note: usize) -> Result<(), RingError> {
        let entry = self.memory.note_entry(note)?;
        let entries = if self.immediates { &[][..] } else { std::slice::from_ref(&entry) };
        // SAFETY: notes stay registered until the queue pair is gone, and are read after the completion only.
        unsafe { self.queue.receive(RECEIVE | note as u64, entries)? };
        Ok(())
    }

    /// A key for a slot; the sender is to write no more than that.
    fn bind(&mut self, slot: usize, patience: &Patience<'_>) -> Result<u32, RingError> {
        if self.windows.is_empty() {
            return Ok(self.memory.region(slot)?.rkey());
        }
        let part = (self.memory.slot(slot).cast_const(), self.memory.shape().slot.as_usize());
        let (region, window) = (self.memory.region(slot)?, &mut self.windows[slot]);
        self.queue.bind(slot as u64, window, region, part, Access::REMOTE_WRITE)?;
        self.until_done(patience)?;
        Ok(self.windows[slot].rkey())
    }

    /// Waits for the one request of this end's own that is under way.
    fn until_done(&mut self, patience: &Patience<'_>) -> Result<(), RingError> {
        loop {
            let completion = next_end(&self.queue, patience)?;
            if completion.id & RECEIVE == 0 {
                return Ok(());
            }
            self.hear(&completion)?;
        }
    }

    /// The sender has told something.
    fn hear(&mut self, completion: &Completion) -> Result<(), RingError> {
        let note = (completion.id & !RECEIVE) as usize;
        let mark = match (completion.immediate, self.immediates) {
            (Some(mark), true) => mark,
            (None, false) if completion.bytes as usize == NOTE => self.memory.note(note),
            _ => return Err(RingError::Breach("sends what was not agreed on")),
        };
        self.told.push_back((mark, note));
        Ok(())
    }

    /// Waits until the next slot is written, and takes its key back: from then on its first `len` bytes, which
    /// [`ReceiveRing::data`] shows, stay as they are.
    ///
    /// # Errors
    /// [`RingError`]; `Breach` also where `len` is more than a slot has.
    pub fn arrive(&mut self, len: usize, patience: &Patience<'_>) -> Result<(), RingError> {
        if len > self.memory.shape().slot.as_usize() {
            return Err(RingError::Breach("writes more than a slot holds"));
        }
        self.shown = None;
        while self.told.is_empty() {
            let completion = next_end(&self.queue, patience)?;
            self.hear(&completion)?;
        }
        let (mark, note) = self.told.pop_front().ok_or(RingError::Stopped)?;
        let slot = self.turns.arrive(mark)?;
        // Before the key that lets the sender tell more.
        self.make_room(note)?;
        match self.windows.get(slot) {
            Some(window) => {
                self.queue.invalidate(slot as u64, window.rkey())?;
                self.until_done(patience)?;
            }
            None => self.memory.copy_out(slot, len),
        }
        self.shown = Some((slot, len));
        Ok(())
    }

    /// The bytes that arrived last; none before anything did, and after they were given back.
    pub fn data(&self) -> &[u8] {
        match self.shown {
            None => &[],
            Some((_, len)) if self.windows.is_empty() => self.memory.copy(len),
            // SAFETY: (1) no request of this process names the slot; (2) the key that its window was bound
            // with is invalid, and it is bound anew only by `give_back`, which needs this borrow to have ended;
            // (3) the region has no rights for peers.
            Some((slot, len)) => unsafe { self.memory.bytes(slot, len) },
        }
    }

    /// Lets the other end write to the slot whose bytes were used, if one is held: the key for it.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn give_back(&mut self, patience: &Patience<'_>) -> Result<Option<u32>, RingError> {
        self.shown = None;
        self.turns.give_back().map(|slot| self.bind(slot, patience)).transpose()
    }
}

impl fmt::Debug for ReceiveRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveRing({:?}, {:?})", self.queue, self.turns)
    }
}
