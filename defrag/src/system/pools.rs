//! The machine's pools of hugetlb pages, as sysfs shows them.
//!
//! Documentation/admin-guide/mm/hugetlbpage.rst says what the files mean. Two habits of the kernel
//! shape this module: a write of more pages than can be found succeeds and gets fewer, so every
//! write is read back; and `nr_hugepages` counts surplus pages, which are nobody's to set, so they
//! are taken off.

use std::path::PathBuf;

use bookend::units::{Bytes, Node, PageSize};

use super::files::{FileError, Files, get, number, numbered, put};

/// Which part of a pool: the whole machine's or one node's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// The sum of all nodes; the kernel spreads what is written evenly.
    Machine,
    /// One NUMA node's.
    Node(Node),
}

/// What a pool has, in pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Pages, in use or not, the surplus included.
    pub total: u64,
    /// Pages that nobody uses.
    pub free: u64,
    /// Pages beyond what the pool was set to.
    pub surplus: u64,
    /// Free pages that are promised to mappings; only the machine tells.
    pub reserved: Option<u64>,
    /// How many surplus pages may be made; only the machine tells.
    pub overcommit: Option<u64>,
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

    /// Those of a tree of files.
    pub fn of(files: &Files) -> Self {
        Self::at(files.path("sys"))
    }

    /// Those below another root than `/sys`, for tests.
    pub fn at(sys: impl Into<PathBuf>) -> Self {
        Self { sys: sys.into() }
    }

    /// The page sizes that have a pool, largest first.
    ///
    /// # Errors
    /// [`FileError`] of the directory; a kernel without hugetlb is [`FileError::Absent`].
    pub fn sizes(&self) -> Result<Vec<PageSize>, FileError> {
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
    /// [`FileError::Read`] where the directory exists and cannot be read.
    pub fn nodes(&self) -> Result<Vec<Node>, FileError> {
        match numbered(&self.sys.join("devices/system/node"), "node", "") {
            Ok(numbers) => {
                Ok(numbers.into_iter().filter_map(|n| n.try_into().ok().map(Node::new)).collect())
            }
            Err(FileError::Absent { .. }) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Persistent pages of a pool, in use or not: `nr_hugepages` less the surplus.
    ///
    /// # Errors
    /// [`FileError`] of the files.
    pub fn persistent(&self, page: PageSize, place: Place) -> Result<u64, FileError> {
        let all = number(&self.file(page, place, "nr_hugepages"))?;
        Ok(all.saturating_sub(number(&self.file(page, place, "surplus_hugepages"))?))
    }

    /// All counts of a pool.
    ///
    /// # Errors
    /// [`FileError`] of the files.
    pub fn counts(&self, page: PageSize, place: Place) -> Result<Counts, FileError> {
        let of = |name| number(&self.file(page, place, name));
        let machine = |name| match of(name) {
            Err(FileError::Absent { .. }) => Ok(None),
            other => other.map(Some),
        };
        Ok(Counts {
            total: of("nr_hugepages")?,
            free: of("free_hugepages")?,
            surplus: of("surplus_hugepages")?,
            reserved: machine("resv_hugepages")?,
            overcommit: machine("nr_overcommit_hugepages")?,
        })
    }

    /// Pages that nobody uses and nobody has been promised, machine-wide.
    ///
    /// # Errors
    /// [`FileError`] of the files.
    pub fn available(&self, page: PageSize) -> Result<u64, FileError> {
        let free = number(&self.file(page, Place::Machine, "free_hugepages"))?;
        Ok(free.saturating_sub(number(&self.file(page, Place::Machine, "resv_hugepages"))?))
    }

    /// Asks for a pool of `pages` persistent pages; says how many there are afterwards, which may
    /// be fewer (memory is broken up) or more (pages are in use).
    ///
    /// # Errors
    /// [`FileError`] of the files.
    pub fn resize(&self, page: PageSize, place: Place, pages: u64) -> Result<u64, FileError> {
        put(&self.file(page, place, "nr_hugepages"), &pages.to_string())?;
        self.persistent(page, place)
    }

    /// The size into which [`HugePools::demote`] splits pages.
    ///
    /// # Errors
    /// [`FileError::Absent`] on kernels before 5.16 and for sizes that cannot be split.
    pub fn demote_size(&self, page: PageSize) -> Result<PageSize, FileError> {
        let path = self.file(page, Place::Machine, "demote_size");
        let text = get(&path)?;
        text.strip_suffix("kB")
            .and_then(|kib| kib.parse().ok())
            .and_then(|kib| PageSize::from_bytes(Bytes::kib(kib)))
            .ok_or(FileError::Strange { path, text })
    }

    /// Sets the size into which [`HugePools::demote`] splits pages.
    ///
    /// # Errors
    /// As [`HugePools::demote_size`].
    pub fn set_demote_size(&self, page: PageSize, into: PageSize) -> Result<(), FileError> {
        let path = self.file(page, Place::Machine, "demote_size");
        get(&path)?; // absence is told apart from a refusal
        put(&path, &format!("{}kB", into.bytes().get() >> 10))
    }

    /// Splits `pages` free pages into pages of [`HugePools::demote_size`]: they leave this pool and
    /// enter the other, each in one physical run.
    ///
    /// # Errors
    /// [`FileError`] of the file.
    pub fn demote(&self, page: PageSize, pages: u64) -> Result<(), FileError> {
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
