//! The contents of big files, piece by piece.

use std::collections::VecDeque;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use super::Sender;
use super::compare::{What, without_checksum};
use crate::copy::compare;
use crate::copy::engine::{CopyError, PieceSum, Progress, Sparse};
use crate::copy::error::FileError;
use crate::copy::journal::{self, Identity};
use crate::copy::manifest::{self, HashError};
use crate::copy::plan::SMALL_BYTES;
use crate::copy::reread::Reread;
use crate::copy::sum::{SUM_BYTES, Sum, Summer};
use crate::copy::whole::{Whole, subtrees};
use crate::copy::zeros;
use crate::remote::direct::Direct;
use crate::remote::error::RemoteError;
use crate::remote::protocol::{Extent, Message};
use crate::remote::session::{Over, Session, lock, wait};
use crate::remote::task;
use crate::remote::transport::Sink;

/// Bytes read at once for a checksum.
const CHUNK: u64 = 1 << 20;

/// A file under way.
#[derive(Debug)]
pub struct Outgoing {
    /// Its number.
    pub number: u32,
    file: File,
    direct: Option<Direct>,
    path: PathBuf,
    identity: Identity,
    /// Whether the identity tells of changes, as it does for regular files.
    regular: bool,
    len: u64,
    /// What makes the sums of its pieces, once the receiver is ready for them.
    summer: OnceLock<Summer>,
    /// What is known of its checksum, where that is to be told.
    whole: Option<Mutex<Whole>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Where there is data to send, in order.
    data: VecDeque<Range<u64>>,
    /// What the receiver has.
    known: Vec<PieceSum>,
    started: bool,
    /// The receiver wants its checksum.
    asked: bool,
    /// Which it was told.
    told: Option<blake3::Hash>,
    /// Nothing more is taken.
    stopped: bool,
    /// Pieces taken and not sent yet.
    under_way: u32,
    sent: u64,
}

/// Files whose pieces are to be sent, the first one first, and those of which nothing is.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: Mutex<Waiting>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    files: VecDeque<Arc<Outgoing>>,
    /// Their end is to be told, which whoever hears that they are wanted must not do: it would wait for the other end to
    /// read, and that may wait for this one.
    ended: VecDeque<Arc<Outgoing>>,
}

/// Something to do on a lane.
enum Taken {
    Piece(Arc<Outgoing>, Range<u64>),
    End(Arc<Outgoing>),
}

impl Queue {
    /// Adds a file.
    pub fn push(&self, file: Arc<Outgoing>) {
        let mut waiting = lock(&self.waiting);
        match file.is_at_end() {
            true => waiting.ended.push_back(file),
            false => waiting.files.push_back(file),
        }
        drop(waiting);
        self.bell.notify_all();
    }

    /// Wakes those who wait, to look whether it is over.
    pub fn wake(&self) {
        self.bell.notify_all();
    }

    /// The next piece of at most `len` bytes of any file, or a file without any.
    fn take(&self, session: &Session<'_>, len: u64) -> Result<Taken, Over> {
        let mut taken = None;
        let waiting = lock(&self.waiting);
        drop(wait(session, &self.bell, waiting, |waiting| {
            if let Some(file) = waiting.ended.pop_front() {
                taken = Some(Taken::End(file));
                return true;
            }
            while let Some(file) = waiting.files.front() {
                taken = file.take(len).map(|range| Taken::Piece(Arc::clone(file), range));
                if taken.is_some() {
                    return true;
                }
                waiting.files.pop_front();
            }
            false
        })?);
        taken.ok_or(Over)
    }
}

impl Outgoing {
    /// A file of `len` bytes with `data` there.
    pub fn new(
        number: u32,
        (file, direct): (File, Option<Direct>),
        metadata: &Metadata,
        path: PathBuf,
        len: u64,
        data: Vec<Range<u64>>,
        sums: bool,
    ) -> Self {
        let state = State {
            data: data.into(),
            known: Vec::new(),
            started: false,
            asked: false,
            told: None,
            stopped: false,
            under_way: 0,
            sent: 0,
        };
        let identity = Identity::of(metadata);
        let regular = metadata.is_file();
        let whole = sums.then(|| Mutex::new(Whole::new(len)));
        let (summer, state) = (OnceLock::new(), Mutex::new(state));
        Self { number, file, direct, path, identity, regular, len, summer, whole, state }
    }

