//! The memory of a ring: slots, and beside them a copy's place and notes, in one pool.
#![allow(unsafe_code)] // lends memory that a device writes to

use std::ptr;
use std::sync::Arc;

use bookend::pool::{Pool, Rung, SharedPin, Use};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::Shape;
use crate::verbs::{Access, Domain, Regions, Sge};
use crate::{Region, RegisterError, Registrar};

/// Bytes of the message that stands for immediate data.
pub(super) const NOTE: usize = 4;

type PoolRegion = Region<Regions, SharedPin<Arc<Pool>>>;

/// See the module. The queue pair whose requests name this memory is to be dropped before it.
///
/// ```text
/// | slot 0 | slot 1 | … | (to a whole block) | the copy | notes |
/// ```
pub(super) struct Memory {
    /// Peers may reach it, through windows or by its key.
    slots: PoolRegion,
    /// Only this process's requests reach it.
    own: PoolRegion,
    shape: Shape,
}

fn blocks_of(bytes: Bytes) -> Blocks {
    Blocks::new(bytes.get().div_ceil(Blocks::ONE.bytes().get()) as u32) // of a shape that was checked
}

impl Memory {
    /// Memory for `shape` near the device, of huge pages where there are any; `access` is what may be done with
    /// the slots.
    pub(super) fn new(
        domain: &Arc<Domain>,
        shape: Shape,
        access: Access,
    ) -> Result<Self, RegisterError> {
        let shape = shape.check()?;
        let ring = blocks_of(Bytes::new(shape.slot.get() * u64::from(shape.slots)));
        let notes = Bytes::new(NOTE as u64 * u64::from(shape.slots));
        let own = blocks_of(shape.slot + notes);
        let capacity = ring.bytes() + own.bytes();
        let builder = || Pool::builder().capacity(capacity).rung(Rung::Huge, Use::Allowed);
        let pool = match domain.device().node() {
            // A node that is full, or not ours to use, is no reason to go without.
            Some(node) => builder().node(node).build().or_else(|_| builder().build())?,
            None => builder().build()?,
        };
        let pool = Arc::new(pool);
        let register = |start: u32, len: Blocks, access| {
            let range = BlockRange::new(BlockId::new(start), len);
            let mut registrar = domain.registrar(access)?;
            if access.contains(Access::WINDOWS) {
                // A region for each slot: there are devices that know a window's key, and not its bounds
                // (Soft-RoCE), where it would open the slots beside its own.
                registrar = registrar.pieces_of(shape.slot);
            }
            registrar.register(SharedPin::new(pool.clone(), range)?)
        };
        let slots = register(0, ring, access)?;
        let own = register(ring.get(), own, Access::LOCAL_WRITE)?;
        let memory = Self { slots, own, shape };
        for slot in 0..shape.slots as usize {
            memory.entry(slot, shape.slot.as_usize())?; // later it cannot fail
        }
        Ok(memory)
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// The first byte of a slot.
    pub(super) fn slot(&self, slot: usize) -> *mut u8 {
        assert!(slot < self.shape.slots as usize);
        let range = self.slots.held().range();
        // Within the blocks of the slots, by the assertion.
        let base = self.slots.held().pool().address(range.start()).as_ptr();
        base.wrapping_add(slot * self.shape.slot.as_usize())
    }

    /// The region that a slot lies in.
    pub(super) fn region(&self, slot: usize) -> Result<&crate::verbs::Region, RegisterError> {
        let (start, len) = (self.slot(slot), self.shape.slot.as_usize());
        self.slots.registration().region_of(start, len).ok_or_else(no_region)
    }

    /// The first `len` bytes of a slot, for a request.
    pub(super) fn entry(&self, slot: usize, len: usize) -> Result<Sge, RegisterError> {
        assert!(len <= self.shape.slot.as_usize());
        let (region, start) = (self.region(slot)?, self.slot(slot));
        Ok(Sge { addr: start.addr() as u64, length: len as u32, lkey: region.lkey() })
    }

    /// The bytes of a slot.
    ///
    /// # Safety
    /// No device reads or writes them while the slice lives: no request of this process names them, and no peer
    /// has a key for them.
    pub(super) unsafe fn bytes(&self, slot: usize, len: usize) -> &[u8] {
        assert!(len <= self.shape.slot.as_usize());
        // SAFETY: (1) so many bytes from there on are of the pool, present since it was built; (2) the pin
        // holds them; (3) nobody writes to them, by the caller.
        unsafe { std::slice::from_raw_parts(self.slot(slot), len) }
    }

    /// As [`Memory::bytes`], to write to.
    ///
    /// # Safety
    /// As there.
    pub(super) unsafe fn bytes_mut(&mut self, slot: usize) -> &mut [u8] {
        // SAFETY: as above; the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.slot(slot), self.shape.slot.as_usize()) }
    }

    fn own(&self, offset: usize) -> *mut u8 {
        let range = self.own.held().range();
        self.own.held().pool().address(range.start()).as_ptr().wrapping_add(offset)
    }

    /// Copies the first bytes of a slot to where only this process writes.
    pub(super) fn copy_out(&mut self, slot: usize, len: usize) {
        assert!(len <= self.shape.slot.as_usize());
        // SAFETY: (1) both ranges are of the pool, present and apart; (2) a peer may be writing to the source:
        // then some of the old bytes are copied and some of the new, which is what the copy is for; no
        // reference is made to them.
        unsafe { ptr::copy_nonoverlapping(self.slot(slot), self.own(0), len) }
    }

    /// The copy's first bytes.
    pub(super) fn copy(&self, len: usize) -> &[u8] {
        assert!(len <= self.shape.slot.as_usize());
        // SAFETY: they are of the pool, present, and written to by `copy_out` alone, which borrows this uniquely.
        unsafe { std::slice::from_raw_parts(self.own(0), len) }
    }

    fn note_at(&self, note: usize) -> *mut u8 {
        assert!(note < self.shape.slots as usize);
        self.own(self.shape.slot.as_usize() + note * NOTE)
    }

    /// A note, for a request.
    pub(super) fn note_entry(&self, note: usize) -> Result<Sge, RegisterError> {
        let start = self.note_at(note);
        let region = self.own.registration().region_of(start, NOTE).ok_or_else(no_region)?;
        Ok(Sge { addr: start.addr() as u64, length: NOTE as u32, lkey: region.lkey() })
    }

    /// What a note says, whose request has ended.
    pub(super) fn note(&self, note: usize) -> u32 {
        let mut bytes = [0; NOTE];
        // SAFETY: they are of the pool, present; the copy makes no reference to what a device writes.
        unsafe { ptr::copy_nonoverlapping(self.note_at(note), bytes.as_mut_ptr(), NOTE) };
        u32::from_le_bytes(bytes)
    }

    /// Writes a note, which no request names.
    pub(super) fn set_note(&mut self, note: usize, mark: u32) {
        let bytes = mark.to_le_bytes();
        // SAFETY: as above; the borrow is unique.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.note_at(note), NOTE) };
    }

    /// What its memory is of, for people.
    pub(super) fn describe(&self) -> String {
        let page = self.slots.registration().page();
        page.map_or_else(String::new, |page| format!("pages of {page}"))
    }
}

fn no_region() -> RegisterError {
    RegisterError::Unsupported {
        what: "a ring of slots",
        why: "a slot lies in more than one memory region of this device".to_owned(),
    }
}
