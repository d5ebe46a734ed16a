//! A thread that keeps blocks free, for a share of the time.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bookend::movable::{Budget, MovableHeap, Snapshot};
use bookend::os::Os;
use bookend::units::Bytes;

use super::execute::{Execution, Outcome};
use super::plan::{Step, Target, plan};

/// How much a background thread does.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Duty {
    /// Of the time, at most: above 0 and up to 1.
    pub share: f64,
    /// How long it works at a time.
    pub slice: Duration,
    /// How long it waits where there is nothing to do.
    pub rest: Duration,
    /// What it wants, again and again.
    pub target: Target,
    /// A block that has more live bytes than this is left alone.
    pub block_cost_max: Bytes,
}

impl Default for Duty {
    /// A twentieth of the time, a millisecond at a time, for blocks of which a quarter is used at most.
    fn default() -> Self {
        Self {
            share: 0.05,
            slice: Duration::from_millis(1),
            rest: Duration::from_millis(500),
            target: Target::Release,
            block_cost_max: Bytes::kib(512),
        }
    }
}

impl Duty {
    /// How long to wait after having worked for so long, so that the share is kept.
    fn pause(&self, worked: Duration) -> Duration {
        let share = self.share.clamp(0.001, 1.0);
        worked.mul_f64((1.0 - share) / share)
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: Mutex<bool>,
    stopped: Condvar,
    total: Mutex<Outcome>,
}

/// The thread. Dropping this ends it, within one slice.
#[derive(Debug)]
pub struct Background {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Starts it.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start<O: Os>(heap: MovableHeap<O>, duty: Duty) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("bookend-defrag".into())
            .spawn(move || its.work(&heap, &duty))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// What it has done so far.
    pub fn done(&self) -> Outcome {
        *self.shared.total.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        *self.shared.stop.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.shared.stopped.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it has no panic of its own to pass on
        }
    }
}

impl Shared {
    fn work<O: Os>(&self, heap: &MovableHeap<O>, duty: &Duty) {
        loop {
            let began = Instant::now();
            let snapshot = heap.snapshot();
            let mut plan = plan(&snapshot, duty.target);
            leave_dear(&snapshot, duty, &mut plan.steps);
            let planned = duty.pause(began.elapsed());
            if plan.steps.is_empty() {
                if self.wait(planned.max(duty.rest)) {
                    return;
                }
                continue;
            }
            let execution = Execution::begin(heap, &plan);
            if self.wait(planned) {
                return;
            }
            let (completed, stop) = self.execute(execution, duty);
            // Where nothing can be done it is not tried again at once.
            if stop || completed == 0 && self.wait(duty.rest) {
                return;
            }
        }
    }

    /// Carries a plan out slice by slice; how many steps were completed, and whether to stop.
    fn execute<O: Os>(&self, mut execution: Execution<'_, O>, duty: &Duty) -> (u32, bool) {
        let (mut all_tried, mut stop) = (false, false);
        while !all_tried && !stop {
            let began = Instant::now();
            // This thread has no session, and is in no callback.
            let run = execution.run(&mut Budget::UNLIMITED.time(duty.slice));
            all_tried = run.unwrap_or(true);
            stop = self.wait(duty.pause(began.elapsed()));
        }
        let done = execution.finish();
        let mut total = self.total.lock().unwrap_or_else(PoisonError::into_inner);
        total.completed += done.completed;
        total.hindered += done.hindered;
        total.objects += done.objects;
        total.bytes = total.bytes + done.bytes;
        total.obstacle = total.obstacle.or(done.obstacle);
        (done.completed, stop)
    }

    /// Waits; whether to stop.
    fn wait(&self, time: Duration) -> bool {
        let stop = self.stop.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.stopped.wait_timeout_while(stop, time, |stop| !*stop);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Leaves out the blocks that would cost too much.
fn leave_dear(snapshot: &Snapshot, duty: &Duty, steps: &mut Vec<Step>) {
    steps.retain(|step| match step {
        Step::Empty(block) => {
            let at = snapshot.movable.binary_search_by_key(block, |extent| extent.range.start());
            at.is_ok_and(|at| snapshot.movable[at].live <= duty.block_cost_max)
        }
        Step::Move { .. } => true,
    });
}
