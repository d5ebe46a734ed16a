//! The block table: one atomic word a block, so that populating, pinning and releasing the same
//! block from several threads has one winner.
//!
//! ```text
//!   31    30 29    28   27   26                     0
//!  +--------+--------+------+------------------------+
//!  |  Busy  |  rung  | full |         owner          |
//!  +--------+--------+------+------------------------+
//!  | Present|  rung  |             pins              |
//!  +--------+--------+-------------------------------+
//! ```
//!
//! State goes `Absent → Busy → Present → Busy → Absent`. Whoever makes a block `Busy` owns its
//! pages until it sets another state; nobody else touches them. Only a `Present` block without
//! pins can become `Busy`, and only a `Present` block can be pinned, so a pinned block is never
//! released: both changes are one compare-and-exchange of the same word. The owner's number in the
//! word is how an operation on many blocks finds its own again when it must undo them.

use core::sync::atomic::{AtomicU32, Ordering};

use super::Rung;
use crate::os::{Array, Errno, Os};
use crate::units::{BlockId, BlockRange, Blocks};

const STATE_SHIFT: u32 = 30;
const RUNG_SHIFT: u32 = 28;
const PINS: u32 = (1 << RUNG_SHIFT) - 1;
const FULL: u32 = 1 << (RUNG_SHIFT - 1);
const OWNER: u32 = FULL - 1;

const _: () = assert!(Rung::ALL.len() <= 1 << (STATE_SHIFT - RUNG_SHIFT), "a rung fits its bits");

/// The number of an operation on blocks; reused after 2^27 others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Owner(u32);

/// What a block's word says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// No memory behind it.
    Absent,
    /// An operation is populating or releasing it.
    Busy {
        /// The operation.
        owner: Owner,
        /// What memory is behind it at the moment.
        full: Option<Rung>,
    },
    /// Memory of that rung, proven present, held by so many pins.
    Present {
        /// Where its pages come from.
        rung: Rung,
        /// Pins that hold it.
        pins: u32,
    },
}

impl State {
    fn of(word: u32) -> Self {
        match word >> STATE_SHIFT {
            0 => Self::Absent,
            1 => Self::Busy {
                owner: Owner(word & OWNER),
                full: (word & FULL != 0).then(|| Self::rung(word)),
            },
            _ => Self::Present { rung: Self::rung(word), pins: word & PINS },
        }
    }

    const fn rung(word: u32) -> Rung {
        Rung::ALL[(word >> RUNG_SHIFT & 3) as usize]
    }

    const fn word(self) -> u32 {
        match self {
            Self::Absent => 0,
            Self::Busy { owner, full: None } => 1 << STATE_SHIFT | owner.0,
            Self::Busy { owner, full: Some(rung) } => {
                1 << STATE_SHIFT | (rung as u32) << RUNG_SHIFT | FULL | owner.0
            }
            Self::Present { rung, pins } => 2 << STATE_SHIFT | (rung as u32) << RUNG_SHIFT | pins,
        }
    }
}

/// What an operation makes of a block that it comes to.
enum Claim {
    Take(State),
    Leave,
    Refuse,
}

/// Why a block could not be taken or pinned: the state it was in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Refused {
    pub(super) block: BlockId,
    pub(super) state: State,
}

/// The words of all blocks of a pool.
#[derive(Debug)]
pub(super) struct Table<O: Os> {
    words: Array<AtomicU32, O>,
    operations: AtomicU32,
}

impl<O: Os> Table<O> {
    /// A table of absent blocks.
    pub(super) fn new(os: O, blocks: Blocks) -> Result<Self, Errno> {
        Ok(Self { words: Array::new(os, blocks.as_usize())?, operations: AtomicU32::new(0) })
    }

    /// A number for a new operation.
    pub(super) fn new_owner(&self) -> Owner {
        Owner(self.operations.fetch_add(1, Ordering::Relaxed) & OWNER)
    }

