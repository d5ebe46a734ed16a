//! All of physical memory, block by block, from `/proc/kpageflags`.
//!
//! - [`kinds`]: what a page is.
//! - [`block`]: what a block of 2 MiB could become, by the pages in it.
//! - [`ram`]: where there is memory at all.
//! - [`scan`]: reads all of memory, streaming and in parallel.
//! - [`snapshot`]: a survey in a file, and what changed between two.

pub mod block;
pub mod kinds;
pub mod ram;
pub mod scan;
pub mod snapshot;

use bookend::units::{Node, PageSize};
use serde::Serialize;

pub use block::{Block, Class, Pages};
pub use kinds::Kind;
pub use scan::{glance, pages_of, survey};

use super::zones::Zone;
use scan::pages_a_block;

/// What was seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// The base page.
    pub base: PageSize,
    /// Every block from physical address 0 on.
    pub blocks: Vec<Block>,
    /// Sums by zone.
    pub zones: Vec<ZoneSurvey>,
    /// One block in so many was looked at: 1 of a whole survey. Of a [`glance`] sums are estimates,
    /// and the other blocks are said to be absent.
    pub one_in: u64,
}

/// The last of so many parts of a zone is where compaction gets its free pages from: it looks for these from the
/// zone's end on, and for pages to move from its beginning.
const TOP: u64 = 32;

/// A zone's sums.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ZoneSurvey {
    /// Whose memory.
    pub node: Node,
    /// The zone's name.
    pub name: String,
    /// The first frame of its first block.
    pub start: u64,
    /// The frame behind its last.
    pub end: u64,
    /// Pages by the class of their block and by their own kind.
    pub pages: [Pages; Class::COUNT],
    /// Blocks by class.
    pub blocks: [u64; Class::COUNT],
    /// Recoverable blocks of mostly anonymous pages in the last 32nd of the zone. Compaction moves pages to
    /// there, and none away.
    pub anonymous_at_top: u64,
    /// Free pages in per-CPU lists.
    in_lists: u64,
    /// Blocks that only pages without flags stand in the way of, by how many these are.
    lone: Vec<Lone>,
}

/// Such blocks, and their pages.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Lone {
    blocks: u64,
    pages: Pages,
}

impl ZoneSurvey {
    fn of(zone: &Zone, base: PageSize) -> Self {
        let start = zone.start.get();
        Self {
            node: zone.node,
            name: zone.name.clone(),
            // The first zone begins behind frame 0, in the middle of a block.
            start: start - start % pages_a_block(base),
            end: start + zone.spanned,
            pages: [[0; Kind::COUNT]; Class::COUNT],
            blocks: [0; Class::COUNT],
            anonymous_at_top: 0,
            in_lists: zone.in_lists,
            lone: vec![Lone::default(); pages_a_block(base) as usize + 1],
        }
    }

    fn has(&self, pfn: u64) -> bool {
        (self.start..self.end).contains(&pfn)
    }

    /// Adds the block that begins with page `pfn`.
    fn add(&mut self, pfn: u64, counts: &Pages) {
        let block = Block::new(counts);
        let class = block.class().index();
        self.blocks[class] += 1;
        let anonymous = counts[Kind::Anon.index()] + counts[Kind::Locked.index()];
        let is_mostly = block.class() == Class::Recoverable && 2 * anonymous > counts.iter().sum();
        self.anonymous_at_top +=
            u64::from(is_mostly && pfn >= self.end - (self.end - self.start) / TOP);
        if let Some(lone) = self.lone.get_mut(block.blockers() as usize).filter(|_| block.is_lone())
        {
            lone.blocks += 1;
            add(&mut lone.pages, counts);
        }
        add(&mut self.pages[class], counts);
    }

    fn join(&mut self, other: &Self) {
        for (mine, theirs) in self.blocks.iter_mut().zip(other.blocks) {
            *mine += theirs;
        }
        for (mine, theirs) in self.pages.iter_mut().zip(&other.pages) {
            add(mine, theirs);
        }
        self.anonymous_at_top += other.anonymous_at_top;
        for (mine, theirs) in self.lone.iter_mut().zip(&other.lone) {
            mine.blocks += theirs.blocks;
            add(&mut mine.pages, &theirs.pages);
        }
    }

