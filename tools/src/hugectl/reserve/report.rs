//! What `hugectl reserve` says came of it.

use std::time::Instant;

use bookend::units::{Bytes, Node};
use bookend_defrag::system::blame::{Blame, KindCount, PinnedBy, blame};
use bookend_defrag::system::bounded::Stop;
use bookend_defrag::system::ladder::{Goal, Outcome};
use bookend_defrag::system::rung::RungReport;
use bookend_defrag::system::survey::{Class, Kind, Region, survey};
use serde::Serialize;

use super::super::Context;
use super::super::table::Table;
use super::NAMED;
use crate::cli::format;

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
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

/// Adds what another look at memory tells: runs, and which gigabytes are spoilt.
pub(super) fn look(report: &mut Report, context: &Context, goal: &Goal, node: Option<Node>) {
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
pub(super) fn dry(
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

pub(super) fn report(
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

pub(super) fn text(report: &Report) -> String {
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
    use std::time::Duration;

    use bookend::units::PageSize;
    use bookend_defrag::system::holders::Process;
    use bookend_defrag::system::ladder::Cache;
    use bookend_defrag::system::rung::Rung;

    use super::*;

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
}
