//! A directory under way: open on both sides, with what is needed to finish it.
//!
//! Everything in a directory is reached through its descriptors, one name at a time and without
//! following links: who renames or exchanges directories meanwhile cannot lead the copy elsewhere.
//!
//! There may be more directories under way than descriptors to be had. The [`Shelf`] closes those
//! that were opened longest ago, and a directory that is needed again is opened through its parent
//! (or through `..` of a child, or what surrounds an operand by its path), and is used only if it is
//! the same device and inode.

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, Weak};

use nix::fcntl::{OFlag, openat};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use crate::copy::error::FileError;

/// Device and inode.
pub type Id = (u64, u64);

/// Device and inode of what `metadata` is about.
pub fn id_of(metadata: &Metadata) -> Id {
    (metadata.dev(), metadata.ino())
}

/// Which side of the copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Where from.
    Source,
    /// Where to.
    Target,
}

/// Where a directory is.
#[derive(Debug)]
pub enum Origin {
    /// What surrounds an operand: it is only gone through.
    Outer {
        /// The source's path.
        source: PathBuf,
        /// The target's path.
        target: PathBuf,
    },
    /// In another one.
    Inner {
        /// That one; `None` only while it is dropped.
        parent: Option<Arc<Directory>>,
        /// Its name in the source.
        name: CString,
        /// Its name in the target, where that is another.
        target_name: Option<CString>,
    },
}

/// A directory on one side.
#[derive(Debug)]
struct Handle {
    fd: Mutex<Option<Arc<OwnedFd>>>,
    id: Id,
}

impl Handle {
    fn fd(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.fd.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// See the module.
#[derive(Debug)]
pub struct Directory {
    origin: Origin,
    source: Handle,
    target: Handle,
    /// Of the source.
    pub metadata: Metadata,
    /// Whether this run made the target.
    pub fresh: bool,
    /// Whether what is made in the target inherits an ACL.
    pub default_acl: bool,
    /// User and group that new files get in the target, once that was seen.
    pub gives: OnceLock<(u32, u32)>,
    /// The names in the source, where what has none of them is to be deleted from the target.
    pub names: OnceLock<std::collections::HashSet<CString>>,
    /// Whether the link of its name is followed when it is opened again.
    pub follow: bool,
    /// Rights that its owner did not have, and has as long as it is filled.
    pub lent: AtomicU32,
    /// Whether it was an operand, or stands above one.
    pub root: bool,
    /// Whether it is only gone through, on the way to an operand.
    pub passed: bool,
    /// Whether it is never closed for now: what surrounds operands has only a path to be found again by, which may be
    /// another's by then.
    pub stays: bool,
    /// Whether something in it could not be copied.
    pub incomplete: AtomicBool,
    /// Who still has to do something in it.
    pending: AtomicUsize,
}

/// What a directory is opened with.
#[derive(Debug)]
pub struct Opened {
    /// The source.
    pub source: OwnedFd,
    /// Its metadata.
    pub metadata: Metadata,
    /// The target.
    pub target: OwnedFd,
    /// Its device and inode.
    pub target_id: Id,
}

impl Directory {
    /// A directory with one duty pending: that of whoever made it.
    pub fn new(origin: Origin, opened: Opened, fresh: bool, default_acl: bool) -> Self {
        let handle = |fd, id| Handle { fd: Mutex::new(Some(Arc::new(fd))), id };
        Self {
            origin,
            source: handle(opened.source, id_of(&opened.metadata)),
            target: handle(opened.target, opened.target_id),
            metadata: opened.metadata,
            fresh,
            default_acl,
            gives: OnceLock::new(),
            names: OnceLock::new(),
            follow: false,
            lent: AtomicU32::new(0),
            root: false,
            passed: false,
            stays: false,
            incomplete: AtomicBool::new(false),
            pending: AtomicUsize::new(1),
        }
    }

    /// The one that it is in; `None` for what surrounds an operand.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        match &self.origin {
            Origin::Inner { parent, .. } => parent.as_ref(),
            Origin::Outer { .. } => None,
        }
    }

    /// Device and inode on `side`.
    pub fn id(&self, side: Side) -> Id {
        self.handle(side).id
    }

    fn handle(&self, side: Side) -> &Handle {
        match side {
            Side::Source => &self.source,
            Side::Target => &self.target,
        }
    }

