//! Runs data tools as they are and with another allocator preloaded, in turn: the answers must be
//! the same, and time and memory are printed as ratios.
//!
//! A tool that is not installed is named, with what to install. Data is made from a fixed seed, in
//! a directory that is removed afterwards.

mod data;
mod programs;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use programs::Outcome;
use run::{Context, Sample};

/// Runs data tools plain and with an allocator preloaded
#[derive(Parser, Debug)]
struct Options {
    /// The allocator to preload
    #[arg(long, default_value = "target/release/libbookend.so")]
    lib: PathBuf,
    /// More allocators to run beside it
    #[arg(long)]
    beside: Vec<PathBuf>,
    /// Only programs with this in their names
    #[arg(long)]
    only: Option<String>,
    /// Little data and one round: whether it works, not how fast
    #[arg(long)]
    quick: bool,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// A Python with duckdb and polars, such as one of a virtual environment
    #[arg(long, default_value = "python3")]
    python: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let libraries: Result<Vec<PathBuf>, _> = core::iter::once(&options.lib)
        .chain(&options.beside)
        .map(|lib| lib.canonicalize().map_err(|error| (lib, error)))
        .collect();
    let libraries = match libraries {
        Ok(libraries) => libraries,
        Err((lib, error)) => {
            eprintln!(
                "data-tools: {}: {error} (cargo build --release -p bookend-preload builds it)",
                lib.display()
            );
            return ExitCode::FAILURE;
        }
    };
    let scratch = match tempfile::Builder::new().prefix("bookend-data-").tempdir_in("/var/tmp") {
        Ok(scratch) => scratch,
        Err(error) => {
            eprintln!("data-tools: no directory in /var/tmp: {error}");
            return ExitCode::FAILURE;
        }
    };
    let context =
        Context { quick: options.quick, scratch: scratch.path(), python: &options.python };
    let rounds = if options.quick { 1 } else { options.runs.max(1) };
    let mut failed = false;
    println!("{:<12} {:<24} {:>9} {:>10}  beside none", "program", "allocator", "seconds", "MiB");
    for (name, program) in programs::ALL {
        if options.only.as_ref().is_none_or(|only| name.contains(only.as_str())) {
            failed |= !compare(name, *program, &context, &libraries, rounds);
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Runs a program with every allocator in turn; whether all answers are the same.
fn compare(
    name: &str,
    program: programs::Program,
    context: &Context<'_>,
    libraries: &[PathBuf],
    rounds: usize,
) -> bool {
    let allocators: Vec<Option<&Path>> =
        core::iter::once(None).chain(libraries.iter().map(|lib| Some(lib.as_path()))).collect();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); allocators.len()];
    for round in 0..rounds {
        for turn in 0..allocators.len() {
            let at = (turn + round) % allocators.len();
            match program(context, allocators[at]) {
                Outcome::Ran(sample) => samples[at].push(sample),
                Outcome::Missing(why) => {
                    println!("skipped: {name}: {why}");
                    return true;
                }
                Outcome::Failed(why) => {
                    println!("FAILED: {name} with {}: {why}", label(allocators[at]));
                    return false;
                }
            }
        }
    }
    let plain = run::median(&samples[0]);
    let mut same = true;
    for (allocator, samples) in allocators.iter().zip(&samples) {
        let median = run::median(samples);
        println!(
            "{name:<12} {:<24} {:>9.3} {:>10.1}  time {:.2}, memory {:.2}",
            label(*allocator),
            median.seconds,
            median.peak_mib,
            median.seconds / plain.seconds,
            median.peak_mib / plain.peak_mib
        );
        if samples.iter().any(|sample| sample.answer != plain.answer) {
            println!("FAILED: {name} answers otherwise with {}", label(*allocator));
            same = false;
        }
    }
    same
}

fn label(allocator: Option<&Path>) -> String {
    allocator.and_then(Path::file_name).map_or("none".into(), |name| name.to_string_lossy().into())
}
