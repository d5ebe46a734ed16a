//! Huge pages for a while: a guard that grows the machine's pools and puts them back.
//!
//! [`Reservation::begin`] writes down the size of every pool on every node; dropping the guard (or
//! [`Reservation::restore`], which can also tell of a failure) sets them again. It runs on every way
//! out that unwinds: return, error, panic. Signals are the caller's to turn into one of those;
//! SIGKILL is the one end after which pools stay as they are.
//!
//! The pools are the machine's: whoever else changes them meanwhile is overruled at the end.
//! Memory in reserved pages must be unmapped before the guard ends, or the kernel keeps those
//! pages until it is.

use super::files::FileError;
use super::pools::{HugePools, Place};
use bookend::units::PageSize;

/// How often a write that gains nothing is repeated: memory just freed may still be in per-CPU
/// lists.
const FRUITLESS_TRIES: u32 = 3;
/// How often at most: somebody else may take the pages as fast as they come.
const TRIES: u32 = 40;

/// Why there are not enough pages.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// The kernel found fewer pages than asked for.
    #[error("{available} of {wanted} pages of {page} could be had: memory is in use or broken up")]
    Shortfall {
        /// Their size.
        page: PageSize,
        /// How many were wanted.
        wanted: u64,
        /// How many are free now.
        available: u64,
    },
    /// Pages of one size cannot be split into the other.
    #[error("pages of {page} were split, but {available} of {wanted} pages of {into} are free")]
    Split {
        /// Size of the pages that were split.
        page: PageSize,
        /// Size of what was wanted.
        into: PageSize,
        /// How many were wanted.
        wanted: u64,
        /// How many are free now.
        available: u64,
    },
    /// The caller's wish; see [`Reservation::until`].
    #[error("stopped before the pages were reserved")]
    Stopped,
    /// The pool itself.
    #[error(transparent)]
    Pools(#[from] FileError),
}

/// A pool was not put back.
#[derive(Debug, thiserror::Error)]
#[error(
    "the pool of {page} pages has {now} pages and had {before}; set it with: echo {before} > {file}"
)]
pub struct NotRestored {
    /// Whose pool.
    pub page: PageSize,
    /// How many pages it had, and should have.
    pub before: u64,
    /// How many it has.
    pub now: u64,
    /// The file to write to.
    pub file: String,
}

/// Why the pools are not as they were.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The kernel did not do what was written.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
    /// A file could not be read or written.
    #[error("the huge page pools cannot be put back as they were")]
    Pools(#[from] FileError),
}

/// One number to put back.
#[derive(Clone, Copy, Debug)]
struct Before {
    page: PageSize,
    place: Place,
    persistent: u64,
}

/// The machine's pools as they were, to be put back.
#[derive(Debug)]
#[must_use = "the pools are put back when it is dropped"]
pub struct Reservation {
    pools: HugePools,
    sizes: Vec<Before>,
    /// Pages, and into what they were split before.
    demote_sizes: Vec<(PageSize, PageSize)>,
    restored: bool,
    stop: fn() -> bool,
}

