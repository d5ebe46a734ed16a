//! Small objects in blocks: which pages of which block each has.
//!
//! A block is 512 pages of 4 KiB. An object of 2^n pages stands at a multiple of its own length, in the
//! lowest block that has room for it, and there as low as it can: full blocks fill up, others empty. The
//! policies share these rules. They differ in which kinds of objects share a shelf, and in where its
//! blocks come from.
//!
//! The blocks that have room are kept by the longest object that each could take, so finding one costs a
//! look at a few ordered sets.

use std::collections::BTreeSet;

use bookend::units::{BLOCK_BYTES, BlockId, Bytes};

use super::trace::{ItemId, PAGE};

/// Pages of a block.
const PAGES: u32 = (BLOCK_BYTES as u64 / PAGE.get()) as u32;
/// Words of 64 pages.
const WORDS: usize = PAGES as usize / 64;
/// Objects have 2^0 to 2^6 pages: at most a word.
const ORDERS: usize = 7;

const _: () = assert!(WORDS * 64 == PAGES as usize);

/// The number of a block on its shelf, which stays while the block moves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Board(u32);

/// Where a small object stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Its block.
    pub board: Board,
    /// Its first page there.
    pub page: u16,
    /// Binary logarithm of its pages.
    pub order: u8,
}

impl Place {
    /// Whether all of another place is in this one.
    pub const fn holds(self, other: Self) -> bool {
        self.board.0 == other.board.0 && other.page >> self.order == self.page >> self.order
    }

    fn pages_taken(self, taken: &[u64; WORDS]) -> u32 {
        let word = taken[usize::from(self.page) / 64];
        (word >> (self.page % 64) & mask(self.order)).count_ones()
    }
}

#[derive(Debug)]
struct Record {
    at: BlockId,
    taken: [u64; WORDS],
    items: Vec<ItemId>,
    /// The longest object that it could take; `None` where it is full, or not in use.
    room: Option<u8>,
}

/// Blocks of small objects.
#[derive(Debug, Default)]
pub struct Shelf {
    records: Vec<Record>,
    unused: Vec<Board>,
    /// By [`Record::room`], lowest block first.
    with_room: [BTreeSet<(BlockId, Board)>; ORDERS],
    pages: u64,
}

impl Shelf {
    /// Blocks on the shelf.
    pub fn boards(&self) -> u64 {
        (self.records.len() - self.unused.len()) as u64
    }

    /// Bytes of its blocks that no object has.
    pub fn spare(&self) -> Bytes {
        Bytes::new((self.boards() * u64::from(PAGES) - self.pages) * PAGE.get())
    }

    /// Where a block stands.
    pub fn block(&self, board: Board) -> BlockId {
        self.records[board.0 as usize].at
    }

    /// The objects of a block.
    pub fn items(&self, board: Board) -> &[ItemId] {
        &self.records[board.0 as usize].items
    }

    /// Distance of a place from the first byte of the table.
    pub fn offset(&self, place: Place) -> Bytes {
        self.block(place.board).offset() + Bytes::new(u64::from(place.page) * PAGE.get())
    }

    /// Adds an empty block.
    pub fn open(&mut self, at: BlockId) -> Board {
        let record = Record { at, taken: [0; WORDS], items: Vec::new(), room: None };
        let board = match self.unused.pop() {
            Some(board) => {
                self.records[board.0 as usize] = record;
                board
            }
            None => {
                self.records.push(record);
                Board(self.records.len() as u32 - 1)
            }
        };
        self.list(board);
        board
    }

    /// Puts an object into the lowest block that has room; `None` where none has.
    pub fn place(&mut self, item: ItemId, order: u8) -> Option<Place> {
        let lowest = |set: &BTreeSet<(BlockId, Board)>| set.first().copied();
        let (_, board) = self.with_room[order.into()..].iter().filter_map(lowest).min()?;
        self.place_in(board, item, order)
    }

    /// The same, but into none of those blocks: for an object that is to leave its place, which stays
    /// taken until [`Shelf::remove`] is told of it.
    pub fn place_elsewhere(&mut self, but: &[Board], item: ItemId, order: u8) -> Option<Place> {
        let lowest = |set: &BTreeSet<(BlockId, Board)>| {
            set.iter().find(|(_, board)| !but.contains(board)).copied()
        };
        let (_, board) = self.with_room[order.into()..].iter().filter_map(lowest).min()?;
        self.place_in(board, item, order)
    }

