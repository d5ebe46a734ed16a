//! Times by their logarithm: so many that they are counted, not kept.

use std::time::Duration;

/// Parts of each power of two: a percentile is off by 3% at most.
const PARTS: u32 = 32;

/// How often each time was seen.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// By [`slot`]; as long as the longest needs.
    counts: Vec<u64>,
    total: u64,
}

impl Latencies {
    /// Counts one.
    pub fn add(&mut self, time: Duration) {
        let slot = slot(time.as_nanos() as u64);
        if self.counts.len() <= slot {
            self.counts.resize(slot + 1, 0);
        }
        self.counts[slot] += 1;
        self.total += 1;
    }

    /// Adds what another has counted.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// The time that so large a part of all did not exceed, in microseconds; `None` where none was seen.
    pub fn percentile_us(&self, part: f64) -> Option<f64> {
        let rank = ((self.total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let slot = self.counts.iter().position(|&count| {
            seen += count;
            seen >= rank
        })?;
        Some(upper(slot) as f64 / 1e3)
    }
}

/// Below [`PARTS`] each number has a slot; from there on each power of two has [`PARTS`].
fn slot(ns: u64) -> usize {
    let ns = ns.max(1);
    let power = ns.ilog2();
    let shift = power.saturating_sub(PARTS.ilog2());
    (u64::from(shift * PARTS) + (ns >> shift)) as usize
}

/// The longest time of a slot.
fn upper(slot: usize) -> u64 {
    let (slot, parts) = (slot as u64, u64::from(PARTS));
    let shift = (slot / parts).saturating_sub(1);
    ((slot - shift * parts + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_ends_where_the_next_begins() {
        for ns in (1..10_000).chain([1 << 20, (1 << 40) - 1, 1 << 40]) {
            let of = slot(ns);
            assert!(ns <= upper(of), "{ns}");
            assert_eq!(slot(upper(of)), of, "{ns}");
            assert_eq!(slot(upper(of) + 1), of + 1, "{ns}");
            assert!(upper(of) as f64 <= ns as f64 * 1.04, "{ns}");
        }
    }

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_us(0.5), None);
        for us in 1..=100 {
            latencies.add(Duration::from_micros(us));
        }
        let near = |found: Option<f64>, expected: f64| {
            (expected..=expected * 1.04).contains(&found.unwrap())
        };
        assert!(near(latencies.percentile_us(0.5), 50.0));
        assert!(near(latencies.percentile_us(0.99), 99.0));
    }
}
