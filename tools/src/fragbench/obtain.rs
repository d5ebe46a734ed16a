//! Gets a pool of one kind of pages, reserving them first where that is wanted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bookend::pool::{FrameOrder, OrderOutcome, Pool, PoolError, Rung, Use};
use bookend::units::{Bytes, PageSize};
use bookend_defrag::system::reservation::{ReserveError, RestoreError};
use bookend_defrag::system::{FileError, HugePools, Reservation};

use super::memory;
use super::report::Pages;
use crate::cli::interrupt::Interrupts;

/// What is left to the rest of the machine.
const MARGIN: Bytes = Bytes::mib(256);

/// Why there is no pool of that kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unavailable {
    /// Not so much memory is free.
    #[error("needs {needed} of memory, and {available} are available (less {MARGIN} left alone)")]
    Memory {
        /// How much it takes.
        needed: Bytes,
        /// What `/proc/meminfo` calls available.
        available: Bytes,
    },
    /// The kernel has no pool of such pages.
    #[error("this kernel has no pool of {0} pages")]
    NoPool(PageSize),
    /// The pool has too few free pages, and reserving was not allowed.
    #[error("{free} of {needed} pages of {page} are free; --reserve (as root) reserves them")]
    Free {
        /// Their size.
        page: PageSize,
        /// How many are free.
        free: u64,
        /// How many it takes.
        needed: u64,
    },
    /// Only made by reserving.
    #[error("needs --reserve (as root): gigantic pages are reserved and split")]
    NeedsReserve,
    /// The pages could not be reserved.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The pages could not be had, and the machine's pools are not as they were: no mere lack.
    #[error(transparent)]
    NotRestored(RestoreError),
    /// The machine's pools cannot be read.
    #[error(transparent)]
    Pools(#[from] FileError),
    /// The pool could not be built.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// Frame order needs frame numbers.
    #[error("frame order needs frame numbers, which need CAP_SYS_ADMIN: {0}")]
    FramesHidden(bookend::os::Errno),
}

/// A pool, and the reservation that it stands on.
///
/// The pool is declared first, so that it is dropped first: pages in use cannot be given back.
#[derive(Debug)]
pub struct Obtained {
    pool: Arc<Pool>,
    touch: Duration,
    reservation: Option<Reservation>,
}

impl Obtained {
    /// The pool. Clones of it are to be gone when the memory is given back.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// How long it took to map and populate it, in frame order where that was asked for.
    pub fn touch(&self) -> Duration {
        self.touch
    }

    /// Lets go of the memory and puts the machine's pools back.
    ///
    /// # Errors
    /// [`RestoreError`] where they are not as they were.
    pub fn give_back(self) -> Result<(), RestoreError> {
        drop(self.pool);
        self.reservation.map_or(Ok(()), Reservation::restore)
    }
}

impl Pages {
    const fn rung(self) -> Rung {
        match self {
            Self::Base => Rung::Base,
            Self::Transparent => Rung::Transparent,
            Self::Huge | Self::Ordered | Self::Split => Rung::Huge,
            Self::Gigantic => Rung::Gigantic,
        }
    }

    const fn in_frame_order(self) -> bool {
        matches!(self, Self::Ordered | Self::Split)
    }
}

/// A pool of at least `size` in pages of that kind and no other. With `reserve`, missing hugetlb
/// pages are reserved until [`Obtained::give_back`]; a signal cuts that short.
///
/// # Errors
/// [`Unavailable`]; what was reserved has been given back.
pub fn obtain(pages: Pages, size: Bytes, reserve: bool) -> Result<Obtained, Unavailable> {
    let rung = pages.rung();
    let page = rung.page_size(PageSize::MIB2).max(PageSize::MIB2); // a pool is whole blocks
    let capacity = size.checked_round_up(page).unwrap_or(size);
    let reservation = if rung.is_hugetlb() {
        let needed = capacity.get() / page.bytes().get();
        hugetlb(pages, page, needed, reserve)?
    } else {
        check_memory(capacity, memory::available())?;
        None
    };
    let start = Instant::now();
    match build(pages, rung, capacity) {
        Ok(pool) => Ok(Obtained { pool: Arc::new(pool), touch: start.elapsed(), reservation }),
        Err(why) => Err(give_back(reservation, why)),
    }
}

/// Puts the machine's pools back after a failure, and says which of the two is to be told.
fn give_back(reservation: Option<Reservation>, why: Unavailable) -> Unavailable {
    reservation.and_then(|r| r.restore().err()).map_or(why, Unavailable::NotRestored)
}

/// Sees to it that `needed` pages are free.
fn hugetlb(
    pages: Pages,
    page: PageSize,
    needed: u64,
    reserve: bool,
) -> Result<Option<Reservation>, Unavailable> {
    let pools = HugePools::of_machine();
    let split = pages == Pages::Split;
    if split && !reserve {
        return Err(Unavailable::NeedsReserve);
    }
    let sizes = match pools.sizes() {
        Err(FileError::Absent { .. }) => Vec::new(),
        sizes => sizes?,
    };
    for wanted in [Some(page), split.then_some(PageSize::GIB1)].into_iter().flatten() {
        if !sizes.contains(&wanted) {
            return Err(Unavailable::NoPool(wanted));
        }
    }
    let free = if split { 0 } else { pools.available(page)? };
    let missing = needed.saturating_sub(free);
    if missing == 0 {
        return Ok(None);
    }
    if !reserve {
        return Err(Unavailable::Free { page, free, needed });
    }
    let unit = if split { PageSize::GIB1 } else { page };
    let more = Bytes::new(missing * page.bytes().get());
    // Control groups limit hugetlb pages by other means, which refuse instead of killing.
    let more = more.checked_round_up(unit).unwrap_or(more);
    check_memory(more, memory::meminfo("MemAvailable"))?;
    let mut reservation = Reservation::begin(pools)?.until(Interrupts::any);
    let reserved = if split {
        reservation.reserve_split(PageSize::GIB1, page, needed)
    } else {
        reservation.reserve(page, needed)
    };
    match reserved {
        Ok(()) => Ok(Some(reservation)),
        Err(why) => Err(give_back(Some(reservation), why.into())),
    }
}

fn build(pages: Pages, rung: Rung, capacity: Bytes) -> Result<Pool, Unavailable> {
    let order = if pages.in_frame_order() {
        FrameOrder::Ascending { extra: Bytes::ZERO }
    } else {
        FrameOrder::AsFaulted
    };
    let mut builder = Pool::builder().capacity(capacity).frame_order(order);
    for other in Rung::ALL {
        let r#use = if other == rung { Use::Required } else { Use::Forbidden };
        builder = builder.rung(other, r#use);
    }
    let pool = builder.build()?;
    match pool.report().ordered {
        Some(OrderOutcome::Unreadable(errno)) => Err(Unavailable::FramesHidden(errno)),
        _ => Ok(pool),
    }
}

/// Refuses what would leave the machine, or this process's control group, without memory.
fn check_memory(needed: Bytes, available: Option<Bytes>) -> Result<(), Unavailable> {
    match available {
        Some(available) if needed + MARGIN > available => {
            Err(Unavailable::Memory { needed, available })
        }
        _ => Ok(()),
    }
}
