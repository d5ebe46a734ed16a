//! What a thread can do with a heap.
#![allow(unsafe_code)] // hands out memory

use core::ptr::{self, NonNull};

#[cfg(test)]
use super::classes::{ALIGN_MIN, SLAB_OBJECT_MAX};
use super::classes::{Class, SLICE_BYTES};
use super::core::{Heap, Shared};
use super::fatal::{Fault, die};
use super::local::{Joins, Local, Own, Standing};
use super::tables::Entry;
use crate::os::Os;

/// Longer requests are refused: pointers into an allocation must have differences.
const SIZE_MAX: usize = isize::MAX as usize;

/// A thread's heap, attached.
pub(super) struct Thread<'heap, O: Os> {
    heap: &'heap Heap<O>,
    shared: &'heap Shared,
    local: NonNull<Local>,
}

impl<'heap, O: Os> Thread<'heap, O> {
    /// # Safety
    /// The heap has attached `local` for this thread, which has not left it.
    pub unsafe fn new(heap: &'heap Heap<O>, shared: &'heap Shared, local: NonNull<Local>) -> Self {
        Self { heap, shared, local }
    }

    fn own(&self) -> *mut Own {
        // SAFETY: the heap is mapped.
        unsafe { &raw mut (*self.local.as_ptr()).own }
    }

    fn standing(&self) -> &Standing {
        // SAFETY: as above, and this part is for everybody.
        unsafe { &(*self.local.as_ptr()).standing }
    }

    /// `size` bytes, aligned to 16; null where there is no memory.
    #[cfg(test)]
    pub fn allocate(&self, size: usize) -> *mut u8 {
        if size > SLAB_OBJECT_MAX {
            return allocate_long(self.heap, size, ALIGN_MIN).0;
        }
        let class = Class::of(size);
        // SAFETY: the heap is this thread's.
        match unsafe { Own::take(self.own(), class) } {
            Some(at) => at.as_ptr(),
            None => self.refill(class, Joins::WhereFull),
        }
    }

    /// The same, from neighbours wherever there are such.
    #[cfg(test)]
    pub fn allocate_joined(&self, size: usize) -> *mut u8 {
        let class = Class::of(size);
        // SAFETY: the heap is this thread's.
        match unsafe { Own::take(self.own(), class) } {
            Some(at) => at.as_ptr(),
            None => self.refill(class, Joins::First),
        }
    }

    /// An object of a class whose bin is empty, or was that of a heap that this thread had not.
    pub fn refill(&self, class: Class, joins: Joins) -> *mut u8 {
        // SAFETY: the heap is this thread's, and nothing of it is referred to at present.
        let object = unsafe { Own::take(self.own(), class) }.or_else(|| {
            // SAFETY: as above.
            let own = unsafe { &mut *self.own() };
            own.refill(self.standing(), self.heap, self.shared, class, joins)
        });
        self.tick();
        object.map_or(ptr::null_mut(), NonNull::as_ptr)
    }

    /// Counts a request that takes long; some of them look for what may go back to the system.
    fn tick(&self) {
        // SAFETY: as in `refill`.
        let own = unsafe { &mut *self.own() };
        if own.round.tick() {
            self.look_around();
        }
    }

    /// Looks for what may go back to the system.
    #[cold]
    pub fn look_around(&self) {
        // SAFETY: as in `refill`.
        let own = unsafe { &mut *self.own() };
        self.heap.look_around(self.shared, self.standing(), own);
    }

    /// Looks at all blocks.
    #[cfg(test)]
    pub fn look_at_all(&self) {
        // SAFETY: as in `refill`.
        let own = unsafe { &mut *self.own() };
        self.heap.look_at_all(self.shared, self.standing(), own);
    }

    /// Gives back all that is free; whether that was anything.
    pub fn trim(&self) -> bool {
        // SAFETY: as in `refill`.
        self.heap.trim(unsafe { &*self.own() }.owner())
    }

    /// # Safety
    /// `at` is an allocation of this heap, or null.
    #[cfg(test)]
    pub unsafe fn free(&self, at: *mut u8) {
        // SAFETY: the caller's.
        unsafe {
            if !Own::keep(self.own(), at) {
                self.free_slowly(at);
            }
        }
    }

