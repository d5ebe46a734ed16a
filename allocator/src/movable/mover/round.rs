//! One round: a batch of objects, each of which has a place to go to.
#![allow(unsafe_code)] // copies objects

use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Release;
use std::sync::Arc;
use std::time::Instant;

use super::group::{groups, stretches};
use super::streaming::Streaming;
use super::{Budget, Carried, Moving};
use crate::movable::error::Obstacle;
use crate::movable::heap::Inner;
use crate::movable::owner::{Answer, NOBODY, Owner, Subject, asked, told};
use crate::movable::protocol::{self, Published, Unclaimed};
use crate::movable::tables::NEVER;
use crate::movable::threads::{
    advance, look_again, pinned, settle, unsettle, upcoming, wait_for_older,
};
use crate::movable::word::{KEEP, LATE, Offset};
use crate::os::Os;
use crate::units::Bytes;

/// A copy looks this often whether somebody waits for the object.
const CHUNK: u64 = 128 << 10;

/// An object to be moved. Small, for a round has many, and each is looked at in every step.
#[derive(Clone, Copy, Debug)]
pub(in crate::movable) struct Item {
    pub index: u32,
    /// Who is asked, and told in the end; nobody once he has refused.
    pub owner: u16,
    /// Whether the caller holds it, and lets it go.
    pub held: bool,
    /// Why it was not moved; nothing where it is gone.
    pub fate: Result<(), Option<Obstacle>>,
    pub from: Offset,
    pub to: Offset,
    /// Bytes to be copied.
    pub len: u64,
}

const _: () = assert!(size_of::<Item>() == 32);

impl Item {
    /// Whether `next` stands behind it in both places.
    pub fn is_followed_by(&self, next: &Self) -> bool {
        let len = self.len as usize;
        next.from.bytes() == self.from.bytes() + len && next.to.bytes() == self.to.bytes() + len
    }

    /// Whether the places overlap.
    fn slides(&self) -> bool {
        self.from.bytes().abs_diff(self.to.bytes()) < self.len as usize
    }
}

/// The objects of a round, and the places that are free after it, old or new.
///
/// It is kept from one round to the next, for memory that is new to the processor's cache costs a small object as much
/// as its copy does.
#[derive(Debug, Default)]
pub(in crate::movable) struct Batch {
    pub items: Vec<Item>,
    pub places: Vec<Offset>,
}

/// What a round may do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Whether sessions that it does not wait for are to wait for it.
    pub insist: bool,
    /// Whether what is moved gets a pin.
    pub pin: bool,
}

/// The owner that was asked for last: neighbours have the same.
#[derive(Default)]
struct Owners(Option<(u16, Arc<dyn Owner>)>);

impl Owners {
    fn of<O: Os>(&mut self, item: &Item, heap: &Inner<O>) -> Option<&dyn Owner> {
        if item.owner == NOBODY {
            return None;
        }
        if self.0.as_ref().is_none_or(|(number, _)| *number != item.owner) {
            self.0 = heap.owner(item.owner).map(|owner| (item.owner, owner));
        }
        self.0.as_ref().map(|(_, owner)| &**owner)
    }
}

