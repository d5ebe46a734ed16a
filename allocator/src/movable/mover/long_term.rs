//! Long-term pins: an object goes to the pinned end first, so that it spoils no movable block.

use super::round::{Item, Terms};
use super::{Budget, Moving};
use crate::movable::error::{MovableError, Obstacle};
use crate::movable::heap::{Inner, offset_of};
use crate::movable::protocol::{self, Wait};
use crate::movable::slab::{Bin, Zone};
use crate::movable::stamps;
use crate::movable::store::Big;
use crate::movable::word::{Offset, Word};
use crate::os::Os;
use crate::placement::Class;
use crate::units::Blocks;

use core::sync::atomic::Ordering::Relaxed;

/// How often an object in use is tried.
const TRIES: usize = 4;

impl<O: Os> Inner<O> {
    /// Moves an object to the pinned end, unless it is there, and pins it. Says where it is.
    pub(in crate::movable) fn pin_long_term(
        &self,
        index: u32,
        budget: &mut Budget,
    ) -> Result<Offset, MovableError> {
        let moving = self.begin_moving()?;
        let at = Word(self.tables.word(index).load(Relaxed)).offset();
        let place = {
            let state = self.state();
            let slab = state.store.place_at(at).map(|(slab, _)| (slab.bin, u64::from(slab.size)));
            slab.ok_or_else(|| state.store.big(at.block()))
        };
        match place {
            Ok((bin, _)) if bin.zone == Zone::Pinned => self.pin_any(index),
            Ok((bin, len)) => moving.pin_small(index, bin, len, budget),
            Err(Some(big)) if big.zone == Zone::Pinned => self.pin_any(index),
            Err(Some(big)) => moving.pin_big(&big, budget),
            Err(None) => Err(MovableError::NoSuchObject { raw: self.id(index).to_raw() }),
        }
    }

    /// Pins an object that the caller has the handle of.
    #[inline]
    pub(in crate::movable) fn pin(&self, index: u32) -> Result<Offset, MovableError> {
        match self.tables.pin_own(index) {
            Ok(at) => Ok(at),
            Err(wait) => Err(self.not_pinned(index, wait)),
        }
    }

    /// Pins an object that may be no more.
    pub(in crate::movable) fn pin_any(&self, index: u32) -> Result<Offset, MovableError> {
        self.tables.pin(index).map_err(|wait| self.not_pinned(index, wait))
    }

    #[cold]
    fn not_pinned(&self, index: u32, wait: Wait) -> MovableError {
        match wait {
            Wait::TooManyPins => MovableError::TooManyPins,
            Wait::Copied | Wait::Insisted => MovableError::InCallback,
            Wait::Dead => MovableError::NoSuchObject { raw: self.id(index).to_raw() },
        }
    }
}

impl<O: Os> Moving<'_, O> {
    fn pin_small(
        &self,
        index: u32,
        bin: Bin,
        len: u64,
        budget: &mut Budget,
    ) -> Result<Offset, MovableError> {
        let mut obstacle = Obstacle::InUse;
        for attempt in 0..TRIES {
            let to = self.pinned_place(bin, index, budget)?;
            // Room for it may have been made by moving this very object.
            let from = Word(self.heap.tables.word(index).load(Relaxed)).offset();
            let Bin { owner, .. } = bin;
            let item = Item { index, owner, held: false, fate: Ok(()), from, to, len };
            let stamp = self.heap.tables.stamp(from);
            protocol::begin_emptying(stamp);
            let terms = Terms { insist: attempt > 0, pin: true };
            let (carried, places) = self.move_one(item, terms, budget);
            protocol::end_emptying(stamp, stamps::next());
            self.give_back(&places);
            match carried.obstacle {
                None => return Ok(to),
                Some(met) => obstacle = met,
            }
            if obstacle != Obstacle::InUse {
                break;
            }
        }
        Err(MovableError::Busy(obstacle))
    }

    fn pinned_place(
        &self,
        bin: Bin,
        index: u32,
        budget: &mut Budget,
    ) -> Result<Offset, MovableError> {
        let bin = Bin { zone: Zone::Pinned, ..bin };
        if let Some(at) = self.heap.state().store.take(bin, index) {
            return Ok(at);
        }
        let block = self.take(Class::Pinned, Blocks::ONE, budget)?;
        let mut state = self.heap.state();
        if let Some(at) = state.store.take(bin, index) {
            // Somebody has freed something meanwhile.
            drop(state);
            self.heap.give_blocks(block);
            return Ok(at);
        }
        state.store.add(Zone::Pinned, block.start());
        self.heap.tables.open(offset_of(block));
        Ok(state.store.take(bin, index).expect("a block that was just brought in has room"))
    }

    fn pin_big(&self, big: &Big, budget: &mut Budget) -> Result<Offset, MovableError> {
        let to = self.take(Class::Pinned, big.range.len(), budget)?;
        // Room for it may have been made by moving this very object.
        let at = Word(self.heap.tables.word(big.index).load(Relaxed)).offset();
        let big = self.heap.state().store.big(at.block()).filter(|big| self.hold_big(big));
        let Some(big) = big else {
            self.heap.give_blocks(to);
            return Err(MovableError::Busy(Obstacle::Pinned));
        };
        let obstacle = self.carry_big(&big, to, true, budget).obstacle;
        if obstacle.is_none() {
            self.rekey(&big, Big { range: to, zone: Zone::Pinned, ..big });
        }
        self.heap.give_blocks(if obstacle.is_none() { big.range } else { to });
        self.let_go(big.index);
        obstacle.map_or(Ok(offset_of(to)), |obstacle| Err(MovableError::Busy(obstacle)))
    }
}
