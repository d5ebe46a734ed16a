//! Predictions for made-up memories.

use std::collections::BTreeMap;

use super::super::holders::Process;
use super::super::made_up::MadeUp;
use super::super::survey::survey;
use super::super::zones::zones;
use super::*;

const BASE: PageSize = PageSize::KIB4;
const FREE: u64 = 1 << 10;
const FILE: u64 = 1 << 5;
const ANON: u64 = 1 << 5 | 1 << 12;
const SLAB: u64 = 1 << 7;
const PGTABLE: u64 = 1 << 26;

struct Memory {
    survey: Survey,
    zones: Vec<Zone>,
}

/// One zone with blocks of one kind each but for the last page; `free` as the zone tells it.
fn memory(blocks: &[(u64, u64)], by_order: &[u64]) -> Memory {
    let machine = MadeUp::empty();
    let words = blocks.iter().flat_map(|&(most, last)| {
        std::iter::repeat_n(most, 511).chain([last]).flat_map(u64::to_ne_bytes)
    });
    machine.put("proc/kpageflags", words.collect::<Vec<u8>>());
    let pages = blocks.len() * 512;
    let free: u64 = by_order.iter().enumerate().map(|(order, n)| n << order).sum();
    machine.put(
        "proc/zoneinfo",
        format!(
            "Node 0, zone Normal\n  pages free {free}\n low 0\n high 0\n spanned {pages}\n \
             present {pages}\n managed {pages}\n start_pfn: 0\n"
        ),
    );
    let orders: Vec<_> = by_order.iter().map(u64::to_string).collect();
    machine.put("proc/buddyinfo", format!("Node 0, zone Normal {}\n", orders.join(" ")));
    Memory {
        survey: survey(machine.files(), BASE).unwrap(),
        zones: zones(machine.files()).unwrap(),
    }
}

fn promises(memory: &Memory, pinned: &[Pinned], slab_share: f64, page: PageSize) -> Vec<u64> {
    let mut promises = promises_with(memory, pinned, slab_share, page, None);
    if page == PageSize::MIB2 {
        let offline = promises.pop();
        assert_eq!(offline, promises.last().copied(), "nothing more without memory blocks");
    }
    promises
}

fn promises_with(
    memory: &Memory,
    pinned: &[Pinned],
    slab_share: f64,
    page: PageSize,
    memory_block: Option<Bytes>,
) -> Vec<u64> {
    let Memory { survey, zones } = memory;
    let known = Known { survey, zones, pinned, slab_share, memory_block };
    predict(&known, page, None).iter().map(|promise| promise.pages).collect()
}

