//! Surveys of a made-up memory: what is counted where, and what becomes of broken files.

use bookend::units::PageSize;

use super::snapshot::{Snapshot, SnapshotError};
use super::*;
use crate::system::files::{FileError, Files};
use crate::system::made_up::MadeUp;

const BASE: PageSize = PageSize::KIB4;
const FREE: u64 = 1 << 10;
const FILE: u64 = 1 << 5;
const SLAB: u64 = 1 << 7;
const PGTABLE: u64 = 1 << 26;

/// Two nodes; memory of `blocks`, each of one kind of pages but for its last page.
fn machine(blocks: &[(u64, u64)]) -> MadeUp {
    let machine = MadeUp::two_nodes();
    let mut bytes = Vec::new();
    for &(most, last) in blocks {
        let words = std::iter::repeat_n(most, 511).chain([last]);
        bytes.extend(words.flat_map(u64::to_ne_bytes));
    }
    machine.put("proc/kpageflags", bytes);
    machine
}

#[test]
fn every_block_is_seen_once_whatever_the_threads_do() {
    // More than a piece, and no whole number of pieces.
    let kinds = [(FREE, FREE), (FILE, FREE), (FREE, SLAB), (FILE, 0), (PGTABLE, 0)];
    let blocks: Vec<_> = kinds.iter().cycle().take(1111).copied().collect();
    let machine = machine(&blocks);
    let survey = survey(machine.files(), BASE).unwrap();
    assert_eq!(survey.blocks.len(), 1111);
    let classes = [Class::Free, Class::Recoverable, Class::Slab, Class::Blocked, Class::Blocked];
    for (index, block) in survey.blocks.iter().enumerate() {
        assert_eq!(block.class(), classes[index % 5], "{index}");
    }
    // Node 0 ends at 2 GiB, which is block 1024.
    let first = survey.classes(Some(Node::new(0)));
    let both = survey.classes(None);
    assert_eq!(first.iter().sum::<u64>(), 1024);
    assert_eq!(both.iter().sum::<u64>(), 1111);
    assert_eq!(survey.node_of(1023), Some(Node::new(0)));
    assert_eq!(survey.node_of(1024), Some(Node::new(1)));
    let tables = blocks.iter().filter(|block| block.0 == PGTABLE).count() as u64;
    assert_eq!(survey.pages_of(Kind::PageTable, None), tables * 511);
}

#[test]
fn a_glance_estimates_what_a_survey_counts() {
    // Whatever stands in every eighth block, or in one long run, a glance meets it as often.
    let cycle = |index: usize| if index % 8 == 3 || index < 1000 { PGTABLE } else { FREE };
    let blocks: Vec<_> = (0..8000).map(|index| (cycle(index), FREE)).collect();
    let machine = machine(&blocks);
    machine.put(
        "proc/zoneinfo",
        "Node 0, zone Normal\n pages free 0\n high 0\n spanned 4096000\n present 4096000\n \
         managed 4096000\n start_pfn: 0\n",
    );
    let whole = survey(machine.files(), BASE).unwrap();
    let part = glance(machine.files(), BASE).unwrap();
    assert_eq!((whole.one_in, part.one_in, part.blocks.len()), (1, 8, 8000));
    assert_eq!(part.classes(None).iter().sum::<u64>(), 8000);
    for class in [Class::Free, Class::Blocked] {
        let count = |survey: &Survey| survey.classes(None)[class.index()];
        let off = count(&part).abs_diff(count(&whole));
        assert!(off < 300, "{class:?}: {} for {}", count(&part), count(&whole));
    }
    // What was looked at is as it is.
    let seen = part.blocks.iter().zip(&whole.blocks).filter(|(part, _)| **part != Block::ABSENT);
    let same = seen.filter(|(part, whole)| part == whole).count();
    assert_eq!(same, 1000);
}

