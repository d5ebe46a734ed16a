//! `fragbench system`: brings the machine into a known bad state, and compares ways to get huge pages
//! out of it.
//!
//! Dimensions: the ager (what spoils memory), the way (what is done about it), pages wanted. Each
//! way starts from the same state: the pool as it was, caches dropped, aged anew, a hot file and a
//! colder one in the page cache. What each obtains is given back before the next.

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bookend::os::{Linux, Os};
use bookend::units::{Bytes, PageSize};
use bookend_defrag::system::counters::Counters;
use bookend_defrag::system::pools::Place;
use bookend_defrag::system::reservation::RestoreError;
use bookend_defrag::system::{FileError, Files, HugePools, Reservation};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};

use super::memory::meminfo;
use crate::cli::interrupt::{Interrupted, Interrupts};
use crate::cli::{exit, output};

pub mod agers;
pub mod cache;
pub mod report;
pub mod strewn;
pub mod ways;

use agers::{Ager, AgerName};
use cache::CachedFile;
use report::{Report, WayReport};
use ways::Way;

/// Ages the machine and compares ways to get huge pages out of it
///
/// Changes the machine while it runs: fills the page cache, drops it, sizes the huge page pool. All
/// is undone at the end, also after Ctrl-C. Takes minutes; run nothing else meanwhile. Needs root.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
After SIGKILL the pool stays as it is (set nr_hugepages again) and the files stay in --dir.")]
pub struct Options {
    /// What spoils memory
    #[arg(long, value_name = "AGER", value_enum)]
    ager: AgerName,
    /// Ways to try, in this order
    #[arg(
        long,
        value_name = "WAYS",
        value_enum,
        value_delimiter = ',',
        default_value = "once,retry,drop,hugectl"
    )]
    ways: Vec<Way>,
    /// Pages of 2 MiB wanted, instead of what suits the ager
    #[arg(long, value_name = "N")]
    pages: Option<u64>,
    /// Small files (files and slab)
    #[arg(long, value_name = "N", default_value_t = 400_000)]
    files: u64,
    /// Where the files go: on a disk, not in memory
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    dir: PathBuf,
    /// More arguments for hugectl reserve
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    hugectl: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SystemFailure {
    /// Not allowed.
    #[error("fragbench system changes the whole machine, which only root may do: run it as root")]
    NotRoot,
    /// Nothing is known of the machine's memory.
    #[error("/proc/meminfo: no MemTotal, so that nothing can be sized by it")]
    NoMemory,
    /// A file of the ager's.
    #[error("{}: {what}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Memory could not be had.
    #[error("cannot {what}")]
    Memory {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// hugectl did not do its part.
    #[error("{}: {why}", path.display())]
    Hugectl {
        /// The program.
        path: PathBuf,
        /// What was wrong.
        why: String,
    },
    /// A file of the kernel.
    #[error(transparent)]
    Kernel(#[from] FileError),
    /// The machine is not as it was.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Standard output.
    #[error("cannot write the report")]
    Output(#[source] io::Error),
    /// A signal came.
    #[error("interrupted; the machine is as it was")]
    Interrupted(u8),
}

impl From<Interrupted> for SystemFailure {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted(interrupted.status())
    }
}

impl SystemFailure {
    /// The exit status that goes with it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Interrupted(status) => *status,
            _ => exit::FAILURE,
        }
    }
}

/// The pool that the ways compete for.
const PAGE: PageSize = PageSize::MIB2;

/// Measures and prints.
///
/// # Errors
/// [`SystemFailure`]; the machine is as it was.
pub fn run(options: &Options, interrupts: Interrupts) -> Result<(), SystemFailure> {
    if !nix::unistd::geteuid().is_root() {
        return Err(SystemFailure::NotRoot);
    }
    let total = meminfo("MemTotal").ok_or(SystemFailure::NoMemory)?;
    let wanted = options.pages.unwrap_or_else(|| options.ager.wanted(total));
    let files = Files::of_machine();
    let before = Reservation::begin(HugePools::of(&files))?.until(Interrupts::any);
    let report = measure(options, &files, total, wanted, interrupts);
    before.restore()?;
    let report = report?;
    let written = if options.json { output::json(&report) } else { output::line(&report) };
    written.map_err(SystemFailure::Output)
}

fn measure(
    options: &Options,
    files: &Files,
    total: Bytes,
    wanted: u64,
    interrupts: Interrupts,
) -> Result<Report, SystemFailure> {
    let bar = bar(options);
    bar.set_message("bringing all memory online");
    strewn::bring_online(interrupts)?;
    bar.set_message("making files");
    let mut ager = Ager::new(options.ager, &options.dir, options.files, total, interrupts)?;
    let hot = CachedFile::new(ager.directory(), "hot", Bytes::new(total.get() / 12))?;
    let cold = CachedFile::new(ager.directory(), "cold", Bytes::new(total.get() / 4))?;
    let mut ways = Vec::new();
    for &way in &options.ways {
        bar.set_message(format!("{}: ageing", way.name()));
        ager.forget();
        fresh(files)?;
        ager.age(interrupts)?;
        cold.read(interrupts)?;
        for _ in 0..3 {
            hot.read(interrupts)?; // what is read again becomes active
        }
        bar.set_message(format!("{}: getting pages", way.name()));
        ways.push(measure_way(options, files, way, wanted, [&hot, &cold])?);
        interrupts.check()?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    HugePools::of(files).resize(PAGE, Place::Machine, 0)?;
    let managed = bookend_defrag::system::zones::zones(files)?.iter().map(|z| z.managed).sum();
    Ok(Report { ager: options.ager, wanted, managed_pages: managed, ways })
}

fn bar(options: &Options) -> ProgressBar {
    let bar = ProgressBar::new(options.ways.len() as u64); // on standard error, if a terminal
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// The state that ageing starts from: an empty pool, and caches dropped.
fn fresh(files: &Files) -> Result<(), SystemFailure> {
    HugePools::of(files).resize(PAGE, Place::Machine, 0)?;
    nix::unistd::sync();
    files.write("proc/sys/vm/drop_caches", "3")?;
    Ok(files.write("proc/sys/vm/compact_memory", "1")?)
}

fn measure_way(
    options: &Options,
    files: &Files,
    way: Way,
    wanted: u64,
    [hot, cold]: [&CachedFile; 2],
) -> Result<WayReport, SystemFailure> {
    let before = Counters::vmstat(files)?;
    let share = |file: &CachedFile| file.cached();
    let (hot_before, cold_before) = (share(hot)?, share(cold)?);
    let started = Instant::now();
    let said = way.take(files, PAGE, wanted, options.hugectl.as_deref())?;
    let seconds = started.elapsed().as_secs_f64();
    let obtained = HugePools::of(files).persistent(PAGE, Place::Machine)?;
    let after = Counters::vmstat(files)?;
    Ok(WayReport {
        way,
        obtained,
        seconds,
        hot_cached: share(hot)?,
        cold_cached: share(cold)?,
        hot_cached_before: hot_before,
        cold_cached_before: cold_before,
        pages_migrated: after.since(&before, "pgmigrate_success"),
        predicted: said.as_ref().and_then(|said| said.predicted),
        verdict: said.as_ref().map(|said| said.verdict.clone()),
        rungs: said.map(|said| said.rungs),
    })
}

/// Memory of so many base pages.
fn base_pages(bytes: Bytes) -> u64 {
    bytes.get() >> Linux.base_page_size().shift()
}
