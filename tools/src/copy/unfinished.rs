//! A copy that an earlier run began: its data under `.NAME.hugecp-part`, its journal beside it.
//!
//! Whoever goes on holds a lock on the journal, so that two runs never write one file. What the
//! journal claims is read again and compared before it is believed, and all else is taken out of the data; a
//! journal of another source, or of this one in another state, is thrown away with the data.
//!
//! The names say nothing: anybody's file may have them, and a tree that is copied may have such files of its own. So
//! data without a journal is somebody else's, as is a journal that does not begin as one; and what is open is given
//! the final name, or removed, only where it still has its own.
//!
//! Several processes can fill one file ([`Claims::join`]). One has the journal and writes what the others tell; each holds
//! a lock on the data, shared with the others, and whoever begins takes that alone first. So nobody of an earlier
//! run, should it have outlived the others, writes into what a later one goes on with.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::unistd::{Uid, UnlinkatFlags, linkat, unlinkat};

use super::engine::{CopyError, Log, PieceSum, Progress};
use super::journal::{self, HEADER_BYTES, Header, Identity, RECORD_BYTES};
use super::reread::Reread;
use super::source::Source;
use super::sum::Summer;
use super::sys::{Allocate, fallocate};
use super::target::empty;

/// From this length on a copy has a journal: below, beginning anew is as quick.
pub const RESUMABLE_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Unfinished {
    directory: File,
    part: CString,
    /// Device and inode of the data.
    data: (u64, u64),
    journal_name: CString,
    /// Of the source.
    identity: Identity,
    journal: Mutex<File>,
    claims: Claims,
}

/// What a journal says of pieces, which is no proof; for a process that fills a range, of that.
#[derive(Debug)]
pub struct Claims {
    header: Header,
    pieces: Vec<PieceSum>,
}

impl Unfinished {
    /// Opens what was begun of a copy of a source of `identity` to `name` in `directory`, or
    /// begins, with `header` for its journal. Gives the file with the data as well.
    ///
    /// # Errors
    /// What the system says; `EBUSY` where another run is at it. Where a file that is somebody else's has one of the
    /// names, which is then as it was.
    pub fn open(directory: File, name: &OsStr, header: Header) -> io::Result<(File, Self)> {
        let identity = header.identity;
        let (part, journal_name) = (hidden(name, "part"), hidden(name, "journal"));
        let (mut journal, begun) = lock_journal(&directory, &journal_name)?;
        let opened = read_journal(&mut journal, identity, &journal_name).and_then(|known| {
            refuse_source(&journal, &journal_name, identity)?;
            let data = open_part(&directory, &part, begun)?;
            refuse_source(&data, &part, identity)?;
            Ok((data, known))
        });
        let (data, known) = opened.inspect_err(|_| {
            if begun == Begun::Now {
                remove_if(&directory, &journal_name, &journal);
            }
        })?;
        let (header, pieces) = match known.filter(|it| it.header.identity.agrees_with(&identity)) {
            Some(known) if data.metadata()?.len() <= identity.len() => {
                journal.set_len(known.valid_bytes as u64)?;
                (known.header, known.pieces)
            }
            _ => {
                empty(&data)?;
                journal.set_len(0)?;
                io::Seek::rewind(&mut journal)?;
                journal.write_all(&header.to_bytes())?;
                (header, Vec::new())
            }
        };
        let id = id_of(&data.metadata()?);
        let (journal, claims) = (Mutex::new(journal), Claims { header, pieces });
        Ok((data, Self { directory, part, data: id, journal_name, identity, journal, claims }))
    }

    /// Lets other processes fill `data`, which is as long as it will be.
    ///
    /// # Errors
    /// What syncing and locking say.
    pub fn share(&self, data: &File) -> io::Result<()> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).sync_all()?; // for all to see
        busy(data.try_lock_shared())
    }

    /// What the data is called meanwhile.
    pub fn part_name(&self) -> &CStr {
        &self.part
    }

    /// What makes the sums of its pieces.
    pub fn summer(&self) -> Summer {
        self.claims.header.summer
    }

    /// What the journal said when it was opened.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Appends `records` that another process has made.
    pub fn append(&self, records: &[u8]) {
        if records.len().is_multiple_of(RECORD_BYTES) {
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = journal.write_all(records); // nothing depends on it
        }
    }

    /// Whether `source` is still what the copy was begun of.
    pub fn is_of(&self, source: &Metadata) -> bool {
        Identity::of(source).agrees_with(&self.identity)
    }

    /// Gives the complete copy its name and removes the journal; with `keep_existing` fails with
    /// `EEXIST` where the name is taken.
    ///
    /// # Errors
    /// What renaming says; `ESTALE` where something else has the name of the data by now.
    pub fn commit(&self, name: &OsStr, keep_existing: bool) -> nix::Result<()> {
        let (directory, part) = (&self.directory, self.part.as_c_str());
        if !is_called(directory, part, self.data) {
            return Err(Errno::ESTALE);
        }
        if keep_existing {
            match renameat2(directory, part, directory, name, RenameFlags::RENAME_NOREPLACE) {
                // Not every file system can; a second name that fails where one exists can.
                Err(Errno::EINVAL | Errno::ENOSYS) => {
                    linkat(directory, part, directory, name, AtFlags::empty())?;
                    remove(directory, part);
                }
                other => other?,
            }
        } else {
            renameat(directory, part, directory, name)?;
        }
        self.remove_journal();
        Ok(())
    }

    /// Throws away what was begun.
    pub fn discard(&self) {
        if is_called(&self.directory, &self.part, self.data) {
            remove(&self.directory, &self.part);
        }
        self.remove_journal();
    }

    fn remove_journal(&self) {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        remove_if(&self.directory, &self.journal_name, &journal);
    }
}

