//! How much memory may be taken: by the machine, and by the control groups that this process is in.
//!
//! Beyond either the kernel does not refuse; it kills. So it is asked first. Both are estimates:
//! others take and give memory meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use bookend::units::Bytes;

/// A line of `/proc/meminfo`; `None` where there is none.
pub fn meminfo(name: &str) -> Option<Bytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok().map(Bytes::kib)
}

/// Memory that ordinary pages may still come from: what the machine has available, and no more than
/// any control group around this process has left. `None` where nothing is known.
pub fn available() -> Option<Bytes> {
    let machine = meminfo("MemAvailable");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    machine.into_iter().chain(left_in_groups(Path::new("/sys/fs/cgroup"), &groups)).min()
}

/// Names of a hierarchy's files.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// The line of memory.stat with file pages that are given up before a limit is met.
    reclaimable: &'static str,
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};
const V2: Files =
    Files { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file " };

/// What is left in each group that the lines of `/proc/self/cgroup` name, and in those around it.
fn left_in_groups(mount: &Path, groups: &str) -> Vec<Bytes> {
    let mut left = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, files): (PathBuf, &Files) = if controllers.is_empty() {
            (mount.to_owned(), &V2)
        } else if controllers.split(',').any(|controller| controller == "memory") {
            (mount.join("memory"), &V1)
        } else {
            continue;
        };
        // In a container the path may be that of the host; its own group is then the root.
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            left.extend(left_in(&root.join(group), files));
        }
    }
    left
}

/// What is left in one group; `None` where it has no limit.
fn left_in(group: &Path, files: &Files) -> Option<Bytes> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    let limit: u64 = read(files.limit)?.trim().parse().ok()?; // "max" is no number
    let used: u64 = read(files.usage)?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let reclaimable = stat
        .lines()
        .find_map(|line| line.strip_prefix(files.reclaimable)?.trim().parse().ok())
        .unwrap_or(0);
    Some(Bytes::new(limit.saturating_sub(used.saturating_sub(reclaimable))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(path: &Path, files: &Files, limit: &str, used: u64, reclaimable: u64) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join(files.limit), limit).unwrap();
        fs::write(path.join(files.usage), format!("{used}\n")).unwrap();
        let stat = format!("anon 1\n{}{reclaimable}\n", files.reclaimable);
        fs::write(path.join("memory.stat"), stat).unwrap();
    }

    #[test]
    fn the_tightest_group_counts_in_both_hierarchies() {
        let mount = tempfile::tempdir().unwrap();
        let root = mount.path();
        group(&root.join("a"), &V2, "1000\n", 700, 200);
        group(&root.join("a/b"), &V2, "max\n", 700, 200);
        group(&root.join("memory/c"), &V1, "5000\n", 6000, 0);
        let left = |groups| left_in_groups(root, groups);
        assert_eq!(left("0::/a/b\n"), [Bytes::new(500)]);
        assert_eq!(left("4:cpu:/c\n7:memory,x:/c\n"), [Bytes::ZERO]);
        assert_eq!(left("0::/elsewhere\nnonsense\n"), []);
    }

    #[test]
    fn the_machine_says_how_much_it_has() {
        let total = meminfo("MemTotal").unwrap();
        assert!(total > Bytes::ZERO && available().unwrap() <= total);
        assert_eq!(meminfo("MemTot"), None);
    }
}
