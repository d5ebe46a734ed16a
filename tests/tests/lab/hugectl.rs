//! hugectl on a machine of two NUMA nodes, whose kernel cannot reclaim of one node alone.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use bookend_tests::machine::{HugePages, MachineLock};
use bookend_tests::skip::{or_say, say};
use bookend_tests::tools::{Run, hugectl};
use serde_json::Value;

use super::{in_lab, pool_of};

const PAGE: u64 = 2 << 20;

/// Both nodes' pools, put back when dropped.
fn pools(lock: &MachineLock) -> [HugePages<'_>; 2] {
    [0, 1].map(|node| or_say(HugePages::reserve(lock, PAGE, Some(node), 64)).expect("pages"))
}

fn run(arguments: &[&str]) -> Run {
    Run::of(Command::new(hugectl()).args(arguments))
}

fn json(arguments: &[&str]) -> Value {
    run(&[arguments, &["--json"]].concat()).json()
}

/// A field of a node's meminfo, in bytes.
fn memory_of(node: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/sys/devices/system/node/node{node}/meminfo")).unwrap();
    let line = text.lines().find(|line| line.split_whitespace().nth(2) == Some(field)).unwrap();
    line.split_whitespace().nth(3).unwrap().parse::<u64>().unwrap() << 10
}

/// What the prediction promises up to a rung.
fn promised(prediction: &Value, rung: &str) -> u64 {
    let rungs = prediction["rungs"].as_array().unwrap();
    let promise = rungs.iter().find(|promise| promise["rung"] == rung);
    promise.unwrap_or_else(|| panic!("no {rung}: {prediction}"))["pages"].as_u64().unwrap()
}

fn predict(place: &[&str]) -> Value {
    json(&[&["predict", "--size", "2M"], place].concat())
}

fn rung<'a>(report: &'a Value, name: &str) -> &'a Value {
    let rungs = report["rungs"].as_array().unwrap();
    rungs.iter().find(|rung| rung["rung"] == name).unwrap_or_else(|| panic!("no {name}: {report}"))
}

#[test]
fn status_and_predictions_tell_the_nodes_apart() {
    if !in_lab() {
        return;
    }
    let lock = MachineLock::take();
    let _pools = pools(&lock);
    let _more = or_say(HugePages::reserve(&lock, PAGE, Some(1), 90)).expect("pages");
    let status = json(&["status"]);
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 2, "{status}");
    for (number, node) in (0..).zip(nodes) {
        assert_eq!(node["node"], number, "{status}");
        assert_eq!(node["total_bytes"], memory_of(number, "MemTotal:"), "{status}");
    }
    let now = [0, 1].map(|node| pool_of(node, "nr_hugepages"));
    assert_eq!(now, [64, 90]);
    let each = [0, 1].map(|node| predict(&["--node", &node.to_string()]));
    for (number, prediction) in (0..).zip(&each) {
        assert_eq!(prediction["now"], now[number as usize], "{prediction}");
        let most = promised(prediction, "slab");
        let all = memory_of(number, "MemTotal:") / PAGE;
        // Most of a machine that has just been booted is free.
        assert!(most > all / 2 && most <= all, "node {number}: {most} of {all}");
    }
    let both = promised(&predict(&[]), "ask");
    let sum: u64 = each.iter().map(|prediction| promised(prediction, "ask")).sum();
    // Taken one after the other, while the machine goes on.
    assert!(both.abs_diff(sum) <= sum / 20, "{both} and {sum}");
}

#[test]
fn a_reservation_on_one_node_leaves_the_other_alone() {
    if !in_lab() {
        return;
    }
    let lock = MachineLock::take();
    let _pools = pools(&lock);
    let before = (pool_of(1, "nr_hugepages"), memory_of(1, "MemFree:"));
    let report = json(&["reserve", "--size", "2M", "--pages", "300", "--node", "0"]);
    assert_eq!(report["obtained"], 300, "{report}");
    assert_eq!([pool_of(0, "nr_hugepages"), pool_of(1, "nr_hugepages")], [300, before.0]);
    let moved = before.1.abs_diff(memory_of(1, "MemFree:"));
    // The guest goes on meanwhile. Half of 300 pages would be 300 MiB.
    assert!(moved < 128 << 20, "{moved} bytes of free memory came or went on node 1");
    let released = run(&["release", "--size", "2M", "--pages", "236", "--node", "0"]).expect(0);
    assert_eq!(pool_of(0, "nr_hugepages"), 64, "{released:?}");
}

fn reclaims_by_node() -> bool {
    Path::new("/sys/devices/system/node/node0/reclaim").exists()
}

