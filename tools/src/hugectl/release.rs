//! `hugectl release`: gives huge pages back; and `hugectl compact`: has pages moved together.

use bookend::units::PageSize;
use bookend_defrag::system::HugePools;
use bookend_defrag::system::bounded::Limit;
use bookend_defrag::system::kernel::Kernel;
use bookend_defrag::system::machine::{Did, Machine};
use clap::Args;
use serde::Serialize;

use super::request::{check_page, page_size, place};
use super::{Context, Failure};
use crate::cli::interrupt::Interrupts;
use crate::cli::{exit, format, output};

/// Shrinks a huge page pool
///
/// Pages in use stay until they are let go of; they are counted in the report.
#[derive(Clone, Debug, Args)]
pub struct Options {
    /// Size of the pages: 2M or 1G
    #[arg(long, value_name = "SIZE", value_parser = page_size)]
    size: PageSize,
    /// How many to give back, or all that nobody uses
    #[arg(long, value_name = "N")]
    pages: Option<u64>,
    /// Only of this NUMA node
    #[arg(long, value_name = "N")]
    node: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Released {
    page_bytes: u64,
    before: u64,
    released: u64,
    left: u64,
}

/// Shrinks the pool.
///
/// # Errors
/// [`Failure`].
pub fn run(options: &Options, context: &Context) -> Result<u8, Failure> {
    let place = place(context, options.node)?;
    check_page(context, options.size)?;
    let pools = HugePools::of(&context.files);
    let counts = pools.counts(options.size, place)?;
    let before = counts.total.saturating_sub(counts.surplus);
    let unused = counts.free.saturating_sub(counts.reserved.unwrap_or(0));
    let wanted = options.pages.unwrap_or(before);
    if let Some(asked) = options.pages.filter(|&asked| asked > before) {
        return Err(Failure::Usage(format!(
            "--pages {asked}: the pool has {before} pages of {}",
            options.size
        )));
    }
    // A pool set below what is in use turns the rest into surplus, which then goes by itself.
    let left = pools.resize(options.size, place, before - wanted.min(unused))?;
    let released = before.saturating_sub(left);
    let report = Released { page_bytes: options.size.bytes().get(), before, released, left };
    let written = if options.json {
        output::json(&report)
    } else {
        let [released, left] = [released, left].map(format::count);
        output::line(format_args!("{released} pages of {} given back, {left} left", options.size))
    };
    written.map_err(Failure::Output)?;
    let asked = options.pages.unwrap_or(unused);
    Ok(if report.released < asked { exit::PARTLY } else { exit::SUCCESS })
}

/// Has the kernel move pages together
///
/// Moves what can be moved, so that free memory comes in larger pieces; reclaims nothing.
#[derive(Clone, Debug, Args)]
pub struct CompactOptions {
    /// Only this NUMA node
    #[arg(long, value_name = "N")]
    node: Option<u32>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Compacted {
    seconds: f64,
    pages_migrated: u64,
    huge_pages_before: u64,
    huge_pages_after: u64,
}

/// Compacts.
///
/// # Errors
/// [`Failure`].
pub fn compact(options: &CompactOptions, context: &Context) -> Result<u8, Failure> {
    let place = place(context, options.node)?;
    let limit = Limit { deadline: None, asked: Interrupts::any };
    let mut kernel = Kernel::new(context.files.clone(), context.base, place, limit);
    let free = || huge_pages(context, options.node);
    let (state, before) = (kernel.state()?, free()?);
    let did = kernel.compact()?;
    let seconds = kernel.now().as_secs_f64();
    context.interrupts.check()?;
    if let Did::Unsupported(why) = did {
        return Err(Failure::Usage(why));
    }
    let report = Compacted {
        seconds,
        pages_migrated: kernel.state()?.migrated.saturating_sub(state.migrated),
        huge_pages_before: before,
        huge_pages_after: free()?,
    };
    let written = if options.json {
        output::json(&report)
    } else {
        let count = format::count;
        output::line(format_args!(
            "{} pages moved in {seconds:.2} s; free blocks of 2 MiB: {} before, {} now",
            count(report.pages_migrated),
            count(report.huge_pages_before),
            count(report.huge_pages_after)
        ))
    };
    written.map_err(Failure::Output)?;
    Ok(exit::SUCCESS)
}

/// Free blocks of 2 MiB.
fn huge_pages(context: &Context, node: Option<u32>) -> Result<u64, Failure> {
    let order = (PageSize::MIB2.shift() - context.base.shift()) as usize;
    let zones = bookend_defrag::system::zones::zones(&context.files)?;
    let here = zones.iter().filter(|zone| node.is_none_or(|node| zone.node.get() == node));
    Ok(here.map(|zone| zone.blocks.suitable(order)).sum())
}
