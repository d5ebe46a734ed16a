//! The threads that have sessions and pins: a slot each, which shows both.
//!
//! Slots are the process's, not a heap's: a session holds the movers of every heap. There are as many
//! as threads have had sessions at one time; a thread that ends leaves its slot to another.

#![allow(unsafe_code)] // slots live as long as the process, behind a pointer

use core::cell::Cell;
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64};
use std::time::Instant;

use super::protocol::{self, Hint, IDLE};
use crate::os::barrier;

/// The process's epoch.
static EPOCH: AtomicU64 = AtomicU64::new(1);
/// Stale handles and movers at work, of the process; see [`protocol`].
static UNSETTLED: AtomicU64 = AtomicU64::new(0);
/// The first of a list of slots, which only grows.
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

/// What a thread shows. Alone on its lines: 128 bytes, since processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Slot {
    /// The epoch in which the thread's outermost session began, or [`IDLE`].
    shown: AtomicU64,
    /// Addresses of objects that the thread has pinned, or [`IDLE`]. Only the thread puts one there; whoever
    /// it has given the pin to may take it away.
    pins: [AtomicU64; PINS],
    taken: AtomicBool,
    next: Option<&'static Slot>,
}

/// Pins that a thread shows. What it has more is counted in the objects' words.
pub(super) const PINS: usize = 8;

const _: () = assert!(size_of::<Slot>() == 128);

impl Slot {
    /// A slot that nobody has, or a new one.
    fn take() -> &'static Self {
        let mut at = first();
        while let Some(slot) = at {
            if !slot.taken.load(Relaxed) && !slot.taken.swap(true, Acquire) {
                return slot;
            }
            at = slot.next;
        }
        Self::add()
    }

    fn add() -> &'static Self {
        barrier::set_up();
        let new = Box::leak(Box::new(Self {
            shown: AtomicU64::new(IDLE),
            pins: [const { AtomicU64::new(IDLE) }; PINS],
            taken: AtomicBool::new(true),
            next: None,
        }));
        let mut head = SLOTS.load(Acquire);
        loop {
            new.next = to_slot(head);
            match SLOTS.compare_exchange(head, ptr::from_mut(new), AcqRel, Acquire) {
                Ok(_) => return new,
                Err(now) => head = now,
            }
        }
    }

    fn give_back(&self) {
        self.taken.store(false, Release);
    }
}

fn first() -> Option<&'static Slot> {
    to_slot(SLOTS.load(Acquire))
}

fn to_slot(at: *mut Slot) -> Option<&'static Slot> {
    // SAFETY: null, or (1) from Box::leak, so never freed; (2) written before it was put there with
    // release, and changed through atomics only from then on.
    unsafe { at.as_ref() }
}

/// A thread's own.
struct Mine {
    slot: &'static Slot,
    /// Sessions of this thread, one in the other.
    depth: Cell<u32>,
}

impl Drop for Mine {
    fn drop(&mut self) {
        // A session that was forgotten goes on: its slot is lost rather than its promise broken.
        if self.depth.get() == 0 {
            self.slot.give_back();
        }
    }
}

thread_local! {
    static MINE: Mine = Mine { slot: Slot::take(), depth: Cell::new(0) };
}

/// A session of this thread, until dropped.
#[derive(Debug)]
pub(super) struct Presence {
    slot: &'static Slot,
    /// Where the thread's own slot is gone already (in a destructor at its end): one for this alone.
    lent: bool,
    epoch: u64,
    /// It is its thread's.
    here: core::marker::PhantomData<*const ()>,
}

impl Presence {
    #[inline]
    pub fn begin() -> Self {
        let own = MINE.try_with(|mine| {
            let depth = mine.depth.get();
            mine.depth.set(depth + 1);
            let epoch = if depth == 0 {
                protocol::enter(&mine.slot.shown, &EPOCH)
            } else {
                mine.slot.shown.load(Relaxed)
            };
            (mine.slot, epoch)
        });
        match own {
            Ok((slot, epoch)) => Self { slot, lent: false, epoch, here: Default::default() },
            Err(_) => Self::late(),
        }
    }

    #[cold]
    fn late() -> Self {
        let slot = Slot::take();
        let epoch = protocol::enter(&slot.shown, &EPOCH);
        Self { slot, lent: true, epoch, here: Default::default() }
    }

    /// The epoch in which the thread's outermost session began.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }
}

impl Drop for Presence {
    #[inline]
    fn drop(&mut self) {
        if self.lent {
            protocol::leave(&self.slot.shown);
            self.slot.give_back();
            return;
        }
        let outermost = MINE.try_with(|mine| {
            mine.depth.set(mine.depth.get() - 1);
            mine.depth.get() == 0
        });
        if outermost.unwrap_or(true) {
            protocol::leave(&self.slot.shown);
        }
    }
}

