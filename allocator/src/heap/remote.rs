//! Objects freed by threads that do not own their slab.
//!
//! # The idea
//! A slab has a bitmap of objects that others have freed. Freeing one is one `fetch_or`: it never
//! waits, touches no memory of the object, and an object whose bit is set already is being freed
//! twice. The first to set a bit since the owner last looked (told by a flag) also puts the slab
//! onto the owner's list of slabs to look at.
//!
//! # Nothing is forgotten
//! A freeing thread sets a bit, then reads the flag; the owner clears the flag, then takes the
//! bits by a `swap`. Of the two changes to the word of bits one comes first. If it is the freeing
//! thread's, the owner takes its bit. If it is the owner's, the freeing thread's `fetch_or` reads
//! what the `swap` wrote, and so sees the flag clear as well: it raises it and puts the slab onto the
//! list. Hence, whenever no call is under way, a slab with a bit set is on its owner's list.
//!
//! # Nothing is taken twice
//! The list is emptied as a whole by one `swap`, so there is no ABA. A slab is on at most one list
//! at a time: only the thread whose swap raised the flag puts it there, and only the owner, who has
//! taken it off, lowers the flag. The owner reads the link before it lowers the flag.
//!
//! The functions are generic over what an atomic word is, so that a model checker runs this very
//! code on its own.

use core::sync::atomic::Ordering;

use crate::primitive::Atomic;

/// Not on a list.
const QUIET: u32 = 0;
/// On its owner's list, or about to be.
const LISTED: u32 = 1;

/// What a free from elsewhere found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Freed {
    /// The owner will hear of it.
    Told,
    /// The slab must be put onto its owner's list, by this thread.
    Tell,
    /// It was free already.
    Twice,
}

/// Marks an object as freed by a thread that is not the owner.
#[inline]
pub(super) fn free<W: Atomic<u64>, F: Atomic<u32>>(word: &W, bit: u64, flag: &F) -> Freed {
    if word.fetch_or(bit, Ordering::AcqRel) & bit != 0 {
        return Freed::Twice;
    }
    if raise(flag) { Freed::Tell } else { Freed::Told }
}

/// Raises a slab's flag; whether it was down, so that the caller must put the slab onto a list.
#[inline]
pub(super) fn raise<F: Atomic<u32>>(flag: &F) -> bool {
    flag.load(Ordering::Acquire) == QUIET && flag.swap(LISTED, Ordering::AcqRel) == QUIET
}

/// Lowers a slab's flag, before its bits are read. The slab has been taken off the list.
#[inline]
pub(super) fn hear<F: Atomic<u32>>(flag: &F) {
    flag.swap(QUIET, Ordering::AcqRel);
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