    /// What the receiver has of it, as it says.
    pub fn add_known(&self, extents: &[Extent], most: usize) -> Result<(), &'static str> {
        let mut state = lock(&self.state);
        if state.started || state.known.len() + extents.len() > most {
            return Err("it has more of a file than can be");
        }
        let sum = Sum([0; SUM_BYTES]); // nobody looks at it
        for extent in extents {
            let range = extent.start..extent.end.min(self.len);
            if state.known.last().is_some_and(|last| last.range.end > range.start) {
                return Err("it has parts of a file that lie over each other");
            }
            if range.start < range.end {
                state.known.push(PieceSum { range, sum });
            }
        }
        Ok(())
    }

    /// The receiver is ready. Gives the bytes that need not be sent; `None` if it was ready before.
    pub fn start(&self, summer: Summer) -> Option<u64> {
        let mut state = lock(&self.state);
        self.summer.set(summer).ok()?;
        state.started = true;
        let data: Vec<Range<u64>> = state.data.drain(..).collect();
        state.data = journal::without(&data, &state.known).into();
        state.known = Vec::new();
        let left: u64 = state.data.iter().map(|range| range.end - range.start).sum();
        Some(self.len.saturating_sub(left))
    }

    /// The receiver wants the checksum of it. Whether it may: once, and before it is ready for it.
    pub fn ask(&self) -> bool {
        let mut state = lock(&self.state);
        !state.started && !std::mem::replace(&mut state.asked, true)
    }

    /// The checksum of all of it.
    pub fn checksum(&self, work: &Progress) -> Result<blake3::Hash, FileError> {
        let path = || self.path.clone();
        let hash = manifest::hash(&self.file, self.len, work)
            .map_err(|error| without_checksum(path(), error))?;
        lock(&self.state).told = Some(hash);
        if self.is_unchanged() { Ok(hash) } else { Err(FileError::Changed(path())) }
    }

    /// Takes note of a piece for the checksum of all of it, while its bytes are near.
    fn note(&self, range: &Range<u64>, bytes: &[u8]) {
        if let Some(whole) = &self.whole {
            let subtrees = subtrees(self.len, range.start, bytes);
            lock(whole).add(subtrees);
        }
    }

    /// The checksum of all of it, when all was sent: what was not, holes and what the receiver had, is read now.
    pub fn whole(&self, work: &Progress) -> Result<blake3::Hash, FileError> {
        if let Some(told) = lock(&self.state).told {
            return Ok(told);
        }
        let none = Whole::new(self.len);
        let whole = match &self.whole {
            Some(whole) => std::mem::replace(&mut *lock(whole), none),
            None => none,
        };
        let mut past = None;
        let hash = whole.finish(|range, hasher| {
            // Past the page cache where that is much.
            if past.is_none() && range.end - range.start >= SMALL_BYTES && self.regular {
                past = Some(Reread::open(&self.file, self.len)?);
            }
            self.hash_range(range, hasher, past.as_mut(), work)
        });
        hash.map_err(|cause| without_checksum(self.path.clone(), HashError::Read(cause)))
    }

    /// Reads a range for its checksum.
    fn hash_range(
        &self,
        range: Range<u64>,
        hasher: &mut blake3::Hasher,
        mut past: Option<&mut Reread>,
        work: &Progress,
    ) -> io::Result<()> {
        let mut memory = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if work.is_cancelled() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let wanted = (range.end - at).min(CHUNK);
            let bytes = match &mut past {
                Some(past) => past.read(at..at + wanted)?,
                None => {
                    memory.resize(wanted as usize, 0);
                    let got = compare::read(&self.file, &mut memory, at)?;
                    &memory[..got]
                }
            };
            if bytes.len() as u64 != wanted {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            hasher.update(bytes);
            at += wanted;
        }
        Ok(())
    }

    /// Nothing more of it is wanted. Whether nothing of it is under way.
    pub fn stop(&self) -> bool {
        let mut state = lock(&self.state);
        state.stopped = true;
        state.data.clear();
        state.under_way == 0
    }

    /// Whether all of it was sent.
    pub fn is_at_end(&self) -> bool {
        let state = lock(&self.state);
        state.data.is_empty() && state.under_way == 0
    }

    /// The sum of a piece of it, which was taken.
    fn sum(&self, offset: u64, body: &[u8]) -> Sum {
        // Pieces are taken of files that were started.
        self.summer.get().unwrap_or(&Summer::UNKEYED).sum(offset, body)
    }

    /// Takes a piece that ends at a multiple of `len`, or with the data.
    fn take(&self, len: u64) -> Option<Range<u64>> {
        let mut state = lock(&self.state);
        let first = state.data.front_mut()?;
        let end = first.end.min((first.start / len + 1) * len);
        let piece = first.start..end;
        first.start = end;
        if first.start == first.end {
            state.data.pop_front();
        }
        state.under_way += 1;
        Some(piece)
    }

    /// A piece was sent, or is none to be sent. Whether it was the last thing to do about the file.
    fn gave(&self, sent: bool) -> bool {
        let mut state = lock(&self.state);
        state.under_way -= 1;
        state.sent += u64::from(sent);
        state.data.is_empty() && state.under_way == 0
    }

    /// Reads a piece to the start of `buffer`, which may be longer.
    fn read(&self, buffer: &mut [u8], range: &Range<u64>) -> Result<(), FileError> {
        if self.direct.as_ref().is_some_and(|direct| direct.read(buffer, range)) {
            return Ok(());
        }
        let buffer = &mut buffer[..(range.end - range.start) as usize]; // a piece fits
        let copy = |error| FileError::Copy { error, advice: String::new() };
        let path = || self.path.clone();
        let mut done = 0;
        while done < buffer.len() {
            let offset = range.start + done as u64;
            match self.file.read_at(&mut buffer[done..], offset) {
                Ok(0) => {
                    let (expected, found) = (self.len, offset);
                    return Err(copy(CopyError::Shrank { path: path(), expected, found }));
                }
                Ok(read) => done += read,
                Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(copy(CopyError::Read { path: path(), offset, cause })),
            }
        }
        Ok(())
    }

    /// Whether it is still what it was when its copy began.
    fn is_unchanged(&self) -> bool {
        !self.regular || self.file.metadata().is_ok_and(|now| Identity::of(&now) == self.identity)
    }
}