impl Log for Unfinished {
    /// Appends a record. Where that fails, the piece is copied again by the next run, if any.
    fn note(&self, piece: &PieceSum) {
        self.append(&self.claims.header.record(piece));
    }
}

impl Claims {
    /// Opens what another process has begun of a copy of a source of `state` to `name` in `directory`, and
    /// [shares](Unfinished::share), to fill `range` of it. Gives the file with the data as well.
    ///
    /// # Errors
    /// What the system says; `EBUSY` where another run is at it. Where it is of another state of the source.
    pub fn join(
        directory: impl AsFd + Copy,
        name: &OsStr,
        state: Identity,
        range: &Range<u64>,
    ) -> io::Result<(File, Self)> {
        let data = open_own(directory, &hidden(name, "part"), OFlag::O_RDWR)?;
        busy(data.try_lock_shared())?;
        let journal = open_own(directory, &hidden(name, "journal"), OFlag::O_RDONLY)?;
        let other = || io::Error::other("its journal is of another state of the source");
        let known = journal::parse(&journal_bytes(&journal, state)?).ok_or_else(other)?;
        if !known.header.identity.agrees_with(&state) || data.metadata()?.len() != state.len() {
            return Err(other());
        }
        let mut pieces = known.pieces;
        // What reaches into the range of another is copied again: who had other ranges has written it.
        pieces.retain(|piece| range.start <= piece.range.start && piece.range.end <= range.end);
        Ok((data, Self { header: known.header, pieces }))
    }

    /// What begins the journal.
    pub fn header(&self) -> Header {
        self.header
    }

    /// Reads what is claimed, and gives what holds; of a `source` that can change unseen, what is in it still.
    ///
    /// # Errors
    /// A read error of the data or the source, and [`CopyError::Cancelled`].
    pub fn verify(
        &self,
        data: &File,
        path: &Path,
        source: Option<&Source>,
        progress: &Progress,
    ) -> Result<Vec<PieceSum>, CopyError> {
        let known = self.those_in(&self.pieces, data, path, progress)?;
        match source.filter(|source| source.changes_unseen()) {
            Some(source) => self.those_in(&known, &source.file, &source.path, progress),
            None => Ok(known),
        }
    }

    /// Those of `pieces` that are in `file` as they were when their sums were made.
    fn those_in(
        &self,
        pieces: &[PieceSum],
        file: &File,
        path: &Path,
        progress: &Progress,
    ) -> Result<Vec<PieceSum>, CopyError> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let Header { identity, summer } = self.header;
        let failed = |offset| move |cause| CopyError::Read { path: path.to_owned(), offset, cause };
        let mut reread = Reread::open(file, identity.len()).map_err(failed(0))?;
        let mut verified = Vec::new();
        for piece in pieces {
            if progress.is_cancelled() {
                return Err(CopyError::Cancelled);
            }
            let bytes = reread.read(piece.range.clone()).map_err(failed(piece.range.start))?;
            if summer.sum(piece.range.start, bytes) == piece.sum {
                verified.push(piece.clone());
            }
            progress.add(piece.range.end - piece.range.start);
        }
        Ok(verified)
    }
}

/// `.NAME.hugecp-WHAT`, or with a hash for a name that leaves no room: always the same for a name.
fn hidden(name: &OsStr, what: &str) -> CString {
    /// As for temporary names.
    const LONG: usize = 100;
    let mut hidden = b".".to_vec();
    if name.len() <= LONG {
        hidden.extend_from_slice(name.as_bytes());
    } else {
        hidden.extend_from_slice(&blake3::hash(name.as_bytes()).to_hex().as_bytes()[..32]);
    }
    hidden.extend_from_slice(format!(".hugecp-{what}").as_bytes());
    // A file name has no zero byte, so this never falls back.
    CString::new(hidden).unwrap_or_else(|_| c".hugecp".to_owned())
}

/// Whether the directory of a `source` has files of the names that an unfinished copy to `name` would have in another
/// directory, `target`. They are to be copied themselves, and would meet those of the copy.
pub fn has_such(source: impl AsFd, target: impl AsFd, name: &OsStr) -> bool {
    let id = |found: nix::Result<FileStat>| found.ok().map(|found| (found.st_dev, found.st_ino));
    id(fstat(&source)) != id(fstat(&target))
        && ["part", "journal"].into_iter().any(|what| {
            let name = hidden(name, what);
            fstatat(&source, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) != Err(Errno::ENOENT)
        })
}

