//! Rounds in which every allocator runs every pattern once, in turn.

use serde_json::{Value, json};

use crate::allocators::Allocator;
use crate::programs::Pattern;
use crate::sample::{Amount, Sample, run};

/// What one allocator has shown on one pattern.
#[derive(Clone, Default, Debug)]
pub struct Cell {
    pub samples: Vec<Sample>,
    /// Why it runs this pattern no more.
    pub failure: Option<String>,
}

impl Cell {
    /// The median of a figure; `None` where it failed or never ran.
    pub fn median(&self, figure: impl Fn(&Sample) -> f64) -> Option<f64> {
        if self.failure.is_some() {
            return None;
        }
        let mut figures: Vec<f64> = self.samples.iter().map(figure).collect();
        figures.sort_by(f64::total_cmp);
        let (low, high) =
            (figures.get(figures.len().checked_sub(1)? / 2)?, figures.get(figures.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }
}

/// Patterns, allocators, and a cell for each pair.
#[derive(Debug)]
pub struct Contest {
    pub patterns: Vec<Pattern>,
    pub allocators: Vec<Allocator>,
    cells: Vec<Cell>,
}

impl Contest {
    pub fn new(patterns: Vec<Pattern>, allocators: Vec<Allocator>) -> Self {
        let cells = vec![Cell::default(); patterns.len() * allocators.len()];
        Self { patterns, allocators, cells }
    }

    /// Runs all rounds, and `before` before each run. The order of allocators rotates from round to
    /// round, so that none always runs after the same other one; one that failed on a pattern runs
    /// it no more.
    pub fn run(
        &mut self,
        rounds: u32,
        amount: &Amount,
        before: impl Fn(&Pattern) -> Result<(), String>,
        said: impl Fn(&str),
    ) {
        for round in 0..rounds as usize {
            for (p, pattern) in self.patterns.iter().enumerate() {
                said(&format!("round {} of {rounds}: {}", round + 1, pattern.name));
                for turn in 0..self.allocators.len() {
                    let a = (round + turn) % self.allocators.len();
                    let cell = &mut self.cells[p * self.allocators.len() + a];
                    if cell.failure.is_some() {
                        continue;
                    }
                    let sample =
                        before(pattern).and_then(|()| run(pattern, &self.allocators[a], amount));
                    match sample {
                        Ok(sample) => cell.samples.push(sample),
                        Err(why) => cell.failure = Some(why),
                    }
                }
            }
        }
        self.compare_operations();
    }

    /// Whoever did another amount of work than the first allocator is out: its times mean nothing.
    fn compare_operations(&mut self) {
        for row in self.cells.chunks_mut(self.allocators.len()) {
            let all = row.iter().flat_map(|cell| &cell.samples);
            let Some(first) = all.map(|sample| sample.operations).next() else { continue };
            for cell in row {
                let same = |sample: &Sample| sample.operations.to_bits() == first.to_bits();
                if cell.failure.is_none() && !cell.samples.iter().all(same) {
                    cell.failure = Some("did another number of operations".to_owned());
                }
            }
        }
    }

    pub fn cell(&self, pattern: usize, allocator: usize) -> &Cell {
        &self.cells[pattern * self.allocators.len() + allocator]
    }

    /// Where the allocator of this name stands.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.allocators.iter().position(|allocator| allocator.name == name)
    }

    /// What failed, a line each.
    pub fn failures(&self) -> Vec<String> {
        let pairs = self.patterns.iter().flat_map(|p| self.allocators.iter().map(move |a| (p, a)));
        pairs
            .zip(&self.cells)
            .filter_map(|((pattern, allocator), cell)| {
                let why = cell.failure.as_ref()?;
                Some(format!("{} with {}: {why}", pattern.name, allocator.name))
            })
            .collect()
    }

    /// Everything measured.
    pub fn to_json(&self) -> Value {
        let runs = |p: usize, a: usize| {
            let cell = self.cell(p, a);
            let samples: Vec<Value> = cell.samples.iter().map(|s| s.to_json()).collect();
            json!({
                "pattern": self.patterns[p].name,
                "allocator": self.allocators[a].name,
                "failure": cell.failure,
                "samples": samples,
            })
        };
        let count = self.allocators.len();
        let all = (0..self.cells.len()).map(|i| runs(i / count, i % count)).collect::<Vec<_>>();
        let allocators: Vec<Value> = self
            .allocators
            .iter()
            .map(|allocator| json!({ "name": allocator.name, "version": allocator.version }))
            .collect();
        json!({ "allocators": allocators, "runs": all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(wall: f64) -> Sample {
        let (processor, peak_kib, operations) = (0.0, 0.0, 1.0);
        Sample { wall, processor, peak_kib, operations, part: None, coverage: None }
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        let median = |walls: &[f64]| {
            let samples = walls.iter().map(|&wall| sample(wall)).collect();
            Cell { samples, failure: None }.median(|sample| sample.wall)
        };
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn what_failed_has_no_median() {
        let cell = Cell { samples: vec![sample(1.0)], failure: Some("it crashed".into()) };
        assert_eq!(cell.median(|sample| sample.wall), None);
    }
}
