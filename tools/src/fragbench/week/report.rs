//! What a week showed: by day as JSON and as a table, by hour as CSV and in plots.
//!
//! A day's success rate is of all its probes' requests; free memory and the largest run are means over
//! its hours, the scatter-gather entries a median; moved bytes are a sum.

use std::collections::BTreeMap;
use std::fmt;

use bookend::units::Bytes;
use serde::Serialize;

use super::latency::Latencies;
use super::policy::Policy;
use super::sample::{Rate, Sample};
use crate::fragbench::plot::{Chart, Series};
use crate::fragbench::sink::{Shown, shown};

/// The five days.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[allow(missing_docs)]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
}

const DAYS: [Day; 5] = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri];

/// One day under one policy. Lengths are in bytes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DayReport {
    /// Which.
    pub day: Day,
    /// Of the requests of 64 MiB that 97% of the free bytes held, the part that was granted; `null`
    /// where none would have fitted.
    pub success_64m: Option<f64>,
    /// The same of 1 GiB.
    pub success_1g: Option<f64>,
    /// The longest run of free blocks.
    pub largest_free_run: u64,
    /// Whole free blocks.
    pub free: u64,
    /// Scatter-gather entries for 1 GiB of free memory; `null` where so much was never free.
    pub sg_entries_1g: Option<u64>,
    /// Moved, for the trace's requests and for the probe's.
    pub moved_bytes: u64,
    /// The 99th percentile of the time that requests took which needed blocks, in microseconds.
    pub p99_us: Option<f64>,
    /// Their median.
    #[serde(skip)]
    pub p50_us: Option<f64>,
    /// Of the moved bytes, those for the probe's requests.
    #[serde(skip)]
    pub moved_for_probe: u64,
    /// Requests of the trace that were refused though they fit in 97% of the free bytes.
    #[serde(skip)]
    pub refused: u64,
}

impl DayReport {
    fn of(day: Day, samples: &[Sample]) -> Self {
        let sum = |of: fn(&Sample) -> u64| samples.iter().map(of).sum::<u64>();
        let mean = |of| sum(of) / (samples.len() as u64).max(1);
        let rate =
            |of: fn(&Sample) -> Rate| samples.iter().map(of).fold(Rate::default(), Rate::and);
        let mut latencies = Latencies::default();
        samples.iter().for_each(|sample| latencies.merge(&sample.latencies));
        let mut entries: Vec<_> = samples.iter().filter_map(|sample| sample.sg_entries).collect();
        entries.sort_unstable();
        Self {
            day,
            success_64m: rate(|sample| sample.middle).success(),
            success_1g: rate(|sample| sample.large).success(),
            largest_free_run: mean(|sample| sample.largest_free_run.get()),
            free: mean(|sample| sample.free.get()),
            sg_entries_1g: entries.get(entries.len() / 2).copied(),
            moved_bytes: sum(|sample| sample.moved.get()),
            p99_us: latencies.percentile_us(0.99),
            p50_us: latencies.percentile_us(0.50),
            moved_for_probe: sum(|sample| sample.moved_for_probe.get()),
            refused: sum(|sample| sample.refused),
        }
    }
}

/// A week under one policy.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyReport {
    /// Which.
    pub name: Policy,
    /// Monday to Friday.
    pub days: Vec<DayReport>,
    /// By hour.
    #[serde(skip)]
    pub samples: Vec<Sample>,
}

impl PolicyReport {
    /// Of what was seen hour by hour.
    pub fn new(name: Policy, samples: Vec<Sample>) -> Self {
        let of_day = |(day, samples)| DayReport::of(day, samples);
        let days = DAYS.into_iter().zip(samples.chunks(24)).map(of_day).collect();
        Self { name, days, samples }
    }

    /// Friday's success rate of 64 MiB over Monday's.
    pub fn friday_over_monday(&self) -> Option<f64> {
        let (monday, friday) = (self.days.first()?.success_64m?, self.days.last()?.success_64m?);
        (monday > 0.0).then(|| friday / monday)
    }
}

/// A week under each policy.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// In the order of [`Policy::ALL`].
    pub policies: Vec<PolicyReport>,
    /// By policy, the ratio of the success rates of 64 MiB.
    pub friday_over_monday: BTreeMap<&'static str, Option<f64>>,
}

impl Report {
    /// Of all policies.
    pub fn new(policies: Vec<PolicyReport>) -> Self {
        let ratio = |policy: &PolicyReport| (policy.name.name(), policy.friday_over_monday());
        let friday_over_monday = policies.iter().map(ratio).collect();
        Self { policies, friday_over_monday }
    }

    fn chart(
        &self,
        title: &str,
        unit: &str,
        y_end: Option<f64>,
        mut value: impl FnMut(&Sample) -> f64,
    ) -> Chart {
        let series = self.policies.iter().map(|policy| Series {
            name: policy.name.name().to_owned(),
            points: policy.samples.iter().map(|s| (f64::from(s.hour), value(s))).collect(),
        });
        let series = series.collect();
        let x = "hours since Monday began".to_owned();
        Chart { title: title.to_owned(), x, y: unit.to_owned(), y_end, series, ..Chart::default() }
    }
}

