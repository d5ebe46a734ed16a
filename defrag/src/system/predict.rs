//! How many pages each rung should give, before anything is touched.
//!
//! From a survey and the zones' free blocks:
//!
//! - **ask** gives the free blocks there are;
//! - **compact** turns free pages into free blocks as far as there are blocks that can be emptied,
//!   and no further than there are free pages;
//! - **reclaim** makes room of the pages of files, so that what bounds it are the blocks that can be
//!   emptied at all, and the room elsewhere for anonymous pages that have to leave them;
//! - **slab** adds blocks that slab alone stands in, by the share of slab that shrinks: where it fills
//!   half of a block or more, the kernel keeps one kind there; where it does not, each page has to
//!   be one of those that shrink;
//! - **offline** adds blocks that one page of a file fills which is in frequent use, in memory blocks in
//!   which nothing else stands: taking these offline moves such pages piece by piece. No other rung
//!   has them: compaction does not move pages as large as those it makes, and reclaim takes colder
//!   ones first.
//!
//! Blocks of anonymous pages at the top of a zone stay as well: it is there that compaction moves pages to.
//! Blocks in which pinned pages stand are taken off by how likely they are to be pinned. Gigantic
//! pages are counted by runs of such blocks. The other rungs promise nothing of their own: they are
//! other ways to the same blocks.

use std::collections::BTreeSet;

use bookend::units::{Bytes, Node, PageSize};
use serde::Serialize;

use super::holders::{Pinned, chance, is_held};
use super::hotplug;
use super::rung::Rung;
use super::survey::{Block, Class, Kind, Survey};
use super::zones::Zone;

/// What one rung, and those before it, should give.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Promise {
    /// The rung.
    pub rung: Rung,
    /// Pages in addition to those that the pool has.
    pub pages: u64,
}

/// What is known of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Its blocks.
    pub survey: &'a Survey,
    /// Its zones.
    pub zones: &'a [Zone],
    /// Who has pinned what.
    pub pinned: &'a [Pinned],
    /// The share of slab that shrinkers can free, 0 to 1.
    pub slab_share: f64,
    /// Bytes of a memory block, where these can be taken offline.
    pub memory_block: Option<Bytes>,
}

/// What the rungs should give of pages of a size, on a node or the whole machine.
pub fn predict(known: &Known<'_>, page: PageSize, node: Option<Node>) -> Vec<Promise> {
    let sums = Sums::of(known, page, node);
    let counts = if page > PageSize::MIB2 {
        gigantic(known, &sums, page, node)
    } else {
        small(known, &sums, page)
    };
    // A later rung keeps what earlier ones won.
    let mut most = 0;
    let promise = |(rung, pages): (Rung, f64)| {
        most = most.max(pages.max(0.0).round() as u64);
        Promise { rung, pages: most }
    };
    counts.into_iter().map(promise).collect()
}

/// How far a promise may be off because the survey was a [`glance`](super::survey::glance): three
/// standard deviations, in pages. Nothing for a whole survey.
pub fn margin(survey: &Survey, page: PageSize, promised: u64) -> u64 {
    if survey.one_in == 1 {
        return 0;
    }
    let classes = survey.classes(None);
    let all = (classes.iter().sum::<u64>() - classes[Class::Absent.index()]) as f64;
    let pages_a_block = PageSize::MIB2.bytes().get() as f64 / page.bytes().get() as f64;
    // Even where all blocks looked at were alike, the others need not be.
    let share = (promised as f64 / pages_a_block / all.max(1.0)).clamp(0.05, 0.95);
    let deviation = (all * survey.one_in as f64 * share * (1.0 - share)).sqrt();
    (3.0 * deviation * pages_a_block).ceil() as u64
}

/// Sums over a node, in base pages where nothing else is said.
struct Sums {
    /// Free blocks of the page's size.
    suitable: f64,
    /// Free beyond the watermarks.
    spare: f64,
    /// Watermarks.
    kept: f64,
    /// Blocks that can be emptied, less those that pins hold.
    can_go: f64,
    /// Blocks that slab alone stands in.
    slab: f64,
    /// Blocks filled by a page of a file in frequent use that going offline would empty.
    offline: f64,
    /// Pages of files that can be dropped, but for those that fill a block and are in frequent use.
    files: f64,
    /// Anonymous pages in blocks that can be emptied.
    to_move: f64,
    /// Room for these in all other blocks, once files are dropped.
    room: f64,
}

