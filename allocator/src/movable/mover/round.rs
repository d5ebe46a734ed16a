//! One round: a batch of objects, each of which has a place to go to.
#![allow(unsafe_code)] // copies objects

use core::ptr::{self, NonNull};
use core::sync::atomic::Ordering::Release;
use std::sync::Arc;
use std::time::Instant;

use super::group::{groups, stretches};
use super::{Budget, Carried, Moving};
use crate::movable::error::Obstacle;
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
const CHUNK: usize = 128 << 10;

/// An object to be moved.
#[derive(Clone, Copy, Debug)]
pub(in crate::movable) struct Item {
    pub index: u32,
    pub owner: u16,
    pub from: Offset,
    pub to: Offset,
    /// Bytes to be copied.
    pub len: u64,
    /// Whether the caller holds it, and lets it go.
    pub held: bool,
}

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
    pub objects: Vec<Ready>,
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

/// An object of a round; once it is isolated, one whose owner, if it has one, agreed.
#[derive(Debug)]
pub(in crate::movable) struct Ready {
    pub item: Item,
    pub owner: Option<Arc<dyn Owner>>,
    /// Why it was not moved; nothing where it is gone.
    pub fate: Result<(), Option<Obstacle>>,
}

impl From<Item> for Ready {
    fn from(item: Item) -> Self {
        Self { item, owner: None, fate: Ok(()) }
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
        let mut batch = Batch { objects: vec![item.into()], places: Vec::new() };
        let carried = self.round(&mut batch, terms, budget);
        (carried, batch.places)
    }

    /// Moves the objects of a batch, of blocks whose stamps are odd, and takes them out of it.
    pub(super) fn round(&self, batch: &mut Batch, terms: Terms, budget: &mut Budget) -> Carried {
        let heap = self.heap;
        let mut done = Carried::default();
        let Batch { objects: batch, places } = batch;
        places.clear();
        places.reserve(batch.len());
        batch.retain_mut(|ready| match self.isolate(ready) {
            Ok(()) => true,
            Err(obstacle) => {
                done.meet(obstacle);
                places.push(ready.item.to);
                false
            }
        });
        let waited = self.wait(batch, &terms, budget);
        if waited {
            self.pass_over_pinned(batch);
            // Before any of their handles is stale.
            let (all, mut stale) = (batch.len() as u64, 0);
            unsettle(all);
            groups(batch).for_each(|group| stale += self.carry(group, &terms, budget));
            settle(all - stale);
        } else {
            batch.iter_mut().for_each(|ready| ready.fate = Err(Some(Obstacle::InUse)));
        }
        heap.tables.insists.store(NEVER, Release);
        for ready in batch.drain(..) {
            let (kept, freed) = match ready.fate {
                Ok(()) => (ready.item.to, ready.item.from),
                Err(_) => (ready.item.from, ready.item.to),
            };
            match ready.fate {
                Ok(()) => {
                    done.objects += 1;
                    done.bytes = done.bytes + Bytes::new(ready.item.len);
                }
                Err(obstacle) => done.meet(obstacle),
            }
            places.push(freed);
            self.put_back(&ready, kept);
        }
        done
    }

    /// Asks an owner, and readies the object. What is in the way, if anything but that it is gone.
    fn isolate(&self, ready: &mut Ready) -> Result<(), Option<Obstacle>> {
        let item = ready.item;
        let word = self.heap.tables.word(item.index);
        if item.owner != NOBODY {
            ready.owner = self.heap.owner(item.owner);
            if !item.held && !protocol::hold(word, item.from) {
                return Err(Some(Obstacle::Pinned));
            }
            let subject = self.subject(&item, item.from);
            let answer = ready.owner.as_ref().map(|owner| asked(|| owner.isolate(subject)));
            if answer == Some(Answer::Refused) {
                if !item.held {
                    self.let_go(item.index);
                }
                return Err(Some(Obstacle::Refused));
            }
        }
        // What is pinned or gone by now fails to be claimed.
        protocol::ready(word, item.from, KEEP | LATE);
        Ok(())
    }

    /// Waits until nobody is left who began before.
    fn wait(&self, batch: &[Ready], terms: &Terms, budget: &Budget) -> bool {
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
        for Ready { item, .. } in batch {
            protocol::ready(self.heap.tables.word(item.index), item.from, KEEP);
        }
        look_again() && wait_for_older(epoch, until)
    }