#[test]
fn pages_of_files_as_large_as_a_block_are_told_where_they_are_in_use() {
    let (active, head, tail) = (1 << 6, 1 << 15, 1 << 16);
    let block = |first, rest| std::iter::once(first).chain(std::iter::repeat_n(rest, 511));
    let hot = |flags| is_hot(block(flags | head, FILE | tail));
    assert!(hot(FILE | active));
    assert!(!hot(FILE), "reclaim can have it");
    assert!(!hot(FILE | active | 1 << 12), "anonymous memory is not reclaimed");
    let halves = block(FILE | active | head, FILE | tail).take(511).chain([FILE]);
    assert!(!is_hot(halves));
}

/// Whether the first block of a memory with these flags is.
fn is_hot(words: impl Iterator<Item = u64>) -> bool {
    let machine = MadeUp::two_nodes();
    machine.put("proc/kpageflags", words.flat_map(u64::to_ne_bytes).collect::<Vec<_>>());
    survey(machine.files(), BASE).unwrap().blocks[0].is_hot()
}

#[test]
fn the_blocks_that_one_page_spoils_are_named() {
    let machine = machine(&[(FREE, FREE), (FILE, PGTABLE), (PGTABLE, FREE), (FREE, SLAB)]);
    let survey = survey(machine.files(), BASE).unwrap();
    let spoilt: Vec<_> = survey.spoilt_by(1, None).collect();
    let expected = [(2 << 20, Kind::PageTable), (6 << 20, Kind::Slab)];
    assert_eq!(spoilt.len(), 2);
    for (spoilt, (address, worst)) in spoilt.iter().zip(expected) {
        assert_eq!((spoilt.address, spoilt.blockers, spoilt.worst), (address, 1, worst));
    }
    let histogram = survey.histogram(None);
    assert_eq!((histogram.len(), histogram[0], histogram[8], histogram[9]), (10, 2, 1, 0));
    assert_eq!(survey.histogram(Some(Node::new(1))).iter().sum::<u64>(), 0);
}

#[test]
fn neighbours_of_a_class_are_one_run() {
    let machine = machine(&[(FREE, FREE), (FREE, FREE), (FILE, FILE), (FREE, FREE)]);
    let survey = survey(machine.files(), BASE).unwrap();
    let runs = |class| survey.runs_of(class, None);
    assert_eq!((runs(Class::Free), runs(Class::Recoverable), runs(Class::Hugetlb)), (2, 1, 0));
    assert_eq!(survey.runs_of(Class::Free, Some(Node::new(1))), 0);
}

#[test]
fn spoilt_gigabytes_are_told_with_what_spoils_them() {
    let mut blocks = vec![(FREE, FREE); 1024 + 512];
    blocks[3] = (FREE, SLAB);
    blocks[4] = (FREE, SLAB);
    blocks[1100] = (PGTABLE, FREE);
    let machine = machine(&blocks);
    let survey = survey(machine.files(), BASE).unwrap();
    let regions = survey.spoilt_regions(PageSize::GIB1, None);
    let expected = [(2 << 30, 1, 511, Kind::PageTable), (0, 2, 2, Kind::Slab)];
    let told: Vec<_> = regions.iter().map(|r| (r.address, r.blocks, r.blockers, r.worst)).collect();
    assert_eq!(told, expected);
    let second = survey.spoilt_regions(PageSize::GIB1, Some(Node::new(1)));
    assert_eq!((second.len(), second[0].address), (1, 2 << 30));
}

#[test]
fn a_block_can_be_looked_at_page_by_page() {
    let machine = machine(&[(FREE, FREE), (FILE, PGTABLE)]);
    let pages = pages_of(machine.files(), BASE, 1).unwrap();
    assert_eq!((pages.len(), pages[0], pages[511]), (512, Kind::File, Kind::PageTable));
    let beyond = pages_of(machine.files(), BASE, 2).unwrap();
    assert_eq!(beyond, [Kind::Absent; 512]);
}

