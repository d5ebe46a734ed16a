//! Making room: what `bookend_defrag::process` plans for the table, carried out on it.
//!
//! The planner sees the table as it sees a heap: extents of the trace, and blocks of small objects, go whole
//! to other blocks, for that keeps runs together. Only where too few blocks are free in all, the objects of
//! sparse blocks are put into others, and then blocks of small objects are shown as what they hold.

use bookend::movable::{BinShape, Holds, Occupied, Share, Snapshot};
use bookend::placement::{Class, Placement};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};
use bookend_defrag::process::{Plan, Shortfall, Step, Target, plan};

use super::backing::Backing;
use super::contents::{Contents, one};
use super::shelf::PAGES;
use super::trace::PAGE;

/// Moves things so that so many blocks in a row are free, where the target says. `false` where that cannot
/// be.
pub fn make_room<B: Backing>(
    table: &mut Placement,
    contents: &mut Contents<B>,
    wanted: Blocks,
    target: fn(Blocks) -> Target,
) -> bool {
    let mut planned = plan(&extents(table), target(wanted));
    if let Some(Shortfall::TooFew { free }) = planned.shortfall {
        if !release(table, contents, wanted - free) {
            return false;
        }
        planned = plan(&extents(table), target(wanted));
    }
    carry_out(table, contents, &planned);
    planned.shortfall.is_none()
}

/// Frees so many blocks more by putting small objects together. `false` where it came to fewer.
pub fn release<B: Backing>(
    table: &mut Placement,
    contents: &mut Contents<B>,
    wanted: Blocks,
) -> bool {
    let planned = plan(&boards(table, contents), Target::FreeBlocks(wanted));
    let emptied = planned.steps.iter().filter_map(|step| match *step {
        Step::Empty(block) => Some(block),
        Step::Move { .. } => None,
    });
    contents.empty(&emptied.collect::<Vec<_>>(), table) >= wanted
}

fn carry_out<B: Backing>(table: &mut Placement, contents: &mut Contents<B>, planned: &Plan) {
    for step in &planned.steps {
        let Step::Move { extent, to } = *step else { continue }; // there are no others
        match table.begin_move(extent, to) {
            Ok(begun) => {
                contents.carry(begun.from(), begun.to());
                let ended = table.moved(begun);
                debug_assert!(ended.is_ok(), "begun here: {ended:?}");
            }
            Err(misuse) => debug_assert!(false, "a planned step is legal: {misuse}"),
        }
    }
}

/// The table, all that can move in extents.
fn extents(table: &Placement) -> Snapshot {
    let bottom = table.pinned_end();
    let mut snapshot = Snapshot {
        capacity: table.capacity(),
        pinned_end: Some(bottom),
        huge_start: Some(table.huge_start()),
        movable: Vec::with_capacity(table.extents(Class::Movable) as usize),
        ..Snapshot::default()
    };
    if bottom.get() > 0 {
        // Holes between pinned extents are nothing to count on.
        snapshot.fixed.push(BlockRange::new(BlockId::new(0), Blocks::new(bottom.get())));
    }
    for placed in table.iter_extents(bottom) {
        match placed.class {
            Class::Movable => snapshot.movable.push(Occupied {
                range: placed.range,
                live: placed.range.len().bytes(),
                holds: Holds::Long,
                free_slices: 0,
                shares: (0, 0),
            }),
            Class::Pinned | Class::Huge => snapshot.fixed.push(placed.range),
        }
    }
    snapshot
}

/// The blocks of small movable objects, in places of a page.
fn boards<B: Backing>(table: &Placement, contents: &Contents<B>) -> Snapshot {
    let shape = BinShape { place: PAGE, places: PAGES, slices: 1 };
    let mut snapshot =
        Snapshot { capacity: table.capacity(), bins: vec![shape], ..Snapshot::default() };
    for (block, taken) in contents.movable_blocks() {
        let first = snapshot.shares.len() as u32;
        snapshot.shares.push(Share { bin: 0, taken, free: PAGES - taken });
        snapshot.movable.push(Occupied {
            range: one(block),
            live: Bytes::new(u64::from(taken) * PAGE.get()),
            holds: Holds::Slabs,
            free_slices: 0,
            shares: (first, 1),
        });
    }
    snapshot
}

