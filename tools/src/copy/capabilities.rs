//! `--capabilities`: which ways there are from one place to another, and why the others are closed.
//!
//! What can be tried is tried, on a file without a name in the target's directory that is gone
//! afterwards: file systems differ in more than their names. The source is only read. What cannot
//! be tried is said to be known from what the system tells.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bookend::units::Bytes;
use nix::sys::stat::{major, minor};
use serde::Serialize;

use super::engine::{EngineName, Kind, Side};
use super::engines::device;
use super::error::said;
use super::plan::{self, Facts, SideFacts, Wishes};
use super::probe::{self, Direct};
use super::quote::quote;
use super::source::{device_len, kind_of};
use super::sys;

/// One end of a copy, as the system shows it.
#[derive(Debug, Serialize)]
pub struct End {
    /// Its name.
    pub path: PathBuf,
    /// What it is.
    pub what: String,
    /// Bytes, where it has a length.
    pub bytes: Option<u64>,
    /// What O_DIRECT needs there.
    pub direct: String,
    /// What its device says of itself.
    pub limits: Vec<String>,
    #[serde(skip)]
    side: SideFacts,
    /// Open for reading, or a nameless file where a target is to be.
    #[serde(skip)]
    file: Option<File>,
    #[serde(skip)]
    cached: Option<f64>,
}

/// One way.
#[derive(Debug, Serialize)]
pub struct Way {
    /// Which engine it is.
    pub engine: EngineName,
    /// Whether it is open.
    pub open: bool,
    /// Why, or why not.
    pub why: String,
}

/// All of it.
#[derive(Debug, Serialize)]
pub struct Capabilities {
    /// Where from.
    pub source: End,
    /// Where to.
    pub target: End,
    /// The ways, the one that would be taken first, then in the order in which they are tried.
    pub ways: Vec<Way>,
}

/// Looks at `source` and `target`.
///
/// # Errors
/// Where one of them cannot be looked at, in words.
pub fn look(source: &Path, target: &Path, wishes: &Wishes) -> Result<Capabilities, String> {
    let cannot = |path: &Path| {
        let name = quote(path);
        move |error: io::Error| format!("cannot look at {name}: {}", said(&error))
    };
    let source = End::source(source).map_err(cannot(source))?;
    let target = End::target(target).map_err(cannot(target))?;
    let facts = Facts {
        source: source.side,
        target: target.side,
        len: source.bytes,
        data_bytes: source.bytes.unwrap_or(0),
        cached: source.cached,
    };
    let plan = plan::plan(&facts, wishes);
    let mut ways: Vec<Way> = plan
        .steps
        .iter()
        .map(|step| {
            let (open, found) = tried(step.engine, &source, &target);
            let pro = if step.pro.is_empty() { step.con } else { step.pro };
            let why = if open { format!("{found}; {pro}") } else { found };
            Way { engine: step.engine, open, why }
        })
        .collect();
    ways.extend(plan.skipped.into_iter().map(|skipped| Way {
        engine: skipped.engine,
        open: false,
        why: skipped.why,
    }));
    ways.sort_by_key(|way| !way.open);
    Ok(Capabilities { source, target, ways })
}

impl End {
    fn source(path: &Path) -> io::Result<Self> {
        // A device or a FIFO is not opened to be looked at: that may have effects, or wait.
        let found = std::fs::metadata(path)?;
        let opens = found.is_file() || found.is_dir() || found.file_type().is_block_device();
        let file = if opens { Some(File::open(path)?) } else { None };
        let mut end = Self::of(path, file, found.file_type(), found.rdev(), found.dev());
        end.bytes = match &end.file {
            Some(file) if found.is_file() && !probe::length_is_a_guess(file) => Some(found.len()),
            Some(file) if found.file_type().is_block_device() => Some(device_len(file)?),
            _ => None,
        };
        end.add_copy_limits();
        if let (true, Some(file), Some(len)) = (found.is_file(), &end.file, end.bytes) {
            end.cached = probe::cached_fraction(file, len);
        }
        Ok(end)
    }

