//! `fragbench scatter`: how many entries a scatter-gather list of a buffer takes, by page size.
//!
//! The largest pages are taken first, since smaller ones cut up the memory that they need; 2 MiB
//! pages as faulted before those in frame order, which leave the kernel's free list in order.
//! Each kind's memory is given back before the next is taken. [`aged`] asks the same of a pool that has
//! been in use.

use std::time::{Duration, Instant};

use bookend::placement::Unmapped;
use bookend::pool::Pool;
use bookend::scatter::{Limits, Physical, ScatterError, ScatterList};
use bookend::units::{Blocks, Bytes};
use bookend_defrag::system::reservation::RestoreError;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::about::Cost;
use super::memory::meminfo;
use super::obtain::{Obtained, Unavailable, obtain};
use super::report::{DESCRIPTOR_BYTES, Measured, Outcome, Pages, Report, Row};
use super::sink::{Sink, SinkError};
use super::week::backing::Corrupt;
use crate::cli::interrupt::{Interrupted, Interrupts};
use crate::cli::{exit, parse_size};

pub mod aged;

/// How often each list is built, for the median.
const BUILDS: usize = 5;

/// Counts the scatter-gather entries of one buffer, by page size
///
/// For each kind of pages the machine can give, takes a buffer of the size and builds its
/// scatter-gather list: the fewest physically contiguous entries. Prints how many there are, the
/// longest, the bytes of their descriptors (32 each, as Linux's struct scatterlist), and the
/// time to build the list (median of 5).
///
/// Without CAP_SYS_ADMIN frame numbers are hidden: entries are then told by page size.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Kinds of pages:
  4K          base pages
  THP         transparent huge pages
  2M          hugetlb pages of 2 MiB, as faulted
  2M-ordered  the same, put in the order of their frames (needs CAP_SYS_ADMIN)
  2M-split    2 MiB pages from split gigantic pages (needs --reserve and Linux 5.16)
  1G          hugetlb pages of 1 GiB

Exit status: 0 done (kinds that are unavailable included), 1 failed, 2 bad usage,
130 or 143 stopped by SIGINT or SIGTERM; what was reserved has been given back.
(SIGKILL leaves it reserved: set nr_hugepages again by hand.)")]
pub struct Options {
    #[command(flatten)]
    buffer: Buffer,
    /// Take the buffer from a pool four times as long that has served for a week, under four policies
    ///
    /// The week is that of `fragbench week`, played on a table; SIZE is rounded up to blocks of 2 MiB.
    #[arg(long)]
    aged: bool,
    /// Which week
    #[arg(long, default_value_t = 1, requires = "aged")]
    seed: u64,
    #[command(flatten)]
    sink: Sink,
}

/// The buffer that a list is made of.
#[derive(Clone, Debug, Args)]
pub(super) struct Buffer {
    /// Size of the buffer: 4G, 512M, 1.5GiB
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub(super) size: Bytes,
    /// Reserve the hugetlb pages each kind needs, and give them back afterwards (as root)
    #[arg(long)]
    pub(super) reserve: bool,
}

impl Buffer {
    /// The buffer on one kind of pages.
    pub(super) fn obtain(&self, pages: Pages) -> Result<Obtained, Unavailable> {
        obtain(pages, self.size, self.reserve)
    }

    /// What can be said of it before anything is measured.
    pub(super) fn check(&self) -> Result<(), ScatterFailure> {
        let &Self { size, reserve } = self;
        if size == Bytes::ZERO {
            return Err(ScatterFailure::Empty);
        }
        match meminfo("MemTotal") {
            Some(total) if size > total => return Err(ScatterFailure::TooLarge { size, total }),
            _ => {}
        }
        if reserve && !nix::unistd::geteuid().is_root() {
            return Err(ScatterFailure::NotRoot);
        }
        Ok(())
    }
}

impl Options {
    /// The buffer in whole blocks.
    fn blocks(&self) -> Result<Blocks, ScatterFailure> {
        let blocks = Blocks::holding(self.buffer.size).filter(|blocks| blocks.get() < 1 << 28);
        blocks.ok_or(ScatterFailure::Empty)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScatterFailure {
    /// A buffer of no bytes.
    #[error("--size 0: a buffer of no bytes has no list; give a size such as 4G")]
    Empty,
    /// More than the machine has.
    #[error("--size {size} is more than this machine's memory of {total}; give a smaller size")]
    TooLarge {
        /// What was asked for.
        size: Bytes,
        /// What the machine has.
        total: Bytes,
    },
    /// Not allowed to reserve.
    #[error(
        "--reserve changes the machine's huge page pools, which only root may do: run it as root, \
         or leave --reserve out and use the pages that are free"
    )]
    NotRoot,
    /// The machine is not as it was.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// No table.
    #[error(transparent)]
    Table(#[from] Unmapped),
    /// Never without memory behind the table.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// The report.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A signal came.
    #[error("interrupted; nothing is held or reserved any more")]
    Interrupted(u8),
}

impl From<Interrupted> for ScatterFailure {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted.status())
    }
}

impl ScatterFailure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Empty => exit::USAGE,
            Self::Interrupted(status) => *status,
            _ => exit::FAILURE,
        }
    }
}

