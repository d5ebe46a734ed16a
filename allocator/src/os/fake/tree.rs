//! Files of `/proc` and `/sys`.

use std::collections::{BTreeMap, BTreeSet};

use crate::os::Errno;
use crate::units::{Node, PageSize};

use super::frames::HugePool;

/// Files by path. A directory is there where a file is below it.
#[derive(Default, Debug)]
pub(super) struct Tree {
    files: BTreeMap<String, Vec<u8>>,
    /// What a test has set or removed: it stands above everything else.
    overrides: BTreeMap<String, Option<Vec<u8>>>,
}

impl Tree {
    /// A machine of two processors and one node, as Linux 6.12 shows it to root outside of any
    /// container.
    pub(super) fn plausible() -> Self {
        const THP: &str = "/sys/kernel/mm/transparent_hugepage";
        let files = [
            (format!("{THP}/enabled"), "always [madvise] never\n"),
            (format!("{THP}/defrag"), "always defer defer+madvise [madvise] never\n"),
            (format!("{THP}/shmem_enabled"), "always within_size advise [never] deny force\n"),
            (format!("{THP}/hpage_pmd_size"), "2097152\n"),
            ("/proc/self/cgroup".into(), "0::/\n"),
            (
                "/proc/self/mountinfo".into(),
                "24 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw\n\
                 25 24 0:23 / /proc rw,nosuid,nodev,noexec - proc proc rw\n\
                 26 24 0:24 / /sys rw,nosuid,nodev,noexec - sysfs sysfs rw\n\
                 27 26 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec - cgroup2 cgroup2 rw\n",
            ),
            (
                "/proc/self/status".into(),
                "Name:\ttest\nUid:\t0\t0\t0\t0\nCapInh:\t0000000000000000\n\
                 CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\n\
                 CapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\n",
            ),
            (
                "/proc/self/limits".into(),
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max open files            1024                 524288               files     \n\
                 Max locked memory         8388608              8388608              bytes     \n",
            ),
            ("/sys/fs/cgroup/cgroup.controllers".into(), "cpu io memory hugetlb pids\n"),
        ];
        let files = files.into_iter().map(|(path, text)| (path, text.as_bytes().to_vec()));
        Self { files: files.collect(), overrides: BTreeMap::new() }
    }

    /// Sets a file's content, or takes it away: the file, or everything below a directory.
    pub(super) fn set(&mut self, path: &str, content: Option<&[u8]>) {
        if content.is_none() {
            self.overrides.retain(|file, _| !is_below(file, path));
        }
        self.overrides.insert(path.to_owned(), content.map(<[u8]>::to_vec));
    }

    /// All files, with those of the pools as they are now.
    fn all(&self, pools: &BTreeMap<PageSize, HugePool>) -> BTreeMap<String, Vec<u8>> {
        let mut all = self.files.clone();
        all.extend(pool_files(pools));
        for (path, content) in &self.overrides {
            match content {
                Some(content) => {
                    all.insert(path.clone(), content.clone());
                }
                None => all.retain(|file, _| !is_below(file, path) && file != path),
            }
        }
        all
    }

    pub(super) fn read(
        &self,
        path: &str,
        pools: &BTreeMap<PageSize, HugePool>,
    ) -> Result<Vec<u8>, Errno> {
        let all = self.all(pools);
        match all.get(path) {
            Some(content) => Ok(content.clone()),
            None if all.keys().any(|file| is_below(file, path)) => Err(Errno::new(libc::EISDIR)),
            None => Err(Errno::NOENT),
        }
    }

    /// Names in a directory.
    pub(super) fn list(
        &self,
        path: &str,
        pools: &BTreeMap<PageSize, HugePool>,
    ) -> Result<BTreeSet<String>, Errno> {
        let all = self.all(pools);
        if all.contains_key(path) {
            return Err(Errno::new(libc::ENOTDIR));
        }
        let below = all.keys().filter(|file| is_below(file, path));
        let names =
            below.filter_map(|file| file[path.trim_end_matches('/').len() + 1..].split('/').next());
        let names: BTreeSet<_> = names.map(str::to_owned).collect();
        if names.is_empty() { Err(Errno::NOENT) } else { Ok(names) }
    }
}

fn is_below(file: &str, directory: &str) -> bool {
    let directory = directory.trim_end_matches('/');
    file.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

/// `/sys/kernel/mm/hugepages` and the nodes' directories, as the pools stand.
fn pool_files(pools: &BTreeMap<PageSize, HugePool>) -> BTreeMap<String, Vec<u8>> {
    const MM: &str = "/sys/kernel/mm/hugepages";
    const NODES: &str = "/sys/devices/system/node";
    let mut nodes: BTreeSet<Node> = pools.values().flat_map(HugePool::nodes).collect();
    nodes.insert(Node::new(0));
    let mut files = BTreeMap::new();
    let mut put = |path: String, number: u64| {
        files.insert(path, format!("{number}\n").into_bytes());
    };
    for (page, pool) in pools {
        let directory = format!("hugepages-{}kB", page.bytes().get() >> 10);
        put(format!("{MM}/{directory}/nr_hugepages"), pool.total());
        put(format!("{MM}/{directory}/free_hugepages"), pool.free_on(None));
        put(format!("{MM}/{directory}/resv_hugepages"), 0);
        put(format!("{MM}/{directory}/surplus_hugepages"), 0);
        put(format!("{MM}/{directory}/nr_overcommit_hugepages"), 0);
        for &node in &nodes {
            let directory = format!("{NODES}/node{node}/hugepages/{directory}");
            let (total, free) = pool.on_node(node);
            put(format!("{directory}/nr_hugepages"), total);
            put(format!("{directory}/free_hugepages"), free);
            put(format!("{directory}/surplus_hugepages"), 0);
        }
    }
    let list: Vec<_> = nodes.iter().map(Node::to_string).collect();
    for file in ["online", "possible", "has_memory"] {
        files.insert(format!("{NODES}/{file}"), format!("{}\n", list.join(",")).into_bytes());
    }
    for node in nodes {
        let text = format!(
            "Node {node} MemTotal:       16777216 kB\nNode {node} MemFree:         8388608 kB\n"
        );
        files.insert(format!("{NODES}/node{node}/meminfo"), text.into_bytes());
    }
    files
}
