//! Objects freed by threads that do not own their slab.
//!
//! # The idea
//! A slab has a bitmap of objects that others have freed. Freeing some of one word is one `fetch_or`:
//! it never waits, touches no memory of the objects, and an object whose bit is set already is being
//! freed twice. The slab has a *flag* for each word that the owner has to look at. The first to raise
//! one since the owner last looked also puts the slab onto the owner's list.
//!
//! # Nothing is forgotten
//! A freeing thread sets bits of a word, then reads the word's flag; the owner takes all flags down
//! by a `swap`, then takes the bits of each word that was flagged by a `swap` of that word. Suppose
//! that the freeing thread finds its flag up. Then the owner takes it down later, and its `swap` of
//! the word takes the bits, for had that come before the `fetch_or`, the freeing thread would have
//! read what it wrote, and so seen the flag down. If it finds its flag down it raises it, and if
//! all others were down as well it puts the slab onto the list. Hence, whenever no call is under way,
//! a slab with a bit set is on its owner's list, with that word's flag up.
//!
//! # Nothing is taken twice
//! The list is emptied as a whole by one `swap`, so there is no ABA. A slab is on at most one list
//! at a time: only the thread that raised the first flag puts it there, and only the owner, who has
//! taken it off, lowers them. The owner reads the link before it lowers the flags.
//!
//! The functions are generic over what an atomic word is, so that a model checker runs this very
//! code on its own.

use core::sync::atomic::Ordering;

use crate::primitive::Atomic;

/// No flag is up: the slab is on no list.
const QUIET: u32 = 0;

/// What a free from elsewhere found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Freed {
    /// The owner will hear of it.
    Told,
    /// The slab must be put onto its owner's list, by this thread.
    Tell,
    /// The objects of these bits were free already.
    Twice(u64),
}

/// Marks objects of a word as freed by a thread that is not the owner; `flag` is the word's.
#[inline]
pub(super) fn free<W: Atomic<u64>, F: Atomic<u32>>(
    word: &W,
    bits: u64,
    flags: &F,
    flag: u32,
) -> Freed {
    let twice = word.fetch_or(bits, Ordering::AcqRel) & bits;
    if twice != 0 {
        return Freed::Twice(twice);
    }
    if raise(flags, flag) { Freed::Tell } else { Freed::Told }
}

/// Raises flags of a slab; whether all were down, so that the caller must put the slab onto a list.
#[inline]
pub(super) fn raise<F: Atomic<u32>>(flags: &F, raised: u32) -> bool {
    flags.load(Ordering::Acquire) & raised != raised
        && flags.fetch_or(raised, Ordering::AcqRel) == QUIET
}

/// Lowers a slab's flags, before the words that they stand for are read, and says which were up.
/// The slab has been taken off the list.
#[inline]
pub(super) fn hear<F: Atomic<u32>>(flags: &F) -> u32 {
    flags.swap(QUIET, Ordering::AcqRel)
}

/// Takes the bits of a word. Always by a `swap`: the proof above needs it.
#[inline]
pub(super) fn take<W: Atomic<u64>>(word: &W) -> u64 {
    word.swap(0, Ordering::AcqRel)
}

/// The bits of a word at this moment; a change of the word, as [`take`] is.
#[inline]
pub(super) fn look<W: Atomic<u64>>(word: &W) -> u64 {
    word.fetch_or(0, Ordering::AcqRel)
}

/// No slab.
pub(super) const NONE: u32 = 0;

/// Puts a slab onto a list; `slab` is not [`NONE`], `link` is its link.
#[inline]
pub(super) fn push<A: Atomic<u32>>(head: &A, slab: u32, link: &A) {
    let mut first = head.load(Ordering::Acquire);
    loop {
        link.store(first, Ordering::Relaxed);
        match head.compare_exchange(first, slab, Ordering::AcqRel) {
            Ok(_) => return,
            Err(now) => first = now,
        }
    }
}

/// Takes the whole list: its first slab, or [`NONE`]; the links lead to the others.
#[inline]
pub(super) fn take_list<A: Atomic<u32>>(head: &A) -> u32 {
    if head.load(Ordering::Acquire) == NONE { NONE } else { head.swap(NONE, Ordering::AcqRel) }
}
