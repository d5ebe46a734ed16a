//! What comes in one message: small files, symbolic links, FIFOs, sockets, devices, hard links.

use std::ffi::{CStr, OsString};
use std::fs::{File, Metadata};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, mknodat};
use nix::unistd::{AccessFlags, faccessat, symlinkat};

use super::jobs::Job;
use super::links::Further;
use super::place::os;
use super::{Receiver, Spot};
use crate::copy::engine::{Kind, Sparse, Sums};
use crate::copy::error::FileError;
use crate::copy::request::Conflict;
use crate::copy::staging;
use crate::copy::target::Target;
use crate::copy::tree::directory::{Id, id_of};
use crate::copy::tree::entry::look;
use crate::copy::tree::special;
use crate::copy::verify;
use crate::copy::zeros;
use crate::remote::attributes;
use crate::remote::protocol::{Attributes, Entry, Message, Moment};
use crate::remote::session::{Over, lock};

/// What stands where a copy is to go.
#[derive(Debug)]
pub(super) enum Standing {
    /// What the copy may replace; of a regular file the metadata.
    Replaceable(Option<Metadata>),
    /// Something that stays.
    Stays,
    /// A regular file as long as the copy, open, which stays if it has the same contents.
    Candidate(File, Metadata),
}

impl Receiver<'_, '_> {
    /// Does a job. What fails is told, and is no reason to stop.
    pub(super) fn make(&self, job: Job) -> Result<(), Over> {
        let Job { spot, message, same, sum } = job;
        if self.task.check {
            return self.check_contents(spot, message, same);
        }
        if self.task.settings.verbose && same.is_none() {
            self.talk.copying(&spot.source, &spot.path());
        }
        let (entry, result) = match &message {
            Message::Small { entry, content, sum } => {
                (entry, self.small(&spot, entry, &content.0, *sum))
            }
            Message::File { entry, file, identity } => {
                let same = same.map(|same| (same, sum));
                return self.open(spot, entry, *file, identity, same);
            }
            Message::Symlink { entry, text } => {
                let text = OsString::from_vec(text.0.clone());
                let make = |name: &CStr| symlinkat(text.as_os_str(), &spot.place.file, name);
                (entry, self.special(&spot, entry, SFlag::S_IFLNK, "create symbolic link", make))
            }
            Message::Node { entry, device } => (entry, self.node(&spot, entry, *device)),
            Message::Link { entry } => {
                self.link(
                    entry.link,
                    Further { spot, modified: entry.attributes.modified.clone() },
                );
                return Ok(());
            }
            _ => return Ok(()),
        };
        let id = result.unwrap_or_else(|error| {
            self.failed(&error);
            None
        });
        self.settle(entry.link, &spot, id);
        Ok(())
    }

    /// A file with its contents. Gives what it is then.
    fn small(
        &self,
        spot: &Spot,
        entry: &Entry,
        content: &[u8],
        sum: Option<[u8; 32]>,
    ) -> Result<Option<Id>, FileError> {
        let attributes = &entry.attributes;
        let len = content.len() as u64;
        let listed = |id: Option<Id>| {
            if id.is_some() {
                self.list(spot, entry.link, sum);
            }
            id
        };
        if let Some(device) = self.device(spot, entry, len)? {
            let id = self.fill_small(device, attributes, content)?;
            self.leave_unlisted(spot);
            return Ok(id);
        }
        let old = match self.standing(spot, attributes, Some(len))? {
            Standing::Stays => {
                self.tally.left.add(1);
                return Ok(self.stays(spot, entry, len));
            }
            Standing::Candidate(file, there) if has_contents(&file, content) => {
                self.leave_same(spot, attributes, &file);
                return Ok(listed(Some(id_of(&there))));
            }
            Standing::Candidate(_, there) => self.replaceable(spot, there)?,
            Standing::Replaceable(old) => old,
        };
        let target = self.stage(spot, attributes, old, None)?;
        self.fill_small(target, attributes, content).map(listed)
    }

