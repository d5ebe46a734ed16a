//! The end that reads: it goes through the operands in order, tells of everything on the main lane, and
//! sends what is in big files over the data lanes.
//!
//! Threads: one walks (the caller's), one listens to the receiver, one for each data lane takes
//! pieces from the files whose turn it is, reads them, hashes them and sends them; some take checksums of
//! whole files, where the receiver is to compare. The walk goes on
//! while files are under way, up to `OPEN_MAX` of them.

mod compare;
mod listed;
mod names;
mod pieces;
mod walk;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use super::error::{RemoteError, printable};
use super::manifest::{Copied, Listing};
use super::near;
use super::protocol::{Counts, Extent, Message, Naming, Relative};
use super::root::Root;
use super::session::{Over, Session, lock, wait};
use super::task::Task;
use super::transport::Lane;
use crate::copy::error::FileError;
use crate::copy::limit::Limiter;
use crate::copy::sum::Summer;
use crate::copy::tree::context::Talk;
use crate::copy::tree::tally::Tally;
use compare::Comparisons;
pub use names::AHEAD as NAMES_AHEAD;
use names::Inbox;
use pieces::{Outgoing, Queue};
use walk::Walk;
pub use walk::shown;
pub use walk::{DEPTH_MAX, LINKS_MAX};

/// Files under way at once.
const OPEN_MAX: usize = 32;
/// Ranges that a receiver may say it has of one file.
pub const EXTENTS_MAX: usize = 1 << 16;

/// See the module.
pub struct Sender<'a, 's> {
    session: &'a Session<'s>,
    task: &'a Task,
    root: &'a Root,
    talk: &'a dyn Talk,
    /// What failed.
    pub tally: &'a Tally,
    limiter: Limiter,
    files: Mutex<HashMap<u32, Arc<Outgoing>>>,
    /// Rings when a file is done.
    room: Condvar,
    queue: Queue,
    comparisons: Comparisons,
    inbox: Inbox,
    /// Who is told of copies, at the end that the user is at.
    listing: Option<&'a dyn Listing>,
    /// Names of files that the receiver was told of, of which it may list each once.
    offered: AtomicU64,
    next: AtomicU32,
    done: Mutex<Option<Counts>>,
    done_bell: Condvar,
}

impl std::fmt::Debug for Sender<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sender").field("task", self.task).finish_non_exhaustive()
    }
}

/// An operand: where it is read, and how it is called in messages about the copy.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Its path here.
    pub path: std::path::PathBuf,
    /// Where its copy goes, as far as this end knows (`-v`).
    pub shown: std::path::PathBuf,
    /// The names below it, where these are listed and this end has them.
    pub names: Option<Vec<Relative>>,
}

impl<'a, 's> Sender<'a, 's> {
    /// For what `task` says, from below `root`.
    pub fn new(
        session: &'a Session<'s>,
        task: &'a Task,
        root: &'a Root,
        talk: &'a dyn Talk,
        tally: &'a Tally,
    ) -> Self {
        Self {
            session,
            task,
            root,
            talk,
            tally,
            limiter: Limiter::new(task.settings.tuning.bwlimit),
            files: Mutex::default(),
            room: Condvar::new(),
            queue: Queue::default(),
            comparisons: Comparisons::default(),
            inbox: Inbox::default(),
            listing: None,
            offered: AtomicU64::new(0),
            next: AtomicU32::new(0),
            done: Mutex::default(),
            done_bell: Condvar::new(),
        }
    }

    /// Tells `listing` what the receiver has made, with checksums.
    pub fn with_listing(self, listing: Option<&'a dyn Listing>) -> Self {
        Self { listing, ..self }
    }

    /// Sends `operands` over the `lanes`, of which the first is the main one's feed; gives what the
    /// receiver says was done.
    ///
    /// # Errors
    /// [`Over`]; the session knows why.
    pub fn run(
        &self,
        operands: &[Operand],
        mut main: Box<dyn super::transport::Feed + '_>,
        lanes: Vec<Lane<'_>>,
    ) -> Result<Counts, Over> {
        std::thread::scope(|scope| {
            scope.spawn(|| self.session.beat());
            scope.spawn(|| {
                let _ = self.listen(&mut *main); // the session knows why
            });
            for lane in lanes {
                self.session.add(lane.closer);
                let (mut sink, feed, node) = (lane.sink, lane.feed, lane.node);
                drop(feed);
                scope.spawn(move || {
                    near::stay(node);
                    let _ = self.send_pieces(&mut *sink);
                });
            }
            for _ in
                0..if self.task.compares() || self.task.sums { super::task::lanes() } else { 0 }
            {
                scope.spawn(|| {
                    let _ = self.compare_files();
                });
            }
            let result = self.send(operands);
            self.session.end();
            self.queue.wake();
            self.comparisons.wake();
            result
        })
    }

