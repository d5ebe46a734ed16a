//! The same trace through all policies.
//!
//! On a table without memory one trace feeds four servers side by side, so that it is made once. In a pool
//! there is room for one server only: they come one after the other, and the seed makes their traces the
//! same.

use std::time::Duration;

use bookend::units::{Blocks, Bytes};
use indicatif::{ProgressBar, ProgressStyle};

use super::WeekFailure;
use super::backing::{Backing, Nothing, Real};
use super::policy::Policy;
use super::report::{PolicyReport, Report};
use super::sample::{Sample, look};
use super::server::Server;
use super::trace::{Event, HOURS, Trace};
use crate::cli::interrupt::Interrupts;

/// A server, and what was seen of it.
struct Watched<B> {
    server: Server<B>,
    samples: Vec<Sample>,
    moved: Bytes,
}

impl<B: Backing> Watched<B> {
    fn new(policy: Policy, capacity: Blocks, backing: B) -> Result<Self, WeekFailure> {
        let server = Server::new(policy, capacity, backing)?;
        Ok(Self { server, samples: Vec::with_capacity(HOURS as usize), moved: Bytes::ZERO })
    }

    fn play(&mut self, event: Event) -> Result<(), WeekFailure> {
        self.server.play(event)?;
        if let Event::Hour(hour) = event {
            self.samples.push(look(&mut self.server, hour, self.moved));
            self.moved = self.server.moved();
        }
        Ok(())
    }

    fn report(self) -> PolicyReport {
        PolicyReport::new(self.server.policy(), self.samples)
    }
}

/// A week without memory.
///
/// # Errors
/// No memory for a table, or a signal.
pub fn simulated(
    capacity: Blocks,
    seed: u64,
    interrupts: Interrupts,
) -> Result<Report, WeekFailure> {
    let mut all = Policy::ALL
        .into_iter()
        .map(|policy| Watched::new(policy, capacity, Nothing))
        .collect::<Result<Vec<_>, _>>()?;
    let progress = progress(1);
    progress.set_message("all policies");
    week(&mut all, capacity, seed, interrupts, &progress)?;
    progress.finish_and_clear();
    Ok(Report::new(all.into_iter().map(Watched::report).collect()))
}

/// A week for each policy in the same pool.
///
/// # Errors
/// No memory for a table, a signal, or bytes that were lost.
pub fn real(backing: &mut Real, seed: u64, interrupts: Interrupts) -> Result<Report, WeekFailure> {
    let capacity = backing.pool().capacity();
    let progress = progress(Policy::ALL.len() as u64);
    let mut reports = Vec::new();
    for policy in Policy::ALL {
        progress.set_message(policy.name());
        let mut one = [Watched::new(policy, capacity, &mut *backing)?];
        week(&mut one, capacity, seed, interrupts, &progress)?;
        reports.extend(one.map(Watched::report));
    }
    progress.finish_and_clear();
    Ok(Report::new(reports))
}

/// Plays one trace to all of them.
fn week<B: Backing>(
    all: &mut [Watched<B>],
    capacity: Blocks,
    seed: u64,
    interrupts: Interrupts,
    progress: &ProgressBar,
) -> Result<(), WeekFailure> {
    for event in Trace::new(capacity.bytes(), seed) {
        interrupts.check()?;
        for watched in all.iter_mut() {
            watched.play(event)?;
        }
        if matches!(event, Event::Hour(_)) {
            progress.inc(1);
        }
    }
    Ok(())
}

/// On standard error, if that is a terminal.
fn progress(weeks: u64) -> ProgressBar {
    let progress = ProgressBar::new(weeks * u64::from(HOURS));
    let template = "{spinner} {msg}: hour {pos} of {len}, {eta} left {wide_bar}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}
