//! What the heaps showed: a row an allocator and workload; every look in CSV and in plots.

use std::fmt;

use serde::Serialize;

use super::watch::{Sample, Seen};
use super::workload::Workload;
use crate::fragbench::plot::{Chart, Series};
use crate::fragbench::sink::{Shown, bytes};

/// Figures of one allocator under one workload. Lengths are in bytes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// Most that the workload had asked for at a time.
    pub peak_live: u64,
    /// Most that was resident when looked at.
    pub peak_resident: u64,
    /// The one over the other.
    pub peak_over_live: f64,
    /// Asked for at the end.
    pub final_live: u64,
    /// Resident at the end, after a rest.
    pub final_resident: u64,
    /// The one over the other.
    pub final_over_live: f64,
    /// Of what is resident at the end, the part in huge pages.
    pub huge_coverage: f64,
    /// Blocks of 2 MiB that ever had a page.
    pub blocks: u64,
    /// Of these, those that have none at the end.
    pub blocks_given_back: u64,
    /// How long it took.
    pub seconds: f64,
    /// Every look.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

impl From<Seen> for Figures {
    fn from(seen: Seen) -> Self {
        let peak_resident = seen.samples.iter().map(|s| s.resident).max().unwrap_or(0);
        let last = seen.samples.last();
        let (final_live, final_resident) = last.map_or((0, 0), |last| (last.live, last.resident));
        let over = |resident: u64, live: u64| resident as f64 / live.max(1) as f64;
        Self {
            peak_live: seen.peak_live,
            peak_resident,
            peak_over_live: over(peak_resident, seen.peak_live),
            final_live,
            final_resident,
            final_over_live: over(final_resident, final_live),
            huge_coverage: over(last.map_or(0, |last| last.huge), final_resident),
            blocks: seen.blocks,
            blocks_given_back: seen.blocks_given_back,
            seconds: seen.seconds,
            samples: seen.samples,
        }
    }
}

/// A measurement, or why there is none.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It ran.
    Measured(Figures),
    /// It did not.
    Unavailable {
        /// Why.
        unavailable: String,
    },
}

/// One allocator under one workload.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The allocator.
    pub name: String,
    /// What it showed.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// One workload.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Group {
    /// Which.
    pub name: Workload,
    /// In the order asked for.
    pub allocators: Vec<Row>,
}

/// All of them.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// In the order asked for.
    pub workloads: Vec<Group>,
}

impl Report {
    /// Whether something is missing.
    pub fn is_partial(&self) -> bool {
        let mut rows = self.workloads.iter().flat_map(|group| &group.allocators);
        rows.any(|row| matches!(row.outcome, Outcome::Unavailable { .. }))
    }

    fn measured(&self) -> impl Iterator<Item = (Workload, &str, &Figures)> {
        self.workloads.iter().flat_map(|group| {
            group.allocators.iter().filter_map(|row| match &row.outcome {
                Outcome::Measured(figures) => Some((group.name, row.name.as_str(), figures)),
                Outcome::Unavailable { .. } => None,
            })
        })
    }
}

impl Shown for Report {
    /// A line a look.
    fn csv(&self) -> String {
        let mut text = "workload,allocator,done,live,resident,huge".to_owned();
        for (workload, name, figures) in self.measured() {
            for s in &figures.samples {
                text.push_str(&format!(
                    "\n{},{name},{:.4},{},{},{}",
                    workload.name(),
                    s.done,
                    s.live,
                    s.resident,
                    s.huge
                ));
            }
        }
        text
    }

    fn charts(&self) -> Vec<Chart> {
        self.workloads.iter().map(chart).collect()
    }
}

const MIB: f64 = (1u64 << 20) as f64;

