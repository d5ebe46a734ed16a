//! The real machine, or one node of it, behind the ladder's [`Machine`].
//!
//! Whatever may take long is a write that can be cut short ([`bounded`]). Work on a node leaves the
//! others alone, or is not done: what the kernel can only do to all nodes at once is unsupported
//! then.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bookend::units::{Bytes, Node, PageSize};

use super::bounded::{self, Limit, Stop, Written};
use super::cgroups;
use super::counters::Counters;
use super::files::{FileError, Files};
use super::hotplug;
use super::machine::{Did, Machine, State};
use super::pools::{HugePools, Place};
use super::spread;
use super::zones::{Zone, zones};

/// This machine, or a node of it.
#[derive(Debug)]
pub struct Kernel {
    files: Files,
    pools: HugePools,
    base: PageSize,
    place: Place,
    limit: Limit,
    started: Instant,
    recycled: Vec<u64>,
}

impl Kernel {
    /// The machine with these files, until the limit.
    pub fn new(files: Files, base: PageSize, place: Place, limit: Limit) -> Self {
        let pools = HugePools::of(&files);
        Self { files, pools, base, place, limit, started: Instant::now(), recycled: Vec::new() }
    }

    fn node(&self) -> Option<Node> {
        match self.place {
            Place::Machine => None,
            Place::Node(node) => Some(node),
        }
    }

    /// The zones of the place.
    fn zones(&self) -> Result<Vec<Zone>, FileError> {
        let mut zones = zones(&self.files)?;
        zones.retain(|zone| self.node().is_none_or(|node| zone.node == node));
        Ok(zones)
    }

    fn write(&self, name: &str, value: &str) -> Result<Did, FileError> {
        match bounded::write(&self.files.path(name), value, &self.limit) {
            Ok(Written::Whole) => Ok(Did::Done),
            Ok(Written::Stopped(stop)) => Ok(Did::Stopped(stop)),
            // What reclaim says when it could give up less than it was asked for, and when the
            // kernel is at it already.
            Err(error)
                if matches!(
                    error.kind(),
                    Some(ErrorKind::WouldBlock | ErrorKind::ResourceBusy)
                ) =>
            {
                Ok(Did::Short)
            }
            Err(error) => Err(error),
        }
    }

    /// The nodes with what each has in files; one and no number where the kernel knows no nodes.
    fn cache_by_node(&self) -> Result<Vec<(Node, Bytes)>, FileError> {
        let nodes = match self.node() {
            Some(node) => vec![node],
            None => self.pools.nodes()?,
        };
        let files = nodes.into_iter().map(|node| {
            let counters = Counters::of_node(&self.files, node)?;
            Ok((node, counters.bytes("FilePages").unwrap_or(Bytes::ZERO)))
        });
        files.collect()
    }

    /// Whether there are nodes that are to be left alone.
    fn is_part(&self) -> Result<bool, FileError> {
        Ok(self.node().is_some() && self.pools.nodes()?.len() > 1)
    }

    fn meminfo(&self) -> Result<Counters, FileError> {
        match self.node() {
            Some(node) => Counters::of_node(&self.files, node),
            None => Counters::meminfo(&self.files),
        }
    }

    /// Pages that a zone could give without any work.
    fn ready_in(&self, zone: &Zone, page: PageSize) -> u64 {
        let order = page.shift() - self.base.shift();
        zone.blocks.suitable(order as usize).min(zone.spare() >> order)
    }

    /// Grows the pool towards `pages` by what the nodes have ready; see [`spread`].
    fn take_ready(&self, page: PageSize, pages: u64) -> Result<(), FileError> {
        let nodes = self.pools.nodes()?;
        let missing = pages.saturating_sub(self.pool(page)?);
        if nodes.len() < 2 || missing == 0 {
            return Ok(());
        }
        let zones = self.zones()?;
        let ready_on = |&node: &Node| {
            let zones = zones.iter().filter(|zone| zone.node == node);
            zones.map(|zone| self.ready_in(zone, page)).sum()
        };
        let ready: Vec<u64> = nodes.iter().map(ready_on).collect();
        for (node, share) in nodes.into_iter().zip(spread::shares(&ready, missing)) {
            if share > 0 && self.limit.reached().is_none() {
                let place = Place::Node(node);
                let pages = self.pools.persistent(page, place)? + share;
                let file = self.pools.file(page, place, "nr_hugepages");
                bounded::write(&file, &pages.to_string(), &self.limit)?;
            }
        }
        Ok(())
    }

