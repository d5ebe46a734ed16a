//! Who may touch an object when: sessions, pins, the mover and the owner who frees.
//!
//! # The idea
//! An object has a *word* in a table out of band: where it stands, how often it is pinned, flags. A
//! block has a *stamp*, odd while the mover empties it. A thread in a *session* shows, in a slot of
//! its own, the epoch in which it began. The mover
//!
//! 1. takes the flags KEEP and LATE off the objects it is about to move,
//! 2. makes their block's stamp odd,
//! 3. begins a new epoch, and waits until no session of an older one is left,
//! 4. *claims* each object: KEEP clear, no pins, COPYING set, in one compare-and-exchange,
//! 5. copies it, and *publishes* where it stands now, which also takes COPYING off,
//! 6. and when it leaves the block, makes the stamp even again.
//!
//! Whoever looks an object up in a session reads its word, then the stamp of the block. Where the
//! stamp is odd he sets KEEP, so that the claim fails: *the mover waits for sessions, sessions never
//! wait for the mover*, but while the one object that they want is copied. Where the stamp is even he
//! reads the word again, and begins anew where it has changed. He may keep address and stamp as a
//! *hint* in his handle: as long as the block has that stamp, the object is there, and the word need
//! not be read. That is the common case, and costs no load that the next one depends on.
//! An odd stamp is never a hint's, not even of a new object whose block is being emptied by now. Stamps are
//! the process's: no two blocks ever have the same, nor one block twice.
//!
//! # Nobody has the address of an object that is claimed
//! Let S be a session that has got the address of an object, and is not over when it is claimed in a
//! round of epoch e. Both the beginning of a session and step 3 have a fence of total order.
//! *S's fence first*: the mover then sees S in its slot. If S shows an epoch before e it is waited
//! for: contradiction. If it shows e or later it has read that epoch, and with it everything before
//! step 3. *The mover's fence first*: S sees everything before step 3 as well. So S has looked the
//! object up seeing KEEP clear (or set by a session of this round), and a stamp no older than the
//! odd one, if it was not settled. A hint of an older stamp does not match. If it saw the odd one, it has
//! set KEEP or seen it set, before the claim, which fails then, or after, where its compare-and-exchange
//! fails. If it saw a later stamp, it saw what was published before that when it read the word again.
//!
//! So what is claimed is nobody's, and the old place can be used again at once after publishing: no
//! second wait. What sessions have written is seen by the copy, as slots are cleared with *release*
//! and read with *acquire*; what was copied is seen with the word that says where it is, and with a
//! hint that was made from it, which is stored with release ([`renew`]) and loaded with acquire
//! ([`look`]).
//!
//! # When nothing has been moved that was not looked at since
//! An object has one handle, or none. A handle whose object was moved is *stale* until a session renews
//! its hint: the object's word says so (STALE), and all of them are counted, process-wide, together with
//! the movers at work. A session that finds nothing counted, after its fence, is *settled*: it takes every handle's address for good, and
//! compares nothing. Let S be such a session, and the mover one that claims an object before S is over. It
//! was counted before its fence. *S's fence first*: the mover waits for S, so it claims nothing. *The
//! mover's fence first*: S sees it counted, or it is done by then; what it has moved was counted before
//! that and is counted no more, so S sees the renewed hints, or an object that ended. A handle that is made
//! in a block being emptied has its object's address all the same, and as long as S lives the mover, who
//! waits for S, does not move it; it is counted as stale, for its stamp will never tell.
//!
//! # Pins
//! A pin is counted in the word by one operation, which also says whether COPYING was set; the claim
//! fails where there is a pin. Of the two one comes first. A pin that comes too late does not count: it
//! is taken off again ([`pin_own`]), or was never put on ([`pin`]), waits for the copy, and holds the
//! object in its new place.
//!
//! Who has the handle shows the address in a *slot* of his thread instead, where one is free and the hint
//! is good ([`pin_in_slot`]): first the slot, then a light fence, then the block's stamp. The mover reads
//! the slots behind the fence of step 3, and does not claim what they show. *The pin's fence first*: the
//! mover sees the slot. *The mover's fence first*: the pin sees the odd stamp, or a later one, and is
//! counted in the word instead.
//!
//! # Freeing
//! Ending an object makes its word zero, by a compare-and-exchange: a claim fails from then on. An
//! object that is copied or held at that time is *doomed* instead, and the mover ends it when it is
//! done: to free never waits.
//!
//! # Objects that somebody wants all the time
//! KEEP would be set in every round. The mover then *insists*: before step 3 it announces an epoch p
//! that is not later than the new one, e. Sessions that show p or later may wait for the mover, since it
//! does not wait for them, and do so for a bounded time, since others whom it waits for may be
//! waiting for them on the user's own locks. When that is over they set LATE. After step 3 the mover
//! takes KEEP off once more, and waits again until no session before e is left; LATE stays, and fails
//! the claim as KEEP does.
//!
//! That is safe: KEEP is set by sessions that show less than p, and by ones that have not seen the
//! announcement, which then show less than e, for whoever shows e has read what was written before it.
//! Those that the first wait has seen are over. One that it has not seen, S, and that has set KEEP or
//! seen it set before it was taken off, comes before the fence of the second wait with its own,
//! so that is where it is seen. If S comes later it sees KEEP off, and sets it: the claim fails.
//!
//! The functions are generic over what an atomic word is, so that a model checker runs this very
//! code on its own; see `model_tests`.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::word::{
    COPYING, DOOMED, HELD, KEEP, LATE, LIVE, NUMBERED, Offset, PIN, PINS_MAX, STALE, Sight, WANTED,
    Word, is_odd,
};
use crate::primitive::Atomic;