/// Resident memory over the course of a workload, and what was asked for.
fn chart(group: &Group) -> Chart {
    let measured = group.allocators.iter().filter_map(|row| match &row.outcome {
        Outcome::Measured(figures) => Some((row.name.as_str(), figures)),
        Outcome::Unavailable { .. } => None,
    });
    // The last look is after the rest: a little further on, so that it can be told from the one before.
    let x = |(index, sample): (usize, &Sample), all: usize| {
        100.0 * sample.done + if index + 1 == all { 3.0 } else { 0.0 }
    };
    let series = |name: &str, figures: &Figures, y: fn(&Sample) -> u64| Series {
        name: name.to_owned(),
        points: figures
            .samples
            .iter()
            .enumerate()
            .map(|look| (x(look, figures.samples.len()), y(look.1) as f64 / MIB))
            .collect(),
    };
    let mut all: Vec<_> =
        measured.clone().map(|(name, f)| series(name, f, |s| s.resident)).collect();
    all.extend(measured.take(1).map(|(_, f)| series("asked for", f, |s| s.live)));
    Chart {
        title: format!("{}: resident memory", group.name.name()),
        x: "work done (%); the end is after a rest of 2 s".to_owned(),
        y: "MiB".to_owned(),
        y_end: None,
        series: all,
        ..Chart::default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["peak RSS", "/live", "final RSS", "/live", "huge", "blocks", "back", "time"];
        write!(f, "{:<9} {:<18}", "workload", "allocator")?;
        heads.iter().try_for_each(|head| write!(f, " {head:>10}"))?;
        for group in &self.workloads {
            for row in &group.allocators {
                write!(f, "\n{:<9} {:<18}", group.name.name(), row.name)?;
                match &row.outcome {
                    Outcome::Unavailable { unavailable } => write!(f, " {unavailable}")?,
                    Outcome::Measured(m) => {
                        let cells = [
                            bytes(m.peak_resident),
                            format!("{:.3}", m.peak_over_live),
                            bytes(m.final_resident),
                            format!("{:.3}", m.final_over_live),
                            format!("{:.0}%", 100.0 * m.huge_coverage),
                            m.blocks.to_string(),
                            m.blocks_given_back.to_string(),
                            format!("{:.2} s", m.seconds),
                        ];
                        cells.iter().try_for_each(|cell| write!(f, " {cell:>10}"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let sample = |done, live, resident| Sample { done, live, resident, huge: resident / 4 };
        let seen = Seen {
            samples: vec![sample(0.0, 0, 10), sample(0.5, 400, 600), sample(1.0, 200, 500)],
            peak_live: 400,
            blocks: 7,
            blocks_given_back: 3,
            seconds: 0.5,
        };
        let rows = vec![
            Row { name: "glibc".to_owned(), outcome: Outcome::Measured(seen.into()) },
            Row {
                name: "x.so".to_owned(),
                outcome: Outcome::Unavailable { unavailable: "no".to_owned() },
            },
        ];
        Report { workloads: vec![Group { name: Workload::Lru, allocators: rows }] }
    }

    #[test]
    fn json_has_the_documented_keys_and_no_others() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(
            json,
            "{\"workloads\":[{\"name\":\"lru\",\"allocators\":[{\"name\":\"glibc\",\"peak_live\":400,\
             \"peak_resident\":600,\"peak_over_live\":1.5,\"final_live\":200,\"final_resident\":500,\
             \"final_over_live\":2.5,\"huge_coverage\":0.25,\"blocks\":7,\"blocks_given_back\":3,\
             \"seconds\":0.5},{\"name\":\"x.so\",\"unavailable\":\"no\"}]}]}"
        );
        assert!(report().is_partial());
    }

    #[test]
    fn csv_has_every_look_and_charts_what_was_asked_for() {
        let csv = report().csv();
        assert_eq!(csv.lines().nth(2), Some("lru,glibc,0.5000,400,600,150"));
        assert_eq!(csv.lines().count(), 4);
        let names: Vec<_> = report().charts()[0].series.iter().map(|s| s.name.clone()).collect();
        assert_eq!(names, ["glibc", "asked for"]);
    }
}
