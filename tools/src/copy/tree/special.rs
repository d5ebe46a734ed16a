//! What is neither file nor directory: symbolic links, FIFOs, sockets, devices; and hard links.
//!
//! These are made with one call under their names, and take their attributes through a descriptor
//! of what was made, after a look whether it is that: a name can be exchanged in between by
//! whoever may write the directory, and what they put there shall not be given to anybody.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, readlinkat};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, mknodat, utimensat};
use nix::unistd::{Gid, Uid, fchownat, linkat, symlinkat};

use super::context::{Context, lock};
use super::directory::{Side, file_of, id_of};
use super::entry::{Became, Spot, by_descriptor, look};
use super::links::Made;
use super::regular::Standing;
use crate::copy::attributes::Basics;
use crate::copy::error::{self, FileError};
use crate::copy::staging;

/// What is made.
#[derive(Debug)]
enum Thing {
    Symlink(OsString),
    Node { kind: SFlag, mode: Mode, device: u64 },
}

impl Thing {
    fn of(spot: Spot<'_>, place: &File, metadata: &Metadata) -> Result<Self, FileError> {
        let kind = metadata.file_type();
        if kind.is_symlink() {
            let text = readlinkat(place, c"");
            return text.map(Self::Symlink).map_err(|errno| spot.source_error("read link", errno));
        }
        let (kind, device) = match () {
            () if kind.is_fifo() => (SFlag::S_IFIFO, 0),
            () if kind.is_socket() => (SFlag::S_IFSOCK, 0),
            () if kind.is_block_device() => (SFlag::S_IFBLK, metadata.rdev()),
            () => (SFlag::S_IFCHR, metadata.rdev()),
        };
        Ok(Self::Node { kind, mode: Mode::from_bits_truncate(metadata.mode() & 0o777), device })
    }

    fn make(&self, directory: &File, name: &CStr) -> nix::Result<()> {
        match self {
            Self::Symlink(text) => symlinkat(text.as_os_str(), directory, name),
            Self::Node { kind, mode, device } => mknodat(directory, name, *kind, *mode, *device),
        }
    }

    fn operation(&self) -> &'static str {
        match self {
            Self::Symlink(_) => "create symbolic link",
            Self::Node { kind, .. } if *kind == SFlag::S_IFIFO => "create FIFO",
            Self::Node { kind, .. } if *kind == SFlag::S_IFSOCK => "create socket",
            Self::Node { .. } => "create device (which takes CAP_MKNOD)",
        }
    }
}

impl Context<'_> {
    /// Copies what is open as a `place` only.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn special(
        &self,
        spot: Spot<'_>,
        place: &File,
        metadata: &Metadata,
    ) -> Result<Became, FileError> {
        let thing = Thing::of(spot, place, metadata)?;
        let directory =
            file_of(spot.target).map_err(|cause| spot.target_error("go on beside", cause))?;
        let made =
            self.make(spot, metadata, thing.operation(), |name| thing.make(&directory, name))?;
        if !made {
            return Ok(Became::Left);
        }
        match thing {
            Thing::Symlink(_) => self.tally.symlinks.add(1),
            Thing::Node { .. } => self.tally.specials.add(1),
        }
        let (there, now) = look(spot.target, spot.entry.target(), false)
            .map_err(|cause| spot.target_error("look at", cause))?;
        let id = id_of(&now);
        if let Some(made) = &self.made {
            lock(made).insert(id);
        }
        if self.settings.preserve {
            let is_it = now.file_type() == metadata.file_type()
                && now.rdev() == metadata.rdev()
                && now.nlink() == 1;
            let lost = if is_it {
                let mut lost = Vec::new();
                give_xattrs(&there, &now, xattrs(place), &mut lost);
                preserve(&there, &now, &Basics::of(metadata), &mut lost);
                lost
            } else {
                vec!["its attributes (somebody has exchanged it meanwhile)".to_owned()]
            };
            self.tell_lost(spot, lost);
        }
        Ok(Became::Copied(Some(id)))
    }

    /// Makes something under the name of `spot`, or in place of what has it. `Ok(false)` where
    /// that stays.
    fn make(
        &self,
        spot: Spot<'_>,
        metadata: &Metadata,
        operation: &'static str,
        make: impl Fn(&CStr) -> nix::Result<()>,
    ) -> Result<bool, FileError> {
        let name = spot.entry.target();
        match make(name) {
            Ok(()) => {
                self.announce(spot.directory, spot.entry);
                return Ok(true);
            }
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(spot.target_error(operation, errno)),
        }
        match self.standing(spot, metadata, None)? {
            Standing::Stays(_) | Standing::Same(..) => {
                self.tally.left.add(1);
                return Ok(false);
            }
            Standing::Nothing | Standing::Replaceable(_) => {}
        }
        self.announce(spot.directory, spot.entry);
        let directory =
            file_of(spot.target).map_err(|cause| spot.target_error("go on beside", cause))?;
        staging::replace_with(&directory, OsStr::from_bytes(name.to_bytes()), make)
            .map_err(|errno| spot.target_error(operation, errno))?;
        Ok(true)
    }

    /// Gives a copy that was made another name. `None` where it cannot have one here, because
    /// another file system begins in between.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn hard_link(
        &self,
        spot: Spot<'_>,
        made: &Made,
        metadata: &Metadata,
    ) -> Result<Option<Became>, FileError> {
        let directory = made.directory.fd(Side::Target, &self.shelf)?;
        let (file, there) = look(&directory, &made.name, false)
            .map_err(|cause| spot.target_error("find the file to link to, of", cause))?;
        if id_of(&there) != made.id {
            let cause = io::Error::from_raw_os_error(libc::ESTALE);
            return Err(spot.target_error("find the file to link to, of", cause));
        }
        if id_of(&there).0 != spot.directory.id(Side::Target).0 {
            return Ok(None);
        }
        if let Ok((_, now)) = look(spot.target, spot.entry.target(), false)
            && id_of(&now) == made.id
        {
            self.tally.left.add(1);
            return Ok(Some(Became::Copied(Some(made.id)))); // it is one already
        }
        let from = by_descriptor(&file);
        let target = file_of(spot.target).map_err(|cause| spot.target_error("link", cause))?;
        let link = |name: &CStr| {
            linkat(AT_FDCWD, from.as_str(), &target, name, AtFlags::AT_SYMLINK_FOLLOW)
        };
        let linked = self.make(spot, metadata, "link", link)?;
        self.tally.hard_links.add(u64::from(linked));
        if metadata.is_file() {
            self.progress.add(metadata.len()); // as those who look ahead count it
        }
        Ok(Some(if linked { Became::Copied(Some(made.id)) } else { Became::Left }))
    }
}

