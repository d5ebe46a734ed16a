//! The end that writes: it makes under its target what the sender tells of, and nothing else.
//!
//! What a sender names is a name in a directory that this end has opened: without slashes, links not
//! followed. How an operand itself is called, this end decides. What it keeps in memory is bounded:
//! frames, jobs that wait, directories in each other, files under way, names of hard links.
//!
//! Threads: one listens on the main lane (the caller's) and goes into directories; some make what is
//! small, and open what is big; one for each data lane takes pieces, compares their checksums and
//! writes them. A file whose last piece is there gets its attributes and its name from whoever wrote that.

mod big;
mod check;
mod compare;
mod device;
mod entries;
mod jobs;
mod links;
mod listing;
mod names;
mod operands;
mod place;
mod taken;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::CString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};

use super::error::{RemoteError, printable};
use super::lists::List;
use super::manifest::Listing;
use super::near;
use super::protocol::{Counts, Entry, Message};
use super::root::Root;
use super::session::{Over, Session, lock, wait};
use super::task::{Target, Task};
use super::transport::{Feed, Lane};
use crate::copy::error::FileError;
use crate::copy::tree::context::Talk;
use crate::copy::tree::directory::{Id, id_of};
use crate::copy::tree::tally::Tally;
use crate::copy::tree::wishes::Follow;
use big::Incoming;
use compare::Candidate;
use jobs::{Job, Jobs};
use links::Links;
use names::{Asked, Coming};
use place::Place;
use taken::Taken;

/// Files under way.
const FILES_MAX: usize = 256;

/// See the module.
pub struct Receiver<'a, 's> {
    session: &'a Session<'s>,
    task: &'a Task,
    root: &'a Root,
    talk: &'a dyn Talk,
    /// What was done, and what failed.
    pub tally: &'a Tally,
    jobs: Mutex<Jobs>,
    jobs_bell: Condvar,
    files: Mutex<HashMap<u32, Arc<Incoming>>>,
    files_bell: Condvar,
    /// Files that are compared with what is there.
    candidates: Mutex<HashMap<u32, Candidate>>,
    links: Links,
    /// What names what is to be copied, where this end has lists of it.
    lists: &'a [List],
    asked: Asked,
    /// Who is told of copies, where checksums are to be told.
    listing: Option<&'a dyn Listing>,
    /// Where several operands could make the same.
    made: Option<Mutex<HashSet<Id>>>,
    /// And which operand has which name.
    taken: Option<Taken>,
    /// One open directory on every file system that was written to, for `--fsync`.
    written: Mutex<HashMap<u64, File>>,
    /// What there is to tell of directories that were finished.
    finished: Arc<place::Finished>,
}

impl std::fmt::Debug for Receiver<'_, '_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("task", self.task).finish_non_exhaustive()
    }
}

/// Where something is made.
#[derive(Clone)]
struct Spot {
    place: Arc<Place>,
    name: CString,
    /// Where it comes from, in messages.
    source: PathBuf,
}

impl Spot {
    fn path(&self) -> PathBuf {
        self.place.path_of(&self.name)
    }
}

/// Operands, as this end knows them: by names that their copies get in a directory, and paths for messages.
#[derive(Clone, Debug)]
pub struct Operand {
    /// `.` where what is in it goes into the directory itself.
    pub name: Vec<u8>,
    /// Where it comes from, in messages.
    pub shown: PathBuf,
}

/// Where the listening thread is.
struct Position {
    /// Where the operand goes; none where it cannot.
    operand: Option<Spot>,
    /// Whether only a directory may go there: the path ends in a slash.
    directory_only: bool,
    /// The path of its source, in messages.
    source: PathBuf,
    /// The directories it is in.
    stack: Vec<Level>,
    /// How many of them the sender did not go into: that in which listed names are made again.
    base: usize,
    /// Where all is compared only: what the first name of a file with several is.
    linked: HashMap<u64, Id>,
}

/// A directory that the listening thread is in.
struct Level {
    /// None where it could not be made.
    place: Option<Arc<Place>>,
    /// Where all is compared only, or what is too much is removed: what the sender has not told of.
    unseen: BTreeSet<CString>,
    /// The path of its source, in messages.
    source: PathBuf,
}

impl<'a, 's> Receiver<'a, 's> {
    /// For `operands` of what `task` says, below `root`.
    pub fn new(
        session: &'a Session<'s>,
        task: &'a Task,
        root: &'a Root,
        talk: &'a dyn Talk,
        tally: &'a Tally,
        operands: &[Operand],
    ) -> Self {
        let several = operands.len() > 1;
        let rules = task.wishes.rules.clone();
        let finished = place::Finished { rules, ..place::Finished::default() };
        Self {
            session,
            task,
            root,
            talk,
            tally,
            jobs: Mutex::default(),
            jobs_bell: Condvar::new(),
            files: Mutex::default(),
            files_bell: Condvar::new(),
            candidates: Mutex::default(),
            links: Links::default(),
            lists: &[],
            asked: Asked::default(),
            listing: None,
            made: several.then(Mutex::default),
            taken: several.then(|| Taken::new(task.naming, operands)),
            written: Mutex::default(),
            finished: Arc::new(finished),
        }
    }