    /// The state of a block at this moment.
    pub(super) fn state(&self, block: BlockId) -> State {
        State::of(self.words[block.as_usize()].load(Ordering::Acquire))
    }

    /// Takes the absent blocks of a range, to populate them; those present stay as they are. Takes
    /// none where another operation is at one of them.
    pub(super) fn begin_populate(&self, range: BlockRange, owner: Owner) -> Result<(), Refused> {
        self.begin(range, owner, |state| match state {
            State::Absent => Claim::Take(State::Busy { owner, full: None }),
            State::Present { .. } => Claim::Leave,
            State::Busy { .. } => Claim::Refuse,
        })
    }

    /// Takes the present blocks of a range, to release them; absent ones stay as they are. Takes
    /// none where one is pinned or another operation is at it.
    pub(super) fn begin_release(&self, range: BlockRange, owner: Owner) -> Result<(), Refused> {
        self.begin(range, owner, |state| match state {
            State::Present { rung, pins: 0 } => {
                Claim::Take(State::Busy { owner, full: Some(rung) })
            }
            State::Absent => Claim::Leave,
            State::Present { .. } | State::Busy { .. } => Claim::Refuse,
        })
    }

    fn begin(
        &self,
        range: BlockRange,
        owner: Owner,
        claim: impl Fn(State) -> Claim,
    ) -> Result<(), Refused> {
        for block in range.iter() {
            let taken = self.exchange(block, |state| match claim(state) {
                Claim::Take(next) => Some(next),
                Claim::Leave => Some(state),
                Claim::Refuse => None,
            });
            if let Err(refused) = taken {
                let len = Blocks::new(block.get() - range.start().get());
                self.finish(BlockRange::new(range.start(), len), owner);
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Whether the operation owns the block, and if so what is behind it.
    pub(super) fn owned(&self, block: BlockId, owner: Owner) -> Option<Option<Rung>> {
        match self.state(block) {
            State::Busy { owner: by, full } if by == owner => Some(full),
            _ => None,
        }
    }

    /// Says what memory is behind a block that the operation owns and goes on owning.
    pub(super) fn set(&self, block: BlockId, owner: Owner, full: Option<Rung>) {
        debug_assert!(self.owned(block, owner).is_some(), "{block:?} is not {owner:?}'s");
        let word = State::Busy { owner, full }.word();
        self.words[block.as_usize()].store(word, Ordering::Release);
    }

    /// Ends the operation's ownership: blocks with memory behind them are present, others absent.
    pub(super) fn finish(&self, range: BlockRange, owner: Owner) {
        for block in range.iter() {
            if let Some(full) = self.owned(block, owner) {
                let state = full.map_or(State::Absent, |rung| State::Present { rung, pins: 0 });
                self.words[block.as_usize()].store(state.word(), Ordering::Release);
            }
        }
    }

    /// Adds a pin to each block of the range, or to none.
    pub(super) fn pin(&self, range: BlockRange) -> Result<(), Refused> {
        for (done, block) in range.iter().enumerate() {
            let pinned = self.exchange(block, |state| match state {
                State::Present { rung, pins } if pins < PINS => {
                    Some(State::Present { rung, pins: pins + 1 })
                }
                _ => None,
            });
            if let Err(refused) = pinned {
                self.unpin(BlockRange::new(range.start(), Blocks::new(done as u32)));
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Takes away what [`Table::pin`] added.
    pub(super) fn unpin(&self, range: BlockRange) {
        for block in range.iter() {
            let unpinned = self.exchange(block, |state| match state {
                State::Present { rung, pins } if pins > 0 => {
                    Some(State::Present { rung, pins: pins - 1 })
                }
                _ => None,
            });
            debug_assert!(unpinned.is_ok(), "unpinned a block that was not pinned: {unpinned:?}");
        }
    }

    /// How many blocks are in a state that `accept` takes.
    pub(super) fn count(&self, accept: impl Fn(State) -> bool) -> Blocks {
        let words = self.words.iter();
        Blocks::new(words.filter(|w| accept(State::of(w.load(Ordering::Acquire)))).count() as u32)
    }

    /// Replaces a block's state by what `next` makes of it; returns the one that was there.
    fn exchange(
        &self,
        block: BlockId,
        next: impl Fn(State) -> Option<State>,
    ) -> Result<State, Refused> {
        let word = &self.words[block.as_usize()];
        word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| {
            next(State::of(word)).map(State::word)
        })
        .map(State::of)
        .map_err(|word| Refused { block, state: State::of(word) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::Linux;

    fn range(start: u32, len: u32) -> BlockRange {
        BlockRange::new(BlockId::new(start), Blocks::new(len))
    }

    fn populate(table: &Table<Linux>, blocks: BlockRange, rung: Rung) {
        let owner = table.new_owner();
        table.begin_populate(blocks, owner).unwrap();
        blocks.iter().for_each(|block| table.set(block, owner, Some(rung)));
        table.finish(blocks, owner);
    }

    #[test]
    fn every_state_survives_its_word() {
        for rung in Rung::ALL {
            for pins in [0, 1, PINS] {
                let state = State::Present { rung, pins };
                assert_eq!(State::of(state.word()), state);
            }
            for full in [None, Some(rung)] {
                let state = State::Busy { owner: Owner(OWNER), full };
                assert_eq!(State::of(state.word()), state);
            }
        }
        assert_eq!(State::of(0), State::Absent);
    }

    #[test]
    fn a_pinned_block_is_not_released_and_an_absent_one_not_pinned() {
        let table = Table::new(Linux, Blocks::new(4)).unwrap();
        populate(&table, range(0, 2), Rung::Huge);
        table.pin(range(1, 1)).unwrap();
        let owner = table.new_owner();
        let refused = table.begin_release(range(0, 2), owner).unwrap_err();
        assert_eq!(refused.block, BlockId::new(1));
        assert_eq!(refused.state, State::Present { rung: Rung::Huge, pins: 1 });
        let whole = State::Present { rung: Rung::Huge, pins: 0 };
        assert_eq!(table.state(BlockId::new(0)), whole, "a refused release takes nothing");
        assert_eq!(table.pin(range(0, 3)).unwrap_err().block, BlockId::new(2));
        assert_eq!(table.state(BlockId::new(0)), whole, "a refused pin pins nothing");
        table.unpin(range(1, 1));
        table.begin_release(range(0, 2), owner).unwrap();
        assert_eq!(table.owned(BlockId::new(1), owner), Some(Some(Rung::Huge)));
    }

    #[test]
    fn an_operation_undone_leaves_the_blocks_of_others_alone() {
        let table = Table::new(Linux, Blocks::new(4)).unwrap();
        populate(&table, range(1, 1), Rung::Base);
        let (ours, theirs) = (table.new_owner(), table.new_owner());
        table.begin_populate(range(3, 1), theirs).unwrap();
        assert_eq!(table.begin_populate(range(0, 4), ours).unwrap_err().block, BlockId::new(3));
        assert_eq!(table.state(BlockId::new(0)), State::Absent);
        assert_eq!(table.state(BlockId::new(1)), State::Present { rung: Rung::Base, pins: 0 });
        assert!(table.owned(BlockId::new(3), theirs).is_some());
    }

    #[test]
    fn of_two_threads_that_populate_one_block_one_wins() {
        let table = Table::new(Linux, Blocks::new(64)).unwrap();
        let attempt = || {
            let owner = table.new_owner();
            (0..64).filter(|&b| table.begin_populate(range(b, 1), owner).is_ok()).count()
        };
        let wins: usize = std::thread::scope(|scope| {
            let threads = [(); 2].map(|()| scope.spawn(attempt));
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(wins, 64);
        let busy = table.count(|state| matches!(state, State::Busy { full: None, .. }));
        assert_eq!(busy, Blocks::new(64));
    }
}
