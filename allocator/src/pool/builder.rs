//! Building a pool.

use core::fmt;
use core::sync::atomic::AtomicU8;

use super::span::{GIGANTIC, Kind, Span, SpanLayout};
use super::table::Table;
use super::tally::{Backoff, Tallies};
use super::{Ladder, Pool, PoolError, Progress, Rung, Use};
use crate::os::{Array, Linux, Os};
use crate::units::{BlockId, BlockRange, Blocks, Bytes, Node, PageSize};

/// When memory comes into a pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Populate {
    /// All of it while the pool is built.
    Now,
    /// Block by block, by [`Pool::populate`].
    OnDemand,
    /// Block by block, by [`Pool::open`]: ordinary pages come when they are touched, hugetlb pages
    /// (2 MiB at most, private) are proven present as always. Nothing is mapped before, so that the
    /// span may be far larger than the machine's memory, under strict overcommit and `mlockall`
    /// too. Child processes get all of it.
    OnTouch,
}

/// In what order the frames of hugetlb pages come to stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameOrder {
    /// As the kernel hands them out.
    AsFaulted,
    /// Ascending, so that neighbouring frames are neighbours in address space; needs
    /// [`Populate::Now`] and CAP_SYS_ADMIN (without it the pool stays as faulted, and its report
    /// says so). Costs a second zeroing, by one thread.
    Ascending {
        /// Memory to take beyond the capacity while ordering. The shortest runs of frames are given
        /// back, so that the longest are kept.
        extra: Bytes,
    },
}

/// Says what a pool is to be.
pub struct PoolBuilder<O: Os = Linux> {
    os: O,
    capacity: Bytes,
    ladder: Ladder,
    node: Option<Node>,
    shareable: bool,
    order: FrameOrder,
    populate: Populate,
    threads: Option<usize>,
    progress: Box<dyn Fn(Progress)>,
}

impl<O: Os> PoolBuilder<O> {
    /// A builder on that machine: no capacity yet, transparent huge pages and base pages, private,
    /// populated at once by as many threads as there are processors.
    pub fn with_os(os: O) -> Self {
        Self {
            os,
            capacity: Bytes::ZERO,
            ladder: Ladder::default(),
            node: None,
            shareable: false,
            order: FrameOrder::AsFaulted,
            populate: Populate::Now,
            threads: None,
            progress: Box::new(|_| {}),
        }
    }

    /// How much it holds; rounded up to whole blocks.
    #[must_use]
    pub fn capacity(mut self, capacity: Bytes) -> Self {
        self.capacity = capacity;
        self
    }

    /// Whether it may stand on a rung.
    #[must_use]
    pub fn rung(mut self, rung: Rung, r#use: Use) -> Self {
        self.ladder = self.ladder.with(rung, r#use);
        self
    }

    /// All rungs at once.
    #[must_use]
    pub fn ladder(mut self, ladder: Ladder) -> Self {
        self.ladder = ladder;
        self
    }

    /// Takes memory of this NUMA node only.
    #[must_use]
    pub fn node(mut self, node: Node) -> Self {
        self.node = Some(node);
        self
    }

    /// Puts the memory into memory files, which can be passed to other processes.
    #[must_use]
    pub fn shareable(mut self, shareable: bool) -> Self {
        self.shareable = shareable;
        self
    }

    /// In what order frames come to stand.
    #[must_use]
    pub fn frame_order(mut self, order: FrameOrder) -> Self {
        self.order = order;
        self
    }

    /// When memory comes.
    #[must_use]
    pub fn populate(mut self, populate: Populate) -> Self {
        self.populate = populate;
        self
    }

    /// How many threads populate it at once; at least 1.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = Some(threads.max(1));
        self
    }

    /// Called from the building thread as memory comes.
    #[must_use]
    pub fn progress(mut self, progress: impl Fn(Progress) + 'static) -> Self {
        self.progress = Box::new(progress);
        self
    }

    /// Builds it.
    ///
    /// # Errors
    /// See [`PoolError`]. Nothing is held after an error.
    pub fn build(self) -> Result<Pool<O>, PoolError> {
        let blocks = Blocks::holding(self.capacity).filter(|&blocks| blocks != Blocks::ZERO);
        let blocks = blocks.ok_or(PoolError::Capacity { asked: self.capacity })?;
        if self.ladder.descending().next().is_none() {
            return Err(PoolError::EmptyLadder);
        }
        check_block_size(&self.os)?;
        let pool = self.map(blocks)?;
        self.fill(pool)
    }

