//! The same trace through all policies.
//!
//! On a table without memory one trace feeds four servers side by side, each in a thread of its own, so that
//! it is made once. In a pool there is room for one server only: they come one after the other, and the seed
//! makes their traces the same.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
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

    fn play(&mut self, events: &[Event], progress: &ProgressBar) -> Result<(), WeekFailure> {
        let Self { server, samples, moved } = self;
        server.play_all(events, |server, hour| {
            samples.push(look(server, hour, *moved));
            *moved = server.moved();
            progress.inc(1);
        })?;
        Ok(())
    }

    fn report(self) -> PolicyReport {
        PolicyReport::new(self.server.policy(), self.samples)
    }
}

/// Events that are handed from thread to thread at once.
const BATCH: usize = 1 << 16;
/// The same where each may be a GiB that is written: between two a signal is heard.
const BATCH_REAL: usize = 32;
/// Batches that a policy may be behind the trace.
const BEHIND: usize = 2;

type Batch = Arc<Vec<Event>>;

/// A week without memory.
///
/// # Errors
/// No memory for a table or a thread, or a signal.
pub fn simulated(
    capacity: Blocks,
    seed: u64,
    interrupts: Interrupts,
) -> Result<Report, WeekFailure> {
    let progress = progress(Policy::ALL.len() as u64);
    progress.set_message("all policies");
    let reports = thread::scope(|scope| {
        let (mut feeds, mut players) = (Vec::new(), Vec::new());
        for policy in Policy::ALL {
            let watched = Watched::new(policy, capacity, Nothing)?;
            let (feed, batches) = sync_channel(BEHIND);
            let progress = &progress;
            let player = thread::Builder::new().name(policy.name().to_owned());
            let player = player.spawn_scoped(scope, move || play_all(watched, &batches, progress));
            players.push(player.map_err(WeekFailure::Thread)?);
            feeds.push(feed);
        }
        feed(&feeds, Trace::new(capacity.bytes(), seed), interrupts)?;
        drop(feeds);
        let ended = players.into_iter().map(|player| match player.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<Result<Vec<_>, _>>()
    })?;
    progress.finish_and_clear();
    Ok(Report::new(reports))
}

/// Makes the trace, and gives it to all.
fn feed(
    feeds: &[SyncSender<Batch>],
    trace: Trace,
    interrupts: Interrupts,
) -> Result<(), WeekFailure> {
    for batch in batches(trace, BATCH) {
        let batch = Arc::new(batch);
        for feed in feeds {
            interrupts.check()?;
            if feed.send(Arc::clone(&batch)).is_err() {
                return Ok(()); // its player has failed, and says why
            }
        }
    }
    Ok(())
}

/// A trace in pieces.
fn batches(mut trace: Trace, len: usize) -> impl Iterator<Item = Vec<Event>> {
    core::iter::from_fn(move || {
        let batch: Vec<_> = trace.by_ref().take(len).collect();
        (!batch.is_empty()).then_some(batch)
    })
}

fn play_all(
    mut watched: Watched<Nothing>,
    batches: &Receiver<Batch>,
    progress: &ProgressBar,
) -> Result<PolicyReport, WeekFailure> {
    for batch in batches {
        watched.play(&batch, progress)?;
    }
    Ok(watched.report())
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
        let mut watched = Watched::new(policy, capacity, &mut *backing)?;
        for batch in batches(Trace::new(capacity.bytes(), seed), BATCH_REAL) {
            interrupts.check()?;
            watched.play(&batch, &progress)?;
        }
        reports.push(watched.report());
    }
    progress.finish_and_clear();
    Ok(Report::new(reports))
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
