//! Between a thread's bins and the slabs: refilling, putting back, sending home.
#![allow(unsafe_code)] // memory of its own, and objects

use core::ptr::{self, NonNull};

use super::super::classes::{CLASSES, Class};
use super::super::core::{Heap, Shared};
use super::super::fatal::die;
use super::super::record::State;
use super::{BATCH_MIN, Own, Standing};
use crate::os::Os;

impl Own {
    // Other threads' objects.

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