impl Shown for Report {
    /// A line an hour.
    fn csv(&self) -> String {
        let mut text =
            "policy,hour,free_bytes,free,largest_free_run,asked_64m,granted_64m,asked_1g,\
                        granted_1g,sg_entries_1g,moved_bytes,moved_for_probe,p50_us,p99_us,refused"
                .to_owned();
        for policy in &self.policies {
            for s in &policy.samples {
                let cells = [
                    s.free_bytes.get().to_string(),
                    s.free.get().to_string(),
                    s.largest_free_run.get().to_string(),
                    s.middle.asked.to_string(),
                    s.middle.granted.to_string(),
                    s.large.asked.to_string(),
                    s.large.granted.to_string(),
                    s.sg_entries.map_or_else(String::new, |entries| entries.to_string()),
                    s.moved.get().to_string(),
                    s.moved_for_probe.get().to_string(),
                    shown(s.latencies.percentile_us(0.50), 3, ""),
                    shown(s.latencies.percentile_us(0.99), 3, ""),
                    s.refused.to_string(),
                ];
                text.push_str(&format!("\n{},{},{}", policy.name.name(), s.hour, cells.join(",")));
            }
        }
        text
    }

    /// Hour by hour.
    fn charts(&self) -> Vec<Chart> {
        const GIB: f64 = (1u64 << 30) as f64;
        let rate = |rate: Rate| rate.success().map_or(f64::NAN, |success| 100.0 * success);
        let mut total = 0.0;
        vec![
            self.chart(
                "Requests of 64 MiB that are granted",
                "% of those that fit",
                Some(102.0),
                |s| rate(s.middle),
            ),
            self.chart(
                "Requests of 1 GiB that are granted",
                "% of those that fit",
                Some(102.0),
                |s| rate(s.large),
            ),
            self.chart("Largest free run over free memory", "%", Some(102.0), |s| {
                100.0 * s.largest_free_run.get() as f64 / s.free_bytes.get() as f64
            }),
            self.chart("Memory moved since Monday", "GiB", None, move |s| {
                total = if s.hour == 1 { 0.0 } else { total } + s.moved.get() as f64 / GIB;
                total
            }),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:<18} {:<3} {:>6} {:>6} {:>11} {:>11} {:>7} {:>11} {:>11} {:>8} {:>8} {:>8}",
            "policy",
            "day",
            "64M",
            "1G",
            "free",
            "largest",
            "sg 1G",
            "moved",
            "for probe",
            "p50 us",
            "p99 us",
            "refused"
        )?;
        for policy in &self.policies {
            for day in &policy.days {
                write!(
                    f,
                    "\n{:<18} {:<3} {:>6} {:>6} {:>11} {:>11} {:>7} {:>11} {:>11} {:>8} {:>8} {:>8}",
                    policy.name.name(),
                    format!("{:?}", day.day),
                    shown(day.success_64m, 3, "-"),
                    shown(day.success_1g, 3, "-"),
                    Bytes::new(day.free).to_string(),
                    Bytes::new(day.largest_free_run).to_string(),
                    day.sg_entries_1g.map_or_else(|| "-".to_owned(), |entries| entries.to_string()),
                    Bytes::new(day.moved_bytes).to_string(),
                    Bytes::new(day.moved_for_probe).to_string(),
                    shown(day.p50_us, 2, "-"),
                    shown(day.p99_us, 2, "-"),
                    day.refused,
                )?;
            }
        }
        f.write_str("\nFriday over Monday (64M):")?;
        for policy in &self.policies {
            let ratio = shown(policy.friday_over_monday(), 2, "-");
            write!(f, " {} {ratio}", policy.name.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A week in which each day grants one request less of five, and 1 GiB never fits.
    fn report() -> Report {
        let sample = |hour: u32| Sample {
            hour,
            free_bytes: Bytes::mib(600),
            free: Bytes::mib(500),
            largest_free_run: Bytes::mib(u64::from(hour)),
            middle: Rate { asked: 5, granted: 5 - u64::from((hour - 1) / 24) },
            large: Rate::default(),
            sg_entries: None,
            moved: Bytes::mib(3),
            moved_for_probe: Bytes::mib(1),
            latencies: Latencies::default(),
            refused: 2,
        };
        let samples = (1..=120).map(sample).collect();
        Report::new(vec![PolicyReport::new(Policy::Movable, samples)])
    }

    #[test]
    fn json_has_the_documented_keys_and_no_others() {
        let json = serde_json::to_string(&report()).unwrap();
        let monday = "{\"policies\":[{\"name\":\"two-ended+movable\",\"days\":[{\"day\":\"Mon\",\
                      \"success_64m\":1.0,\"success_1g\":null,\"largest_free_run\":13107200,\
                      \"free\":524288000,\"sg_entries_1g\":null,\"moved_bytes\":75497472,\
                      \"p99_us\":null},{\"day\":\"Tue\",\"success_64m\":0.8,";
        assert!(json.starts_with(monday), "{json}");
        assert!(
            json.ends_with("],\"friday_over_monday\":{\"two-ended+movable\":0.2}}") || {
                // 1/5 over 5/5, in whatever digits.
                let ratio = report().policies[0].friday_over_monday().unwrap();
                (ratio - 0.2).abs() < 1e-12
            }
        );
    }

    #[test]
    fn csv_has_a_line_an_hour_and_the_table_one_a_day() {
        let report = report();
        assert_eq!(report.csv().lines().count(), 1 + 120);
        let fields = |line: &str| line.split(',').count();
        let csv = report.csv();
        assert!(csv.lines().all(|line| fields(line) == 15), "{csv}");
        let table = report.to_string();
        assert_eq!(table.lines().count(), 1 + 5 + 1);
        assert!(table.ends_with("two-ended+movable 0.20"), "{table}");
    }

    #[test]
    fn moved_bytes_add_up_in_the_chart() {
        let charts = report().charts();
        let last = charts[3].series[0].points.last().unwrap();
        assert_eq!(*last, (120.0, 120.0 * 3.0 / 1024.0));
    }
}
