//! Small files: with as few calls as there can be.
//!
//! A new file is created under its own name (`O_CREAT | O_EXCL`) and filled, without a temporary
//! name, without a look at what is there, and without making it durable. This is safe:
//! - `O_EXCL` creates or fails: no file that exists is written, and no link is followed.
//! - An error or a signal removes what was created, after a look whether it is still that (see
//!   [`crate::copy::begun`]).
//! - Its modification time is set last, so that a file that a killed run left unfinished has
//!   neither the source's time nor, mostly, its length: `--resume` and `--checksum` copy it again.
//!
//! What a killed run can leave under a final name is thus at most one unfinished file of less than
//! 8 MiB per thread, each new, and never in place of an older one: where the name is taken, the
//! file is staged (see [`crate::copy::staging`]) and replaced as a whole. Of several processes that copy together
//! (see [`super::team`]) each may be killed because another was, so there every file is staged.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat, futimens};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::context::{Context, lock};
use super::directory::{Directory, Id, Side, file_of, id_of};
use super::entry::{Spot, look};
use super::sys;
use crate::copy::attributes::{self, OWNER};
use crate::copy::begun::Begun;
use crate::copy::engine::{EngineName, Sparse};
use crate::copy::error::{self, FileError};
use crate::copy::holes;
use crate::copy::probe::{FileSystem, file_system};
use crate::copy::staging::Staging;
use crate::copy::sys::clone_file;

/// Bytes read at once: they stay in a processor's cache until they are written.
const BUFFER: usize = 256 << 10;

/// From this length on, sharing blocks takes less time than copying them. Of Btrfs, any: what it keeps of a file that is
/// written (checksums, an extent) costs more than another reference to that.
const CLONE_BYTES: u64 = 64 << 10;
const CLONE_BYTES_BTRFS: u64 = 1;

