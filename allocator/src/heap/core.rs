//! What all threads of a heap share: what is [behind one lock](Central), and the tables and the list
//! of threads' heaps, which are read without.
//!
//! A thread comes here for a slab, which is 32 KiB of objects or more, or for an allocation longer
//! than those; so the lock is taken seldom.
#![allow(unsafe_code)] // tables that are shared

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use super::central::Central;
use super::classes::Class;
use super::config::Config;
use super::fatal::{Fault, die};
use super::local::{self, Local, Own, Standing};
use super::lock::Lock;
use super::record::SliceRef;
use super::remote::{self, Freed};
use super::tables::{Entry, OWNERS_MAX, Owner, View};
use crate::os::{Backing, Os};
use crate::units::Bytes;

/// How many of the heaps that no thread has keep what is in their bins for the next one.
const WARM: u32 = 4;

const NEW: u32 = 0;
const READY: u32 = 1;
const FAILED: u32 = 2;

/// A heap: slabs, runs of slices and huge extents in a span of address space of its own.
#[derive(Debug)]
pub(super) struct Heap<O: Os> {
    stage: AtomicU32,
    shared: UnsafeCell<MaybeUninit<Shared>>,
    os: UnsafeCell<MaybeUninit<O>>,
    /// Whether objects have ever been [joined](super::local::Joins) here.
    pub joins: AtomicBool,
    pub central: Lock<Option<Central<O>>>,
}

/// What is read without the lock, and never changes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    pub view: View,
    /// Addresses of the threads' heaps, by owner.
    locals: NonNull<AtomicU64>,
    pub config: Config,
}

// SAFETY: `shared` and `os` are written once, before `stage` says so; the rest is behind the lock.
unsafe impl<O: Os> Sync for Heap<O> {}
// SAFETY: it owns what it refers to.
unsafe impl<O: Os> Send for Heap<O> {}

impl<O: Os> Heap<O> {
    /// A heap that reserves its span when it is first used.
    pub const fn new() -> Self {
        Self {
            stage: AtomicU32::new(NEW),
            shared: UnsafeCell::new(MaybeUninit::uninit()),
            os: UnsafeCell::new(MaybeUninit::uninit()),
            joins: AtomicBool::new(false),
            central: Lock::new(None),
        }
    }

    /// What is read without the lock; `None` before the first use, and where there is no heap.
    #[inline]
    pub fn shared(&self) -> Option<&Shared> {
        if self.stage.load(Ordering::Acquire) != READY {
            return None;
        }
        // SAFETY: it was written before the stage said so, and is not written again.
        Some(unsafe { (*self.shared.get()).assume_init_ref() })
    }

    /// The machine that it stands on, once there is a heap.
    pub fn os(&self) -> Option<&O> {
        // SAFETY: as above; it was written before as well.
        self.shared().map(|_| unsafe { (*self.os.get()).assume_init_ref() })
    }

    /// Reserves the span, once. Whether there is a heap.
    #[cold]
    pub fn start(&self, os: O, config: impl FnOnce() -> Config) -> bool {
        let mut central = self.central.lock();
        if self.stage.load(Ordering::Acquire) == NEW {
            let config = config();
            let stage = match Central::new(os, config) {
                Ok(new) => {
                    let shared = Shared {
                        view: *new.tables.view(),
                        locals: NonNull::from(&*new.locals).cast(),
                        config,
                    };
                    // SAFETY: under the lock, and nobody reads it before the stage says so.
                    unsafe {
                        (*self.shared.get()).write(shared);
                        (*self.os.get()).write(new.os.clone());
                    }
                    *central = Some(new);
                    READY
                }
                Err(_) => FAILED,
            };
            self.stage.store(stage, Ordering::Release);
        }
        self.stage.load(Ordering::Acquire) == READY
    }

    /// Runs something under the lock. The heap has started.
    #[inline]
    pub fn with<R>(&self, run: impl FnOnce(&mut Central<O>) -> R) -> Option<R> {
        self.central.lock().as_mut().map(run)
    }

    /// The heap of an owner.
    pub fn local(shared: &Shared, owner: Owner) -> Option<NonNull<Local>> {
        if owner.0 == 0 || owner.0 > OWNERS_MAX {
            return None;
        }
        // SAFETY: the array has a word for each owner.
        let word = unsafe { shared.locals.add(owner.0 as usize).as_ref() };
        NonNull::new(word.load(Ordering::Acquire) as *mut Local)
    }

