//! Threads beside a device: they run on the processors of its NUMA node, where the lane's memory is too.
//!
//! Only where the machine has several nodes, and only on processors that this thread may run on anyway. Where the
//! system does not say what there is, or has more processors than a mask of the C library holds, nothing changes.

use std::path::Path;

use bookend::units::Node;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

const NODES: &str = "/sys/devices/system/node";

/// Keeps the calling thread on the processors of `node`, if there is one to keep to.
pub fn stay(node: Option<Node>) {
    let this_thread = Pid::from_raw(0);
    let (Some(node), Ok(allowed)) = (node, sched_getaffinity(this_thread)) else { return };
    let text = |file: String| std::fs::read_to_string(Path::new(NODES).join(file));
    let (Ok(online), Ok(of_node)) =
        (text("online".to_owned()), text(format!("node{node}/cpulist")))
    else {
        return;
    };
    let may = |processor| allowed.is_set(processor).unwrap_or(false);
    let mut kept = CpuSet::new();
    let chosen = choose(&online, &of_node, may);
    let all_set = chosen.iter().all(|&processor| kept.set(processor).is_ok());
    if all_set && !chosen.is_empty() {
        // Where the system has changed its mind meanwhile the thread runs where it did.
        let _ = sched_setaffinity(this_thread, &kept);
    }
}

/// The processors of `of_node` that `may` be used, where more than one node is `online`; else none.
fn choose(online: &str, of_node: &str, may: impl Fn(usize) -> bool) -> Vec<usize> {
    if list(online).len() < 2 {
        return Vec::new();
    }
    list(of_node).into_iter().filter(|&processor| may(processor)).collect()
}

/// The numbers of a list of the kernel's, such as `0-3,8`; none where it is no list.
fn list(text: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        (first <= last && last < CpuSet::count()).then_some(first..=last)
    };
    let ranges: Option<Vec<_>> = text.trim().split(',').map(range).collect();
    ranges.unwrap_or_default().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel_are_read() {
        for (text, expected) in [
            ("0\n", vec![0]),
            ("0-3,8\n", vec![0, 1, 2, 3, 8]),
            ("1,3-4", vec![1, 3, 4]),
            ("\n", vec![]),
            ("3-1", vec![]),
            ("0-x", vec![]),
            ("0-99999999999", vec![]),
        ] {
            assert_eq!(list(text), expected, "{text:?}");
        }
    }

    #[test]
    fn threads_stay_near_only_where_there_is_a_choice() {
        let any = |_| true;
        assert_eq!(choose("0-1", "4-5", any), [4, 5]);
        assert_eq!(choose("0", "0-5", any), [0usize; 0], "one node");
        assert_eq!(choose("0-1", "\n", any), [0usize; 0], "a node of memory alone");
        assert_eq!(choose("0-1", "4-7", |processor| processor % 2 == 1), [5, 7]);
        assert_eq!(choose("0,2", "4-7", |processor| processor < 4), [0usize; 0], "not ours to use");
    }

    #[test]
    fn a_thread_without_a_node_runs_where_it_did() {
        let mask = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let before = mask();
        stay(None);
        stay(Some(Node::new(9999)));
        assert!(mask() == before);
    }
}
