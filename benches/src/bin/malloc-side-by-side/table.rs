//! Tables of ratios, and what Bookend is held to.
//!
//! A ratio's denominator is the best peer *on that pattern*, the same for all columns, so that the
//! geometric means of two columns can be compared. A pattern counts for a column's mean only if no
//! column lacks it.

use crate::allocators::OURS;
use crate::contest::Contest;
use crate::programs::Kind;
use crate::sample::Sample;

/// Peak memory is held to the leanest of these.
const LEAN: [&str; 3] = ["mimalloc", "snmalloc", "jemalloc"];

/// A table of one figure of the patterns that are work.
#[derive(Debug)]
pub struct Ratios {
    /// Pattern's name, the best peer's figure, and a ratio to it an allocator.
    pub rows: Vec<(String, f64, Vec<Option<f64>>)>,
    /// Geometric means, an allocator each; `None` where it failed everything.
    pub means: Vec<Option<f64>>,
}

impl Ratios {
    /// Ratios of `figure` to the best of the allocators that `counts` as peers.
    pub fn new(contest: &Contest, figure: impl Fn(&Sample) -> f64, peers: &[usize]) -> Self {
        let columns = contest.allocators.len();
        let mut rows = Vec::new();
        for (p, pattern) in contest.patterns.iter().enumerate() {
            let of = |a: usize| contest.cell(p, a).median(&figure);
            let best = peers.iter().filter_map(|&a| of(a)).min_by(f64::total_cmp);
            if let Some(best) = best.filter(|&best| best > 0.0 && pattern.kind == Kind::Work) {
                let ratios: Vec<Option<f64>> = (0..columns).map(|a| Some(of(a)? / best)).collect();
                rows.push((pattern.name.clone(), best, ratios));
            }
        }
        let whole: Vec<_> =
            rows.iter().filter(|(_, _, row)| row.iter().all(Option::is_some)).collect();
        let mean = |a: usize| geometric_mean(whole.iter().filter_map(|(_, _, row)| row[a]));
        let means = (0..columns).map(mean).collect();
        Self { rows, means }
    }

    /// The peer with the lowest mean.
    fn best(&self, peers: &[usize]) -> Option<(usize, f64)> {
        let means = peers.iter().filter_map(|&a| Some((a, self.means[a]?)));
        means.min_by(|x, y| x.1.total_cmp(&y.1))
    }

    fn print(&self, title: &str, unit: &str, contest: &Contest, show: impl Fn(f64) -> String) {
        if self.rows.is_empty() {
            return;
        }
        println!("\n{title}\n");
        let names: Vec<&str> = contest.allocators.iter().map(|a| a.name).collect();
        println!("| pattern | best peer, {unit} | {} |", names.join(" | "));
        println!("| --- |{}", " --- |".repeat(names.len() + 1));
        let ratio =
            |ratio: &Option<f64>| ratio.map_or_else(|| "failed".into(), |r| format!("{r:.2}"));
        for (name, best, ratios) in &self.rows {
            let ratios: Vec<String> = ratios.iter().map(ratio).collect();
            println!("| {name} | {} | {} |", show(*best), ratios.join(" | "));
        }
        let means: Vec<String> = self.means.iter().map(ratio).collect();
        println!("| *geometric mean* | | {} |", means.join(" | "));
    }
}

fn geometric_mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logs: Vec<f64> = ratios.map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// One thing that Bookend is held to, and whether it is met.
fn bar(what: &str, figure: f64, bound: f64, at_most: bool) -> bool {
    let met = if at_most { figure <= bound } else { figure >= bound };
    let (verdict, sign) = (if met { "met" } else { "MISSED" }, if at_most { "<=" } else { ">=" });
    println!("- {verdict}: {what}: {figure:.3} (bar: {sign} {bound:.2})");
    met
}