    /// How many bytes of an object may be used that lies in a slice of a slab of that class.
    pub fn usable_of_slab(
        &self,
        shared: &Shared,
        (slice, class): (u32, Class),
        at: usize,
    ) -> usize {
        // Whoever has a joined object was given it after this was written.
        if !self.joins.load(Ordering::Relaxed) || !class.joins() {
            return class.size();
        }
        // SAFETY: the slice's word said that it is one of a slab of that class.
        let (head, record) = unsafe {
            let head = shared.view.head(slice, class);
            (head, shared.view.record(head))
        };
        let (object, _) = class.shape().locate(at - shared.view.address(head));
        class.size() * record.joined_to(object.min(class.shape().objects - 1)) as usize
    }

    // Objects freed by threads that do not own their slab.

    /// Frees objects of one class from a thread that does not own their slabs (or acts as if it did
    /// not). Neighbours that follow each other are freed together.
    pub fn free_remotely(&self, shared: &Shared, class: Class, objects: &[*mut u8]) {
        let mut words = objects.iter().map(|&at| Word::of(shared, class, at as usize));
        let Some(mut same) = words.next() else { return };
        for (word, &object) in words.zip(&objects[1..]) {
            if (word.head, word.at) != (same.head, same.at) {
                self.free_word(shared, class, same);
                same = word;
            } else if same.bits & word.bits != 0 {
                die(Fault::Twice, object as usize);
            } else {
                same.bits |= word.bits;
            }
        }
        self.free_word(shared, class, same);
    }

    fn free_word(&self, shared: &Shared, class: Class, word: Word) {
        // SAFETY: the word of a slice of it said that it is a slab.
        match unsafe { shared.view.record(word.head) }.free_remotely(word.at, word.bits) {
            Freed::Told => {}
            Freed::Tell => self.tell(shared, word.head, word.owner),
            Freed::Twice(bits) => {
                let object = (word.at * 64 + bits.trailing_zeros()) as usize;
                die(Fault::Twice, shared.view.address(word.head) + object * class.size());
            }
        }
    }

    /// Puts a slab, whose first flag this thread has raised, onto its owner's list.
    fn tell(&self, shared: &Shared, head: u32, owner: Owner) {
        let Some(local) = Self::local(shared, owner) else { return };
        // SAFETY: threads' heaps are never unmapped, and this part of them is for everybody; the
        // record is that of a slab.
        let (standing, record) = unsafe { (&local.as_ref().standing, shared.view.record(head)) };
        remote::push(&standing.pending, SliceRef::new(head).word(), &record.link);
        if standing.holder.is_retired() {
            self.visit(shared, local);
        }
    }

    /// Looks after a heap that no thread has at present.
    #[cold]
    pub fn visit(&self, shared: &Shared, local: NonNull<Local>) {
        // SAFETY: as above.
        let standing = unsafe { &(*local.as_ptr()).standing };
        standing.holder.look_after(&standing.pending, || {
            // SAFETY: whoever visits a heap has it to itself.
            let own = unsafe { &mut (*local.as_ptr()).own };
            own.hear(standing, self, shared);
        });
    }

    /// A slab was on the list of somebody who does not own it: it was given back and perhaps made
    /// anew between a thread's freeing the last object and its telling so. Tells the owner of now,
    /// if there is anything to tell.
    pub fn settle(&self, shared: &Shared, head: u32) {
        // SAFETY: it was a slab.
        let record = unsafe { shared.view.record(head) };
        loop {
            let flags = record.quieten();
            if flags == 0 || !record.raise(flags) {
                return;
            }
            if let Entry::Slab(owner, _) = shared.view.entry(head) {
                return self.tell(shared, head, owner);
            }
        }
    }

    // Threads.

    /// A heap for this thread: one that another has left, or a new one.
    pub fn attach(&self) -> Option<NonNull<Local>> {
        let shared = *self.shared()?;
        let local =
            self.with(|central| central.adopt(&shared).or_else(|| central.create(&shared)))??;
        // SAFETY: it is this thread's from now on.
        if unsafe { (*local.as_ptr()).own.begin() } {
            self.with(|central| central.warm -= 1);
        }
        Some(local)
    }

    /// Takes a thread's heap back, with what is still in use in it.
    ///
    /// # Safety
    /// [`Heap::attach`] gave it to this thread, which uses it no more.
    pub unsafe fn retire(&self, local: NonNull<Local>) {
        let Some(shared) = self.shared() else { return };
        let local_ptr = local.as_ptr();
        // SAFETY: the thread has it to itself until it is retired.
        let (own, standing) = unsafe { (&mut (*local_ptr).own, &(*local_ptr).standing) };
        own.send_all(self, shared);
        own.hear(standing, self, shared);
        let owner = own.owner();
        let warm = self.with(|central| central.keep_warm()).unwrap_or(false);
        if warm {
            own.rest(self.now_ms());
        } else {
            own.empty(standing, self, shared);
        }
        standing.holder.retire();
        self.visit(shared, local);
        self.with(|central| central.add_retired(owner, standing));
    }

