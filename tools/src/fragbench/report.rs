//! What a run of `fragbench scatter` found, as a table, as JSON and as CSV.

use std::fmt;
use std::time::Duration;

use bookend::units::Bytes;
use serde::Serialize;

use super::plot::{Chart, Series};
use super::sink::{Shown, quoted};
use crate::cli::format;

/// Bytes of one descriptor: `struct scatterlist` of Linux on a 64-bit machine, what drivers fill
/// for a device (page and offset, length, bus address, bus length).
pub const DESCRIPTOR_BYTES: u64 = 32;

/// The kinds of pages that are compared, in the order of the report.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub enum Pages {
    /// Base pages.
    #[serde(rename = "4K")]
    Base,
    /// Transparent huge pages.
    #[serde(rename = "THP")]
    Transparent,
    /// hugetlb pages of 2 MiB as they were faulted.
    #[serde(rename = "2M")]
    Huge,
    /// The same in frame order.
    #[serde(rename = "2M-ordered")]
    Ordered,
    /// The same from split gigantic pages, in frame order.
    #[serde(rename = "2M-split")]
    Split,
    /// hugetlb pages of 1 GiB.
    #[serde(rename = "1G")]
    Gigantic,
}

impl Pages {
    /// As in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "4K",
            Self::Transparent => "THP",
            Self::Huge => "2M",
            Self::Ordered => "2M-ordered",
            Self::Split => "2M-split",
            Self::Gigantic => "1G",
        }
    }
}

/// What one kind of pages gave.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Row {
    /// The kind.
    pub pages: Pages,
    /// What it gave.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A measurement, or why there is none.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Outcome {
    /// The list was built.
    Measured(Measured),
    /// The machine cannot give these pages.
    Unavailable {
        /// Why.
        unavailable: String,
    },
}

/// A list's figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Measured {
    /// Entries.
    pub entries: u64,
    /// Bytes of the longest.
    pub longest: u64,
    /// Bytes of the descriptors of all, at [`DESCRIPTOR_BYTES`] each.
    pub descriptor_bytes: u64,
    /// Microseconds to build the list: the median of several times.
    pub build_us: u64,
    /// Whether frame numbers were read, so that neighbouring pages are one entry.
    pub physical: bool,
}

/// All rows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// Bytes of the buffer.
    pub size: u64,
    /// One a kind, in the order of [`Pages`].
    pub rows: Vec<Row>,
}

impl Shown for Report {
    fn csv(&self) -> String {
        let mut text =
            "pages,entries,longest,descriptor_bytes,build_us,physical,unavailable".to_owned();
        for Row { pages, outcome } in &self.rows {
            let pages = pages.name();
            let line = match outcome {
                Outcome::Measured(m) => format!(
                    "\n{pages},{},{},{},{},{},",
                    m.entries, m.longest, m.descriptor_bytes, m.build_us, m.physical
                ),
                Outcome::Unavailable { unavailable } => {
                    format!("\n{pages},,,,,,{}", quoted(unavailable))
                }
            };
            text.push_str(&line);
        }
        text
    }

    fn charts(&self) -> Vec<Chart> {
        let chart = |title: &str, y: &str, value: fn(&Measured) -> f64| Chart {
            title: title.to_owned(),
            x: "pages".to_owned(),
            y: y.to_owned(),
            series: vec![Series {
                name: Bytes::new(self.size).to_string(),
                points: (0..)
                    .map(f64::from)
                    .zip(self.rows.iter().map(|row| match &row.outcome {
                        Outcome::Measured(measured) => value(measured),
                        Outcome::Unavailable { .. } => f64::NAN,
                    }))
                    .collect(),
            }],
            kinds: self.rows.iter().map(|row| row.pages.name().to_owned()).collect(),
            ..Chart::default()
        };
        vec![
            chart("Entries of the scatter-gather list", "entries", |m| m.entries as f64),
            chart("Time to build it", "ms", |m| m.build_us as f64 / 1e3),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Scatter-gather list of {}:", Bytes::new(self.size))?;
        let heading = ["pages", "entries", "longest", "descriptors", "build"];
        let [pages, entries, longest, descriptors, build] = heading;
        write!(f, "{pages:<12}{entries:>12}{longest:>12}{descriptors:>13}{build:>12}  told by")?;
        for Row { pages, outcome } in &self.rows {
            write!(f, "\n{:<12}", pages.name())?;
            match outcome {
                Outcome::Measured(m) => write!(
                    f,
                    "{:>12}{:>12}{:>13}{:>12}  {}",
                    format::count(m.entries),
                    Bytes::new(m.longest).to_string(),
                    Bytes::new(m.descriptor_bytes).to_string(),
                    format::duration(Duration::from_micros(m.build_us)),
                    if m.physical { "frames" } else { "page size" }
                )?,
                Outcome::Unavailable { unavailable } => write!(f, "unavailable: {unavailable}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let measured =
            Measured { entries: 2, longest: 3, descriptor_bytes: 64, build_us: 5, physical: true };
        let unavailable = "no \"pages\", none".to_owned();
        Report {
            size: 4096,
            rows: vec![
                Row { pages: Pages::Base, outcome: Outcome::Measured(measured) },
                Row { pages: Pages::Split, outcome: Outcome::Unavailable { unavailable } },
            ],
        }
    }

    #[test]
    fn json_has_the_documented_keys_and_no_others() {
        let json = serde_json::to_string(&report()).unwrap();
        assert_eq!(
            json,
            "{\"size\":4096,\"rows\":[{\"pages\":\"4K\",\"entries\":2,\"longest\":3,\
             \"descriptor_bytes\":64,\"build_us\":5,\"physical\":true},\
             {\"pages\":\"2M-split\",\"unavailable\":\"no \\\"pages\\\", none\"}]}"
        );
    }

    #[test]
    fn csv_quotes_reasons() {
        let csv = report().csv();
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[1], "4K,2,3,64,5,true,");
        assert_eq!(lines[2], "2M-split,,,,,,\"no \"\"pages\"\", none\"");
    }
}