/// Prints every table and every bar that can be judged; whether none of them was missed.
pub fn print(contest: &Contest) -> bool {
    let ours = contest.position(OURS);
    let peers: Vec<usize> = (0..contest.allocators.len()).filter(|&a| Some(a) != ours).collect();
    let lean: Vec<usize> = LEAN.iter().filter_map(|name| contest.position(name)).collect();
    let time = Ratios::new(contest, |sample| sample.wall, &peers);
    let processor = Ratios::new(contest, |sample| sample.processor, &peers);
    let peak = Ratios::new(contest, |sample| sample.peak_kib, &lean);
    let seconds = |figure: f64| format!("{figure:.3}");
    time.print("Time, of the best peer's on that pattern", "s", contest, seconds);
    processor.print("Processor time (user and system), likewise", "s", contest, seconds);
    let title =
        "Peak resident memory, of the leanest of mimalloc, snmalloc and jemalloc on that pattern";
    peak.print(title, "MiB", contest, |kib| format!("{:.1}", kib / 1024.0));
    print_parts(contest);
    let Some(ours) = ours else { return true };
    println!("\nBars\n");
    let name = |a: usize| contest.allocators[a].name;
    let mut met = true;
    if let (Some((best, mean)), Some(our_mean)) = (time.best(&peers), time.means[ours]) {
        let what = format!("geometric mean of time beside {}, the best peer", name(best));
        met &= bar(&what, our_mean / mean, 1.0, true);
        for (pattern, _, ratios) in &time.rows {
            if let Some(ratio) = ratios[ours].filter(|&ratio| ratio > 1.3) {
                met &=
                    bar(&format!("time of {pattern} beside the best peer on it"), ratio, 1.3, true);
            }
        }
    }
    if let (Some((best, mean)), Some(our_mean)) = (peak.best(&lean), peak.means[ours]) {
        let what = format!("geometric mean of peak memory beside {}, the leanest", name(best));
        met &= bar(&what, our_mean / mean, 1.1, true);
    }
    met & judge_parts(contest, ours)
}

/// Times of reads and of first touch, and coverage.
fn print_parts(contest: &Contest) {
    let parts = contest.patterns.iter().enumerate().filter(|(_, p)| p.kind != Kind::Work);
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return;
    }
    println!(
        "\nHeaps of 4 GiB (times the scale): the part's time, and how much is in huge pages\n"
    );
    let names: Vec<&str> = contest.allocators.iter().map(|a| a.name).collect();
    println!("| pattern | {} |", names.join(" | "));
    println!("| --- |{}", " --- |".repeat(names.len()));
    for (p, pattern) in parts {
        let one = |a: usize| {
            let cell = contest.cell(p, a);
            let Some(seconds) = cell.median(Sample::seconds) else { return "failed".into() };
            let coverage = cell.median(|sample| sample.coverage.unwrap_or(f64::NAN));
            let percent = coverage
                .filter(|c| !c.is_nan())
                .map_or("?".into(), |c| format!("{:.1}", c * 100.0));
            format!("{seconds:.3} s, {percent}%")
        };
        let cells: Vec<String> = (0..names.len()).map(one).collect();
        println!("| {} | {} |", pattern.name, cells.join(" | "));
    }
}

fn judge_parts(contest: &Contest, ours: usize) -> bool {
    let mut met = true;
    for (p, pattern) in contest.patterns.iter().enumerate() {
        let bound = match pattern.kind {
            Kind::Work => continue,
            Kind::Reads => 1.8,
            Kind::FirstTouch => 3.0,
        };
        let seconds = |a: usize| contest.cell(p, a).median(Sample::seconds);
        let theirs = contest.position("glibc").and_then(seconds);
        if let (Some(theirs), Some(our_time)) = (theirs, seconds(ours)) {
            let what = format!("{}: times as fast as glibc", pattern.name);
            met &= bar(&what, theirs / our_time, bound, false);
        }
        let coverage = contest.cell(p, ours).median(|s| s.coverage.unwrap_or(f64::NAN));
        if let Some(coverage) = coverage.filter(|coverage| !coverage.is_nan()) {
            met &= bar(&format!("{}: part in huge pages", pattern.name), coverage, 0.98, false);
        }
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_geometric_mean_is_the_root_of_the_product() {
        assert_eq!(geometric_mean([].into_iter()), None);
        let mean = geometric_mean([1.0, 4.0].into_iter()).expect("two ratios");
        assert!((mean - 2.0).abs() < 1e-12, "{mean}");
    }
}
