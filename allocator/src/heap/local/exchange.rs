//! Between a thread's bins and the slabs: refilling, putting back, sending home.
#![allow(unsafe_code)] // memory of its own, and objects

use core::ptr::{self, NonNull};

use super::super::classes::{CLASSES, Class};
use super::super::core::{Heap, Shared};
use super::super::fatal::{Fault, die};
use super::super::record::State;
use super::joining::{Joins, Room};
use super::{BATCH_MIN, Own, Standing};
use crate::os::Os;

/// Of how many objects put back one after the other all but one lie in the slab of the one before,
/// on an average, for the next ones to be taken together: whether a neighbour does is a branch that costs
/// more than it spares where it is not foreseen, as in programs that free in random order.
const NEIGHBOURS: usize = 4;

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
        joins: Joins,
    ) -> Option<NonNull<u8>> {
        if self.take_aside(class) {
            // SAFETY: this is the thread's own.
            return unsafe { Self::take(self, class) };
        }
        let head = match self.slab_with_room(standing, heap, shared, class) {
            Some(head) => head,
            None => match self.room_elsewhere(heap, shared, class, joins)? {
                Room::Slab(head) => head,
                Room::Joined(object) => return Some(object),
            },
        };
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
        let mut left = objects;
        while !left.is_empty() {
            let (put, slabs) = if self.shelves[class.index()].neighbours {
                self.put_together(heap, shared, class, left)
            } else {
                self.put_singly(heap, shared, class, left)
            };
            self.shelves[class.index()].neighbours = slabs * NEIGHBOURS <= put;
            left = &left[put..];
            let own = |at: &*mut u8| self.owns(&shared.view, *at as usize).is_some();
            let others = left.iter().position(own).unwrap_or(left.len());
            heap.free_remotely(shared, class, &left[..others]);
            left = &left[others..];
        }
    }

    /// Puts objects back one after the other, up to the first that is another thread's. How many, and how
    /// often one lay in another slab than the one before.
    fn put_singly<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
        objects: &[*mut u8],
    ) -> (usize, usize) {
        let (mut last, mut slabs) = (u32::MAX, 0);
        for (put, object) in objects.chunks_exact(1).enumerate() {
            let Some(slice) = self.owns(&shared.view, object[0] as usize) else {
                return (put, slabs);
            };
            // SAFETY: the slice is one of a slab of this thread's, of that class.
            let head = unsafe { shared.view.head(slice, class) };
            self.give(heap, shared, (head, class), object);
            slabs += usize::from(head != last);
            last = head;
        }
        (objects.len(), slabs)
    }

    /// The same, those together that lie in a slab.
    fn put_together<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        class: Class,
        objects: &[*mut u8],
    ) -> (usize, usize) {
        let (mut put, mut slabs) = (0, 0);
        let slice = |own: &Self, put| {
            objects.get(put).and_then(|&at: &*mut u8| own.owns(&shared.view, at as usize))
        };
        while let Some(slice) = slice(self, put) {
            // SAFETY: as in `put_singly`.
            let head = unsafe { shared.view.head(slice, class) };
            put += self.give(heap, shared, (head, class), &objects[put..]);
            slabs += 1;
        }
        (put, slabs)
    }

    /// Puts the objects at the beginning that lie in a slab of this thread's, as the first does, back
    /// into it; how many.
    #[inline(always)]
    fn give<O: Os>(
        &mut self,
        heap: &Heap<O>,
        shared: &Shared,
        (head, class): (u32, Class),
        objects: &[*mut u8],
    ) -> usize {
        let shape = class.shape();
        // SAFETY: the slab is this thread's, and nothing else refers to what is known of it.
        let given = match unsafe {
            shared.view.record(head).give(shape, shared.view.address(head), objects)
        } {
            // Behind the slab's last object.
            Ok(0) => die(Fault::Interior, objects[0] as usize),
            Ok(given) => given,
            Err((fault, at)) => die(fault, at),
        };
        // SAFETY: as above, before `after_free`.
        if unsafe { shared.view.record(head).slab() }.is_to_move(shape) {
            self.after_free(heap, shared, head, class);
        }
        given
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
