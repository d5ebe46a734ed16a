//! A thread's heap: bins of objects that are ready to be handed out, and the slabs they come from.
//!
//! # A small object, step by step
//! `allocate` takes the topmost pointer of the bin of its class. `free` looks up the word of the
//! object's slice: if it is this thread's, the pointer goes on top of the bin. Neither touches the
//! object. When a bin is empty it is refilled from the class's current slab; when it is full, the
//! half that has lain there longest goes back to its slabs. An object freed by another thread is
//! marked in its slab, and taken back when the owner next runs out (see [`remote`]).
//!
//! # Slabs
//! Of each class one slab is *current*; others with free objects are on the class's list; full ones
//! are on none. An empty slab goes back to the filler, unless it is the last with room: a single
//! object coming and going would take and give back a slab each time. (Of objects longer than a
//! slice none is kept.)
//!
//! A heap has a thread, or it is *retired* and waits for one: what is freed into its slabs
//! meanwhile is looked after by whoever frees it. A few retired heaps keep what is in their bins,
//! because programs that end threads begin others; the rest are emptied.
#![allow(unsafe_code)] // memory of its own, and objects

use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};

use super::config::Config;
use super::classes::{ALIGN_MIN, CLASSES, Class, SLICE_SHIFT, TABLE_MAX};
use super::core::{Heap, Shared};
use super::fatal::{Fault, die};
use super::holder::Holder;
use super::record::{SliceRef, State};
use super::recording::Lane;
use super::remote;
use super::tables::{BIN_BYTES, Entry, OWNERS_MAX, Owner};
use crate::os::Os;

/// A thread's heap, as it stands in memory.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Local {
    /// The thread's.
    pub own: Own,
    /// Everybody's.
    pub standing: Standing,
}

/// Objects of a class, ready to be handed out: pointers from `floor` up to `top`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Bin {
    top: *mut *mut u8,
    floor: *mut *mut u8,
    end: *mut *mut u8,
}

impl Bin {
    const NONE: Self = Self { top: ptr::null_mut(), floor: ptr::null_mut(), end: ptr::null_mut() };

    /// An empty one.
    ///
    /// # Safety
    /// There are so many places.
    unsafe fn new(floor: NonNull<*mut u8>, places: u32) -> Self {
        let floor = floor.as_ptr();
        // SAFETY: the caller's.
        Self { top: floor, floor, end: unsafe { floor.add(places as usize) } }
    }

    /// What is in it.
    ///
    /// # Safety
    /// It is a bin of this thread's heap, and nothing is added for as long as the objects are
    /// looked at.
    unsafe fn objects<'a>(self) -> &'a [*mut u8] {
        // SAFETY: between `floor` and `top` there are pointers.
        unsafe {
            core::slice::from_raw_parts(self.floor, self.top.offset_from(self.floor) as usize)
        }
    }

    /// Leaves out the `gone` that lay longest, at least one, and puts an object on top.
    ///
    /// # Safety
    /// It is a bin of this thread's heap, and there are so many.
    unsafe fn replace(&mut self, gone: usize, at: *mut u8) {
        // SAFETY: (1) the rest moves down within the bin; (2) at least one place is free then.
        unsafe {
            let left = self.top.offset_from(self.floor) as usize - gone;
            ptr::copy(self.floor.add(gone), self.floor, left);
            let top = self.floor.add(left);
            top.write(at);
            self.top = top.add(1);
        }
    }
}

/// The slabs of a class.
#[derive(Clone, Copy, Debug)]
struct Shelf {
    /// First slice of the one that objects are taken from.
    current: Option<SliceRef>,
    /// The first of the others that have free objects.
    partial: Option<SliceRef>,
    /// How many objects to take at a time: few at first, so that a class that is hardly used keeps
    /// few.
    batch: u32,
}

/// The thread's part.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Own {
    /// The word of this thread's slices but for the class, as the fast paths know it; one that no slice
    /// has where there is no heap, and where every free is to be checked or recorded.
    tag: u64,
    base: usize,
    slices: usize,
    entries: *const AtomicU32,
    bins: [Bin; CLASSES],
    /// Objects of other threads' slabs that this one has freed.
    aside: [Bin; CLASSES],
    /// Where all sizes are looked for whose allocations are recorded: it has no object.
    none: Bin,
    /// Where the bin of a size of so many sixteenths stands, in bytes: here, because one address is
    /// found sooner than two.
    small: [u16; SMALL],
    /// As `tag`, for the slow paths, which come after what is recorded.
    home: u64,
    /// The place in a recording of whose heap this is.
    lane: *mut Lane,
    owner: Owner,
    shelves: [Shelf; CLASSES],
    /// No thread has it, so no empty slab is worth keeping.
    retired: bool,
    /// No thread has it, and what was in its bins still is.
    warm: bool,
}