    /// Takes what is pinned by slots out of a batch for which sessions have been waited.
    fn pass_over_pinned(&self, batch: &mut [Ready]) {
        let pinned = pinned();
        if pinned.is_empty() {
            return;
        }
        for ready in batch {
            let address = self.heap.tables.address(ready.item.from) as u64;
            if pinned.binary_search(&address).is_ok() {
                ready.fate = Err(Some(Obstacle::Pinned));
            }
        }
    }

    /// Claims the objects of a group, copies them and publishes them. What is not moved is where it was.
    /// Says how many handles are stale for it.
    ///
    /// Not one after the other, for each change of a word waits until all that was written before is in
    /// the cache: that would be the copy of one small object after the other.
    fn carry(&self, group: &mut [Ready], terms: &Terms, budget: &mut Budget) -> u64 {
        let late = budget.until.is_some_and(|at| Instant::now() >= at);
        let mut claimed = 0u64;
        for (n, ready) in group.iter_mut().enumerate() {
            ready.fate = match ready.fate {
                Ok(()) if late => Err(Some(Obstacle::Budget)),
                Ok(()) => self.claim(ready, budget),
                passed_over => passed_over,
            };
            claimed |= u64::from(ready.fate.is_ok()) << n;
        }
        let is_claimed = |n: usize| claimed >> n & 1 == 1;
        // Nobody else has the address of any, so that all the places are this thread's.
        if let [ready] = group {
            if claimed == 1 {
                let copied = self.copy(&ready.item);
                let agreed =
                    copied.and_then(|()| self.migrate(&ready.item, ready.owner.as_deref()));
                ready.fate = agreed.map_err(Some);
            }
        } else {
            let objects = group.iter().enumerate().filter(|(n, _)| is_claimed(*n));
            stretches(objects.map(|(_, ready)| ready.item), |stretch| self.copy_whole(&stretch));
        }
        let (mut doomed, mut stale) = (0u64, 0);
        for (n, ready) in group.iter().enumerate().filter(|(n, _)| is_claimed(*n)) {
            let published = self.publish(ready, terms);
            doomed |= u64::from(published.doomed) << n;
            stale += u64::from(published.stale);
        }
        // Not before: what drops them is the user's, and may want others of the group.
        for (n, Ready { item, .. }) in group.iter().enumerate() {
            if doomed >> n & 1 == 1 && item.owner == NOBODY && !item.held {
                // The heap lives: this thread is moving in it.
                drop(self.heap.bury(item.index));
            }
        }
        stale
    }

    fn claim(&self, ready: &Ready, budget: &mut Budget) -> Result<(), Option<Obstacle>> {
        let item = &ready.item;
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

    fn publish(&self, Ready { item, fate, .. }: &Ready, terms: &Terms) -> Published {
        let (at, pin) = if fate.is_ok() { (item.to, terms.pin) } else { (item.from, false) };
        protocol::publish(self.heap.tables.word(item.index), at, pin)
    }

    /// Copies what is claimed, however long that takes.
    fn copy_whole(&self, item: &Item) {
        let tables = &self.heap.tables;
        let (from, to) = (tables.address(item.from), tables.address(item.to));
        // SAFETY: both places lie in blocks that are populated, and are this thread's alone.
        unsafe { ptr::copy(from, to, item.len as usize) };
    }

    /// Copies an object that is claimed; gives up where somebody waits for a long one.
    fn copy(&self, item: &Item) -> Result<(), Obstacle> {
        if item.slides() {
            // What is half over itself cannot be given up.
            self.copy_whole(item);
            return Ok(());
        }
        let tables = &self.heap.tables;
        let (from, to, len) = (tables.address(item.from), tables.address(item.to), item.len);
        let mut done = 0;
        while done < len as usize {
            let chunk = CHUNK.min(len as usize - done);
            // SAFETY: as above, and they do not overlap.
            unsafe { ptr::copy_nonoverlapping(from.add(done), to.add(done), chunk) };
            done += chunk;
            if done < len as usize && protocol::is_wanted(tables.word(item.index)) {
                return Err(Obstacle::InUse);
            }
        }
        Ok(())
    }

    /// Tells the owner. If he refuses, the object is whole in its old place.
    fn migrate(&self, item: &Item, owner: Option<&dyn Owner>) -> Result<(), Obstacle> {
        let Some(owner) = owner else { return Ok(()) };
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
    fn put_back(&self, ready: &Ready, at: Offset) {
        let Some(owner) = &ready.owner else { return };
        let subject = self.subject(&ready.item, at);
        told(|| owner.put_back(subject));
        if !ready.item.held {
            self.let_go(ready.item.index);
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
