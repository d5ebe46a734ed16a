//! Owners: who keeps pointers of his own to objects, and is asked before they move.

use core::fmt;
use core::ptr::NonNull;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::tables::ObjectId;
use crate::units::Bytes;

/// An object that is about to be moved, or has been.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Subject {
    /// Which one.
    pub id: ObjectId,
    /// Where it stands.
    pub address: NonNull<u8>,
    /// Bytes of its place, which are at least those that were asked for.
    pub len: Bytes,
}

/// What becomes of an object that is to move, by its owner's will.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// It may, or has been taken note of.
    Agreed,
    /// It stays where it is.
    Refused,
}

/// Owners of objects with pointers of their own are asked and told in three steps.
///
/// 1. [`isolate`](Owner::isolate): may it move? An owner that agrees sees to it that nobody follows
///    his own pointers until step 3.
/// 2. [`migrate`](Owner::migrate): the bytes stand in both places; the owner redirects his pointers.
///    Left out where the object could not be moved after all (somebody pinned it).
/// 3. [`put_back`](Owner::put_back): it is over; the object stands where it is said to. Called once
///    for each object that was isolated, moved or not.
///
/// Callbacks run on the thread that moves, which holds no lock. They may allocate, free, pin and open
/// sessions; moving objects is answered with [`MovableError::InCallback`](super::MovableError). A
/// callback that panics counts as one that refuses: the object stays where it was, intact. An object
/// that is freed between isolate and put back, also by the callback itself, ends after put back.
pub trait Owner: Send + Sync {
    /// May the object move?
    fn isolate(&self, object: Subject) -> Answer {
        let _ = object;
        Answer::Agreed
    }

    /// The object's bytes have been copied from `object.address` to `new`; where the answer is
    /// [`Answer::Refused`] it goes on in its old place, as it is. The object itself can be reached
    /// through these addresses only: to ask for it in a session, or to pin it, is refused.
    fn migrate(&self, object: Subject, new: NonNull<u8>) -> Answer {
        let _ = (object, new);
        Answer::Agreed
    }

    /// The object stands at `object.address` now.
    fn put_back(&self, object: Subject) {
        let _ = object;
    }
}

/// Nobody: the owner of objects without one.
pub(super) const NOBODY: u16 = 0;
/// How many owners a heap tells apart.
pub(super) const OWNERS_MAX: usize = u16::MAX as usize;

/// Asks, and takes a panic for a refusal.
pub(super) fn asked(ask: impl FnOnce() -> Answer) -> Answer {
    // What a panic leaves half done inside the owner is the owner's to know; nothing of ours is.
    catch_unwind(AssertUnwindSafe(ask)).unwrap_or(Answer::Refused)
}

/// Tells, and passes over a panic.
pub(super) fn told(tell: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(tell));
}

impl fmt::Debug for dyn Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Owner")
    }
}