    /// Takes the pages without flags of lone blocks for free ones, fewest a block first, as far as
    /// the per-CPU lists reach; gives the largest number a block that they reach to.
    ///
    /// The kernel's own pages stand together, and with slab and page tables, since it allocates them
    /// from blocks kept for it; those in per-CPU lists are strewn everywhere.
    fn settle(&mut self) -> u32 {
        let (blocked, recoverable) = (Class::Blocked.index(), Class::Recoverable.index());
        let mut reach = 0;
        for (number, lone) in self.lone.iter_mut().enumerate().skip(1) {
            let kernel = lone.pages[Kind::Kernel.index()];
            if kernel > self.in_lists {
                break;
            }
            self.in_lists -= kernel;
            self.blocks[blocked] -= lone.blocks;
            self.blocks[recoverable] += lone.blocks;
            for (from, pages) in self.pages[blocked].iter_mut().zip(lone.pages) {
                *from -= pages;
            }
            lone.pages[Kind::Free.index()] += kernel;
            lone.pages[Kind::Kernel.index()] = 0;
            add(&mut self.pages[recoverable], &lone.pages);
            *lone = Lone::default();
            reach = number as u32;
        }
        reach
    }

    /// Takes those not looked at for like the others.
    fn scale(&mut self, one_in: u64) {
        let pages = self.pages.iter_mut().flatten();
        pages.chain(&mut self.blocks).for_each(|count| *count *= one_in);
        self.anonymous_at_top *= one_in;
    }

    /// Pages of a kind in blocks of a class.
    pub const fn pages_in(&self, class: Class, kind: Kind) -> u64 {
        self.pages[class.index()][kind.index()]
    }

    /// Pages of a kind in all blocks.
    pub fn pages_of(&self, kind: Kind) -> u64 {
        self.pages.iter().map(|pages| pages[kind.index()]).sum()
    }
}

fn add(to: &mut Pages, pages: &Pages) {
    for (total, count) in to.iter_mut().zip(pages) {
        *total += count;
    }
}

/// A block that few pages spoil.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spoilt {
    /// Its physical address.
    pub address: u64,
    /// How many pages stand in the way.
    pub blockers: u32,
    /// The most frequent kind of them.
    pub worst: Kind,
}

/// A range as long and aligned as a gigantic page, that something stands in the way of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Region {
    /// Its physical address.
    pub address: u64,
    /// How many of its blocks cannot be emptied.
    pub blocks: u64,
    /// How many pages stand in these.
    pub blockers: u64,
    /// The kind that most of these blocks have most of.
    pub worst: Kind,
}

impl Survey {
    /// Tells the lone blocks that per-CPU lists account for from those that the kernel holds.
    fn settle(mut self) -> Self {
        let reach: Vec<_> = self.zones.iter_mut().map(ZoneSurvey::settle).collect();
        let pages = self.pages_a_block();
        for (index, block) in self.blocks.iter_mut().enumerate().filter(|(_, b)| b.is_lone()) {
            let pfn = index as u64 * pages;
            let zone = self.zones.iter().position(|zone| zone.has(pfn));
            if zone.is_some_and(|zone| block.blockers() <= reach[zone]) {
                *block = block.settled();
            }
        }
        self.zones.iter_mut().for_each(|zone| zone.scale(self.one_in));
        self
    }

    /// Base pages of a block.
    pub const fn pages_a_block(&self) -> u64 {
        pages_a_block(self.base)
    }

    /// Blocks by class, of one node or of all.
    pub fn classes(&self, node: Option<Node>) -> [u64; Class::COUNT] {
        let mut sum = [0; Class::COUNT];
        for zone in self.of_node(node) {
            for (total, count) in sum.iter_mut().zip(zone.blocks) {
                *total += count;
            }
        }
        sum
    }

    /// The zones of one node, or all.
    pub fn of_node(&self, node: Option<Node>) -> impl Iterator<Item = &ZoneSurvey> {
        self.zones.iter().filter(move |zone| node.is_none_or(|node| zone.node == node))
    }

