//! A thread's slabs: the current one of a class, and the list of the others with room.
#![allow(unsafe_code)] // records of slabs that are this thread's

use core::sync::atomic::Ordering;

use super::super::classes::Class;
use super::super::core::{Heap, Shared};
use super::super::fatal::{Fault, die};
use super::super::record::{SliceRef, State};
use super::super::remote;
use super::super::tables::Entry;
use super::{Own, Standing};
use crate::os::Os;

/// The slabs of a class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shelf {
    /// First slice of the one that objects are taken from.
    pub current: Option<SliceRef>,
    /// The first of the others that have free objects.
    pub partial: Option<SliceRef>,
    /// How many objects to take at a time: few at first, so that a class that is hardly used keeps
    /// few.
    pub batch: u32,
    /// Objects that were put back last mostly lay in the slab of the one before.
    pub neighbours: bool,
    /// Where the last search for free neighbours to be joined ended.
    pub search: Option<SliceRef>,
    /// How many more slabs may be searched for objects of this class, before the heap grows for it; of how many at
    /// first; and whether anything was found since.
    pub searches: u32,
    pub patience: u32,
    pub found: bool,
    /// Of whose neighbours the last one was made.
    pub host: Option<Class>,
}

impl Shelf {
    pub const NONE: Self = Self {
        current: None,
        partial: None,
        batch: 0,
        neighbours: false,
        search: None,
        searches: 0,
        patience: 0,
        found: false,
        host: None,
    };
}

impl Own {
    /// The current slab of a class, or another one that becomes it, where there is one with room.
    pub(super) fn slab_with_room<O: Os>(
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
        let partial = self.shelves[class.index()].partial?.slice();
        self.unlink(shared, partial, class);
        Some(self.make_current(shared, partial, class))
    }

    /// A new slab, which becomes the current one.
    pub(super) fn new_slab<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
        may_grow: bool,
    ) -> Option<u32> {
        let head = heap.with(|central| central.new_slab(class, self.owner, may_grow))??;
        Some(self.make_current(shared, head, class))
    }

    fn make_current(&mut self, shared: &Shared, head: u32, class: Class) -> u32 {
        // SAFETY: the slab is this thread's.
        unsafe { shared.view.record(head).slab() }.state = State::Current;
        self.shelves[class.index()].current = Some(SliceRef::new(head));
        head
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

    /// Puts a slab where it belongs after objects came back to it.
    pub(super) fn after_free<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        head: u32,
        class: Class,
    ) {
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
    pub(super) fn unlink(&mut self, shared: &Shared, head: u32, class: Class) {
        // SAFETY: the slabs of the list are this thread's, and all different.
        unsafe {
            let slab = shared.view.record(head).slab();
            let (previous, next) = (slab.previous.take(), slab.next.take());
            let shelf = &mut self.shelves[class.index()];
            if shelf.search == Some(SliceRef::new(head)) {
                shelf.search = next;
            }
            if let Some(next) = next {
                shared.view.record(next.slice()).slab().previous = previous;
            }
            match previous {
                Some(previous) => shared.view.record(previous.slice()).slab().next = next,
                None => shelf.partial = next,
            }
        }
    }
}
