//! Carrying a plan out.

use bookend::movable::{Budget, Carried, Closed, MovableError, MovableHeap, Obstacle};
use bookend::os::{Linux, Os};
use bookend::placement::{Class, Extent};
use bookend::units::{Blocks, Bytes};

use super::plan::{Plan, Step, Target, plan};

/// A plan being carried out. Blocks that it empties take nothing in meanwhile. To drop it at any time
/// leaves every object whole, where it was or where it went.
#[derive(Debug)]
pub struct Execution<'heap, O: Os = Linux> {
    heap: &'heap MovableHeap<O>,
    closed: Closed<'heap, O>,
    steps: std::vec::IntoIter<Step>,
    done: Outcome,
}

/// What has been done of a plan.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Steps that were completed.
    pub completed: u32,
    /// Steps that something was in the way of, and what that was the first time.
    pub hindered: u32,
    /// See `hindered`.
    pub obstacle: Option<Obstacle>,
    /// Objects moved.
    pub objects: u64,
    /// Their bytes.
    pub bytes: Bytes,
}

impl<'heap, O: Os> Execution<'heap, O> {
    /// Begins to carry a plan out. The snapshot that it was made from may be old: steps that do not
    /// fit any more are passed over.
    pub fn begin(heap: &'heap MovableHeap<O>, plan: &Plan) -> Self {
        let emptied = plan.steps.iter().filter_map(|step| match step {
            Step::Empty(block) => Some(*block),
            Step::Move { .. } => None,
        });
        let closed = heap.close(emptied);
        Self { heap, closed, steps: plan.steps.clone().into_iter(), done: Outcome::default() }
    }

    /// Goes on as far as the budget allows. Whether all steps have been tried.
    ///
    /// # Errors
    /// [`MovableError::InSession`] and [`MovableError::InCallback`].
    pub fn run(&mut self, budget: &mut Budget) -> Result<bool, MovableError> {
        while let Some(step) = self.steps.as_slice().first().copied() {
            if budget.is_spent() {
                return Ok(false);
            }
            let carried = match step {
                Step::Empty(block) => self.heap.empty(block, budget),
                Step::Move { extent, to } => self.heap.carry(extent, to, budget),
            };
            let carried = match carried {
                // The block has gone since the snapshot, or the target been taken.
                Err(MovableError::NotOurs { .. }) => Carried::default(),
                result => result?,
            };
            self.done.objects += carried.objects;
            self.done.bytes = self.done.bytes + carried.bytes;
            match carried.obstacle {
                Some(Obstacle::Budget) => return Ok(false),
                None => self.done.completed += 1,
                obstacle => {
                    self.done.hindered += 1;
                    self.done.obstacle = self.done.obstacle.or(obstacle);
                }
            }
            self.steps.next();
        }
        Ok(true)
    }

    /// Ends it: blocks that have been emptied become free now.
    pub fn finish(self) -> Outcome {
        let Self { done, closed, .. } = self;
        drop(closed);
        done
    }
}

/// Takes a run of blocks for something that does not move; where none is free, plans for exactly that
/// and moves what is in the way, the cheapest first. Where the plan falls short the placement's own
/// compaction goes on.
///
/// # Errors
/// As [`MovableHeap::make_room`].
pub fn make_room<'heap, O: Os>(
    heap: &'heap MovableHeap<O>,
    class: Class,
    blocks: Blocks,
    budget: &mut Budget,
) -> Result<Extent<'heap, O>, MovableError> {
    let target = match class {
        Class::Pinned => Target::PinnedRoom(blocks),
        Class::Movable | Class::Huge => Target::FreeRun(blocks),
    };
    if let Ok(extent) = heap.arena().allocate(class, blocks) {
        return Ok(extent);
    }
    let mut execution = Execution::begin(heap, &plan(&heap.snapshot(), target));
    execution.run(budget)?;
    execution.finish();
    heap.make_room(class, blocks, budget)
}