/// Sizes that are looked up.
const SMALL: usize = TABLE_MAX / ALIGN_MIN + 1;
const SMALL_BINS: [u16; SMALL] = {
    let mut bins = [0; SMALL];
    let mut at = 0;
    while at < SMALL {
        bins[at] = Class::of(at * ALIGN_MIN).bin() as u16;
        at += 1;
    }
    bins
};

/// The same where every one is recorded.
const NO_BINS: [u16; SMALL] = [(2 * CLASSES * BIN_BYTES) as u16; SMALL];

/// A tag that no word of a slice has.
const NOBODY: u64 = 0xffff_f000;
const _: () = assert!(
    core::mem::offset_of!(Own, none) - core::mem::offset_of!(Own, bins) == 2 * CLASSES * BIN_BYTES
);
const _: () = assert!(size_of::<Bin>() == BIN_BYTES && (Owner(OWNERS_MAX).tag() as u64) < NOBODY);
/// The first batch.
const BATCH_MIN: u32 = 4;

/// Where the pointers of each bin and of each class's objects set aside begin, after the `Local`, in
/// pointers; and how many there are in all.
const PLACES: ([[usize; CLASSES]; 2], usize) = {
    let mut places = [[0; CLASSES]; 2];
    let (mut class, mut at) = (0, 0);
    while class < CLASSES {
        let shape = Class(class as u8).shape_const();
        places[0][class] = at;
        at += shape.kept as usize;
        places[1][class] = at;
        at += shape.aside as usize;
        class += 1;
    }
    (places, at)
};

/// Bytes of a `Local` and its bins' pointers.
pub(super) const BYTES: usize = size_of::<Local>() + PLACES.1 * size_of::<*mut u8>();

/// A heap without a slab, for threads that have none yet: every bin is empty and every object
/// somebody else's, so that nothing is ever written.
pub(super) static EMPTY: Local = Local {
    own: Own {
        tag: NOBODY,
        base: 0,
        slices: 0,
        entries: ptr::null(),
        bins: [Bin::NONE; CLASSES],
        aside: [Bin::NONE; CLASSES],
        none: Bin::NONE,
        home: NOBODY,
        lane: ptr::null_mut(),
        shelves: [Shelf { current: None, partial: None, batch: 0 }; CLASSES],
        small: SMALL_BINS,
        owner: Owner(0),
        retired: true,
        warm: false,
    },
    standing: Standing::new(),
};

// SAFETY: a thread's part is used by its thread alone (or by a visitor while it has none); the
// empty heap is never written.
unsafe impl Sync for Local {}

impl Local {
    /// Makes a heap of zeroed memory.
    ///
    /// # Safety
    /// `memory` has [`BYTES`] bytes, is aligned to a page, and nobody else's.
    pub unsafe fn place(memory: NonNull<u8>, owner: Owner, shared: &Shared) -> NonNull<Self> {
        let local: NonNull<Self> = memory.cast();
        // SAFETY: (1) it is the caller's to write, and long enough; (2) zeros are a value of every
        // field, so it may be referred to.
        let (own, pointers) = unsafe { (&mut (*local.as_ptr()).own, local.add(1).cast()) };
        let Config { secure, record, .. } = shared.config;
        own.home = if secure { NOBODY } else { owner.tag().into() };
        own.tag = if record { NOBODY } else { own.home };
        own.small = if record { NO_BINS } else { SMALL_BINS };
        own.owner = owner;
        own.base = shared.view.base;
        own.slices = shared.view.slices;
        own.entries = shared.view.entries.as_ptr();
        for index in 0..CLASSES {
            let shape = Class(index as u8).shape();
            // With frees checked at once nothing is set aside.
            let aside = if secure { 0 } else { shape.aside };
            // SAFETY: the places of all bins lie after the heap, so many for each.
            unsafe {
                own.bins[index] = Bin::new(pointers.add(PLACES.0[0][index]), shape.kept);
                own.aside[index] = Bin::new(pointers.add(PLACES.0[1][index]), aside);
            }
        }
        for shelf in &mut own.shelves {
            shelf.batch = BATCH_MIN;
        }
        local
    }
}

