//! The device-copy engine: an NVMe drive copies by itself, and the bytes never leave it.
//!
//! From one block device to another, where both lie on one namespace, or on two of one drive that copies
//! between them. The drive knows nothing of partitions: blocks are counted from the start of the namespace
//! here (`place`), and cut into commands within the drive's limits (`command`, `identify`). Linux has no
//! system call for this, so the commands are passed through (`pass`), behind the back of the page cache
//! (`cache`).
//!
//! Any refusal leaves the work to the next engine, which writes every byte again. Durability is, as with all
//! engines, the caller's: `fsync(2)` of a block device makes the drive flush its cache.

mod cache;
mod command;
mod identify;
mod pass;
mod place;

use std::os::unix::fs::MetadataExt;

use super::ends;
use crate::copy::engine::{CopyError, Done, Engine, EngineName, Job, Kind, Side, Stop};
use crate::copy::error::said;
use crate::copy::limit::Limiter;
use command::{Command, Extent, Format};
use identify::Limits;
use pass::{Drive, Passing, Refusal, Sender};
use place::Place;

/// Lets the drive copy.
#[derive(Debug)]
pub struct DeviceCopy;

impl Engine for DeviceCopy {
    fn name(&self) -> EngineName {
        EngineName::DeviceCopy
    }

    fn copy(&self, job: &Job<'_>) -> Result<Done, Stop> {
        let way = Way::between(&job.source, &job.target).map_err(Stop::Unsupported)?;
        let len = way.source.len;
        ends::prepare_target(job, len)?;
        let extent = way.extent(len).map_err(Stop::Unsupported)?;
        let cannot =
            |cause| Stop::from(job.target.cannot("write back what is in memory of it", cause));
        cache::write_back(job.source.file, job.target.file).map_err(cannot)?;
        let limiter = Limiter::new(job.tuning.bwlimit);
        let bytes_max = limiter.request_size(job.tuning.block_size.unwrap_or(u64::MAX));
        let commands = command::commands(extent, &way.limits, way.format, bytes_max);
        let depth = job.tuning.queue_depth.unwrap_or(pass::DEPTH);
        let mut passing = Passing::new(&way.drive, depth);
        let count = run(job, commands, way.limits.block_bytes, &limiter, &mut passing)?;
        let stay = cache::drop_pages(job.target.file, len).map_err(cannot)?;
        if stay > 0 {
            let why =
                format!("{stay} pages of the target stay in memory and show what was there before");
            return Err(Stop::Unsupported(why));
        }
        let notes = vec![format!("{count} commands of {}", way.limits), passing.note()];
        Ok(Done { bytes: len, buffers: None, notes })
    }
}

/// Sends all commands; says how many there were.
fn run(
    job: &Job<'_>,
    commands: impl Iterator<Item = Command>,
    block_bytes: u64,
    limiter: &Limiter,
    sender: &mut dyn Sender,
) -> Result<usize, Stop> {
    let mut commands = commands.peekable();
    let mut count = 0;
    while commands.peek().is_some() {
        if job.progress.is_cancelled() {
            return Err(CopyError::Cancelled.into());
        }
        let batch: Vec<Command> = commands.by_ref().take(sender.depth()).collect();
        let bytes = batch.iter().map(Command::blocks).sum::<u64>() * block_bytes;
        limiter.take(bytes, job.progress)?;
        sender.send(&batch).map_err(|refusal| match refusal {
            // What is still under way could come after what another engine writes.
            Refusal::Lost(cause) => job.target.write_error(job.progress.copied(), cause).into(),
            refusal => Stop::Unsupported(refusal.to_string()),
        })?;
        job.progress.add(bytes);
        count += batch.len();
    }
    Ok(count)
}

/// What a copy needs to know of both sides.
#[derive(Debug)]
struct Way {
    source: Place,
    target: Place,
    drive: Drive,
    limits: Limits,
    format: Format,
}

