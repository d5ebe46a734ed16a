//! Moves that a placement asks for: of blocks of slabs, and of objects longer than a block.

use super::block::Halves;
use super::round::{Item, Terms};
use super::{Budget, Carried, Moving};
use crate::movable::error::{MovableError, Obstacle};
use crate::movable::heap::{Inner, offset_of};
use crate::movable::protocol;
use crate::movable::slab::Zone;
use crate::movable::stamps;
use crate::movable::store::Big;
use crate::os::Os;
use crate::placement::{ArenaError, Class, Clearing, Move, Refusal};
use crate::units::{BlockId, BlockRange, Blocks};

/// How a move of the placement ended.
enum End {
    Moved,
    Refused,
    Cancelled,
    Parted,
}

impl<O: Os> Moving<'_, O> {
    /// Takes blocks, moving what is in the way.
    pub(in crate::movable) fn take(
        &self,
        class: Class,
        blocks: Blocks,
        budget: &mut Budget,
    ) -> Result<BlockRange, MovableError> {
        self.unstick();
        loop {
            let refusal = match self.heap.arena.take(class, blocks) {
                Err(ArenaError::Place(refusal)) => refusal,
                result => return Ok(result?),
            };
            match refusal {
                Refusal::Evict(clearing) | Refusal::Compact(clearing) => {
                    self.clear(&clearing, budget)?;
                }
                other => return Err(ArenaError::Place(other).into()),
            }
        }
    }

    /// Lets what refused before be asked again: pins go, and owners change their minds.
    fn unstick(&self) {
        let mut placement = self.heap.arena.placement();
        let stuck: Vec<_> = placement.iter_stuck().collect();
        for extent in stuck {
            // It is an extent at rest, as the list says; what stays stuck is out of order.
            let _ = placement.unstick(extent);
        }
    }

    /// Makes the moves of a clearing.
    fn clear(&self, clearing: &Clearing, budget: &mut Budget) -> Result<(), MovableError> {
        loop {
            // Not in the condition: the lock is not to be held while moving.
            let begun = self.heap.arena.placement().next_move(clearing);
            let Some(begun) = begun else { return Ok(()) };
            if let Some(Obstacle::Budget) = self.make(begun, budget).obstacle {
                return Err(MovableError::Busy(Obstacle::Budget));
            }
        }
    }

    /// Moves an extent to free blocks from `to` on.
    pub(in crate::movable) fn carry_extent(
        &self,
        extent: BlockRange,
        to: BlockId,
        budget: &mut Budget,
    ) -> Result<Carried, MovableError> {
        let begun = self.heap.arena.placement().begin_move(extent, to);
        let begun = begun.map_err(|_| MovableError::NotOurs { blocks: extent })?;
        Ok(self.make(begun, budget))
    }

    /// Carries a move out, and ends it.
    fn make(&self, begun: Move, budget: &mut Budget) -> Carried {
        let (from, to) = (begun.from(), begun.to());
        if self.heap.arena.populate(to).is_err() {
            // Not tried again in this clearing, which would not end otherwise.
            self.end(begun, &End::Refused);
            return Carried { obstacle: Some(Obstacle::NoRoom), ..Carried::default() };
        }
        let big = self.heap.state().store.big(from.start());
        match big.filter(|big| big.range == from && big.zone == Zone::Movable) {
            Some(big) => self.make_big(begun, &big, budget),
            None => {
                let carried = self.carry_block(from.start(), to.start(), budget);
                // What is not ours refuses.
                let nothing = Halves { from_empty: false, to_empty: true };
                let refused = Carried { obstacle: Some(Obstacle::Refused), ..Carried::default() };
                let (carried, halves) = carried.unwrap_or((refused, nothing));
                self.end_block(begun, halves, carried.obstacle);
                carried
            }
        }
    }

    fn end_block(&self, begun: Move, halves: Halves, obstacle: Option<Obstacle>) {
        let to = begun.to();
        let end = match halves {
            Halves { from_empty: true, .. } => End::Moved,
            Halves { to_empty: false, .. } => End::Parted,
            _ => stays(obstacle),
        };
        self.end(begun, &end);
        if halves.from_empty && halves.to_empty {
            self.heap.give_blocks(to); // all was freed meanwhile
        }
    }

    fn make_big(&self, begun: Move, big: &Big, budget: &mut Budget) -> Carried {
        let to = begun.to();
        if !self.hold_big(big) {
            self.end(begun, &End::Refused);
            return Carried { obstacle: Some(Obstacle::Pinned), ..Carried::default() };
        }
        let carried = self.carry_big(big, to, false, budget);
        if carried.obstacle.is_none() {
            self.rekey(big, Big { range: to, ..*big });
            self.end(begun, &End::Moved);
        } else {
            self.end(begun, &stays(carried.obstacle));
        }
        self.let_go(big.index);
        carried
    }

    /// Sees to it that a long object is not freed before the placement knows where it is. `false`
    /// where it has been, or is pinned. [`Moving::let_go`] ends it.
    pub(super) fn hold_big(&self, big: &Big) -> bool {
        protocol::hold(self.heap.tables.word(big.index), offset_of(big.range))
    }

    /// The store's entry of a long object that has been moved.
    pub(super) fn rekey(&self, old: &Big, new: Big) {
        let mut state = self.heap.state();
        state.store.give(offset_of(old.range));
        state.store.add_big(new);
    }

    /// Copies a long object that is held into blocks that are populated and nobody's.
    pub(super) fn carry_big(
        &self,
        big: &Big,
        to: BlockRange,
        pin: bool,
        budget: &mut Budget,
    ) -> Carried {
        let from = offset_of(big.range);
        let Big { index, owner, len, .. } = *big;
        let to = offset_of(to);
        let item = Item { index, owner, held: true, fate: Ok(()), from, to, len };
        self.heap.tables.open(item.to);
        let stamp = self.heap.tables.stamp(from);
        protocol::begin_emptying(stamp);
        let mut carried = Carried::default();
        for insist in [false, true, true] {
            carried = self.move_one(item, Terms { insist, pin }, budget).0;
            if carried.obstacle != Some(Obstacle::InUse) {
                break;
            }
        }
        protocol::end_emptying(stamp, stamps::next());
        carried
    }

    fn end(&self, begun: Move, end: &End) {
        let mut placement = self.heap.arena.placement();
        // None fails: this placement has begun the move, and nobody else could end it.
        let ended = match end {
            End::Moved => placement.moved(begun),
            End::Refused => placement.refused(begun),
            End::Cancelled => placement.cancelled(begun),
            End::Parted => placement.parted(begun),
        };
        debug_assert!(ended.is_ok(), "{ended:?}");
        for range in self.heap.take_orphans() {
            let freed = placement.free(range);
            debug_assert!(freed.is_ok(), "{freed:?}");
        }
    }
}

/// How a move ends after which everything is where it was. Only what may not be tried again in this
/// clearing is stuck; a budget ends the clearing.
fn stays(obstacle: Option<Obstacle>) -> End {
    if obstacle == Some(Obstacle::Budget) { End::Cancelled } else { End::Refused }
}

impl<O: Os> Inner<O> {
    /// Takes blocks for the caller of [`Inner::take_blocks`].
    pub(in crate::movable) fn take_moving(
        &self,
        moving: &Moving<'_, O>,
        class: Class,
        blocks: Blocks,
    ) -> Result<BlockRange, MovableError> {
        moving.take(class, blocks, &mut Budget::UNLIMITED.clone())
    }
}
