//! Where a class has no slab with room: a new slab, or neighbours of a shorter class as one object.
//!
//! Slices that are free in blocks cost nothing, so they come first. Before the heap takes another block, it
//! is looked whether shorter classes have free neighbours (see [`joined`](super::super::record)): as a
//! program's objects become longer over time, the slabs of shorter ones hold a few each, and would stay so.
//! Objects of longer classes do not take shorter ones' places back: that comes by itself when they are freed.
#![allow(unsafe_code)] // records of slabs that are this thread's

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use super::super::classes::Class;
use super::super::core::{Heap, Shared};
use super::super::record::State;
use super::Own;
use crate::os::Os;

/// So many slabs at least and at most are searched in vain before the heap grows, which takes as long as a few
/// thousand of them: half as many as before where that has found nothing.
const PATIENCE: core::ops::RangeInclusive<u32> = 256..=8192;
/// For each object that is found, one more for so many bytes of it, and so many at most.
const BYTES_A_SEARCH: usize = 32;
const SEARCHES_FOR_ONE: usize = 32;

/// Whether an object may be made of neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum Joins {
    /// It is to be aligned as its class is.
    Never,
    /// Where the heap would have to grow otherwise.
    WhereFull,
    /// Wherever there are such.
    First,
}

/// What was found.
pub(super) enum Room {
    /// A slab with room, which is the current one now.
    Slab(u32),
    /// An object.
    Joined(NonNull<u8>),
}

impl Own {
    /// Room for a class that has none in its slabs.
    pub(super) fn room_elsewhere<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
        joins: Joins,
    ) -> Option<Room> {
        // Frees are looked at one by one there, and nothing is used again soon.
        if joins == Joins::Never || shared.config.secure {
            return self.new_slab(heap, shared, class, true).map(Room::Slab);
        }
        // As long as neighbours are found, nobody asks for slices.
        if self.shelves[class.index()].searches == 0 {
            if joins == Joins::WhereFull
                && let Some(head) = self.new_slab(heap, shared, class, false)
            {
                return Some(Room::Slab(head));
            }
            let shelf = &mut self.shelves[class.index()];
            let (least, most) = PATIENCE.into_inner();
            shelf.patience = if shelf.found { most } else { (shelf.patience / 2).max(least) };
            (shelf.searches, shelf.found) = (shelf.patience, false);
        }
        if let Some(object) = self.join(heap, shared, class) {
            return Some(Room::Joined(object));
        }
        self.shelves[class.index()].searches = 0;
        self.new_slab(heap, shared, class, true).map(Room::Slab)
    }

    /// Neighbours of a shorter class, as one object.
    fn join<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
    ) -> Option<NonNull<u8>> {
        let mut searches = self.shelves[class.index()].searches;
        let last = self.shelves[class.index()].host;
        let mut hosts = last.into_iter().chain((0..class.0).rev().map(Class));
        let (host, (head, object)) = hosts.find_map(|host| {
            // Most classes have no such slab.
            self.shelves[host.index()].partial?;
            let count = class.neighbours_of(host)?;
            Some((host, self.search(shared, host, count, &mut searches)?))
        })?;
        let shelf = &mut self.shelves[class.index()];
        let more = (class.size() / BYTES_A_SEARCH).clamp(1, SEARCHES_FOR_ONE) as u32;
        shelf.searches = (searches + more).min(shelf.patience);
        (shelf.host, shelf.found) = (Some(host), true);
        heap.joins.store(true, Ordering::Relaxed);
        let at = shared.view.address(head) + object as usize * host.size();
        NonNull::new(at as *mut u8)
    }

    /// Takes free neighbours of one of the slabs on a class's list: the slab and the first of them. Begins where
    /// the last search ended, and ends where it began, or after so many.
    fn search(
        &mut self,
        shared: &Shared,
        host: Class,
        count: u32,
        searches: &mut u32,
    ) -> Option<(u32, u32)> {
        let shelf = &mut self.shelves[host.index()];
        let first = shelf.partial?;
        let begins = shelf.search.unwrap_or(first);
        let mut at = begins;
        while *searches > 0 {
            *searches -= 1;
            let head = at.slice();
            // SAFETY: (1) the slab is this thread's; (2) what is referred to of its owner's part ends with the
            // call.
            if let Some(object) = unsafe { shared.view.record(head).join(count) } {
                self.shelves[host.index()].search = Some(at);
                self.after_join(shared, head, host);
                return Some((head, object));
            }
            // SAFETY: as above.
            at = unsafe { shared.view.record(head).slab() }.next.unwrap_or(first);
            if at == begins {
                break;
            }
        }
        self.shelves[host.index()].search = Some(at);
        None
    }

    /// Takes a slab off its class's list if nothing is free in it any more.
    fn after_join(&mut self, shared: &Shared, head: u32, host: Class) {
        // SAFETY: the slab is this thread's.
        if unsafe { shared.view.record(head).slab() }.free_objects() == 0 {
            self.unlink(shared, head, host);
            // SAFETY: as above.
            unsafe { shared.view.record(head).slab() }.state = State::Full;
        }
    }
}