impl Way {
    fn between(source: &Side<'_>, target: &Side<'_>) -> Result<Self, String> {
        let (from, to) = (place_of(source)?, place_of(target)?);
        if !from.is_beside(&to) && !from.shares_controller(&to) {
            return Err(format!("{} and {} are on different drives", from.name, to.name));
        }
        let drive = Drive::open(&to)?;
        let asked = |error: std::io::Error| {
            format!("{} does not say what it can: {}", drive.path().display(), said(&error))
        };
        let controller = drive.controller().map_err(asked)?;
        if !identify::copies(&controller) {
            return Err("the drive has no Copy command".into());
        }
        let limits = checked_limits(&to, &drive)?;
        let format = if from.is_beside(&to) {
            Format::Here
        } else {
            identify::copies_across(&controller, &drive.behavior().map_err(asked)?)?;
            let others = checked_limits(&from, &Drive::open(&from)?)?;
            if others.block_bytes != limits.block_bytes {
                return Err(format!(
                    "blocks of {} bytes on {}, and of {} on {}",
                    others.block_bytes, from.name, limits.block_bytes, to.name
                ));
            }
            Format::Of { namespace: from.namespace }
        };
        Ok(Self { source: from, target: to, drive, limits, format })
    }

    /// The first `len` bytes of both sides, as blocks of their namespaces.
    fn extent(&self, len: u64) -> Result<Extent, String> {
        let block = self.limits.block_bytes;
        let (from, to) = (self.source.start, self.target.start);
        if [from, to, len].iter().any(|bytes| bytes % block != 0) {
            return Err(format!("a partition does not begin or end with a block of {block} bytes"));
        }
        if self.source.overlaps(&self.target, len) {
            return Err("source and target overlap on the drive".into());
        }
        if len > self.source.len || len > self.target.len {
            return Err("one of the devices is shorter than what is to be copied".into());
        }
        Ok(Extent { from: from / block, to: to / block, blocks: len / block })
    }
}

/// Where an open block device lies; sysfs must agree with it about its length.
fn place_of(side: &Side<'_>) -> Result<Place, String> {
    if side.kind != Kind::BlockDevice {
        return Err(format!("{} is no block device", side.path.display()));
    }
    let metadata = side.file.metadata().map_err(|error| said(&error))?;
    let place = Place::of(metadata.rdev())?;
    match side.len {
        Some(len) if len == place.len => Ok(place),
        len => Err(format!(
            "{} has {} bytes, and {} as sysfs says",
            side.path.display(),
            len.unwrap_or(0),
            place.len
        )),
    }
}

/// What the namespace says, if it is the one that sysfs describes.
fn checked_limits(place: &Place, drive: &Drive) -> Result<Limits, String> {
    let cannot = |error: std::io::Error| format!("{}: {}", drive.path().display(), said(&error));
    let limits = Limits::of(&drive.identified().map_err(cannot)?)?;
    if limits.blocks.checked_mul(limits.block_bytes) == Some(place.disk_len) {
        return Ok(limits);
    }
    Err(format!(
        "{} has {} blocks of {} bytes, and {} bytes as sysfs says",
        place.name, limits.blocks, limits.block_bytes, place.disk_len
    ))
}

/// What the drive of a block device says of Copy, in words.
///
/// # Errors
/// Why it cannot be used, or not be asked, in words.
pub fn limits(side: &Side<'_>) -> Result<String, String> {
    let place = place_of(side)?;
    let drive = Drive::open(&place)?;
    let controller = drive.controller().map_err(|error| said(&error))?;
    if !identify::copies(&controller) {
        return Err("the drive has no Copy command".into());
    }
    checked_limits(&place, &drive).map(|limits| limits.to_string())
}

/// Whether the drive would copy the first `len` bytes of `source` to `target`; nothing is written.
///
/// # Errors
/// Why not, in words.
pub fn look(source: &Side<'_>, target: &Side<'_>, len: u64) -> Result<String, String> {
    let way = Way::between(source, target)?;
    way.extent(len)?;
    let within = if way.format == Format::Here { "within" } else { "between namespaces of" };
    Ok(format!("{} {within} the drive, by {}", way.limits, way.drive.path().display()))
}

#[cfg(test)]
mod tests;
