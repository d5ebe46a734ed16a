//! A cgroup that limits huge pages, for child processes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{MachineLock, scratch};
use crate::skip::{Skip, require_root};

/// A fresh cgroup with the hugetlb controller; removed when dropped, once its processes are gone.
#[derive(Debug)]
pub struct Cgroup<'a> {
    dir: PathBuf,
    version: u8,
    // Undone after the group is removed, in this order.
    enabled_in: Option<PathBuf>,
    mounted_at: Option<tempfile::TempDir>,
    _lock: &'a MachineLock,
}

impl<'a> Cgroup<'a> {
    /// A group of the unified hierarchy.
    ///
    /// # Errors
    /// Not root, or hugetlb is not a controller of the unified hierarchy here.
    pub fn v2(lock: &'a MachineLock) -> Result<Self, Skip> {
        require_root("make cgroups")?;
        let root = mounted("cgroup2", None)
            .ok_or_else(|| Skip("no cgroup2 file system is mounted".to_owned()))?;
        if !words(&root.join("cgroup.controllers")).iter().any(|word| word == "hugetlb") {
            return Err(Skip(format!("{}: no hugetlb controller", root.display())));
        }
        let control = root.join("cgroup.subtree_control");
        let enabled_in = if words(&control).iter().any(|word| word == "hugetlb") {
            None
        } else {
            note(&format!("set {} -hugetlb", control.display()))?;
            fs::write(&control, "+hugetlb").map_err(|error| cannot(&control, &error))?;
            Some(control)
        };
        let mut group =
            Self { dir: PathBuf::new(), version: 2, enabled_in, mounted_at: None, _lock: lock };
        group.make_in(&root)?;
        Ok(group)
    }

    /// A group of a hierarchy of its own, mounted for it where there is none.
    ///
    /// # Errors
    /// Not root, or the controller is in use by the unified hierarchy.
    pub fn v1(lock: &'a MachineLock) -> Result<Self, Skip> {
        require_root("make cgroups")?;
        let (root, mounted_at) = match mounted("cgroup", Some("hugetlb")) {
            Some(root) => (root, None),
            None => {
                let point = scratch().dir("cgroup");
                mount_v1(point.path()).map_err(|errno| {
                    Skip(format!("cannot mount a cgroup v1 for hugetlb: {errno}"))
                })?;
                (point.path().to_owned(), Some(point))
            }
        };
        let mut group =
            Self { dir: PathBuf::new(), version: 1, enabled_in: None, mounted_at, _lock: lock };
        group.make_in(&root)?;
        Ok(group)
    }

    fn make_in(&mut self, root: &Path) -> Result<(), Skip> {
        let dir = root.join(scratch().unique_name());
        note(&format!("rmdir {}", dir.display()))?;
        fs::create_dir(&dir).map_err(|error| cannot(&dir, &error))?;
        self.dir = dir;
        Ok(())
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Limits the group to `bytes` of huge pages of `page_bytes` bytes.
    ///
    /// # Errors
    /// The kernel knows no such size.
    pub fn limit_hugetlb(&self, page_bytes: u64, bytes: u64) -> io::Result<()> {
        let size = match page_bytes >> 20 {
            mib if mib >= 1024 => format!("{}GB", mib >> 10),
            mib => format!("{mib}MB"),
        };
        let name = if self.version == 2 { "max" } else { "limit_in_bytes" };
        fs::write(self.dir.join(format!("hugetlb.{size}.{name}")), bytes.to_string())
    }

    /// A command that runs `program` as a member of the group; arguments are added as usual.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", r#"echo $$ > "$0" && exec "$@""#])
            .arg(self.dir.join("cgroup.procs"))
            .arg(program.as_ref());
        command
    }
}

impl Drop for Cgroup<'_> {
    fn drop(&mut self) {
        let line = format!("rmdir {}", self.dir.display());
        // A member that was just killed is counted until it is reaped.
        let _ = patiently(|| remove(&self.dir));
        scratch().forget(&line);
        if let Some(control) = self.enabled_in.take() {
            let _ = fs::write(&control, "-hugetlb");
            scratch().forget(&format!("set {} -hugetlb", control.display()));
        }
        if let Some(point) = &self.mounted_at
            && patiently(|| unmount_v1(point.path())).is_err()
        {
            eprintln!("hugetlb has not gone back to the unified hierarchy");
        }
    }
}

fn remove(dir: &Path) -> Result<(), Errno> {
    fs::remove_dir(dir).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

/// Mounts a hierarchy for hugetlb alone; it leaves the unified one for as long.
fn mount_v1(point: &Path) -> Result<(), Errno> {
    let (kind, options) = (Some("cgroup"), Some("hugetlb"));
    patiently(|| mount(Some("cgroup"), point, kind, MsFlags::empty(), options))
}

/// Unmounts it. A hierarchy whose groups the kernel is still taking down stays when it is unmounted,
/// and keeps its controller until it is mounted and unmounted once more: EBUSY then.
fn unmount_v1(point: &Path) -> Result<(), Errno> {
    umount2(point, MntFlags::empty())?;
    for _ in 0..10 {
        if matches!(controller_hierarchy(), Some(0) | None) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    mount_v1(point)?;
    Err(Errno::EBUSY)
}

/// Which hierarchy hugetlb belongs to: 0 is the unified one.
fn controller_hierarchy() -> Option<u32> {
    let text = fs::read_to_string("/proc/cgroups").ok()?;
    let line = text.lines().find(|line| line.starts_with("hugetlb\t"))?;
    line.split('\t').nth(1)?.parse().ok()
}

/// Tries again for some seconds while the answer is EBUSY: the kernel takes groups and hierarchies
/// down in the background.
fn patiently(mut attempt: impl FnMut() -> Result<(), Errno>) -> Result<(), Errno> {
    for _ in 0..50 {
        match attempt() {
            Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(100)),
            outcome => return outcome,
        }
    }
    attempt()
}

fn note(line: &str) -> Result<(), Skip> {
    scratch().note(line).map_err(|error| cannot(scratch().path(), &error))
}

fn cannot(path: &Path, error: &io::Error) -> Skip {
    Skip(format!("{}: {error}", path.display()))
}

fn words(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

/// Where a file system of `kind`, with `option` among its own options, is mounted.
fn mounted(kind: &str, option: Option<&str>) -> Option<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let same_kind = source.next() == Some(kind);
        let options = source.nth(1).unwrap_or_default();
        let has = option.is_none_or(|wanted| options.split(',').any(|word| word == wanted));
        (same_kind && has).then(|| PathBuf::from(mount.split(' ').nth(4).unwrap_or_default()))
    })
}