/// Takes out of `data` what lies in `range` and is none of the `known` pieces, which are in order: whatever it is, the
/// source may have a hole there, and nobody would write over it.
///
/// # Errors
/// What freeing and writing say.
pub fn clear_rest(data: &File, range: &Range<u64>, known: &[PieceSum]) -> io::Result<()> {
    let there = range.start..range.end.min(data.metadata()?.len());
    for gap in journal::without(&[there], known) {
        if gap.is_empty() {
            continue;
        }
        match fallocate(data, Allocate::PunchHole, gap.clone()) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                write_zeros(data, gap)?;
            }
            other => other?,
        }
    }
    Ok(())
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

/// Since when there is a journal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Begun {
    /// An earlier run.
    Before,
    /// This one.
    Now,
}

/// Opens the journal and locks it: no other run has it.
fn lock_journal(directory: &File, name: &CStr) -> io::Result<(File, Begun)> {
    loop {
        let (journal, begun) = open_or_create(directory, name)?;
        busy(journal.try_lock())?;
        // Whoever held it may have finished, and removed it, in between.
        if is_called(directory, name, id_of(&journal.metadata()?)) {
            return Ok((journal, begun));
        }
    }
}

fn refuse_source(file: &File, name: &CStr, source: Identity) -> io::Result<()> {
    match Identity::of(&file.metadata()?).agrees_with(&source) {
        true => Err(not_ours(name, "is what is to be copied: leave out --resume")),
        false => Ok(()),
    }
}

/// Opens the data: where there was no journal, there can be none of it either.
fn open_part(directory: &File, name: &CStr, journal: Begun) -> io::Result<File> {
    let (data, begun) = open_or_create(directory, name)?;
    if (journal, begun) == (Begun::Now, Begun::Before) {
        return Err(not_ours(
            name,
            "has no journal and is not what an earlier run left: move it away",
        ));
    }
    busy(data.try_lock())?;
    Ok(data)
}

fn open_or_create(directory: &File, name: &CStr) -> io::Result<(File, Begun)> {
    loop {
        match open_own(directory, name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|file| (file, Begun::Now)),
        }
        match open_own(directory, name, OFlag::O_RDWR) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map(|file| (file, Begun::Before)),
        }
    }
}

fn id_of(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Whether `name` leads to the file of `id`.
fn is_called(directory: &File, name: &CStr, id: (u64, u64)) -> bool {
    let found = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    found.is_ok_and(|there| (there.st_dev, there.st_ino) == id)
}

/// Removes `name` if it leads to `file`.
fn remove_if(directory: &File, name: &CStr, file: &File) {
    if file.metadata().is_ok_and(|ours| is_called(directory, name, id_of(&ours))) {
        remove(directory, name);
    }
}

fn remove(directory: &File, name: &CStr) {
    let _ = unlinkat(directory, name, UnlinkatFlags::NoRemoveDir); // may be gone
}

fn not_ours(name: &CStr, what: &str) -> io::Error {
    let name = Path::new(OsStr::from_bytes(name.to_bytes()));
    io::Error::other(format!("{} {what}", super::quote::quote(name)))
}

/// A lock that another run has is an error.
fn busy(locked: Result<(), TryLockError>) -> io::Result<()> {
    match locked {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Errno::EBUSY.into()),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Opens a regular file of the caller's own that has one name, or creates it if `how` says so.
fn open_own(directory: impl AsFd, name: &CStr, how: OFlag) -> io::Result<File> {
    let flags = how | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?);
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() > 1 || found.uid() != Uid::effective().as_raw() {
        return Err(not_ours(name, "is not what an earlier run left: move it away"));
    }
    super::tree::entry::set_blocking(&file)?;
    Ok(file)
}

/// What the journal of this `name` says, if anything; its position is at the end of that.
fn read_journal(
    journal: &mut File,
    identity: Identity,
    name: &CStr,
) -> io::Result<Option<journal::Journal>> {
    let bytes = journal_bytes(journal, identity)?;
    if !journal::may_be_one(&bytes) {
        return Err(not_ours(name, "is not the journal of an earlier run: move it away"));
    }
    let known = journal::parse(&bytes);
    let at = known.as_ref().map_or(0, |known| known.valid_bytes as u64);
    io::Seek::seek(journal, io::SeekFrom::Start(at))?;
    Ok(known)
}

fn journal_bytes(journal: &File, identity: Identity) -> io::Result<Vec<u8>> {
    // A record for each 4 KiB would be more than any engine writes, ten times over.
    let longest = HEADER_BYTES as u64 + (identity.len() / 4096 + 16) * 10 * RECORD_BYTES as u64;
    let mut bytes = Vec::new();
    journal.take(longest.min(1 << 30)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
#[path = "unfinished_tests.rs"]
mod tests;