/// What a slot shows of a thread without a session. Epochs count from 1.
pub(super) const IDLE: u64 = 0;

// Sessions.

/// Begins a session: shows the epoch in the slot.
#[inline]
pub(super) fn enter<A: Atomic<u64>>(slot: &A, epoch: &A) -> u64 {
    let now = epoch.load(Acquire);
    // Release: whoever sees this session for one that need not be waited for is to see what the
    // sessions before it have written.
    slot.store(now, Release);
    A::light_fence();
    now
}

/// Whether a session that has been [entered](enter) may take the address of every handle for good.
#[inline]
pub(super) fn is_settled<A: Atomic<u64>>(unsettled: &A) -> bool {
    unsettled.load(Acquire) == 0
}

/// Ends a session.
#[inline]
pub(super) fn leave<A: Atomic<u64>>(slot: &A) {
    slot.store(IDLE, Release);
}

/// Begins a new epoch, and returns it: sessions that show an older one are to be waited for. `None`
/// where the fence could not be passed: nothing may be claimed then.
pub(super) fn advance<A: Atomic<u64>>(epoch: &A) -> Option<u64> {
    let new = epoch.fetch_add(1, AcqRel) + 1;
    A::heavy_fence().then_some(new)
}

/// Counts handles that will not have their objects' addresses, or a mover, before it does anything else.
pub(super) fn unsettle<A: Atomic<u64>>(unsettled: &A, count: u64) {
    unsettled.fetch_add(count, AcqRel);
}

/// The reverse. Release: who finds nothing counted is to see what the handles hold now.
pub(super) fn settle<A: Atomic<u64>>(unsettled: &A, count: u64) {
    unsettled.fetch_sub(count, Release);
}

/// Whether a slot shows no session of an epoch before `epoch`. To be asked after [`advance`].
pub(super) fn has_passed<A: Atomic<u64>>(slot: &A, epoch: u64) -> bool {
    let shown = slot.load(Acquire);
    shown == IDLE || shown >= epoch
}

// Looking up.

/// A handle's hint, by its parts.
#[derive(Debug)]
pub(super) struct Hint<'a, A, S> {
    pub address: &'a A,
    pub stamp: &'a S,
}

/// The address of a hint whose block still has the stamp that it had then: the object is there, for as
/// long as the session lives. `None`: it is to be looked up by its word.
///
/// The stamp is loaded before the address, and stored after it: who loads a stamp loads the address that
/// came with it, or a later one, whose block has another stamp, for no two blocks ever have the same.
///
/// Acquire, so that who reads at the address sees what was copied there. That costs nothing where loads
/// are in order anyway, and a few cycles elsewhere. The block's stamp needs none: the beginning of the
/// session has ordered it.
#[inline(always)]
pub(super) fn look<'a, A: Atomic<u64>, S: Atomic<u32> + 'a>(
    hint: Hint<'_, A, S>,
    stamp_of: impl FnOnce(u64) -> &'a S,
) -> Option<u64> {
    let stamp = hint.stamp.load(Acquire);
    let address = hint.address.load(Acquire);
    (stamp_of(address).load(Relaxed) == stamp).then_some(address)
}