    /// Through each node's own file, by what each has; `None` where there is none.
    fn reclaim_nodes(&self, bytes: Bytes) -> Result<Option<Did>, FileError> {
        let nodes = self.cache_by_node()?;
        if nodes.is_empty() {
            return Ok(None);
        }
        let all: u64 = nodes.iter().map(|(_, cache)| cache.get()).sum();
        let mut did = None;
        for (node, cache) in nodes {
            let share = u128::from(bytes.get()) * u128::from(cache.get()) / u128::from(all.max(1));
            let file = format!("sys/devices/system/node/node{node}/reclaim");
            if share == 0 {
                continue;
            }
            match self.write(&file, &share.to_string()) {
                Err(FileError::Absent { .. }) => return Ok(None),
                Ok(Did::Stopped(stop)) => return Ok(Some(Did::Stopped(stop))),
                other => did = Some(worse(did, other?)),
            }
        }
        Ok(Some(did.unwrap_or(Did::Short)))
    }

    /// Through control groups, by what each uses.
    fn reclaim_groups(&self, bytes: Bytes) -> Result<Did, FileError> {
        if self.is_part()? {
            let why = "this kernel cannot reclaim of one node alone (Linux 6.17 can)";
            return Ok(Did::Unsupported(why.to_owned()));
        }
        let groups = cgroups::reclaimable(&self.files);
        let all: u64 = groups.iter().map(|group| group.usage.get()).sum();
        if groups.is_empty() {
            let why = "this kernel has no reclaim by node (Linux 6.17) and no control group with \
                       memory.reclaim (cgroup v2, Linux 5.19)";
            return Ok(Did::Unsupported(why.to_owned()));
        }
        let mut did = None;
        for group in groups {
            let share = u128::from(bytes.get()) * u128::from(group.usage.get());
            let share = share / u128::from(all.max(1));
            match self.write(&group.file, &share.to_string())? {
                Did::Stopped(stop) => return Ok(Did::Stopped(stop)),
                other => did = Some(worse(did, other)),
            }
        }
        Ok(did.unwrap_or(Did::Short))
    }
}

/// Several attempts are done only if all are.
fn worse(before: Option<Did>, now: Did) -> Did {
    match before {
        Some(Did::Short) => Did::Short,
        _ => now,
    }
}

impl Machine for Kernel {
    fn pool(&self, page: PageSize) -> Result<u64, FileError> {
        self.pools.persistent(page, self.place)
    }

    fn resize(&mut self, page: PageSize, pages: u64) -> Result<u64, FileError> {
        if self.place == Place::Machine && page <= PageSize::MIB2 {
            self.take_ready(page, pages)?;
            if self.pool(page)? == pages {
                return Ok(pages);
            }
        }
        let file = self.pools.file(page, self.place, "nr_hugepages");
        bounded::write(&file, &pages.to_string(), &self.limit)?;
        self.pool(page)
    }

    fn ready(&self, page: PageSize) -> Result<Option<u64>, FileError> {
        if page > PageSize::MIB2 {
            return Ok(None);
        }
        Ok(Some(self.zones()?.iter().map(|zone| self.ready_in(zone, page)).sum()))
    }

    fn state(&self) -> Result<State, FileError> {
        let spare: u64 = self.zones()?.iter().map(Zone::spare).sum();
        let meminfo = self.meminfo()?;
        let get = |name| meminfo.bytes(name).unwrap_or(Bytes::ZERO);
        Ok(State {
            spare: Bytes::new(spare << self.base.shift()),
            cache: meminfo.bytes("FilePages").unwrap_or(get("Cached") + get("Buffers")),
            slab: get("SReclaimable"),
            migrated: Counters::vmstat(&self.files)?.get("pgmigrate_success").unwrap_or(0),
        })
    }

