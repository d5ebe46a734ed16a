//! `fragbench week`: five days of a server, Monday against Friday, under four policies.
//!
//! - [`trace`]: what the server asks for; [`policy`]: what each policy does about it.
//! - [`shelf`]: small objects in blocks, with [`low_set`]; [`contents`]: which object is where; [`backing`]: the bytes.
//! - [`compact`]: how `defrag` makes room; [`server`]: one policy's server.
//! - [`sample`]: the hourly look, with [`latency`]; [`report`]: what comes out.
//! - [`play`]: the same trace through all of them.

use std::io;
use std::time::Instant;

use bookend::placement::Unmapped;
use bookend::pool::{Pool, PoolError};
use bookend::units::{Blocks, Bytes};
use clap::Args;

use super::about::Cost;
use super::memory;
use super::sink::{Sink, SinkError};
use crate::cli::interrupt::{Interrupted, Interrupts};
use crate::cli::{exit, parse_size};
use backing::{Corrupt, Real};

pub mod backing;
pub mod compact;
pub mod contents;
pub mod latency;
pub mod low_set;
pub mod play;
pub mod policy;
pub mod report;
pub mod sample;
pub mod server;
pub mod shelf;
pub mod trace;

/// The pool's size where none is said and the machine has twice as much.
const DEFAULT: Bytes = Bytes::gib(4);
/// Less is no server: extents alone are up to 1 GiB.
const LEAST: Bytes = Bytes::mib(256);
/// Has some 2^31 objects, whose numbers have 32 bits.
const MOST: Bytes = Bytes::gib(1 << 20);

/// Plays five working days of a server under four policies, and shows what is still contiguous
///
/// The server holds extents of 2 MiB to 1 GiB and small pinned and movable objects, with heavy-tailed
/// lifetimes; memory in use wanders between 50% and 90%. Every hour a probe asks for 1 GiB, and then
/// for 64 MiB, as often as 97% of the free bytes hold it.
///
/// In a pool every byte is written, moved and checked. --simulate plays the same on a table without
/// memory behind it, which may be larger than the machine.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Policies, each given the same trace:
  first-fit          everything from the bottom; nothing moves
  two-ended          small objects from the bottom, extents from the top; nothing moves
  two-ended+movable  what can move stands apart from what cannot; nothing moves
  defrag             the same, and what can move makes room

Columns: success rates of 64 MiB and 1 GiB (of the requests that 97% of the free bytes hold),
whole free blocks, the longest free run, scatter-gather entries for 1 GiB of free memory, bytes
moved and how many of them for the probe, the time of requests that need blocks, and requests of
the server that were refused though they fit. --json has the days, --csv the hours.

Exit status: 0 done, 1 failed, 2 bad usage, 130 or 143 stopped by SIGINT or SIGTERM.")]
pub struct Options {
    /// Size of the pool [default: 4G, or half of what is available]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<Bytes>,
    /// Play on a table of that size, without memory: 4T
    #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "size")]
    simulate: Option<Bytes>,
    /// Which week: the same number gives the same trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    sink: Sink,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeekFailure {
    /// Too small for a server.
    #[error("a week in {0} shows nothing, for extents are up to 1 GiB; give at least {LEAST}")]
    TooSmall(Bytes),
    /// More objects than have numbers.
    #[error("a table of {0} is more than {MOST}; give a smaller size")]
    TooLarge(Bytes),
    /// Not so much memory is free.
    #[error(
        "a pool of {wanted} does not fit into the {available} that are available here; give a smaller \
         --size, or --simulate {wanted}"
    )]
    Memory {
        /// What was asked for.
        wanted: Bytes,
        /// What there is.
        available: Bytes,
    },
    /// The pool could not be built.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// No thread for a policy.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// No table.
    #[error(transparent)]
    Table(#[from] Unmapped),
    /// A move lost bytes.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The report.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A signal came.
    #[error("interrupted; there is no report of part of a week")]
    Interrupted(u8),
}

impl From<Interrupted> for WeekFailure {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted.status())
    }
}

impl WeekFailure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::TooSmall(_) | Self::TooLarge(_) => exit::USAGE,
            Self::Interrupted(status) => *status,
            _ => exit::FAILURE,
        }
    }
}

/// Plays and prints.
///
/// # Errors
/// [`WeekFailure`].
pub fn run(options: &Options, interrupts: Interrupts) -> Result<(), WeekFailure> {
    let begun = Instant::now();
    let capacity = capacity(options)?;
    let (report, pages) = if options.simulate.is_some() {
        (play::simulated(capacity, options.seed, interrupts)?, "a table without memory".to_owned())
    } else {
        let mut real = Real::new(Pool::builder().capacity(capacity.bytes()).build()?);
        let pages = pages_of(real.pool());
        (play::real(&mut real, options.seed, interrupts)?, pages)
    };
    let settings = format!("A week in {}, seed {}, on {pages}", capacity.bytes(), options.seed);
    options.sink.write(&settings, &report, Cost::of(begun.elapsed()))?;
    Ok(())
}

/// What pages a pool stands on.
fn pages_of(pool: &Pool) -> String {
    let rungs = pool.report().rungs;
    let shown: Vec<_> =
        rungs.iter().map(|r| format!("{} {} pages", r.pages, r.rung.name())).collect();
    format!("a pool of {}", shown.join(", "))
}

/// How large the table is.
fn capacity(options: &Options) -> Result<Blocks, WeekFailure> {
    let available = memory::available();
    let usual = available.map_or(DEFAULT, |there| DEFAULT.min(Bytes::new(there.get() / 2)));
    let wanted = options.simulate.or(options.size).unwrap_or(usual);
    if wanted < LEAST {
        return Err(WeekFailure::TooSmall(wanted));
    }
    let blocks = Blocks::holding(wanted).filter(|_| wanted <= MOST);
    let blocks = blocks.ok_or(WeekFailure::TooLarge(wanted))?;
    match available {
        Some(available) if options.simulate.is_none() && wanted > available => {
            Err(WeekFailure::Memory { wanted, available })
        }
        _ => Ok(blocks),
    }
}