    /// Writes all that is to be in `target`, and gives it its name.
    fn fill_small(
        &self,
        target: Target,
        attributes: &Attributes,
        content: &[u8],
    ) -> Result<Option<Id>, FileError> {
        let write = |cause| FileError::target(&target.path, "write", cause);
        let len = content.len() as u64;
        if target.kind == Kind::Regular && self.task.settings.tuning.sparse == Sparse::Always {
            for run in zeros::data_runs(0, content) {
                target.file.write_all_at(&content[run.clone()], run.start as u64).map_err(write)?;
            }
            target.file.set_len(len).map_err(write)?;
        } else {
            target.file.write_all_at(content, 0).map_err(write)?;
        }
        if self.task.settings.wishes.verify {
            let sums = Sums::default();
            if !content.is_empty() {
                sums.record(0, content);
            }
            let progress = crate::copy::engine::Progress::default();
            verify::verify(&target.side(), 0..len, &sums, &progress)
                .map_err(|error| FileError::copy(error, &target, 0))?;
        } else if target.kind != Kind::Regular && self.task.settings.fsync {
            target.file.sync_all().map_err(write)?; // no file system of a target has it
        }
        self.name(target, attributes, len)
    }

    /// Makes a new file for `spot`, which has no name yet.
    pub(super) fn stage(
        &self,
        spot: &Spot,
        attributes: &Attributes,
        old: Option<Metadata>,
        resumed: Option<crate::copy::journal::Header>,
    ) -> Result<Target, FileError> {
        let path = spot.path();
        let directory = spot.place.file.try_clone();
        let directory =
            directory.map_err(|cause| FileError::target(&path, "open the directory of", cause))?;
        let mode = attributes.mode & 0o777;
        let preserve = self.task.settings.preserve;
        Target::stage_in(directory, os(&spot.name), path, old, mode, preserve, resumed)
    }

    /// Gives a complete file its attributes and its name.
    pub(super) fn name(
        &self,
        mut target: Target,
        attributes: &Attributes,
        bytes: u64,
    ) -> Result<Option<Id>, FileError> {
        let settings = &self.task.settings;
        let lost = match settings.preserve {
            _ if target.kind != Kind::Regular => Vec::new(), // a device keeps its own
            true => attributes::give(&target.file, attributes),
            false => target.set_own_attributes(),
        };
        if !target.commit(settings.conflict == Conflict::Leave, settings.fsync)? {
            self.tally.left.add(1);
            return Ok(None);
        }
        self.tally.files.add(1);
        self.tally.bytes.add(bytes);
        let id = target.file.metadata().ok().map(|now| id_of(&now));
        if let (Some(made), Some(id)) = (&self.made, id) {
            lock(made).insert(id);
        }
        if !lost.is_empty() {
            self.failed(&FileError::Attributes { path: target.path.clone(), what: lost });
        }
        Ok(id)
    }

    fn node(&self, spot: &Spot, entry: &Entry, device: u64) -> Result<Option<Id>, FileError> {
        let (kind, operation) =
            match SFlag::from_bits_truncate(entry.attributes.mode) & SFlag::S_IFMT {
                SFlag::S_IFIFO => (SFlag::S_IFIFO, "create FIFO"),
                SFlag::S_IFSOCK => (SFlag::S_IFSOCK, "create socket"),
                SFlag::S_IFBLK => (SFlag::S_IFBLK, "create device (which takes CAP_MKNOD)"),
                SFlag::S_IFCHR => (SFlag::S_IFCHR, "create device (which takes CAP_MKNOD)"),
                _ => {
                    let what = "of no kind that there is";
                    return Err(FileError::NotReadable { path: spot.source.clone(), what });
                }
            };
        if matches!(kind, SFlag::S_IFBLK | SFlag::S_IFCHR) && !self.root.has_devices() {
            let what = "a device, which a server does not make";
            return Err(FileError::NotReadable { path: spot.source.clone(), what });
        }
        let mode = Mode::from_bits_truncate(entry.attributes.mode & 0o777);
        let make = |name: &CStr| mknodat(&spot.place.file, name, kind, mode, device);
        self.special(spot, entry, kind, operation, make)
    }