    /// Where an object of that order could stand if others made way: the place with the fewest pages
    /// taken, in none of those blocks.
    pub fn cheapest(&self, but: &[Board], order: u8) -> Option<Place> {
        let boards = self.with_room.iter().flatten().map(|&(_, board)| board);
        let places = boards.filter(|board| !but.contains(board)).flat_map(|board| {
            let taken = &self.records[board.0 as usize].taken;
            (0..PAGES >> order).map(move |n| {
                let place = Place { board, page: (n << order) as u16, order };
                (place.pages_taken(taken), place)
            })
        });
        let (taken, place) = places.min_by_key(|&(taken, _)| taken)?;
        (taken < 1 << order).then_some(place)
    }

    fn place_in(&mut self, board: Board, item: ItemId, order: u8) -> Option<Place> {
        let record = &mut self.records[board.0 as usize];
        let (word, bit) = record
            .taken
            .iter()
            .enumerate()
            .find_map(|(word, &taken)| Some((word, lowest_free(taken, order)?)))?;
        record.taken[word] |= mask(order) << bit;
        record.items.push(item);
        self.pages += 1 << order;
        self.list(board);
        Some(Place { board, page: (word as u32 * 64 + bit) as u16, order })
    }

    /// Takes an object off. Returns the block where that was its last, which is then off the shelf.
    pub fn remove(&mut self, item: ItemId, place: Place) -> Option<BlockId> {
        let record = &mut self.records[place.board.0 as usize];
        let (word, bit) = (usize::from(place.page) / 64, place.page % 64);
        debug_assert_eq!(record.taken[word] >> bit & mask(place.order), mask(place.order));
        record.taken[word] &= !(mask(place.order) << bit);
        self.pages -= 1 << place.order;
        let position = record.items.iter().position(|&other| other == item);
        record.items.swap_remove(position.expect("an object is on the board it was put on"));
        if record.items.is_empty() {
            let at = record.at;
            self.unlist(place.board);
            self.unused.push(place.board);
            return Some(at);
        }
        self.list(place.board);
        None
    }

    /// Takes note that a block has moved.
    pub fn moved(&mut self, board: Board, to: BlockId) {
        self.unlist(board);
        self.records[board.0 as usize].at = to;
        self.list(board);
    }

    /// The block with the fewest pages taken, among those that have room.
    pub fn emptiest(&self) -> Option<Board> {
        let taken = |board: Board| {
            self.records[board.0 as usize].taken.iter().map(|word| word.count_ones()).sum::<u32>()
        };
        let boards = self.with_room.iter().flatten().map(|&(_, board)| board);
        boards.min_by_key(|&board| (taken(board), board))
    }

    /// Puts a block where its room says.
    fn list(&mut self, board: Board) {
        let record = &self.records[board.0 as usize];
        let room = (0..ORDERS as u8)
            .rev()
            .find(|&order| record.taken.iter().any(|&taken| lowest_free(taken, order).is_some()));
        if room == record.room {
            return;
        }
        self.unlist(board);
        let record = &mut self.records[board.0 as usize];
        record.room = room;
        if let Some(room) = room {
            self.with_room[usize::from(room)].insert((record.at, board));
        }
    }

    fn unlist(&mut self, board: Board) {
        let record = &mut self.records[board.0 as usize];
        if let Some(room) = record.room.take() {
            self.with_room[usize::from(room)].remove(&(record.at, board));
        }
    }

    /// Recounts everything.
    ///
    /// # Panics
    /// With what does not agree.
    #[cfg(test)]
    pub fn validate(&self) {
        let mut pages = 0;
        for (index, record) in self.records.iter().enumerate() {
            let board = Board(index as u32);
            let unused = self.unused.contains(&board);
            assert_eq!(record.items.is_empty(), unused, "an empty block is off the shelf");
            pages += record.taken.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
            for (order, set) in self.with_room.iter().enumerate() {
                let listed = set.contains(&(record.at, board));
                assert_eq!(listed, record.room == Some(order as u8), "{board:?} is listed wrongly");
            }
        }
        assert_eq!(pages, self.pages);
    }
}

const fn mask(order: u8) -> u64 {
    u64::MAX >> (64 - (1u32 << order))
}