impl Own {
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// A thread has taken it; whether it was warm.
    pub fn begin(&mut self) -> bool {
        self.retired = false;
        core::mem::take(&mut self.warm)
    }

    /// The thread leaves it as it is.
    pub fn rest(&mut self) {
        self.retired = true;
        self.warm = true;
    }

    /// Whether an address lies in a slab of this heap.
    fn owns(&self, shared: &Shared, at: usize) -> bool {
        shared.view.slice(at).is_some_and(|slice| shared.view.owner(slice) == self.owner)
    }

    /// Whether frees of a slice that is so go through this thread's bins.
    pub fn is_own(&self, entry: Entry) -> bool {
        (u64::from(entry.word()) ^ self.home) < (CLASSES * BIN_BYTES) as u64
    }

    /// The owner, and where its place in a recording is kept.
    ///
    /// # Safety
    /// `own` is this thread's heap.
    pub unsafe fn lane(own: *mut Self) -> (u32, NonNull<*mut Lane>) {
        // SAFETY: the caller's; a field of a heap has an address.
        unsafe { ((*own).owner.0, NonNull::new_unchecked(&raw mut (*own).lane)) }
    }

    // The fast paths. They take a pointer because the empty heap, which is never written, must not
    // be referred to as if it could be.

    /// The bin that stands `offset` bytes into the bins.
    ///
    /// # Safety
    /// `own` is a heap, and there is a bin.
    #[inline(always)]
    unsafe fn bin(own: *mut Self, offset: usize) -> *mut Bin {
        // SAFETY: the caller's.
        unsafe { own.byte_add(core::mem::offset_of!(Self, bins) + offset).cast() }
    }

    /// An object of a class, if one is at hand.
    ///
    /// # Safety
    /// `own` is this thread's, or the empty heap's.
    #[inline(always)]
    pub unsafe fn take(own: *mut Self, class: Class) -> Option<NonNull<u8>> {
        // SAFETY: there are as many bins as classes; the rest is the caller's.
        unsafe { Self::take_from(Self::bin(own, class.bin())) }
    }

    /// # Safety
    /// The bin is this thread's, or the empty heap's.
    #[inline(always)]
    unsafe fn take_from(bin: *mut Bin) -> Option<NonNull<u8>> {
        // SAFETY: where the bin is not empty the heap is this thread's to write, and the pointer
        // below `top` is an object's.
        unsafe {
            let top = (*bin).top;
            if top == (*bin).floor {
                return None;
            }
            (*bin).top = top.sub(1);
            Some(NonNull::new_unchecked(*top.sub(1)))
        }
    }

    /// An object of at least `size` bytes, if that is a small size and one is at hand.
    ///
    /// # Safety
    /// As [`Own::take`].
    #[inline(always)]
    pub unsafe fn take_small(own: *mut Self, size: usize) -> Option<NonNull<u8>> {
        if size > TABLE_MAX {
            return None;
        }
        // SAFETY: (1) the table has an entry for each sixteenth of `TABLE_MAX`, and for zero;
        // (2) it says where a bin stands; the rest is the caller's.
        unsafe {
            let small = (&raw const (*own).small).cast::<u16>();
            let offset = usize::from(*small.add(size.div_ceil(ALIGN_MIN)));
            Self::take_from(Self::bin(own, offset))
        }
    }

    /// Keeps an object for this thread's next request; whether it could: it is of a slab of this
    /// thread's, and its bin has room.
    ///
    /// # Safety
    /// As [`Own::take`]; and where `at` is in a slab of this thread's, it is an object of it that
    /// has been handed out.
    #[inline(always)]
    pub unsafe fn keep(own: *mut Self, at: *mut u8) -> bool {
        // SAFETY: the caller's.
        unsafe { Self::keep_as(own, at, (*own).tag) }
    }

    /// The same after the free has been recorded, which [`Own::keep`] leaves alone.
    ///
    /// # Safety
    /// As [`Own::keep`].
    pub unsafe fn keep_recorded(own: *mut Self, at: *mut u8) -> bool {
        // SAFETY: the caller's.
        unsafe { Self::keep_as(own, at, (*own).home) }
    }

    /// # Safety
    /// As [`Own::keep`]; the tag is the heap's, or nobody's.
    #[inline(always)]
    unsafe fn keep_as(own: *mut Self, at: *mut u8, tag: u64) -> bool {
        // SAFETY: (1) a word has the heap's tag only where that is this thread's to write; (2) then
        // what is left of it is where a bin stands.
        unsafe {
            let Some(word) = Self::word(own, at) else { return false };
            let offset = (u64::from(word) ^ tag) as usize;
            offset < CLASSES * BIN_BYTES && Self::push(Self::bin(own, offset), at)
        }
    }

