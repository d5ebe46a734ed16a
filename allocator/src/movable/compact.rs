//! Compacting without a plan: the emptiest blocks go into the others.
//!
//! For programs that want blocks back and do not choose which. `bookend-defrag` plans for targets,
//! and says beforehand what that costs.

use super::error::{MovableError, Obstacle};
use super::mover::{Budget, Carried};
use super::snapshot::{Holds, Snapshot};
use super::{Closed, MovableHeap};
use crate::os::Os;
use crate::units::{BlockId, Blocks, Bytes};

/// What compacting did.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Compacted {
    /// Objects moved, and what kept others where they are.
    pub carried: Carried,
    /// Blocks that were emptied. Others may have been taken meanwhile.
    pub emptied: Blocks,
}

/// Blocks of slabs, those with the fewest live bytes first, and how many of them could be emptied
/// if every object fitted everywhere.
fn emptiest(snapshot: &Snapshot) -> (Vec<BlockId>, usize) {
    let slabs = snapshot.movable.iter().filter(|extent| extent.holds == Holds::Slabs);
    let mut blocks: Vec<_> = slabs.map(|extent| (extent.live, extent.range.start())).collect();
    blocks.sort_unstable();
    let live = blocks.iter().fold(Bytes::ZERO, |sum, (live, _)| sum + *live);
    let kept = Blocks::holding(live).map_or(blocks.len(), Blocks::as_usize);
    let count = blocks.len().saturating_sub(kept);
    (blocks.into_iter().map(|(_, block)| block).collect(), count)
}

impl<O: Os> MovableHeap<O> {
    /// Moves objects out of the blocks with the fewest live bytes into the others, for as many blocks
    /// as there is room for and the budget allows. The blocks are free then; their memory is given back by
    /// [`Arena::release_free`](crate::placement::Arena::release_free).
    ///
    /// # Errors
    /// [`MovableError::InSession`], [`MovableError::InCallback`].
    pub fn compact(&self, budget: &mut Budget) -> Result<Compacted, MovableError> {
        self.check_may_move()?;
        let (blocks, mut count) = emptiest(&self.snapshot());
        let mut done = Compacted::default();
        while count > 0 {
            // Closed together, so that what leaves the one does not go into the other. Where something
            // finds no room then, half as many take less.
            let closed = self.close(blocks[..count].iter().copied());
            let ended = self.empty_closed(&closed, budget, &mut done)?;
            if ended != Some(Obstacle::NoRoom) {
                break;
            }
            count /= 2;
        }
        Ok(done)
    }

    /// Empties blocks one after the other; says what ended that early, if anything did.
    fn empty_closed(
        &self,
        closed: &Closed<'_, O>,
        budget: &mut Budget,
        done: &mut Compacted,
    ) -> Result<Option<Obstacle>, MovableError> {
        for &block in closed.blocks() {
            let carried = self.empty(block, budget)?;
            done.carried.add(carried);
            match carried.obstacle {
                None => done.emptied = done.emptied + Blocks::ONE,
                Some(ended @ (Obstacle::Budget | Obstacle::NoRoom)) => return Ok(Some(ended)),
                Some(_) => {}
            }
        }
        Ok(None)
    }
}