    /// Frees what could not be kept in a bin.
    ///
    /// # Safety
    /// `at` is an allocation of this heap, or null.
    pub unsafe fn free_slowly(&self, at: *mut u8) {
        let entry = self.shared.view.slice(at as usize).map(|slice| self.shared.view.entry(slice));
        // SAFETY: the heap is this thread's, and nothing of it is referred to at present.
        let own = unsafe { &mut *self.own() };
        match entry {
            // SAFETY: the bin was full; the rest is the caller's.
            Some(entry @ Entry::Slab(_, class)) if own.is_own(entry) => unsafe {
                own.spill(self.heap, self.shared, class, at);
                self.tick();
            },
            // SAFETY: the caller's.
            Some(Entry::Slab(_, class)) if own.sets_aside(class) => unsafe {
                own.send(self.heap, self.shared, class, at);
            },
            // SAFETY: the caller's.
            _ => unsafe { free_elsewhere(self.heap, at) },
        }
    }
}

/// Frees what is not of the calling thread's slabs; it need not have a heap.
///
/// # Safety
/// `at` is an allocation of this heap, or null.
pub(super) unsafe fn free_elsewhere<O: Os>(heap: &Heap<O>, at: *mut u8) {
    if at.is_null() {
        return;
    }
    let address = at as usize;
    let Some(shared) = heap.shared() else { die(Fault::Foreign, address) };
    let Some(slice) = shared.view.slice(address) else { die(Fault::Foreign, address) };
    match shared.view.entry(slice) {
        Entry::Slab(_, class) => heap.free_remotely(shared, class, &[at]),
        Entry::Run(_) | Entry::Huge if address == shared.view.address(slice) => {
            if heap.with(|central| central.free(slice)) != Some(true) {
                die(Fault::Twice, address);
            }
        }
        Entry::Run(_) | Entry::Huge => die(Fault::Interior, address),
        Entry::Nothing => die(Fault::Foreign, address),
    }
}

/// An allocation longer than an object of a slab, or aligned to more than a slice; whether it is
/// zero.
pub(super) fn allocate_long<O: Os>(heap: &Heap<O>, size: usize, align: usize) -> (*mut u8, bool) {
    if size > SIZE_MAX - align {
        return (ptr::null_mut(), false);
    }
    match heap.with(|central| central.allocate(size, align)).flatten() {
        Some((at, zero)) => (at.as_ptr(), zero),
        None => (ptr::null_mut(), false),
    }
}

/// Bytes that may be used of an allocation.
///
/// # Safety
/// `at` is an allocation of this heap.
pub(super) unsafe fn usable<O: Os>(heap: &Heap<O>, at: *const u8) -> usize {
    let address = at as usize;
    let Some(shared) = heap.shared() else { return 0 };
    let Some(slice) = shared.view.slice(address) else { return 0 };
    match shared.view.entry(slice) {
        Entry::Slab(_, class) => heap.usable_of_slab(shared, (slice, class), address),
        Entry::Run(slices) => slices as usize * SLICE_BYTES,
        Entry::Huge => heap.with(|central| central.usable(slice)).unwrap_or(0),
        Entry::Nothing => 0,
    }
}

/// Whether an allocation of `usable` bytes may stay where it is for a request of `size`: what is
/// wasted is at most half.
pub(super) const fn fits(size: usize, usable: usize) -> bool {
    size <= usable && size >= usable / 2
}

/// Makes a long allocation longer or shorter without copying; null where that cannot be done.
///
/// # Safety
/// `at` is an allocation of this heap, of which nothing is used through other pointers meanwhile.
pub(super) unsafe fn resize_long<O: Os>(heap: &Heap<O>, at: *mut u8, size: usize) -> *mut u8 {
    let resized = heap.shared().and_then(|shared| {
        let slice = shared.view.slice(at as usize)?;
        heap.with(|central| central.resize(slice, size))?
    });
    resized.map_or(ptr::null_mut(), NonNull::as_ptr)
}
