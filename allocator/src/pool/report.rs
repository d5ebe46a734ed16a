//! What a pool holds, and what it was refused.

use core::fmt;

use super::{Pool, PoolError, Rung, frame_order};
use crate::os::{Errno, Os};
use crate::units::{BLOCK_SHIFT, BlockId, Bytes, Node, PageSize, Pfn};

/// Runs of pages whose frames follow one another in the order of their addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// Length of the longest.
    pub longest: Bytes,
    /// How few the same frames would make in ascending order.
    pub ideal: u64,
}

/// Memory of one rung on one node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RungReport {
    /// Where the pages come from.
    pub rung: Rung,
    /// The NUMA node; `None` where the system does not say.
    pub node: Option<Node>,
    /// How many pages of the rung's size.
    pub pages: u64,
}

/// What a rung did not give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RefusedPages {
    /// The rung.
    pub rung: Rung,
    /// Blocks that had to step down, or failed; counted again whenever it was tried again.
    pub blocks: u64,
    /// The system's last word on it.
    pub why: Errno,
    /// Pages of that size that were free on the machine at that time, where it says. Some, and
    /// refused all the same: a limit of a cgroup or a container, or another NUMA node's.
    pub free: Option<u64>,
}

impl fmt::Display for RefusedPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rung, blocks, why, free } = self;
        write!(f, "{} pages refused for {}: ", rung.name(), Bytes::new(blocks << BLOCK_SHIFT))?;
        match (*why, *free) {
            (Errno::FAULT, Some(0)) => f.write_str("the machine's pool has no free page"),
            (Errno::FAULT, Some(free)) => write!(
                f,
                "the machine's pool has {free} free pages, but not for this process (hugetlb \
                 limit of its cgroup, or NUMA node)"
            ),
            (why, _) => write!(f, "{why}"),
        }
    }
}

/// What a pool holds at one moment. See [`Pool::report`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Present memory by rung and node, the smallest pages first.
    pub rungs: Vec<RungReport>,
    /// Runs of contiguous frames over all present blocks; `Err` says why they are not known.
    pub runs: Result<Runs, PoolError>,
    /// What was refused, the smallest pages first.
    pub refused: Vec<RefusedPages>,
    /// What became of the wish for ascending frames; `None` where there was none.
    pub ordered: Option<frame_order::Outcome>,
}

impl Report {
    /// Present memory of a rung, on all nodes.
    pub fn bytes(&self, rung: Rung, base: PageSize) -> Bytes {
        let pages: u64 = self.rungs.iter().filter(|r| r.rung == rung).map(|r| r.pages).sum();
        Bytes::new(pages * rung.page_size(base).bytes().get())
    }
}

impl<O: Os> Pool<O> {
    /// What the pool holds now.
    pub fn report(&self) -> Report {
        let refused = |rung| {
            let (blocks, why, free) = self.tallies.refused(rung)?;
            Some(RefusedPages { rung, blocks, why, free })
        };
        Report {
            rungs: self.rung_reports(),
            runs: self.runs(),
            refused: Rung::ALL.into_iter().filter_map(refused).collect(),
            ordered: self.ordered,
        }
    }

    /// Present blocks that begin a page, with their rungs.
    fn pages(&self) -> impl Iterator<Item = (BlockId, Rung)> {
        self.blocks().iter().filter_map(|block| {
            let rung = self.rung(block)?;
            (rung != Rung::Gigantic || self.page_of(block).start() == block)
                .then_some((block, rung))
        })
    }

    fn rung_reports(&self) -> Vec<RungReport> {
        let base = self.os().base_page_size();
        let mut reports: Vec<RungReport> = Vec::new();
        let mut nodes = vec![None; self.capacity().as_usize()];
        if self.os().nodes(self.base(), PageSize::MIB2, &mut nodes).is_err() {
            nodes.fill(None);
        }
        for (block, rung) in self.pages() {
            // A block of base pages may lie on several nodes: it is counted by its first page.
            let node = nodes[block.as_usize()];
            let pages = match rung {
                Rung::Base => 1 << (PageSize::MIB2.shift() - base.shift()),
                _ => 1,
            };
            match reports.iter_mut().find(|r| r.rung == rung && r.node == node) {
                Some(report) => report.pages += pages,
                None => reports.push(RungReport { rung, node, pages }),
            }
        }
        reports.sort_by_key(|r| (r.rung, r.node));
        reports
    }

    /// Runs of frames over all present blocks, in the order of their addresses.
    ///
    /// # Errors
    /// [`PoolError::Frames`] where frame numbers cannot be read.
    pub fn runs(&self) -> Result<Runs, PoolError> {
        let base = self.os().base_page_size();
        let mut pages: Vec<PhysicalPage> = Vec::new();
        for (block, rung) in self.pages() {
            let page = rung.page_size(base);
            let count = (PageSize::MIB2.bytes().get() / page.bytes().get()).max(1) as usize;
            let mut read = vec![None; count];
            self.os()
                .frames(self.address(block), page, &mut read)
                .map_err(|cause| PoolError::Frames { cause })?;
            let len = page.bytes().get() >> base.shift();
            let first = block.offset().get() >> base.shift();
            pages.extend(read.into_iter().enumerate().filter_map(|(i, frame)| {
                Some(PhysicalPage { frame: frame?, at: first + i as u64 * len, len })
            }));
        }
        let (count, longest) = count_runs(&pages);
        Ok(Runs {
            count,
            longest: Bytes::new(longest << base.shift()),
            ideal: ideal_runs(&mut pages),
        })
    }
}

/// A page and where it is mapped, all in base pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct PhysicalPage {
    pub(super) frame: Pfn,
    pub(super) at: u64,
    pub(super) len: u64,
}

/// How many runs the pages make, neighbours in address space and in memory alike, and the length
/// of the longest.
pub(super) fn count_runs(pages: &[PhysicalPage]) -> (u64, u64) {
    let (mut count, mut longest, mut current) = (0, 0, 0);
    let mut next = None;
    for page in pages {
        if next == Some((page.frame, page.at)) {
            current += page.len;
        } else {
            count += 1;
            current = page.len;
        }
        longest = longest.max(current);
        next = Some((page.frame.offset(page.len), page.at + page.len));
    }
    (count, longest)
}

/// How many runs they would make, were they mapped side by side in the order of their frames, which
/// is how they are left.
pub(super) fn ideal_runs(pages: &mut [PhysicalPage]) -> u64 {
    pages.sort_unstable_by_key(|page| page.frame);
    let mut at = 0;
    for page in pages.iter_mut() {
        page.at = at;
        at += page.len;
    }
    count_runs(pages).0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(frame: u64, at: u64, len: u64) -> PhysicalPage {
        PhysicalPage { frame: Pfn::new(frame), at, len }
    }

    #[test]
    fn a_run_is_contiguous_in_memory_and_in_address_space() {
        assert_eq!(count_runs(&[]), (0, 0));
        let mut descending = [page(1024, 0, 512), page(512, 512, 512), page(0, 1024, 512)];
        assert_eq!(count_runs(&descending), (3, 512));
        assert_eq!(ideal_runs(&mut descending), 1);
        let mixed =
            [page(0, 0, 512), page(512, 512, 512), page(1024, 1024, 1), page(1026, 1025, 1)];
        assert_eq!(count_runs(&mixed), (2, 1025));
        let gap = [page(0, 0, 1), page(1, 2, 1)];
        assert_eq!(count_runs(&gap), (2, 1), "a hole in address space ends a run");
    }
}