#[test]
fn without_the_file_nothing_is_claimed() {
    let machine = MadeUp::two_nodes();
    assert!(matches!(survey(machine.files(), BASE), Err(FileError::Absent { .. })));
}

#[test]
fn this_machine_adds_up_or_says_who_may_look() {
    let base = PageSize::KIB4;
    match survey(&Files::of_machine(), base) {
        Err(error) if error.is_denied() => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "skipped: a survey of this machine: {error}");
        }
        survey => {
            let survey = survey.unwrap();
            let all: u64 = survey.classes(None).iter().sum();
            assert!(all > 0 && all <= survey.blocks.len() as u64);
        }
    }
}

#[test]
fn snapshots_read_back_and_show_what_changed() {
    let files = |blocks| {
        let machine = machine(blocks);
        let Survey { base, blocks, .. } = survey(machine.files(), BASE).unwrap();
        Snapshot { base, blocks }
    };
    let before = files(&[(FREE, SLAB), (FREE, SLAB), (FILE, 0)]);
    let after = files(&[(FREE, FREE), (FREE, FREE), (FILE, 0), (FREE, FREE)]);
    let mut bytes = Vec::new();
    before.write(&mut bytes).unwrap();
    assert_eq!(Snapshot::read(&mut bytes.as_slice()).unwrap(), before);
    let changes = before.changes(&after);
    assert_eq!(changes, [(Class::Slab, Class::Free, 2), (Class::Absent, Class::Free, 1)]);

    let read = |bytes: &[u8]| Snapshot::read(&mut { bytes }).unwrap_err();
    assert!(matches!(read(&bytes[..bytes.len() - 1]), SnapshotError::Damaged(2)));
    assert!(matches!(read(b"ELF"), SnapshotError::NotAMap));
    assert!(matches!(read(b"bookend-map 9 4096 0\n"), SnapshotError::Version(9)));
    assert!(matches!(read(b"bookend-map 1 4095 0\n"), SnapshotError::NotAMap));
    let last_word = bytes.len() - 4;
    bytes[last_word] = 0xff;
    assert!(matches!(read(&bytes), SnapshotError::Damaged(2)));
}

#[test]
fn free_pages_in_per_cpu_lists_are_no_blockers() {
    // One page without flags in each of the first two, ten in the third.
    let machine = machine(&[(FILE, 0), (FREE, 0), (FILE, FILE)]);
    let bytes = [FILE; 502].into_iter().chain([0; 10]).flat_map(u64::to_ne_bytes);
    let path = machine.files().path("proc/kpageflags");
    let flags: Vec<u8> =
        std::fs::read(path).unwrap()[..2 * 4096].iter().copied().chain(bytes).collect();
    machine.put("proc/kpageflags", flags);
    let classes = |machine: &MadeUp| survey(machine.files(), BASE).unwrap().classes(None);
    let blocked = |machine: &MadeUp| classes(machine)[Class::Blocked.index()];
    assert_eq!(blocked(&machine), 3, "the lists are empty");
    let zoneinfo = std::fs::read_to_string(machine.files().path("proc/zoneinfo")).unwrap();
    for (in_lists, still_blocked) in [(1, 3), (2, 1), (11, 1), (12, 0)] {
        let counted =
            format!("  cpu: 0\n              count:    {in_lists}\n  start_pfn:           0");
        machine.put("proc/zoneinfo", zoneinfo.replacen("  start_pfn:           0", &counted, 1));
        assert_eq!(blocked(&machine), still_blocked, "{in_lists}");
    }
    let survey = survey(machine.files(), BASE).unwrap();
    assert_eq!(survey.pages_of(Kind::Kernel, None), 0);
    assert_eq!(survey.pages_of(Kind::Free, None), 511 + 12);
    assert_eq!(survey.classes(None)[Class::Recoverable.index()], 3);
}
