//! Where paths of the other machine lead: anywhere for those who may log in, and not out of one
//! directory for those who have the key of a server.

use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, mkdirat};

use crate::copy::tree::operands::{split, without_slash};

/// See the module.
#[derive(Debug)]
pub enum Root {
    /// Paths are this process's own.
    Free,
    /// Paths, absolute ones too, begin at this directory, of this path, and stay in it: `..` and
    /// symbolic links that lead out of it are errors (`EXDEV`).
    Beneath(File, PathBuf),
}

impl Root {
    /// The directory `path`, which must be there.
    ///
    /// # Errors
    /// What `open_directory` of [`tree`](crate::copy::tree) says.
    pub fn beneath(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if !file.metadata()?.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok(Self::Beneath(file, path.to_owned()))
    }

    /// Makes the directory `path`, in one that is there. What is there already is left.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        let made = match self {
            _ if path.as_os_str().is_empty() => return Ok(()), // where paths begin
            Self::Free => std::fs::create_dir(path),
            Self::Beneath(..) => {
                let (above, name) = split(&without_slash(path));
                let above = self.directory(&above)?;
                mkdirat(above, name.as_c_str(), Mode::from_bits_truncate(0o777))
                    .map_err(io::Error::from)
            }
        };
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        }
    }

    /// Opens the directory `path` below `top`, which is open as `name` in `at` otherwise; links are followed, and do not
    /// lead out of `top` where there is a root.
    ///
    /// # Errors
    /// What opening says.
    pub fn directory_below(
        &self,
        top: impl AsFd,
        path: &Path,
        (at, name): (impl AsFd, &CStr),
    ) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match self {
            Self::Free => openat(at, name, flags, Mode::empty()),
            Self::Beneath(..) => beneath(top, path, flags),
        }
    }

    /// Looks at what is at `path` below `top`; links on the way there, and it, are followed only if `follow`.
    ///
    /// # Errors
    /// What opening says; `ELOOP` where a link is on the way.
    pub fn look_below(&self, top: impl AsFd, path: &Path, follow: bool) -> nix::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        match (self, follow) {
            (Self::Free, true) => openat(top, path, flags, Mode::empty()),
            (Self::Beneath(..), true) => beneath(top, path, flags),
            (_, false) => {
                let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW);
                resolve(top, path, how, ResolveFlag::RESOLVE_NO_SYMLINKS)
            }
        }
    }

    /// Opens the directory `path`; links on the way are followed, as far as they may lead.
    ///
    /// # Errors
    /// What opening says.
    pub fn directory(&self, path: &Path) -> io::Result<File> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match self {
            Self::Free => OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path),
            Self::Beneath(root, _) => Ok(beneath(root, relative(path), flags)?.into()),
        }
    }

    /// Whether `path` leads to a directory.
    pub fn is_directory(&self, path: &Path) -> bool {
        match self {
            Self::Free => path.as_os_str().is_empty() || path.is_dir(),
            Self::Beneath(root, _) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                beneath(root, relative(path), flags).is_ok()
            }
        }
    }

    /// Opens `name` in a directory; a link is followed only if `follow`, and not out of the root.
    ///
    /// # Errors
    /// What opening says.
    pub fn open(
        &self,
        at: impl AsFd,
        name: &CStr,
        flags: OFlag,
        follow: bool,
    ) -> nix::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC;
        match self {
            Self::Beneath(..) if follow => beneath(at, Path::new(os(name)), flags),
            _ if follow => openat(at, name, flags, Mode::empty()),
            _ => openat(at, name, flags | OFlag::O_NOFOLLOW, Mode::empty()),
        }
    }

    /// What `path` leads to, where links may be followed.
    pub fn resolved(&self, path: &Path) -> PathBuf {
        match self {
            Self::Free => path.canonicalize().unwrap_or_else(|_| path.to_owned()),
            Self::Beneath(..) => path.to_owned(),
        }
    }

    /// Whether `path` leads to a block device that may be written.
    pub fn is_device(&self, path: &Path) -> bool {
        let is = |found: std::fs::Metadata| found.file_type().is_block_device();
        self.has_devices() && path.metadata().is_ok_and(is)
    }

    /// Whether devices may be made and read: through one, whoever has it gets out.
    pub fn has_devices(&self) -> bool {
        matches!(self, Self::Free)
    }

    /// A path for messages.
    pub fn shown(&self, path: &Path) -> PathBuf {
        match self {
            Self::Free => path.to_owned(),
            Self::Beneath(_, root) => root.join(relative(path)),
        }
    }
}

fn os(name: &CStr) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(name.to_bytes())
}

/// `path` without the slashes at its start.
fn relative(path: &Path) -> &Path {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().position(|&byte| byte != b'/').unwrap_or(bytes.len());
    match &bytes[start..] {
        b"" => Path::new("."),
        rest => Path::new(std::ffi::OsStr::from_bytes(rest)),
    }
}

fn beneath(at: impl AsFd, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
    resolve(at, path, OpenHow::new().flags(flags), ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// Opens what is at `path` in `at`, and not out of it.
fn resolve(at: impl AsFd, path: &Path, how: OpenHow, more: ResolveFlag) -> nix::Result<OwnedFd> {
    let how = how.resolve(ResolveFlag::RESOLVE_BENEATH | more);
    loop {
        match openat2(&at, path, how) {
            Err(Errno::EAGAIN) => {} // something was renamed meanwhile
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out_of_a_root() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("root");
        std::fs::create_dir_all(inner.join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        for (link, text) in [("up", "../outside"), ("absolute", "/tmp"), ("good", "a/b")] {
            std::os::unix::fs::symlink(text, inner.join(link)).unwrap();
        }
        let root = Root::beneath(&inner).unwrap();
        for path in ["", "/", ".", "a", "/a/b", "a/../a", "good", "//a//b/"] {
            assert!(root.directory(Path::new(path)).is_ok(), "{path}");
            assert!(root.is_directory(Path::new(path)), "{path}");
        }
        for path in ["..", "/..", "a/../..", "up", "absolute", "../root/a"] {
            let error = root.directory(Path::new(path)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EXDEV), "{path}");
            assert!(!root.is_directory(Path::new(path)), "{path}");
        }
        let top = root.directory(Path::new("")).unwrap();
        let open = |name, follow| root.open(&top, name, OFlag::O_RDONLY, follow).map(drop);
        assert_eq!(open(c"up", true), Err(Errno::EXDEV));
        assert_eq!(open(c"good", true), Ok(()));
        assert_eq!(open(c"good", false), Err(Errno::ELOOP));
    }
}
