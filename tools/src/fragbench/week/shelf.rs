//! Small objects in blocks: which pages of which block each has.
//!
//! A block is 512 pages of 4 KiB. An object of 2^n pages stands at a multiple of its own length, in the
//! lowest block that has room for it, and there as low as it can: full blocks fill up, others empty. The
//! policies share these rules. They differ in which kinds of objects share a shelf, and in where its
//! blocks come from.
//!
//! For each length there is a set of the blocks that could take an object of it. Of a week on a large table
//! most of the time is spent here, so nothing is looked at but the words of the pages concerned.

use bookend::units::{BLOCK_BYTES, BlockId, Bytes};

use super::low_set::LowSet;
use super::trace::{ItemId, PAGE};

/// Pages of a block.
pub const PAGES: u32 = (BLOCK_BYTES as u64 / PAGE.get()) as u32;
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
    fn pages_taken(self, taken: &[u64; WORDS]) -> u32 {
        let word = taken[usize::from(self.page) / 64];
        (word >> (self.page % 64) & mask(self.order)).count_ones()
    }
}

#[derive(Debug)]
struct Record {
    at: BlockId,
    /// Objects in it, and the pages they have.
    objects: u32,
    taken: [u64; WORDS],
    /// Objects of up to 2^(n − 1) pages find room: 0 where it is full, closed, or not in use.
    room: u8,
    /// Takes nothing in, because it is being emptied.
    closed: bool,
}

impl Record {
    fn pages_taken(&self) -> u32 {
        self.taken.iter().map(|word| word.count_ones()).sum()
    }

    /// The room that there is, which is known to be no more than `most`.
    fn room_up_to(&self, most: u8) -> u8 {
        let fits = |order| self.taken.iter().any(|&taken| lowest_free(taken, order).is_some());
        (1..=most).rev().find(|&room| fits(room - 1)).unwrap_or(0)
    }
}

/// Blocks of small objects.
#[derive(Debug)]
pub struct Shelf {
    records: Vec<Record>,
    unused: Vec<Board>,
    /// By the binary logarithm of pages: blocks that have room for so many.
    with_room: [LowSet; ORDERS],
    /// By block.
    boards: Vec<Board>,
    /// Where objects move: by page of each board, which object begins there.
    items: Option<Vec<Option<ItemId>>>,
    pages: u64,
}

impl Shelf {
    /// Without a block, on a table of so many. Only with `items` it can tell which objects a block has.
    pub fn new(blocks: usize, items: bool) -> Self {
        Self {
            records: Vec::new(),
            unused: Vec::new(),
            with_room: core::array::from_fn(|_| LowSet::new(blocks)),
            boards: vec![Board(0); blocks],
            items: items.then(Vec::new),
            pages: 0,
        }
    }

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

    /// The objects of a block, lowest first.
    ///
    /// # Panics
    /// Where the shelf was made to keep none.
    pub fn items(&self, board: Board) -> Vec<ItemId> {
        self.items_in(board, 0, PAGES as usize)
    }

    /// The objects that begin in a place.
    ///
    /// # Panics
    /// As [`Shelf::items`].
    pub fn items_at(&self, place: Place) -> Vec<ItemId> {
        self.items_in(place.board, place.page.into(), 1 << place.order)
    }

    fn items_in(&self, board: Board, page: usize, pages: usize) -> Vec<ItemId> {
        let items = self.items.as_ref().expect("a shelf that was made to keep them");
        let first = board.0 as usize * PAGES as usize + page;
        items[first..first + pages].iter().copied().flatten().collect()
    }

    /// Distance of a place from the first byte of the table.
    pub fn offset(&self, place: Place) -> Bytes {
        self.block(place.board).offset() + Bytes::new(u64::from(place.page) * PAGE.get())
    }

    /// Reads what [`Shelf::remove`] will.
    pub fn peek(&self, place: Place) -> u64 {
        let record = &self.records[place.board.0 as usize];
        record.taken[usize::from(place.page) / 64] ^ u64::from(record.objects)
    }