impl Reservation {
    /// Writes down the pools as they are.
    ///
    /// # Errors
    /// [`FileError`] where they cannot be read.
    pub fn begin(pools: HugePools) -> Result<Self, FileError> {
        let nodes = pools.nodes()?;
        let places: Vec<_> = match nodes.as_slice() {
            [] | [_] => vec![Place::Machine],
            several => several.iter().map(|&node| Place::Node(node)).collect(),
        };
        let mut sizes = Vec::new();
        for page in pools.sizes()? {
            for &place in &places {
                match pools.persistent(page, place) {
                    Ok(persistent) => sizes.push(Before { page, place, persistent }),
                    // A node of devices or processors only has no pool.
                    Err(FileError::Absent { .. }) if place != Place::Machine => (),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Self { pools, sizes, demote_sizes: Vec::new(), restored: false, stop: || false })
    }

    /// Gives up reserving once `stop` says so: after a signal, say, which cuts short what the kernel
    /// is at.
    pub fn until(mut self, stop: fn() -> bool) -> Self {
        self.stop = stop;
        self
    }

    /// Sees to it that at least `wanted` pages of a size are free, asking again while that helps.
    /// Where several sizes are wanted, ask for the largest first: smaller ones cut up the memory
    /// that it needs.
    ///
    /// # Errors
    /// [`ReserveError::Shortfall`] where the kernel cannot find them; what was found stays until
    /// the reservation ends.
    pub fn reserve(&mut self, page: PageSize, wanted: u64) -> Result<(), ReserveError> {
        let mut fruitless = 0;
        for _ in 0..TRIES {
            let available = self.pools.available(page)?;
            if available >= wanted {
                return Ok(());
            }
            if (self.stop)() {
                return Err(ReserveError::Stopped);
            }
            if fruitless == FRUITLESS_TRIES {
                break;
            }
            let before = self.pools.persistent(page, Place::Machine)?;
            let after = self.pools.resize(page, Place::Machine, before + wanted - available)?;
            fruitless = if after > before { 0 } else { fruitless + 1 };
        }
        match self.pools.available(page)? {
            available if available >= wanted => Ok(()),
            available => Err(ReserveError::Shortfall { page, wanted, available }),
        }
    }

    /// Sees to it that `wanted` pages of size `into` are free that come from splitting pages of
    /// size `page`, which are reserved for it: runs as long as those, and longer where they are
    /// neighbours. They are the next that the kernel hands out.
    ///
    /// # Errors
    /// [`ReserveError::Shortfall`] of the large pages; [`FileError::Absent`] on kernels before
    /// 5.16; [`ReserveError::Split`] where splitting did not give the pages.
    pub fn reserve_split(
        &mut self,
        page: PageSize,
        into: PageSize,
        wanted: u64,
    ) -> Result<(), ReserveError> {
        let before = self.pools.demote_size(page)?;
        let large = wanted.div_ceil(page.bytes().get() / into.bytes().get());
        // In addition to those that are free: they are somebody's.
        let had = self.pools.available(page)?;
        self.reserve(page, had + large)?;
        if before != into {
            self.demote_sizes.push((page, before));
            self.pools.set_demote_size(page, into)?;
        }
        let had = self.pools.available(into)?;
        self.pools.demote(page, large)?;
        let available = self.pools.available(into)?;
        if available < had + wanted {
            return Err(ReserveError::Split { page, into, wanted, available });
        }
        Ok(())
    }

    /// Puts every pool back and checks that it is.
    ///
    /// # Errors
    /// [`RestoreError`]; the message says how to put it right by hand.
    pub fn restore(mut self) -> Result<(), RestoreError> {
        self.put_back()
    }

    fn put_back(&mut self) -> Result<(), RestoreError> {
        self.restored = true;
        let mut result = Ok(());
        // Shrink before growing, so that memory is there; try all, tell of the first failure.
        let grown = |pools: &HugePools, before: &Before| {
            pools.persistent(before.page, before.place).is_ok_and(|now| now > before.persistent)
        };
        let (shrink, grow): (Vec<_>, Vec<_>) =
            self.sizes.iter().partition(|before| grown(&self.pools, before));
        for before in shrink.into_iter().chain(grow) {
            result = result.and(self.put_back_one(before));
        }
        for &(page, into) in self.demote_sizes.iter().rev() {
            result = result.and(self.pools.set_demote_size(page, into).map_err(Into::into));
        }
        result
    }

    fn put_back_one(&self, before: &Before) -> Result<(), RestoreError> {
        let &Before { page, place, persistent } = before;
        let mut now = self.pools.persistent(page, place)?;
        for _ in 0..FRUITLESS_TRIES {
            if now == persistent {
                return Ok(());
            }
            now = self.pools.resize(page, place, persistent)?;
        }
        if now == persistent {
            return Ok(());
        }
        let file = self.pools.file(page, place, "nr_hugepages").display().to_string();
        Err(NotRestored { page, before: persistent, now, file }.into())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.restored
            && let Err(error) = self.put_back()
        {
            // There is nobody to return it to, and an administrator must know.
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bookend::units::Node;
    use std::fs;
    use std::path::Path;

    const POOLS: [(PageSize, u64); 2] = [(PageSize::GIB1, 1048576), (PageSize::MIB2, 2048)];

    fn tree(root: &Path, place: &str, of_1g: u64, of_2m: u64) {
        for ((_, kib), pages) in POOLS.iter().zip([of_1g, of_2m]) {
            let pool = root.join(place).join(format!("hugepages-{kib}kB"));
            fs::create_dir_all(&pool).unwrap();
            fs::write(pool.join("nr_hugepages"), format!("{pages}\n")).unwrap();
            fs::write(pool.join("free_hugepages"), "0\n").unwrap();
            fs::write(pool.join("resv_hugepages"), "0\n").unwrap();
            fs::write(pool.join("surplus_hugepages"), "0\n").unwrap();
        }
        let split = root.join(place).join("hugepages-1048576kB");
        fs::write(split.join("demote"), "").unwrap();
        fs::write(split.join("demote_size"), "2048kB\n").unwrap();
    }

    const MACHINE: &str = "kernel/mm/hugepages";

    #[test]
    fn pools_go_back_to_what_they_were_on_every_way_out() {
        let sys = tempfile::tempdir().unwrap();
        tree(sys.path(), MACHINE, 1, 7);
        let pools = HugePools::at(sys.path());
        let now = |page| pools.persistent(page, Place::Machine).unwrap();

        let mut reservation = Reservation::begin(pools.clone()).unwrap();
        // Files gain no free pages, so the kernel seems to find none.
        let error = reservation.reserve(PageSize::MIB2, 5).unwrap_err();
        assert!(matches!(error, ReserveError::Shortfall { wanted: 5, available: 0, .. }));
        assert!(now(PageSize::MIB2) > 7);
        reservation.restore().unwrap();
        let mut stopped = Reservation::begin(pools.clone()).unwrap().until(|| true);
        let error = stopped.reserve(PageSize::MIB2, 5).unwrap_err();
        assert!(matches!(error, ReserveError::Stopped));
        drop(stopped);
        assert_eq!((now(PageSize::GIB1), now(PageSize::MIB2)), (1, 7));

        let panicked = std::panic::catch_unwind(|| {
            let _reservation = Reservation::begin(pools.clone()).unwrap();
            pools.resize(PageSize::GIB1, Place::Machine, 0).unwrap();
            pools.resize(PageSize::MIB2, Place::Machine, 99).unwrap();
            std::panic::resume_unwind(Box::new("as a failed assertion does"));
        });
        assert!(panicked.is_err());
        assert_eq!((now(PageSize::GIB1), now(PageSize::MIB2)), (1, 7));
    }

    #[test]
    fn each_node_gets_its_own_back() {
        let sys = tempfile::tempdir().unwrap();
        tree(sys.path(), MACHINE, 0, 5);
        tree(sys.path(), "devices/system/node/node0/hugepages", 0, 4);
        tree(sys.path(), "devices/system/node/node1/hugepages", 0, 1);
        fs::create_dir_all(sys.path().join("devices/system/node/node2")).unwrap(); // no memory
        let pools = HugePools::at(sys.path());
        let reservation = Reservation::begin(pools.clone()).unwrap();
        let of = |n| Place::Node(Node::new(n));
        pools.resize(PageSize::MIB2, of(0), 9).unwrap();
        pools.resize(PageSize::MIB2, of(1), 0).unwrap();
        drop(reservation);
        assert_eq!(pools.persistent(PageSize::MIB2, of(0)).unwrap(), 4);
        assert_eq!(pools.persistent(PageSize::MIB2, of(1)).unwrap(), 1);
    }

    #[test]
    fn surplus_pages_are_not_made_persistent() {
        let sys = tempfile::tempdir().unwrap();
        tree(sys.path(), MACHINE, 0, 5);
        let pools = HugePools::at(sys.path());
        let surplus = pools.file(PageSize::MIB2, Place::Machine, "surplus_hugepages");
        fs::write(surplus, "2\n").unwrap();
        assert_eq!(pools.persistent(PageSize::MIB2, Place::Machine).unwrap(), 3);
    }

    #[test]
    fn an_old_kernel_and_a_strange_file_are_told_apart() {
        let sys = tempfile::tempdir().unwrap();
        let pools = HugePools::at(sys.path());
        assert!(matches!(pools.sizes(), Err(FileError::Absent { .. })));
        tree(sys.path(), MACHINE, 0, 0);
        assert_eq!(pools.sizes().unwrap(), [PageSize::GIB1, PageSize::MIB2]);
        let demote_size = pools.file(PageSize::GIB1, Place::Machine, "demote_size");
        fs::remove_file(demote_size).unwrap();
        let mut reservation = Reservation::begin(pools.clone()).unwrap();
        let error = reservation.reserve_split(PageSize::GIB1, PageSize::MIB2, 4).unwrap_err();
        assert!(matches!(error, ReserveError::Pools(FileError::Absent { .. })));
        drop(reservation);
        let nr = pools.file(PageSize::MIB2, Place::Machine, "nr_hugepages");
        fs::write(nr, "many\n").unwrap();
        let error = pools.persistent(PageSize::MIB2, Place::Machine).unwrap_err();
        assert!(error.to_string().contains("\"many\""), "{error}");
    }
}
