//! The machine's pools of hugetlb pages, as sysfs shows them.
//!
//! Documentation/admin-guide/mm/hugetlbpage.rst says what the files mean. Two habits of the kernel
//! shape this module: a write of more pages than can be found succeeds and gets fewer, so every
//! write is read back; and `nr_hugepages` counts surplus pages, which are nobody's to set, so they
//! are taken off.

use std::path::{Path, PathBuf};
use std::{fs, io};

use bookend::units::{Bytes, Node, PageSize};

/// Why a pool cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolsError {
    /// The kernel has no pool of that size, or lacks the feature.
    #[error("{}: no such pool or feature in this kernel", path.display())]
    Absent {
        /// The file that is missing.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{}: cannot read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file cannot be written; as a rule only root may.
    #[error("{}: cannot write \"{value}\"", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was to be written.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: \"{text}\" is not what was expected there", path.display())]
    Strange {
        /// The file.
        path: PathBuf,
        /// What it holds.
        text: String,
    },
}

/// Which part of a pool: the whole machine's or one node's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The sum of all nodes; the kernel spreads what is written evenly.
    Machine,
    /// One NUMA node's.
    Node(Node),
}

/// The pools of all sizes.
#[derive(Clone, Debug)]
pub struct HugePools {
    sys: PathBuf,
}

impl Default for HugePools {
    fn default() -> Self {
        Self::of_machine()
    }
}

impl HugePools {
    /// Those of this machine.
    pub fn of_machine() -> Self {
        Self::at("/sys")
    }

    /// Those below another root than `/sys`, for tests.
    pub fn at(sys: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into() }
    }

    /// The page sizes that have a pool, largest first.
    ///
    /// # Errors
    /// [`PoolsError`] of the directory; a kernel without hugetlb is [`PoolsError::Absent`].
    pub fn sizes(&self) -> Result<Vec<PageSize>, PoolsError> {
        let directory = self.sys.join("kernel/mm/hugepages");
        let names = numbered(&directory, "hugepages-", "kB")?;
        let mut sizes: Vec<_> =
            names.into_iter().filter_map(|kib| PageSize::from_bytes(Bytes::kib(kib))).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        Ok(sizes)
    }

    /// The machine's NUMA nodes; none where the kernel knows of none.
    ///
    /// # Errors
    /// [`PoolsError::Read`] where the directory exists and cannot be read.
    pub fn nodes(&self) -> Result<Vec<Node>, PoolsError> {
        match numbered(&self.sys.join("devices/system/node"), "node", "") {
            Ok(mut numbers) => {
                numbers.sort_unstable();
                Ok(numbers.into_iter().filter_map(|n| n.try_into().ok().map(Node::new)).collect())
            }
            Err(PoolsError::Absent { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Persistent pages of a pool, in use or not: `nr_hugepages` less the surplus.
    ///
    /// # Errors
    /// [`PoolsError`] of the files.
    pub fn persistent(&self, page: PageSize, place: Place) -> Result<u64, PoolsError> {
        let all = number(&self.file(page, place, "nr_hugepages"))?;
        Ok(all.saturating_sub(number(&self.file(page, place, "surplus_hugepages"))?))
    }

    /// Pages that nobody uses and nobody has been promised, machine-wide.
    ///
    /// # Errors
    /// [`PoolsError`] of the files.
    pub fn available(&self, page: PageSize) -> Result<u64, PoolsError> {
        let free = number(&self.file(page, Place::Machine, "free_hugepages"))?;
        Ok(free.saturating_sub(number(&self.file(page, Place::Machine, "resv_hugepages"))?))
    }

    /// Asks for a pool of `pages` persistent pages; says how many there are afterwards, which may
    /// be fewer (memory is broken up) or more (pages are in use).
    ///
    /// # Errors
    /// [`PoolsError`] of the files.
    pub fn resize(&self, page: PageSize, place: Place, pages: u64) -> Result<u64, PoolsError> {
        put(&self.file(page, place, "nr_hugepages"), &pages.to_string())?;
        self.persistent(page, place)
    }

    /// The size into which [`HugePools::demote`] splits pages.
    ///
    /// # Errors
    /// [`PoolsError::Absent`] on kernels before 5.16 and for sizes that cannot be split.
    pub fn demote_size(&self, page: PageSize) -> Result<PageSize, PoolsError> {
        let path = self.file(page, Place::Machine, "demote_size");
        let text = get(&path)?;
        text.strip_suffix("kB")
            .and_then(|kib| kib.parse().ok())
            .and_then(|kib| PageSize::from_bytes(Bytes::kib(kib)))
            .ok_or(PoolsError::Strange { path, text })
    }

    /// Sets the size into which [`HugePools::demote`] splits pages.
    ///
    /// # Errors
    /// As [`HugePools::demote_size`].
    pub fn set_demote_size(&self, page: PageSize, into: PageSize) -> Result<(), PoolsError> {
        let path = self.file(page, Place::Machine, "demote_size");
        get(&path)?; // absence is told apart from a refusal
        put(&path, &format!("{}kB", into.bytes().get() >> 10))
    }

    /// Splits `pages` free pages into pages of [`HugePools::demote_size`]: they leave this pool and
    /// enter the other, each in one physical run.
    ///
    /// # Errors
    /// [`PoolsError`] of the file.
    pub fn demote(&self, page: PageSize, pages: u64) -> Result<(), PoolsError> {
        put(&self.file(page, Place::Machine, "demote"), &pages.to_string())
    }

    /// The file `name` of a pool, for messages too.
    pub fn file(&self, page: PageSize, place: Place, name: &str) -> PathBuf {
        let pool = format!("hugepages-{}kB", page.bytes().get() >> 10);
        let root = match place {
            Place::Machine => self.sys.join("kernel/mm/hugepages"),
            Place::Node(node) => self.sys.join(format!("devices/system/node/node{node}/hugepages")),
        };
        root.join(pool).join(name)
    }
}

/// The numbers N of all entries `{prefix}N{suffix}` of a directory.
fn numbered(directory: &Path, prefix: &str, suffix: &str) -> Result<Vec<u64>, PoolsError> {
    let failed = |source| read_error(directory, source);
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let number = name.to_str().and_then(|n| n.strip_prefix(prefix)?.strip_suffix(suffix));
        numbers.extend(number.and_then(|n| n.parse::<u64>().ok()));
    }
    Ok(numbers)
}

fn read_error(path: &Path, source: io::Error) -> PoolsError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::NotFound => PoolsError::Absent { path },
        _ => PoolsError::Read { path, source },
    }
}

fn get(path: &Path) -> Result<String, PoolsError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(source) => Err(read_error(path, source)),
    }
}

fn number(path: &Path) -> Result<u64, PoolsError> {
    let text = get(path)?;
    text.parse().map_err(|_| PoolsError::Strange { path: path.to_owned(), text })
}

/// Writes without creating: a file that is not there is a feature that is not there.
fn put(path: &Path, value: &str) -> Result<(), PoolsError> {
    let written = fs::OpenOptions::new().write(true).truncate(true).open(path);
    match written.and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes())) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(PoolsError::Absent { path: path.to_owned() })
        }
        Err(source) => {
            Err(PoolsError::Write { path: path.to_owned(), value: value.to_owned(), source })
        }
    }
}
