//! What a run of `fragbench register` found, as a table, as JSON, as CSV and as bars.

use std::fmt;
use std::time::Duration;

use bookend::units::Bytes;
use serde::Serialize;

use crate::cli::format;
use crate::fragbench::plot::{Chart, Series};
use crate::fragbench::report::Pages;
use crate::fragbench::sink::{Shown, quoted};

const REGISTRARS: [&str; 2] = ["io_uring", "verbs"];

/// What one kind of pages cost with one registrar.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// The kind.
    pub pages: Pages,
    /// `io_uring` or `verbs`.
    pub registrar: &'static str,
    /// What it cost.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A measurement, or why there is none.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It was registered.
    Measured(Cost),
    /// It could not be.
    Unavailable {
        /// Why.
        unavailable: String,
    },
}

impl Outcome {
    pub fn unavailable(why: &str) -> Self {
        Self::Unavailable { unavailable: why.to_owned() }
    }
}

/// The figures of a row.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Cost {
    /// Microseconds to map and populate the memory.
    pub touch_us: f64,
    /// Microseconds to register it: the median of several times.
    pub register_us: f64,
    /// Microseconds to take it out: the median of several times.
    pub release_us: f64,
    /// Entries of its scatter-gather list.
    pub entries: u64,
    /// Bytes of their descriptors.
    pub descriptor_bytes: u64,
    /// Nanoseconds of a hit in the registration cache: the mean of many.
    pub cached_ns: f64,
}

/// All rows.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Bytes of the buffer.
    pub size: u64,
    /// One a registrar and kind.
    pub rows: Vec<Row>,
    /// Whether the RDMA device is software, which tracks base pages.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub software: bool,
}

impl Report {
    fn cost(&self, registrar: &str, pages: Pages) -> Option<Cost> {
        let mut rows = self.rows.iter();
        let row = rows.find(|row| row.registrar == registrar && row.pages == pages)?;
        match row.outcome {
            Outcome::Measured(cost) => Some(cost),
            Outcome::Unavailable { .. } => None,
        }
    }
}

impl Shown for Report {
    fn csv(&self) -> String {
        let mut text = "pages,registrar,touch_us,register_us,release_us,entries,descriptor_bytes,\
                        cached_ns,unavailable"
            .to_owned();
        for Row { pages, registrar, outcome } in &self.rows {
            let figures = match outcome {
                Outcome::Measured(c) => format!(
                    "{},{},{},{},{},{},",
                    c.touch_us,
                    c.register_us,
                    c.release_us,
                    c.entries,
                    c.descriptor_bytes,
                    c.cached_ns
                ),
                Outcome::Unavailable { unavailable } => format!(",,,,,,{}", quoted(unavailable)),
            };
            text.push_str(&format!("\n{},{registrar},{figures}", pages.name()));
        }
        text
    }