/// The address of a hint in a session that has found everything [settled](is_settled).
#[inline(always)]
pub(super) fn trust<A: Atomic<u64>>(address: &A) -> u64 {
    address.load(Acquire)
}

/// Renews a hint after [`find`], in the session or with the pin that keeps the object there: so that all
/// who do it at a time store the same. Release: see [`look`].
///
/// Whether the handle was counted as stale, and is no longer; to be [settled](settle) then.
pub(super) fn renew<A: Atomic<u64>, S: Atomic<u32>>(
    hint: Hint<'_, A, S>,
    word: &A,
    new: Sight,
) -> bool {
    if !new.lasts() {
        return false;
    }
    hint.address.store(new.address, Release);
    hint.stamp.store(new.stamp, Release);
    let mut now = Word(word.load(Relaxed));
    while now.has(STALE) {
        match word.compare_exchange(now.0, now.without(STALE).0, AcqRel) {
            Ok(_) => return true,
            Err(other) => now = Word(other),
        }
    }
    false
}

/// Says that a new handle's hint does not [last](Sight::lasts); it is counted before.
pub(super) fn begin_stale<A: Atomic<u64>>(word: &A) {
    word.fetch_or(STALE, AcqRel);
}

/// Where an object is, for the session that has asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seen {
    pub at: Offset,
    /// The stamp for a hint; `None` where the block is being emptied.
    pub stamp: Option<u32>,
}

/// Why an object cannot be had now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wait {
    /// It is being copied.
    Copied,
    /// The mover insists on moving it, and the session need not be waited for.
    Insisted,
    /// It has as many pins as can be counted.
    TooManyPins,
    /// There is none.
    Dead,
}

/// What a session does about an object of a block that is being emptied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// The mover waits for it: it says KEEP.
    WaitedFor,
    /// The mover insists and does not wait for it: it waits.
    Waiting,
    /// It has waited for long enough: it says LATE.
    Late,
}

/// Looks an object up, in a session.
pub(super) fn find<'a, A: Atomic<u64>, S: Atomic<u32> + 'a>(
    word: &A,
    stamp_of: impl Fn(Offset) -> &'a S,
    role: Role,
) -> Result<Seen, Wait> {
    loop {
        let now = Word(word.load(Acquire));
        if now.has(COPYING) {
            return Err(Wait::Copied);
        }
        if !now.has(LIVE) {
            return Err(Wait::Dead);
        }
        let at = now.offset();
        let stamp = stamp_of(at).load(Acquire);
        if !is_odd(stamp) {
            if word.load(Acquire) == now.0 {
                return Ok(Seen { at, stamp: Some(stamp) });
            }
        } else {
            let (flag, enough) = match role {
                Role::WaitedFor => (KEEP, KEEP | LATE),
                Role::Waiting if now.has(LATE) => (LATE, LATE),
                Role::Waiting => return Err(Wait::Insisted),
                Role::Late => (LATE, LATE),
            };
            let kept =
                now.has(enough) || word.compare_exchange(now.0, now.with(flag).0, AcqRel).is_ok();
            if kept {
                return Ok(Seen { at, stamp: None });
            }
        }
    }
}

/// Says that somebody waits for an object that is being copied.
pub(super) fn want<A: Atomic<u64>>(word: &A) {
    let now = Word(word.load(Relaxed));
    if now.has(COPYING) && !now.has(WANTED) {
        // Another change makes the waiter look again.
        let _ = word.compare_exchange(now.0, now.with(WANTED).0, Relaxed);
    }
}

// Pins.

/// Pins an object that lives, since the caller has its handle, and says where it stands: one operation.
///
/// Adds first and looks then. A pin that comes while the object is copied is taken off again; the
/// mover keeps what it finds in the word, and at worst takes the object for pinned.
#[inline]
pub(super) fn pin_own<A: Atomic<u64>>(word: &A) -> Result<Offset, Wait> {
    let before = Word(word.fetch_add(PIN, AcqRel));
    debug_assert!(before.has(LIVE), "whoever has the handle keeps the object alive");
    if before.has(COPYING) || before.pins() >= PINS_MAX {
        return Err(not_pinned(word, before));
    }
    Ok(before.offset())
}

#[cold]
fn not_pinned<A: Atomic<u64>>(word: &A, before: Word) -> Wait {
    unpin(word);
    why_not_pinned(before)
}