#[cfg(test)]
mod tests {
    use super::super::backing::Nothing;
    use super::super::contents::Side;
    use super::super::trace::{Event, ItemId, Trace};
    use super::*;

    /// Numbers of objects, which only a trace gives out.
    fn ids(count: usize) -> Vec<ItemId> {
        let events = Trace::new(Bytes::gib(1), 1).filter_map(|event| match event {
            Event::Allocate(id, _) => Some(id),
            _ => None,
        });
        events.take(count).collect()
    }

    /// A table with extents of those lengths, lowest first; negative ones are free.
    fn table(lengths: &[i32]) -> (Placement, Contents<Nothing>) {
        let blocks = lengths.iter().map(|len| len.unsigned_abs()).sum();
        let mut table = Placement::new(Blocks::new(blocks)).unwrap();
        table.set_gap(Blocks::ZERO);
        let mut contents = Contents::new(blocks as usize, true, Nothing);
        let mut free = Vec::new();
        for (id, len) in ids(lengths.len()).into_iter().zip(lengths) {
            let len_blocks = Blocks::new(len.unsigned_abs());
            let range = table.allocate_now(Class::Movable, len_blocks).unwrap();
            if *len < 0 {
                free.push(range);
            } else {
                contents.put_extent(id, range, Class::Movable);
            }
        }
        free.into_iter().for_each(|range| table.free(range).unwrap());
        (table, contents)
    }

    fn runs(table: &Placement) -> Vec<(u32, u32)> {
        table.iter_free().map(|run| (run.start().get(), run.len().get())).collect()
    }

    #[test]
    fn what_is_in_the_way_leaves_for_free_blocks_elsewhere() {
        let (mut table, mut contents) = table(&[3, -2, 1, -2, 4, -1]);
        assert!(make_room(&mut table, &mut contents, Blocks::new(5), Target::FreeRun));
        assert_eq!(runs(&table), [(3, 5)]);
        assert_eq!(contents.moved(), Bytes::mib(2));
        assert!(!make_room(&mut table, &mut contents, Blocks::new(6), Target::FreeRun));
    }

    #[test]
    fn requests_that_do_not_move_get_the_top() {
        let (mut table, mut contents) = table(&[3, -3, 2, -1, 1, -2]);
        assert!(make_room(&mut table, &mut contents, Blocks::new(3), Target::HugeRoom));
        assert_eq!(runs(&table).last(), Some(&(9, 3)));
        assert!(make_room(&mut table, &mut contents, Blocks::new(6), Target::HugeRoom));
        assert_eq!(runs(&table), [(6, 6)]);
    }

    #[test]
    fn small_objects_are_put_together_where_too_few_blocks_are_free() {
        let (mut table, mut contents) = table(&[-1, -1, -1, 4]);
        let ids = ids(28).split_off(4);
        for &id in &ids {
            if !contents.put_small(id, Side::Movable, 6) {
                let range = table.allocate_now(Class::Movable, Blocks::ONE).unwrap();
                contents.open(Side::Movable, range.start(), Class::Movable);
                assert!(contents.put_small(id, Side::Movable, 6));
            }
        }
        assert_eq!(table.free_blocks(), Blocks::ZERO, "eight objects are one block");
        for &id in ids.iter().enumerate().filter(|(n, _)| n % 3 > 0).map(|(_, id)| id) {
            assert_eq!(contents.take(id).unwrap(), None);
        }
        assert!(make_room(&mut table, &mut contents, Blocks::new(2), Target::FreeRun));
        assert_eq!(table.largest_free(), Blocks::new(2));
        assert!(!release(&mut table, &mut contents, Blocks::ONE), "one block is left, and full");
    }
}
