//! How many instructions malloc and free of one size take in the same thread, by callgrind.
//!
//! Counts, not times, so a busy machine gives the same ones; two counts differ by the few
//! instructions by which two starts of a program differ, over the number of pairs. The program runs N pairs and 2N pairs; the
//! difference has neither start-up nor the first allocations in it. From it goes the same difference
//! of a loop around two functions that do nothing, so that what is left is the allocator's own,
//! less two returns.
//!
//! An allocator that does not run under valgrind is counted by executing the same loop one
//! instruction after the other (`benches/malloc/pairs.c`), which takes longer and gives the same.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::allocators::{Allocator, OURS};
use crate::sample::{Said, output, preload};

const SIZES: [u64; 4] = [16, 64, 256, 1024];
/// Whole batches, so that all are made; the least keeps what a start differs by from another small.
const PAIRS: f64 = 100e3;
const LEAST_BATCHES: u64 = 100;
const BATCH: u64 = 64;
/// As many as are stepped through, at most.
const MOST_STEPPED: u64 = 50 * BATCH;
const AT_MOST: Duration = Duration::from_secs(120);

/// One object at a time, and many.
const PATTERNS: [(&str, &str); 2] = [("pairs", "one at a time"), ("pairs-batch", "64 at a time")];

/// Counts, prints a table, and says whether the bar is met for every size; with the figures.
/// Where valgrind is missing, everything is stepped.
pub fn compare(allocators: &[Allocator], program: &Path, scale: f64) -> (bool, Value) {
    let pairs = ((PAIRS * scale) as u64 / BATCH).max(LEAST_BATCHES) * BATCH;
    println!("\nInstructions of malloc and free, same thread\n");
    let names: Vec<&str> = allocators.iter().map(|allocator| allocator.name).collect();
    println!("| bytes | {} |", names.join(" | "));
    println!("| --- |{}", " ---: |".repeat(names.len()));
    let mut figures = Vec::new();
    let mut verdicts = Vec::new();
    let mut failures = Vec::new();
    for (pattern, title) in PATTERNS {
        for size in SIZES {
            let row = format!("{size}, {title}");
            let of = |a: &Allocator| count(program, pattern, a.preload.as_deref(), size, pairs);
            let counts: Vec<Result<Count, String>> = allocators.iter().map(of).collect();
            let show = |count: &Result<Count, String>| match count {
                Ok(Count { instructions, stepped: false }) => format!("{instructions:.2}"),
                Ok(Count { instructions, stepped: true }) => format!("{instructions:.2} (stepped)"),
                Err(_) => "failed".to_owned(),
            };
            let shown: Vec<String> = counts.iter().map(show).collect();
            println!("| {row} | {} |", shown.join(" | "));
            for (name, count) in names.iter().zip(&counts) {
                figures.push(json!({
                    "pattern": pattern,
                    "size": size,
                    "allocator": name,
                    "instructions": count.as_ref().ok().map(|count| count.instructions),
                    "stepped": count.as_ref().ok().map(|count| count.stepped),
                }));
                failures.extend(count.as_ref().err().map(|why| format!("- {name}: failed: {why}")));
            }
            verdicts.extend(verdict(&row, &names, &counts));
        }
    }
    println!();
    failures.dedup();
    failures.iter().for_each(|line| println!("{line}"));
    let met = verdicts.iter().all(|(met, _)| *met);
    verdicts.iter().for_each(|(_, line)| println!("{line}"));
    (met, Value::Array(figures))
}

fn verdict(row: &str, names: &[&str], counts: &[Result<Count, String>]) -> Option<(bool, String)> {
    let pairs = || names.iter().zip(counts);
    let ours = pairs().find(|(name, _)| **name == OURS)?.1;
    let peers = pairs()
        .filter_map(|(n, c)| Some((*n, c.as_ref().ok()?.instructions)).filter(|_| *n != OURS));
    let (peer, best) = peers.min_by(|x, y| x.1.total_cmp(&y.1))?;
    let ratio = ours.as_ref().map_or(f64::INFINITY, |ours| ours.instructions / best);
    let met = ratio <= 1.05;
    let verdict = if met { "met" } else { "MISSED" };
    Some((met, format!("- {verdict}: {row}: {ratio:.3} of {peer}'s (bar: <= 1.05)")))
}

/// Instructions a pair, beyond those of the loop.
struct Count {
    instructions: f64,
    /// Not by callgrind.
    stepped: bool,
}

type Counter = fn(&Path, &str, Option<&Path>, u64, u64) -> Result<u64, String>;

fn count(
    program: &Path,
    pattern: &str,
    library: Option<&Path>,
    size: u64,
    pairs: u64,
) -> Result<Count, String> {
    let by = |counter: Counter, pairs: u64| -> Result<f64, String> {
        let per_pair = |pattern: &str, library: Option<&Path>| -> Result<f64, String> {
            let once = counter(program, pattern, library, size, pairs)?;
            let twice = counter(program, pattern, library, size, 2 * pairs)?;
            Ok((twice as f64 - once as f64) / pairs as f64)
        };
        Ok(per_pair(pattern, library)? - per_pair(&format!("{pattern}-empty"), None)?)
    };
    match by(by_callgrind, pairs) {
        Ok(instructions) => Ok(Count { instructions, stepped: false }),
        Err(why) => by(by_steps, pairs.min(MOST_STEPPED))
            .map(|instructions| Count { instructions, stepped: true })
            .map_err(|also| format!("{why}; {also}")),
    }
}

fn by_callgrind(
    program: &Path,
    pattern: &str,
    library: Option<&Path>,
    size: u64,
    pairs: u64,
) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    // Callgrind leaves malloc to the program, unlike memcheck.
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).arg(pattern);
    let said = counted(command, library, size, pairs)?;
    let collected = said.complaint.lines().find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.ok_or_else(|| "callgrind gave no count".to_owned())
}

fn by_steps(
    program: &Path,
    pattern: &str,
    library: Option<&Path>,
    size: u64,
    pairs: u64,
) -> Result<u64, String> {
    let mut command = Command::new(program);
    command.arg(format!("{pattern}-stepped"));
    let said = counted(command, library, size, pairs)?;
    let count = said.figures.lines().find_map(|line| line.strip_prefix("instructions "));
    count.and_then(|count| count.parse().ok()).ok_or_else(|| "stepping gave no count".to_owned())
}

fn counted(
    mut command: Command,
    library: Option<&Path>,
    size: u64,
    pairs: u64,
) -> Result<Said, String> {
    command.args(["--size", &size.to_string(), "--count", &pairs.to_string()]);
    preload(&mut command, library);
    let name = command.get_program().to_string_lossy().into_owned();
    let (status, said) =
        output(&mut command, AT_MOST).map_err(|error| format!("{name}: {error}"))?;
    if status.success() {
        return Ok(said);
    }
    // Valgrind's own lines begin with its process's number.
    let own = |line: &&str| !line.trim().is_empty() && !line.starts_with("==");
    let why = said.complaint.lines().find(own).unwrap_or("no reason given");
    Err(format!("{name}: {status}: {why}"))
}