/// Pins an object that may be no more, and says where it stands.
pub(super) fn pin<A: Atomic<u64>>(word: &A) -> Result<Offset, Wait> {
    loop {
        let now = Word(word.load(Relaxed));
        if now.has(COPYING) || !now.has(LIVE) || now.pins() >= PINS_MAX {
            return Err(why_not_pinned(now));
        }
        if word.compare_exchange(now.0, now.pinned().0, AcqRel).is_ok() {
            return Ok(now.offset());
        }
    }
}

#[cold]
fn why_not_pinned(now: Word) -> Wait {
    match now {
        now if now.has(COPYING) => Wait::Copied,
        now if !now.has(LIVE) => Wait::Dead,
        _ => Wait::TooManyPins,
    }
}

/// Pins an object by a slot of this thread's that is free, where its handle's hint is good. Says where it
/// stands; it stays there until the slot is [left](leave).
#[inline(always)]
pub(super) fn pin_in_slot<'a, A: Atomic<u64>, S: Atomic<u32> + 'a>(
    slot: &A,
    hint: Hint<'_, A, S>,
    stamp_of: impl FnOnce(u64) -> &'a S,
) -> Option<u64> {
    let stamp = hint.stamp.load(Acquire);
    let address = hint.address.load(Acquire);
    // Release: who finds this pin in the place of an earlier one is to see what was written under that.
    slot.store(address, Release);
    A::light_fence();
    if stamp_of(address).load(Acquire) == stamp {
        return Some(address);
    }
    leave(slot);
    None
}

/// The address that a slot pins, or [`IDLE`]. To be asked after [`advance`].
pub(super) fn pinned_in<A: Atomic<u64>>(slot: &A) -> u64 {
    slot.load(Acquire)
}

/// Takes a pin off.
#[inline]
pub(super) fn unpin<A: Atomic<u64>>(word: &A) {
    let before = Word(word.fetch_sub(PIN, Release));
    debug_assert!(before.pins() > 0, "a pin is taken off once");
}

// Moving.

/// Makes a block's stamp odd: it is being emptied.
pub(super) fn begin_emptying<S: Atomic<u32>>(stamp: &S) {
    // The mover alone changes the stamp of a block with objects.
    stamp.store(stamp.load(Relaxed) | 1, Release);
}

/// Gives it a stamp that no block has had.
pub(super) fn end_emptying<S: Atomic<u32>>(stamp: &S, new: u32) {
    debug_assert!(!is_odd(new) && is_odd(stamp.load(Relaxed)));
    stamp.store(new, Release);
}

/// Takes flags that sessions have set off an object, if it is there: [`KEEP`] and [`LATE`] before the
/// wait of a round; KEEP alone after it, where the mover insists.
pub(super) fn ready<A: Atomic<u64>>(word: &A, at: Offset, flags: u64) {
    let mut now = Word(word.load(Relaxed));
    while now.has(LIVE) && now.offset() == at && now.has(flags) {
        match word.compare_exchange(now.0, now.without(flags).0, AcqRel) {
            Ok(_) => return,
            Err(other) => now = Word(other),
        }
    }
}

/// Why an object was not claimed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unclaimed {
    /// It is pinned.
    Pinned,
    /// A session has its address.
    InUse,
    /// It has been freed.
    Gone,
}

/// Claims an object at `at` for copying.
pub(super) fn claim<A: Atomic<u64>>(word: &A, at: Offset) -> Result<(), Unclaimed> {
    let mut now = Word(word.load(Relaxed));
    loop {
        if !now.has(LIVE) || now.has(DOOMED) || now.offset() != at {
            return Err(Unclaimed::Gone);
        }
        if now.pins() > 0 {
            return Err(Unclaimed::Pinned);
        }
        if now.has(KEEP | LATE) {
            return Err(Unclaimed::InUse);
        }
        match word.compare_exchange(now.0, now.with(COPYING).0, AcqRel) {
            Ok(_) => return Ok(()),
            Err(other) => now = Word(other),
        }
    }
}

/// Whether somebody waits for an object that is being copied.
pub(super) fn is_wanted<A: Atomic<u64>>(word: &A) -> bool {
    Word(word.load(Relaxed)).has(WANTED)
}

/// What [`publish`] has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Published {
    /// Whether the object was doomed meanwhile.
    pub doomed: bool,
    /// Whether its handle is stale now, and was not before: one that the mover has [counted](unsettle).
    pub stale: bool,
}