    /// Gives back all that is free, also what heaps without a thread have kept, and of this thread's, which is
    /// `own`, or nobody's; whether that was anything.
    pub fn trim(&self, own: Owner) -> bool {
        let Some(shared) = self.shared() else { return false };
        self.empty_retired(shared, |_| true);
        let returned = || self.with(|central| central.returned_parts);
        let before = returned();
        self.give_all_parts(shared, own);
        self.with(|central| central.trim()) == Some(true) || returned() != before
    }

    /// Takes what heaps without a thread have kept in their bins, of those that are such.
    pub fn empty_retired(&self, shared: &Shared, is_such: impl Fn(&Own) -> bool) {
        let mut next = self.with(|central| central.retired).unwrap_or(0);
        while let Some(local) = Self::local(shared, Owner(next)) {
            // SAFETY: threads' heaps are never unmapped.
            let standing = unsafe { &(*local.as_ptr()).standing };
            next = standing.next.load(Ordering::Relaxed);
            if standing.holder.visit() {
                // SAFETY: whoever visits a heap has it to itself.
                let own = unsafe { &mut (*local.as_ptr()).own };
                if is_such(own) && own.empty(standing, self, shared) {
                    self.with(|central| central.warm -= 1);
                }
                standing.holder.leave();
                self.visit(shared, local);
            }
        }
    }
}

impl<O: Os> Central<O> {
    fn adopt(&mut self, shared: &Shared) -> Option<NonNull<Local>> {
        let mut before: Option<&AtomicU32> = None;
        let mut owner = self.retired;
        while let Some(local) = Heap::<O>::local(shared, Owner(owner)) {
            // SAFETY: threads' heaps are never unmapped, and this part is for everybody.
            let standing: &Standing = unsafe { &(*local.as_ptr()).standing };
            let next = standing.next.load(Ordering::Relaxed);
            if standing.holder.adopt() {
                match before {
                    Some(link) => link.store(next, Ordering::Relaxed),
                    None => self.retired = next,
                }
                self.active += 1;
                return Some(local);
            }
            // Somebody is visiting it; then it waits for the next thread.
            (before, owner) = (Some(&standing.next), next);
        }
        None
    }

    /// Whether one more heap without a thread may keep what is in its bins.
    fn keep_warm(&mut self) -> bool {
        let may = self.warm < WARM;
        self.warm += u32::from(may);
        may
    }

    fn add_retired(&mut self, owner: Owner, standing: &Standing) {
        self.active -= 1;
        standing.next.store(self.retired, Ordering::Relaxed);
        self.retired = owner.0;
    }

    fn create(&mut self, shared: &Shared) -> Option<NonNull<Local>> {
        if self.owners == OWNERS_MAX {
            return None;
        }
        let len = Bytes::of_len(local::BYTES).checked_round_up(self.os.base_page_size())?;
        // SAFETY: no address is given.
        let memory = unsafe { self.os.map(None, len, Backing::Anonymous) }.ok()?;
        let owner = Owner(self.owners + 1);
        // SAFETY: the memory is new, zero, page-aligned and long enough.
        let local = unsafe { Local::place(memory, owner, shared) };
        self.locals[owner.0 as usize].store(local.as_ptr() as u64, Ordering::Release);
        self.owners += 1;
        self.active += 1;
        Some(local)
    }
}

/// Objects of a slab that share a word of its bitmaps.
#[derive(Clone, Copy, Debug)]
struct Word {
    /// First slice of the slab.
    head: u32,
    owner: Owner,
    /// Which of the words.
    at: u32,
    bits: u64,
}

impl Word {
    /// That of an object in use. Ends the program if there is none.
    fn of(shared: &Shared, class: Class, at: usize) -> Self {
        let Some(slice) = shared.view.slice(at) else { die(Fault::Foreign, at) };
        let Entry::Slab(owner, now) = shared.view.entry(slice) else { die(Fault::Foreign, at) };
        // SAFETY: its word said so.
        let head = unsafe { shared.view.head(slice, now) };
        let (object, within) = class.shape().locate(at - shared.view.address(head));
        // A slab of another class now: all that was in it has been freed since.
        if now != class {
            die(Fault::Twice, at);
        }
        if within != 0 || object >= class.shape().objects {
            die(Fault::Interior, at);
        }
        Self { head, owner, at: object / 64, bits: 1 << (object % 64) }
    }
}