    /// Makes what is no file, and gives it its attributes.
    fn special(
        &self,
        spot: &Spot,
        entry: &Entry,
        kind: SFlag,
        operation: &'static str,
        make: impl Fn(&CStr) -> nix::Result<()>,
    ) -> Result<Option<Id>, FileError> {
        if !self.put(spot, &entry.attributes.modified, operation, make)? {
            return Ok(None);
        }
        match kind {
            SFlag::S_IFLNK => self.tally.symlinks.add(1),
            _ => self.tally.specials.add(1),
        }
        let path = spot.path();
        let (there, now) = look(&spot.place.file, &spot.name, false)
            .map_err(|cause| FileError::target(&path, "look at", cause))?;
        if !self.task.settings.preserve {
            return Ok(Some(id_of(&now)));
        }
        let mut what = Vec::new();
        if now.mode() & SFlag::S_IFMT.bits() == kind.bits() && now.nlink() == 1 {
            attributes::give_xattrs(&there, &now, &entry.attributes, &mut what);
            special::preserve(&there, &now, &attributes::basics(&entry.attributes), &mut what);
        } else {
            what.push("its attributes (somebody has exchanged it meanwhile)".to_owned());
        }
        if !what.is_empty() {
            self.failed(&FileError::Attributes { path, what }); // other names are links to it all the same
        }
        Ok(Some(id_of(&now)))
    }

