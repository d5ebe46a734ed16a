//! Files whose contents come in pieces.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex};

use super::{FILES_MAX, Receiver, Spot};
use crate::copy::cached::Slices;
use crate::copy::engine::{CopyError, Kind, Log, PieceSum, Sparse, Sums};
use crate::copy::error::FileError;
use crate::copy::journal::{Header, Identity};
use crate::copy::sum::{Sum, Summer, has_aes};
use crate::copy::target::Target;
use crate::copy::tree::directory::{Id, id_of};
use crate::copy::tree::entry::look;
use crate::copy::unfinished::{RESUMABLE_BYTES, clear_rest};
use crate::copy::verify;
use crate::copy::zeros;
use crate::remote::direct::Direct;
use crate::remote::error::RemoteError;
use crate::remote::protocol::{Attributes, Entry, Extent, Message};
use crate::remote::sender::EXTENTS_MAX;
use crate::remote::session::{Over, lock};
use crate::remote::transport::Feed;

use super::compare::Candidate;
use super::device::Covered;
use super::entries::Standing;

/// Pieces of one file: each that is to be verified takes memory.
const PIECES_MAX: u64 = 1 << 24;
/// Ranges told in one message.
const EXTENTS_A_MESSAGE: usize = 4096;

/// A file under way.
#[derive(Debug)]
pub(super) struct Incoming {
    number: u32,
    file: File,
    /// Past the page cache.
    direct: Option<Direct>,
    /// Held while the page cache is written to: the kernel lets one writer of a file in at a time, and has
    /// the others spin, who could compare checksums meanwhile.
    writing: Mutex<()>,
    /// How it is written.
    slices: Slices,
    /// What of a device was written.
    covered: Option<Covered>,
    len: u64,
    /// Where pieces are to be verified in the end.
    sums: Option<Sums>,
    log: Option<Arc<dyn Log>>,
    /// What makes the sums of its pieces.
    summer: Summer,
    state: Mutex<State>,
    attributes: Attributes,
    link: u64,
    spot: Spot,
}

#[derive(Debug)]
struct State {
    /// Taken by whoever finishes it.
    target: Option<Target>,
    /// Pieces that were written.
    written: u64,
    /// Pieces that there are, once that is known.
    expected: Option<u64>,
    /// And the checksum of all, where that is to be told.
    sum: Option<[u8; 32]>,
}

impl std::fmt::Debug for Spot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Spot").field(&self.path()).finish()
    }
}

/// What is done about a file that is offered.
enum Begun {
    /// Nothing, because of what is there; whether that was counted.
    Left { counted: bool },
    /// First it is found out whether this is the same.
    Ask(File),
    /// It is to come, but for these parts.
    Open(Box<Incoming>, Vec<Extent>),
}

impl Incoming {
    fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        match &self.direct {
            Some(direct) if direct.write(bytes, offset)? => Ok(()),
            _ => {
                let _writing = lock(&self.writing);
                self.slices.write_all_at(&self.file, bytes, offset)
            }
        }
    }
}

impl Receiver<'_, '_> {
    /// Opens a file whose contents are to come, and says that it is ready, or does not want it; or first asks
    /// whether it has the `same` contents as what is there, and the checksum of these.
    pub(super) fn open(
        &self,
        spot: Spot,
        entry: &Entry,
        number: u32,
        identity: &[u8; 56],
        same: Option<(bool, Option<[u8; 32]>)>,
    ) -> Result<(), Over> {
        let identity = Identity::from_bytes(identity);
        let (same, sum) = same.unzip();
        match self.begin(&spot, entry, number, identity, same) {
            Ok(Begun::Ask(file)) => {
                let entry = entry.clone();
                self.ask(number, Candidate::new(spot, entry, identity, file))
            }
            Ok(Begun::Open(incoming, known)) => {
                let summer = incoming.summer;
                let begun = Arc::new(*incoming);
                {
                    let mut files = lock(&self.files);
                    if files.len() >= FILES_MAX || files.insert(number, begun).is_some() {
                        drop(files);
                        return Err(self.breach("it sends too many files at once"));
                    }
                }
                for extents in known.chunks(EXTENTS_A_MESSAGE) {
                    let extents = extents.to_vec();
                    self.session.send(&Message::Have { file: number, extents })?;
                }
                self.session.send_now(&Message::Go { file: number, summer })
            }
            Ok(Begun::Left { counted }) => {
                self.session.progress.add(identity.len());
                self.tally.left.add(u64::from(!counted));
                if counted {
                    self.list(&spot, entry.link, sum.flatten());
                }
                let there = if counted {
                    look(&spot.place.file, &spot.name, false).ok().map(|(_, there)| id_of(&there))
                } else {
                    self.stays(&spot, entry, identity.len())
                };
                self.settle(entry.link, &spot, there);
                self.session.send_now(&Message::Skip { file: number })
            }
            Err(error) => {
                self.failed(&error);
                self.settle(entry.link, &spot, None);
                self.session.send_now(&Message::Skip { file: number })
            }
        }
    }