/// Ends the copying of an object: it stands at `at` now, where it was or elsewhere, with one pin
/// more if that is asked for.
pub(super) fn publish<A: Atomic<u64>>(word: &A, at: Offset, pin: bool) -> Published {
    let mut now = Word(word.load(Relaxed));
    loop {
        debug_assert!(now.has(COPYING));
        let stale = now.offset() != at && !now.has(STALE | NUMBERED);
        let rest = now.without(COPYING | WANTED).moved_to(at);
        let rest = if stale { rest.with(STALE) } else { rest };
        let rest = if pin && !now.has(DOOMED) { rest.pinned() } else { rest };
        match word.compare_exchange(now.0, rest.0, AcqRel) {
            Ok(_) => return Published { doomed: now.has(DOOMED), stale },
            Err(other) => now = Word(other),
        }
    }
}

/// Marks an object at `at` as isolated by its owner. `false` where it is not there, or pinned.
pub(super) fn hold<A: Atomic<u64>>(word: &A, at: Offset) -> bool {
    let mut now = Word(word.load(Relaxed));
    loop {
        if !now.has(LIVE) || now.has(DOOMED) || now.offset() != at || now.pins() > 0 {
            return false;
        }
        match word.compare_exchange(now.0, now.with(HELD).0, AcqRel) {
            Ok(_) => return true,
            Err(other) => now = Word(other),
        }
    }
}

/// Ends what [`hold`] began. Whether the object was doomed meanwhile; it is the caller's then.
pub(super) fn let_go<A: Atomic<u64>>(word: &A) -> bool {
    let mut now = Word(word.load(Relaxed));
    loop {
        debug_assert!(now.has(HELD));
        match word.compare_exchange(now.0, now.without(HELD).0, AcqRel) {
            Ok(_) => return now.has(DOOMED),
            Err(other) => now = Word(other),
        }
    }
}

// Freeing.

/// What became of an object that its owner has freed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// It is no more; its place is the caller's.
    Freed(Buried),
    /// The mover ends it when it is done.
    Doomed,
    /// It is pinned, and stays.
    Pinned,
    /// There was none.
    Dead,
}

/// What is left of an object that is no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Buried {
    pub at: Offset,
    /// Whether its handle was counted as stale; to be [settled](settle) then.
    pub stale: bool,
}

impl Buried {
    const fn of(word: Word) -> Self {
        Self { at: word.offset(), stale: word.has(STALE) }
    }
}

/// Ends an object, which has `own` pins of the caller's.
pub(super) fn end<A: Atomic<u64>>(word: &A, own: u32) -> Ended {
    let mut now = Word(word.load(Relaxed));
    loop {
        let (new, answer) = match now {
            now if !now.has(LIVE) || now.has(DOOMED) => return Ended::Dead,
            now if now.pins() > own => return Ended::Pinned,
            now if now.has(COPYING | HELD) => (now.with(DOOMED), Ended::Doomed),
            now => (Word::DEAD, Ended::Freed(Buried::of(now))),
        };
        match word.compare_exchange(now.0, new.0, AcqRel) {
            Ok(_) => return answer,
            Err(other) => now = Word(other),
        }
    }
}

/// Before the contents of an object are dropped, which nobody else refers to: pins it, and says where
/// it stands. Where the mover has it, dooms it and says `None`.
pub(super) fn pin_or_doom<A: Atomic<u64>>(word: &A) -> Result<Option<Offset>, Ended> {
    let mut now = Word(word.load(Relaxed));
    loop {
        let (new, answer) = match now {
            now if !now.has(LIVE) || now.has(DOOMED) => return Err(Ended::Dead),
            now if now.pins() > 0 => return Err(Ended::Pinned),
            now if now.has(COPYING | HELD) => (now.with(DOOMED), None),
            now => (now.pinned(), Some(now.offset())),
        };
        match word.compare_exchange(now.0, new.0, AcqRel) {
            Ok(_) => return Ok(answer),
            Err(other) => now = Word(other),
        }
    }
}

/// Ends an object that was doomed, which nobody else can do any more; says where it stood.
pub(super) fn bury<A: Atomic<u64>>(word: &A) -> Buried {
    let before = Word(word.swap(Word::DEAD.0, AcqRel));
    debug_assert!(before.has(DOOMED) && !before.has(COPYING | HELD));
    Buried::of(before)
}
