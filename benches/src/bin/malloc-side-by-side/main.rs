//! Bookend's malloc beside glibc's, mimalloc, snmalloc, jemalloc and tcmalloc, in turn, in one run.
//!
//! Dimensions: the pattern (`benches/malloc`, each names what it stands for), the allocator, the amount
//! of work, the number of threads; wall time, processor time, peak resident memory, huge page
//! coverage. In each round every allocator runs each pattern once, in an order that rotates; figures
//! are medians over rounds, and mean something as ratios within one run only.
//!
//! Writes nothing but compiled programs beside itself, and the JSON file asked for. Exit status: 0, 1
//! where something failed to run, 2 where a bar was missed.

mod allocators;
mod contest;
mod global;
mod instructions;
mod programs;
mod sample;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use serde_json::json;

use allocators::Allocator;
use contest::Contest;
use programs::Pattern;
use sample::Amount;

/// Runs every allocation pattern with every allocator in turn, and prints ratios.
#[derive(Debug, Parser)]
struct Options {
    /// How often each allocator runs each pattern.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only these patterns.
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Only these allocators.
    #[arg(long, value_delimiter = ',', default_values = allocators::NAMES)]
    allocators: Vec<String>,
    /// Bookend as a shared object; the one beside this program if not given.
    #[arg(long, value_name = "PATH")]
    lib: Option<PathBuf>,
    /// How much of each pattern's work is done, and how much of 4 GiB is taken.
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    scale: f64,
    /// Threads of the patterns that have several.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=32))]
    threads: u32,
    /// Seconds after which a run is killed.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
    /// Programs in Rust with each allocator built in, instead of programs in C with it preloaded.
    #[arg(long, conflicts_with_all = ["lib", "instructions"])]
    global: bool,
    /// Counts instructions of malloc and free with callgrind instead of measuring time.
    #[arg(long)]
    instructions: bool,
    /// Before each run touches as much memory as it will take, so that what a virtual machine has
    /// given back to its host does not cost whoever gets it next.
    #[arg(long)]
    bring_online: bool,
    /// Also writes every figure to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn positive(text: &str) -> Result<f64, String> {
    let scale: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if scale > 0.0 { Ok(scale) } else { Err("not above 0".to_owned()) }
}

fn main() -> ExitCode {
    let options = Options::parse();
    run(&options).unwrap_or_else(|why| {
        eprintln!("malloc-side-by-side: {why}");
        ExitCode::FAILURE
    })
}

/// Who runs what.
struct Field {
    allocators: Vec<Allocator>,
    patterns: Vec<Pattern>,
    /// What is not here, with reasons.
    missing: Vec<String>,
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let beside = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = beside.parent().ok_or("this program lies nowhere")?.to_owned();
    let scratch = beside.join("malloc-bench");
    fs::create_dir_all(&scratch).map_err(|error| format!("{}: {error}", scratch.display()))?;
    if let Some(name) = options.allocators.iter().find(|n| !allocators::NAMES.contains(&n.as_str()))
    {
        return Err(format!("no allocator {name}; there are {}", allocators::NAMES.join(", ")));
    }
    let field = if options.global {
        global::field(&options.allocators, &scratch)?
    } else {
        let ours = options.lib.clone().unwrap_or_else(|| beside.join("libbookend.so"));
        preloaded(options, &ours, &scratch)?
    };
    println!("{}\n", machine());
    for allocator in &field.allocators {
        println!("- {}: {}", allocator.name, allocator.version);
    }
    field.missing.iter().for_each(|line| println!("- {line}"));
    if options.instructions {
        let program = programs::patterns_in_c(&scratch)?;
        let (met, figures) = instructions::compare(&field.allocators, &program, options.scale);
        write_json(options, &json!({ "machine": machine(), "pairs": figures }))?;
        return Ok(ExitCode::from(if met { 0 } else { 2 }));
    }
    compare(options, field, &scratch)
}

fn preloaded(options: &Options, ours: &Path, scratch: &Path) -> Result<Field, String> {
    let (allocators, mut missing) = allocators::find(&options.allocators, ours, scratch);
    let (patterns, not_built) = programs::build(scratch)?;
    missing.extend(not_built);
    Ok(Field { allocators, patterns, missing })
}

fn compare(options: &Options, field: Field, scratch: &Path) -> Result<ExitCode, String> {
    let mut patterns = field.patterns;
    if let Some(name) = options.only.iter().find(|n| !patterns.iter().any(|p| p.name == **n)) {
        let names: Vec<&str> = patterns.iter().map(|pattern| pattern.name.as_str()).collect();
        return Err(format!("no pattern {name}; there are {}", names.join(", ")));
    }
    if !options.only.is_empty() {
        patterns.retain(|pattern| options.only.contains(&pattern.name));
    }
    let at_most = Duration::from_secs(options.timeout);
    let amount = Amount { scale: options.scale, threads: options.threads, at_most };
    let mut contest = Contest::new(patterns, field.allocators);
    let toucher = options.bring_online.then(|| programs::patterns_in_c(scratch)).transpose()?;
    let before = |pattern: &Pattern| match &toucher {
        Some(program) => bring_online(program, pattern, &amount),
        None => Ok(()),
    };
    contest.run(options.rounds, &amount, before, |line| eprintln!("{line}"));
    println!("\n{} rounds, scale {}, {} threads", options.rounds, options.scale, options.threads);
    let met = table::print(&contest);
    let failures = contest.failures();
    if !failures.is_empty() {
        println!("\nFailed\n");
        failures.iter().for_each(|line| println!("- {line}"));
    }
    write_json(options, &json!({ "machine": machine(), "contest": contest.to_json() }))?;
    Ok(ExitCode::from(match (failures.is_empty(), met) {
        (false, _) => 1,
        (true, false) => 2,
        (true, true) => 0,
    }))
}

fn write_json(options: &Options, figures: &serde_json::Value) -> Result<(), String> {
    let Some(path) = &options.json else { return Ok(()) };
    fs::write(path, format!("{figures:#}\n"))
        .map_err(|error| format!("{}: {error}", path.display()))
}

/// Touches what a pattern will take: of those without a heap of gigabytes a tenth is plenty.
fn bring_online(program: &Path, pattern: &Pattern, amount: &Amount) -> Result<(), String> {
    let scale = amount.scale * if pattern.kind == programs::Kind::Work { 0.1 } else { 1.0 };
    let mut command = std::process::Command::new(program);
    command.arg("bring-online").args(["--scale", &scale.to_string()]);
    let (status, said) = sample::output(&mut command, amount.at_most)?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("bringing memory online: {}", said.complaint))
    }
}

/// Cores, memory, kernel, and what the kernel does about huge pages: what the figures were taken on.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = read("/proc/meminfo");
    let kib = memory.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let (gib, kernel) = (kib.unwrap_or(0) >> 20, read("/proc/sys/kernel/osrelease"));
    let thp = read("/sys/kernel/mm/transparent_hugepage/enabled");
    format!("{cores} cores, {gib} GiB, Linux {kernel}, transparent huge pages: {thp}")
}