thread_local! {
    static MEMORY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What became of a try.
#[derive(Debug)]
pub enum Tried {
    /// There is a copy, of this device and inode where that was asked for.
    Made(Option<Id>),
    /// The name is taken.
    Taken,
    /// The file is not as long as it says, or is changing: for an engine to sort out.
    Odd,
}

impl Context<'_> {
    /// Whether nothing is asked for that only an engine can do.
    pub fn is_simple(&self, file: &File, metadata: &Metadata) -> bool {
        let wishes = &self.settings.wishes;
        let plain = wishes.engine.is_none_or(|engine| engine == EngineName::Buffered)
            && !wishes.verify
            && wishes.sparse == Sparse::Auto
            && metadata.len() < crate::copy::plan::SMALL_BYTES
            // What takes a while at the rate that is asked for goes evenly.
            && metadata.len() <= self.limiter.request_size(crate::copy::plan::SMALL_BYTES);
        plain && !has_holes(file, metadata)
    }

    /// Copies a small file to a name that is free.
    ///
    /// # Errors
    /// [`FileError`]; the name is free again. Attributes that are missing are told, and no error.
    pub fn small(
        &self,
        spot: Spot<'_>,
        source: &File,
        metadata: &Metadata,
        identify: bool,
    ) -> Result<Tried, FileError> {
        let plan = self.attributes_of(spot, source, metadata);
        let Some(created) = self.create_small(spot, plan.create_mode)? else {
            return Ok(Tried::Taken);
        };
        let target = created.file();
        self.announce(spot.directory, spot.entry);
        let filled = self.fill_small(spot, source, target, metadata);
        if !matches!(filled, Ok(true)) && matches!(created, Created::Named(_)) {
            remove(spot, target);
        }
        if !filled? {
            return Ok(Tried::Odd);
        }
        let lost = self.finish_small(spot, source, target, metadata, &plan);
        let remember = self.made.is_some();
        let id = (identify || remember)
            .then(|| target.metadata().ok().map(|metadata| id_of(&metadata)))
            .flatten();
        match created.commit() {
            Ok(()) => self.progress.add(metadata.len()),
            Err(Errno::EEXIST) => return Ok(Tried::Taken),
            Err(errno) => return Err(spot.target_error("give the finished copy the name", errno)),
        }
        if let (Some(made), Some(id)) = (&self.made, id) {
            lock(made).insert(id);
        }
        self.tally.files.add(1);
        self.tally.bytes.add(metadata.len());
        self.tell_lost(spot, lost);
        Ok(Tried::Made(id))
    }

    /// Creates the target: under its own name, or staged where other processes of the same copy may be
    /// killed at any moment. `None` where the name is taken.
    fn create_small<'d>(
        &self,
        spot: Spot<'d>,
        mode: u32,
    ) -> Result<Option<Created<'d>>, FileError> {
        let name = spot.entry.target();
        if self.team.is_some() {
            let failed = |cause| spot.target_error("create", cause);
            if fstatat(spot.target, name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok() {
                return Ok(None);
            }
            let name = OsStr::from_bytes(name.to_bytes()).to_owned();
            let directory = file_of(spot.target).map_err(failed)?;
            let (file, staging) = Staging::create_exactly(directory, name, mode).map_err(failed)?;
            return Ok(Some(Created::Staged(file, Box::new(staging))));
        }
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(mode);
        let create = || openat(spot.target, name, flags, mode).map(File::from);
        match Begun::create(spot.target, name, create) {
            Ok(begun) => Ok(Some(Created::Named(begun))),
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(spot.target_error("create", errno)),
        }
    }

    /// Moves the bytes; `Ok(false)` where there are more or fewer than expected.
    fn fill_small(
        &self,
        spot: Spot<'_>,
        source: &File,
        target: &File,
        metadata: &Metadata,
    ) -> Result<bool, FileError> {
        let len = metadata.len();
        let read_error = |cause| spot.source_error("read", cause);
        self.limiter
            .take(len, &self.progress)
            .map_err(|error| FileError::Copy { error, advice: String::new() })?;
        if self.clone_small(spot, source, target, metadata)? {
            // Where its end is takes less time to find out than all the rest that `stat` tells.
            let end = { target }.seek(SeekFrom::End(0)).map_err(read_error)?;
            return Ok(end == len);
        }
        MEMORY.with_borrow_mut(|memory| {
            memory.resize(BUFFER, 0);
            let (mut reader, mut writer, mut done) = (source, target, 0_u64);
            loop {
                // One byte more than there should be, so that the end is seen in the same call.
                let wanted = usize::try_from(len - done + 1).unwrap_or(BUFFER).min(BUFFER);
                let got = match reader.read(&mut memory[..wanted]) {
                    Ok(got) => got,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(read_error(error)),
                };
                if got as u64 > len - done {
                    return Ok(false);
                }
                if got > 0 {
                    let bytes = &memory[..got];
                    writer.write_all(bytes).map_err(|cause| spot.target_error("write", cause))?;
                    done += got as u64;
                }
                // Less than was asked for: the end.
                if got < wanted {
                    return Ok(done == len);
                }
            }
        })
    }

    /// Whether small files of a directory are best made by one thread, as far as that is known, and may be opened before.
    pub fn is_one_at_a_time(&self, directory: &Directory) -> bool {
        if !self.shelf.has_room() {
            return false;
        }
        let pair = (directory.id(Side::Source).0, directory.id(Side::Target).0);
        lock(&self.clones).get(&pair) == Some(&CLONE_BYTES_BTRFS)
    }

    /// Lets the target share the source's blocks, where their file systems can and it is worth it.
    fn clone_small(
        &self,
        spot: Spot<'_>,
        source: &File,
        target: &File,
        metadata: &Metadata,
    ) -> Result<bool, FileError> {
        if !self.settings.wishes.reflink || self.settings.wishes.engine.is_some() {
            return Ok(false);
        }
        let pair = (metadata.dev(), spot.directory.id(Side::Target).0);
        let known = lock(&self.clones).get(&pair).copied();
        let least = known.unwrap_or_else(|| {
            let least = match file_system(target) {
                Ok(FileSystem::Btrfs) => CLONE_BYTES_BTRFS,
                _ => CLONE_BYTES,
            };
            lock(&self.clones).insert(pair, least);
            least
        });
        if metadata.len() < least {
            return Ok(false);
        }
        match clone_file(source, target).map_err(|error| error.raw_os_error()) {
            Ok(()) => Ok(true),
            Err(Some(libc::EOPNOTSUPP | libc::EXDEV | libc::ENOTTY | libc::ENOSYS)) => {
                lock(&self.clones).insert(pair, u64::MAX);
                Ok(false)
            }
            Err(_) => Ok(false), // this file alone; reading and writing will tell
        }
    }

    /// What the file is created with, and what is to be done about it afterwards.
    fn attributes_of(&self, spot: Spot<'_>, source: &File, metadata: &Metadata) -> Plan {
        let mode = metadata.mode() & 0o7777;
        if !self.settings.preserve {
            return Plan { create_mode: mode & 0o777, after: After::Nothing };
        }
        let gives = spot.directory.gives.get();
        let simple = gives == Some(&(metadata.uid(), metadata.gid()))
            && !spot.directory.default_acl
            && (spot.is_bare || !sys::has_xattrs(source));
        if !simple {
            // Nobody else's until it is what the source is.
            return Plan { create_mode: mode & 0o700 | OWNER, after: After::Everything };
        }
        let after = if mode & (self.umask | 0o7000) == 0 { After::Times } else { After::Mode };
        Plan { create_mode: mode & 0o777, after }
    }

    fn finish_small(
        &self,
        spot: Spot<'_>,
        source: &File,
        target: &File,
        metadata: &Metadata,
        plan: &Plan,
    ) -> Vec<String> {
        let mut lost = Vec::new();
        match plan.after {
            After::Nothing => return lost,
            After::Everything => {
                if let Ok(made) = target.metadata() {
                    // All files that this process makes in this directory are given the same.
                    let _ = spot.directory.gives.set((made.uid(), made.gid()));
                }
                return attributes::preserve(target, source, metadata);
            }
            After::Mode => {
                let mode = std::fs::Permissions::from_mode(metadata.mode() & 0o7777);
                if let Err(error) = target.set_permissions(mode) {
                    lost.push(error::lost("its mode", error));
                }
            }
            After::Times => {}
        }
        let (accessed, modified) = attributes::times(metadata);
        if let Err(errno) = futimens(target, &accessed, &modified) {
            lost.push(error::lost("its times", errno));
        }
        lost
    }
}