    /// The word of an address's slice, if it is one of the span.
    ///
    /// # Safety
    /// `own` is a heap.
    #[inline(always)]
    unsafe fn word(own: *mut Self, at: *mut u8) -> Option<u32> {
        // SAFETY: a slice of the span has a word; the rest is the caller's.
        unsafe {
            let slice = (at as usize).wrapping_sub((*own).base) >> SLICE_SHIFT;
            (slice < (*own).slices).then(|| (*(*own).entries.add(slice)).load(Ordering::Relaxed))
        }
    }

    /// Puts an object on top of a bin; whether it had room.
    ///
    /// # Safety
    /// The bin is of this thread's heap.
    #[inline(always)]
    unsafe fn push(bin: *mut Bin, at: *mut u8) -> bool {
        // SAFETY: a bin that is not full has a place at `top`; the rest is the caller's.
        unsafe {
            let top = (*bin).top;
            if top == (*bin).end {
                return false;
            }
            *top = at;
            (*bin).top = top.add(1);
        }
        true
    }

    /// Sets an object of another thread's slab aside; whether it could: it is one, and there is room.
    ///
    /// # Safety
    /// As [`Own::keep`], for objects of other threads' slabs.
    #[inline]
    pub unsafe fn set_aside(own: *mut Self, at: *mut u8) -> bool {
        // SAFETY: (1) where a word is that of a slab, the lower bits say where the bin stands among
        // others; (2) the empty heap has no slices, so this one is the thread's to write.
        unsafe {
            let Some(word) = Self::word(own, at) else { return false };
            if (u64::from(word) ^ (*own).home) < (CLASSES * BIN_BYTES) as u64 {
                return false;
            }
            let Some(offset) = Entry::bin_of(word) else { return false };
            Self::push((&raw mut (*own).aside).byte_add(offset).cast(), at)
        }
    }

    /// Whether other threads' objects of a class are set aside.
    pub fn sets_aside(&self, class: Class) -> bool {
        let aside = self.aside[class.index()];
        aside.floor != aside.end
    }

