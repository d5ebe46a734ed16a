//! Populating pools: how much several threads save, and what frame order costs and brings.
//!
//! Dimensions: pages (transparent, hugetlb 2 MiB) × threads (one, all processors); then frame order
//! of hugetlb pages, as faulted beside ascending, without and with pages to choose from. Each round
//! runs every row once, in turn; figures are medians, ratios are against one thread or against as
//! faulted of the same run. Sizes the hugetlb pool while it runs, as root, and puts it back.

use std::error::Error;
use std::time::Instant;

use bookend::os::{Linux, Os};
use bookend::pool::{FrameOrder, OrderOutcome, Pool, Rung, Use};
use bookend::units::Bytes;
use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tools::cli::size::parse_size;
use clap::Parser;

const PAGE: u64 = 2 << 20;

/// Measures how long pools take to populate.
#[derive(Debug, Parser)]
struct Options {
    /// Size of the pools
    #[arg(long, default_value = "6G", value_parser = parse_size)]
    size: Bytes,
    /// Rounds; each row runs once a round
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Threads to compare with one [default: one a processor]
    #[arg(long)]
    threads: Option<usize>,
    /// Only the rows that change nothing on the machine and need no privilege
    #[arg(long)]
    transparent: bool,
}

fn built(
    size: Bytes,
    rung: Rung,
    threads: usize,
    order: FrameOrder,
) -> Result<Pool, Box<dyn Error>> {
    let mut builder =
        Pool::builder().capacity(size).rung(rung, Use::Allowed).threads(threads).frame_order(order);
    if rung == Rung::Huge {
        builder = builder.rung(rung, Use::Required);
    }
    Ok(builder.build()?)
}

/// Seconds that building takes; dropping is not in it.
fn seconds(build: impl FnOnce() -> Result<Pool, Box<dyn Error>>) -> Result<f64, Box<dyn Error>> {
    let start = Instant::now();
    let pool = build()?;
    let took = start.elapsed().as_secs_f64();
    drop(pool);
    Ok(took)
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn fastest(figures: &[f64]) -> f64 {
    figures.iter().copied().fold(f64::INFINITY, f64::min)
}

/// One thread beside several, in turn.
fn threads(options: &Options, rung: Rung, threads: usize) -> Result<(), Box<dyn Error>> {
    let (mut one, mut many) = (Vec::new(), Vec::new());
    for round in 0..=options.runs {
        let build = |threads| built(options.size, rung, threads, FrameOrder::AsFaulted);
        let times = [seconds(|| build(1))?, seconds(|| build(threads))?];
        // The first round brings memory of the machine online and is not counted.
        if round > 0 {
            one.push(times[0]);
            many.push(times[1]);
        }
    }
    let (fastest_one, fastest_many) = (fastest(&one), fastest(&many));
    let (one, many) = (median(&mut one), median(&mut many));
    println!(
        "{:<4} {one:>7.3} s with 1 thread, {many:>7.3} s with {threads}: {:.2} times as fast; the \
         fastest of each {fastest_one:.3} and {fastest_many:.3}: {:.2}",
        rung.name(),
        one / many,
        fastest_one / fastest_many,
    );
    Ok(())
}

fn order(options: &Options, threads: usize) -> Result<(), Box<dyn Error>> {
    let extra = Bytes::new(options.size.get() / 4);
    let rows = [
        ("as faulted", FrameOrder::AsFaulted),
        ("ascending", FrameOrder::Ascending { extra: Bytes::ZERO }),
        ("ascending, a quarter more to choose from", FrameOrder::Ascending { extra }),
    ];
    let mut times = [const { Vec::new() }; 3];
    let mut told: [String; 3] = Default::default();
    for _ in 0..options.runs {
        for (row, (_, order)) in rows.iter().enumerate() {
            let start = Instant::now();
            let pool = built(options.size, Rung::Huge, threads, *order)?;
            times[row].push(start.elapsed().as_secs_f64());
            if !told[row].is_empty() {
                continue; // later rounds find the free list as the earlier ones left it
            }
            let report = pool.report();
            let runs = report.runs?;
            told[row] =
                format!("{} runs, ideal {}, longest {}", runs.count, runs.ideal, runs.longest);
            if let Some(OrderOutcome::Ordered { runs_before, rounds, .. }) = report.ordered {
                told[row] += &format!(" (was {runs_before} runs, rounds: {rounds})");
            }
        }
    }
    let base = median(&mut times[0]);
    for (row, (name, _)) in rows.iter().enumerate() {
        let time = median(&mut times[row]);
        println!("2M   {time:>7.3} s, {:.2} of as faulted, {name}: {}", time / base, told[row]);
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let processors = options.threads.unwrap_or_else(|| Linux.processors());
    println!("{} in pools, {} rounds", options.size, options.runs);
    if options.transparent {
        return threads(&options, Rung::Transparent, processors);
    }
    let lock = MachineLock::take();
    threads(&options, Rung::Transparent, processors)?;
    let wanted = (options.size.get() + options.size.get() / 4).div_ceil(PAGE);
    match HugePages::reserve(&lock, PAGE, None, wanted) {
        Ok(pages) => {
            threads(&options, Rung::Huge, processors)?;
            order(&options, processors)?;
            drop(pages);
        }
        Err(why) => println!("2M   not measured: {why}"),
    }
    Ok(())
}
