//! Bringing memory behind blocks: of which kind, and of which node.

use super::super::config::Hugetlb;
use super::Supply;
use crate::os::{Errno, Os};
use crate::pool::{PoolError, Rung};
use crate::units::{BLOCK_BYTES, BlockId, BlockRange, Blocks, Bytes};

/// Blocks of a range with memory behind them, and those of hugetlb pages among them.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Behind {
    pub present: u32,
    pub hugetlb: u32,
}

impl<O: Os> Supply<O> {
    /// Opens the absent blocks of a range; whether all were absent, so that all of it is zero.
    pub(super) fn open(&mut self, range: BlockRange, used: Bytes) -> Result<bool, PoolError> {
        self.bring_near(range);
        let before = self.behind(range);
        let absent = range.len().get() - before.present;
        if absent == 0 {
            return Ok(false);
        }
        let Some(rung) = self.rung(absent) else {
            let (block, cause) = (range.start(), Errno::NOMEM);
            return Err(PoolError::NoMemory { block, rung: Rung::Huge, cause });
        };
        let result = self.open_absent(range, used, rung);
        // Of two parts the second may have failed.
        self.recount(range, before);
        result.map(|()| before.present == 0)
    }

    /// Says that the running thread's node is a range's, and gives blocks of it back that have
    /// memory of another. Not hugetlb pages: there may be no other.
    fn bring_near(&mut self, range: BlockRange) {
        if self.nodes.is_empty() {
            return;
        }
        let Some(node) = self.os.processor_node() else { return };
        let node = node.get().min(u32::from(u8::MAX) - 1) as u8 + 1;
        for block in range.iter() {
            let was = core::mem::replace(&mut self.nodes[block.as_usize()], node);
            let far = was != node && was != 0;
            if far && self.pool.rung(block).is_some_and(|rung| !rung.is_hugetlb()) {
                self.release_run(BlockRange::new(block, Blocks::ONE));
                self.counts.other_node += 1;
            }
        }
    }

    fn open_absent(&mut self, range: BlockRange, used: Bytes, rung: Rung) -> Result<(), PoolError> {
        // A last block that is used in part only would be touched whole as a huge page.
        let tail = used.as_usize() % BLOCK_BYTES;
        let thin = rung == Rung::Transparent && tail != 0 && tail < BLOCK_BYTES / 4 * 3;
        let whole = if thin { range.len() - Blocks::ONE } else { range.len() };
        if whole != Blocks::ZERO {
            self.pool.open(BlockRange::new(range.start(), whole), rung)?;
        }
        if thin {
            let last = BlockRange::new(BlockId::new(range.end().get() - 1), Blocks::ONE);
            self.pool.open(last, Rung::Base)?;
        }
        let advised = BlockRange::new(range.start(), whole);
        let refused = advised.iter().filter(|&b| self.pool.rung(b) != Some(rung)).count() as u64;
        match rung {
            Rung::Huge => self.counts.hugetlb_refused += refused,
            Rung::Transparent => self.counts.transparent_refused += refused,
            _ => {}
        }
        Ok(())
    }

    /// What stands behind a range.
    pub(super) fn behind(&self, range: BlockRange) -> Behind {
        let rungs = range.iter().filter_map(|block| self.pool.rung(block));
        rungs.fold(Behind::default(), |Behind { present, hugetlb }, rung| Behind {
            present: present + 1,
            hugetlb: hugetlb + u32::from(rung.is_hugetlb()),
        })
    }

    /// Counts what an operation has changed behind a range.
    pub(super) fn recount(&mut self, range: BlockRange, before: Behind) {
        let after = self.behind(range);
        self.present = self.present + after.present - before.present;
        self.hugetlb = self.hugetlb + after.hugetlb - before.hugetlb;
        self.counts.opened += u64::from(after.present.saturating_sub(before.present));
        self.counts.released += u64::from(before.present.saturating_sub(after.present));
    }

    /// The rung for that many more blocks; `None` where only hugetlb pages will do, and no more of
    /// them are to be taken.
    fn rung(&self, more: u32) -> Option<Rung> {
        let limited = self.hugetlb.saturating_add(more) > self.config.hugetlb_limit.get();
        match self.config.hugetlb {
            Hugetlb::Require => (!limited).then_some(Rung::Huge),
            Hugetlb::Allow if !limited => Some(Rung::Huge),
            _ if self.present.saturating_add(more) > self.config.base_blocks.get() => {
                Some(Rung::Transparent)
            }
            _ => Some(Rung::Base),
        }
    }
}

/// Whether the machine has several NUMA nodes.
pub(super) fn has_nodes<O: Os>(os: &O) -> bool {
    let mut list = [0; 64];
    // As "0-3" or "0,2"; where it cannot be read there is one as far as we know.
    let read = os.read_file(c"/sys/devices/system/node/online", &mut list).unwrap_or(0);
    list[..read].iter().any(|byte| matches!(byte, b'-' | b','))
}

#[cfg(test)]
mod tests {
    use super::super::super::config::Config;
    use super::*;
    use crate::os::fake::{FakeOs, FreeOrder};
    use crate::units::{Node, PageSize};

    #[test]
    fn blocks_of_another_node_come_anew() {
        let os =
            FakeOs::new().with_huge_pages_on(Node::new(1), PageSize::MIB2, 1, FreeOrder::Ascending);
        let mut supply = Supply::new(os.clone(), Bytes::mib(64), Config::DEFAULT).unwrap();
        let take = |supply: &mut Supply<FakeOs>, node: u32| {
            os.run_on(Node::new(node));
            let (range, zero) = supply.take_extent(Blocks::new(3), 1, Bytes::mib(6)).unwrap();
            supply.validate().unwrap();
            supply.give_extent(range, 0);
            (zero, supply.counts.other_node)
        };
        assert_eq!(take(&mut supply, 0), (true, 0));
        assert_eq!(take(&mut supply, 0), (false, 0), "what is near is taken as it is");
        assert_eq!(take(&mut supply, 1), (true, 3), "what is far is given back");
        assert_eq!(take(&mut supply, 1), (false, 3));
    }

    #[test]
    fn a_machine_of_one_node_is_not_asked() {
        let supply = Supply::new(FakeOs::new(), Bytes::mib(64), Config::DEFAULT).unwrap();
        assert!(supply.nodes.is_empty());
    }
}
