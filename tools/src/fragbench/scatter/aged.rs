//! `fragbench scatter --aged`: how many entries a buffer takes in a pool that has served for a week.
//!
//! Two things make entries: which blocks are free when the buffer is wanted, and how the pool's pages lie
//! in memory. The first is the week's work and does not depend on the kind of pages, so the week of
//! [`week`](crate::fragbench::week) is played once on a table without memory; every hour the fewest free
//! runs that hold the buffer are noted. The second is the machine's: for each kind of pages a pool of
//! that size is taken, and the lists of those runs are built in it.

use std::collections::HashMap;
use std::fmt;

use bookend::pool::Pool;
use bookend::scatter::{Limits, Physical, ScatterError, ScatterList};
use bookend::units::{BlockRange, Blocks, Bytes};
use indicatif::ProgressBar;
use serde::Serialize;

use super::{Options, ScatterFailure};
use crate::cli::interrupt::Interrupts;
use crate::cli::{exit, format};
use crate::fragbench::obtain::{Unavailable, obtain};
use crate::fragbench::plot::{Chart, Series};
use crate::fragbench::report::Pages;
use crate::fragbench::sink::Shown;
use crate::fragbench::week::backing::Nothing;
use crate::fragbench::week::policy::Policy;
use crate::fragbench::week::server::Server;
use crate::fragbench::week::trace::{Event, HOURS, Trace};

/// The pool is so many times as long as the buffer: at 50% to 90% in use it holds the buffer in most hours.
pub const POOL: u64 = 4;

/// The runs that hold a buffer, the longest first; the last may be cut short.
type Runs = Vec<BlockRange>;

/// By policy and hour; `None` where less is free.
pub type Week = Vec<(Policy, Vec<Option<Runs>>)>;

/// Plays the week.
///
/// # Errors
/// No memory for a table, or a signal.
pub fn play(
    capacity: Blocks,
    buffer: Blocks,
    seed: u64,
    interrupts: Interrupts,
    progress: &ProgressBar,
) -> Result<Week, ScatterFailure> {
    let mut servers = Vec::new();
    for policy in Policy::ALL {
        servers.push((Server::new(policy, capacity, Nothing)?, Vec::new()));
    }
    for event in Trace::new(capacity.bytes(), seed) {
        for (server, hours) in &mut servers {
            server.play(event)?;
            if let Event::Hour(_) = event {
                interrupts.check()?;
                hours.push(runs(server, buffer));
            }
        }
        if let Event::Hour(hour) = event {
            progress.set_message(format!("the week, hour {hour} of {HOURS}"));
        }
    }
    Ok(servers.into_iter().map(|(server, hours)| (server.policy(), hours)).collect())
}

/// One run, if there is one or the policy makes it; else the fewest.
fn runs(server: &mut Server<Nothing>, buffer: Blocks) -> Option<Runs> {
    if let Some(range) = server.probe(buffer) {
        server.give(range);
        return Some(vec![range]);
    }
    let mut free: Runs = server.table().iter_free().collect();
    free.sort_by_key(|run| std::cmp::Reverse(run.len()));
    let mut left = buffer;
    let mut runs = Vec::new();
    for run in free {
        let len = run.len().min(left);
        runs.push(BlockRange::new(run.start(), len));
        left = left - len;
        if left == Blocks::ZERO {
            return Some(runs);
        }
    }
    None
}

/// One kind of pages.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The kind.
    pub pages: Pages,
    /// What it gave.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Entries, or why there are none.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// Lists were built.
    Measured {
        /// Entries of a buffer at the low end of the pool that nobody has used yet.
        fresh: u64,
        /// Whether frame numbers were read, so that neighbouring pages are one entry.
        physical: bool,
        /// In the order of [`Policy::ALL`].
        policies: Vec<Aged>,
    },
    /// The machine cannot give these pages.
    Unavailable {
        /// Why.
        unavailable: String,
    },
}

/// One policy: medians of a day's hours, of those in which so much was free.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Aged {
    /// Which.
    pub name: Policy,
    /// Entries on Monday.
    pub monday: Option<u64>,
    /// Entries on Friday.
    pub friday: Option<u64>,
    /// By hour.
    #[serde(skip)]
    pub hours: Vec<Option<u64>>,
}

impl Aged {
    fn new(name: Policy, hours: Vec<Option<u64>>) -> Self {
        let day = |day: usize| {
            let mut entries: Vec<_> = hours.iter().skip(24 * day).take(24).flatten().collect();
            entries.sort_unstable();
            entries.get(entries.len() / 2).map(|&&entries| entries)
        };
        Self { name, monday: day(0), friday: day(4), hours }
    }
}

/// All kinds of pages.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Bytes of the buffer.
    pub size: u64,
    /// Bytes of the pool.
    pub pool: u64,
    /// One a kind, in the order of [`Pages`].
    pub rows: Vec<Row>,
}

/// Takes a pool of a kind of pages and builds the week's lists in it.
///
/// # Errors
/// A signal, or where the machine is not as it was.
pub fn measure(
    pages: Pages,
    options: &Options,
    week: &Week,
    interrupts: Interrupts,
) -> Result<Outcome, ScatterFailure> {
    let unavailable =
        |why: &dyn std::error::Error| Outcome::Unavailable { unavailable: exit::with_causes(why) };
    let pool = Bytes::new(options.blocks()?.bytes().get() * POOL);
    let obtained = match obtain(pages, pool, options.buffer.reserve) {
        Ok(obtained) => obtained,
        Err(Unavailable::NotRestored(error)) => return Err(error.into()),
        Err(why) => {
            interrupts.check()?; // it may be the reason
            return Ok(unavailable(&why));
        }
    };
    let counted = count_all(obtained.pool(), options.blocks()?, week, interrupts);
    obtained.give_back()?;
    interrupts.check()?;
    Ok(counted.unwrap_or_else(|why| unavailable(&why)))
}

