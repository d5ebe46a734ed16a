//! Settings of the kernel that a test changes and restores, among them the huge page pools.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{MachineLock, scratch};
use crate::skip::{Skip, require_root};

/// A file of `/proc` or `/sys` with a value of ours in it until this is dropped.
#[derive(Debug)]
pub struct Setting<'a> {
    path: PathBuf,
    before: String,
    _lock: &'a MachineLock,
}

impl<'a> Setting<'a> {
    /// Notes what stands in `path`, then writes `value`. The kernel may make something else of it:
    /// see [`read`](Self::read).
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn set(lock: &'a MachineLock, path: impl Into<PathBuf>, value: &str) -> io::Result<Self> {
        let path = path.into();
        let before = fs::read_to_string(&path)?.trim_end().to_owned();
        let setting = Self { path, before, _lock: lock };
        scratch().note(&setting.line())?;
        setting.write(value)?;
        Ok(setting)
    }

    /// Writes another value.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, value: &str) -> io::Result<()> {
        fs::write(&self.path, value)
    }

    /// What stands in the file now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self) -> io::Result<String> {
        Ok(fs::read_to_string(&self.path)?.trim_end().to_owned())
    }

    /// What stood in it before.
    pub fn before(&self) -> &str {
        &self.before
    }

    fn line(&self) -> String {
        format!("set {} {}", self.path.display(), self.before)
    }
}

impl Drop for Setting<'_> {
    fn drop(&mut self) {
        match fs::write(&self.path, &self.before) {
            Ok(()) => scratch().forget(&self.line()),
            Err(error) => {
                eprintln!("{}: cannot restore {}: {error}", self.path.display(), self.before);
            }
        }
    }
}

/// The number of huge pages of one size, of one node or of the machine, until this is dropped.
#[derive(Debug)]
pub struct HugePages<'a> {
    setting: Setting<'a>,
    dir: PathBuf,
    asked: u64,
}

impl<'a> HugePages<'a> {
    /// Asks for `count` pages of `page_bytes` bytes in all, on the whole machine (`node: None`) or on
    /// one node. Shortfalls are silent in the kernel: [`obtained`](Self::obtained) reads back.
    ///
    /// # Errors
    /// Not root, or no pool of that size on this machine or node.
    pub fn set(
        lock: &'a MachineLock,
        page_bytes: u64,
        node: Option<u32>,
        count: u64,
    ) -> Result<Self, Skip> {
        require_root("size huge page pools")?;
        let dir = pool_dir(page_bytes, node);
        let path = dir.join("nr_hugepages");
        let setting = Setting::set(lock, &path, &count.to_string())
            .map_err(|error| Skip(format!("{}: {error}", path.display())))?;
        let pages = Self { setting, dir, asked: count };
        pages.insist();
        Ok(pages)
    }

    /// As [`set`](Self::set), and all of them obtained.
    ///
    /// # Errors
    /// As there, and when the machine has fewer to give; the pool is restored.
    pub fn reserve(
        lock: &'a MachineLock,
        page_bytes: u64,
        node: Option<u32>,
        count: u64,
    ) -> Result<Self, Skip> {
        let pages = Self::set(lock, page_bytes, node, count)?;
        let obtained = pages.obtained();
        if obtained >= count {
            return Ok(pages);
        }
        Err(Skip(format!("needs {count} huge pages of {page_bytes} bytes, {obtained} obtained")))
    }

    /// As [`reserve`](Self::reserve), all of them on one node, for tests of the order in which the
    /// kernel hands pages out: of several nodes it takes the nearest first.
    ///
    /// # Errors
    /// As there.
    pub fn reserve_together(
        lock: &'a MachineLock,
        page_bytes: u64,
        count: u64,
    ) -> Result<Self, Skip> {
        let has_nodes = Path::new("/sys/devices/system/node/node1").exists();
        Self::reserve(lock, page_bytes, has_nodes.then_some(0), count)
    }

    /// Changes how many are asked for.
    ///
    /// # Panics
    /// When the kernel refuses the write, which it does to nobody who could make the first one.
    pub fn resize(&mut self, count: u64) {
        self.asked = count;
        self.setting.write(&count.to_string()).expect("the pool was writable before");
        self.insist();
    }

    /// Pages in the pool now.
    pub fn obtained(&self) -> u64 {
        read_number(&self.dir.join("nr_hugepages"))
    }

    /// Pages of the pool that nobody uses or has reserved.
    pub fn free(&self) -> u64 {
        let free = read_number(&self.dir.join("free_hugepages"));
        // A node has no file of reservations.
        free.saturating_sub(read_number(&self.dir.join("resv_hugepages")))
    }

    /// Asks again, after compacting, while that still brings something.
    fn insist(&self) {
        let mut have = self.obtained();
        while have < self.asked {
            let _ = fs::write("/proc/sys/vm/compact_memory", "1");
            let _ = self.setting.write(&self.asked.to_string());
            let now = self.obtained();
            if now <= have {
                break;
            }
            have = now;
        }
    }
}

fn pool_dir(page_bytes: u64, node: Option<u32>) -> PathBuf {
    let pool = format!("hugepages-{}kB", page_bytes / 1024);
    match node {
        None => Path::new("/sys/kernel/mm/hugepages").join(pool),
        Some(node) => {
            PathBuf::from(format!("/sys/devices/system/node/node{node}/hugepages/{pool}"))
        }
    }
}

fn read_number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}