    /// Frees an object of another thread's slab where as many are set aside as may be: half of them
    /// go to their slabs.
    ///
    /// # Safety
    /// It is an object of that class of another thread's slab, and has been handed out.
    pub unsafe fn send<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
        at: *mut u8,
    ) {
        // SAFETY: the bin is this thread's, and is not added to before the objects are gone.
        let objects = unsafe { self.aside[class.index()].objects() };
        let gone = objects.len().div_ceil(2);
        heap.free_remotely(shared, class, &objects[..gone]);
        // SAFETY: there were so many.
        unsafe { self.aside[class.index()].replace(gone, at) }
    }

    /// Everything set aside goes to its slabs.
    pub fn send_all<O: Os>(&mut self, heap: &Heap<O>, shared: &Shared) {
        for class in (0..CLASSES as u8).map(Class) {
            let aside = self.aside[class.index()];
            // SAFETY: as above; and nothing is added before the next free.
            heap.free_remotely(shared, class, unsafe { aside.objects() });
            self.aside[class.index()].top = aside.floor;
        }
    }

    /// Takes what is set aside of a class whose bin is empty for the bin, if that is enough.
    fn take_aside(&mut self, class: Class) -> bool {
        let aside = self.aside[class.index()];
        // SAFETY: as above.
        let objects = unsafe { aside.objects() };
        if objects.len() < class.shape().reused as usize {
            return false;
        }
        let bin = &mut self.bins[class.index()];
        // SAFETY: the bin is empty, and has at least as many places.
        unsafe {
            ptr::copy_nonoverlapping(objects.as_ptr(), bin.floor, objects.len());
            bin.top = bin.floor.add(objects.len());
        }
        self.aside[class.index()].top = aside.floor;
        true
    }

    // Refilling.

    /// An object of a class whose bin is empty; refills the bin.
    pub fn refill<O: Os>(
        &mut self,
        standing: &Standing,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
    ) -> Option<NonNull<u8>> {
        if self.take_aside(class) {
            // SAFETY: this is the thread's own.
            return unsafe { Self::take(self, class) };
        }
        let head = self.slab_with_room(standing, heap, shared, class)?;
        let (shape, shelf) = (class.shape(), &mut self.shelves[class.index()]);
        let base = shared.view.address(head) as *mut u8;
        let bin = &mut self.bins[class.index()];
        debug_assert!(bin.top == bin.floor, "only an empty bin is refilled");
        // SAFETY: the slab is this thread's.
        let slab = unsafe { shared.view.record(head).slab() };
        let count = shelf.batch.min(slab.free_objects()).min(shape.kept);
        shelf.batch = (shelf.batch * 2).min((shape.kept / 2).max(1));
        // From the top down, so that they are handed out in the order of their addresses.
        // SAFETY: the bin is empty and has `kept` places.
        let mut place = unsafe { bin.floor.add(count as usize) };
        bin.top = place;
        slab.take(count, |object| {
            // SAFETY: (1) as many objects as places; (2) the object lies in the slab.
            unsafe {
                place = place.sub(1);
                place.write(base.add(object as usize * shape.size as usize));
            }
        });
        // SAFETY: this is the thread's own.
        unsafe { Self::take(self, class) }
    }

    /// The current slab of a class, or another one that becomes it.
    fn slab_with_room<O: Os>(
        &mut self,
        standing: &Standing,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
    ) -> Option<u32> {
        if let Some(current) = self.shelves[class.index()].current {
            // SAFETY: the slab is this thread's.
            let slab = unsafe { shared.view.record(current.slice()).slab() };
            if slab.free_objects() > 0 {
                return Some(current.slice());
            }
            slab.state = State::Full;
            self.shelves[class.index()].current = None;
        }
        self.hear(standing, heap, shared);
        let head = match self.shelves[class.index()].partial {
            Some(partial) => {
                self.unlink(shared, partial.slice(), class);
                partial.slice()
            }
            None => heap.with(|central| central.new_slab(class, self.owner))??,
        };
        // SAFETY: as above.
        unsafe { shared.view.record(head).slab() }.state = State::Current;
        self.shelves[class.index()].current = Some(SliceRef::new(head));
        Some(head)
    }

    /// Takes back what other threads have freed.
    pub fn hear<O: Os>(&mut self, standing: &Standing, heap: &Heap<O>, shared: &Shared) {
        let mut next = SliceRef::from_word(remote::take_list(&standing.pending));
        while let Some(slab) = next {
            let head = slab.slice();
            // SAFETY: it is on the list, so it was a slab.
            let record = unsafe { shared.view.record(head) };
            next = SliceRef::from_word(record.link.load(Ordering::Relaxed));
            match shared.view.entry(head) {
                Entry::Slab(owner, class) if owner == self.owner && record.to_head() == 0 => {
                    // SAFETY: the slab is this thread's.
                    if let Err(object) = unsafe { record.hear() } {
                        let at = object as usize * class.shape().size as usize;
                        die(Fault::Twice, shared.view.address(head) + at);
                    }
                    self.after_free(heap, shared, head, class);
                }
                _ => heap.settle(shared, head),
            }
        }
    }

    // Putting back.

    /// Frees an object of this thread's whose bin is full: half of the bin goes back to its slabs.
    ///
    /// # Safety
    /// It is an object of that class of a slab of this thread's, and has been handed out.
    pub unsafe fn spill<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
        at: *mut u8,
    ) {
        // SAFETY: the bin is this thread's, and is not added to before the objects are gone.
        let objects = unsafe { self.bins[class.index()].objects() };
        let gone = objects.len().div_ceil(2);
        self.put_all_back(heap, shared, class, &objects[..gone]);
        // SAFETY: there were so many.
        unsafe { self.bins[class.index()].replace(gone, at) }
    }

    /// Puts objects of a class back into their slabs: this thread's, often many of the same one, and
    /// those of other threads from which it took what it had set aside.
    fn put_all_back<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
        objects: &[*mut u8],
    ) {
        // One after the other, though neighbours often lie in the same slab: what tells them from
        // others is a branch that no processor foresees.
        let mut left = objects;
        while let Some((&object, rest)) = left.split_first() {
            let at = object as usize;
            if !self.owns(shared, at) {
                let others = left.iter().take_while(|&&at| !self.owns(shared, at as usize)).count();
                heap.free_remotely(shared, class, &left[..others]);
                left = &left[others..];
                continue;
            }
            // SAFETY: the object lies in a slab of this thread's, which is of that class.
            let head = unsafe { shared.view.head(at, class) };
            // SAFETY: as above.
            let slab = unsafe { shared.view.record(head).slab() };
            if let Err(fault) = slab.give(class.shape(), at - shared.view.address(head)) {
                die(fault, at);
            }
            if slab.state == State::Full || (slab.state == State::Partial && slab.is_empty()) {
                self.after_free(heap, shared, head, class);
            }
            left = rest;
        }
    }

    /// Puts a slab where it belongs after objects came back to it.
    fn after_free<O: Os>(&mut self, heap: &Heap<O>, shared: &Shared, head: u32, class: Class) {
        // SAFETY: the slab is this thread's.
        let slab = unsafe { shared.view.record(head).slab() };
        if slab.state == State::Full && slab.free_objects() > 0 {
            self.link(shared, head, class);
        }
        if slab.state == State::Partial
            && slab.is_empty()
            && (self.retired || class.is_large() || self.has_other_room(shared, head, class))
        {
            self.unlink(shared, head, class);
            heap.with(|central| central.end_slab(head, class));
        }
    }

    /// Whether a class has free objects elsewhere than in a slab.
    fn has_other_room(&self, shared: &Shared, head: u32, class: Class) -> bool {
        let shelf = &self.shelves[class.index()];
        let current = shelf.current.is_some_and(|current| {
            // SAFETY: the slab is this thread's.
            unsafe { shared.view.record(current.slice()).slab() }.free_objects() > 0
        });
        // SAFETY: as above.
        let next = || unsafe { shared.view.record(head).slab() }.next;
        current || shelf.partial != Some(SliceRef::new(head)) || next().is_some()
    }

    /// Puts a slab onto its class's list.
    fn link(&mut self, shared: &Shared, head: u32, class: Class) {
        let shelf = &mut self.shelves[class.index()];
        // SAFETY: the slabs of the list are this thread's, and two different ones.
        unsafe {
            let slab = shared.view.record(head).slab();
            slab.state = State::Partial;
            (slab.previous, slab.next) = (None, shelf.partial);
            if let Some(first) = shelf.partial {
                shared.view.record(first.slice()).slab().previous = Some(SliceRef::new(head));
            }
        }
        shelf.partial = Some(SliceRef::new(head));
    }

    /// Takes a slab off its class's list.
    fn unlink(&mut self, shared: &Shared, head: u32, class: Class) {
        // SAFETY: the slabs of the list are this thread's, and all different.
        unsafe {
            let slab = shared.view.record(head).slab();
            let (previous, next) = (slab.previous.take(), slab.next.take());
            if let Some(next) = next {
                shared.view.record(next.slice()).slab().previous = previous;
            }
            match previous {
                Some(previous) => shared.view.record(previous.slice()).slab().next = next,
                None => self.shelves[class.index()].partial = next,
            }
        }
    }

    /// For a heap that the thread leaves, or has left: everything kept goes back to its slabs, and
    /// the slabs that are empty to the filler. Whether it was warm.
    pub fn empty<O: Os>(&mut self, standing: &Standing, heap: &Heap<O>, shared: &Shared) -> bool {
        self.retired = true;
        self.hear(standing, heap, shared);
        for class in (0..CLASSES as u8).map(Class) {
            let index = class.index();
            self.shelves[index].batch = BATCH_MIN;
            // One may have been kept empty.
            let mut next = self.shelves[index].partial;
            while let Some(partial) = next {
                // SAFETY: the slab is this thread's.
                next = unsafe { shared.view.record(partial.slice()).slab() }.next;
                self.after_free(heap, shared, partial.slice(), class);
            }
            if let Some(current) = self.shelves[index].current.take() {
                // SAFETY: the slab is this thread's.
                unsafe { shared.view.record(current.slice()).slab() }.state = State::Full;
                self.after_free(heap, shared, current.slice(), class);
            }
            let bin = self.bins[index];
            self.bins[index].top = bin.floor;
            // SAFETY: the bin is this thread's, and nothing is added.
            self.put_all_back(heap, shared, class, unsafe { bin.objects() });
        }
        core::mem::take(&mut self.warm)
    }
}

/// Everybody's part of a thread's heap.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Standing {
    /// The first of its slabs that others have freed into; see [`remote`].
    pub pending: AtomicU32,
    pub holder: Holder<AtomicU32>,
    /// The next retired heap, by owner.
    pub next: AtomicU32,
}

impl Standing {
    const fn new() -> Self {
        Self {
            pending: AtomicU32::new(remote::NONE),
            holder: Holder::new(AtomicU32::new(0)),
            next: AtomicU32::new(0),
        }
    }
}
