//! A machine on which recorded programs run again and again, and what that asks of memory.
//!
//! A *copy* of the recording runs its processes one after the other, in the order in which they began,
//! and when it is through begins anew. Copies start at different places of it, evenly spread; which of
//! them takes the next steps is drawn by chance. When a process ends, what it has not freed goes with
//! it, as it does in the kernel.
//!
//! The result is a list of events for the policies of `week`, in which 120 marks at even distances (in
//! steps of the programs) stand for its hours.

use bookend::units::Bytes;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::slabs::{Place, Slabs};
use super::trace_file::{Process, Step};
use crate::cli::interrupt::{Interrupted, Interrupts};
use crate::fragbench::week::trace::{Event, HOURS};

/// Steps that a copy takes before another one may.
const TURN: u64 = 64;

/// What is played.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Amount {
    /// Copies side by side.
    pub copies: u32,
    /// How often each runs through the recording.
    pub rounds: u32,
    /// The part of the small sizes that can move.
    pub movable: f64,
    /// For all that is drawn.
    pub seed: u64,
}

/// What the machine asks for.
#[derive(Debug)]
pub struct Course {
    /// In order, with the marks.
    pub events: Vec<Event>,
    /// Most bytes of slabs, pages and extents at a time.
    pub peak: Bytes,
    /// Steps of all programs.
    pub steps: u64,
}

/// One copy of the recording.
struct Copy<'a> {
    processes: &'a [Process],
    at: usize,
    step: usize,
    held: Vec<Option<Place>>,
}

impl<'a> Copy<'a> {
    fn new(processes: &'a [Process]) -> Self {
        let mut copy = Self { processes, at: 0, step: 0, held: Vec::new() };
        copy.enter(0);
        copy
    }

    fn enter(&mut self, at: usize) {
        (self.at, self.step) = (at, 0);
        self.held.clear();
        self.held.resize(self.processes[at].objects as usize, None);
    }

    /// One step; and the end of a process after its last.
    fn step(&mut self, slabs: &mut Slabs, mut tell: impl FnMut(Event)) {
        let process = &self.processes[self.at];
        match process.steps[self.step] {
            Step::Make(object, bytes) => {
                self.held[object as usize] = Some(slabs.make(bytes, &mut tell));
            }
            Step::End(object) => {
                if let Some(place) = self.held[object as usize].take() {
                    slabs.end(place, &mut tell);
                }
            }
        }
        self.step += 1;
        if self.step == process.steps.len() {
            for place in self.held.drain(..).flatten() {
                slabs.end(place, &mut tell);
            }
            self.enter((self.at + 1) % self.processes.len());
        }
    }
}

/// Runs the machine. `processes` is not empty, and none of them is.
///
/// # Errors
/// A signal.
pub fn course(
    processes: &[Process],
    amount: Amount,
    interrupts: Interrupts,
    mut progress: impl FnMut(f64),
) -> Result<Course, Interrupted> {
    let once: u64 = processes.iter().map(|process| process.steps.len() as u64).sum();
    let mut slabs = Slabs::new(amount.movable, amount.seed);
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(amount.seed);
    let mut events = Vec::new();
    let mut copies: Vec<_> = (0..amount.copies).map(|_| Copy::new(processes)).collect();
    // Each copy comes to where it begins, one after the other.
    for (index, copy) in copies.iter_mut().enumerate() {
        interrupts.check()?;
        for _ in 0..once * index as u64 / u64::from(amount.copies) {
            copy.step(&mut slabs, |event| events.push(event));
        }
    }
    let steps = once * u64::from(amount.copies) * u64::from(amount.rounds);
    let mut hours = 0;
    for done in 0..steps {
        if done % TURN == 0 {
            copies_turn(&mut copies, &mut rng);
            interrupts.check()?;
        }
        copies[0].step(&mut slabs, |event| events.push(event));
        while hours < HOURS && (done + 1) * u64::from(HOURS) >= steps * u64::from(hours + 1) {
            hours += 1;
            events.push(Event::Hour(hours));
            progress(f64::from(hours) / f64::from(HOURS));
        }
    }
    Ok(Course { events, peak: slabs.peak(), steps })
}

/// Puts the copy whose turn it is first.
fn copies_turn(copies: &mut [Copy<'_>], rng: &mut Xoshiro256PlusPlus) {
    let next = rng.random_range(0..copies.len());
    copies.swap(0, next);
}

#[cfg(test)]
mod tests {
    use super::super::trace_file::{parse, tests::chunk};
    use super::*;
    use std::collections::HashMap;

    fn processes() -> Vec<Process> {
        let events: Vec<_> = (0..200u64)
            .map(|n| (n, (n * 7 % 50) * 16, (n % 3 != 0).then_some(n * n % 70_000 + 1)))
            .collect();
        parse(&[chunk(1, 1, &events), chunk(2, 1, &events[..100])].concat()).unwrap()
    }

    fn run(amount: Amount) -> Course {
        course(&processes(), amount, Interrupts::note().unwrap(), |_| {}).unwrap()
    }

    #[test]
    fn copies_ask_for_what_the_programs_did_and_end_what_they_held() {
        let amount = Amount { copies: 3, rounds: 2, movable: 0.5, seed: 1 };
        let all = run(amount);
        let mut living = HashMap::new();
        let (mut live, mut peak, mut hours) = (0, 0, 0);
        for event in &all.events {
            match *event {
                Event::Allocate(id, item) => {
                    assert!(living.insert(id, item).is_none(), "{id:?} is given out twice");
                    live += item.bytes().get();
                }
                Event::Free(id) => live -= living.remove(&id).expect("it lives").bytes().get(),
                Event::Hour(hour) => {
                    hours += 1;
                    assert_eq!(hour, hours);
                }
            }
            peak = peak.max(live);
        }
        assert_eq!((hours, Bytes::new(peak)), (HOURS, all.peak));
        let once: usize = processes().iter().map(|process| process.steps.len()).sum();
        assert_eq!(all.steps, once as u64 * 6);
        assert_eq!(run(amount).events, all.events, "a seed gives one course");
        assert_ne!(run(Amount { seed: 2, ..amount }).events, all.events);
    }

    #[test]
    fn one_copy_is_the_recording_and_ends_empty() {
        let all = run(Amount { copies: 1, rounds: 1, movable: 1.0, seed: 1 });
        let count = |of: fn(&Event) -> bool| all.events.iter().filter(|event| of(event)).count();
        let made = count(|event| matches!(event, Event::Allocate(..)));
        assert_eq!(made, count(|event| matches!(event, Event::Free(_))));
    }
}
