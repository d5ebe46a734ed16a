//! Recomputing everything from where runs begin.

use core::fmt;

use super::kind::{Kind, Run};
use super::placement::{MOVING, Placement, STUCK};
use crate::os::Os;

/// What a placement found wrong with itself: a defect of this library.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Broken(&'static str);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the placement is inconsistent, which is a defect: {}", self.0)
    }
}

impl core::error::Error for Broken {}

impl<O: Os> Placement<O> {
    /// Recomputes every counter, bitmap and maximum from where runs begin, and checks that the
    /// classes stand in order. Linear in the capacity; for tests, fuzzers and post-mortems.
    ///
    /// # Errors
    /// Names the first thing found wrong.
    pub fn validate(&self) -> Result<(), Broken> {
        self.table.validate().map_err(Broken)?;
        self.marks.validate().map_err(|_| Broken("a bitmap of marks disagrees below"))?;
        self.validate_order()?;
        self.validate_marks()
    }

    fn validate_order(&self) -> Result<(), Broken> {
        let of = |kind| move |run: &Run| run.kind == kind;
        let runs = || self.table.iter_from(0);
        let pinned_end = runs().filter(of(Kind::Pinned)).last().map_or(0, Run::end);
        if pinned_end != self.pinned_end {
            return Err(Broken("the pinned end is not where the highest pinned extent ends"));
        }
        let huge_start = runs().find(of(Kind::Huge)).map_or(self.table.capacity(), Run::start);
        if huge_start != self.huge_start {
            return Err(Broken("the huge start is not where the lowest huge extent begins"));
        }
        if pinned_end > huge_start {
            return Err(Broken("a pinned extent stands above a huge one"));
        }
        let mut below = runs().take_while(|run| run.start() < pinned_end);
        if below.any(|run| run.kind == Kind::Movable && !self.has_mark(STUCK, run.start())) {
            return Err(Broken("a movable extent that is not stuck stands below a pinned one"));
        }
        Ok(())
    }

    fn validate_marks(&self) -> Result<(), Broken> {
        for mark in [STUCK, MOVING] {
            let next = |from| self.marks.next(mark, from);
            let mut count = 0;
            for head in core::iter::successors(next(0), |&head| next(head + 1)) {
                let run = self.table.run_at(head);
                if !run.is_some_and(|run| run.kind == Kind::Movable && run.start() == head) {
                    return Err(Broken("a mark is not on the head of a movable extent"));
                }
                count += 1;
            }
            if count != self.marked[mark] {
                return Err(Broken("marks are miscounted"));
            }
        }
        // A slide is one extent, any other move two.
        if self.marked[MOVING] < self.moves || self.marked[MOVING] > 2 * self.moves {
            return Err(Broken("moves are miscounted"));
        }
        Ok(())
    }
}
