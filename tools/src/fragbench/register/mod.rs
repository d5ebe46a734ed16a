//! `fragbench register`: what it costs to register a buffer with io_uring, and with an RDMA device where
//! there is one, by page size.
//!
//! The largest pages are taken first, as in [`scatter`](super::scatter), and given back before the next.

mod report;

use std::hint::black_box;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bookend::pool::{Pool, SharedPin};
use bookend::scatter::{Limits, ScatterList};
use bookend::units::Bytes;
use bookend_registration::cache::{Cache, CacheLimits};
use bookend_registration::uring::Ring;
use bookend_registration::verbs::{Access, Device, Domain, Verbs};
use bookend_registration::{RegisterError, Registrar};
use clap::Args;
use io_uring::IoUring;

use super::about;
use super::obtain::{Obtained, Unavailable};
use super::report::{DESCRIPTOR_BYTES, Pages};
use super::scatter::{Buffer, ScatterFailure, each, progress};
use super::sink::Sink;
use crate::cli::exit;
use crate::cli::interrupt::Interrupts;
use report::{Cost, Outcome, Report, Row};

/// As in [`super::scatter`].
const ORDER: [Pages; 5] =
    [Pages::Gigantic, Pages::Huge, Pages::Ordered, Pages::Transparent, Pages::Base];
/// How often each registration is made, for the median.
const ROUNDS: usize = 7;
/// How many cache hits are timed together.
const HITS: u32 = 1_000_000;

/// Measures what it costs to register one buffer, by page size
///
/// For each kind of pages the machine can give, takes a buffer of the size and registers it with io_uring
/// (fixed buffers: the kernel pins every page for long, by the path that RDMA uses), and with the first RDMA
/// device where there is one. Prints the time to touch the memory (once, several threads), to register it and
/// to take it out again (medians of 7), the entries of its scatter-gather list, the bytes of their descriptors
/// (32 each), and what a hit in the registration cache takes instead.
///
/// Software RDMA devices (rxe, siw) track base pages whatever the memory stands on; the table says so.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Kinds of pages:
  4K          base pages
  THP         transparent huge pages
  2M          hugetlb pages of 2 MiB, as faulted
  2M-ordered  the same, put in the order of their frames (needs CAP_SYS_ADMIN)
  1G          hugetlb pages of 1 GiB

Exit status: 0 done (kinds that are unavailable included), 1 failed, 2 bad usage,
130 or 143 stopped by SIGINT or SIGTERM; what was reserved has been given back.
(SIGKILL leaves it reserved: set nr_hugepages again by hand.)")]
pub struct Options {
    #[command(flatten)]
    buffer: Buffer,
    /// The RDMA device; the first there is, if it is left out
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    #[command(flatten)]
    sink: Sink,
}

/// Measures and prints.
///
/// # Errors
/// [`ScatterFailure`]; kinds of pages that the machine cannot give are no failure.
pub fn run(options: &Options, interrupts: Interrupts) -> Result<(), ScatterFailure> {
    let begun = Instant::now();
    options.buffer.check()?;
    let report = measure_all(options, interrupts)?;
    let settings = format!("A buffer of {}", options.buffer.size);
    options.sink.write(&settings, &report, about::Cost::of(begun.elapsed()))?;
    Ok(())
}

/// Who registers; a device is opened once.
struct Registrars {
    verbs: Option<Result<Verbs, RegisterError>>,
    software: bool,
}

impl Registrars {
    /// Without a device there are no rows of it, unless it was asked for by name.
    fn open(options: &Options) -> Self {
        let device = match Device::open(options.device.as_deref()) {
            Ok(device) => device,
            Err(why) => {
                return Self {
                    verbs: options.device.is_some().then_some(Err(why)),
                    software: false,
                };
            }
        };
        let access = Access::LOCAL_WRITE | Access::REMOTE_WRITE | Access::REMOTE_READ;
        let verbs = Domain::new(&device).and_then(|domain| domain.registrar(access));
        Self { verbs: Some(verbs), software: device.is_software() }
    }
}

fn measure_all(options: &Options, interrupts: Interrupts) -> Result<Report, ScatterFailure> {
    let registrars = Registrars::open(options);
    let measure = |pages| measure(pages, options, &registrars, interrupts);
    let measured = each(&ORDER, interrupts, &progress(), measure)?;
    let mut rows: Vec<_> = measured.into_iter().flat_map(|(_, rows)| rows).collect();
    rows.sort_by_key(|row| (row.registrar, row.pages));
    let software = registrars.software && registrars.verbs.is_some();
    Ok(Report { size: options.buffer.size.get(), rows, software })
}