impl Sums {
    fn of(known: &Known<'_>, page: PageSize, node: Option<Node>) -> Self {
        let zones = known.zones.iter().filter(|zone| node.is_none_or(|node| zone.node == node));
        let mut sums = Self::of_blocks(known, node);
        let order = page.shift() - known.survey.base.shift();
        for zone in zones {
            let spare = zone.spare() + zone.in_lists;
            let suitable = zone.blocks.suitable(order as usize).min(spare >> order);
            sums.suitable += suitable as f64;
            sums.spare += spare as f64;
            sums.kept += zone.high as f64;
        }
        sums
    }

    fn of_blocks(known: &Known<'_>, node: Option<Node>) -> Self {
        let survey = known.survey;
        let blocks = survey.classes(node);
        let pages = |classes: &[Class], kinds: &[Kind]| -> f64 {
            let zones = survey.of_node(node);
            let each = |zone: &super::survey::ZoneSurvey| -> u64 {
                let pairs =
                    classes.iter().flat_map(|class| kinds.iter().map(move |kind| (class, kind)));
                pairs.map(|(&class, &kind)| zone.pages_in(class, kind)).sum()
            };
            zones.map(each).sum::<u64>() as f64
        };
        let (good, bad) = ([Class::Free, Class::Recoverable], [Class::Slab, Class::Blocked]);
        let hot = |(number, block): (usize, &Block)| {
            block.is_hot() && (node.is_none() || survey.node_of(number) == node)
        };
        let hot = survey.blocks.iter().enumerate().filter(|&block| hot(block)).count() as u64;
        let hot = (hot * survey.one_in) as f64;
        let at_top = survey.of_node(node).map(|zone| zone.anonymous_at_top).sum::<u64>() as f64;
        let can_go = blocks[Class::Free.index()] + blocks[Class::Recoverable.index()];
        Self {
            suitable: 0.0,
            spare: 0.0,
            kept: 0.0,
            can_go: (can_go as f64 - hot - at_top - held(known, node)).max(0.0),
            slab: shrinking(known, node),
            offline: recyclable(known, node),
            files: pages(&[Class::Recoverable, Class::Slab, Class::Blocked], &[Kind::File])
                - hot * survey.pages_a_block() as f64,
            to_move: pages(&good, &[Kind::Anon, Kind::Locked]),
            room: pages(&bad, &[Kind::Free, Kind::File]),
        }
    }
}

/// Blocks of slab that shrinking should free.
fn shrinking(known: &Known<'_>, node: Option<Node>) -> f64 {
    let survey = known.survey;
    let blocks = survey.blocks.iter().enumerate().filter(|(number, block)| {
        block.class() == Class::Slab && (node.is_none() || survey.node_of(*number) == node)
    });
    let goes =
        |(number, block)| shrinks(known, block) * (1.0 - chance(known.pinned, number as u64));
    blocks.map(goes).sum::<f64>() * survey.one_in as f64
}

/// Hot blocks in the memory blocks that would be taken offline.
fn recyclable(known: &Known<'_>, node: Option<Node>) -> f64 {
    let survey = known.survey;
    // A glance sees no memory block whole.
    let Some(size) = known.memory_block.filter(|_| survey.one_in == 1) else { return 0.0 };
    let mut hot: Vec<_> = hotplug::that_empty(survey, size, node, |b| !is_held(known.pinned, b))
        .map(|(_, blocks)| blocks.iter().filter(|block| block.is_hot()).count())
        .collect();
    hot.sort_unstable_by_key(|&hot| std::cmp::Reverse(hot));
    hot.iter().take(hotplug::TRIES).sum::<usize>() as f64
}