    fn name(&self, side: Side) -> Option<&CStr> {
        match (&self.origin, side) {
            (Origin::Inner { target_name: Some(name), .. }, Side::Target)
            | (Origin::Inner { name, .. }, _) => Some(name),
            (Origin::Outer { .. }, _) => None,
        }
    }

    /// Its path, for messages; it may be longer than the system takes.
    pub fn path(&self, side: Side) -> PathBuf {
        let mut names = Vec::new();
        let mut at = self;
        let mut path = loop {
            match &at.origin {
                Origin::Outer { source, target } => {
                    break if side == Side::Source { source.clone() } else { target.clone() };
                }
                Origin::Inner { parent, .. } => {
                    names.extend(at.name(side));
                    match parent {
                        Some(parent) => at = parent,
                        None => break PathBuf::new(),
                    }
                }
            }
        };
        for name in names.into_iter().rev() {
            push(&mut path, name);
        }
        path
    }

    /// The path of `name` in it, for messages.
    pub fn path_of(&self, side: Side, name: &CStr) -> PathBuf {
        let mut path = self.path(side);
        push(&mut path, name);
        path
    }

    /// The path of `name` from the operand on, as patterns see it: without a slash at the start.
    pub fn relative(&self, name: &CStr) -> Vec<u8> {
        let mut names = vec![name.to_bytes()];
        let mut at = self;
        while let (false, Some(parent)) = (at.root, at.parent()) {
            names.extend(at.name(Side::Source).map(CStr::to_bytes));
            at = parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Its descriptor on `side`, opened again if it was closed.
    ///
    /// # Errors
    /// What opening says, and `ESTALE` where another directory has its name now.
    pub fn open(self: &Arc<Self>, side: Side, shelf: &Shelf) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = &*self.handle(side).fd() {
            return Ok(Arc::clone(fd));
        }
        let mut closed = Vec::new();
        let mut at = self;
        let mut fd = loop {
            if let Some(fd) = &*at.handle(side).fd() {
                break Arc::clone(fd);
            }
            let Some(parent) = at.parent() else {
                break Arc::new(at.open_outer(side)?);
            };
            closed.push(at);
            at = parent;
        };
        for directory in closed.into_iter().rev() {
            let follow = directory.follow && side == Side::Source;
            let name = directory.name(side).unwrap_or(c".");
            fd = Arc::new(open_directory(&*fd, name, follow)?);
            directory.check(side, &fd)?;
        }
        *self.handle(side).fd() = Some(Arc::clone(&fd));
        shelf.keep(self);
        Ok(fd)
    }

    /// Opens again what surrounds an operand.
    fn open_outer(&self, side: Side) -> io::Result<OwnedFd> {
        let Origin::Outer { source, target } = &self.origin else {
            return Err(io::Error::from_raw_os_error(libc::ESTALE)); // it is being dropped
        };
        let fd = open_place(if side == Side::Source { source } else { target })?;
        self.check(side, &fd)?;
        Ok(fd.into())
    }

    /// As [`open`](Self::open), where a child is open: up is shorter than down from the top.
    ///
    /// # Errors
    /// As there.
    pub fn open_from(
        self: &Arc<Self>,
        side: Side,
        child: Option<&OwnedFd>,
        shelf: &Shelf,
    ) -> io::Result<Arc<OwnedFd>> {
        if self.handle(side).fd().is_none()
            && let Some(child) = child
            && let Ok(fd) = open_directory(child, c"..", false)
            && self.check(side, &fd).is_ok()
        {
            let fd = Arc::new(fd);
            *self.handle(side).fd() = Some(Arc::clone(&fd));
            shelf.keep(self);
            return Ok(fd);
        }
        self.open(side, shelf)
    }

    /// Whether `fd` is this directory.
    fn check(&self, side: Side, fd: &impl AsFd) -> io::Result<()> {
        let stat = nix::sys::stat::fstat(fd)?;
        if (stat.st_dev, stat.st_ino) == self.handle(side).id {
            return Ok(());
        }
        Err(io::Error::from_raw_os_error(libc::ESTALE))
    }

    /// As [`open`](Self::open), with the error in the name of the directory.
    ///
    /// # Errors
    /// As there.
    pub fn fd(self: &Arc<Self>, side: Side, shelf: &Shelf) -> Result<Arc<OwnedFd>, FileError> {
        self.open(side, shelf).map_err(|cause| self.cannot(side, "go on in", cause))
    }

    /// An error about this directory.
    pub fn cannot(&self, side: Side, operation: &'static str, cause: io::Error) -> FileError {
        let path = self.path(side);
        match side {
            Side::Source => FileError::Source { path, operation, cause },
            Side::Target => FileError::target(&path, operation, cause),
        }
    }

    /// Closes it for now, unless it stays open.
    pub fn close(&self) {
        if self.stays {
            return;
        }
        for side in [Side::Source, Side::Target] {
            *self.handle(side).fd() = None;
        }
    }

    fn is_open(&self) -> bool {
        self.source.fd().is_some() || self.target.fd().is_some()
    }

    /// One more has something to do in it.
    pub fn hold(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// One less has; says whether nobody has any more.
    pub fn release(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Appends a name, but not the one that stands for the directory itself.
fn push(path: &mut PathBuf, name: &CStr) {
    if name != c"." {
        path.push(OsStr::from_bytes(name.to_bytes()));
    }
}

/// Opens what surrounds operands, as a place to go on from: it need not be one that may be read.
pub fn open_place(path: &Path) -> io::Result<File> {
    let path = if path == Path::new("") { Path::new(".") } else { path };
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Opens a directory by its name in another.
pub fn open_directory(at: impl AsFd, name: &CStr, follow: bool) -> nix::Result<OwnedFd> {
    let nofollow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | nofollow;
    openat(at, name, flags, Mode::empty())
}

impl Drop for Directory {
    /// Parents are dropped one after the other: a chain of them may be longer than the stack.
    fn drop(&mut self) {
        let mut next = self.take_parent();
        while let Some(mut directory) = next.and_then(Arc::into_inner) {
            next = directory.take_parent();
        }
    }
}

impl Directory {
    fn take_parent(&mut self) -> Option<Arc<Self>> {
        match &mut self.origin {
            Origin::Inner { parent, .. } => parent.take(),
            Origin::Outer { .. } => None,
        }
    }
}

/// The directories that are open, the one that was opened first in front.
#[derive(Debug)]
pub struct Shelf {
    open: Mutex<VecDeque<Weak<Directory>>>,
    most: usize,
    has_room: bool,
}

/// Descriptors that are left to everything else.
const OTHERS: u64 = 64;
/// And to files that are opened before they are copied, where there are many.
pub const AHEAD: u64 = 256;
/// More than that is of no use.
const MOST: u64 = 4096;

impl Shelf {
    /// As large as the system allows, after asking it for what it allows at most.
    pub fn new() -> Self {
        let (mut soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let wanted = (2 * MOST + OTHERS + AHEAD).min(hard);
        if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).is_ok() {
            soft = wanted;
        }
        // Each directory has two. What is opened ahead takes its share where there is much.
        let has_room = soft >= 4 * AHEAD;
        let others = if has_room { OTHERS + AHEAD } else { OTHERS };
        let most = (soft.saturating_sub(others) / 2).clamp(4, MOST);
        Self { open: Mutex::default(), most: usize::try_from(most).unwrap_or(4), has_room }
    }

    /// How many directories may be open, of two descriptors each.
    pub fn most(&self) -> usize {
        self.most
    }

    /// Whether [`AHEAD`] more files may be open beside the directories.
    pub fn has_room(&self) -> bool {
        self.has_room
    }

    /// Takes note of an open directory, and closes others where there are too many.
    pub fn keep(&self, directory: &Arc<Directory>) {
        let mut open = self.open.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if open.len() >= self.most {
            open.retain(|kept| kept.upgrade().is_some_and(|kept| kept.is_open()));
        }
        if open.len() >= self.most {
            // Half of them at once, so that most calls have nothing to do.
            for old in open.drain(..self.most / 2) {
                if let Some(old) = old.upgrade() {
                    old.close();
                }
            }
        }
        open.push_back(Arc::downgrade(directory));
    }
}

impl Default for Shelf {
    fn default() -> Self {
        Self::new()
    }
}

/// A new descriptor for a directory that is open, as a file.
///
/// # Errors
/// What duplicating says.
pub fn file_of(fd: &OwnedFd) -> io::Result<File> {
    fd.try_clone().map(File::from)
}