#[test]
fn each_rung_promises_what_it_can_reach() {
    // Two free blocks; four of files, of which one has a page table; two of slab; and 600 free pages
    // in pieces that stand in the fourth block of files.
    let blocks = [
        (FREE, FREE),
        (FREE, FREE),
        (FILE, FILE),
        (FILE, FILE),
        (FILE, FILE),
        (FILE, PGTABLE),
        (SLAB, SLAB),
        (SLAB, SLAB),
    ];
    let memory = memory(&blocks, &[600, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    // compact: of 1,624 free pages three blocks; reclaim: all five that can be emptied; half of slab.
    assert_eq!(promises(&memory, &[], 0.5, PageSize::MIB2), [2, 3, 5, 6]);
}

#[test]
fn every_page_of_slab_among_others_has_to_be_one_that_shrinks() {
    let few = memory(&[(FILE, SLAB), (FILE, SLAB), (FILE, SLAB), (FILE, SLAB)], &[512]);
    assert_eq!(promises(&few, &[], 0.5, PageSize::MIB2), [0, 0, 0, 2], "one page each");
    let full = memory(&[(SLAB, SLAB); 4], &[512]);
    assert_eq!(promises(&full, &[], 0.5, PageSize::MIB2), [0, 0, 0, 2], "of one kind each");
    let some = {
        let machine = MadeUp::empty();
        let words = (0..4 * 512).map(|page| if page % 128 == 0 { SLAB } else { FILE });
        machine.put("proc/kpageflags", words.flat_map(u64::to_ne_bytes).collect::<Vec<u8>>());
        let zone = "Node 0, zone Normal\n pages free 512\n high 0\n spanned 2048\n present 2048\n \
                    managed 2048\n start_pfn: 0\n";
        machine.put("proc/zoneinfo", zone);
        machine.put("proc/buddyinfo", "Node 0, zone Normal 512\n");
        Memory {
            survey: survey(machine.files(), BASE).unwrap(),
            zones: zones(machine.files()).unwrap(),
        }
    };
    assert_eq!(promises(&some, &[], 0.5, PageSize::MIB2), [0, 0, 0, 0], "a sixteenth of four");
    assert_eq!(promises(&some, &[], 0.9, PageSize::MIB2), [0, 0, 0, 3]);
}

#[test]
fn anonymous_memory_needs_room_elsewhere() {
    // Two blocks of it, and no others to put it in.
    let memory =
        memory(&[(ANON, ANON), (ANON, ANON), (FREE, FREE)], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(promises(&memory, &[], 0.0, PageSize::MIB2), [1, 1, 1, 1]);
    // Half of one block is free, the other half anonymous, in each of four: two can be emptied.
    let halves = memory_of_halves();
    assert_eq!(promises(&halves, &[], 0.0, PageSize::MIB2), [0, 2, 2, 2]);
}

fn memory_of_halves() -> Memory {
    let machine = MadeUp::empty();
    let words = (0..4 * 512).map(|page| if page % 2 == 0 { ANON } else { FREE });
    machine.put("proc/kpageflags", words.flat_map(u64::to_ne_bytes).collect::<Vec<u8>>());
    machine.put(
        "proc/zoneinfo",
        "Node 0, zone Normal\n pages free 1024\n high 0\n spanned 2048\n present 2048\n \
         managed 2048\n start_pfn: 0\n",
    );
    machine.put("proc/buddyinfo", "Node 0, zone Normal 1024\n");
    Memory {
        survey: survey(machine.files(), BASE).unwrap(),
        zones: zones(machine.files()).unwrap(),
    }
}

#[test]
fn files_in_frequent_use_that_fill_blocks_are_not_promised() {
    let mut memory = memory(&[(FILE, FILE), (FILE, FILE), (FREE, FREE)], &[512]);
    let most = |memory: &Memory| promises(memory, &[], 0.0, PageSize::MIB2).last().copied();
    assert_eq!(most(&memory), Some(3));
    heat(&mut memory, &[0]);
    assert_eq!(most(&memory), Some(2));
}

fn heat(memory: &mut Memory, blocks: &[usize]) {
    for &block in blocks {
        memory.survey.blocks[block] = memory.survey.blocks[block].heated();
        assert!(memory.survey.blocks[block].is_hot());
    }
}

#[test]
fn going_offline_empties_what_is_hot_where_nothing_else_stands() {
    // Memory blocks of two blocks: with slab, clean, and with a page that somebody has pinned.
    let blocks =
        [(FILE, FILE), (SLAB, SLAB), (FILE, FILE), (FILE, FILE), (FILE, FILE), (FILE, ANON)];
    let mut memory = memory(&blocks, &[4096]);
    heat(&mut memory, &[0, 2, 3, 4]);
    let pinned = |chance| [Pinned { process: holder(), blocks: BTreeMap::from([(5, chance)]) }];
    let promises = |chance, size| {
        let size = Some(Bytes::mib(size));
        promises_with(&memory, &pinned(chance), 0.0, PageSize::MIB2, size)
    };
    assert_eq!(promises(1.0, 4), [0, 0, 0, 0, 2]);
    assert_eq!(promises(0.0, 4), [0, 1, 1, 1, 4]);
    assert_eq!(promises(1.0, 8), [0, 0, 0, 0, 0]);
    memory.survey.one_in = 8;
    let glanced = promises_with(&memory, &[], 0.0, PageSize::MIB2, Some(Bytes::mib(4)));
    assert_eq!(glanced[3], glanced[4], "a glance sees no memory block whole");
}

#[test]
fn slab_does_not_go_where_pages_are_pinned() {
    let memory = memory(&[(SLAB, SLAB), (SLAB, ANON), (FILE, SLAB), (FILE, FILE)], &[2048]);
    let slab = |blocks: &[u64]| {
        let blocks = blocks.iter().map(|&block| (block, 1.0)).collect();
        let pinned = [Pinned { process: holder(), blocks }];
        promises(&memory, &pinned, 1.0, PageSize::MIB2)[3]
    };
    assert_eq!((slab(&[]), slab(&[1]), slab(&[1, 2])), (4, 3, 2));
}

#[test]
fn what_a_zone_protects_is_not_promised() {
    let mut memory = memory(&[(FREE, FREE), (FREE, FREE)], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    let first = |memory: &Memory| promises(memory, &[], 0.0, PageSize::MIB2)[0];
    assert_eq!(first(&memory), 2);
    memory.zones[0].protected = 1;
    assert_eq!(first(&memory), 1);
}

#[test]
fn a_glance_may_be_off_and_a_survey_may_not() {
    let mut memory = memory(&[(FILE, FILE); 800], &[0]);
    assert_eq!(margin(&memory.survey, PageSize::MIB2, 400), 0);
    memory.survey.one_in = 8;
    // Three times the square root of 800 · 8 / 4.
    assert_eq!(margin(&memory.survey, PageSize::MIB2, 400), 120);
    assert!(margin(&memory.survey, PageSize::MIB2, 800) > 0, "alike does not mean certain");
}

#[test]
fn pinned_pages_hold_their_blocks() {
    let memory = memory(&[(FILE, FILE), (FILE, ANON), (FILE, ANON), (FREE, FREE)], &[512]);
    let promised = |chance| {
        let blocks = BTreeMap::from([(1, chance), (2, chance)]);
        let pinned = [Pinned { process: holder(), blocks }];
        promises(&memory, &pinned, 0.0, PageSize::MIB2).last().copied()
    };
    assert_eq!(promised(1.0), Some(2));
    assert_eq!(promised(0.5), Some(3));
}

fn holder() -> Process {
    Process {
        pid: 1,
        name: "holder".into(),
        page_table_bytes: 0,
        locked_bytes: 0,
        pinned_bytes: 8192,
        resident_bytes: 8192,
    }
}

#[test]
fn gigantic_pages_need_whole_runs() {
    let mut blocks = vec![(FREE, FREE); 1536];
    blocks[100] = (FREE, PGTABLE);
    blocks[600] = (FREE, SLAB);
    let memory = memory(&blocks, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1534]);
    assert_eq!(promises(&memory, &[], 1.0, PageSize::GIB1), [1, 1, 2]);
    assert_eq!(promises(&memory, &[], 0.7, PageSize::GIB1), [1, 1, 2], "one page of slab");
    blocks[700..704].fill((FREE, SLAB));
    let memory = self::memory(&blocks, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 1530]);
    assert_eq!(promises(&memory, &[], 0.7, PageSize::GIB1), [1, 1, 1], "five, all to shrink");
    assert_eq!(promises(&memory, &[], 0.0, PageSize::GIB1), [1, 1, 1]);
}

#[test]
fn anonymous_pages_where_compaction_moves_pages_to_stay() {
    let reclaim = |anonymous: std::ops::Range<usize>| {
        let mut blocks = [(FILE, FILE); 64];
        blocks[anonymous].fill((ANON, ANON));
        promises(&memory(&blocks, &[5120]), &[], 0.0, PageSize::MIB2)[2]
    };
    // Of 64 blocks the last two are the top of their zone.
    assert_eq!((reclaim(0..4), reclaim(60..64), reclaim(58..62)), (60, 58, 60));
}
