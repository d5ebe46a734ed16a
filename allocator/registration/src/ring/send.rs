//! The end that sends.
#![allow(unsafe_code)] // posts work requests

use std::fmt;
use std::sync::Arc;

use super::memory::Memory;
use super::{Credits, Patience, RingError, Shape, next_end};
use crate::RegisterError;
use crate::verbs::{Access, Domain, Endpoint, QueuePair, QueueSizes, RemoteMemory};

/// Set in the numbers of requests that are not the last of a use.
const NOT_LAST: u64 = 1 << 63;

/// The end of a ring that sends; see the [module](super).
pub struct SendRing {
    /// Dropped first: then no request names the memory any more.
    queue: QueuePair,
    memory: Memory,
    credits: Credits,
    /// Uses whose requests have ended.
    ended: u64,
    immediates: bool,
}

impl SendRing {
    /// A ring in `domain`, at the first port, not connected yet. Its peer gets no rights to any memory.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn new(domain: &Arc<Domain>, shape: Shape) -> Result<Self, RegisterError> {
        // No rights for peers; those of this process keep the pages from being shared with a child.
        let memory = Memory::new(domain, shape, Access::LOCAL_WRITE)?;
        let sizes = QueueSizes { sends: 2 * shape.slots, receives: 1, entries: 1 };
        let queue = QueuePair::new(domain, 1, sizes, Access::LOCAL_READ)?;
        Ok(Self { queue, memory, credits: Credits::default(), ended: 0, immediates: true })
    }

    /// Where it is, for the other end.
    pub fn endpoint(&self) -> Endpoint {
        self.queue.endpoint()
    }

    /// What its memory is of, for people.
    pub fn describe(&self) -> String {
        self.memory.describe()
    }

    /// Connects it with the other end. `immediates`: whether writes may carry immediate data; what both ends'
    /// devices can.
    ///
    /// # Errors
    /// [`RegisterError::System`].
    pub fn connect(&mut self, peer: &Endpoint, immediates: bool) -> Result<(), RegisterError> {
        self.immediates = immediates;
        self.queue.connect(peer)
    }

    /// The other end's slots, each with its first key.
    ///
    /// # Errors
    /// [`RingError::Breach`]: none, more than this end has, or told before.
    pub fn open(&mut self, slots: Vec<RemoteMemory>) -> Result<(), RingError> {
        if self.credits != Credits::default() {
            return Err(RingError::Breach("tells its slots twice"));
        }
        self.credits = Credits::new(slots, self.memory.shape().slots)?;
        Ok(())
    }

    /// Whether there is a slot to write to; otherwise a key must come first.
    pub fn is_free(&self) -> bool {
        self.credits.next().is_some()
    }

    /// The other end has given the next key.
    ///
    /// # Errors
    /// [`RingError::Breach`]: too many.
    pub fn grant(&mut self, key: u32) -> Result<(), RingError> {
        self.credits.grant(key)
    }

    /// The memory of the next slot, which is written from there; it is the same until [`SendRing::send`].
    ///
    /// # Errors
    /// [`RingError`]; `Breach` where there is no slot.
    pub fn buffer(&mut self, patience: &Patience<'_>) -> Result<&mut [u8], RingError> {
        let (number, slot) = self.next()?;
        let slots = u64::from(self.memory.shape().slots);
        // Its last use has ended long ago as a rule: the key that came back says so.
        self.until(number.saturating_sub(slots - 1), patience)?;
        // SAFETY: the requests that name this slot have ended, and no peer has rights to it.
        Ok(unsafe { self.memory.bytes_mut(slot) })
    }

    fn next(&self) -> Result<(u64, usize), RingError> {
        let at = |(number, _)| (number, (number % u64::from(self.memory.shape().slots)) as usize);
        self.credits.next().map(at).ok_or(RingError::Breach("has given no key"))
    }

    /// Writes the first `len` bytes of the buffer to the other end's slot, and tells it.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn send(&mut self, len: usize) -> Result<(), RingError> {
        let (number, own) = self.next()?;
        let Some((_, _, to)) = self.credits.take() else {
            return Err(RingError::Breach("has given no key"));
        };
        let (mark, entry) = (number as u32, self.memory.entry(own, len)?);
        if self.immediates {
            // SAFETY: the slot stays registered until the queue pair is gone, and is lent again only after the
            // completion.
            unsafe { self.queue.write(number, &[entry], to, Some(mark))? };
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { self.queue.write(number | NOT_LAST, &[entry], to, None)? };
        self.memory.set_note(own, mark);
        // SAFETY: as above, for the note.
        unsafe { self.queue.send(number, &[self.memory.note_entry(own)?])? };
        Ok(())
    }

    /// Waits until all that was sent has arrived.
    ///
    /// # Errors
    /// [`RingError`].
    pub fn settle(&mut self, patience: &Patience<'_>) -> Result<(), RingError> {
        self.until(self.credits.sent(), patience)
    }

    /// Waits until that many uses have ended, which they do in order.
    fn until(&mut self, count: u64, patience: &Patience<'_>) -> Result<(), RingError> {
        while self.ended < count {
            let completion = next_end(&self.queue, patience)?;
            self.ended += u64::from(completion.id & NOT_LAST == 0);
        }
        Ok(())
    }
}

impl fmt::Debug for SendRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendRing({:?}, {:?})", self.queue, self.credits)
    }
}