    fn begin(
        &self,
        spot: &Spot,
        entry: &Entry,
        number: u32,
        identity: Identity,
        same: Option<bool>,
    ) -> Result<Begun, FileError> {
        let (attributes, len) = (&entry.attributes, identity.len());
        if let Some(device) = self.device(spot, entry, len)? {
            let incoming = self.incoming(spot, entry, number, (device, len), Vec::new())?;
            return Ok(Begun::Open(Box::new(incoming), Vec::new()));
        }
        let old = match (self.standing(spot, attributes, Some(len))?, same) {
            (Standing::Stays, _) => return Ok(Begun::Left { counted: false }),
            (Standing::Candidate(file, _), None) => return Ok(Begun::Ask(file)),
            (Standing::Candidate(file, _), Some(true)) => {
                self.leave_same(spot, attributes, &file);
                return Ok(Begun::Left { counted: true });
            }
            (Standing::Candidate(_, there), Some(false)) => self.replaceable(spot, there)?,
            (Standing::Replaceable(old), _) => old,
        };
        // What tells of changes of a regular file tells nothing of those of a device.
        let regular = attributes.mode & libc::S_IFMT == libc::S_IFREG;
        let resumed =
            (regular && len >= RESUMABLE_BYTES).then(|| Header { identity, summer: self.summer() });
        let target = self.stage(spot, attributes, old, resumed)?;
        let failed = |error| FileError::copy(error, &target, len);
        let io = |operation: &str| {
            let (path, operation) = (target.path.clone(), operation.to_owned());
            move |cause| CopyError::Operation { path, operation, cause }
        };
        let known = match target.unfinished() {
            Some(unfinished) => {
                let progress = crate::copy::engine::Progress::part_of(&self.session.progress);
                let known = unfinished.claims().verify(&target.file, &target.path, None, &progress);
                progress.reset(); // the sender's count of what need not be sent has it too
                let known = known.map_err(failed)?;
                let cleared = clear_rest(&target.file, &(0..u64::MAX), &known);
                cleared.map_err(|cause| failed(io("take out what is not known of it")(cause)))?;
                known
            }
            None => Vec::new(),
        };
        target.file.set_len(len).map_err(|cause| failed(io("set the length of it")(cause)))?;
        let bytes: u64 = known.iter().map(|piece| piece.range.end - piece.range.start).sum();
        self.tally.resumed.add(bytes);
        self.session.progress.add(bytes);
        let mut extents = extents(&known);
        extents.truncate(EXTENTS_MAX); // what the sender does not know of comes again
        let incoming = self.incoming(spot, entry, number, (target, len), known)?;
        Ok(Begun::Open(Box::new(incoming), extents))
    }

    /// A file whose pieces may come to `target`, but for those that are `known`.
    fn incoming(
        &self,
        spot: &Spot,
        entry: &Entry,
        number: u32,
        (target, len): (Target, u64),
        known: Vec<PieceSum>,
    ) -> Result<Incoming, FileError> {
        let file = target.file.try_clone();
        let file = file.map_err(|cause| FileError::target(&target.path, "open again", cause))?;
        let device = target.kind == Kind::BlockDevice;
        let summer = target.unfinished().map_or_else(|| self.summer(), |log| log.summer());
        Ok(Incoming {
            number,
            direct: (self.task.rdma || device).then(|| Direct::to_write(&file, len)).flatten(),
            slices: Slices::of(&file),
            file,
            writing: Mutex::default(),
            covered: device.then(Covered::default),
            len,
            sums: self.task.settings.wishes.verify.then(|| Sums::with(summer, known, None)),
            summer,
            log: target.unfinished().map(|log| Arc::clone(log) as Arc<dyn Log>),
            state: Mutex::new(State {
                target: Some(target),
                written: 0,
                expected: None,
                sum: None,
            }),
            attributes: entry.attributes.clone(),
            link: entry.link,
            spot: spot.clone(),
        })
    }

    /// A new one for a file, which both ends are quick at.
    fn summer(&self) -> Summer {
        Summer::new(self.session.aes && has_aes())
    }

    /// Receives pieces on one lane until it is over.
    pub(super) fn receive_pieces(&self, feed: &mut dyn Feed) -> Result<(), Over> {
        let session = self.session;
        loop {
            let message = feed.receive().map_err(|error| {
                if session.is_done() {
                    return Over;
                }
                session.fail(RemoteError::read(&session.host, error, session.timeout))
            })?;
            match message {
                Message::Piece { file, offset, len, sum } => {
                    let Some(file) = lock(&self.files).get(&file).cloned() else { continue };
                    let range = offset..offset + u64::from(len);
                    let piece = PieceSum { range, sum: Sum(sum) };
                    self.piece(&file, piece, feed.body())?;
                }
                _ => return Err(self.breach("it sends what is no piece on a lane for pieces")),
            }
        }
    }

