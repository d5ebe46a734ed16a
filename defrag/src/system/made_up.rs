//! A made-up machine for tests: a tree of the kernel's files in a temporary directory.

use std::fs;

use super::files::Files;

/// The tree; it goes when this is dropped.
pub struct MadeUp {
    root: tempfile::TempDir,
    files: Files,
}

impl MadeUp {
    /// A machine without any file.
    pub fn empty() -> Self {
        let root = tempfile::tempdir().unwrap();
        let files = Files::at(root.path());
        Self { root, files }
    }

    /// Two nodes of 2 GiB with a zone each, and nine 2 MiB pages: five on node 0, four on node 1.
    pub fn two_nodes() -> Self {
        let this = Self::empty();
        this.put("proc/zoneinfo", ZONEINFO);
        this.put("proc/buddyinfo", BUDDYINFO);
        this.put("proc/pagetypeinfo", PAGETYPEINFO);
        this.put("proc/vmstat", "compact_fail 3\ncompact_success 1\ncompact_stall 4\n");
        this.put("proc/meminfo", "MemTotal: 4194304 kB\nMemFree: 1048576 kB\n");
        this.put("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        this.pools("sys/kernel/mm/hugepages", 9);
        for (name, value) in [("resv_hugepages", "1"), ("nr_overcommit_hugepages", "0")] {
            this.put(&format!("sys/kernel/mm/hugepages/hugepages-2048kB/{name}"), value);
        }
        for (node, pages) in [(0, 5), (1, 4)] {
            let directory = format!("sys/devices/system/node/node{node}");
            let text = format!("Node {node} MemTotal: 2097152 kB\nNode {node} MemFree: 99 kB\n");
            this.put(&format!("{directory}/meminfo"), &text);
            this.pools(&format!("{directory}/hugepages"), pages);
        }
        this
    }

    /// Its files.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Makes or replaces a file.
    pub fn put(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.root.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Removes a file or a directory.
    pub fn remove(&self, name: &str) {
        let path = self.root.path().join(name);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }

    fn pools(&self, directory: &str, of_2m: u64) {
        for (kib, pages) in [(1048576, 0), (2048, of_2m)] {
            let pool = format!("{directory}/hugepages-{kib}kB");
            let counts = [("nr_hugepages", pages), ("free_hugepages", pages)];
            for (name, value) in counts.into_iter().chain([("surplus_hugepages", 0)]) {
                self.put(&format!("{pool}/{name}"), value.to_string());
            }
        }
    }
}

const ZONEINFO: &str = "\
Node 0, zone   Normal
  pages free     9000
        low      100
        high     120
        spanned  524288
        present  524288
        managed  520000
  start_pfn:           0
Node 1, zone   Normal
  pages free     20000
        low      100
        high     120
        spanned  524288
        present  524288
        managed  520000
  start_pfn:           524288
";
const BUDDYINFO: &str = "\
Node 0, zone   Normal   9000 0 0 0 0 0 0 0 0 0 0
Node 1, zone   Normal   10272 0 0 0 0 0 0 0 0 5 7
";
const PAGETYPEINFO: &str = "\
Number of blocks type     Unmovable      Movable  Reclaimable
Node 0, zone   Normal            2         1000           22
Node 1, zone   Normal            3         1001           20
";