    /// A pool with everything mapped and nothing present.
    fn map(&self, blocks: Blocks) -> Result<Pool<O>, PoolError> {
        let len = blocks.bytes();
        let reserve = |cause| PoolError::Reserve { len, cause };
        let on_touch = self.populate == Populate::OnTouch;
        let gigantic = if self.ladder.permits(Rung::Gigantic) && !on_touch {
            Blocks::new(blocks.get() / GIGANTIC.get() * GIGANTIC.get())
        } else {
            Blocks::ZERO
        };
        let layout = SpanLayout {
            blocks,
            gigantic,
            node: self.node,
            no_transparent: !self.ladder.permits(Rung::Transparent),
            shareable: self.shareable && !on_touch,
            inherited: on_touch,
        };
        let mut pool = Pool {
            span: Span::reserve(self.os.clone(), layout)?,
            table: Table::new(self.os.clone(), blocks).map_err(reserve)?,
            kinds: Array::<AtomicU8, O>::new(self.os.clone(), blocks.as_usize())
                .map_err(reserve)?,
            low_kind: Kind::Ordinary,
            ladder: self.ladder,
            tallies: Tallies::default(),
            backoff: Backoff::default(),
            ordered: None,
            watchers: Default::default(),
        };
        if on_touch {
            return Ok(pool);
        }
        let low = BlockRange::new(BlockId::new(0), blocks - gigantic);
        if !low.is_empty() {
            pool.low_kind = pool.map_zone(low, &self.zone_rungs(Rung::Huge))?;
        }
        if gigantic != Blocks::ZERO {
            let high = BlockRange::new(low.end(), gigantic);
            pool.map_zone(high, &self.zone_rungs(Rung::Gigantic))?;
        }
        Ok(pool)
    }

    /// The permitted rungs from `highest` down, one a kind of mapping.
    fn zone_rungs(&self, highest: Rung) -> Vec<Rung> {
        let mut rungs: Vec<_> = self.ladder.descending().filter(|&rung| rung <= highest).collect();
        rungs.dedup_by_key(|rung| Kind::of(*rung));
        rungs
    }

    fn fill(self, mut pool: Pool<O>) -> Result<Pool<O>, PoolError> {
        if self.populate != Populate::Now {
            return Ok(pool);
        }
        let threads = self.threads.unwrap_or_else(|| self.os.processors());
        pool.populate_with(pool.blocks(), threads, &*self.progress)?;
        if let FrameOrder::Ascending { extra } = self.order {
            pool.ordered = Some(pool.order_frames(extra)?);
        }
        Ok(pool)
    }
}

impl<O: Os> Pool<O> {
    /// Maps a zone with the first rung that the machine knows, and returns its kind. A page size
    /// that it does not have is a refusal like any other.
    fn map_zone(&mut self, zone: BlockRange, rungs: &[Rung]) -> Result<Kind, PoolError> {
        let nothing = PoolError::NoMemory {
            block: zone.start(),
            rung: Rung::Gigantic,
            cause: crate::os::Errno::NOMEM,
        };
        let mut refused = nothing;
        for &rung in rungs {
            let kind = Kind::of(rung);
            let mapped = self.span.ensure_file(kind).and_then(|()| self.map_owned(zone, kind));
            match mapped {
                Ok(()) => {
                    self.set_kind(zone, kind);
                    // Whatever a block may step down to must have its file already.
                    for smaller in rungs.iter().filter(|&&smaller| smaller < rung) {
                        self.span
                            .ensure_file(Kind::of(*smaller))
                            .map_err(|cause| PoolError::MemoryFile { rung: *smaller, cause })?;
                    }
                    return Ok(kind);
                }
                Err(cause) => {
                    self.tallies.refuse(&self.span.os, rung, zone.len().get(), cause);
                    refused = PoolError::Map { block: zone.start(), rung, cause };
                }
            }
        }
        Err(refused)
    }

    fn map_owned(&self, zone: BlockRange, kind: Kind) -> Result<(), crate::os::Errno> {
        // SAFETY: the pool is being built: nobody else knows its blocks.
        unsafe { self.span.map(zone, kind) }
    }
}

/// Compares the machine's PMD-sized huge page with a block. A kernel without transparent huge
/// pages does not say, and nothing depends on it there.
fn check_block_size<O: Os>(os: &O) -> Result<(), PoolError> {
    let mut text = [0; 32];
    let path = c"/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    let Ok(len) = os.read_file(path, &mut text) else { return Ok(()) };
    let bytes = core::str::from_utf8(&text[..len]).ok().and_then(|t| t.trim().parse().ok());
    match bytes.and_then(|bytes| PageSize::from_bytes(Bytes::new(bytes))) {
        Some(machine) if machine != PageSize::MIB2 => Err(PoolError::BlockSize { machine }),
        _ => Ok(()),
    }
}

impl<O: Os> fmt::Debug for PoolBuilder<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolBuilder")
            .field("capacity", &self.capacity)
            .field("ladder", &self.ladder)
            .field("node", &self.node)
            .field("shareable", &self.shareable)
            .field("order", &self.order)
            .field("populate", &self.populate)
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}