    fn piece(&self, file: &Incoming, piece: PieceSum, bytes: &[u8]) -> Result<(), Over> {
        if piece.range.end > file.len {
            return Err(self.breach("it sends a piece that lies behind the end of its file"));
        }
        if file.summer.sum(piece.range.start, bytes) != piece.sum {
            let (path, range) = (file.spot.path(), piece.range);
            let error = CopyError::Arrived { path, range };
            // Whoever sends from the page cache may have sent what was written since it was hashed.
            return match self.task.plain && !self.task.rdma {
                true => self.fail(file, error),
                false => Err(self.session.fail(RemoteError::Lost {
                    host: self.session.host.clone(),
                    why: error.to_string(),
                })),
            };
        }
        if let Err(cause) = self.write(file, bytes, piece.range.start) {
            let (path, offset) = (file.spot.path(), piece.range.start);
            return self.fail(file, CopyError::Write { path, offset, cause });
        }
        self.session.progress.add(piece.range.end - piece.range.start);
        if let Some(covered) = &file.covered {
            covered.note(&piece.range);
        }
        if let Some(log) = &file.log {
            log.note(&piece);
        }
        if let Some(sums) = &file.sums {
            sums.keep(piece);
        }
        let complete = {
            let mut state = lock(&file.state);
            state.written += 1;
            if state.written > PIECES_MAX {
                return Err(self.breach("it sends a file in too many pieces"));
            }
            complete(&mut state)
        };
        if let Some(target) = complete {
            self.finish(file, target);
        }
        Ok(())
    }

    /// Writes a piece; zeros become holes where they are to.
    fn write(&self, file: &Incoming, bytes: &[u8], offset: u64) -> io::Result<()> {
        // What is not known of a file that was begun was taken out of it.
        if file.covered.is_some() || self.task.settings.tuning.sparse != Sparse::Always {
            return file.write(bytes, offset);
        }
        zeros::data_runs(offset, bytes)
            .try_for_each(|run| file.write(&bytes[run.clone()], offset + run.start as u64))
    }

    /// The sender has sent so many pieces of a file, which has this checksum if it was asked for.
    pub(super) fn expect(&self, number: u32, pieces: u64, sum: Option<[u8; 32]>) {
        let Some(file) = lock(&self.files).get(&number).cloned() else { return };
        let complete = {
            let mut state = lock(&file.state);
            (state.expected, state.sum) = (Some(pieces), sum);
            complete(&mut state)
        };
        if let Some(target) = complete {
            self.finish(&file, target);
        }
    }

    /// Does what is left to do with a file that is complete.
    fn finish(&self, file: &Incoming, target: Target) {
        let id = self.finish_target(file, target).unwrap_or_else(|error| {
            self.failed(&error);
            None
        });
        match (id, &file.covered) {
            (None, _) => {}
            (Some(_), Some(_)) => self.leave_unlisted(&file.spot),
            (Some(_), None) => self.list(&file.spot, file.link, lock(&file.state).sum),
        }
        self.settle(file.link, &file.spot, id);
        self.forget(file);
    }

    fn finish_target(&self, file: &Incoming, target: Target) -> Result<Option<Id>, FileError> {
        let settings = &self.task.settings;
        if let Some(covered) = &file.covered {
            self.zero_rest(&target, covered, file.len)?;
        }
        if let Some(sums) = &file.sums {
            let progress = crate::copy::engine::Progress::part_of(&self.session.progress);
            let verified = verify::verify(&target.side(), 0..file.len, sums, &progress);
            progress.reset();
            if let Err(error) = verified {
                if let Some(unfinished) = target.unfinished() {
                    unfinished.discard();
                }
                return Err(FileError::copy(error, &target, 0));
            }
        } else if settings.fsync {
            let synced = target.file.sync_all();
            synced.map_err(|cause| FileError::target(&target.path, "make durable", cause))?;
        }
        self.name(target, &file.attributes, file.len)
    }

    /// The sender gives a file up.
    pub(super) fn give_up(&self, number: u32, discard: bool) {
        if let Some(candidate) = lock(&self.candidates).remove(&number) {
            self.settle(candidate.entry.link, &candidate.spot, None);
        }
        let Some(file) = lock(&self.files).get(&number).cloned() else { return };
        let target = lock(&file.state).target.take();
        if let Some(unfinished) = target.as_ref().and_then(Target::unfinished)
            && discard
        {
            unfinished.discard();
        }
        self.settle(file.link, &file.spot, None);
        self.forget(&file);
    }

    /// A file cannot be written on.
    fn fail(&self, file: &Incoming, error: CopyError) -> Result<(), Over> {
        let Some(target) = lock(&file.state).target.take() else { return Ok(()) };
        self.failed(&FileError::copy(error, &target, file.len));
        drop(target);
        self.settle(file.link, &file.spot, None);
        self.forget(file);
        self.session.send_now(&Message::Skip { file: file.number })
    }

    fn forget(&self, file: &Incoming) {
        lock(&self.files).remove(&file.number);
        self.session.progress.file_done();
        self.files_bell.notify_all();
    }
}

/// The target, for whoever writes its last piece.
fn complete(state: &mut State) -> Option<Target> {
    if state.expected == Some(state.written) { state.target.take() } else { None }
}

/// The ranges of `pieces`, those that meet joined.
fn extents(pieces: &[PieceSum]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::new();
    for piece in pieces {
        let (start, end) = (piece.range.start, piece.range.end);
        match extents.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => extents.push(Extent { start, end }),
        }
    }
    extents
}