fn count_all(
    pool: &Pool,
    buffer: Blocks,
    week: &Week,
    interrupts: Interrupts,
) -> Result<Outcome, ScatterError> {
    let low = BlockRange::new(pool.blocks().start(), buffer);
    let (fresh, physical) = entries(pool, low)?;
    let mut known = HashMap::new();
    let mut policies = Vec::new();
    for (policy, hours) in week {
        let mut counted = Vec::with_capacity(hours.len());
        for runs in hours {
            let mut sum = runs.as_ref().map(|_| 0);
            for &run in runs.iter().flatten() {
                if interrupts.check().is_err() {
                    sum = None; // the caller looks again
                    break;
                }
                let entries = match known.get(&run) {
                    Some(&entries) => entries,
                    None => {
                        let (entries, _) = entries(pool, run)?;
                        known.insert(run, entries);
                        entries
                    }
                };
                sum = sum.map(|sum| sum + entries);
            }
            counted.push(sum);
        }
        policies.push(Aged::new(*policy, counted));
    }
    Ok(Outcome::Measured { fresh, physical, policies })
}

fn entries(pool: &Pool, run: BlockRange) -> Result<(u64, bool), ScatterError> {
    let start = run.start().offset();
    let list = ScatterList::of_pool(pool, start..start + run.len().bytes(), &Limits::NONE)?;
    Ok((list.entries().len() as u64, list.told_by() == Physical::Frames))
}

impl Shown for Report {
    /// A line an hour, policy and kind.
    fn csv(&self) -> String {
        let mut text = "pages,policy,hour,entries".to_owned();
        for row in &self.rows {
            let Outcome::Measured { policies, .. } = &row.outcome else { continue };
            for policy in policies {
                for (hour, entries) in policy.hours.iter().enumerate() {
                    let (pages, name) = (row.pages.name(), policy.name.name());
                    let entries = entries.map_or_else(String::new, |entries| entries.to_string());
                    text.push_str(&format!("\n{pages},{name},{},{entries}", hour + 1));
                }
            }
        }
        text
    }

    fn charts(&self) -> Vec<Chart> {
        let measured = self.rows.iter().filter_map(|row| match &row.outcome {
            Outcome::Measured { policies, .. } => Some((row.pages, policies)),
            Outcome::Unavailable { .. } => None,
        });
        let line = |aged: &Aged| Series {
            name: aged.name.name().to_owned(),
            points: (1..).map(f64::from).zip(aged.hours.iter().map(shown)).collect(),
        };
        let chart = |(pages, policies): (Pages, &Vec<Aged>)| Chart {
            title: format!(
                "Entries of a buffer of {} in {} pages",
                Bytes::new(self.size),
                pages.name()
            ),
            x: "hours since Monday began".to_owned(),
            y: "scatter-gather entries".to_owned(),
            y_end: None,
            series: policies.iter().map(line).collect(),
            ..Chart::default()
        };
        measured.map(chart).collect()
    }
}

fn shown(entries: &Option<u64>) -> f64 {
    entries.map_or(f64::NAN, |entries| entries as f64)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: &Option<u64>| n.map_or_else(|| "-".to_owned(), format::count);
        write!(f, "{:<12}{:>12}", "pages", "fresh")?;
        for policy in Policy::ALL {
            write!(f, "{:>24}", policy.name())?;
        }
        write!(f, "  told by\n{:<24}", "")?;
        Policy::ALL.iter().try_for_each(|_| write!(f, "{:>24}", "Mon -> Fri"))?;
        for row in &self.rows {
            write!(f, "\n{:<12}", row.pages.name())?;
            match &row.outcome {
                Outcome::Unavailable { unavailable } => write!(f, "unavailable: {unavailable}")?,
                Outcome::Measured { fresh, physical, policies } => {
                    write!(f, "{:>12}", format::count(*fresh))?;
                    for aged in policies {
                        let (monday, friday) = (number(&aged.monday), number(&aged.friday));
                        write!(f, "{:>24}", format!("{monday} -> {friday}"))?;
                    }
                    f.write_str(if *physical { "  frames" } else { "  page size" })?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_hold_the_buffer_and_are_the_fewest() {
        let mut server = Server::new(Policy::FirstFit, Blocks::new(64), Nothing).unwrap();
        assert_eq!(runs(&mut server, Blocks::new(64)).map(|runs| runs.len()), Some(1));
        assert_eq!(runs(&mut server, Blocks::new(65)), None);
        // Free runs of 30, 20 and 10 blocks.
        let used: Vec<_> = [1, 30, 1, 20, 1, 10, 1]
            .map(|blocks| server.probe(Blocks::new(blocks)).unwrap())
            .into();
        for index in [1, 3, 5] {
            server.give(used[index]);
        }
        let found = runs(&mut server, Blocks::new(35)).unwrap();
        assert_eq!(found.iter().map(|run| run.len().get()).collect::<Vec<_>>(), [30, 5]);
        assert_eq!(server.table().free_blocks(), Blocks::new(60), "nothing is kept");
    }

    #[test]
    fn a_day_is_the_median_of_the_hours_in_which_so_much_was_free() {
        let hours = (0..120).map(|hour| (hour % 2 == 0).then_some(hour)).collect();
        let aged = Aged::new(Policy::Defrag, hours);
        assert_eq!((aged.monday, aged.friday), (Some(12), Some(108)));
        assert_eq!(Aged::new(Policy::Defrag, vec![None; 120]).friday, None);
    }
}
