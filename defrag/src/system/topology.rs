//! Nodes with their processors, memory and huge pages, and the devices near each: from sysfs, which
//! is where hwloc has them from too.

use bookend::units::PageSize;
use serde::Serialize;

use super::counters::Counters;
use super::files::{FileError, Files};
use super::pools::{HugePools, Place};

/// A node and what is near it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Node {
    /// Its number.
    pub node: u32,
    /// Its processors, as the kernel lists them: `0-3,8`.
    pub processors: String,
    /// Its memory; none where it has processors or devices only.
    pub memory_bytes: u64,
    /// How far each node is, this one included; 10 is its own.
    pub distances: Vec<u32>,
    /// Bytes of a page, pages and free pages of each pool.
    pub pools: Vec<(u64, u64, u64)>,
    /// Devices on it.
    pub devices: Vec<Device>,
}

/// A device.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Device {
    /// `network`, `rdma`, `nvme` or `gpu`.
    pub kind: &'static str,
    /// Its name: `eth0`, `mlx5_0`, `nvme0`, `card0`.
    pub name: String,
    /// Where it is on its bus; empty where it is on none.
    pub address: String,
}

/// The machine.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Topology {
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Devices of which the firmware does not say what they are near.
    pub anywhere: Vec<Device>,
}

/// Classes of sysfs, what is in them, and how the names of devices proper begin.
const CLASSES: [(&str, &str, &str); 4] = [
    ("net", "network", ""),
    ("infiniband", "rdma", ""),
    ("nvme", "nvme", "nvme"),
    ("drm", "gpu", "card"),
];

/// Reads it.
///
/// # Errors
/// [`FileError`] of the nodes; devices that cannot be read are left out.
pub fn topology(files: &Files) -> Result<Topology, FileError> {
    let pools = HugePools::of(files);
    let mut nodes = Vec::new();
    for node in pools.nodes()? {
        nodes.push(of_node(files, &pools, node)?);
    }
    let mut anywhere = Vec::new();
    for (place, device) in devices(files) {
        match place.and_then(|number| nodes.iter_mut().find(|node| node.node == number)) {
            Some(node) => node.devices.push(device),
            None => anywhere.push(device),
        }
    }
    Ok(Topology { nodes, anywhere })
}

fn of_node(
    files: &Files,
    pools: &HugePools,
    node: bookend::units::Node,
) -> Result<Node, FileError> {
    let directory = format!("sys/devices/system/node/node{node}");
    let text = |name: &str| match files.text(format!("{directory}/{name}")) {
        Err(FileError::Absent { .. }) => Ok(String::new()),
        text => text,
    };
    let memory = Counters::of_node(files, node)?.get("MemTotal").unwrap_or(0);
    let distances = text("distance")?;
    Ok(Node {
        node: node.get(),
        processors: text("cpulist")?,
        memory_bytes: memory,
        distances: distances.split_whitespace().filter_map(|n| n.parse().ok()).collect(),
        pools: pools_of(pools, Place::Node(node))?,
        devices: Vec::new(),
    })
}

fn pools_of(pools: &HugePools, place: Place) -> Result<Vec<(u64, u64, u64)>, FileError> {
    let sizes = match pools.sizes() {
        Err(FileError::Absent { .. }) => Vec::new(),
        sizes => sizes?,
    };
    let counts = |page: PageSize| match pools.counts(page, place) {
        Err(FileError::Absent { .. }) => None, // a node without memory
        counts => Some(counts.map(|counts| (page.bytes().get(), counts.total, counts.free))),
    };
    sizes.into_iter().filter_map(counts).collect()
}

/// All devices with the node each is near, where that is known.
fn devices(files: &Files) -> Vec<(Option<u32>, Device)> {
    let mut found = Vec::new();
    for (class, kind, prefix) in CLASSES {
        let directory = format!("sys/class/{class}");
        let entries = std::fs::read_dir(files.path(&directory)).into_iter().flatten().flatten();
        for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            // card0-HDMI-A-1 is a plug of card0.
            if !name.starts_with(prefix) || (kind == "gpu" && name.contains('-')) {
                continue;
            }
            let device = format!("{directory}/{name}/device");
            if !files.exists(&device) {
                continue; // lo, bridges and the like are no hardware
            }
            let node = files.text(format!("{device}/numa_node")).ok();
            let node = node.and_then(|text| text.parse::<u32>().ok()); // -1: nobody knows
            let target = std::fs::canonicalize(files.path(&device)).unwrap_or_default();
            let address = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.push((node, Device { kind, name, address }));
        }
    }
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::super::made_up::MadeUp;
    use super::*;

    #[test]
    fn devices_stand_with_their_node() {
        let machine = MadeUp::two_nodes();
        machine.put("sys/devices/system/node/node1/cpulist", "4-7\n");
        machine.put("sys/devices/system/node/node1/distance", "20 10\n");
        machine.put("sys/class/net/eth0/device/numa_node", "1\n");
        machine.put("sys/class/net/lo/mtu", "65536\n");
        machine.put("sys/class/nvme/nvme0/device/numa_node", "-1\n");
        machine.put("sys/class/drm/card0/device/numa_node", "0\n");
        machine.put("sys/class/drm/card0-DP-1/device/numa_node", "0\n");
        machine.put("sys/class/drm/renderD128/device/numa_node", "0\n");
        let Topology { nodes, anywhere } = topology(machine.files()).unwrap();
        let names = |devices: &[Device]| -> Vec<String> {
            devices.iter().map(|device| format!("{} {}", device.kind, device.name)).collect()
        };
        assert_eq!(names(&nodes[0].devices), ["gpu card0"]);
        assert_eq!(names(&nodes[1].devices), ["network eth0"]);
        assert_eq!(names(&anywhere), ["nvme nvme0"]);
        assert_eq!((nodes[1].processors.as_str(), &nodes[1].distances[..]), ("4-7", &[20, 10][..]));
        assert_eq!(nodes[1].pools, [(1 << 30, 0, 0), (2 << 20, 4, 4)]);
    }
}