/// One kind: takes the memory, registers it with everybody, gives it back.
fn measure(
    pages: Pages,
    options: &Options,
    registrars: &Registrars,
    interrupts: Interrupts,
) -> Result<Vec<Row>, ScatterFailure> {
    let names = ["io_uring", "verbs"].into_iter().take(1 + usize::from(registrars.verbs.is_some()));
    let unavailable = |why: &dyn std::error::Error| {
        let why = exit::with_causes(why);
        let row = |registrar| Row { pages, registrar, outcome: Outcome::unavailable(&why) };
        names.clone().map(row).collect::<Vec<_>>()
    };
    let obtained = match options.buffer.obtain(pages) {
        Ok(obtained) => obtained,
        Err(Unavailable::NotRestored(error)) => return Err(error.into()),
        Err(why) => {
            interrupts.check()?; // it may be the reason
            return Ok(unavailable(&why));
        }
    };
    let rows = register_with_all(pages, &obtained, registrars, interrupts);
    obtained.give_back()?;
    interrupts.check()?;
    Ok(rows)
}

fn register_with_all(
    pages: Pages,
    obtained: &Obtained,
    registrars: &Registrars,
    interrupts: Interrupts,
) -> Vec<Row> {
    let pool = obtained.pool();
    let row = |registrar, outcome: Result<Cost, String>| {
        let outcome = match outcome {
            Ok(cost) => Outcome::Measured(cost),
            Err(why) => Outcome::unavailable(&why),
        };
        Row { pages, registrar, outcome }
    };
    let cost = |times: Times| finish(times, obtained).map_err(|why| why.to_string());
    let mut rows = vec![row("io_uring", with_ring(pool, interrupts).and_then(cost))];
    match &registrars.verbs {
        None => {}
        Some(Err(why)) => rows.push(row("verbs", Err(why.to_string()))),
        Some(Ok(verbs)) => {
            let times = time(pool, verbs.clone(), interrupts).map_err(|why| why.to_string());
            rows.push(row("verbs", times.and_then(cost)));
        }
    }
    rows
}

fn with_ring(pool: &Arc<Pool>, interrupts: Interrupts) -> Result<Times, String> {
    let uring = IoUring::new(4).map_err(|why| format!("no io_uring: {why}"))?;
    #[allow(unsafe_code)]
    // SAFETY: the ring is open for as long as it is borrowed.
    let fd = unsafe { BorrowedFd::borrow_raw(uring.as_raw_fd()) };
    // A buffer is 1 GiB at most; some begin and end inside one.
    let slots = pool.capacity().bytes().get() / Bytes::gib(1).get() + 2;
    let ring = Ring::new(fd, slots as u32).map_err(|why| why.to_string())?;
    time(pool, ring, interrupts).map_err(|why| why.to_string())
}

/// What was timed.
struct Times {
    register: Duration,
    release: Duration,
    hit_ns: f64,
}

/// Registers all of a pool several times; fewer where a signal comes.
fn time<R>(
    pool: &Arc<Pool>,
    registrar: R,
    interrupts: Interrupts,
) -> Result<Times, Box<dyn std::error::Error>>
where
    R: Registrar + Send + Sync + 'static,
    R::Registration: Send + Sync + 'static,
{
    let (mut registers, mut releases) = (Vec::new(), Vec::new());
    while registers.len() < ROUNDS && (registers.is_empty() || interrupts.check().is_ok()) {
        let pin = SharedPin::new(pool.clone(), pool.blocks())?;
        let start = Instant::now();
        let region = registrar.register(pin)?;
        registers.push(start.elapsed());
        let start = Instant::now();
        let pin = region.into_held();
        releases.push(start.elapsed());
        drop(pin);
    }
    let cache = Cache::new(pool.clone(), registrar, CacheLimits::default());
    drop(cache.get(pool.blocks())?);
    let start = Instant::now();
    for _ in 0..HITS {
        drop(black_box(cache.get(black_box(pool.blocks()))?));
    }
    let hit_ns = start.elapsed().as_secs_f64() * 1e9 / f64::from(HITS);
    Ok(Times { register: median(registers), release: median(releases), hit_ns })
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn finish(times: Times, obtained: &Obtained) -> Result<Cost, bookend::scatter::ScatterError> {
    let pool = obtained.pool();
    let list = ScatterList::of_pool(pool, Bytes::ZERO..pool.capacity().bytes(), &Limits::NONE)?;
    let entries = list.entries().len() as u64;
    let us = |time: Duration| (time.as_secs_f64() * 1e7).round() / 10.0;
    Ok(Cost {
        touch_us: us(obtained.touch()),
        register_us: us(times.register),
        release_us: us(times.release),
        entries,
        descriptor_bytes: entries * DESCRIPTOR_BYTES,
        cached_ns: (times.hit_ns * 10.0).round() / 10.0,
    })
}
