//! What a copy has besides its data: mode, ownership, times, ACLs and extended attributes.
//!
//! Three cases, as with `cp`:
//! - a new file has the source's permissions less the umask, and is the caller's;
//! - a file that replaces an old one is what the old one was: its mode, owner and attributes;
//! - with `-p` either is what the source is.
//!
//! The copy is created with the owner's right to read and write, whatever its mode will be, since
//! engines open it again; [`finish_new`] takes back what was added.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::futimens;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};
use xattr::FileExt;

use super::error::{self, said};

/// The owner's right to read and write.
pub const OWNER: u32 = 0o600;

/// Where POSIX access control lists are kept.
const ACL: &str = "system.posix_acl_access";

/// Where a directory keeps the list that what is made in it inherits.
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// The permissions that a new copy of `source` is created with, [`OWNER`] aside; the kernel takes
/// away the umask, or applies the directory's default ACL.
pub fn new_mode(source: Option<&Metadata>) -> u32 {
    source.map_or(0o666, |metadata| metadata.mode() & 0o777)
}

/// Gives a new file that was created with `mode | OWNER` the mode it should have had.
///
/// # Errors
/// What changing the mode fails with.
pub fn finish_new(file: &File, mode: u32) -> io::Result<()> {
    let added = OWNER & !mode;
    if added == 0 {
        return Ok(());
    }
    let now = file.metadata()?.mode() & 0o7777;
    file.set_permissions(Permissions::from_mode(now & !added))
}

/// Gives a new file that was created for the caller alone the mode of any new file.
///
/// # Errors
/// What changing the mode fails with.
pub fn open_up(file: &File, mode: u32) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(mode & !umask()))
}

/// The permissions that new files do not get, as /proc tells: asking the system changes it for all
/// threads. 022 where it does not tell.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    mask.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// Makes `file` what `old` at `path` was, but for its data and times. Returns what was lost.
pub fn take_over(file: &File, path: &Path, old: &Metadata) -> Vec<String> {
    let mut lost = Vec::new();
    let owner_kept = give_to(file, old.uid(), old.gid(), &mut lost, Strictness::Complain);
    let names = xattr::list(path).map(Iterator::collect).unwrap_or_default();
    // Writing takes a file's capabilities away, so a file that replaces it has none either.
    let names = names_to_copy(names, |name| name != OsStr::new("security.capability"));
    copy_xattrs(file, &names, |name| xattr::get(path, name), &mut lost);
    let mode = old.mode() & if owner_kept && Uid::effective().is_root() { 0o7777 } else { 0o777 };
    set_mode(file, mode, &mut lost);
    lost
}

/// Mode, owner and times.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Basics {
    /// Permissions, as `chmod(2)` takes them.
    pub mode: u32,
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// When it was read.
    pub accessed: TimeSpec,
    /// When it was written.
    pub modified: TimeSpec,
}

impl Basics {
    /// Of what `metadata` is about.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            accessed: TimeSpec::new(metadata.atime(), metadata.atime_nsec()),
            modified: TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The extended attributes of `file` that `-p` carries over: labels and what only the system's own
/// tools may set are not asked for.
pub fn names_to_preserve(file: &File) -> Vec<OsString> {
    names_to_copy(file.list_xattr().map(Iterator::collect).unwrap_or_default(), |_| true)
}

/// Makes `file` what `source` is: `-p`. Returns what was lost.
pub fn preserve(file: &File, source: &File, metadata: &Metadata) -> Vec<String> {
    let names = names_to_preserve(source);
    preserve_as(file, &Basics::of(metadata), names, |name| source.get_xattr(name))
}

/// Gives `file` what `basics` say, and the extended attributes `names` as far as `-p` carries them over.
/// Returns what was lost.
pub fn preserve_as(
    file: &File,
    basics: &Basics,
    names: Vec<OsString>,
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
) -> Vec<String> {
    let mut lost = Vec::new();
    let owner_kept = give_to(file, basics.uid, basics.gid, &mut lost, Strictness::Forgive);
    copy_xattrs(file, &names_to_copy(names, |_| true), get, &mut lost);
    let mut mode = basics.mode & 0o7777;
    if !owner_kept {
        mode &= 0o1777; // set-user-ID for somebody else would be a present
    }
    set_mode(file, mode, &mut lost);
    if let Err(error) = futimens(file, &basics.accessed, &basics.modified) {
        lost.push(error::lost("its times", error));
    }
    lost
}

/// When what `metadata` is about was last read and written.
pub fn times(metadata: &Metadata) -> (TimeSpec, TimeSpec) {
    (
        TimeSpec::new(metadata.atime(), metadata.atime_nsec()),
        TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()),
    )
}

/// What to do about an owner that cannot be set.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strictness {
    /// It is a loss.
    Complain,
    /// Only root may give files away; everyone knows.
    Forgive,
}

/// Gives `file` this owner and group; says whether it has both now.
fn give_to(file: &File, uid: u32, gid: u32, lost: &mut Vec<String>, how: Strictness) -> bool {
    let now = match file.metadata() {
        Ok(now) => now,
        Err(error) => {
            lost.push(error::lost("its owner", error));
            return false;
        }
    };
    if (now.uid(), now.gid()) == (uid, gid) {
        return true;
    }
    match fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))) {
        Ok(()) => true,
        Err(error) => {
            // The group alone may be allowed.
            let group = fchown(file, None, Some(Gid::from_raw(gid))).is_ok();
            let mine = group && now.uid() == uid;
            if !mine && (how == Strictness::Complain || error != Errno::EPERM) {
                lost.push(format!(
                    "its owner {uid}:{gid} ({}; --in-place keeps it)",
                    said(&error.into())
                ));
            }
            mine
        }
    }
}