/// More than a node has: every rung is tried on it, and what would touch the other is refused.
#[test]
fn a_node_that_has_not_enough_gets_nothing_from_the_other() {
    if !in_lab() {
        return;
    }
    let lock = MachineLock::take();
    let _pools = pools(&lock);
    let group = Group::new("far");
    let _drive = read_drive_in(&lock, &group, 1);
    let cache = memory_of(1, "FilePages:");
    let all = (memory_of(0, "MemTotal:") / PAGE).to_string();
    let arguments = ["reserve", "--size", "2M", "--pages", &all, "--node", "0"];
    let report = json(&[&arguments[..], &["--max-rung", "slab", "--rollback"]].concat());
    let note = |name| rung(&report, name)["note"].as_str().unwrap_or_default().to_owned();
    let why = note("reclaim");
    // By chance there may be nothing left on the node that could be reclaimed.
    let nothing_left = why.contains("cannot be reclaimed");
    assert!(nothing_left || why.contains("one node alone") != reclaims_by_node(), "{report}");
    assert!(note("slab").contains("the others are to be left alone"), "{report}");
    assert_eq!([pool_of(0, "nr_hugepages"), pool_of(1, "nr_hugepages")], [64, 64], "{report}");
    let left = memory_of(1, "FilePages:");
    assert!(left > cache / 10 * 9, "{left} of {cache} bytes of files are left on node 1");
}

/// A control group of memory; the lab's machine is thrown away, so that its controller stays on.
struct Group(std::path::PathBuf);

impl Group {
    fn new(name: &str) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
        let group = root.join(name);
        fs::create_dir(&group).unwrap();
        Self(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Reads the drive on a processor, so that its pages are that group's, and that node's; they stay
/// while the drive is open.
fn read_drive_in(lock: &MachineLock, group: &Group, processor: u32) -> File {
    let drive = File::open("/dev/nvme0n1").unwrap();
    lock.drop_caches().unwrap();
    let script = r#"echo $$ >"$0/cgroup.procs" && exec taskset -c "$1" cat /dev/nvme0n1"#;
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&group.0).arg(processor.to_string());
    assert!(command.stdout(Stdio::null()).status().unwrap().success(), "{command:?}");
    let used = super::number(group.0.join("memory.current"));
    assert!(used > 300 << 20, "the group has {used} bytes");
    drive
}

#[test]
fn without_reclaim_by_node_control_groups_give_up_what_is_missing() {
    if !in_lab() {
        return;
    }
    let lock = MachineLock::take();
    let _pools = pools(&lock);
    if reclaims_by_node() {
        return say("this kernel reclaims of one node alone (Linux 6.17)");
    }
    let group = Group::new("cache");
    let _drive = read_drive_in(&lock, &group, 0);
    let prediction = predict(&[]);
    let [compact, reclaim] = ["compact", "reclaim"].map(|rung| promised(&prediction, rung));
    assert!(reclaim > compact + 50, "{prediction}");
    let pages = (compact + reclaim) / 2;
    let before = super::number(group.0.join("memory.current"));
    let report = json(&["reserve", "--size", "2M", "--pages", &pages.to_string()]);
    let after = super::number(group.0.join("memory.current"));
    assert_eq!(report["obtained"], pages, "{report}");
    let reclaim = rung(&report, "reclaim");
    assert!(reclaim["gained"].as_u64() > Some(0) && reclaim["note"].is_null(), "{report}");
    assert!(after < before && after > 0, "{before} bytes, then {after}");
}

#[test]
fn where_reclaim_is_refused_slab_is_shrunk() {
    if !in_lab() {
        return;
    }
    let lock = MachineLock::take();
    let _pools = pools(&lock);
    // Names that do not exist are remembered, too, but not by a tmpfs.
    let slab = || memory_of(0, "SReclaimable:") + memory_of(1, "SReclaimable:");
    let before = slab();
    (0..110_000).for_each(|n| assert!(!Path::new(&format!("/mnt/dax/nothing-{n}")).exists()));
    let grown = slab();
    assert!(grown > before + (16 << 20), "{before} bytes of slab, then {grown}");
    let all = (memory_of(0, "MemTotal:") + memory_of(1, "MemTotal:")) / PAGE;
    let arguments = ["reserve", "--size", "2M", "--pages", &all.to_string(), "--keep-cache"];
    let report = json(&[&arguments[..], &["--max-rung", "slab", "--rollback"]].concat());
    assert_eq!(rung(&report, "reclaim")["note"], "the page cache is to be kept", "{report}");
    assert!(rung(&report, "slab")["note"].is_null(), "{report}");
    assert!(slab() < grown - (grown - before) / 2, "{} of {grown} bytes of slab left", slab());
    assert!(report["obtained"].as_u64() < Some(all) && report["verdict"].is_string(), "{report}");
}