    /// Makes something, as old as `modified` says, under the name of `spot`, or in place of what has it.
    /// `Ok(false)` where that stays.
    pub(super) fn put(
        &self,
        spot: &Spot,
        modified: &Moment,
        operation: &'static str,
        make: impl Fn(&CStr) -> nix::Result<()>,
    ) -> Result<bool, FileError> {
        let path = spot.path();
        let failed = |errno: Errno| FileError::target(&path, operation, errno);
        match make(&spot.name) {
            Ok(()) => return Ok(true),
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let stays = match self.task.settings.conflict {
            Conflict::Leave => true,
            Conflict::ReplaceOlder | Conflict::Replace => {
                self.check_kind(spot, false)?.is_some_and(|there| self.is_newer(&there, modified))
            }
        };
        if stays {
            self.tally.left.add(1);
            return Ok(false);
        }
        staging::replace_with(&spot.place.file, os(&spot.name), make).map_err(failed)?;
        Ok(true)
    }

    /// Refuses to replace what is not replaced by chance, if it is to be replaced at all. Gives what is there.
    fn check_kind(&self, spot: &Spot, by_file: bool) -> Result<Option<Metadata>, FileError> {
        let by_file = by_file && self.task.settings.conflict != Conflict::Leave;
        let path = spot.path();
        let there = match look(&spot.place.file, &spot.name, false) {
            Ok((_, there)) => there,
            Err(cause) if cause.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(cause) => return Err(FileError::target(&path, "look at", cause)),
        };
        let kind = there.file_type();
        if there.is_dir() {
            return Err(FileError::DirectoryInTheWay(path));
        }
        if by_file && (kind.is_block_device() || kind.is_char_device()) {
            return Err(FileError::DeviceInTheWay(path));
        }
        if by_file && !self.task.has_trees() && (kind.is_fifo() || kind.is_socket()) {
            return Err(FileError::PipeInTheWay(path));
        }
        Ok(Some(there))
    }

    /// Finds what stands in the way of a file of `len` bytes, and whether it goes.
    ///
    /// # Errors
    /// Where it must not be replaced.
    pub(super) fn standing(
        &self,
        spot: &Spot,
        attributes: &Attributes,
        len: Option<u64>,
    ) -> Result<Standing, FileError> {
        let settings = &self.task.settings;
        let Some(there) = self.check_kind(spot, true)? else {
            return Ok(Standing::Replaceable(None));
        };
        let made = self.made.as_ref().filter(|_| settings.conflict != Conflict::Leave);
        if made.is_some_and(|made| lock(made).contains(&id_of(&there))) {
            let (source_path, target) = (spot.source.clone(), spot.path());
            return Err(FileError::JustCreated { source_path, target });
        }
        let time = attributes::time(&attributes.modified);
        let its_time = (there.mtime(), there.mtime_nsec());
        // A copy that is there already, as far as length and time tell; the time is set last.
        let copied = settings.conflict == Conflict::Replace
            && settings.resume
            && settings.preserve
            && there.is_file()
            && Some(there.len()) == len
            && time == its_time;
        let stays = match settings.conflict {
            Conflict::Leave => true,
            Conflict::ReplaceOlder => self.is_newer(&there, &attributes.modified),
            // Where its checksum is to be told, it may as well be compared.
            Conflict::Replace => copied && self.listing.is_none(),
        };
        if stays {
            return Ok(Standing::Stays);
        }
        if !there.is_file() {
            return Ok(Standing::Replaceable(None));
        }
        // What cannot be read is replaced, or not, by the usual rules.
        if (self.task.compares() || copied)
            && Some(there.len()) == len
            && let Some(file) = open_same(spot, &there)
        {
            return Ok(Standing::Candidate(file, there));
        }
        self.replaceable(spot, there).map(Standing::Replaceable)
    }

    /// Whether what is there stays because it is not older.
    fn is_newer(&self, there: &Metadata, modified: &Moment) -> bool {
        self.task.settings.conflict == Conflict::ReplaceOlder
            && attributes::time(modified) <= (there.mtime(), there.mtime_nsec())
    }

    /// A regular file that is to be replaced, if it may be.
    ///
    /// # Errors
    /// Where it may not be written.
    pub(super) fn replaceable(
        &self,
        spot: &Spot,
        there: Metadata,
    ) -> Result<Option<Metadata>, FileError> {
        let settings = &self.task.settings;
        let (at, flags) = (&spot.place.file, AtFlags::AT_EACCESS);
        match faccessat(at, spot.name.as_c_str(), AccessFlags::W_OK, flags) {
            Err(Errno::EACCES | Errno::EPERM) if !settings.force => {
                let mode = there.mode() & 0o7777;
                Err(FileError::Unwritable { path: spot.path(), mode })
            }
            _ => Ok(Some(there)),
        }
    }

    /// Leaves a file that is the same already; with `-p` it is given its attributes.
    pub(super) fn leave_same(&self, spot: &Spot, attributes: &Attributes, file: &File) {
        self.tally.left.add(1);
        let what = match self.task.settings.preserve {
            true => attributes::give(file, attributes),
            false => Vec::new(),
        };
        if !what.is_empty() {
            // The file is there: its other names are linked to it.
            self.failed(&FileError::Attributes { path: spot.path(), what });
        }
    }
}

/// Opens what is there to be read, if it still is what was looked at.
pub(super) fn open_same(spot: &Spot, there: &Metadata) -> Option<File> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let opened = openat(&spot.place.file, spot.name.as_c_str(), flags, Mode::empty()).ok()?;
    let file = File::from(opened);
    file.metadata().is_ok_and(|now| id_of(&now) == id_of(there)).then_some(file)
}

/// Whether all of `file` is `content`.
pub(super) fn has_contents(file: &File, content: &[u8]) -> bool {
    let mut there = vec![0; content.len() + 1]; // of a small file
    let read = crate::copy::compare::read(file, &mut there, 0);
    read.is_ok_and(|read| there[..read] == *content)
}
