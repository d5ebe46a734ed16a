//! The status of made-up machines: two nodes, a kernel without anything, and what a user who is
//! not root gets of it.

use super::super::made_up::MadeUp;
use super::*;

#[test]
fn two_nodes_are_told_apart() {
    let machine = MadeUp::two_nodes();
    let status = status(machine.files(), PageSize::KIB4);
    assert_eq!(status.missing, []);
    assert_eq!(status.nodes.len(), 2);
    let second = &status.nodes[1];
    assert_eq!((second.node, second.total_bytes), (1, Some(2 << 30)));
    assert_eq!(second.zones.len(), 1);
    assert_eq!(second.zones[0].pageblocks[0], ("Unmovable".to_owned(), 3));
    let order9 = &second.zones[0].orders[9];
    assert_eq!((order9.block_bytes, order9.free, order9.suitable), (2 << 20, 5, 5 + 2 * 7));
    let pages: Vec<_> = second.pools.iter().map(|pool| (pool.page_bytes, pool.total)).collect();
    assert_eq!(pages, [(1 << 30, 0), (2 << 20, 4)]);
    assert_eq!(second.pools[1].reserved, None, "nodes do not tell promises");
    assert_eq!(status.pools[1].reserved, Some(1));
    assert_eq!(status.compaction.unwrap().success, Some(0.25));
}

#[test]
fn what_is_missing_is_said_and_the_rest_is_shown() {
    let machine = MadeUp::two_nodes();
    machine.remove("proc/pagetypeinfo");
    machine.remove("sys/kernel/mm/transparent_hugepage");
    machine.put("proc/vmstat", "compact_fail 0\n");
    let status = status(machine.files(), PageSize::KIB4);
    let what: Vec<_> = status.missing.iter().map(|missing| missing.what).collect();
    assert_eq!(what, ["pageblocks", "transparent huge pages"]);
    assert!(status.missing[0].why.contains("pagetypeinfo"), "{:?}", status.missing);
    assert_eq!(status.nodes[0].zones[0].pageblocks, []);
    assert_eq!(status.compaction.unwrap().success, None);
}

#[test]
fn an_empty_tree_has_nothing_and_says_so_of_everything() {
    let root = tempfile::tempdir().unwrap();
    let status = status(&Files::at(root.path()), PageSize::KIB4);
    assert_eq!((status.pools.len(), status.nodes.len()), (0, 1));
    assert_eq!(status.nodes[0].total_bytes, None);
    assert_eq!(status.missing.len(), 5, "{:?}", status.missing);
}

#[test]
fn a_kernel_without_nodes_has_one() {
    let machine = MadeUp::two_nodes();
    machine.remove("sys/devices/system/node");
    let status = status(machine.files(), PageSize::KIB4);
    assert_eq!(status.nodes.len(), 1);
    assert_eq!(status.nodes[0].total_bytes, Some(4 << 30));
    assert_eq!(status.nodes[0].pools[1].total, 9, "the machine's pools are its own");
}
