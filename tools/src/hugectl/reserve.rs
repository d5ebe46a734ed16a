//! `hugectl reserve`: climbs the ladder until the pool is as large as asked.

mod report;

use std::time::{Duration, Instant};

use bookend::units::PageSize;
use bookend_defrag::system::HugePools;
use bookend_defrag::system::blame::blame;
use bookend_defrag::system::bounded::Limit;
use bookend_defrag::system::kernel::Kernel;
use bookend_defrag::system::ladder::{Cache, Ceiling, Goal, Progress, climb, roll_back};
use bookend_defrag::system::pools::Place;
use bookend_defrag::system::rung::Rung;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use indicatif::{ProgressBar, ProgressStyle};

use self::report::{Report, dry, look, report, text};
use super::predict::{Prediction, ample, node_of, prediction};
use super::request::{Target, Wanted, place};
use super::{Context, Failure};
use crate::cli::interrupt::Interrupts;
use crate::cli::{exit, output};

/// How many blockers a report names of each sort.
const NAMED: usize = 5;

/// Grows a huge page pool, and does what is needed for it: no more
///
/// Climbs a ladder, and stops as soon as the pool has as many pages as asked: ask; compact;
/// reclaim what is missing, the coldest first; shrink slab; split pages of 1 GiB; take memory
/// blocks offline and back. What is hot in the page cache stays there. Several sizes are served
/// largest first.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Exit status: 0 all pages are there, 3 some are missing (the report says who is in the way), 1 failed,
2 bad usage, 130 or 143 stopped by a signal (what was won stays, or goes with --rollback).
SIGKILL leaves the pool as it is at that moment, and may leave a memory block offline:
echo online > /sys/devices/system/memory/memoryN/state brings it back.")]
pub struct Options {
    #[command(flatten)]
    target: Target,
    /// Stop after so many seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    timeout: f64,
    /// Do not reclaim any of the page cache
    #[arg(long, conflicts_with = "allow_drop")]
    keep_cache: bool,
    /// As a last resort drop all caches, whatever is hot in them
    #[arg(long)]
    allow_drop: bool,
    /// Go no further than this rung
    #[arg(long, value_name = "RUNG", default_value_t = Rung::Offline, value_parser = rung())]
    max_rung: Rung,
    /// Unless all pages were obtained, give back those that were
    #[arg(long)]
    rollback: bool,
    /// Only predict what could be obtained
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object for each size
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: Result<f64, _> = text.parse();
    seconds
        .ok()
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0 && *seconds < 1e9)
        .ok_or_else(|| format!("\"{text}\" is no number of seconds above zero"))
}

/// The rungs by the names that reports have.
fn rung() -> impl TypedValueParser<Value = Rung> {
    let named = |name: String| Rung::ALL.into_iter().find(|rung| rung.name() == name);
    PossibleValuesParser::new(Rung::ALL.map(Rung::name))
        .map(move |name| named(name).expect("one of those names"))
}

/// Climbs for every size and prints what came of it.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let place = place(context, options.target.node)?;
    let wanted = options.target.amounts.wanted(context)?;
    let deadline = Instant::now() + Duration::from_secs_f64(options.timeout);
    let limit = Limit { deadline: Some(deadline), asked: Interrupts::any };
    let mut status = exit::SUCCESS;
    for wanted in wanted {
        let report = reserve(options, context, place, wanted, limit)?;
        let written =
            if options.json { output::json(&report) } else { output::line(text(&report)) };
        written.map_err(Failure::Output)?;
        if report.obtained < report.requested && !options.dry_run {
            status = exit::PARTLY;
        }
    }
    if let Err(interrupted) = context.interrupts.check() {
        status = interrupted.status();
    }
    Ok(status)
}

fn goal(options: &Options, wanted: Wanted, ceiling: Option<Ceiling>) -> Goal {
    let cache = match (options.keep_cache, options.allow_drop) {
        (true, _) => Cache::Keep,
        (_, true) => Cache::Drop,
        _ => Cache::Coldest,
    };
    Goal {
        page: wanted.page,
        pages: wanted.pages,
        contiguous: options.target.contiguous && wanted.page == PageSize::MIB2,
        cache,
        max_rung: options.max_rung,
        ceiling,
    }
}

fn reserve(
    options: &Options,
    context: &Context,
    place: Place,
    wanted: Wanted,
    limit: Limit,
) -> Result<Report, Failure> {
    let started = Instant::now();
    let now = HugePools::of(&context.files).persistent(wanted.page, place)?;
    let prediction = foresee(options, context, place, wanted);
    let most = |rung| prediction.as_ref().map(|prediction| prediction.most(rung));
    let ceiling = prediction.as_ref().map(|prediction| Ceiling {
        reclaim: prediction.most(Rung::Reclaim),
        slab: prediction.most(Rung::Slab),
        offline: prediction.most(Rung::Offline),
    });
    let goal = goal(options, wanted, ceiling);
    let predicted = most(goal.max_rung).map(|most| most.min(goal.pages));
    if options.dry_run {
        return Ok(dry(context, &goal, now, predicted, started));
    }
    let mut kernel = Kernel::new(context.files.clone(), context.base, place, limit);
    let bar = bar(&goal);
    let outcome = climb(&mut kernel, &goal, &mut |progress| show(&bar, progress));
    bar.finish_and_clear();
    let outcome = outcome?;
    let all = outcome.obtained >= goal.pages;
    let kept = if options.rollback && !all {
        // Time is up by now, and what was won has to go back all the same.
        let mut kernel = Kernel::new(context.files.clone(), context.base, place, Limit::NONE);
        roll_back(&mut kernel, &goal, &outcome)?
    } else {
        outcome.obtained
    };
    let blame = (!all).then(|| blame(&context.files, context.base, node_of(place), NAMED));
    let mut report = report(&goal, outcome, kept, predicted, blame, started);
    if goal.contiguous || (!all && goal.page > PageSize::MIB2) {
        look(&mut report, context, &goal, node_of(place));
    }
    Ok(report)
}

/// What can be had; where a glance tells that it is plenty, no more than a glance is taken.
fn foresee(
    options: &Options,
    context: &Context,
    place: Place,
    wanted: Wanted,
) -> Option<Prediction> {
    if !options.dry_run && options.max_rung >= Rung::Reclaim && !options.keep_cache {
        let ample = ample(context, wanted.page, place, wanted.pages);
        if let Ok(Some(prediction)) = ample {
            return Some(prediction);
        }
    }
    prediction(context, wanted.page, place).ok()
}

fn bar(goal: &Goal) -> ProgressBar {
    let bar = ProgressBar::new(goal.pages); // on standard error, if that is a terminal
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {pos}/{len} pages {bar:10} {wide_msg}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_position(progress.pages);
    bar.set_message(progress.rung.name());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_above_zero() {
        assert_eq!(seconds("2.5"), Ok(2.5));
        for text in ["0", "-1", "inf", "NaN", "soon"] {
            assert!(seconds(text).unwrap_err().contains(text));
        }
    }
}