    /// A file that is there is looked at through one beside it, since it would be replaced.
    fn target(path: &Path) -> io::Result<Self> {
        let found = std::fs::metadata(path);
        if let Ok(found) = &found
            && !found.is_file()
            && !found.is_dir()
        {
            let device = found.file_type().is_block_device();
            let file = if device { Some(File::open(path)?) } else { None };
            let mut end = Self::of(path, file, found.file_type(), found.rdev(), found.dev());
            end.bytes = end.file.as_ref().and_then(|file| device_len(file).ok());
            end.add_copy_limits();
            return Ok(end);
        }
        let directory = match &found {
            Ok(found) if found.is_dir() => path,
            _ => super::target::parent(path),
        };
        let above = std::fs::metadata(directory)?;
        let flags = libc::O_TMPFILE;
        let nameless =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(directory);
        let is_nameless = nameless.is_ok();
        let file = nameless.or_else(|_| File::open(directory))?;
        let kind = file.metadata()?.file_type();
        let mut end = Self::of(path, Some(file), kind, 0, above.dev());
        let here = if is_nameless { "" } else { ", where nothing can be tried" };
        let name = end.side.file_system.map_or_else(|| "a file system".to_owned(), name_of);
        end.what = format!("a file on {name}{here}");
        end.side.kind = Kind::Regular;
        end.file = end.file.filter(|_| is_nameless);
        Ok(end)
    }

    /// As engines see it, where it is open.
    fn side(&self) -> Option<Side<'_>> {
        let file = self.file.as_ref()?;
        Some(Side { file, path: &self.path, kind: self.side.kind, len: self.bytes })
    }

    /// What the drive of a block device says of copying by itself.
    fn add_copy_limits(&mut self) {
        if let Some(side) = self.side().filter(|side| side.kind == Kind::BlockDevice) {
            let limits = device::limits(&side).unwrap_or_else(|why| format!("no Copy: {why}"));
            self.limits.push(limits);
        }
    }

    fn of(
        path: &Path,
        file: Option<File>,
        file_type: std::fs::FileType,
        rdev: u64,
        dev: u64,
    ) -> Self {
        let is_directory = file_type.is_dir();
        let kind =
            if is_directory { Kind::Regular } else { kind_of(file_type).unwrap_or(Kind::Stream) };
        let file_system = match (kind, &file) {
            (Kind::Regular, Some(file)) => probe::file_system(file).ok(),
            _ => None,
        };
        let on = file_system.map_or_else(String::new, |fs| format!(" on {}", name_of(fs)));
        let what = match kind {
            Kind::Regular if is_directory => format!("a directory{on}"),
            Kind::Regular => format!("a file{on}"),
            Kind::BlockDevice => "a block device".to_owned(),
            Kind::Stream => "a stream: a pipe, a socket or a character device".to_owned(),
        };
        let direct = match &file {
            Some(file) => direct_of(file),
            None => "not for streams".to_owned(),
        };
        let limits = match kind {
            Kind::BlockDevice => limits_of(rdev),
            Kind::Regular => limits_of(dev),
            Kind::Stream => Vec::new(),
        };
        let side = SideFacts { kind, file_system };
        let path = path.to_owned();
        Self { path, what, bytes: None, direct, limits, side, file, cached: None }
    }
}

fn name_of(file_system: probe::FileSystem) -> String {
    match file_system {
        probe::FileSystem::Other(magic) => format!("a file system of magic number {magic:#x}"),
        known => format!("{known:?}").to_lowercase(),
    }
}

fn direct_of(file: &File) -> String {
    match probe::direct(file) {
        Direct::Aligned(needed) => {
            format!("multiples of {} bytes, in memory of {}", needed.offset, needed.memory)
        }
        Direct::Unknown => "to be tried: the file system does not say".to_owned(),
        Direct::No => "none: files there are in memory, or made as they are read".to_owned(),
    }
}

