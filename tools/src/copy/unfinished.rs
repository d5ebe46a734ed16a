//! A copy that an earlier run began: its data under `.NAME.hugecp-part`, its journal beside it.
//!
//! Whoever goes on holds a lock on the journal, so that two runs never write one file. What the
//! journal claims is read again and compared before it is believed; a journal of another source,
//! or of this one in another state, is thrown away with the data.
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
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};

use super::engine::{CopyError, Log, PieceSum, Progress};
use super::journal::{self, HEADER_BYTES, Header, Identity, RECORD_BYTES};
use super::reread::Reread;
use super::sum::Summer;
use super::target::empty;

/// From this length on a copy has a journal: below, beginning anew is as quick.
pub const RESUMABLE_BYTES: u64 = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Unfinished {
    directory: File,
    part: CString,
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
    /// What the system says; `EBUSY` where another run is at it.
    pub fn open(directory: File, name: &OsStr, header: Header) -> io::Result<(File, Self)> {
        let identity = header.identity;
        let (part, journal_name) = (hidden(name, "part"), hidden(name, "journal"));
        let mut journal = lock_journal(&directory, &journal_name)?;
        let data = open_own(&directory, &part, OFlag::O_RDWR | OFlag::O_CREAT)?;
        busy(data.try_lock())?;
        let known = read_journal(&mut journal, identity);
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
        let (journal, claims) = (Mutex::new(journal), Claims { header, pieces });
        Ok((data, Self { directory, part, journal_name, identity, journal, claims }))
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
    /// What renaming says.
    pub fn commit(&self, name: &OsStr, keep_existing: bool) -> nix::Result<()> {
        let (directory, part) = (&self.directory, self.part.as_c_str());
        if keep_existing {
            renameat2(directory, part, directory, name, RenameFlags::RENAME_NOREPLACE)?;
        } else {
            renameat(directory, part, directory, name)?;
        }
        self.remove(&self.journal_name);
        Ok(())
    }

    /// Throws away what was begun.
    pub fn discard(&self) {
        self.remove(&self.part);
        self.remove(&self.journal_name);
    }

    fn remove(&self, name: &CStr) {
        let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir); // may be gone
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
        let known = parse_journal(&journal, state).ok_or_else(other)?;
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

    /// Reads what is claimed, and gives what holds.
    ///
    /// # Errors
    /// A read error of the data, and [`CopyError::Cancelled`].
    pub fn verify(
        &self,
        data: &File,
        path: &Path,
        progress: &Progress,
    ) -> Result<Vec<PieceSum>, CopyError> {
        if self.pieces.is_empty() {
            return Ok(Vec::new());
        }
        let Header { identity, summer } = self.header;
        let failed = |offset| move |cause| CopyError::Read { path: path.to_owned(), offset, cause };
        let mut reread = Reread::open(data, identity.len()).map_err(failed(0))?;
        let mut verified = Vec::new();
        for piece in &self.pieces {
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

/// Opens the journal and locks it: no other run has it.
fn lock_journal(directory: &File, name: &CStr) -> io::Result<File> {
    loop {
        let journal = open_own(directory, name, OFlag::O_RDWR | OFlag::O_CREAT)?;
        busy(journal.try_lock())?;
        // Whoever held it may have finished, and removed it, in between.
        let ours = journal.metadata()?;
        match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(there) if (there.st_dev, there.st_ino) == (ours.dev(), ours.ino()) => {
                return Ok(journal);
            }
            Ok(_) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
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
        let name = Path::new(OsStr::from_bytes(name.to_bytes()));
        return Err(io::Error::other(format!(
            "{} is not what an earlier run left: remove it",
            super::quote::quote(name)
        )));
    }
    super::tree::entry::set_blocking(&file)?;
    Ok(file)
}

/// What the journal says, if it can be read at all; its position is at the end of that.
fn read_journal(journal: &mut File, identity: Identity) -> Option<journal::Journal> {
    let known = parse_journal(journal, identity);
    let at = known.as_ref().map_or(0, |known| known.valid_bytes as u64);
    io::Seek::seek(journal, io::SeekFrom::Start(at)).ok()?;
    known
}

fn parse_journal(journal: &File, identity: Identity) -> Option<journal::Journal> {
    // A record for each 4 KiB would be more than any engine writes, ten times over.
    let longest = HEADER_BYTES as u64 + (identity.len() / 4096 + 16) * 10 * RECORD_BYTES as u64;
    let mut bytes = Vec::new();
    journal.take(longest.min(1 << 30)).read_to_end(&mut bytes).ok()?;
    journal::parse(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn open(dir: &Path, source: &File) -> io::Result<(File, Unfinished)> {
        let identity = Identity::of(&source.metadata().unwrap());
        let name = OsStr::new("target");
        Unfinished::open(
            File::open(dir).unwrap(),
            name,
            Header { identity, summer: Summer::here() },
        )
    }

    fn source(dir: &Path) -> File {
        let source = File::options().create(true).truncate(false).write(true).open(dir.join("a"));
        let source = source.unwrap();
        source.set_len(100_000).unwrap();
        source
    }

    fn note(begun: &Unfinished, range: std::ops::Range<u64>, bytes: &[u8]) {
        begun.note(&PieceSum { sum: begun.summer().sum(range.start, bytes), range });
    }

    #[test]
    fn only_what_holds_is_gone_on_from() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let (data, begun) = open(dir.path(), &source).unwrap();
        data.write_all_at(&[1; 30_000], 0).unwrap();
        note(&begun, 0..10_000, &[1; 10_000]);
        note(&begun, 10_000..20_000, &[2; 10_000]); // claims what is not there
        note(&begun, 40_000..50_000, &[3; 10_000]); // nor is this
        note(&begun, 20_000..30_000, &[1; 10_000]);
        drop((data, begun));
        let (data, again) = open(dir.path(), &source).unwrap();
        let held = again.claims().verify(&data, Path::new("x"), &Progress::default()).unwrap();
        let held: Vec<_> = held.into_iter().map(|piece| piece.range).collect();
        assert_eq!(held, [0..10_000, 20_000..30_000]);
    }

    #[test]
    fn two_runs_do_not_write_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let first = open(dir.path(), &source).unwrap();
        assert_eq!(open(dir.path(), &source).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        drop(first);
        open(dir.path(), &source).unwrap();
    }

    #[test]
    fn others_join_with_what_holds_of_their_range() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let (data, begun) = open(dir.path(), &source).unwrap();
        data.write_all_at(&[1; 40_000], 0).unwrap();
        for start in [0, 10_000, 20_000, 30_000] {
            note(&begun, start..start + 10_000, &[1; 10_000]);
        }
        let state = Identity::anywhere(&source.metadata().unwrap());
        let directory = File::open(dir.path()).unwrap();
        let join = |state, range| Claims::join(&directory, OsStr::new("target"), state, &range);
        // Not before it is shared, and not before it has its length.
        assert_eq!(join(state, 0..1).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        begun.share(&data).unwrap();
        assert!(join(state, 0..1).is_err());
        data.set_len(state.len()).unwrap();
        let (joined_data, joined) = join(state, 5_000..30_000).unwrap();
        let held = joined.verify(&joined_data, Path::new("x"), &Progress::default()).unwrap();
        let held: Vec<_> = held.into_iter().map(|piece| piece.range).collect();
        assert_eq!(held, [10_000..20_000, 20_000..30_000]);
        // What they write, they tell, and it is read as if one had written it.
        let piece = PieceSum {
            range: 30_000..50_000,
            sum: joined.header().summer.sum(30_000, &[1; 20_000]),
        };
        joined_data.write_all_at(&[1; 20_000], 30_000).unwrap();
        begun.append(&joined.header().record(&piece));
        begun.append(b"half a record");
        // Nobody begins while one of them may write.
        drop((data, begun));
        assert_eq!(open(dir.path(), &source).unwrap_err().raw_os_error(), Some(libc::EBUSY));
        drop(joined_data);
        let (data, again) = open(dir.path(), &source).unwrap();
        let held = again.claims().verify(&data, Path::new("x"), &Progress::default()).unwrap();
        assert_eq!(held.iter().map(|piece| piece.range.end).max(), Some(50_000));
        again.share(&data).unwrap();
        source.write_all_at(b"x", 5).unwrap();
        let now = Identity::anywhere(&source.metadata().unwrap());
        let error = join(now, 0..1).unwrap_err().to_string();
        assert!(error.contains("another state"), "{error}");
    }

    #[test]
    fn a_source_that_changed_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let (data, begun) = open(dir.path(), &source).unwrap();
        data.write_all_at(&[1; 10_000], 0).unwrap();
        note(&begun, 0..10_000, &[1; 10_000]);
        drop((data, begun));
        // The same length and time, but written to.
        let then = source.metadata().unwrap().modified().unwrap();
        source.write_all_at(b"x", 5).unwrap();
        source.set_modified(then).unwrap();
        let (data, again) = open(dir.path(), &source).unwrap();
        assert_eq!(data.metadata().unwrap().len(), 0);
        assert!(
            again.claims().verify(&data, Path::new("x"), &Progress::default()).unwrap().is_empty()
        );
    }

    #[test]
    fn what_is_not_ones_own_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let source = source(dir.path());
        let victim = dir.path().join("victim");
        std::fs::write(&victim, "old").unwrap();
        for name in [".target.hugecp-part", ".target.hugecp-journal"] {
            let trap = dir.path().join(name);
            let _ = std::fs::remove_file(&trap);
            std::os::unix::fs::symlink(&victim, &trap).unwrap();
            assert!(open(dir.path(), &source).is_err());
            std::fs::remove_file(&trap).unwrap();
            std::fs::hard_link(&victim, &trap).unwrap();
            let error = open(dir.path(), &source).unwrap_err().to_string();
            assert!(error.contains("remove it"), "{error}");
            std::fs::remove_file(&trap).unwrap();
        }
        assert_eq!(std::fs::read(&victim).unwrap(), b"old");
    }

    #[test]
    fn hidden_names_fit_and_differ() {
        let long = "n".repeat(255);
        let other = "n".repeat(254);
        for name in ["a", &long, &other] {
            assert!(hidden(OsStr::new(name), "journal").as_bytes().len() <= 143);
        }
        assert_ne!(hidden(OsStr::new(&long), "part"), hidden(OsStr::new(&other), "part"));
    }
}