    /// Adds an empty block.
    pub fn open(&mut self, at: BlockId) -> Board {
        let record = Record { at, objects: 0, taken: [0; WORDS], room: 0, closed: false };
        let board = match self.unused.pop() {
            Some(board) => {
                self.records[board.0 as usize] = record;
                board
            }
            None => {
                self.records.push(record);
                if let Some(items) = &mut self.items {
                    items.resize(self.records.len() * PAGES as usize, None);
                }
                Board(self.records.len() as u32 - 1)
            }
        };
        self.boards[at.as_usize()] = board;
        self.list(board, ORDERS as u8);
        board
    }

    /// Puts an object into the lowest block that has room; `None` where none has.
    pub fn place(&mut self, item: ItemId, order: u8) -> Option<Place> {
        let board = self.boards[self.with_room[usize::from(order)].first()?];
        let record = &mut self.records[board.0 as usize];
        let (word, bit) = record
            .taken
            .iter()
            .enumerate()
            .find_map(|(word, &taken)| Some((word, lowest_free(taken, order)?)))?;
        record.taken[word] |= mask(order) << bit;
        record.objects += 1;
        self.pages += 1 << order;
        let room = record.room_up_to(record.room);
        self.list(board, room);
        let page = word * 64 + bit as usize;
        if let Some(items) = &mut self.items {
            items[board.0 as usize * PAGES as usize + page] = Some(item);
        }
        Some(Place { board, page: page as u16, order })
    }

    /// Takes an object off. Returns the block where that was its last, which is then off the shelf.
    pub fn remove(&mut self, place: Place) -> Option<BlockId> {
        let record = &mut self.records[place.board.0 as usize];
        let (word, bit) = (usize::from(place.page) / 64, place.page % 64);
        debug_assert_eq!(record.taken[word] >> bit & mask(place.order), mask(place.order));
        record.taken[word] &= !(mask(place.order) << bit);
        record.objects -= 1;
        self.pages -= 1 << place.order;
        if let Some(items) = &mut self.items {
            items[place.board.0 as usize * PAGES as usize + usize::from(place.page)] = None;
        }
        if record.objects == 0 {
            let at = record.at;
            self.list(place.board, 0);
            self.unused.push(place.board);
            return Some(at);
        }
        if !record.closed {
            let room = record.room.max(room_around(record.taken[word], bit, place.order));
            self.list(place.board, room);
        }
        None
    }

    /// Takes note that a block has moved.
    pub fn moved(&mut self, board: Board, to: BlockId) {
        let room = self.records[board.0 as usize].room;
        self.list(board, 0);
        self.records[board.0 as usize].at = to;
        self.boards[to.as_usize()] = board;
        self.list(board, room);
    }

    /// Has a block take nothing in until it is opened again.
    pub fn close(&mut self, board: Board) {
        self.records[board.0 as usize].closed = true;
        self.list(board, 0);
    }

    /// Ends [`Shelf::close`]. The block may have gone meanwhile.
    pub fn reopen(&mut self, board: Board) {
        let record = &mut self.records[board.0 as usize];
        record.closed = false;
        if record.objects > 0 {
            let room = record.room_up_to(ORDERS as u8);
            self.list(board, room);
        }
    }