/// Measures and prints.
///
/// # Errors
/// [`ScatterFailure`]; kinds of pages that the machine cannot give are no failure.
pub fn run(options: &Options, interrupts: Interrupts) -> Result<(), ScatterFailure> {
    let begun = Instant::now();
    options.buffer.check()?;
    if options.aged {
        let (report, pool) = age(options, interrupts)?;
        let size = Bytes::new(report.size);
        let settings = format!("Buffers of {size} from pools of {pool}, seed {}", options.seed);
        options.sink.write(&settings, &report, Cost::of(begun.elapsed()))?;
    } else {
        let report = measure_all(options, interrupts)?;
        let settings = format!("A buffer of {}", options.buffer.size);
        options.sink.write(&settings, &report, Cost::of(begun.elapsed()))?;
    }
    Ok(())
}

fn age(options: &Options, interrupts: Interrupts) -> Result<(aged::Report, Bytes), ScatterFailure> {
    let buffer = options.blocks()?;
    let pool = Blocks::new(buffer.get() * aged::POOL as u32);
    let progress = progress();
    let week = aged::play(pool, buffer, options.seed, interrupts, &progress)?;
    let measure = |pages| aged::measure(pages, options, &week, interrupts);
    let mut rows: Vec<_> = each(&ORDER, interrupts, &progress, measure)?
        .into_iter()
        .map(|(pages, outcome)| aged::Row { pages, outcome })
        .collect();
    rows.sort_by_key(|row| row.pages);
    let report = aged::Report { size: buffer.bytes().get(), pool: pool.bytes().get(), rows };
    Ok((report, pool.bytes()))
}

fn measure_all(options: &Options, interrupts: Interrupts) -> Result<Report, ScatterFailure> {
    let progress = progress();
    let mut rows: Vec<_> =
        each(&ORDER, interrupts, &progress, |pages| measure(pages, options, interrupts))?
            .into_iter()
            .map(|(pages, outcome)| Row { pages, outcome })
            .collect();
    rows.sort_by_key(|row| row.pages);
    Ok(Report { size: options.buffer.size.get(), rows })
}

/// The kinds of pages, in an order that lets none take what another needs.
const ORDER: [Pages; 6] =
    [Pages::Gigantic, Pages::Split, Pages::Huge, Pages::Ordered, Pages::Transparent, Pages::Base];

/// Each kind of pages in such an order.
pub(super) fn each<T>(
    order: &[Pages],
    interrupts: Interrupts,
    progress: &ProgressBar,
    mut measure: impl FnMut(Pages) -> Result<T, ScatterFailure>,
) -> Result<Vec<(Pages, T)>, ScatterFailure> {
    progress.set_length(order.len() as u64);
    let mut all = Vec::with_capacity(order.len());
    for &pages in order {
        interrupts.check()?;
        progress.set_message(format!("{} pages", pages.name()));
        all.push((pages, measure(pages)?));
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(all)
}

/// On standard error, if that is a terminal.
pub(super) fn progress() -> ProgressBar {
    let progress = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} {msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(Duration::from_millis(200));
    progress
}

/// One kind: takes the memory, builds the list, gives the memory back.
fn measure(
    pages: Pages,
    options: &Options,
    interrupts: Interrupts,
) -> Result<Outcome, ScatterFailure> {
    let unavailable =
        |why: &dyn std::error::Error| Outcome::Unavailable { unavailable: exit::with_causes(why) };
    let obtained = match options.buffer.obtain(pages) {
        Ok(obtained) => obtained,
        Err(Unavailable::NotRestored(error)) => return Err(error.into()),
        Err(why) => {
            interrupts.check()?; // it may be the reason
            return Ok(unavailable(&why));
        }
    };
    let measured = build(&obtained, options.buffer.size, interrupts);
    obtained.give_back()?;
    interrupts.check()?;
    Ok(match measured {
        Ok(measured) => Outcome::Measured(measured),
        Err(why) => unavailable(&why),
    })
}

/// Builds the list several times; fewer where a signal comes.
fn build(
    obtained: &Obtained,
    size: Bytes,
    interrupts: Interrupts,
) -> Result<Measured, ScatterError> {
    let pool = obtained.pool();
    let mut times = Vec::with_capacity(BUILDS);
    let mut last = timed(pool, size, &mut times)?;
    while times.len() < BUILDS && interrupts.check().is_ok() {
        drop(last);
        last = timed(pool, size, &mut times)?;
    }
    times.sort_unstable();
    let entries = last.entries().len() as u64;
    Ok(Measured {
        entries,
        longest: last.longest().get(),
        descriptor_bytes: entries * DESCRIPTOR_BYTES,
        build_us: times[times.len() / 2].as_micros() as u64,
        physical: last.told_by() == Physical::Frames,
    })
}

type ListOf<'pool> = ScatterList<bookend::pool::PoolPin<'pool>>;

fn timed<'pool>(
    pool: &'pool Pool,
    size: Bytes,
    times: &mut Vec<Duration>,
) -> Result<ListOf<'pool>, ScatterError> {
    let start = Instant::now();
    let list = ScatterList::of_pool(pool, Bytes::ZERO..size, &Limits::NONE);
    times.push(start.elapsed());
    list
}