/// What the kernel says of the queue of a device, or of the disk that a partition is on.
fn limits_of(device: u64) -> Vec<String> {
    let top = PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)));
    let read = |name: &str| {
        let own = std::fs::read_to_string(top.join("queue").join(name));
        let text =
            own.or_else(|_| std::fs::read_to_string(top.join("../queue").join(name))).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let size = |name, factor, words: &str| {
        // 0 where the device has no such command.
        let value = read(name).filter(|&value| value > 0);
        value.map(|value: u64| format!("{} {words}", Bytes::new(value * factor)))
    };
    [
        size("logical_block_size", 1, "a block"),
        size("max_sectors_kb", 1024, "a request at most"),
        read("nr_requests").map(|count| format!("{count} requests in its queue")),
        size("write_zeroes_max_bytes", 1, "zeroed by one command at most"),
        size("discard_max_bytes", 1, "discarded by one command at most"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Tries a way; says whether it is open, and how that is known.
fn tried(engine: EngineName, source: &End, target: &End) -> (bool, String) {
    let (from, to) = match (&source.file, &target.file) {
        (Some(from), Some(to)) if source.bytes.is_some() => (from, to),
        _ => return (true, "not tried, but nothing speaks against it".to_owned()),
    };
    let result = match engine {
        EngineName::Reflink => sys::clone_file(from, to),
        EngineName::CopyRange => {
            let len = source.bytes.unwrap_or(0).min(4096);
            sys::copy_file_range(from, 0, to, 0, len as usize).map(|_| ())
        }
        EngineName::DeviceCopy => {
            let sides = source.side().zip(target.side());
            let looked = match (sides, source.bytes) {
                (Some((from, to)), Some(len)) => device::look(&from, &to, len),
                _ => Err("a side cannot be opened".to_owned()),
            };
            return match looked {
                Ok(found) => (true, format!("as the drive says: {found}")),
                Err(why) => (false, why),
            };
        }
        EngineName::Direct => {
            let none = |file| probe::direct(file) == Direct::No;
            if none(from) && none(to) {
                return (false, "neither side takes O_DIRECT".to_owned());
            }
            return (true, "O_DIRECT, on one side at least".to_owned());
        }
        EngineName::Buffered => {
            // Whether it can be read at all.
            from.read_at(&mut [0; 1], 0).map(|_| ())
        }
    };
    if engine != EngineName::Buffered && target.side.kind == Kind::Regular {
        let _ = to.set_len(0); // it has no name, and goes with its descriptor
    }
    match result {
        Ok(()) => (true, "tried, and it works".to_owned()),
        Err(error) => (false, format!("tried: {}", said(&error))),
    }
}

impl Capabilities {
    /// As text for people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (role, end) in [("source", &self.source), ("target", &self.target)] {
            let size = end.bytes.map_or_else(String::new, |n| format!(", {}", Bytes::new(n)));
            text.push_str(&format!("{role} {}: {}{size}\n", quote(&end.path), end.what));
            if let Some(cached) = end.cached {
                text.push_str(&format!("  in the page cache: {:.0}%\n", cached * 100.0));
            }
            text.push_str(&format!("  O_DIRECT: {}\n", end.direct));
            if !end.limits.is_empty() {
                text.push_str(&format!("  device: {}\n", end.limits.join(", ")));
            }
        }
        for (index, way) in self.ways.iter().enumerate() {
            let open = match (way.open, index) {
                (true, 0) => "open, and taken",
                (true, _) => "open",
                (false, _) => "closed",
            };
            text.push_str(&format!("{}: {open}: {}\n", way.engine, way.why));
        }
        text.pop(); // the last line's end is its printer's
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(source: &Path, target: &Path) -> Vec<(EngineName, bool)> {
        let found = look(source, target, &Wishes::NONE).unwrap();
        assert!(found.text().contains("buffered: "), "{}", found.text());
        found.ways.iter().map(|way| (way.engine, way.open)).collect()
    }

    #[test]
    fn buffered_is_always_open_and_each_engine_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        std::fs::write(&file, vec![1; 10_000]).unwrap();
        let new = dir.path().join("new");
        for (source, target) in [
            (&*file, &*new),
            (&file, dir.path()),
            (dir.path(), dir.path()),
            (Path::new("/dev/null"), &new),
            (&file, Path::new("/dev/null")),
            (Path::new("/proc/self/status"), &new),
        ] {
            let ways = ways(source, target);
            assert_eq!(ways.len(), 5, "{ways:?}");
            assert!(ways.contains(&(EngineName::Buffered, true)), "{source:?} {target:?} {ways:?}");
        }
        assert!(!new.exists(), "nothing is left");
        assert_eq!(std::fs::read(&file).unwrap(), vec![1; 10_000]);
    }

    #[test]
    fn an_end_that_is_missing_is_named() {
        let error = look(Path::new("/nowhere/a"), Path::new("/tmp"), &Wishes::NONE).unwrap_err();
        assert!(error.contains("'/nowhere/a'"), "{error}");
        let error =
            look(Path::new("/dev/null"), Path::new("/nowhere/a"), &Wishes::NONE).unwrap_err();
        assert!(error.contains("'/nowhere/a'"), "{error}");
    }
}
