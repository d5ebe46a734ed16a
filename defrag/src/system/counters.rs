//! Files of names and numbers: `/proc/vmstat`, `/proc/meminfo` and a node's own.
//!
//! Which names a file has depends on the kernel; a name that is missing is `None` and never zero.

use std::collections::BTreeMap;

use bookend::units::{Bytes, Node};

use super::files::{FileError, Files};

/// Names and their numbers. In `meminfo` numbers with `kB` behind them are in bytes here.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    values: BTreeMap<String, u64>,
}

impl Counters {
    /// The kernel's counters since boot, `/proc/vmstat`.
    ///
    /// # Errors
    /// [`FileError`] of the file.
    pub fn vmstat(files: &Files) -> Result<Self, FileError> {
        files.text("proc/vmstat").map(|text| Self::parse(&text))
    }

    /// The whole machine's memory, `/proc/meminfo`.
    ///
    /// # Errors
    /// [`FileError`] of the file.
    pub fn meminfo(files: &Files) -> Result<Self, FileError> {
        files.text("proc/meminfo").map(|text| Self::parse(&text))
    }

    /// A node's memory.
    ///
    /// # Errors
    /// [`FileError`] of the file.
    pub fn of_node(files: &Files, node: Node) -> Result<Self, FileError> {
        let text = files.text(format!("sys/devices/system/node/node{node}/meminfo"))?;
        let own = format!("Node {node} ");
        let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(&own)).collect();
        Ok(Self::parse(&lines.join("\n")))
    }

    /// Lines of a name, a colon or a blank, and a number; others are passed over.
    pub fn parse(text: &str) -> Self {
        let values = text.lines().filter_map(|line| {
            let (name, value) = line.split_once([':', ' ', '\t'])?;
            let value = value.trim();
            let number = match value.strip_suffix("kB") {
                Some(kib) => kib.trim().parse::<u64>().ok()?.checked_mul(1024)?,
                None => value.parse().ok()?,
            };
            Some((name.to_owned(), number))
        });
        Self { values: values.collect() }
    }

    /// A number by its name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.values.get(name).copied()
    }

    /// A length of memory by its name.
    pub fn bytes(&self, name: &str) -> Option<Bytes> {
        self.get(name).map(Bytes::new)
    }

    /// How much a counter has grown since `earlier`; 0 where either lacks it.
    pub fn since(&self, earlier: &Self, name: &str) -> u64 {
        match (self.get(name), earlier.get(name)) {
            (Some(now), Some(before)) => now.saturating_sub(before),
            _ => 0,
        }
    }

    /// `success / (success + fail)`; `None` where neither has happened or is counted.
    pub fn success_rate(&self, success: &str, fail: &str) -> Option<f64> {
        let (success, fail) = (self.get(success)?, self.get(fail)?);
        let tries = success + fail;
        (tries > 0).then(|| success as f64 / tries as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_lines_are_understood() {
        let text = "compact_fail 3\ncompact_success 1\nMemTotal:    2 kB\nHugePages_Total:   7\n\
                    VmFlags: rd ex\nnonsense\n";
        let counters = Counters::parse(text);
        assert_eq!(counters.get("compact_fail"), Some(3));
        assert_eq!(counters.bytes("MemTotal"), Some(Bytes::kib(2)));
        assert_eq!(counters.get("HugePages_Total"), Some(7));
        assert_eq!(counters.get("VmFlags"), None);
        assert_eq!(counters.success_rate("compact_success", "compact_fail"), Some(0.25));
        assert_eq!(counters.success_rate("compact_success", "absent"), None);
    }

    #[test]
    fn growth_is_told_by_name() {
        let (before, after) = (Counters::parse("a 5\nb 9"), Counters::parse("a 7\nb 3\nc 1"));
        assert_eq!(after.since(&before, "a"), 2);
        assert_eq!(after.since(&before, "b"), 0, "a counter that wrapped or was reset");
        assert_eq!(after.since(&before, "c"), 0);
    }

    #[test]
    fn a_node_has_its_own_lines() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("sys/devices/system/node/node1");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("meminfo"), "Node 1 MemFree:        4 kB\n").unwrap();
        let files = Files::at(root.path());
        let counters = Counters::of_node(&files, Node::new(1)).unwrap();
        assert_eq!(counters.bytes("MemFree"), Some(Bytes::kib(4)));
        assert!(Counters::of_node(&files, Node::new(0)).is_err());
    }
}
