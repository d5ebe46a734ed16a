//! Going into a directory: it is opened, made in the target, and read.

use std::ffi::CStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use nix::dir::Type;
use nix::errno::Errno;
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{getegid, geteuid};
use xattr::FileExt;

use super::context::{Context, Work, lock};
use super::directory::{Directory, Id, Opened, Origin, Side, id_of, open_directory};
use super::entry::{by_descriptor, look};
use super::list::{self, Entry};
use super::wishes::Follow;
use crate::copy::error::FileError;

/// Entries that one thread copies at a stretch.
const BATCH: usize = 128;

/// The ACL that what is made in a directory inherits.
pub const DEFAULT_ACL: &str = "system.posix_acl_default";

/// Whether what is made in `directory` inherits an ACL.
pub fn has_default_acl(directory: &File) -> bool {
    matches!(directory.get_xattr(DEFAULT_ACL), Ok(Some(_)))
}

impl Context<'_> {
    /// Goes into the directory `entry` of `parent`, and makes work of what is in it.
    ///
    /// # Errors
    /// [`FileError`] where it cannot be opened or made. Where it cannot be read, it is there and
    /// empty.
    pub fn enter(&self, parent: &Arc<Directory>, entry: &Entry) -> Result<(), FileError> {
        let directory = Arc::new(self.make_directory(parent, entry)?);
        self.keep_for_the_end(&directory);
        self.shelf.keep(&directory);
        parent.hold();
        match self.is_one_at_a_time(&directory) {
            // The first thread makes all directories; others read them meanwhile.
            true => self.pool.push_aside(Work::List(directory)),
            false => self.list_directory(&directory),
        }
        Ok(())
    }

    /// Makes work of what is in a directory, which is held for that.
    pub fn list_directory(&self, directory: &Arc<Directory>) {
        if !self.is_cancelled()
            && let Err(error) = self.take_in(directory)
        {
            self.failed(directory, &error);
        }
        self.release(directory);
    }

    /// Opens `entry` on both sides.
    pub fn make_directory(
        &self,
        parent: &Arc<Directory>,
        entry: &Entry,
    ) -> Result<Directory, FileError> {
        let failed = |operation| {
            let path = parent.path_of(Side::Source, &entry.name);
            move |cause: io::Error| FileError::Source { path, operation, cause }
        };
        let follow = self.follows(entry);
        let above = parent.fd(Side::Source, &self.shelf)?;
        let source = open_directory(&*above, &entry.name, follow)
            .map_err(|errno| failed("open")(errno.into()))?;
        let source = File::from(source);
        let metadata = source.metadata().map_err(failed("stat"))?;
        let above = parent.fd(Side::Target, &self.shelf)?;
        self.check_loops(parent, entry, &metadata, &above)?;
        if !self.is_member() {
            self.announce(parent, entry);
        }
        let make = || self.make_target(parent, entry, &metadata, &above);
        let Made { target, made, fresh, lent } = self.with_rights((parent, &above), make)?;
        let target_id = id_of(&made);
        if self.wishes.delete {
            if entry.root && is_inside(&source, target_id) {
                let source_path = parent.path_of(Side::Source, &entry.name);
                let target = parent.path_of(Side::Target, entry.target());
                return Err(FileError::DeletesSource { source_path, target });
            }
            lock(&self.sources).insert(id_of(&metadata));
        }
        let is_first = lock(&self.targets).insert(target_id);
        // Others who have it too may give it its attributes before all is made in it here.
        let may_meet = entry.passed && self.wishes.parents;
        let is_alone = is_first && self.wishes.shard.is_none() && !may_meet;
        if self.settings.fsync
            && let Ok(file) = target.try_clone()
        {
            lock(&self.written).entry(target_id.0).or_insert(file);
        }
        let mut default_acl = has_acl(parent, fresh, &target);
        if default_acl && fresh && self.settings.preserve {
            // What is made in it shall have the source's ACLs and no others.
            let removed = target.remove_xattr(DEFAULT_ACL);
            default_acl = removed.is_err_and(|error| error.raw_os_error() != Some(libc::ENODATA));
        }
        default_acl |= self.settings.preserve && !is_alone;
        let origin = Origin::Inner {
            parent: Some(Arc::clone(parent)),
            name: entry.name.clone(),
            target_name: entry.target_name.clone(),
        };
        let opened = Opened { source: source.into(), metadata, target: target.into(), target_id };
        let mut directory = Directory::new(origin, opened, fresh, default_acl);
        if let Some(gives) = gives_of(&made).filter(|_| fresh) {
            let _ = directory.gives.set(gives); // it is new
        }
        directory.follow = follow;
        directory.lent = lent.into();
        directory.root = entry.root;
        Ok(directory)
    }

    /// Refuses what would go on for ever.
    fn check_loops(
        &self,
        parent: &Arc<Directory>,
        entry: &Entry,
        metadata: &Metadata,
        target_above: &OwnedFd,
    ) -> Result<(), FileError> {
        if entry.passed {
            return Ok(()); // nothing but an operand in it is copied
        }
        let id = id_of(metadata);
        let source = || parent.path_of(Side::Source, &entry.name);
        let target = || parent.path_of(Side::Target, entry.target());
        if lock(&self.targets).contains(&id) {
            return Err(FileError::IntoItself { source_path: source(), target: target() });
        }
        if entry.root && self.wishes.recursive && is_inside(target_above, id) {
            return Err(FileError::IntoItself { source_path: source(), target: target() });
        }
        let mut above = Some(parent);
        while let Some(directory) = above {
            // What surrounds an operand is not copied.
            if directory.parent().is_some() && !directory.passed && directory.id(Side::Source) == id
            {
                let again = directory.path(Side::Source);
                return Err(FileError::Loop { path: source(), again });
            }
            above = directory.parent();
        }
        Ok(())
    }

    /// Makes the target of a directory, or opens the one that is there.
    fn make_target(
        &self,
        parent: &Arc<Directory>,
        entry: &Entry,
        metadata: &Metadata,
        above: &OwnedFd,
    ) -> Result<Made, FileError> {
        let path = || parent.path_of(Side::Target, entry.target());
        // Nobody else may look in until it has its own mode.
        let mode = if self.settings.preserve { 0o700 } else { metadata.mode() & 0o777 | 0o700 };
        let fresh = if entry.target() == c"." {
            false
        } else {
            match mkdirat(above, entry.target(), Mode::from_bits_truncate(mode)) {
                Ok(()) => true,
                Err(Errno::EEXIST) => false,
                Err(errno) => return Err(FileError::target(&path(), "create directory", errno)),
            }
        };
        let mut lent = 0;
        let opened = match open_directory(above, entry.target(), false) {
            Err(Errno::EACCES) if fresh => admit_owner(above, entry.target()).and_then(|missing| {
                lent = missing;
                open_directory(above, entry.target(), false)
            }),
            opened => opened,
        };
        let target = match opened {
            Ok(target) => File::from(target),
            Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(FileError::InTheWay(path())),
            Err(errno) => return Err(FileError::target(&path(), "open", errno)),
        };
        let now = || target.metadata().map_err(|cause| FileError::target(&path(), "stat", cause));
        let mut stat = now()?;
        if id_of(&stat) == id_of(metadata) {
            let source_path = parent.path_of(Side::Source, &entry.name);
            return Err(FileError::SameFile { source_path, target: path() });
        }
        // Another shard has finished with it, and this one gives it its mode again; or it is new, and the umask or an
        // ACL that it inherited has taken what it needs to be filled.
        let needs_all = (fresh || self.shares()) && !geteuid().is_root();
        if stat.mode() & 0o700 != 0o700 && needs_all {
            lent |= 0o700 & !stat.mode();
            let mode = Mode::from_bits_truncate(stat.mode() & 0o7777 | 0o700);
            let _ = nix::sys::stat::fchmod(&target, mode); // what needs it will tell
            stat = now()?; // who is not in its group has lost the bit that hands it on
        }
        if fresh {
            self.tally.directories.add(1);
        }
        Ok(Made { target, made: stat, fresh, lent })
    }

    /// Reads a directory and makes work of what is in it.
    fn take_in(&self, directory: &Arc<Directory>) -> Result<(), FileError> {
        if self.wishes.one_file_system && self.is_elsewhere(directory) {
            return Ok(());
        }
        let source = directory.fd(Side::Source, &self.shelf)?;
        let mut entries = list::list(&source)
            .map_err(|cause| directory.cannot(Side::Source, "read directory", cause))?;
        if self.wishes.delete {
            let names = entries.iter().map(|entry| entry.name.clone()).collect();
            let _ = directory.names.set(names); // this is the only place
        }
        if !self.wishes.rules.is_empty() {
            entries.retain(|entry| {
                let is_directory =
                    entry.is_directory(&source, self.wishes.follow == Follow::Always);
                !self.wishes.rules.excludes(&directory.relative(&entry.name), is_directory)
            });
        }
        let (inner, mut rest): (Vec<Entry>, Vec<Entry>) =
            entries.into_iter().partition(|entry| entry.kind == Some(Type::Directory));
        let enter = |entry| {
            directory.hold();
            Work::Enter(Arc::clone(directory), entry)
        };
        let inner = inner.into_iter().rev().map(enter);
        let is_for_one = self.is_one_at_a_time(directory);
        match is_for_one {
            true => self.pool.push_first(inner),
            false => self.pool.push(inner),
        }
        while rest.len() > BATCH {
            let batch = rest.split_off(rest.len() - BATCH);
            directory.hold();
            self.pool.push([Work::Batch(Arc::clone(directory), batch)]);
        }
        if rest.is_empty() {
            return Ok(());
        }
        if is_for_one && self.pool.is_first() {
            // Others open them while it goes into the next directories.
            directory.hold();
            self.pool.push_aside(Work::Batch(Arc::clone(directory), rest));
        } else {
            self.batch(directory, rest);
        }
        Ok(())
    }

    /// Whether `directory` is on another file system than the operand that it is in.
    fn is_elsewhere(&self, directory: &Arc<Directory>) -> bool {
        let device = directory.id(Side::Source).0;
        let mut at = directory;
        while let (false, Some(parent)) = (at.root, at.parent()) {
            at = parent;
        }
        at.id(Side::Source).0 != device
    }
}