    fn compact(&mut self) -> Result<Did, FileError> {
        let file = match self.node() {
            Some(node) => format!("sys/devices/system/node/node{node}/compact"),
            None => "proc/sys/vm/compact_memory".to_owned(),
        };
        match self.write(&file, "1") {
            Err(FileError::Absent { .. }) => {
                Ok(Did::Unsupported("this kernel is built without compaction".to_owned()))
            }
            other => other,
        }
    }

    fn reclaim(&mut self, bytes: Bytes) -> Result<Did, FileError> {
        match self.reclaim_nodes(bytes)? {
            Some(did) => Ok(did),
            None => self.reclaim_groups(bytes),
        }
    }

    fn drop_caches(&mut self, all: bool) -> Result<Did, FileError> {
        if !all && self.is_part()? {
            let why = "slab is shrunk on all nodes or none, and the others are to be left alone";
            return Ok(Did::Unsupported(why.to_owned()));
        }
        nix::unistd::sync(); // dirty pages and inodes are not dropped
        self.write("proc/sys/vm/drop_caches", if all { "3" } else { "2" })
    }

    fn split(&mut self, page: PageSize, into: PageSize, pages: u64) -> Result<Did, FileError> {
        let before = match self.pools.demote_size(page) {
            Err(FileError::Absent { .. }) => {
                let why = format!("this kernel cannot split pages of {page} (Linux 5.16 can)");
                return Ok(Did::Unsupported(why));
            }
            size => size?,
        };
        if before != into {
            self.pools.set_demote_size(page, into)?;
        }
        let file = self.pools.file(page, self.place, "demote");
        let split = bounded::write(&file, &pages.to_string(), &self.limit);
        if before != into {
            self.pools.set_demote_size(page, before)?;
        }
        match split? {
            Written::Whole => Ok(Did::Done),
            Written::Stopped(stop) => Ok(Did::Stopped(stop)),
        }
    }

    fn recycle(&mut self) -> Result<Did, FileError> {
        hotplug::recycle_one(&self.files, self.base, self.node(), &self.limit, &mut self.recycled)
    }

