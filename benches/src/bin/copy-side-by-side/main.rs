//! hugecp beside cp, xcp and fio, in turn, in one run.
//!
//! Dimensions: where the source is (page cache or disk), where the target is (memory, disk, a file
//! system that shares extents), durable or not; wall time, processor time of the process and its
//! kernel work, growth of the page cache. Every figure is the median over rounds, in each of which
//! every program runs once; a figure of time means something beside another of the same table only.
//! Each program's first copy is compared with the source byte for byte.
//!
//! Nothing is written but the table; files live in one directory, which goes at the end.

mod contest;
mod entry;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bookend::units::Bytes;
use bookend_tests::data::{drop_from_cache, random_file};
use bookend_tests::machine::{FsKind, MachineLock, MountedFs, scratch};
use bookend_tests::skip::{Skip, require_space};
use bookend_tools::cli::size::parse_size;
use clap::{Parser, ValueEnum};

use contest::{Bar, Contest};
use entry::Entry;

/// Copies files with hugecp and its peers in turn, and prints the medians and ratios.
#[derive(Debug, Parser)]
struct Options {
    /// How often each program runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Length of the file.
    #[arg(long, default_value = "6G", value_parser = parse_size)]
    size: Bytes,
    /// Only these parts.
    #[arg(long, value_enum)]
    only: Vec<Part>,
    /// The program xcp (cargo install xcp --root DIR, then DIR/bin/xcp).
    #[arg(long, default_value = "xcp")]
    xcp: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Part {
    /// From the page cache to memory.
    Cached,
    /// From disk to disk, durably.
    Cold,
    /// Within file systems that share extents.
    Reflink,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let parts = [
        (Part::Cached, cached as fn(&Options, &MachineLock) -> Result<(), Skip>),
        (Part::Cold, cold),
        (Part::Reflink, reflink),
    ];
    let lock = MachineLock::take();
    println!("{}", machine());
    let mut status = ExitCode::SUCCESS;
    for (part, run) in parts {
        if !options.only.is_empty() && !options.only.contains(&part) {
            continue;
        }
        if let Err(skip) = run(&options, &lock) {
            println!("\n{part:?}: not run: {skip}");
            status = ExitCode::FAILURE;
        }
    }
    status
}

fn cached(options: &Options, lock: &MachineLock) -> Result<(), Skip> {
    let size = options.size.get();
    let dir = scratch().dir("bench");
    require_space(dir.path(), size + (1 << 30))?;
    let source = source(dir.path(), size)?;
    let memory = MountedFs::new(lock, FsKind::Tmpfs, size + (64 << 20))?;
    let title = format!("{size} bytes in the page cache -> tmpfs");
    let mut contest = Contest::new(title, &source, memory.path(), options.runs);
    contest.before_each(read_into_cache);
    contest.enter(Entry::cp());
    contest.enter(Entry::xcp(&options.xcp, false));
    contest.enter(Entry::hugecp("auto", &[]).held_to(Bar::time("cp", 0.7)));
    for engine in ["buffered", "direct", "copy-range"] {
        contest.enter(Entry::hugecp(engine, &[]));
    }
    contest.run();
    Ok(())
}

fn cold(options: &Options, _lock: &MachineLock) -> Result<(), Skip> {
    let size = options.size.get();
    let dir = scratch().dir("bench");
    require_space(dir.path(), 2 * size + (1 << 30))?;
    let source = source(dir.path(), size)?;
    let title = format!("{size} bytes on disk -> the same disk ({}), durable", kind_at(dir.path()));
    let mut contest = Contest::new(title, &source, dir.path(), options.runs);
    contest.before_each(drop_from_cache);
    contest.enter(Entry::cp_and_sync());
    contest.enter(Entry::xcp(&options.xcp, true));
    contest.enter(Entry::fio(size));
    contest.enter(Entry::hugecp("auto", &["--fsync"]).held_to(Bar::time("cp + sync", 1.0)));
    contest.enter(
        Entry::hugecp("direct", &["--fsync"])
            .held_to(Bar::time("cp + sync", 1.0))
            .held_to(Bar::rate("fio", 0.95))
            .held_to(Bar::processor("cp + sync", 1.0 / 3.0))
            .held_to(Bar::cache(64 << 20)),
    );
    contest.enter(Entry::hugecp("buffered", &["--fsync"]));
    contest.run();
    Ok(())
}

fn reflink(options: &Options, lock: &MachineLock) -> Result<(), Skip> {
    // Sharing takes as long for any length in few extents; images of the whole would take the disk.
    let size = options.size.get().min(1 << 30);
    for kind in [FsKind::Xfs, FsKind::Btrfs] {
        let fs = match MountedFs::new(lock, kind, 2 * size + (1 << 30)) {
            Ok(fs) => fs,
            Err(skip) => {
                println!("\n{kind:?}: not run: {skip}");
                continue;
            }
        };
        let source = source(fs.path(), size)?;
        let title = format!("{size} bytes within {}, sharing extents", kind.name());
        let mut contest = Contest::new(title, &source, fs.path(), options.runs * 4);
        contest.enter(Entry::cp_reflink());
        contest.enter(Entry::hugecp("auto", &[]).held_to(Bar::time("cp --reflink", 1.0)));
        contest.enter(Entry::hugecp("reflink", &[]).held_to(Bar::time("cp --reflink", 1.0)));
        contest.run();
    }
    Ok(())
}

fn source(dir: &Path, size: u64) -> Result<PathBuf, Skip> {
    let path = dir.join("source");
    let made = random_file(&path, size, 1).and_then(|()| std::fs::File::open(&path)?.sync_all());
    made.map_err(|error| Skip(format!("{}: {error}", path.display())))?;
    Ok(path)
}

fn read_into_cache(path: &Path) -> std::io::Result<()> {
    std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink()).map(drop)
}

/// Cores, memory and kernel: what the figures were taken on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = memory.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores, {} GiB, Linux {}", kib.unwrap_or(0) >> 20, kernel.trim())
}

/// The kind of file system at `path`, by `findmnt`.
fn kind_at(path: &Path) -> String {
    let mut command = std::process::Command::new("findmnt");
    let output = command.args(["--noheadings", "--output=FSTYPE", "--target"]).arg(path).output();
    output.map_or_else(|_| "?".into(), |out| String::from_utf8_lossy(&out.stdout).trim().into())
}
