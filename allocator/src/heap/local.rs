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

mod bin;
mod exchange;
mod fast;
mod joining;
mod slabs;

use core::ptr::{self, NonNull};
use core::sync::atomic::AtomicU32;

use self::bin::Bin;
pub(super) use self::joining::Joins;
use self::slabs::Shelf;
use super::classes::{ALIGN_MIN, CLASSES, Class, TABLE_MAX};
use super::config::Config;
use super::core::Shared;
use super::holder::Holder;
use super::parts::Round;
use super::recording::Lane;
use super::remote;
use super::tables::{BIN_BYTES, Entry, OWNERS_MAX, Owner, View};

/// A thread's heap, as it stands in memory.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Local {
    /// The thread's.
    pub own: Own,
    /// Everybody's.
    pub standing: Standing,
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
    /// Where it is with its looks for what may go back to the system.
    pub round: Round,
    /// No thread has it, so no empty slab is worth keeping.
    retired: bool,
    /// No thread has it, and what was in its bins still is.
    warm: bool,
    /// Since when, in milliseconds.
    rests_ms: u32,
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
        shelves: [Shelf::NONE; CLASSES],
        small: SMALL_BINS,
        owner: Owner(0),
        round: Round::NEW,
        retired: true,
        warm: false,
        rests_ms: 0,
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
        own.round = Round::NEW;
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
        own.shelves.fill(Shelf { batch: BATCH_MIN, ..Shelf::NONE });
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
    pub fn rest(&mut self, now_ms: u32) {
        self.retired = true;
        self.warm = true;
        self.rests_ms = now_ms;
    }

    /// Whether no thread has had it for a delay, and what was in its bins still is.
    pub fn has_rested(&self, now_ms: u32, delay_ms: u32) -> bool {
        self.warm && now_ms.wrapping_sub(self.rests_ms) >= delay_ms
    }

    /// The slice that an address lies in, if that is one of a slab of this heap.
    #[inline(always)]
    fn owns(&self, view: &View, at: usize) -> Option<u32> {
        view.slice(at).filter(|&slice| view.owner(slice) == self.owner)
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
