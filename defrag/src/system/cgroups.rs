//! Control groups that can be told to give up memory: cgroup v2's `memory.reclaim` (Linux 5.19), for
//! kernels that cannot reclaim a node.

use bookend::units::Bytes;

use super::files::Files;

/// A group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its `memory.reclaim`, without the root.
    pub file: String,
    /// What it uses.
    pub usage: Bytes,
}

/// The groups directly below the root of the unified hierarchy, which together have all memory that
/// is charged to any; the root itself has no such file. None where there is no such hierarchy.
pub fn reclaimable(files: &Files) -> Vec<Group> {
    let mounts = files.text("proc/self/mountinfo").unwrap_or_default();
    let Some(point) = mounts.lines().find_map(mount_point) else { return Vec::new() };
    let point = point.trim_start_matches('/');
    let entries = std::fs::read_dir(files.path(point)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut groups: Vec<_> = names.filter_map(|name| group(files, point, &name)).collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.usage));
    groups
}

fn group(files: &Files, point: &str, name: &str) -> Option<Group> {
    let file = format!("{point}/{name}/memory.reclaim");
    let usage = files.number(format!("{point}/{name}/memory.current")).ok()?;
    (usage > 0 && files.exists(&file)).then_some(Group { file, usage: Bytes::new(usage) })
}

/// `id parent device root point options [tags…] - type source options`, see proc_pid_mountinfo(5).
fn mount_point(line: &str) -> Option<&str> {
    let (mount, kind) = line.split_once(" - ")?;
    kind.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4)).flatten()
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    #[test]
    fn only_groups_that_use_memory_and_can_be_told_are_found() {
        let machine = MadeUp::empty();
        assert_eq!(reclaimable(machine.files()), []);
        let point = "sys/fs/cgroup/unified";
        let line = format!("30 2 0:2 / /{point} rw - cgroup2 cgroup2 rw\n");
        machine.put("proc/self/mountinfo", format!("29 2 0:1 / /x rw - cgroup c rw\n{line}"));
        for (name, usage, told) in [("a", 5, true), ("b", 0, true), ("c", 9, false), ("d", 7, true)]
        {
            machine.put(&format!("{point}/{name}/memory.current"), usage.to_string());
            if told {
                machine.put(&format!("{point}/{name}/memory.reclaim"), "");
            }
        }
        let names: Vec<_> = reclaimable(machine.files()).into_iter().map(|g| g.file).collect();
        assert_eq!(
            names,
            [format!("{point}/d/memory.reclaim"), format!("{point}/a/memory.reclaim")]
        );
    }
}
