//! What the trace has put where, under one policy.
//!
//! Every object is known by its number, and what moves also by the block that it begins with, so that
//! whoever moves blocks need not know what is in them. Where there is memory behind the table each object
//! has a serial number, which says what its bytes are.

use std::hint::black_box;

use bookend::placement::{Class, Placement};
use bookend::units::{BlockId, BlockRange, Blocks, Bytes};

use super::backing::{Backing, Corrupt};
use super::shelf::{Board, Place, Shelf};
use super::trace::{ItemId, PAGE};

/// Objects that [`Contents::warm`] reads at once.
pub const WARMED: usize = 32;

/// Where an object is.
#[derive(Clone, Copy, Debug)]
pub enum Spot {
    /// In whole blocks of its own.
    Extent(BlockRange),
    /// On a shelf: which, and where there.
    Shelf(Side, Place),
}

/// The two shelves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Objects that never move; of policies that do not tell them apart, all.
    Pinned,
    /// Objects that can be moved.
    Movable,
}

impl Spot {
    /// Of the object there.
    const fn bytes(self) -> Bytes {
        match self {
            Self::Extent(range) => range.len().bytes(),
            Self::Shelf(_, place) => Bytes::new(PAGE.get() << place.order),
        }
    }
}

// There are millions, and hardly any is in a cache when it is wanted.
const _: () = assert!(size_of::<Option<Spot>>() == 12);

/// Whose a movable extent of the table is.
#[derive(Clone, Copy, Debug)]
enum Owner {
    Extent(ItemId),
    Board(Board),
}

/// Objects, and the memory they are in.
#[derive(Debug)]
pub struct Contents<B> {
    /// By [`ItemId`]; `None` where there is no such object or it was refused.
    held: Vec<Option<Spot>>,
    /// By [`ItemId`] too; empty where there are no bytes.
    serials: Vec<u64>,
    shelves: [Shelf; 2],
    /// By the first block of what can move.
    owners: Vec<Option<Owner>>,
    backing: B,
    serial: u64,
    live: Bytes,
    moved: Bytes,
}

impl<B: Backing> Contents<B> {
    /// Of a table of so many blocks. Without `moves`, nothing is kept by block.
    pub fn new(blocks: usize, moves: bool, backing: B) -> Self {
        Self {
            held: Vec::new(),
            serials: Vec::new(),
            shelves: [Side::Pinned, Side::Movable]
                .map(|side| Shelf::new(blocks, moves && side == Side::Movable)),
            owners: vec![None; if moves { blocks } else { 0 }],
            backing,
            serial: 0,
            live: Bytes::ZERO,
            moved: Bytes::ZERO,
        }
    }

    /// Bytes of all objects.
    pub fn live(&self) -> Bytes {
        self.live
    }

    /// Bytes that were moved so far.
    pub fn moved(&self) -> Bytes {
        self.moved
    }

    /// Bytes in blocks of small objects that none of them has.
    pub fn spare(&self) -> Bytes {
        self.shelves[0].spare() + self.shelves[1].spare()
    }

    /// Puts an object into blocks of its own.
    pub fn put_extent(&mut self, id: ItemId, range: BlockRange, class: Class) {
        self.own(range.start(), class, Owner::Extent(id));
        self.hold(id, Spot::Extent(range));
    }

    /// Puts a small object on a shelf; `false` where it needs another block.
    pub fn put_small(&mut self, id: ItemId, side: Side, order: u8) -> bool {
        let Some(place) = self.shelves[side as usize].place(id, order) else { return false };
        self.hold(id, Spot::Shelf(side, place));
        true
    }

    /// Adds a block to a shelf.
    pub fn open(&mut self, side: Side, block: BlockId, class: Class) {
        let board = self.shelves[side as usize].open(block);
        if side == Side::Movable {
            self.own(block, class, Owner::Board(board));
        }
    }

    fn own(&mut self, first: BlockId, class: Class, owner: Owner) {
        if class == Class::Movable
            && let Some(slot) = self.owners.get_mut(first.as_usize())
        {
            *slot = Some(owner);
        }
    }

    fn hold(&mut self, id: ItemId, spot: Spot) {
        if self.held.len() <= id.as_usize() {
            self.held.resize(id.as_usize() + 1, None);
        }
        self.held[id.as_usize()] = Some(spot);
        self.live = self.live + spot.bytes();
        if B::HAS_BYTES {
            self.serials.resize(self.held.len(), 0);
            self.serial += 1;
            self.serials[id.as_usize()] = self.serial;
            self.backing.fill(self.offset(spot), spot.bytes(), self.serial);
        }
    }

    /// Reads what [`Contents::take`] will read of some objects, all at once: then one does not wait for
    /// the other to come into the cache. Changes nothing.
    pub fn warm(&self, ids: impl Iterator<Item = ItemId>) {
        let mut spots = [None; WARMED];
        for (spot, id) in spots.iter_mut().zip(ids) {
            *spot = self.held.get(id.as_usize()).copied().flatten();
        }
        let read = spots.iter().map(|spot| match spot {
            Some(Spot::Shelf(side, place)) => self.shelves[*side as usize].peek(*place),
            Some(Spot::Extent(range)) => {
                self.owners.get(range.start().as_usize()).map_or(0, |owner| owner.is_some().into())
            }
            None => 0,
        });
        black_box(read.fold(0, |all, word| all ^ word));
    }