/// How likely it is that shrinking frees a block of slab.
fn shrinks(known: &Known<'_>, block: &Block) -> f64 {
    match block.blockers() {
        few if u64::from(few) < known.survey.pages_a_block() / 2 => {
            known.slab_share.powi(few as i32)
        }
        _ => known.slab_share,
    }
}

/// Blocks that would be recoverable if nothing were pinned in them.
fn held(known: &Known<'_>, node: Option<Node>) -> f64 {
    let survey = known.survey;
    let here = |&block: &u64| {
        let there = survey.blocks.get(block as usize);
        there.is_some_and(|block| block.class() == Class::Recoverable)
            && (node.is_none() || survey.node_of(block as usize) == node)
    };
    let blocks: BTreeSet<_> = known.pinned.iter().flat_map(|pinned| pinned.blocks.keys()).collect();
    let blocks = blocks.into_iter().copied().filter(here);
    blocks.map(|block| chance(known.pinned, block)).sum::<f64>() * survey.one_in as f64
}

fn small(known: &Known<'_>, sums: &Sums, page: PageSize) -> Vec<(Rung, f64)> {
    let a_page = (1u64 << (page.shift() - known.survey.base.shift())) as f64;
    let blocks_a_page = page.bytes().get() as f64 / PageSize::MIB2.bytes().get() as f64;
    // Anonymous pages that find no room elsewhere keep blocks for themselves.
    let bound = |blocks: f64, room: f64| {
        let cramped = (sums.to_move + sums.kept - room).max(0.0) / a_page;
        (blocks / blocks_a_page - cramped).max(0.0)
    };
    let compact = (sums.spare / a_page).floor().min(sums.can_go / blocks_a_page);
    let reclaim = bound(sums.can_go, sums.room).min((sums.spare + sums.files) / a_page);
    let slab_pages = sums.slab * known.survey.pages_a_block() as f64;
    let slab = bound(sums.can_go + sums.slab, sums.room)
        .min((sums.spare + sums.files + slab_pages) / a_page);
    vec![
        (Rung::Ask, sums.suitable),
        (Rung::Compact, compact),
        (Rung::Reclaim, reclaim),
        (Rung::Slab, slab),
        (Rung::Offline, slab + sums.offline / blocks_a_page),
    ]
}

/// By aligned runs of blocks that can be emptied, and by how much room there is for what is in them.
fn gigantic(
    known: &Known<'_>,
    sums: &Sums,
    page: PageSize,
    node: Option<Node>,
) -> Vec<(Rung, f64)> {
    let a_page = (1u64 << (page.shift() - known.survey.base.shift())) as f64;
    let runs = |slab| runs(known, page, node, slab) as f64;
    let (plain, with_slab) = (runs(false), runs(true));
    let room = |pages: f64| (pages / a_page).floor();
    vec![
        (Rung::Ask, plain.min(room(sums.spare))),
        (Rung::Reclaim, plain.min(room(sums.spare + sums.files))),
        (Rung::Slab, with_slab.min(room(sums.spare + sums.files))),
    ]
}

/// Aligned runs of a page's size in which nothing stands that cannot go.
fn runs(known: &Known<'_>, page: PageSize, node: Option<Node>, slab: bool) -> u64 {
    let len = (page.bytes().get() >> PageSize::MIB2.shift()) as usize;
    let goes = |block: &Block| match block.class() {
        Class::Free | Class::Recoverable => 1.0,
        Class::Slab if slab => shrinks(known, block),
        _ => 0.0,
    };
    let pinned = |block: usize| is_held(known.pinned, block as u64);
    let good = |(number, blocks): (usize, &[Block])| {
        let first = number * len;
        blocks.len() == len
            && (node.is_none() || known.survey.node_of(first) == node)
            && known.survey.node_of(first) == known.survey.node_of(first + len - 1)
            && blocks.iter().map(goes).product::<f64>() > 0.5
            && !(first..first + len).any(pinned)
    };
    let all = known.survey.blocks.chunks(len).enumerate();
    all.filter(|&(number, blocks)| good((number, blocks))).count() as u64
}

#[cfg(test)]
#[path = "predict_tests.rs"]
mod tests;
