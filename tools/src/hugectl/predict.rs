//! `hugectl predict`: how many huge pages could be had.

use std::time::Instant;

use bookend::units::{Node, PageSize};
use bookend_defrag::system::holders::{pinned, processes};
use bookend_defrag::system::hotplug::block_size;
use bookend_defrag::system::pools::Place;
use bookend_defrag::system::predict::{Known, Promise, margin, predict};
use bookend_defrag::system::rung::Rung;
use bookend_defrag::system::status::{Missing, why};
use bookend_defrag::system::survey::{Survey, glance, survey};
use bookend_defrag::system::zones::zones;
use bookend_defrag::system::{HugePools, counters::Counters};
use clap::Args;
use serde::Serialize;

use super::request::{check_page, page_size, place};
use super::table::Table;
use super::{Context, Failure};
use crate::cli::{exit, format, output};

/// Tells how many huge pages each rung of reserve should give, without touching anything
///
/// Counts are of the whole pool, those that it has already included. Needs root, who alone may
/// read /proc/kpageflags.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Size of the pages: 2M or 1G
    #[arg(long, value_name = "SIZE", default_value = "2M", value_parser = page_size)]
    size: PageSize,
    /// Only this NUMA node
    #[arg(long, value_name = "N")]
    node: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What could be had.
#[derive(Clone, Debug, Serialize)]
pub struct Prediction {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages that the pool has.
    pub now: u64,
    /// Pages it would have after each rung.
    pub rungs: Vec<Promise>,
    /// How long predicting took.
    pub seconds: f64,
    /// What could not be read.
    pub missing: Vec<Missing>,
}

impl Prediction {
    /// The most that any rung up to this one promises.
    pub fn most(&self, max: Rung) -> u64 {
        let within = self.rungs.iter().filter(|promise| promise.rung <= max);
        within.map(|promise| promise.pages).max().unwrap_or(self.now)
    }
}

/// Prints what could be had.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let place = place(context, options.node)?;
    check_page(context, options.size)?;
    let prediction = prediction(context, options.size, place)?;
    let written = if options.json {
        output::json(&prediction)
    } else {
        output::line(text(&prediction, options.size))
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

/// Reckons it.
///
/// # Errors
/// [`Failure::File`]: without page flags there is no prediction.
pub fn prediction(context: &Context, page: PageSize, place: Place) -> Result<Prediction, Failure> {
    let started = Instant::now();
    let survey = survey(&context.files, context.base)?;
    from(&survey, context, page, place, started)
}

/// A prediction from a glance at memory, where that is enough to tell that the pool can have so many
/// pages by reclaim; `None` where it takes a whole survey to tell.
///
/// # Errors
/// As of [`prediction`].
pub fn ample(
    context: &Context,
    page: PageSize,
    place: Place,
    pages: u64,
) -> Result<Option<Prediction>, Failure> {
    let started = Instant::now();
    if page > PageSize::MIB2 {
        return Ok(None); // whole runs of blocks have to be looked at
    }
    let survey = glance(&context.files, context.base)?;
    let prediction = from(&survey, context, page, place, started)?;
    let most = prediction.most(Rung::Reclaim);
    let least = most.saturating_sub(margin(&survey, page, most - prediction.now));
    Ok((least >= pages).then_some(prediction))
}

fn from(
    survey: &Survey,
    context: &Context,
    page: PageSize,
    place: Place,
    started: Instant,
) -> Result<Prediction, Failure> {
    let (files, base) = (&context.files, context.base);
    let zones = zones(files)?;
    let mut missing = Vec::new();
    let pinned = processes(files).and_then(|all| pinned(files, base, &all));
    let pinned = pinned.unwrap_or_else(|error| {
        missing.push(Missing { what: "pinned pages", why: why(&error) });
        Vec::new()
    });
    let slab_share = slab_share(&Counters::meminfo(files)?);
    let memory_block = block_size(files).ok();
    let known = Known { survey, zones: &zones, pinned: &pinned, slab_share, memory_block };
    let now = HugePools::of(files).persistent(page, place)?;
    let mut rungs = predict(&known, page, node_of(place));
    rungs.iter_mut().for_each(|promise| promise.pages += now);
    let seconds = started.elapsed().as_secs_f64();
    Ok(Prediction { page_bytes: page.bytes().get(), now, rungs, seconds, missing })
}

/// The share of slab that shrinkers can free.
fn slab_share(meminfo: &Counters) -> f64 {
    let (can, cannot) = (meminfo.get("SReclaimable"), meminfo.get("SUnreclaim"));
    match can.zip(cannot) {
        Some((can, cannot)) if can + cannot > 0 => can as f64 / (can + cannot) as f64,
        _ => 0.0,
    }
}

fn text(prediction: &Prediction, page: PageSize) -> String {
    let mut table = Table::new(["up to rung", "pages"]);
    table.row(["(now)".to_owned(), format::count(prediction.now)]);
    for promise in &prediction.rungs {
        table.row([promise.rung.name().to_owned(), format::count(promise.pages)]);
    }
    let mut text = format!("Pages of {page} that the pool could have\n{table}");
    for missing in &prediction.missing {
        text.push_str(&format!("\nNot reckoned with: {}: {}", missing.what, missing.why));
    }
    text
}

/// The node of a place.
pub fn node_of(place: Place) -> Option<Node> {
    match place {
        Place::Machine => None,
        Place::Node(node) => Some(node),
    }
}