    /// Bars of each kind of pages, in a colour for each registrar.
    fn charts(&self) -> Vec<Chart> {
        let mut kinds: Vec<_> = self.rows.iter().map(|row| row.pages).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let has_rows = |registrar: &&str| self.rows.iter().any(|row| row.registrar == *registrar);
        let chart = |title: &str, y: &str, value: fn(Cost) -> f64| {
            let bar = |(kind, &pages): (u32, &Pages), registrar| {
                (f64::from(kind), self.cost(registrar, pages).map_or(f64::NAN, value))
            };
            let series = REGISTRARS.into_iter().filter(has_rows).map(|registrar| Series {
                name: registrar.to_owned(),
                points: (0..).zip(&kinds).map(|kind| bar(kind, registrar)).collect(),
            });
            Chart {
                title: title.to_owned(),
                x: "pages".to_owned(),
                y: y.to_owned(),
                series: series.collect(),
                kinds: kinds.iter().map(|pages| pages.name().to_owned()).collect(),
                ..Chart::default()
            }
        };
        vec![
            chart("Time to register", "ms", |cost| cost.register_us / 1e3),
            chart("Time to take out again", "ms", |cost| cost.release_us / 1e3),
            chart("Entries of the scatter-gather list", "entries", |cost| cost.entries as f64),
            chart("Time of a hit in the registration cache", "ns", |cost| cost.cached_ns),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Registering {}:", Bytes::new(self.size))?;
        write!(
            f,
            "{:<12}{:<10}{:>10}{:>10}{:>10}{:>9}{:>13}{:>11}",
            "pages",
            "registrar",
            "touch",
            "register",
            "release",
            "entries",
            "descriptors",
            "cached"
        )?;
        let time = |us: f64| format::duration(Duration::from_nanos((us * 1e3) as u64));
        for Row { pages, registrar, outcome } in &self.rows {
            write!(f, "\n{:<12}{registrar:<10}", pages.name())?;
            match outcome {
                Outcome::Measured(cost) => write!(
                    f,
                    "{:>10}{:>10}{:>10}{:>9}{:>13}{:>8.1} ns",
                    time(cost.touch_us),
                    time(cost.register_us),
                    time(cost.release_us),
                    format::count(cost.entries),
                    Bytes::new(cost.descriptor_bytes).to_string(),
                    cost.cached_ns
                )?,
                Outcome::Unavailable { unavailable } => write!(f, "unavailable: {unavailable}")?,
            }
        }
        for registrar in REGISTRARS {
            let (base, huge) =
                (self.cost(registrar, Pages::Base), self.cost(registrar, Pages::Huge));
            if let (Some(base), Some(huge)) = (base, huge) {
                write!(
                    f,
                    "\n{registrar}: 2M registers {:.1} times and releases {:.0} times as fast as 4K",
                    base.register_us / huge.register_us,
                    base.release_us / huge.release_us
                )?;
            }
        }
        if self.software {
            f.write_str(
                "\nThe RDMA device is software, which tracks base pages: its rows say nothing of huge pages.",
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let cost = |register_us, release_us| {
            let (touch_us, cached_ns) = (5.5, 20.1);
            let (entries, descriptor_bytes) = (2, 64);
            let cost =
                Cost { touch_us, register_us, release_us, entries, descriptor_bytes, cached_ns };
            Outcome::Measured(cost)
        };
        let row = |pages, registrar, outcome| Row { pages, registrar, outcome };
        let rows = vec![
            row(Pages::Base, "io_uring", cost(80.0, 400.0)),
            row(Pages::Huge, "io_uring", cost(10.0, 2.0)),
            row(Pages::Gigantic, "io_uring", Outcome::unavailable("none")),
        ];
        Report { size: 4096, rows, software: false }
    }

    #[test]
    fn json_has_the_documented_keys_and_no_others() {
        assert_eq!(
            serde_json::to_string(&Report { rows: report().rows[1..].to_vec(), ..report() })
                .unwrap(),
            "{\"size\":4096,\"rows\":[{\"pages\":\"2M\",\"registrar\":\"io_uring\",\"touch_us\":5.5,\
             \"register_us\":10.0,\"release_us\":2.0,\"entries\":2,\"descriptor_bytes\":64,\
             \"cached_ns\":20.1},{\"pages\":\"1G\",\"registrar\":\"io_uring\",\"unavailable\":\"none\"}]}"
        );
    }

    #[test]
    fn csv_has_the_same_cells_in_every_line() {
        let csv = report().csv();
        assert!(csv.lines().all(|line| line.split(',').count() == 9), "{csv}");
        assert!(csv.ends_with("1G,io_uring,,,,,,,\"none\""), "{csv}");
    }

    #[test]
    fn charts_have_a_bar_for_each_kind_that_was_measured() {
        let charts = report().charts();
        assert_eq!(charts[0].kinds, ["4K", "2M", "1G"]);
        let [io_uring] = &charts[0].series[..] else { panic!("verbs has no rows") };
        assert_eq!(io_uring.points[..2], [(0.0, 0.08), (1.0, 0.01)]);
        assert!(io_uring.points[2].1.is_nan());
    }

    #[test]
    fn the_table_compares_and_names_software() {
        let text = report().to_string();
        assert!(text.contains("registers 8.0 times and releases 200 times"), "{text}");
        assert!(text.contains("unavailable: none") && !text.contains("software"), "{text}");
        assert!(Report { software: true, ..report() }.to_string().contains("tracks base pages"));
    }
}