/// The lowest multiple of 2^`order` in a word from which so many pages are free.
fn lowest_free(taken: u64, order: u8) -> Option<u32> {
    // After folding, a bit is set where any of the pages from it on is taken.
    let mut any = taken;
    for step in 0..order {
        any |= any >> (1 << step);
    }
    const STARTS: [u64; ORDERS] = [
        u64::MAX,
        0x5555_5555_5555_5555,
        0x1111_1111_1111_1111,
        0x0101_0101_0101_0101,
        0x0001_0001_0001_0001,
        0x0000_0001_0000_0001,
        1,
    ];
    let free = !any & STARTS[usize::from(order)];
    (free != 0).then(|| free.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::super::trace::{Event, Item, Trace};
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn free_pages_are_found_where_they_are_aligned() {
        assert_eq!(lowest_free(0, 6), Some(0));
        assert_eq!(lowest_free(1, 6), None);
        assert_eq!(lowest_free(1, 5), Some(32));
        assert_eq!(lowest_free(0b0110, 1), Some(4));
        assert_eq!(lowest_free(u64::MAX, 0), None);
    }

    /// Objects of a trace on one shelf: no two share a page, and the counts agree.
    #[test]
    fn objects_have_pages_of_their_own() {
        let mut shelf = Shelf::default();
        let mut places = HashMap::new();
        let mut next = 0;
        let mut free = Vec::new();
        for event in Trace::new(Bytes::mib(512), 11).take(20_000) {
            match event {
                Event::Allocate(id, Item::Small { order, .. }) => {
                    let place = shelf.place(id, order).unwrap_or_else(|| {
                        let at = free.pop().unwrap_or_else(|| {
                            next += 1;
                            BlockId::new(next)
                        });
                        shelf.open(at);
                        shelf.place(id, order).expect("an empty block has room")
                    });
                    places.insert(id, place);
                }
                Event::Free(id) => {
                    let Some(place) = places.remove(&id) else { continue };
                    free.extend(shelf.remove(id, place));
                }
                _ => {}
            }
        }
        shelf.validate();
        let mut pages: Vec<_> = places
            .values()
            .flat_map(|place| (0..1u16 << place.order).map(|n| (place.board, place.page + n)))
            .collect();
        let count = pages.len();
        pages.sort_unstable();
        pages.dedup();
        assert_eq!(pages.len(), count, "two objects share a page");
        assert_eq!(count as u64, shelf.pages);
    }

    #[test]
    fn the_cheapest_place_has_the_fewest_pages_taken() {
        let mut shelf = Shelf::default();
        let (first, second) = (shelf.open(BlockId::new(1)), shelf.open(BlockId::new(2)));
        shelf.records[0].taken = [7, 7, 7, 1, 7, 7, 7, 7];
        shelf.records[1].taken = [7; WORDS];
        let cheapest = shelf.cheapest(&[], 6).unwrap();
        assert_eq!(cheapest, Place { board: first, page: 192, order: 6 });
        assert!(cheapest.holds(Place { board: first, page: 255, order: 0 }));
        assert!(!cheapest.holds(Place { board: first, page: 256, order: 0 }));
        assert_eq!(shelf.cheapest(&[first], 6).unwrap().board, second);
        assert_eq!(shelf.cheapest(&[first, second], 6), None);
    }

    #[test]
    fn objects_leave_a_block_for_others() {
        let mut shelf = Shelf::default();
        shelf.open(BlockId::new(5));
        let mut trace = Trace::new(Bytes::mib(64), 1);
        let ids: Vec<_> = std::iter::from_fn(|| match trace.next()? {
            Event::Allocate(id, _) => Some(id),
            _ => None,
        })
        .take(3)
        .collect();
        let low = shelf.place(ids[0], 3).unwrap();
        assert!(
            shelf.place_elsewhere(&[low.board], ids[0], 3).is_none(),
            "there is no other block"
        );
        shelf.open(BlockId::new(9));
        let high = shelf.place_elsewhere(&[low.board], ids[0], 3).unwrap();
        assert_eq!(shelf.remove(ids[0], low), Some(BlockId::new(5)));
        assert_eq!(shelf.offset(high), BlockId::new(9).offset());
        shelf.moved(high.board, BlockId::new(2));
        assert_eq!(shelf.offset(high), BlockId::new(2).offset());
        shelf.validate();
    }
}
