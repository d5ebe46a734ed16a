//! hugecp beside rsync, scp and iperf3, in turn, between two network namespaces of this machine.
//!
//! Dimensions: encrypted or not, one big file from the page cache to memory (tmpfs); seconds of wall time,
//! bytes a second, and the ratios. Both ends share this machine's processors, as they do for the peers.
//! iperf3 moves bytes of no file from memory to nowhere: it is the bar that the wire and the processors set, with the congestion
//! control that the system gives, and with reno, which needs no timers. The last row is the work on the bytes without any
//! network, by this process ([`floor`]).
//! Every figure is the median over rounds, in each of which everybody runs once, in another order, each copy after a file as
//! long was written and removed. Each copy is compared with the source byte for byte in the first round.
//!
//! Nothing is written but the table; files live in a tmpfs that goes at the end, or in a directory that is given, and go; the
//! namespaces go with them.

mod floor;
mod peers;

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use bookend::units::Bytes;
use bookend_tests::data::{first_difference, random_file};
use bookend_tests::machine::{End, FsKind, MachineLock, MountedFs, Network};
use bookend_tests::skip::Skip;
use bookend_tools::cli::size::parse_size;
use clap::Parser;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use tempfile::TempDir;

use peers::{Peer, Peers};

/// Copies a file between two network namespaces with hugecp and its peers in turn.
#[derive(Debug, Parser)]
struct Options {
    /// How often each program runs.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Length of the file.
    #[arg(long, default_value = "2G", value_parser = parse_size)]
    size: Bytes,
    /// What `tc` is told of both ends of the cable, such as "netem delay 5ms loss 0.1%".
    #[arg(long)]
    shape: Option<String>,
    /// The congestion control that the system is to give everybody, such as reno, instead of this machine's.
    #[arg(long)]
    congestion: Option<String>,
    /// Where the files are to lie, on whatever file system that is, instead of a tmpfs of the bench's own.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Seconds of iperf3.
    #[arg(long, default_value_t = 3)]
    seconds: u32,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(skip) => {
            eprintln!("copy-between-machines: not run: {skip}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Skip> {
    let lock = MachineLock::take();
    let network = Network::new()?;
    if let Some(words) = &options.shape {
        network.shape(words)?;
    }
    if let Some(name) = &options.congestion {
        network.congestion(name)?;
    }
    let size = options.size.get();
    let place = match &options.directory {
        Some(directory) => Place::given(directory)?,
        None => Place::Memory(MountedFs::new(&lock, FsKind::Tmpfs, 2 * size + (64 << 20))?),
    };
    let source = place.path().join("source");
    random_file(&source, size, 1)
        .map_err(|error| Skip(format!("{}: {error}", source.display())))?;
    let peers = Peers::start(&network, place.path())?;
    let target = place.path().join("in/target");
    let all = peers.all(&source, options.seconds);
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); all.len()];
    let mut floor = Vec::new();
    let failed = |error: io::Error| Skip(format!("{}: {error}", target.display()));
    // The last is no peer, but the work without network.
    let mut order: Vec<usize> = (0..=all.len()).collect();
    let mut random = SmallRng::seed_from_u64(1);
    for round in 0..options.runs {
        order.shuffle(&mut random);
        for &turn in &order {
            let peer = all.get(turn);
            if peer.is_none_or(|peer| peer.copies) {
                warm(&target, size).map_err(failed)?;
            }
            let Some(peer) = peer else {
                floor.push(floor::rate(&source, &target, size).map_err(failed)?);
                continue;
            };
            let Some(rate) = one(peer, size) else { continue };
            if round == 0 && peer.copies {
                let difference = first_difference(&source, &target);
                assert!(matches!(difference, Ok(None)), "{}: {difference:?}", peer.name);
            }
            rates[turn].push(rate);
        }
    }
    let name = options.directory.as_ref().map_or("tmpfs".into(), |at| at.display().to_string());
    print(&all, &mut rates, &mut floor, &format!("{size} bytes, from the page cache to {name}"));
    Ok(())
}