    /// The blocks, and how many of their pages are taken.
    pub fn iter(&self) -> impl Iterator<Item = (BlockId, u32)> + '_ {
        let used = self.records.iter().filter(|record| record.objects > 0);
        used.map(|record| (record.at, record.pages_taken()))
    }

    /// Where an object of that order could stand if others made way: the place with the fewest pages
    /// taken, in none of the closed blocks. Asked where no place is free, so that it has one at least.
    pub fn cheapest(&self, order: u8) -> Option<Place> {
        let mut best: Option<(u32, Place)> = None;
        for block in self.with_room[0].iter() {
            let board = self.boards[block];
            let taken = &self.records[board.0 as usize].taken;
            for page in (0..PAGES).step_by(1 << order) {
                let place = Place { board, page: page as u16, order };
                let pages = place.pages_taken(taken);
                if best.is_none_or(|(least, _)| pages < least) {
                    best = Some((pages, place));
                }
            }
            if best.is_some_and(|(least, _)| least <= 1) {
                break;
            }
        }
        best.filter(|&(taken, _)| taken < 1 << order).map(|(_, place)| place)
    }

    /// Puts a block where its room says.
    fn list(&mut self, board: Board, room: u8) {
        let record = &mut self.records[board.0 as usize];
        let (before, at) = (core::mem::replace(&mut record.room, room), record.at.as_usize());
        for order in before..room {
            self.with_room[usize::from(order)].insert(at);
        }
        for order in room..before {
            self.with_room[usize::from(order)].remove(at);
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
            assert_eq!(record.objects == 0, unused, "an empty block is off the shelf");
            pages += u64::from(record.pages_taken());
            let out = record.closed || unused;
            let room = if out { 0 } else { record.room_up_to(ORDERS as u8) };
            assert_eq!(record.room, room, "{record:?}");
            if let Some(items) = &self.items {
                let its = &items[index * PAGES as usize..][..PAGES as usize];
                assert_eq!(its.iter().flatten().count(), record.objects as usize, "{record:?}");
            }
        }
        for (order, set) in self.with_room.iter().enumerate() {
            let fits = |record: &&Record| usize::from(record.room) > order;
            let mut blocks: Vec<_> =
                self.records.iter().filter(fits).map(|record| record.at.as_usize()).collect();
            blocks.sort_unstable();
            assert!(set.iter().eq(blocks), "blocks with room for 2^{order} pages");
        }
        assert_eq!(pages, self.pages);
    }
}

/// The room that a free place makes in a word: of the longest aligned place around it that is free.
fn room_around(taken: u64, bit: u16, order: u8) -> u8 {
    let free = |order: &u8| {
        let first = bit >> order << order;
        taken >> first & mask(*order) == 0
    };
    (order..ORDERS as u8).take_while(free).last().map_or(0, |order| order + 1)
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
        let mut shelf = Shelf::new(1000, true);
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
                    free.extend(shelf.remove(place));
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
        let mut shelf = Shelf::new(16, true);
        let (first, second) = (shelf.open(BlockId::new(1)), shelf.open(BlockId::new(2)));
        assert_eq!(room_around(7, 3, 0), 1);
        assert_eq!(room_around(7 << 4, 3, 0), 3);
        assert_eq!(room_around(0, 63, 0), 7);
        shelf.records[0].taken = [7, 7, 7, 1, 7, 7, 7, 7];
        shelf.records[1].taken = [7; WORDS];
        let cheapest = shelf.cheapest(6).unwrap();
        assert_eq!(cheapest, Place { board: first, page: 192, order: 6 });
        shelf.close(first);
        assert_eq!(shelf.cheapest(6).unwrap().board, second);
        shelf.close(second);
        assert_eq!(shelf.cheapest(6), None);
    }

    #[test]
    fn objects_leave_a_block_for_others() {
        let mut shelf = Shelf::new(16, true);
        shelf.open(BlockId::new(5));
        let mut trace = Trace::new(Bytes::mib(64), 1);
        let ids: Vec<_> = std::iter::from_fn(|| match trace.next()? {
            Event::Allocate(id, _) => Some(id),
            _ => None,
        })
        .take(3)
        .collect();
        let low = shelf.place(ids[0], 3).unwrap();
        shelf.close(low.board);
        assert!(shelf.place(ids[0], 3).is_none(), "there is no other block");
        shelf.open(BlockId::new(9));
        let high = shelf.place(ids[0], 3).unwrap();
        assert_eq!((shelf.items(low.board), shelf.items_at(high)), (vec![ids[0]], vec![ids[0]]));
        assert_eq!(shelf.remove(low), Some(BlockId::new(5)));
        assert_eq!(shelf.offset(high), BlockId::new(9).offset());
        shelf.moved(high.board, BlockId::new(2));
        assert_eq!(shelf.offset(high), BlockId::new(2).offset());
        shelf.validate();
    }
}