impl<O: Os> Moving<'_, O> {
    /// Moves one object.
    pub(super) fn move_one(
        &self,
        item: Item,
        terms: Terms,
        budget: &mut Budget,
    ) -> (Carried, Vec<Offset>) {
        let mut batch = Batch { items: vec![item], places: Vec::new() };
        let carried = self.round(&mut batch, terms, budget);
        (carried, batch.places)
    }

    /// Moves the objects of a batch, of blocks whose stamps are odd, and takes them out of it.
    pub(super) fn round(&self, batch: &mut Batch, terms: Terms, budget: &mut Budget) -> Carried {
        let Batch { items, places } = batch;
        let mut owners = Owners::default();
        for item in &mut *items {
            item.fate = self.isolate(item, &mut owners);
        }
        if self.wait(items, &terms, budget) {
            self.pass_over_pinned(items);
            // Before any of their handles is stale.
            let (all, mut stale) = (items.len() as u64, 0);
            unsettle(all);
            groups(items).for_each(|group| stale += self.carry(group, &mut owners, &terms, budget));
            settle(all - stale);
        } else {
            let waiting = items.iter_mut().filter(|item| item.fate.is_ok());
            waiting.for_each(|item| item.fate = Err(Some(Obstacle::InUse)));
        }
        self.heap.tables.insists.store(NEVER, Release);
        let (mut done, mut objects, mut bytes) = (Carried::default(), 0, 0);
        places.clear();
        places.reserve(items.len());
        for item in items.drain(..) {
            match item.fate {
                Ok(()) => {
                    objects += 1;
                    bytes += item.len;
                    places.push(item.from);
                }
                Err(obstacle) => {
                    done.meet(obstacle);
                    places.push(item.to);
                }
            }
            self.put_back(&item, &mut owners);
        }
        Carried { objects, bytes: Bytes::new(bytes), ..done }
    }

    /// Asks an owner, and readies the object. What is in the way, if anything but that it is gone.
    fn isolate(&self, item: &mut Item, owners: &mut Owners) -> Result<(), Option<Obstacle>> {
        let word = self.heap.tables.word(item.index);
        if let Some(owner) = owners.of(item, self.heap) {
            if !item.held && !protocol::hold(word, item.from) {
                item.owner = NOBODY;
                return Err(Some(Obstacle::Pinned));
            }
            let subject = self.subject(item, item.from);
            if asked(|| owner.isolate(subject)) == Answer::Refused {
                if !item.held {
                    self.let_go(item.index);
                }
                item.owner = NOBODY;
                return Err(Some(Obstacle::Refused));
            }
        }
        // What is pinned or gone by now fails to be claimed.
        protocol::ready(word, item.from, KEEP | LATE);
        Ok(())
    }

    /// Waits until nobody is left who began before.
    fn wait(&self, items: &[Item], terms: &Terms, budget: &Budget) -> bool {
        let until = budget.wait_until();
        if terms.insist {
            self.heap.tables.insists.store(upcoming(), Release);
        }
        let Some(epoch) = advance() else { return false };
        if !wait_for_older(epoch, until) {
            return false;
        }
        if !terms.insist {
            return true;
        }
        for item in items.iter().filter(|item| item.fate.is_ok()) {
            protocol::ready(self.heap.tables.word(item.index), item.from, KEEP);
        }
        look_again() && wait_for_older(epoch, until)
    }

    /// Takes what is pinned by slots out of a batch for which sessions have been waited.
    fn pass_over_pinned(&self, items: &mut [Item]) {
        let pinned = pinned();
        if pinned.is_empty() {
            return;
        }
        for item in items.iter_mut().filter(|item| item.fate.is_ok()) {
            let address = self.heap.tables.address(item.from) as u64;
            if pinned.binary_search(&address).is_ok() {
                item.fate = Err(Some(Obstacle::Pinned));
            }
        }
    }

    /// Claims the objects of a group, copies them and publishes them. What is not moved is where it was.
    /// Says how many handles are stale for it.
    ///
    /// Not one after the other, for each change of a word waits until all that was written before is in
    /// the cache: that would be the copy of one small object after the other.
    fn carry(
        &self,
        group: &mut [Item],
        owners: &mut Owners,
        terms: &Terms,
        budget: &mut Budget,
    ) -> u64 {
        let late = budget.until.is_some_and(|at| Instant::now() >= at);
        let mut claimed = 0u64;
        for (n, item) in group.iter_mut().enumerate() {
            item.fate = match item.fate {
                Ok(()) if late => Err(Some(Obstacle::Budget)),
                Ok(()) => self.claim(item, budget),
                passed_over => passed_over,
            };
            claimed |= u64::from(item.fate.is_ok()) << n;
        }
        // Nobody else has the address of any, so that all the places are this thread's.
        if let [item] = group {
            if claimed == 1 {
                let copied = self.copy(item);
                let agreed = copied.and_then(|()| self.migrate(item, owners));
                item.fate = agreed.map_err(Some);
            }
        } else {
            let streaming = Streaming::begin();
            stretches(group, claimed, |from, to, len| self.copy_apart(&streaming, from, to, len));
        }
        let (mut doomed, mut stale) = (0u64, 0);
        for (n, item) in group.iter().enumerate() {
            if claimed >> n & 1 == 1 {
                let published = self.publish(item, terms);
                doomed |= u64::from(published.doomed) << n;
                stale += u64::from(published.stale);
            }
        }
        // Not before: what drops them is the user's, and may want others of the group.
        if doomed != 0 {
            for (n, item) in group.iter().enumerate() {
                if doomed >> n & 1 == 1 && item.owner == NOBODY && !item.held {
                    // The heap lives: this thread is moving in it.
                    drop(self.heap.bury(item.index));
                }
            }
        }
        stale
    }

    fn claim(&self, item: &Item, budget: &mut Budget) -> Result<(), Option<Obstacle>> {
        if budget.bytes.get() < item.len {
            return Err(Some(Obstacle::Budget));
        }
        protocol::claim(self.heap.tables.word(item.index), item.from).map_err(|why| match why {
            Unclaimed::Pinned => Some(Obstacle::Pinned),
            Unclaimed::InUse => Some(Obstacle::InUse),
            // Whoever has freed it has freed its place.
            Unclaimed::Gone => None,
        })?;
        budget.spend(item.len);
        Ok(())
    }

    fn publish(&self, item: &Item, terms: &Terms) -> Published {
        let (at, pin) = if item.fate.is_ok() { (item.to, terms.pin) } else { (item.from, false) };
        protocol::publish(self.heap.tables.word(item.index), at, pin)
    }

    /// Copies from one place to another that does not overlap with it.
    fn copy_apart(&self, streaming: &Streaming, from: Offset, to: Offset, len: u64) {
        let tables = &self.heap.tables;
        debug_assert!(from.bytes().abs_diff(to.bytes()) >= len as usize);
        // SAFETY: both places lie in blocks that are populated, and are this thread's alone until the objects are
        // published, which is after the streaming.
        unsafe { streaming.copy(tables.address(from), tables.address(to), len as usize) };
    }

    /// Copies an object that is claimed; gives up where somebody waits for a long one.
    fn copy(&self, item: &Item) -> Result<(), Obstacle> {
        let Item { index, from, to, len, .. } = *item;
        let tables = &self.heap.tables;
        if item.slides() {
            // What is half over itself cannot be given up.
            // SAFETY: both places lie in blocks that are populated, and are this thread's alone.
            unsafe { ptr::copy(tables.address(from), tables.address(to), len as usize) };
            return Ok(());
        }
        let streaming = Streaming::begin();
        let mut done = 0;
        while done < len {
            let chunk = CHUNK.min(len - done);
            self.copy_apart(&streaming, from.after(done), to.after(done), chunk);
            done += chunk;
            if done < len && protocol::is_wanted(tables.word(index)) {
                return Err(Obstacle::InUse);
            }
        }
        Ok(())
    }

    /// Tells the owner. If he refuses, the object is whole in its old place.
    fn migrate(&self, item: &Item, owners: &mut Owners) -> Result<(), Obstacle> {
        let Some(owner) = owners.of(item, self.heap) else { return Ok(()) };
        let tables = &self.heap.tables;
        let (from, to) = (tables.address(item.from), tables.address(item.to));
        let subject = self.subject(item, item.from);
        let new = subject_address(to);
        if asked(|| owner.migrate(subject, new)) == Answer::Agreed {
            return Ok(());
        }
        if item.slides() {
            // SAFETY: as in `copy`; the new place has all of its bytes.
            unsafe { ptr::copy(to, from, item.len as usize) };
        }
        Err(Obstacle::Refused)
    }

    /// Tells the owner of an object that it is over.
    fn put_back(&self, item: &Item, owners: &mut Owners) {
        let Some(owner) = owners.of(item, self.heap) else { return };
        let at = if item.fate.is_ok() { item.to } else { item.from };
        let subject = self.subject(item, at);
        told(|| owner.put_back(subject));
        if !item.held {
            self.let_go(item.index);
        }
    }

    /// Ends what holds an object, and the object where it was freed meanwhile.
    pub(super) fn let_go(&self, index: u32) {
        if protocol::let_go(self.heap.tables.word(index)) {
            // The heap lives: this thread is moving in it.
            drop(self.heap.bury(index));
        }
    }

    fn subject(&self, item: &Item, at: Offset) -> Subject {
        Subject {
            id: self.heap.id(item.index),
            address: subject_address(self.heap.tables.address(at)),
            len: Bytes::new(item.len),
        }
    }

    /// Frees places that objects have left, or not come to.
    pub(super) fn give_back(&self, places: &[Offset]) {
        let mut state = self.heap.state();
        let empty = state.store.give_all(places);
        drop(state);
        empty.into_iter().for_each(|range| self.heap.give_blocks(range));
    }
}

fn subject_address(at: *mut u8) -> NonNull<u8> {
    NonNull::new(at).expect("pools do not begin at address 0")
}