/// Gives `there`, which is `now`, is no regular file and open as a place only, what `basics` say.
pub fn preserve(there: &File, now: &Metadata, basics: &Basics, lost: &mut Vec<String>) {
    let (uid, gid) = (basics.uid, basics.gid);
    let mut owner_kept = (now.uid(), now.gid()) == (uid, gid);
    if !owner_kept {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        match fchownat(there, c"", owner.0, owner.1, AtFlags::AT_EMPTY_PATH) {
            Ok(()) => owner_kept = true,
            Err(Errno::EPERM) => {} // only root may give files away; everyone knows
            Err(errno) => lost.push(error::lost("its owner", errno)),
        }
    }
    let path = by_descriptor(there);
    if !now.is_symlink() {
        let mut mode = basics.mode & 0o7777;
        if !owner_kept {
            mode &= 0o1777;
        }
        let permissions = std::fs::Permissions::from_mode(mode);
        // Always: an ACL has changed it.
        if let Err(error) = std::fs::set_permissions(&path, permissions) {
            lost.push(error::lost(format_args!("its mode {mode:04o}"), error));
        }
    }
    // The way through the descriptor ends at what is open, be it a link.
    let follow = UtimensatFlags::FollowSymlink;
    let (accessed, modified) = (&basics.accessed, &basics.modified);
    if let Err(errno) = utimensat(AT_FDCWD, path.as_str(), accessed, modified, follow) {
        lost.push(error::lost("its times", errno));
    }
}

/// The ACL that says who may use a file.
const ACL: &str = "system.posix_acl_access";

/// The extended attributes of what is no regular file and open as a place only: its ACL, and those in root's own
/// namespace, which are all that these can have.
pub fn xattrs(place: &File) -> Vec<(OsString, Vec<u8>)> {
    // The way through the descriptor ends at what is open, be it a link; so below.
    let path = by_descriptor(place);
    let Ok(names) = xattr::list_deref(&path) else { return Vec::new() };
    let own = names.filter(|name| may_have(name.as_bytes()));
    own.filter_map(|name| xattr::get_deref(&path, &name).ok()?.map(|value| (name, value))).collect()
}

/// Whether what is no regular file can have an extended attribute of that name.
pub fn may_have(name: &[u8]) -> bool {
    name == ACL.as_bytes() || name.starts_with(b"trusted.")
}

/// Gives them to what was made, and is `now`, as far as it can have them; what it has inherited goes.
pub fn give_xattrs(
    there: &File,
    now: &Metadata,
    xattrs: Vec<(OsString, Vec<u8>)>,
    lost: &mut Vec<String>,
) {
    let path = by_descriptor(there);
    if !now.is_symlink() && !xattrs.iter().any(|(name, _)| name == ACL) {
        match xattr::remove_deref(&path, ACL) {
            Err(error)
                if !matches!(error.raw_os_error(), Some(libc::ENODATA | libc::EOPNOTSUPP)) =>
            {
                lost.push(error::lost("no ACL", error));
            }
            _ => {}
        }
    }
    for (name, value) in xattrs {
        // Only root has those of the namespace that is its own.
        let is_roots = name.as_bytes().starts_with(b"trusted.");
        if is_roots && !Uid::effective().is_root() {
            continue;
        }
        if let Err(error) = xattr::set_deref(&path, &name, &value) {
            lost.push(error::lost(name.display(), error));
        }
    }
}