fn set_mode(file: &File, mode: u32, lost: &mut Vec<String>) {
    if let Err(error) = file.set_permissions(Permissions::from_mode(mode)) {
        lost.push(error::lost(format_args!("its mode {mode:04o}"), error));
    }
}

/// The attributes that a copy can have: those of users, ACLs, and as root capabilities.
fn names_to_copy(names: Vec<OsString>, wanted: impl Fn(&OsStr) -> bool) -> Vec<OsString> {
    let root = Uid::effective().is_root();
    let copied = |name: &OsString| {
        let text = name.to_string_lossy();
        text.starts_with("user.")
            || is_acl(name)
            || (root && (text.starts_with("trusted.") || text == "security.capability"))
    };
    names.into_iter().filter(|name| copied(name) && wanted(name)).collect()
}

fn is_acl(name: &OsStr) -> bool {
    name == ACL || name == DEFAULT_ACL
}

/// Gives `file` an attribute, if it does not have it already. Its owner may lack the right to write it, as in what an
/// earlier copy made read-only; it is given for the moment, since whoever sets attributes sets the mode after them.
fn set_xattr(file: &File, name: &OsStr, value: &[u8]) -> io::Result<()> {
    if matches!(file.get_xattr(name), Ok(Some(there)) if there == value) {
        return Ok(());
    }
    let refused = match file.set_xattr(name, value) {
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => error,
        result => return result,
    };
    let mode = file.metadata()?.mode() & 0o7777;
    if mode & 0o200 != 0 || file.set_permissions(Permissions::from_mode(mode | 0o200)).is_err() {
        return Err(refused);
    }
    file.set_xattr(name, value)
}

/// Sets the attributes `names` on `file`, and removes an ACL that it inherited from its directory
/// if there is none among them. The mode is to be set afterwards.
fn copy_xattrs(
    file: &File,
    names: &[OsString],
    get: impl Fn(&OsStr) -> io::Result<Option<Vec<u8>>>,
    lost: &mut Vec<String>,
) {
    // An ACL goes last: it may take away the right to write, which users' attributes need.
    let (acls, others): (Vec<_>, Vec<_>) = names.iter().partition(|name| is_acl(name));
    for name in others.into_iter().chain(acls) {
        let copied = match get(name) {
            Ok(Some(value)) => set_xattr(file, name, &value),
            Ok(None) => Ok(()), // it was removed since it was listed
            Err(error) => Err(error),
        };
        if let Err(error) = copied {
            let what = if name == ACL { "its ACL".into() } else { name.to_string_lossy() };
            lost.push(error::lost(what, error));
        }
    }
    for acl in [ACL, DEFAULT_ACL] {
        // Only directories have the second, and most files inherit neither.
        if !names.iter().any(|name| name == acl)
            && matches!(file.get_xattr(acl), Ok(Some(_)))
            && let Err(error) = file.remove_xattr(acl)
        {
            lost.push(error::lost("to be without its directory's ACL", error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, SystemTime};

    fn mode(file: &File) -> u32 {
        file.metadata().unwrap().mode() & 0o7777
    }

    #[test]
    fn a_new_file_loses_the_rights_it_needed_while_it_grew() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("a")).unwrap();
        file.set_permissions(Permissions::from_mode(0o644)).unwrap();
        finish_new(&file, 0o444).unwrap();
        assert_eq!(mode(&file), 0o444);
        file.set_permissions(Permissions::from_mode(0o640)).unwrap();
        finish_new(&file, 0o664).unwrap();
        assert_eq!(mode(&file), 0o640, "the umask is not given back");
    }

    #[test]
    fn preserving_is_exact_to_the_nanosecond() {
        let dir = tempfile::tempdir().unwrap();
        let source = File::create_new(dir.path().join("a")).unwrap();
        let target = File::create_new(dir.path().join("b")).unwrap();
        let then = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
        source.set_modified(then).unwrap();
        source.set_permissions(Permissions::from_mode(0o2750)).unwrap();
        let tagged = source.set_xattr("user.colour", b"green");
        let lost = preserve(&target, &source, &source.metadata().unwrap());
        assert_eq!(lost, [] as [String; 0]);
        assert_eq!(target.metadata().unwrap().modified().unwrap(), then);
        assert_eq!(mode(&target), 0o2750);
        match tagged {
            Ok(()) => assert_eq!(target.get_xattr("user.colour").unwrap().unwrap(), b"green"),
            Err(error) => eprintln!("not tested: user attributes in {:?}: {error}", dir.path()),
        }
    }

    #[test]
    fn a_replacement_takes_over_mode_and_attributes_but_no_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("old");
        let old = File::create_new(&path).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        old.set_permissions(Permissions::from_mode(0o604)).unwrap();
        let file = File::create_new(dir.path().join("new")).unwrap();
        assert!(take_over(&file, &path, &old.metadata().unwrap()).is_empty());
        assert_eq!(mode(&file), 0o604);
        assert_ne!(file.metadata().unwrap().modified().unwrap(), SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn labels_of_the_system_are_not_copied() {
        let names = ["user.a", "security.selinux", ACL, "system.nfs4_acl"].map(OsString::from);
        assert_eq!(names_to_copy(names.into(), |_| true), ["user.a", ACL]);
    }
}