/// A target that is to be filled.
#[derive(Debug)]
enum Created<'d> {
    /// Under its own name.
    Named(Begun<'d>),
    Staged(File, Box<Staging>),
}

impl Created<'_> {
    fn file(&self) -> &File {
        match self {
            Self::Named(begun) => &begun.file,
            Self::Staged(file, _) => file,
        }
    }

    /// It is complete.
    fn commit(self) -> nix::Result<()> {
        match self {
            Self::Named(_) => Ok(()),
            Self::Staged(file, staging) => staging.commit(&file, true),
        }
    }
}

/// See [`Context::attributes_of`].
#[derive(Debug)]
struct Plan {
    create_mode: u32,
    after: After,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    /// It is a new file as any.
    Nothing,
    /// Owner and mode are right from the start.
    Times,
    /// The umask took something from it.
    Mode,
    /// It takes a look at everything.
    Everything,
}

/// Whether there are holes in it: it has fewer blocks than its length takes, and is not merely
/// stored in a shorter form.
pub fn has_holes(file: &File, metadata: &Metadata) -> bool {
    let len = metadata.len();
    if len == 0 || metadata.blocks() * 512 >= len {
        return false;
    }
    let holes = holes::data_ranges(file, len)
        .is_ok_and(|data| data.as_slice() != std::slice::from_ref(&(0..len)));
    // Looking for them has moved the position.
    holes || io::Seek::rewind(&mut { file }).is_err()
}

/// Removes what was created, if it is still what has the name.
fn remove(spot: Spot<'_>, target: &File) {
    let name = spot.entry.target();
    let is_ours = match (target.metadata(), look(spot.target, name, false)) {
        (Ok(ours), Ok((_, there))) => id_of(&ours) == id_of(&there),
        _ => false,
    };
    if is_ours {
        let _ = unlinkat(spot.target.as_fd(), name, UnlinkatFlags::NoRemoveDir); // all that can be done
    }
}
