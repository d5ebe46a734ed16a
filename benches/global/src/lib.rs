//! What the programs of this package share: the allocator that a feature chose, deterministic random
//! numbers, options, and how figures are printed.
//!
//! The options and the output are those of `benches/malloc`: `PROGRAM PATTERN [--scale F]
//! [--threads N]`, one `name value` a line.
#![deny(missing_docs)]

use std::process::ExitCode;

#[cfg(feature = "bookend")]
#[global_allocator]
static GLOBAL: bookend::Bookend = bookend::Bookend;

#[cfg(all(feature = "mimalloc", not(feature = "bookend")))]
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(all(feature = "jemalloc", not(any(feature = "bookend", feature = "mimalloc"))))]
#[global_allocator]
static GLOBAL: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[cfg(all(
    feature = "snmalloc",
    not(any(feature = "bookend", feature = "mimalloc", feature = "jemalloc"))
))]
#[global_allocator]
static GLOBAL: snmalloc_rs::SnMalloc = snmalloc_rs::SnMalloc;

/// xorshift64* (Vigna 2016).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`, by multiplication.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.word() >> 32) * u64::from(bound)) >> 32) as u32
    }
}

/// How much a pattern does.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Of the work; 1 is 0.5 to 3 seconds with the system's allocator.
    pub scale: f64,
    /// Of the patterns that have several.
    pub threads: u32,
}

impl Options {
    /// `count` times the scale, at least `least`.
    #[must_use]
    pub fn scaled(&self, count: f64, least: usize) -> usize {
        ((count * self.scale) as usize).max(least)
    }
}

/// Does the work and returns how many operations that were.
pub type Run = fn(&Options) -> u64;

/// A name, and what runs by it.
pub type Pattern = (&'static str, Run);

/// The whole of a program: runs the pattern that the arguments name.
#[must_use]
pub fn main_of(patterns: &[Pattern]) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == ["--list"] {
        patterns.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    }
    let Some((run, options)) = parse(&arguments, patterns) else {
        eprintln!("PATTERN [--scale F] [--threads N], or --list");
        return ExitCode::FAILURE;
    };
    println!("operations {}", run(&options));
    if let Some(kib) = peak_kib() {
        println!("peak_kib {kib}");
    }
    ExitCode::SUCCESS
}

fn parse(arguments: &[String], patterns: &[Pattern]) -> Option<(Run, Options)> {
    let (name, rest) = arguments.split_first()?;
    let run = patterns.iter().find(|(known, _)| known == name)?.1;
    let mut options = Options { scale: 1.0, threads: 2 };
    for pair in rest.chunks(2) {
        match pair {
            [option, value] if option == "--scale" => options.scale = value.parse().ok()?,
            [option, value] if option == "--threads" => options.threads = value.parse().ok()?,
            _ => return None,
        }
    }
    (options.scale > 0.0 && options.threads > 0).then_some((run, options))
}

/// The highest resident set of this program, of which getrusage does not know what was before exec.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}