impl Sender<'_, '_> {
    /// Sends pieces over one lane until it is over.
    pub(super) fn send_pieces(&self, sink: &mut dyn Sink) -> Result<(), Over> {
        let session = self.session;
        let piece_bytes = task::piece_bytes(self.task);
        loop {
            let (file, range) = match self.queue.take(session, piece_bytes)? {
                Taken::Piece(file, range) => (file, range),
                Taken::End(file) => {
                    self.conclude(&file)?;
                    continue;
                }
            };
            let len = (range.end - range.start) as usize; // at most PIECE_MAX
            let _ = self.limiter.take(len as u64, &session.progress); // cancelled: the beat tells
            let body = sink
                .body()
                .map_err(|cause| session.fail(RemoteError::write(&session.host, &cause)))?;
            if let Err(error) = file.read(body, &range) {
                self.failed(&error);
                self.abandon_piece(&file)?;
                continue;
            }
            let body = &body[..len];
            file.note(&range, body);
            let skip = self.task.settings.tuning.sparse == Sparse::Always && zeros::is_zero(body);
            if !skip {
                let Sum(sum) = file.sum(range.start, body);
                let (offset, len) = (range.start, len as u32);
                let piece = Message::Piece { file: file.number, offset, len, sum };
                let sent = match file.regular && file.direct.is_none() {
                    true => sink.send_piece_of(&piece, &file.file),
                    false => sink.send_piece(&piece),
                };
                sent.map_err(|cause| session.fail(RemoteError::write(&session.host, &cause)))?;
            }
            session.progress.add(len as u64);
            if file.gave(!skip) {
                self.conclude(&file)?;
            }
        }
    }

    /// All of a file was sent, or it was stopped.
    pub(super) fn conclude(&self, file: &Arc<Outgoing>) -> Result<(), Over> {
        if self.task.sums && !lock(&file.state).stopped {
            self.comparisons.push(Arc::clone(file), What::End);
            return Ok(());
        }
        self.end(file, None)
    }

    /// All of a file was sent, which has this checksum, or it was stopped.
    pub(super) fn end(&self, file: &Outgoing, sum: Option<blake3::Hash>) -> Result<(), Over> {
        let (stopped, pieces) = {
            let state = lock(&file.state);
            (state.stopped, state.sent)
        };
        if !stopped && !file.is_unchanged() {
            self.failed(&FileError::Changed(file.path.clone()));
            self.session.send_now(&Message::Abandon { file: file.number, discard: true })?;
        } else if !stopped {
            let sum = sum.map(|sum| *sum.as_bytes());
            self.session.send_now(&Message::End { file: file.number, pieces, sum })?;
        }
        self.forget(file);
        Ok(())
    }

    /// A piece of a file could not be read.
    fn abandon_piece(&self, file: &Outgoing) -> Result<(), Over> {
        file.stop();
        self.session.send_now(&Message::Abandon { file: file.number, discard: true })?;
        if file.gave(false) {
            self.forget(file);
        }
        Ok(())
    }

    /// A file, of which nothing is under way, is not to be sent.
    pub(super) fn abandon(&self, file: &Outgoing) -> Result<(), Over> {
        file.stop();
        self.session.send_now(&Message::Abandon { file: file.number, discard: false })?;
        self.forget(file);
        Ok(())
    }
}
