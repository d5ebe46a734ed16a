//! Whose `malloc` it is: the C library's, that of a library which is preloaded, or values that move.
#![allow(unsafe_code)] // asks the dynamic linker where malloc is

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// An allocator, as asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Allocator {
    /// The C library's.
    Libc,
    /// Bookend's, preloaded.
    Bookend,
    /// Bookend's heap of values that can move, with its defragmenter.
    Movable,
    /// A peer, where the dynamic linker finds it.
    Peer(&'static Peer),
    /// A library by its path.
    Library(PathBuf),
}

/// A peer as Debian packages it.
#[derive(PartialEq, Eq, Debug)]
pub struct Peer {
    name: &'static str,
    soname: &'static str,
    package: &'static str,
}

static PEERS: [Peer; 3] = [
    Peer { name: "mimalloc", soname: "libmimalloc.so.2", package: "libmimalloc2.0" },
    Peer { name: "jemalloc", soname: "libjemalloc.so.2", package: "libjemalloc2" },
    Peer { name: "tcmalloc", soname: "libtcmalloc_minimal.so.4", package: "libtcmalloc-minimal4" },
];

/// Where libraries stand that can be named alone.
const DIRECTORIES: [&str; 6] = [
    "/usr/local/lib",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/lib",
];

/// Why an allocator cannot be measured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AllocatorError {
    /// A word that is none of the names and no path.
    #[error(
        "--allocators {0:?}: give glibc, bookend, movable, mimalloc, jemalloc, tcmalloc, or the path of \
         a library with a / in it"
    )]
    Unknown(String),
    /// No such file.
    #[error("--allocators {0:?}: there is no such file")]
    NoFile(PathBuf),
    /// Bookend's library is not beside the program.
    #[error(
        "libbookend.so is neither beside {0:?} nor in ../lib; build it with `cargo build --release -p \
         bookend-preload`, or give its path"
    )]
    NotBuilt(PathBuf),
    /// The peer is not installed.
    #[error("{soname} is not installed (apt-get install {package}), or give its path")]
    NotInstalled {
        /// Its file.
        soname: &'static str,
        /// What brings it.
        package: &'static str,
    },
    /// The dynamic linker passed it over.
    #[error(
        "malloc is not that of {0:?} but of {1:?}: the library cannot be preloaded, or has none"
    )]
    NotUsed(PathBuf, PathBuf),
}

impl FromStr for Allocator {
    type Err = AllocatorError;

    fn from_str(text: &str) -> Result<Self, AllocatorError> {
        if text.contains('/') {
            let path = Path::new(text).canonicalize();
            return path.map(Self::Library).map_err(|_| AllocatorError::NoFile(text.into()));
        }
        if let Some(peer) = PEERS.iter().find(|peer| peer.name == text) {
            return Ok(Self::Peer(peer));
        }
        match text {
            "glibc" => Ok(Self::Libc),
            "bookend" => Ok(Self::Bookend),
            "movable" => Ok(Self::Movable),
            _ => Err(AllocatorError::Unknown(text.to_owned())),
        }
    }
}

/// As in tables: a library by its file's name.
impl fmt::Display for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Libc => f.pad("glibc"),
            Self::Bookend => f.pad("bookend"),
            Self::Movable => f.pad("movable"),
            Self::Peer(peer) => f.pad(peer.name),
            Self::Library(path) => {
                f.pad(&path.file_name().unwrap_or(path.as_os_str()).to_string_lossy())
            }
        }
    }
}

impl Allocator {
    /// What to preload; `None` for nothing.
    ///
    /// # Errors
    /// It is not here.
    pub fn library(&self) -> Result<Option<PathBuf>, AllocatorError> {
        match self {
            Self::Libc | Self::Movable => Ok(None),
            Self::Library(path) => Ok(Some(path.clone())),
            Self::Bookend => ours().map(Some),
            Self::Peer(Peer { soname, package, .. }) => {
                let places = DIRECTORIES.iter().map(|directory| Path::new(directory).join(soname));
                let found = places.into_iter().find_map(|path| path.canonicalize().ok());
                found.map(Some).ok_or(AllocatorError::NotInstalled { soname, package })
            }
        }
    }
}

/// `libbookend.so` as it is built or installed beside this program.
///
/// # Errors
/// [`AllocatorError::NotBuilt`].
pub fn ours() -> Result<PathBuf, AllocatorError> {
    let program = std::env::current_exe().unwrap_or_default();
    let beside = program.parent().unwrap_or(Path::new("."));
    let places = [beside.to_owned(), beside.join("../lib"), beside.join("..")];
    let found = places.iter().find_map(|place| place.join("libbookend.so").canonicalize().ok());
    found.ok_or(AllocatorError::NotBuilt(program))
}

/// In a child: whether `malloc` is that library's. The dynamic linker only remarks on a library that it
/// cannot preload, and goes on without.
///
/// # Errors
/// [`AllocatorError::NotUsed`].
pub fn check_used(library: &Path) -> Result<(), AllocatorError> {
    // SAFETY: (1) dlsym looks a symbol up; (2) dladdr writes the structure where it succeeds, which
    // zeros are a value of; (3) the name is a string that ends and stays, for libraries are not closed.
    let used = unsafe {
        let malloc = libc::dlsym(libc::RTLD_DEFAULT, c"malloc".as_ptr());
        let mut found: libc::Dl_info = std::mem::zeroed();
        let known = libc::dladdr(malloc, &mut found) != 0 && !found.dli_fname.is_null();
        if known { CStr::from_ptr(found.dli_fname).to_bytes() } else { b"" }
    };
    let used = PathBuf::from(OsStr::from_bytes(used));
    if used.canonicalize().is_ok_and(|used| used == library) {
        Ok(())
    } else {
        Err(AllocatorError::NotUsed(library.to_owned(), used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_paths_are_told_apart() {
        assert_eq!("glibc".parse::<Allocator>().unwrap(), Allocator::Libc);
        assert_eq!("jemalloc".parse::<Allocator>().unwrap().to_string(), "jemalloc");
        let library = "/proc/self/exe".parse::<Allocator>().unwrap();
        assert!(matches!(&library, Allocator::Library(path) if path.is_absolute()), "{library}");
        let error = "tmalloc".parse::<Allocator>().unwrap_err().to_string();
        assert!(error.contains("tmalloc") && error.contains("mimalloc"), "{error}");
        let error = "/nowhere/libx.so".parse::<Allocator>().unwrap_err().to_string();
        assert!(error.contains("/nowhere/libx.so"), "{error}");
    }

    #[test]
    fn a_library_that_is_not_used_is_told() {
        let error = check_used(Path::new("/lib/libnot.so")).unwrap_err().to_string();
        // These tests may have another one preloaded.
        let ours = std::env::var("LD_PRELOAD").unwrap_or_else(|_| "libc".to_owned());
        assert!(error.contains("/lib/libnot.so") && error.contains(&ours), "{error}");
    }
}
