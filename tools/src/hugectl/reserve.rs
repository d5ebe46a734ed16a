//! `hugectl reserve`: climbs the ladder until the pool is as large as asked.

use std::time::{Duration, Instant};

use bookend::units::{Bytes, Node, PageSize};
use bookend_defrag::system::HugePools;
use bookend_defrag::system::blame::{Blame, KindCount, PinnedBy, blame};
use bookend_defrag::system::bounded::{Limit, Stop};
use bookend_defrag::system::kernel::Kernel;
use bookend_defrag::system::ladder::{Cache, Goal, Outcome, Progress, climb, roll_back};
use bookend_defrag::system::pools::Place;
use bookend_defrag::system::rung::{Rung, RungReport};
use bookend_defrag::system::survey::{Class, Kind, Region, survey};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::predict::{Prediction, ample, node_of, prediction};
use super::request::{Amounts, Wanted, place};
use super::table::Table;
use super::{Context, Failure};
use crate::cli::interrupt::Interrupts;
use crate::cli::{exit, format, output};

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
    amounts: Amounts,
    /// Only on this NUMA node
    #[arg(long, value_name = "N")]
    node: Option<u32>,
    /// Take 2 MiB pages from split 1 GiB pages, so that they lie in long runs
    #[arg(long)]
    contiguous: bool,
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
    #[arg(long, value_name = "RUNG", value_enum, default_value_t = RungName::Offline)]
    max_rung: RungName,
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

/// The rungs by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, ValueEnum)]
enum RungName {
    Ask,
    Compact,
    Reclaim,
    Slab,
    Drop,
    Contiguous,
    Offline,
}

