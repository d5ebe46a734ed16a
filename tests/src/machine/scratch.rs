//! Where a run keeps what it makes, so that a killed run's remains can be found and undone.
//!
//! One directory a process: `bookend-test-PID-…` under `BOOKEND_TEST_DIR`, or under `/var/tmp`,
//! which is on a disk where `/tmp` may be memory. Mounts and images lie inside it. What lies outside
//! is written to its file `restore` before it is changed: lines `set PATH VALUE` and
//! `rmdir PATH`, undone last to first. Its file `alive` is locked as long as the owner lives, which
//! is how the next run tells a leftover from a neighbour.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, umount2};

use super::MachineLock;

/// Prefix of everything a run creates outside its build directory.
pub(super) const PREFIX: &str = "bookend-test-";

/// The directory of this process; the same one for all its tests. It stays when the process ends,
/// nearly empty, until the next run cleans it: a static is never dropped.
///
/// # Panics
/// When it cannot be made.
pub fn scratch() -> &'static Scratch {
    static SCRATCH: OnceLock<Scratch> = OnceLock::new();
    SCRATCH.get_or_init(|| {
        Scratch::create().unwrap_or_else(|error| {
            panic!("{}: cannot make a directory for tests: {error}", base().display())
        })
    })
}

/// A directory that the next run cleans when this one cannot.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    names: AtomicU32,
    _alive: Flock<File>,
}

fn base() -> PathBuf {
    match std::env::var_os("BOOKEND_TEST_DIR") {
        Some(path) => PathBuf::from(path),
        None if Path::new("/var/tmp").is_dir() => PathBuf::from("/var/tmp"),
        None => std::env::temp_dir(),
    }
}

impl Scratch {
    fn create() -> io::Result<Self> {
        // Made under a name that no cleaner looks at, and renamed once it is locked.
        let unlocked = tempfile::Builder::new().prefix(".bookend-").tempdir_in(base())?;
        let alive = File::create(unlocked.path().join("alive"))?;
        let alive = Flock::lock(alive, FlockArg::LockExclusiveNonblock).map_err(|(_, e)| e)?;
        let unlocked = unlocked.keep();
        let suffix = unlocked.file_name().unwrap_or_default().to_string_lossy().replace('.', "");
        let path = base().join(format!("{PREFIX}{}-{suffix}", std::process::id()));
        fs::rename(&unlocked, &path)?;
        Ok(Self { path, names: AtomicU32::new(0), _alive: alive })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A new empty directory in it, removed with everything in it when the value is dropped.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn dir(&self, name: &str) -> tempfile::TempDir {
        tempfile::Builder::new()
            .prefix(&format!("{name}-"))
            .tempdir_in(&self.path)
            .unwrap_or_else(|error| panic!("{}: cannot make a directory: {error}", name))
    }

    /// A name that no other thing of any run has, for what lies outside the directory.
    pub fn unique_name(&self) -> String {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        format!("{PREFIX}{}-{number}", std::process::id())
    }

    /// Notes how to undo what is about to be done outside the directory.
    pub(super) fn note(&self, line: &str) -> io::Result<()> {
        let mut file =
            OpenOptions::new().create(true).append(true).open(self.path.join("restore"))?;
        writeln!(file, "{line}")?;
        file.sync_data()
    }

    /// Takes back the last [`note`](Self::note) that says `line`: it has been undone.
    pub(super) fn forget(&self, line: &str) {
        let path = self.path.join("restore");
        let Ok(text) = fs::read_to_string(&path) else { return };
        let mut lines: Vec<&str> = text.lines().collect();
        if let Some(at) = lines.iter().rposition(|noted| *noted == line) {
            lines.remove(at);
        }
        let rest: String = lines.iter().flat_map(|line| [line, "\n"]).collect();
        let _ = fs::write(&path, rest);
    }
}

/// Undoes what runs that no longer live have left: their mounts, loop devices, settings, cgroups and
/// directories. Others' things are not touched, nor are those of a run that lives.
pub fn clean_leftovers(_lock: &MachineLock) {
    let Ok(entries) = fs::read_dir(base()) else { return };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && is_dead(&entry.path()) {
            clean(&entry.path());
        }
    }
}

fn is_dead(path: &Path) -> bool {
    let Ok(file) = File::open(path.join("alive")) else { return false };
    Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok()
}

fn clean(path: &Path) {
    for mount in mounts_under(path).iter().rev() {
        let _ = umount2(mount.as_path(), MntFlags::MNT_DETACH);
    }
    for device in loops_under(path) {
        let _ = Command::new("losetup").arg("-d").arg(device).status();
    }
    let notes = fs::read_to_string(path.join("restore")).unwrap_or_default();
    for line in notes.lines().rev() {
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("set"), Some(file), Some(value)) => drop(fs::write(file, value)),
            (Some("rmdir"), Some(dir), None) => drop(fs::remove_dir(dir)),
            _ => {}
        }
    }
    if mounts_under(path).is_empty() {
        let _ = fs::remove_dir_all(path);
    }
}

/// The mount points at or below `path`, in the order they were made.
pub(super) fn mounts_under(path: &Path) -> Vec<PathBuf> {
    let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else { return Vec::new() };
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|mount| mount.starts_with(path))
        .collect()
}

/// The loop devices whose image lies below `path`.
fn loops_under(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/sys/block") else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            fs::read_to_string(entry.path().join("loop/backing_file"))
                .is_ok_and(|image| Path::new(image.trim_end()).starts_with(path))
        })
        .map(|entry| Path::new("/dev").join(entry.file_name()))
        .collect()
}
