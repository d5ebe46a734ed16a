//! Rounds in which each entry runs once, and the table of their medians.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bookend_tests::data::first_difference;

use crate::entry::{Entry, Sample};

type Prepare = Box<dyn Fn(&Path) -> io::Result<()>>;

/// What an entry is held to, beside another one or by itself.
#[derive(Clone, Debug)]
pub enum Bar {
    /// Wall time at most this times the peer's.
    Time(&'static str, f64),
    /// Bytes a second at least this times the peer's.
    Rate(&'static str, f64),
    /// Processor time at most this times the peer's.
    Processor(&'static str, f64),
    /// Growth of the page cache below this many bytes.
    Cache(u64),
}

impl Bar {
    pub fn time(peer: &'static str, at_most: f64) -> Self {
        Self::Time(peer, at_most)
    }

    pub fn rate(peer: &'static str, at_least: f64) -> Self {
        Self::Rate(peer, at_least)
    }

    pub fn processor(peer: &'static str, at_most: f64) -> Self {
        Self::Processor(peer, at_most)
    }

    pub fn cache(below: u64) -> Self {
        Self::Cache(below)
    }
}

/// One source, one directory for targets, and who copies.
pub struct Contest<'a> {
    title: String,
    source: &'a Path,
    target: PathBuf,
    rounds: u32,
    prepare: Prepare,
    standings: Vec<Standing>,
}

/// What one entry has shown so far.
struct Standing {
    entry: Entry,
    samples: Vec<Sample>,
    out: Option<String>,
}

impl<'a> Contest<'a> {
    /// A contest of `rounds` rounds, copying `source` into `dir`.
    pub fn new(title: String, source: &'a Path, dir: &Path, rounds: u32) -> Self {
        let (target, standings) = (dir.join("target"), Vec::new());
        Self { title, source, target, rounds, prepare: Box::new(|_| Ok(())), standings }
    }

    /// What is done to the source before each run.
    pub fn before_each(&mut self, prepare: impl Fn(&Path) -> io::Result<()> + 'static) {
        self.prepare = Box::new(prepare);
    }

    /// Adds an entry.
    pub fn enter(&mut self, entry: Entry) {
        self.standings.push(Standing { entry, samples: Vec::new(), out: None });
    }

    /// Runs all rounds and prints the table. An entry that fails is out, with its reason.
    pub fn run(mut self) {
        for round in 0..self.rounds {
            for at in 0..self.standings.len() {
                if self.standings[at].out.is_none() {
                    match self.one(at, round == 0) {
                        Ok(sample) => self.standings[at].samples.push(sample),
                        Err(why) => self.standings[at].out = Some(why),
                    }
                    let _ = fs::remove_file(&self.target);
                }
            }
        }
        self.print();
    }

    fn one(&self, at: usize, compare: bool) -> Result<Sample, String> {
        (self.prepare)(self.source).map_err(|error| error.to_string())?;
        let entry = &self.standings[at].entry;
        let sample = entry.run(self.source, &self.target)?;
        if compare && entry.copies() {
            match first_difference(self.source, &self.target) {
                Ok(None) => {}
                Ok(Some(offset)) => return Err(format!("its copy differs at byte {offset}")),
                Err(error) => return Err(format!("its copy cannot be compared: {error}")),
            }
        }
        Ok(sample)
    }

    fn print(&self) {
        println!("\n{}; {} rounds, medians", self.title, self.rounds);
        println!(
            "{:<20} {:>9} {:>15} {:>8} {:>8} {:>10}  bars",
            "", "seconds", "min..max", "GB/s", "cpu s", "cache MiB"
        );
        let bytes = self.source.metadata().map_or(0, |metadata| metadata.len());
        for standing in &self.standings {
            println!("{}", self.line(standing, bytes));
        }
    }

    fn line(&self, standing: &Standing, bytes: u64) -> String {
        let name = &standing.entry.name;
        let Some(median) = Medians::of(&standing.samples) else {
            return format!("{name:<20} {}", standing.out.as_deref().unwrap_or("did not run"));
        };
        let bars: Vec<String> =
            standing.entry.bars.iter().map(|bar| self.judge(&median, bar)).collect();
        let out = standing.out.as_ref().map(|why| format!("; later: {why}")).unwrap_or_default();
        format!(
            "{name:<20} {:>9.4} {:>15} {:>8.2} {:>8.2} {:>10.1}  {}{out}",
            median.wall,
            format!("{:.3}..{:.3}", median.shortest, median.longest),
            bytes as f64 / median.wall / 1e9,
            median.processor,
            median.cache / (1 << 20) as f64,
            bars.join("; ")
        )
    }

    /// The figure, the bar, and whether it is cleared.
    fn judge(&self, ours: &Medians, bar: &Bar) -> String {
        let verdict = |ok: bool| if ok { "ok" } else { "MISSED" };
        let beside = |peer: &str, what: &dyn Fn(&Medians) -> String| {
            let standing = self.standings.iter().find(|standing| standing.entry.name == peer);
            match standing.and_then(|standing| Medians::of(&standing.samples)) {
                Some(theirs) => what(&theirs),
                None => format!("{peer} did not run"),
            }
        };
        match bar {
            Bar::Time(peer, most) => beside(peer, &|theirs| {
                let ratio = ours.wall / theirs.wall;
                format!("time {ratio:.2} of {peer} (<= {most:.2} {})", verdict(ratio <= *most))
            }),
            Bar::Rate(peer, least) => beside(peer, &|theirs| {
                let ratio = theirs.wall / ours.wall;
                format!("rate {ratio:.2} of {peer} (>= {least:.2} {})", verdict(ratio >= *least))
            }),
            Bar::Processor(peer, most) => beside(peer, &|theirs| {
                let ratio = ours.processor / theirs.processor;
                format!("cpu {ratio:.2} of {peer} (<= {most:.2} {})", verdict(ratio <= *most))
            }),
            Bar::Cache(below) => {
                let ok = ours.cache < *below as f64;
                format!("cache (< {} MiB {})", below >> 20, verdict(ok))
            }
        }
    }
}

/// Medians of the samples of one entry: seconds and bytes.
struct Medians {
    wall: f64,
    shortest: f64,
    longest: f64,
    processor: f64,
    cache: f64,
}

impl Medians {
    fn of(samples: &[Sample]) -> Option<Self> {
        let sorted = |figure: &dyn Fn(&Sample) -> f64| {
            let mut figures: Vec<f64> = samples.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures
        };
        let seconds = |time: Duration| time.as_secs_f64();
        let wall = sorted(&|sample| seconds(sample.wall));
        Some(Self {
            shortest: *wall.first()?,
            longest: *wall.last()?,
            wall: middle(&wall)?,
            processor: middle(&sorted(&|sample| seconds(sample.processor)))?,
            cache: middle(&sorted(&|sample| sample.cache as f64))?,
        })
    }
}

/// The median of sorted figures.
fn middle(sorted: &[f64]) -> Option<f64> {
    let (low, high) =
        (sorted.get((sorted.len().checked_sub(1)?) / 2)?, sorted.get(sorted.len() / 2)?);
    Some(f64::midpoint(*low, *high))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(middle(&[]), None);
        assert_eq!(middle(&[3.0]), Some(3.0));
        assert_eq!(middle(&[1.0, 2.0, 9.0]), Some(2.0));
        assert_eq!(middle(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
    }
}