    /// Tells a sender that asks what is on `lists`.
    pub fn with_lists(self, lists: &'a [List]) -> Self {
        Self { lists, ..self }
    }

    /// Tells `listing` of copies, with checksums.
    pub fn with_listing(self, listing: Option<&'a dyn Listing>) -> Self {
        Self { listing, ..self }
    }

    /// Receives `operands` over the `lanes`, beside the main one's feed; gives what was done.
    ///
    /// # Errors
    /// [`Over`]; the session knows why.
    pub fn run(
        &self,
        target: &Target,
        operands: &[Operand],
        mut main: Box<dyn Feed + '_>,
        lanes: Vec<Lane<'_>>,
    ) -> Result<Counts, Over> {
        std::thread::scope(|scope| {
            scope.spawn(|| self.session.beat());
            if !self.lists.is_empty() {
                scope.spawn(|| {
                    let _ = self.tell_names(); // the session knows why
                });
            }
            for lane in lanes {
                self.session.add(lane.closer);
                let (sink, mut feed, node) = (lane.sink, lane.feed, lane.node);
                drop(sink);
                scope.spawn(move || {
                    near::stay(node);
                    let _ = self.receive_pieces(&mut *feed); // the session knows why
                });
            }
            for _ in 0..super::task::lanes() {
                scope.spawn(|| {
                    let _ = self.work();
                });
            }
            let result = self.receive(target, operands, &mut *main);
            if result.is_err() {
                self.finished.broken_off.store(true, Ordering::Relaxed);
            }
            self.session.end();
            self.jobs_bell.notify_all();
            result
        })
    }

    fn receive(
        &self,
        target: &Target,
        operands: &[Operand],
        main: &mut dyn Feed,
    ) -> Result<Counts, Over> {
        self.listen(target, operands, main)?;
        drop(wait(self.session, &self.jobs_bell, lock(&self.jobs), |jobs| {
            jobs.waiting.is_empty() && jobs.under_way == 0
        })?);
        drop(wait(self.session, &self.files_bell, lock(&self.files), |files| files.is_empty())?);
        if !lock(&self.candidates).is_empty() {
            return Err(self.breach("it is done without the checksums that it was asked for"));
        }
        self.finish_places()?;
        self.make_durable();
        self.tally.deleted.add(self.finished.deleted.get());
        for error in lock(&self.finished.failures).drain(..) {
            self.failed(&error);
        }
        let counts = self.counts();
        self.session.set_done();
        self.session.send_now(&Message::Done { counts: counts.clone() })?;
        // The sender closes the lane when it has heard that: who closed it before might be too early.
        while main.receive().is_ok() {}
        Ok(counts)
    }

