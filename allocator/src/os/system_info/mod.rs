//! What the machine is and allows, read from it.
//!
//! [`SystemInfo::read`] reads `/proc` and `/sys` through [`Os`], so that a fake can show any
//! machine, and keeps what it finds in lists of fixed capacity: nothing comes from the heap. It is
//! a snapshot; pools and limits change while it is looked at.
//!
//! A file that a kernel may lack is no error: no transparent huge pages, no hugetlb, no NUMA and
//! no cgroup are answers. A file that cannot be read or understood is one, and names the file and
//! the value.
#![expect(
    clippy::result_large_err,
    reason = "errors carry the file's path without the heap, and occur once at start"
)]

use core::fmt;

use super::{Errno, Os};
use crate::units::{BLOCK_BYTES, Bytes, PageSize};

mod cgroup;
mod hugetlb;
mod process;
mod text;
mod transparent;

#[cfg(test)]
mod tests;

pub use cgroup::{CgroupVersion, HugetlbLimit};
pub use hugetlb::{HugePoolInfo, NodeInfo, NodePool};
pub use process::{Capabilities, Capability};
pub use text::{List, PathText, ValueText};
pub use transparent::{Defrag, Enabled, ShmemEnabled, TransparentInfo};

use text::Reader;

/// Nodes with memory that are told apart.
pub const NODES_MAX: usize = 64;
/// hugetlb page sizes that are told apart; no architecture has more than 6.
pub const PAGE_SIZES_MAX: usize = 8;

/// The machine, and what this process may take of it.
#[derive(Clone, Debug)]
pub struct SystemInfo {
    /// Size of a base page.
    pub base_page: PageSize,
    /// Processors that this process may run on.
    pub processors: usize,
    /// Transparent huge pages; `None` where the kernel has none.
    pub transparent: Option<TransparentInfo>,
    /// The nodes with memory.
    pub nodes: List<NodeInfo, NODES_MAX>,
    /// The hugetlb pools, largest pages first.
    pub pools: List<HugePoolInfo, PAGE_SIZES_MAX>,
    /// What this process may do.
    pub capabilities: Capabilities,
    /// How much memory it may lock (RLIMIT_MEMLOCK); `None` where there is no limit. Of no concern
    /// to who has [`Capability::IpcLock`].
    pub memlock: Option<Bytes>,
    /// Which kind of cgroup limits hugetlb pages; `None` where none does.
    pub cgroup: Option<CgroupVersion>,
    /// What the cgroup allows, a limit for each of [`SystemInfo::pools`].
    pub limits: List<HugetlbLimit, PAGE_SIZES_MAX>,
}

impl SystemInfo {
    /// Reads it.
    ///
    /// # Errors
    /// A file that cannot be read or understood; more nodes or page sizes than are told apart.
    pub fn read<O: Os>(os: &O) -> Result<Self, InfoError> {
        let mut reader = Reader::new(os)?;
        let nodes = hugetlb::nodes(&mut reader)?;
        let pools = hugetlb::pools(&mut reader, &nodes)?;
        let group = cgroup::find(&mut reader)?;
        let mut limits = List::new();
        for pool in pools.iter() {
            let limit = match &group {
                Some(group) => group.limit(&mut reader, pool.page)?,
                None => HugetlbLimit::NONE,
            };
            limits.push("hugetlb page sizes", limit)?;
        }
        Ok(Self {
            base_page: os.base_page_size(),
            processors: os.processors(),
            transparent: transparent::read(&mut reader)?,
            nodes,
            pools,
            capabilities: process::capabilities(&mut reader)?,
            memlock: process::memlock(&mut reader)?,
            cgroup: group.map(|group| group.version()),
            limits,
        })
    }

    /// The pool of a page size; `None` where this kernel does not know the size.
    pub fn pool(&self, page: PageSize) -> Option<&HugePoolInfo> {
        self.pools.iter().find(|pool| pool.page == page)
    }

    /// What the cgroup allows of a page size.
    pub fn limit(&self, page: PageSize) -> HugetlbLimit {
        let place = self.pools.iter().position(|pool| pool.page == page);
        place.map_or(HugetlbLimit::NONE, |place| self.limits[place])
    }

    /// How many hugetlb pages of a size this process can still take: those that are free and not
    /// promised to others, as far as the cgroup has room. What the kernel might make beyond the
    /// pool (overcommit) is not counted, and others may be faster.
    pub fn available(&self, page: PageSize) -> u64 {
        let free = self.pool(page).map_or(0, HugePoolInfo::unreserved);
        let room = self.limit(page).room.map(|room| room.get() >> page.shift());
        room.map_or(free, |room| free.min(room))
    }

    /// Checks that a block is this machine's huge page at the PMD level.
    ///
    /// # Errors
    /// [`InfoError::BlockSize`] where it is not. That the kernel has no transparent huge pages is
    /// no error.
    pub fn check_block_size(&self) -> Result<(), InfoError> {
        match self.transparent.map(|info| info.page) {
            Some(machine) if machine.bytes() != Bytes::of_len(BLOCK_BYTES) => {
                Err(InfoError::BlockSize { machine })
            }
            _ => Ok(()),
        }
    }
}

/// Why the machine could not be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InfoError {
    /// A file could not be read.
    Read {
        /// The file.
        path: PathText,
        /// Why.
        cause: Errno,
    },
    /// A file holds something else than expected.
    Parse {
        /// The file.
        path: PathText,
        /// What it holds.
        value: ValueText,
        /// What was expected.
        expected: &'static str,
    },
    /// A file lacks a line.
    Missing {
        /// The file.
        path: PathText,
        /// How the line begins.
        key: &'static str,
    },
    /// The machine has more of something than is told apart.
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many are told apart.
        most: usize,
    },
    /// No memory to read files into.
    Buffer {
        /// Why.
        cause: Errno,
    },
    /// The machine's huge page at the PMD level is not the block that this was built for.
    BlockSize {
        /// The machine's.
        machine: PageSize,
    },
}

impl fmt::Display for InfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read { path, cause } => write!(f, "{path}: cannot be read: {cause}"),
            Self::Parse { path, value, expected } => {
                write!(f, "{path}: holds \"{value}\" where {expected} was expected")
            }
            Self::Missing { path, key } => write!(f, "{path}: has no line \"{key}\""),
            Self::TooMany { what, most } => {
                write!(f, "this machine has more {what} than the {most} that Bookend tells apart")
            }
            Self::Buffer { cause } => {
                write!(f, "no memory to read files of /proc and /sys into: {cause}")
            }
            Self::BlockSize { machine } => write!(
                f,
                "this machine's huge page at the PMD level is {machine}, and Bookend was built for \
                 {}: use a kernel with base pages of 4 KiB",
                Bytes::of_len(BLOCK_BYTES)
            ),
        }
    }
}

impl std::error::Error for InfoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read { cause, .. } | Self::Buffer { cause } => Some(cause),
            _ => None,
        }
    }
}
