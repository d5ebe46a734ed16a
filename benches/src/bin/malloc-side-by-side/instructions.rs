//! How many instructions malloc and free of one size take in the same thread, by callgrind.
//!
//! Counts, not times, so a busy machine gives the same ones; two counts differ by the few
//! instructions by which two starts of a program differ, over the number of pairs. The program runs N pairs and 2N pairs; the
//! difference has neither start-up nor the first allocations in it. From it goes the same difference
//! of a loop around two functions that do nothing, so that what is left is the allocator's own,
//! less two returns.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::allocators::{Allocator, OURS};
use crate::sample::{output, preload};

const SIZES: [u64; 4] = [16, 64, 256, 1024];
/// Whole batches, so that all are made; the least keeps what a start differs by from another small.
const PAIRS: f64 = 100e3;
const LEAST_BATCHES: u64 = 100;
const BATCH: u64 = 64;
const AT_MOST: Duration = Duration::from_secs(120);

/// One object at a time, and many.
const PATTERNS: [(&str, &str); 2] = [("pairs", "one at a time"), ("pairs-batch", "64 at a time")];

/// Counts, prints a table, and says whether the bar is met for every size; with the figures.
///
/// # Errors
/// Valgrind is not here.
pub fn compare(
    allocators: &[Allocator],
    program: &Path,
    scale: f64,
) -> Result<(bool, Value), String> {
    let pairs = ((PAIRS * scale) as u64 / BATCH).max(LEAST_BATCHES) * BATCH;
    println!("\nInstructions of malloc and free, same thread, by callgrind\n");
    let names: Vec<&str> = allocators.iter().map(|allocator| allocator.name).collect();
    println!("| bytes | {} |", names.join(" | "));
    println!("| --- |{}", " ---: |".repeat(names.len()));
    let mut figures = Vec::new();
    let mut verdicts = Vec::new();
    let mut failures = Vec::new();
    for (pattern, title) in PATTERNS {
        let empty = per_pair(program, &format!("{pattern}-empty"), None, 64, pairs)?;
        for size in SIZES {
            let row = format!("{size}, {title}");
            let of = |library| Ok(per_pair(program, pattern, library, size, pairs)? - empty);
            let counts: Vec<Result<f64, String>> =
                allocators.iter().map(|a| of(a.preload.as_deref())).collect();
            let show = |count: &Result<f64, String>| {
                count.as_ref().map_or("failed".into(), |count| format!("{count:.2}"))
            };
            let shown: Vec<String> = counts.iter().map(show).collect();
            println!("| {row} | {} |", shown.join(" | "));
            for (name, count) in names.iter().zip(&counts) {
                figures.push(json!({
                    "pattern": pattern,
                    "size": size,
                    "allocator": name,
                    "instructions": count.as_ref().ok(),
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
    Ok((met, Value::Array(figures)))
}

fn verdict(row: &str, names: &[&str], counts: &[Result<f64, String>]) -> Option<(bool, String)> {
    let pairs = || names.iter().zip(counts);
    let ours = pairs().find(|(name, _)| **name == OURS)?.1;
    let peers = pairs().filter_map(|(n, c)| Some((*n, *c.as_ref().ok()?)).filter(|_| *n != OURS));
    let (peer, best) = peers.min_by(|x, y| x.1.total_cmp(&y.1))?;
    let ratio = ours.as_ref().map_or(f64::INFINITY, |ours| ours / best);
    let met = ratio <= 1.05;
    let verdict = if met { "met" } else { "MISSED" };
    Some((met, format!("- {verdict}: {row}: {ratio:.3} of {peer}'s (bar: <= 1.05)")))
}

/// Instructions a pair, the loop's included.
fn per_pair(
    program: &Path,
    pattern: &str,
    library: Option<&Path>,
    size: u64,
    pairs: u64,
) -> Result<f64, String> {
    let once = count(program, pattern, library, size, pairs)?;
    let twice = count(program, pattern, library, size, 2 * pairs)?;
    Ok((twice as f64 - once as f64) / pairs as f64)
}

fn count(
    program: &Path,
    pattern: &str,
    library: Option<&Path>,
    size: u64,
    pairs: u64,
) -> Result<u64, String> {
    let mut command = Command::new("valgrind");
    // Callgrind leaves malloc to the program, unlike memcheck.
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).arg(pattern);
    command.args(["--size", &size.to_string(), "--count", &pairs.to_string()]);
    preload(&mut command, library);
    let (status, said) = output(&mut command, AT_MOST)
        .map_err(|error| format!("valgrind: {error}; apt-get install valgrind"))?;
    if !status.success() {
        // Valgrind's own lines begin with its process's number.
        let own = |line: &&str| !line.trim().is_empty() && !line.starts_with("==");
        let why = said.complaint.lines().find(own);
        return Err(format!("{status}: {}", why.unwrap_or("no reason given")));
    }
    let collected = said.complaint.lines().find_map(|line| line.split_once("Collected : "));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    count.ok_or_else(|| "callgrind gave no count".to_owned())
}