    /// Pages of a kind, of one node or of all.
    pub fn pages_of(&self, kind: Kind, node: Option<Node>) -> u64 {
        self.of_node(node).map(|zone| zone.pages_of(kind)).sum()
    }

    /// The node of a block.
    pub fn node_of(&self, block: usize) -> Option<Node> {
        let pfn = block as u64 * self.pages_a_block();
        self.zones.iter().find(|zone| zone.has(pfn)).map(|zone| zone.node)
    }

    /// How many runs of neighbouring blocks of a class there are, of one node or of all.
    pub fn runs_of(&self, class: Class, node: Option<Node>) -> u64 {
        let is_one = |index: usize| {
            let here = node.is_none() || self.node_of(index) == node;
            here && self.blocks.get(index).is_some_and(|block| block.class() == class)
        };
        let begins = |&index: &usize| is_one(index) && (index == 0 || !is_one(index - 1));
        (0..self.blocks.len()).filter(begins).count() as u64
    }

    /// The ranges of a page's size in which something stands that cannot be moved, fewest blocks
    /// first; those without any memory are left out.
    pub fn spoilt_regions(&self, page: PageSize, node: Option<Node>) -> Vec<Region> {
        let len = (page.bytes().get() >> PageSize::MIB2.shift()).max(1) as usize;
        let all =
            self.blocks.chunks(len).enumerate().map(|(number, blocks)| (number * len, blocks));
        let here = all.filter(|&(first, _)| node.is_none() || self.node_of(first) == node);
        let mut regions: Vec<_> =
            here.filter_map(|(first, blocks)| region(first, blocks)).collect();
        regions.sort_by_key(|region| region.blocks);
        regions
    }

    /// How many blocks have 1 blocker, 2 to 3, 4 to 7, and so on by powers of two.
    pub fn histogram(&self, node: Option<Node>) -> Vec<u64> {
        let buckets = self.pages_a_block().ilog2() as usize + 1;
        let mut histogram = vec![0; buckets];
        for (_, block) in self.spoilt_blocks(node) {
            histogram[(block.blockers().ilog2() as usize).min(buckets - 1)] += 1;
        }
        histogram
    }

    /// The blocks with at most `blockers` of them, lowest address first.
    pub fn spoilt_by(&self, blockers: u32, node: Option<Node>) -> impl Iterator<Item = Spoilt> {
        let few = self.spoilt_blocks(node).filter(move |(_, block)| block.blockers() <= blockers);
        few.map(|(index, block)| Spoilt {
            address: (index as u64) << PageSize::MIB2.shift(),
            blockers: block.blockers(),
            worst: block.worst(),
        })
    }

    /// Blocks that something stands in the way of, of memory that is there.
    fn spoilt_blocks(&self, node: Option<Node>) -> impl Iterator<Item = (usize, Block)> {
        let all = self.blocks.iter().copied().enumerate();
        let here = all.filter(move |&(index, _)| node.is_none() || self.node_of(index) == node);
        here.filter(|(_, block)| matches!(block.class(), Class::Slab | Class::Blocked))
    }
}

fn region(first: usize, blocks: &[Block]) -> Option<Region> {
    if blocks.iter().all(|block| block.class() == Class::Absent) {
        return None;
    }
    let stays = |block: &&Block| !matches!(block.class(), Class::Free | Class::Recoverable);
    let spoilt: Vec<_> = blocks.iter().filter(stays).collect();
    let kind_of = |block: &Block| match block.class() {
        Class::Hugetlb => Kind::Hugetlb,
        _ => block.worst(),
    };
    let count = |kind: Kind| spoilt.iter().filter(|block| kind_of(block) == kind).count();
    let worst = Kind::ALL.into_iter().max_by_key(|&kind| count(kind))?;
    (!spoilt.is_empty()).then(|| Region {
        address: (first as u64) << PageSize::MIB2.shift(),
        blocks: spoilt.len() as u64,
        blockers: spoilt.iter().map(|block| u64::from(block.blockers())).sum(),
        worst,
    })
}

#[cfg(test)]
mod tests;
