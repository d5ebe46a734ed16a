//! What a run of `fragbench register` found, as a table and as JSON.

use std::fmt;
use std::time::Duration;

use bookend::units::Bytes;
use serde::Serialize;

use crate::cli::format;
use crate::fragbench::about::Machine;
use crate::fragbench::report::Pages;

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
    #[serde(skip)]
    pub machine: Machine,
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
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
        for registrar in ["io_uring", "verbs"] {
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
        Report { size: 4096, rows, software: false, machine: Machine::this() }
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
    fn the_table_compares_and_names_software() {
        let text = report().to_string();
        assert!(text.contains("registers 8.0 times and releases 200 times"), "{text}");
        assert!(text.contains("unavailable: none") && !text.contains("software"), "{text}");
        assert!(Report { software: true, ..report() }.to_string().contains("tracks base pages"));
    }
}