    fn send(&self, operands: &[Operand]) -> Result<Counts, Over> {
        let mut walk = Walk::default();
        for (index, operand) in operands.iter().enumerate() {
            self.session.send(&Message::Operand { index: index as u32 })?;
            match self.task.naming {
                Naming::Operands => self.walk(operand, &mut walk)?,
                Naming::Listed | Naming::Parents => self.walk_names(operand, &mut walk)?,
            }
        }
        drop(wait(self.session, &self.room, lock(&self.files), |files| files.is_empty())?);
        self.session.send_now(&Message::Finish {})?;
        let mut done =
            wait(self.session, &self.done_bell, lock(&self.done), |done| done.is_some())?;
        done.take().ok_or(Over)
    }

    /// Hears what the receiver says, until it is over.
    fn listen(&self, feed: &mut dyn super::transport::Feed) -> Result<(), Over> {
        let session = self.session;
        loop {
            let message = feed.receive().map_err(|error| {
                session.fail(RemoteError::read(&session.host, error, session.timeout))
            })?;
            match message {
                Message::Alive {} => {}
                Message::Have { file, extents } => self.have(file, &extents)?,
                Message::Go { file, summer } => self.go(file, summer)?,
                Message::Skip { file } => self.skip(file)?,
                Message::Compare { file } => self.compare(file)?,
                Message::Names { names, last } => self.hear_names(names, last)?,
                Message::Copied { operand, into, way, hash } => {
                    self.copied(Copied { operand, into, way, hash })?;
                }
                Message::Differs { text } => {
                    if session.keeps_trouble(&text) {
                        self.talk.differs(&format!("{}: {}", session.host, printable(&text)));
                    }
                }
                Message::Trouble { text } => self.trouble(&text),
                Message::Done { counts } => {
                    *lock(&self.done) = Some(counts);
                    self.done_bell.notify_all();
                    return Ok(());
                }
                _ => return Err(self.breach("it sends what only a sender may")),
            }
        }
    }

    fn breach(&self, what: &str) -> Over {
        let host = self.session.host.clone();
        self.session.fail(RemoteError::Protocol { host, what: what.to_owned() })
    }

    /// There is a copy.
    fn copied(&self, copied: Copied) -> Result<(), Over> {
        let take = |left: u64| left.checked_sub(1);
        let order = (Ordering::Relaxed, Ordering::Relaxed);
        let offered = self.offered.fetch_update(order.0, order.1, take).is_ok();
        match self.listing {
            Some(listing) if offered && listing.copied(copied) => Ok(()),
            _ => Err(self.breach("it lists copies of what it was not sent")),
        }
    }

    fn file(&self, number: u32) -> Option<Arc<Outgoing>> {
        lock(&self.files).get(&number).cloned()
    }

    fn have(&self, number: u32, extents: &[Extent]) -> Result<(), Over> {
        let Some(file) = self.file(number) else { return Ok(()) };
        match file.add_known(extents, EXTENTS_MAX) {
            Ok(()) => Ok(()),
            Err(what) => Err(self.breach(what)),
        }
    }

    fn go(&self, number: u32, summer: Summer) -> Result<(), Over> {
        let Some(file) = self.file(number) else { return Ok(()) };
        let Some(passed) = file.start(summer) else {
            return Err(self.breach("it is ready for a file twice"));
        };
        self.session.progress.add(passed);
        self.queue.push(file);
        Ok(())
    }

    fn skip(&self, number: u32) -> Result<(), Over> {
        let Some(file) = self.file(number) else { return Ok(()) };
        if file.stop() {
            self.forget(&file);
        }
        Ok(())
    }

    /// A file is done, well or not.
    fn forget(&self, file: &Outgoing) {
        if lock(&self.files).remove(&file.number).is_some() {
            self.session.progress.file_done();
            self.room.notify_all();
        }
    }

    fn number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The receiver could not do something.
    fn trouble(&self, text: &str) {
        let host = self.session.host.clone();
        if self.session.keeps_trouble(text) {
            self.failed(&FileError::Remote { host, text: printable(text) });
        }
    }

    /// Something could not be done, which is no reason to stop.
    fn failed(&self, error: &FileError) {
        self.talk.failed(error);
        self.tally.failed(error.to_string());
    }
}