impl From<RungName> for Rung {
    fn from(name: RungName) -> Self {
        Self::ALL[name as usize]
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages the pool was to have.
    pub requested: u64,
    /// Pages it had before.
    pub before: u64,
    /// Pages it has, no more than requested.
    pub obtained: u64,
    /// Pages that were predicted, no more than requested; `null` where page flags are hidden.
    pub predicted: Option<u64>,
    /// How long it took, the prediction included.
    pub seconds: f64,
    /// What each rung gave.
    pub rungs: Vec<RungReport>,
    /// In a sentence.
    pub verdict: String,
    /// What stands in the way of the rest, where some are missing.
    pub blockers: Vec<KindCount>,
    /// Whose pinned pages stand in the way of the rest.
    pub pinned: Vec<PinnedBy>,
    /// Of gigantic pages that are missing, the ranges that something spoils, fewest blocks first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub spoilt: Vec<Region>,
    /// Runs of neighbouring blocks that all huge pages of the machine lie in, with --contiguous and
    /// where page flags could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
}

/// Climbs for every size and prints what came of it.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let place = place(context, options.node)?;
    let wanted = options.amounts.wanted(context)?;
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

fn goal(options: &Options, wanted: Wanted, ceiling: Option<u64>) -> Goal {
    let cache = match (options.keep_cache, options.allow_drop) {
        (true, _) => Cache::Keep,
        (_, true) => Cache::Drop,
        _ => Cache::Coldest,
    };
    Goal {
        page: wanted.page,
        pages: wanted.pages,
        contiguous: options.contiguous && wanted.page == PageSize::MIB2,
        cache,
        max_rung: options.max_rung.into(),
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
    let goal = goal(options, wanted, most(Rung::Reclaim));
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
    if !options.dry_run && options.max_rung >= RungName::Reclaim && !options.keep_cache {
        let ample = ample(context, wanted.page, place, wanted.pages);
        if let Ok(Some(prediction)) = ample {
            return Some(prediction);
        }
    }
    prediction(context, wanted.page, place).ok()
}

/// Adds what another look at memory tells: runs, and which gigabytes are spoilt.
fn look(report: &mut Report, context: &Context, goal: &Goal, node: Option<Node>) {
    let Ok(survey) = survey(&context.files, context.base) else { return };
    if goal.contiguous {
        report.runs = Some(survey.runs_of(Class::Hugetlb, node));
        return;
    }
    // Those that are pages already are in nobody's way.
    let is_page = |region: &Region| region.worst == Kind::Hugetlb && region.blockers == 0;
    report.spoilt = survey.spoilt_regions(goal.page, node);
    report.spoilt.retain(|region| !is_page(region));
    let names: Vec<_> = report.spoilt.iter().map(name_region).collect();
    if !names.is_empty() {
        let (count, page) = (names.len(), goal.page);
        let names = names.join(", ");
        report.verdict.push_str(&format!("; {count} ranges of {page} are spoilt: {names}"));
    }
}

fn name_region(region: &Region) -> String {
    let at = Bytes::new(region.address);
    let blocks = if region.blocks == 1 { "block" } else { "blocks" };
    format!("at {at} by {} {blocks} of mostly {}", format::count(region.blocks), region.worst)
}

/// The report of a dry run: what was predicted, and nothing obtained beyond what there is.
fn dry(
    context: &Context,
    goal: &Goal,
    now: u64,
    predicted: Option<u64>,
    started: Instant,
) -> Report {
    let verdict = match predicted {
        Some(pages) if pages >= goal.pages => format!("all {pages} pages should be possible"),
        Some(pages) => format!("{pages} of {} pages should be possible", goal.pages),
        None => "no prediction: only root may read /proc/kpageflags".to_owned(),
    };
    let short = predicted.is_some_and(|pages| pages < goal.pages);
    let blame = short.then(|| blame(&context.files, context.base, None, NAMED));
    Report {
        page_bytes: goal.page.bytes().get(),
        requested: goal.pages,
        before: now,
        obtained: now.min(goal.pages),
        predicted,
        seconds: started.elapsed().as_secs_f64(),
        rungs: Vec::new(),
        verdict: format!("dry run: {verdict}"),
        blockers: blame.as_ref().map(|blame| blame.kinds.clone()).unwrap_or_default(),
        pinned: blame.map(|blame| blame.pinned).unwrap_or_default(),
        spoilt: Vec::new(),
        runs: None,
    }
}

fn report(
    goal: &Goal,
    outcome: Outcome,
    kept: u64,
    predicted: Option<u64>,
    blame: Option<Blame>,
    started: Instant,
) -> Report {
    let verdict = verdict(goal, &outcome, kept, blame.as_ref());
    Report {
        page_bytes: goal.page.bytes().get(),
        requested: goal.pages,
        before: outcome.before,
        obtained: kept.min(goal.pages),
        predicted,
        seconds: started.elapsed().as_secs_f64(),
        rungs: outcome.rungs,
        verdict,
        blockers: blame.as_ref().map(|blame| blame.kinds.clone()).unwrap_or_default(),
        pinned: blame.map(|blame| blame.pinned).unwrap_or_default(),
        spoilt: Vec::new(),
        runs: None,
    }
}

/// What came of it in a sentence; of what is missing, who holds it.
fn verdict(goal: &Goal, outcome: &Outcome, kept: u64, blame: Option<&Blame>) -> String {
    let pages = format::count(goal.pages);
    if outcome.obtained >= goal.pages {
        return format!("all {pages} pages of {} are there", goal.page);
    }
    let mut text = format!("{} of {pages} pages of {}", format::count(outcome.obtained), goal.page);
    match outcome.stopped {
        Some(Stop::Timeout) => text.push_str(", when time was up"),
        Some(Stop::Asked) => text.push_str(", when it was interrupted"),
        None => {}
    }
    if kept < outcome.obtained {
        text.push_str(&format!("; given back, so that there are {} again", format::count(kept)));
    }
    if let Some(blame) = blame {
        text.push_str(&holders(blame));
    }
    text
}

fn holders(blame: &Blame) -> String {
    let mut held: Vec<_> = blame
        .pinned
        .iter()
        .filter_map(|pinned| {
            let blocks = pinned.blocks.filter(|&blocks| blocks > 0)?;
            let (name, pid) = (&pinned.process.name, pinned.process.pid);
            let blocks = format::count(blocks);
            Some(format!("about {blocks} blocks are held by pages that {name} ({pid}) has pinned"))
        })
        .collect();
    let kinds = blame.kinds.iter().filter(|kind| kind.blocks > 0);
    held.extend(kinds.map(|kind| {
        let blocks = format::count(kind.blocks);
        format!("{blocks} blocks are held by {}", in_words(kind.kind.name()))
    }));
    if held.is_empty() {
        return String::new();
    }
    let stays = "; what belongs to the kernel only a reboot frees";
    format!(": {}{}", held.join(", "), if blame.blocked_blocks > 0 { stays } else { "" })
}

fn in_words(kind: &str) -> String {
    match kind {
        "kernel" => "the kernel".to_owned(),
        "reserved at boot" => "what was reserved at boot".to_owned(),
        other => other.to_owned(),
    }
}

fn bar(goal: &Goal) -> ProgressBar {
    let bar = ProgressBar::new(goal.pages); // on standard error, if that is a terminal
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} pages {bar:30} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(bar: &ProgressBar, progress: Progress) {
    bar.set_position(progress.pages);
    bar.set_message(progress.rung.name());
}

fn text(report: &Report) -> String {
    let mut table = Table::new(["rung", "gained", "seconds", "cache before", "after", "moved"]);
    let bytes = |n| Bytes::new(n).to_string();
    for rung in &report.rungs {
        table.row([
            rung.rung.name().to_owned(),
            format::count(rung.gained),
            format!("{:.2}", rung.seconds),
            bytes(rung.cache_bytes_before),
            bytes(rung.cache_bytes_after),
            format::count(rung.pages_migrated),
        ]);
    }
    let mut text = String::new();
    if !report.rungs.is_empty() {
        text.push_str(&format!("{table}\n"));
    }
    for rung in &report.rungs {
        if let Some(note) = &rung.note {
            text.push_str(&format!("  {}: {note}\n", rung.rung));
        }
    }
    if let Some(predicted) = report.predicted {
        text.push_str(&format!("Predicted: {} pages\n", format::count(predicted)));
    }
    text.push_str(&report.verdict);
    if let Some(runs) = report.runs {
        text.push_str(&format!("; huge pages lie in {} runs", format::count(runs)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use bookend_defrag::system::holders::Process;

    fn goal(pages: u64) -> Goal {
        Goal {
            page: PageSize::MIB2,
            pages,
            contiguous: false,
            cache: Cache::Coldest,
            max_rung: Rung::Offline,
            ceiling: None,
        }
    }

    fn outcome(obtained: u64, stopped: Option<Stop>) -> Outcome {
        Outcome { before: 1, obtained, time: Duration::ZERO, rungs: Vec::new(), stopped }
    }

    fn held() -> Blame {
        let process = Process {
            pid: 42,
            name: "nic".into(),
            page_table_bytes: 0,
            locked_bytes: 0,
            pinned_bytes: 1 << 20,
            resident_bytes: 1 << 20,
        };
        Blame {
            kinds: vec![KindCount { kind: Kind::PageTable, pages: 9, blocks: 3 }],
            histogram: Vec::new(),
            slab_blocks: 0,
            blocked_blocks: 3,
            single: Vec::new(),
            single_blocks: 0,
            caches: Vec::new(),
            page_tables: Vec::new(),
            pinned: vec![PinnedBy { process, blocks: Some(1234) }],
            locked: Vec::new(),
            missing: Vec::new(),
        }
    }

    #[test]
    fn the_verdict_names_who_is_in_the_way() {
        assert_eq!(verdict(&goal(7), &outcome(7, None), 7, None), "all 7 pages of 2 MiB are there");
        assert_eq!(
            verdict(&goal(2000), &outcome(9, Some(Stop::Timeout)), 9, Some(&held())),
            "9 of 2,000 pages of 2 MiB, when time was up: about 1,234 blocks are held by pages that \
             nic (42) has pinned, 3 blocks are held by page tables; what belongs to the kernel only \
             a reboot frees"
        );
        let back = verdict(&goal(20), &outcome(9, Some(Stop::Asked)), 1, None);
        assert!(back.ends_with("interrupted; given back, so that there are 1 again"), "{back}");
    }

    #[test]
    fn rungs_have_the_librarys_order() {
        for (name, rung) in RungName::value_variants().iter().zip(Rung::ALL) {
            assert_eq!(Rung::from(*name), rung);
            assert_eq!(name.to_possible_value().unwrap().get_name(), rung.name());
        }
    }

    #[test]
    fn a_time_limit_is_above_zero() {
        assert_eq!(seconds("2.5"), Ok(2.5));
        for text in ["0", "-1", "inf", "NaN", "soon"] {
            assert!(seconds(text).unwrap_err().contains(text));
        }
    }
}