    fn stopped(&self) -> Option<Stop> {
        self.limit.reached()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    fn kernel(machine: &MadeUp, place: Place) -> Kernel {
        Kernel::new(machine.files().clone(), PageSize::KIB4, place, Limit::NONE)
    }

    fn written(machine: &MadeUp, name: &str) -> String {
        machine.files().text(name).unwrap()
    }

    const SECOND: Place = Place::Node(Node::new(1));

    fn node_files(machine: &MadeUp) {
        for (node, cache) in [(0, 3), (1, 1)] {
            let directory = format!("sys/devices/system/node/node{node}");
            let text =
                format!("Node {node} FilePages: {cache} kB\nNode {node} SReclaimable: 8 kB\n");
            machine.put(&format!("{directory}/meminfo"), text);
            machine.put(&format!("{directory}/reclaim"), "");
            machine.put(&format!("{directory}/compact"), "");
        }
    }

    #[test]
    fn work_on_one_node_leaves_the_other_alone() {
        let machine = MadeUp::two_nodes();
        node_files(&machine);
        let mut kernel = kernel(&machine, SECOND);
        assert_eq!(kernel.compact().unwrap(), Did::Done);
        assert_eq!(kernel.reclaim(Bytes::mib(2)).unwrap(), Did::Done);
        assert_eq!(kernel.resize(PageSize::MIB2, 6).unwrap(), 6);
        let node =
            |n, file: &str| written(&machine, &format!("sys/devices/system/node/node{n}/{file}"));
        assert_eq!((node(1, "compact"), node(1, "reclaim")), ("1".into(), (2 << 20).to_string()));
        assert_eq!((node(0, "compact"), node(0, "reclaim")), (String::new(), String::new()));
        assert_eq!(node(0, "hugepages/hugepages-2048kB/nr_hugepages"), "5");
        assert!(matches!(kernel.drop_caches(false).unwrap(), Did::Unsupported(_)));
        let state = kernel.state().unwrap();
        assert_eq!((state.cache, state.slab), (Bytes::kib(1), Bytes::kib(8)));
        assert_eq!(state.spare, Bytes::kib(4 * (20000 - 120)));
        assert_eq!(kernel.ready(PageSize::MIB2).unwrap(), Some(5 + 2 * 7));
        assert_eq!(kernel.ready(PageSize::GIB1).unwrap(), None);
    }

    #[test]
    fn the_whole_machine_grows_by_what_its_nodes_have_ready() {
        let machine = MadeUp::two_nodes();
        let mut kernel = kernel(&machine, Place::Machine);
        // Of 19 pages that are ready all are on the second node.
        // Files of no kernel: the machine's does not follow its nodes', and is written as well.
        kernel.resize(PageSize::MIB2, 9 + 4).unwrap();
        let pool = |directory: &str| {
            written(&machine, &format!("{directory}/hugepages/hugepages-2048kB/nr_hugepages"))
        };
        assert_eq!(pool("sys/devices/system/node/node0"), "5");
        assert_eq!(pool("sys/devices/system/node/node1"), "8");
        assert_eq!(pool("sys/kernel/mm"), "13");
        kernel.resize(PageSize::MIB2, 3).unwrap();
        assert_eq!(pool("sys/devices/system/node/node1"), "8", "shrinking is the kernel's");
        assert_eq!(pool("sys/kernel/mm"), "3");
    }

    #[test]
    fn the_whole_machine_is_reclaimed_by_what_its_nodes_have() {
        let machine = MadeUp::two_nodes();
        node_files(&machine);
        assert_eq!(kernel(&machine, Place::Machine).reclaim(Bytes::new(400)).unwrap(), Did::Done);
        assert_eq!(written(&machine, "sys/devices/system/node/node0/reclaim"), "300");
        assert_eq!(written(&machine, "sys/devices/system/node/node1/reclaim"), "100");
    }

    #[test]
    fn older_kernels_reclaim_by_control_group_or_say_that_they_cannot() {
        let machine = MadeUp::two_nodes();
        let unsupported = |place| match kernel(&machine, place).reclaim(Bytes::new(400)).unwrap() {
            Did::Unsupported(why) => why,
            did => panic!("{did:?}"),
        };
        // Without figures of the nodes there is nothing to share by.
        node_files(&machine);
        machine.remove("sys/devices/system/node/node0/reclaim");
        machine.remove("sys/devices/system/node/node1/reclaim");
        assert!(unsupported(Place::Machine).contains("cgroup v2"));
        assert!(unsupported(SECOND).contains("one node alone"));
        machine.put(
            "proc/self/mountinfo",
            "32 23 0:28 / /sys/fs/cgroup rw shared:1 - cgroup2 none rw\n",
        );
        for (group, usage) in [("a", 3000), ("b", 1000)] {
            machine.put(&format!("sys/fs/cgroup/{group}/memory.current"), usage.to_string());
            machine.put(&format!("sys/fs/cgroup/{group}/memory.reclaim"), "");
        }
        assert_eq!(kernel(&machine, Place::Machine).reclaim(Bytes::new(400)).unwrap(), Did::Done);
        assert_eq!(written(&machine, "sys/fs/cgroup/a/memory.reclaim"), "300");
        assert_eq!(written(&machine, "sys/fs/cgroup/b/memory.reclaim"), "100");
    }

    #[test]
    fn a_kernel_without_nodes_reclaims_by_control_group() {
        let machine = MadeUp::two_nodes();
        machine.remove("sys/devices/system/node");
        let did = kernel(&machine, Place::Machine).reclaim(Bytes::new(400)).unwrap();
        assert!(matches!(did, Did::Unsupported(_)), "{did:?}");
    }

    #[test]
    fn the_size_into_which_pages_split_is_put_back() {
        let machine = MadeUp::two_nodes();
        let mut kernel = kernel(&machine, Place::Machine);
        let split = kernel.split(PageSize::GIB1, PageSize::MIB2, 2).unwrap();
        assert!(matches!(split, Did::Unsupported(_)));
        let pool = "sys/kernel/mm/hugepages/hugepages-1048576kB";
        machine.put(&format!("{pool}/demote_size"), "64kB\n");
        machine.put(&format!("{pool}/demote"), "");
        assert_eq!(kernel.split(PageSize::GIB1, PageSize::MIB2, 2).unwrap(), Did::Done);
        assert_eq!(written(&machine, &format!("{pool}/demote")), "2");
        assert_eq!(written(&machine, &format!("{pool}/demote_size")), "64kB");
    }
}