    fn offset(&self, spot: Spot) -> Bytes {
        match spot {
            Spot::Extent(range) => range.start().offset(),
            Spot::Shelf(side, place) => self.shelves[side as usize].offset(place),
        }
    }

    /// Takes an object away, after a look at its bytes. Returns blocks that are free now.
    ///
    /// # Errors
    /// Where its bytes are not what was put there.
    pub fn take(&mut self, id: ItemId) -> Result<Option<BlockRange>, Corrupt> {
        let Some(spot) = self.held.get_mut(id.as_usize()).and_then(Option::take) else {
            return Ok(None);
        };
        if B::HAS_BYTES {
            let serial = self.serials[id.as_usize()];
            self.backing.check(self.offset(spot), spot.bytes(), serial)?;
        }
        self.live = self.live - spot.bytes();
        let freed = match spot {
            Spot::Extent(range) => Some(range),
            Spot::Shelf(side, place) => self.shelves[side as usize].remove(place).map(one),
        };
        if let Some(range) = freed
            && let Some(slot) = self.owners.get_mut(range.start().as_usize())
        {
            *slot = None;
        }
        Ok(freed)
    }

    /// Carries what is in a movable extent to other blocks, which may overlap.
    pub fn carry(&mut self, from: BlockRange, to: BlockRange) {
        let owner = self.owners[from.start().as_usize()].take();
        match owner {
            Some(Owner::Extent(id)) => {
                self.held[id.as_usize()] = Some(Spot::Extent(to));
            }
            Some(Owner::Board(board)) => {
                self.shelves[Side::Movable as usize].moved(board, to.start());
            }
            None => debug_assert!(false, "{from:?} can move and has no owner"),
        }
        self.owners[to.start().as_usize()] = owner;
        self.backing.carry(from.start().offset(), to.start().offset(), from.len().bytes());
        self.moved = self.moved + from.len().bytes();
    }

    /// The blocks of small movable objects, lowest first, and how many of their pages are taken.
    pub fn movable_blocks(&self) -> Vec<(BlockId, u32)> {
        let mut blocks: Vec<_> = self.shelves[Side::Movable as usize].iter().collect();
        blocks.sort_unstable();
        blocks
    }

    /// Puts the small movable objects of those blocks into others, and frees the blocks. Returns how many
    /// became free: fewer where objects find no room; those that did stay where they went.
    pub fn empty(&mut self, blocks: &[BlockId], table: &mut Placement) -> Blocks {
        let board = |block: &BlockId| match self.owners[block.as_usize()] {
            Some(Owner::Board(board)) => Some(board),
            _ => None,
        };
        let boards: Vec<_> = blocks.iter().filter_map(board).collect();
        let before = self.shelves[Side::Movable as usize].boards();
        boards.iter().for_each(|&board| self.shelves[Side::Movable as usize].close(board));
        for &board in &boards {
            let items = self.shelves[Side::Movable as usize].items(board);
            if !items.into_iter().all(|id| self.transfer(id, table)) {
                break; // nor will those of the others, which are more
            }
        }
        boards.iter().for_each(|&board| self.shelves[Side::Movable as usize].reopen(board));
        Blocks::new((before - self.shelves[Side::Movable as usize].boards()) as u32)
    }

    /// Moves one small object to a block that is not closed. Where no place is free, smaller objects make
    /// way for it.
    fn transfer(&mut self, id: ItemId, table: &mut Placement) -> bool {
        let Some(spot @ Spot::Shelf(Side::Movable, from)) = self.held[id.as_usize()] else {
            return false;
        };
        let shelf = &mut self.shelves[Side::Movable as usize];
        let found = shelf.place(id, from.order).or_else(|| {
            self.clear(from.order, table).then_some(())?;
            self.shelves[Side::Movable as usize].place(id, from.order)
        });
        let Some(to) = found else { return false };
        let shelf = &mut self.shelves[Side::Movable as usize];
        self.backing.carry(shelf.offset(from), shelf.offset(to), spot.bytes());
        self.moved = self.moved + spot.bytes();
        self.held[id.as_usize()] = Some(Spot::Shelf(Side::Movable, to));
        if let Some(block) = shelf.remove(from) {
            self.owners[block.as_usize()] = None;
            let freed = table.free(one(block));
            debug_assert!(freed.is_ok(), "a block of the shelf is an extent: {freed:?}");
        }
        true
    }

    /// Clears a place for an object of that order. What has to leave it is smaller, so this ends.
    fn clear(&mut self, order: u8, table: &mut Placement) -> bool {
        let shelf = &mut self.shelves[Side::Movable as usize];
        let Some(place) = shelf.cheapest(order) else { return false };
        let leaving = shelf.items_at(place);
        shelf.close(place.board);
        let cleared = leaving.into_iter().all(|id| self.transfer(id, table));
        self.shelves[Side::Movable as usize].reopen(place.board);
        cleared
    }
}

/// One block.
pub fn one(block: BlockId) -> BlockRange {
    BlockRange::new(block, Blocks::ONE)
}