/// User and group of what this process makes in a directory that it has just made, where that is certain: the
/// directory's own if it hands its group on, and if it has those of the process.
fn gives_of(made: &Metadata) -> Option<(u32, u32)> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let hands_on = made.mode() & libc::S_ISGID != 0;
    (made.uid() == user && (hands_on || made.gid() == group)).then(|| (made.uid(), made.gid()))
}

/// The target of a directory.
struct Made {
    target: File,
    made: Metadata,
    fresh: bool,
    /// Rights that its owner has only while it is filled.
    lent: u32,
}

/// Gives the owner all rights to a directory that was made just now with fewer. Gives those that were missing.
pub fn admit_owner(above: impl AsFd, name: &CStr) -> nix::Result<u32> {
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let (place, now) = look(above, name, false).map_err(errno)?;
    if !now.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    // By what is open: the name may be another's by now.
    let mode = Permissions::from_mode(now.mode() & 0o7777 | 0o700);
    std::fs::set_permissions(by_descriptor(&place), mode).map_err(errno)?;
    Ok(0o700 & !now.mode())
}

fn has_acl(parent: &Directory, fresh: bool, target: &File) -> bool {
    if fresh { parent.default_acl } else { has_default_acl(target) }
}

/// Whether the directory `inner` is the one of `id` or lies in it.
fn is_inside(inner: impl AsFd, id: Id) -> bool {
    let Ok(mut at) = inner.as_fd().try_clone_to_owned().map(File::from) else { return false };
    let mut before = None;
    loop {
        let Ok(found) = at.metadata().map(|metadata| id_of(&metadata)) else { return false };
        if found == id {
            return true;
        }
        if before == Some(found) {
            return false; // the root is its own parent
        }
        before = Some(found);
        match open_directory(at.as_fd(), c"..", false) {
            Ok(above) => at = File::from(above),
            Err(_) => return false,
        }
    }
}