/// Writes a file as long as the one to come, and removes it: memory that nobody has used for a while is slow to get where
/// a virtual machine's host has taken it back meanwhile, and whoever comes next would pay for it.
fn warm(target: &Path, size: u64) -> io::Result<()> {
    let chunk = vec![1; 1 << 20];
    let mut file = File::create(target)?;
    let mut left = size;
    while left > 0 {
        let bytes = left.min(chunk.len() as u64);
        file.write_all(&chunk[..bytes as usize])?;
        left -= bytes;
    }
    drop(file);
    std::fs::remove_file(target)
}

/// Where the files lie; what was made there goes when this is dropped.
enum Place<'lock> {
    Memory(MountedFs<'lock>),
    Given(TempDir),
}

impl Place<'_> {
    fn given(directory: &Path) -> Result<Self, Skip> {
        let made = tempfile::Builder::new().prefix("copy-between-machines").tempdir_in(directory);
        made.map(Self::Given).map_err(|error| Skip(format!("{}: {error}", directory.display())))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Memory(memory) => memory.path(),
            Self::Given(directory) => directory.path(),
        }
    }
}

/// Runs `peer`; gives bytes a second.
fn one(peer: &Peer, size: u64) -> Option<f64> {
    let mut command: Command = (peer.command)();
    command.stdin(Stdio::null()).stderr(Stdio::piped()).stdout(Stdio::piped());
    let since = Instant::now();
    let output = match command.output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => {
            println!(
                "{}: {}: {}",
                peer.name,
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
            return None;
        }
        Err(error) => {
            println!("{}: not run: {error}", peer.name);
            return None;
        }
    };
    let seconds = since.elapsed().as_secs_f64();
    if peer.copies {
        return Some(size as f64 / seconds);
    }
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    said["end"]["sum_received"]["bits_per_second"].as_f64().map(|bits| bits / 8.0)
}

fn median(values: &mut [f64]) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn print(all: &[Peer], rates: &mut [Vec<f64>], floor: &mut [f64], title: &str) {
    let medians: Vec<Option<f64>> = rates.iter_mut().map(|rates| median(rates)).collect();
    let of = |name: &str| all.iter().position(|peer| peer.name == name).and_then(|at| medians[at]);
    println!("{title}, over veth, medians");
    println!("{:<28} {:>9} {:>19} {:>10} {:>10}", "", "MB/s", "min..max", "of rsync", "of iperf3");
    let ratio = |rate: f64, peer: Option<f64>| {
        peer.map_or_else(|| "-".to_owned(), |peer| format!("{:.2}", rate / peer))
    };
    let floor_median = median(floor);
    let peers = all.iter().zip(rates.iter()).zip(&medians);
    let rows = peers.map(|((peer, rates), median)| (peer.name, rates.as_slice(), median));
    for (name, rates, median) in rows.chain([("the work without network", &*floor, &floor_median)])
    {
        let (Some(rate), Some(least), Some(most)) = (median, rates.first(), rates.last()) else {
            println!("{name:<28} {:>9}", "not run");
            continue;
        };
        println!(
            "{name:<28} {:>9.0} {:>19} {:>10} {:>10}",
            rate / 1e6,
            format!("{:.0}..{:.0}", least / 1e6, most / 1e6),
            ratio(*rate, of(peers::RSYNC)),
            ratio(*rate, of(peers::IPERF3)),
        );
    }
    for (name, peer, bar) in [
        (peers::ENCRYPTED, peers::RSYNC, 1.0),
        (peers::PLAIN, peers::RSYNC, 2.0),
        (peers::PLAIN, peers::RSYNC_SSH, 2.0),
        (peers::PLAIN, peers::SCP, 2.0),
        (peers::PLAIN, peers::IPERF3, 0.8),
    ] {
        if let (Some(rate), Some(beside)) = (of(name), of(peer)) {
            let held = if rate >= bar * beside { "held" } else { "not held" };
            println!("{name}: {:.2} of {peer} (bar: {bar:.2}): {held}", rate / beside);
        }
    }
}

/// The end that copies are made from.
const HERE: End = End::Near;