/// Whether this thread is in a session.
pub(super) fn in_session() -> bool {
    MINE.try_with(|mine| mine.depth.get() > 0).unwrap_or(false)
}

/// Pins an object by a slot of this thread's, where one is free and the hint is good. Its address, and what
/// is to be [left](protocol::leave).
#[inline(always)]
pub(super) fn pin<'a>(
    hint: Hint<'_, AtomicU64, AtomicU32>,
    stamp_of: impl FnOnce(u64) -> &'a AtomicU32,
) -> Option<(u64, &'static AtomicU64)> {
    let slot = MINE.try_with(|mine| mine.slot).ok()?;
    // Acquire: what was done under an earlier pin, which another thread may have taken off.
    let free = slot.pins.iter().find(|pin| pin.load(Acquire) == IDLE)?;
    protocol::pin_in_slot(free, hint, stamp_of).map(|address| (address, free))
}

/// The addresses that are pinned by slots, sorted. To be asked after [`advance`].
pub(super) fn pinned() -> Vec<u64> {
    let slots = core::iter::successors(first(), |slot| slot.next);
    let pins = slots.flat_map(|slot| &slot.pins).map(protocol::pinned_in);
    let mut pinned: Vec<u64> = pins.filter(|&address| address != IDLE).collect();
    pinned.sort_unstable();
    pinned
}

/// Whether no handle is stale and nobody moves; to be asked in a session.
#[inline(always)]
pub(super) fn is_settled() -> bool {
    protocol::is_settled(&UNSETTLED)
}

/// Counts stale handles, or a mover.
pub(super) fn unsettle(count: u64) {
    protocol::unsettle(&UNSETTLED, count);
}

/// Counts them no longer.
pub(super) fn settle(count: u64) {
    protocol::settle(&UNSETTLED, count);
}

/// Begins a new epoch; see [`protocol::advance`].
pub(super) fn advance() -> Option<u64> {
    protocol::advance(&EPOCH)
}

/// Lets what sessions have done since be seen by who [waits](wait_for_older) again. `false` where that
/// could not be had.
pub(super) fn look_again() -> bool {
    barrier::heavy()
}

/// An epoch that is not later than the one that [`advance`] makes next, and than which no session
/// that began before this call shows a later one.
pub(super) fn upcoming() -> u64 {
    EPOCH.load(Acquire) + 1
}

/// Waits until no session of an epoch before `epoch` is left, at most to the deadline. Whether that
/// came about. To be called after [`advance`] or [`look_again`].
pub(super) fn wait_for_older(epoch: u64, deadline: Instant) -> bool {
    let mut at = first();
    while let Some(slot) = at {
        let mut backoff = Backoff::new();
        while !protocol::has_passed(&slot.shown, epoch) {
            if backoff.wait() && Instant::now() >= deadline {
                return false;
            }
        }
        at = slot.next;
    }
    true
}

/// Waits a little: first busily, then by letting others run.
#[derive(Debug)]
pub(super) struct Backoff {
    turns: u32,
}

impl Backoff {
    pub const fn new() -> Self {
        Self { turns: 0 }
    }

    /// Whether it has begun to let others run.
    pub fn wait(&mut self) -> bool {
        self.turns += 1;
        if self.turns <= 64 {
            core::hint::spin_loop();
            return false;
        }
        std::thread::yield_now();
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[test]
    fn a_session_holds_those_who_wait_until_its_outermost_end() {
        std::thread::spawn(|| {
            let outer = Presence::begin();
            let inner = Presence::begin();
            assert_eq!(inner.epoch(), outer.epoch());
            let epoch = advance().unwrap();
            assert!(!wait_for_older(epoch, soon()));
            drop(inner);
            assert!(in_session() && !wait_for_older(epoch, soon()));
            drop(outer);
            assert!(!in_session());
            let slot = MINE.with(|mine| mine.slot);
            assert!(protocol::has_passed(&slot.shown, epoch));
            // A session that begins now is of the new epoch, and holds nobody of it.
            let _new = Presence::begin();
            assert!(protocol::has_passed(&slot.shown, epoch));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn threads_that_end_leave_their_slots_to_others() {
        let count = || core::iter::successors(first(), |slot| slot.next).count();
        let one = || std::thread::spawn(|| drop(Presence::begin())).join().unwrap();
        one();
        let before = count();
        (0..50).for_each(|_| one());
        // Other tests run beside this one, on a few threads.
        assert!(count() < before + 40, "{} slots after {before}", count());
    }
}
