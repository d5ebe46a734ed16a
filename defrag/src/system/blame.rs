//! Who stands in the way of contiguity, in one value: what `hugectl blame` shows.

use bookend::units::{Node, PageSize};
use serde::Serialize;

use super::files::{FileError, Files};
use super::holders::{self, Process, processes, top};
use super::slabs::{Cache, caches};
use super::status::{Missing, why};
use super::survey::{Class, Kind, Survey, survey};

/// Who stands in the way.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Blame {
    /// Blockers by kind, most first.
    pub kinds: Vec<KindCount>,
    /// How many blocks have 1, 2 to 3, 4 to 7, … blockers.
    pub histogram: Vec<u64>,
    /// Blocks that slab alone spoils.
    pub slab_blocks: u64,
    /// Blocks that something else spoils.
    pub blocked_blocks: u64,
    /// Blocks that a single page spoils, lowest first; as many as were asked for.
    pub single: Vec<Single>,
    /// How many of these there are in all.
    pub single_blocks: u64,
    /// The largest slab caches.
    pub caches: Vec<Cache>,
    /// Processes with most page tables.
    pub page_tables: Vec<Process>,
    /// Processes that have pinned pages, and how many blocks these stand in at most.
    pub pinned: Vec<PinnedBy>,
    /// Processes with most locked pages.
    pub locked: Vec<Process>,
    /// What could not be read.
    pub missing: Vec<Missing>,
}

/// Pages of a kind that cannot be moved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KindCount {
    /// The kind.
    pub kind: Kind,
    /// How many pages.
    pub pages: u64,
    /// How many blocks they are the most frequent blocker of.
    pub blocks: u64,
}

/// A block that one page spoils.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Single {
    /// Its physical address.
    pub address: u64,
    /// What the page is.
    pub kind: Kind,
}

/// A process that has pinned pages.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct PinnedBy {
    /// The process.
    #[serde(flatten)]
    pub process: Process,
    /// Blocks its pinned pages stand in, as far as can be told; `None` where frames are hidden.
    pub blocks: Option<u64>,
}

/// Gathers it for a node or the whole machine; names at most `n` of everything.
pub fn blame(files: &Files, base: PageSize, node: Option<Node>, n: usize) -> Blame {
    let mut missing = Vec::new();
    let seen = note(&mut missing, "blocks", survey(files, base));
    let caches = note(&mut missing, "slab caches", caches(files, base));
    let all = note(&mut missing, "processes", processes(files)).unwrap_or_default();
    let most = |of: fn(&Process) -> u64| top(&all, n, of).into_iter().cloned().collect();
    let single = |survey: &Survey| -> Vec<Single> {
        let blocks = survey.spoilt_by(1, node);
        blocks.map(|block| Single { address: block.address, kind: block.worst }).collect()
    };
    let mut singles = seen.as_ref().map(single).unwrap_or_default();
    let single_blocks = singles.len() as u64;
    singles.truncate(n);
    let classes = seen.as_ref().map_or([0; Class::COUNT], |survey| survey.classes(node));
    Blame {
        kinds: seen.as_ref().map(|survey| kinds_of(survey, node)).unwrap_or_default(),
        histogram: seen.as_ref().map(|survey| survey.histogram(node)).unwrap_or_default(),
        slab_blocks: classes[Class::Slab.index()],
        blocked_blocks: classes[Class::Blocked.index()],
        single: singles,
        single_blocks,
        caches: caches.unwrap_or_default().into_iter().take(n).collect(),
        page_tables: most(|process| process.page_table_bytes),
        pinned: pinned_by(files, base, &all, n, &mut missing),
        locked: most(|process| process.locked_bytes),
        missing,
    }
}

fn note<T>(
    missing: &mut Vec<Missing>,
    what: &'static str,
    read: Result<T, FileError>,
) -> Option<T> {
    read.inspect_err(|error| missing.push(Missing { what, why: why(error) })).ok()
}

/// Blockers by kind, those that most blocks have most of first.
pub fn kinds_of(survey: &Survey, node: Option<Node>) -> Vec<KindCount> {
    let mut worst = [0; Kind::COUNT];
    survey.spoilt_by(u32::MAX, node).for_each(|block| worst[block.worst.index()] += 1);
    let blockers = Kind::ALL.into_iter().filter(|kind| kind.is_blocker());
    let mut kinds: Vec<_> = blockers
        .filter(|&kind| !matches!(kind, Kind::Absent | Kind::Offline))
        .map(|kind| KindCount {
            kind,
            pages: survey.pages_of(kind, node),
            blocks: worst[kind.index()],
        })
        .filter(|count| count.pages > 0)
        .collect();
    kinds.sort_by_key(|count| std::cmp::Reverse(count.blocks));
    kinds
}

fn pinned_by(
    files: &Files,
    base: PageSize,
    all: &[Process],
    n: usize,
    missing: &mut Vec<Missing>,
) -> Vec<PinnedBy> {
    let frames = note(missing, "frames of pinned pages", holders::pinned(files, base, all));
    let blocks = |process: &Process| {
        let found = frames.as_ref()?.iter().find(|pinned| pinned.process.pid == process.pid)?;
        Some(found.expected_blocks().round() as u64)
    };
    let most = top(all, n, |process| process.pinned_bytes).into_iter();
    most.map(|process| PinnedBy { process: process.clone(), blocks: blocks(process) }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    #[test]
    fn blockers_are_counted_and_what_cannot_be_read_is_said() {
        let machine = MadeUp::two_nodes();
        let (free, table) = (1u64 << 10, 1u64 << 26);
        let words = std::iter::repeat_n(free, 511).chain([table]);
        machine.put("proc/kpageflags", words.flat_map(u64::to_ne_bytes).collect::<Vec<_>>());
        machine.put("proc/7/status", "Name:\tx\nVmSize: 9 kB\nVmPTE: 4 kB\nVmPin: 8 kB\n");
        let blame = blame(machine.files(), PageSize::KIB4, None, 3);
        let kind = KindCount { kind: Kind::PageTable, pages: 1, blocks: 1 };
        assert_eq!((blame.kinds, blame.blocked_blocks), (vec![kind], 1));
        assert_eq!((blame.single_blocks, blame.single[0].address), (1, 0));
        assert_eq!(blame.page_tables[0].name, "x");
        assert_eq!((blame.pinned.len(), blame.pinned[0].blocks), (1, None));
        let missing: Vec<_> = blame.missing.iter().map(|missing| missing.what).collect();
        assert_eq!(missing, ["slab caches"], "a process without maps has just ended");
    }
}
