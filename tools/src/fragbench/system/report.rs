//! What `fragbench system` found.

use std::fmt;

use serde::Serialize;

use super::agers::AgerName;
use super::ways::Way;
use crate::cli::format;

/// All ways.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What aged the machine.
    pub ager: AgerName,
    /// Pages of 2 MiB that each way was to get.
    pub wanted: u64,
    /// Base pages that the kernel managed, all memory being online.
    pub managed_pages: u64,
    /// In the order in which they were tried.
    pub ways: Vec<WayReport>,
}

/// One way.
#[derive(Clone, Debug, Serialize)]
pub struct WayReport {
    /// Which.
    pub way: Way,
    /// Pages it got.
    pub obtained: u64,
    /// How long it took.
    pub seconds: f64,
    /// Share of the hot file in the page cache afterwards.
    pub hot_cached: f64,
    /// Share of the colder file.
    pub cold_cached: f64,
    /// Share of the hot file before.
    pub hot_cached_before: f64,
    /// Share of the colder file before.
    pub cold_cached_before: f64,
    /// Base pages moved.
    pub pages_migrated: u64,
    /// Pages it predicted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted: Option<u64>,
    /// What it says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdict: Option<String>,
    /// What each of its rungs gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rungs: Option<serde_json::Value>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} pages of 2 MiB wanted after {}", self.wanted, self.ager.describe())?;
        write!(
            f,
            "{:<8}{:>10}{:>10}{:>9}{:>9}{:>12}",
            "way", "obtained", "seconds", "hot", "cold", "moved"
        )?;
        for way in &self.ways {
            let percent = |share: f64| format!("{:.1}%", share * 100.0);
            write!(
                f,
                "\n{:<8}{:>10}{:>10.2}{:>9}{:>9}{:>12}",
                way.way.name(),
                format::count(way.obtained),
                way.seconds,
                percent(way.hot_cached),
                percent(way.cold_cached),
                format::count(way.pages_migrated)
            )?;
        }
        for way in &self.ways {
            if let (Some(predicted), Some(verdict)) = (way.predicted, &way.verdict) {
                let predicted = format::count(predicted);
                write!(f, "\n{} predicted {predicted}, and says: {verdict}", way.way.name())?;
            }
        }
        Ok(())
    }
}
