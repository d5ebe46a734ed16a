//! What the trace has put where, under one policy.
//!
//! Every object is known by its number, and what moves also by the block that it begins with, so that
//! whoever moves blocks need not know what is in them. Each object carries a serial number, which says
//! what its bytes are where there is memory behind the table.

use bookend::placement::{Class, Placement};
use bookend::units::{BlockId, BlockRange, Bytes};

use super::backing::{Backing, Corrupt};
use super::shelf::{Board, Place, Shelf};
use super::trace::{Item, ItemId};

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

#[derive(Clone, Copy, Debug)]
struct Held {
    spot: Spot,
    item: Item,
    serial: u64,
}

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
    held: Vec<Option<Held>>,
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
            shelves: Default::default(),
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
    pub fn put_extent(&mut self, id: ItemId, item: Item, range: BlockRange, class: Class) {
        self.own(range.start(), class, Owner::Extent(id));
        self.hold(id, item, Spot::Extent(range));
    }

    /// Puts a small object on a shelf; `false` where it needs another block.
    pub fn put_small(&mut self, id: ItemId, item: Item, side: Side, order: u8) -> bool {
        let Some(place) = self.shelves[side as usize].place(id, order) else { return false };
        self.hold(id, item, Spot::Shelf(side, place));
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

    fn hold(&mut self, id: ItemId, item: Item, spot: Spot) {
        if self.held.len() <= id.as_usize() {
            self.held.resize(id.as_usize() + 1, None);
        }
        self.serial += 1;
        self.held[id.as_usize()] = Some(Held { spot, item, serial: self.serial });
        self.live = self.live + item.bytes();
        self.backing.fill(self.offset(spot), item.bytes(), self.serial);
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
        let Some(held) = self.held.get_mut(id.as_usize()).and_then(Option::take) else {
            return Ok(None);
        };
        self.backing.check(self.offset(held.spot), held.item.bytes(), held.serial)?;
        self.live = self.live - held.item.bytes();
        let freed = match held.spot {
            Spot::Extent(range) => Some(range),
            Spot::Shelf(side, place) => self.shelves[side as usize].remove(id, place).map(one),
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
                if let Some(held) = &mut self.held[id.as_usize()] {
                    held.spot = Spot::Extent(to);
                }
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

    /// Puts the objects of the emptiest movable block into others, and frees it. `false` where they
    /// do not all find room; those that did stay where they went.
    pub fn empty_one(&mut self, table: &mut Placement) -> bool {
        let shelf = &self.shelves[Side::Movable as usize];
        let Some(board) = shelf.emptiest() else { return false };
        if shelf.spare() < one(shelf.block(board)).len().bytes() {
            return false; // the others have less room than it takes
        }
        for id in shelf.items(board).to_vec() {
            if !self.transfer(id, table) {
                return false;
            }
        }
        true
    }

    /// Moves one small object to another block.
    fn transfer(&mut self, id: ItemId, table: &mut Placement) -> bool {
        let Some(held) = self.held[id.as_usize()] else { return false };
        let Spot::Shelf(side, from) = held.spot else { return false };
        let shelf = &mut self.shelves[side as usize];
        let Some(to) = shelf.transfer(id, from) else { return false };
        let (source, target) = (shelf.offset(from), shelf.offset(to));
        self.backing.carry(source, target, held.item.bytes());
        self.moved = self.moved + held.item.bytes();
        self.held[id.as_usize()] = Some(Held { spot: Spot::Shelf(side, to), ..held });
        if let Some(block) = self.shelves[side as usize].remove(id, from) {
            self.owners[block.as_usize()] = None;
            let freed = table.free(one(block));
            debug_assert!(freed.is_ok(), "a block of the shelf is an extent: {freed:?}");
        }
        true
    }
}

/// One block.
pub fn one(block: BlockId) -> BlockRange {
    BlockRange::new(block, bookend::units::Blocks::ONE)
}