    /// Waits until every directory has its attributes: whoever wrote the last file in one may still have it.
    fn finish_places(&self) -> Result<(), Over> {
        for name in self.links.take_awaiting() {
            self.failed(&links::not_copied(&name.spot));
        }
        while Arc::strong_count(&self.finished) > 1 {
            if self.session.is_over() {
                return Err(Over);
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        Ok(())
    }

    /// Hears what the sender says, until it has sent everything.
    fn listen(
        &self,
        target: &Target,
        operands: &[Operand],
        main: &mut dyn Feed,
    ) -> Result<(), Over> {
        let session = self.session;
        let mut at = Position {
            operand: None,
            directory_only: false,
            source: PathBuf::new(),
            stack: Vec::new(),
            base: 0,
            linked: HashMap::new(),
        };
        // In order and each once: where one went shall not lead the next one elsewhere.
        let mut next = 0;
        loop {
            let message = main.receive().map_err(|error| {
                session.fail(RemoteError::read(&session.host, error, session.timeout))
            })?;
            match message {
                Message::Alive {} => {}
                Message::Finish {} => return Ok(()),
                Message::Trouble { text } => {
                    let host = session.host.clone();
                    if session.keeps_trouble(&text) {
                        self.tell(&FileError::Remote { host, text: printable(&text) });
                    }
                }
                Message::Operand { index } => {
                    let operand = operands.get(index as usize).filter(|_| index == next);
                    let Some(operand) = operand else {
                        return Err(self.breach("it sends what was not asked for"));
                    };
                    next += 1;
                    self.begin_operand(&mut at, target, index, operand);
                }
                Message::Enter { entry } => self.enter(&mut at, &entry, false)?,
                Message::Pass { entry } => self.enter(&mut at, &entry, true)?,
                Message::More {} => self.hear_more()?,
                Message::Leave { complete } => self.leave(&mut at, complete)?,
                Message::Small { sum, .. } | Message::End { sum, .. }
                    if self.task.sums != sum.is_some() =>
                {
                    return Err(self.breach("it does not tell checksums as it was asked to"));
                }
                Message::Small { ref entry, .. }
                | Message::File { ref entry, .. }
                | Message::Symlink { ref entry, .. }
                | Message::Node { ref entry, .. }
                | Message::Link { ref entry } => {
                    let mut spot = self.spot(&at, entry)?;
                    self.check_wanted(spot.as_ref(), entry, Coming::Else)?;
                    if entry.name.is_none() && at.directory_only {
                        self.failed(&FileError::NotADirectory(self.root.shown(&target.path)));
                        spot = None;
                    }
                    at.see(entry);
                    if self.task.check {
                        spot = self.check_entry(&mut at, &message, spot)?;
                    }
                    self.take(spot, message)?;
                }
                Message::Sum { file, hash } => self.hear_sum(file, hash)?,
                Message::End { file, pieces, sum } => self.expect(file, pieces, sum),
                Message::Abandon { file, discard } => self.give_up(file, discard),
                _ => return Err(self.breach("it sends what only a receiver may")),
            }
        }
    }

    fn breach(&self, what: &str) -> Over {
        let host = self.session.host.clone();
        self.session.fail(RemoteError::Protocol { host, what: what.to_owned() })
    }

    /// Takes note of a directory in which something is made.
    fn will_write(&self, directory: &File) {
        if self.task.settings.fsync
            && let (Ok(metadata), Ok(file)) = (directory.metadata(), directory.try_clone())
        {
            lock(&self.written).entry(id_of(&metadata).0).or_insert(file);
        }
    }

    /// Where an entry goes; none where its directory could not be made.
    fn spot(&self, at: &Position, entry: &Entry) -> Result<Option<Spot>, Over> {
        match (&entry.name, at.stack.last()) {
            (Some(name), Some(level)) => {
                let name = name.as_c_str().to_owned();
                let source = level.source.join(place::os(&name));
                Ok(level.place.clone().map(|place| Spot { place, name, source }))
            }
            (None, _) if at.stack.len() == at.base => Ok(at.operand.clone()),
            _ => Err(self.breach("it sends something that is in no directory")),
        }
    }

    /// Puts a job where it gets done. Entries of what could not be made are passed over.
    fn take(&self, spot: Option<Spot>, message: Message) -> Result<(), Over> {
        let special = matches!(message, Message::Node { .. } | Message::Symlink { .. });
        if special && !self.task.has_trees() && self.task.wishes.follow == Follow::Always {
            return Err(self.breach("it sends what is no file, where files were asked for"));
        }
        let Some(spot) = spot else {
            if let Message::File { file, .. } = message {
                self.session.send_now(&Message::Skip { file })?;
            }
            return Ok(());
        };
        if !self.links.announce(&message) {
            return Err(self.breach("it has more hard links than can be"));
        }
        // Here, where all comes in order: the first stays.
        let taken = self.take_name(&spot);
        if !matches!(taken, Ok(true)) {
            self.tally.left.add(u64::from(taken.is_ok()));
            let _ = taken.map_err(|error| self.failed(&error));
            if let Some(entry) =
                message.entry().filter(|_| !matches!(message, Message::Link { .. }))
            {
                self.settle(entry.link, &spot, None);
            }
            return match message {
                Message::File { file, .. } => self.session.send_now(&Message::Skip { file }),
                _ => Ok(()),
            };
        }
        self.push(Job { spot, message, same: None, sum: None })
    }

    /// `--fsync`: one call for each file system, which waits for everything that was written.
    fn make_durable(&self) {
        for file in lock(&self.written).values() {
            if let Err(errno) = nix::unistd::syncfs(file) {
                let target = std::path::Path::new("the target's file system");
                self.failed(&FileError::target(target, "make durable", errno));
            }
        }
    }

    fn counts(&self) -> Counts {
        let tally = self.tally;
        Counts {
            files: tally.files.get(),
            bytes: tally.bytes.get(),
            resumed: tally.resumed.get(),
            directories: tally.directories.get(),
            symlinks: tally.symlinks.get(),
            hard_links: tally.hard_links.get(),
            specials: tally.specials.get(),
            left: tally.left.get(),
            deleted: tally.deleted.get(),
        }
    }

    /// Something could not be done, which is no reason to stop.
    fn failed(&self, error: &FileError) {
        // What was to replace what is too much may not have come.
        self.finished.broken_off.store(true, Ordering::Relaxed);
        self.tell(error);
    }

    /// Tells an error, which may be the other end's.
    fn tell(&self, error: &FileError) {
        self.talk.failed(error);
        self.tally.failed(error.to_string());
    }
}
