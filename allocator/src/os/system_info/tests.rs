//! Machines as files, and the real one.

use super::*;
use crate::os::Linux;
use crate::os::fake::{Call, Fails, FakeOs, FreeOrder};
use crate::units::Node;

const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

fn read(os: &FakeOs) -> SystemInfo {
    SystemInfo::read(os).unwrap()
}

#[test]
fn a_plain_machine_is_read_whole() {
    let os = FakeOs::new()
        .with_huge_pages(PageSize::MIB2, 5, FreeOrder::Ascending)
        .with_huge_pages_on(Node::new(2), PageSize::MIB2, 3, FreeOrder::Ascending)
        .with_file(&format!("{POOL}/resv_hugepages"), "6\n");
    let info = read(&os);
    assert_eq!(info.base_page, PageSize::KIB4);
    let sizes: Vec<_> = info.pools.iter().map(|pool| pool.page).collect();
    assert_eq!(sizes, [PageSize::GIB1, PageSize::MIB2]);
    let pool = info.pool(PageSize::MIB2).unwrap();
    assert_eq!((pool.total, pool.free, pool.reserved, pool.unreserved()), (8, 8, 6, 2));
    let on_nodes: Vec<_> = pool.nodes.iter().map(|on| (on.node.get(), on.total, on.free)).collect();
    assert_eq!(on_nodes, [(0, 5, 5), (2, 3, 3)]);
    assert_eq!(info.nodes.len(), 2);
    assert_eq!(info.nodes[1].total, Bytes::gib(16));
    assert!(info.capabilities.has(Capability::SysAdmin));
    assert_eq!(info.memlock, Some(Bytes::mib(8)));
    assert_eq!(info.cgroup, Some(CgroupVersion::V2));
    assert_eq!(info.limit(PageSize::MIB2), HugetlbLimit::NONE);
    assert_eq!((info.available(PageSize::MIB2), info.available(PageSize::GIB1)), (2, 0));
    assert_eq!(info.available(PageSize::KIB4), 0, "no hugetlb page");
    let transparent = info.transparent.unwrap();
    assert_eq!(transparent.enabled, Enabled::Madvise);
    assert_eq!(transparent.defrag, Some(Defrag::Madvise));
    assert_eq!(transparent.shmem_enabled, Some(ShmemEnabled::Never));
    assert_eq!(info.check_block_size(), Ok(()));
    assert_eq!(os.outstanding(), Default::default(), "what it was read into is given back");
}

#[test]
fn what_a_kernel_lacks_is_no_error() {
    let os = FakeOs::new()
        .without_file("/sys/kernel/mm")
        .without_file("/sys/devices/system/node")
        .without_file("/proc/self/cgroup")
        .with_file("/proc/meminfo", "MemTotal:  2048 kB\nMemFree:   1024 kB\n");
    let info = read(&os);
    assert!(info.transparent.is_none() && info.pools.is_empty() && info.cgroup.is_none());
    assert_eq!(
        info.nodes[..],
        [NodeInfo { node: Node::new(0), total: Bytes::mib(2), free: Bytes::mib(1) }]
    );
    assert_eq!(info.check_block_size(), Ok(()));
}

#[test]
fn the_lowest_limit_and_the_least_room_of_all_ancestors_hold_in_v2() {
    let group = "/sys/fs/cgroup/pods/one";
    let os = FakeOs::new()
        .with_huge_pages(PageSize::MIB2, 100, FreeOrder::Ascending)
        .with_file("/proc/self/cgroup", "0::/pods/one\n")
        .with_file(&format!("{group}/hugetlb.2MB.max"), "41943040\n") // 20 pages
        .with_file(&format!("{group}/hugetlb.2MB.current"), "4194304\n") // 18 left
        .with_file(&format!("{group}/hugetlb.2MB.rsvd.max"), "max\n")
        .with_file("/sys/fs/cgroup/pods/hugetlb.2MB.max", "62914560\n") // 30 pages
        .with_file("/sys/fs/cgroup/pods/hugetlb.2MB.current", "39845888\n"); // 11 left
    let info = read(&os);
    assert_eq!(
        info.limit(PageSize::MIB2),
        HugetlbLimit { limit: Some(Bytes::mib(40)), room: Some(Bytes::mib(22)) }
    );
    assert_eq!(info.available(PageSize::MIB2), 11);
    assert_eq!(info.limit(PageSize::GIB1), HugetlbLimit::NONE);
    let os = os.with_file(&format!("{group}/hugetlb.2MB.rsvd.max"), "2097152\n");
    assert_eq!(read(&os).available(PageSize::MIB2), 1, "reservations have limits of their own");
}

#[test]
fn a_v1_hierarchy_with_hugetlb_is_preferred_and_knows_unlimited_as_a_number() {
    let group = "/sys/fs/cgroup/hugetlb/job";
    let os = FakeOs::new()
        .with_huge_pages(PageSize::GIB1, 4, FreeOrder::Ascending)
        .with_file("/proc/self/cgroup", "7:hugetlb:/job\n0::/other\n")
        .with_file(
            "/proc/self/mountinfo",
            "31 23 0:27 / /sys/fs/cgroup/hugetlb rw - cgroup cgroup rw,hugetlb\n",
        )
        .with_file(&format!("{group}/hugetlb.1GB.limit_in_bytes"), "3221225472\n")
        .with_file(&format!("{group}/hugetlb.1GB.usage_in_bytes"), "1073741824\n")
        .with_file("/sys/fs/cgroup/hugetlb/hugetlb.1GB.limit_in_bytes", "9223372035781033984\n");
    let info = read(&os);
    assert_eq!(info.cgroup, Some(CgroupVersion::V1));
    assert_eq!(info.limit(PageSize::GIB1).limit, Some(Bytes::gib(3)));
    assert_eq!(info.available(PageSize::GIB1), 2);
}

#[test]
fn errors_name_the_file_and_the_value() {
    for (path, content, message) in [
        (
            "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages",
            "many\n",
            "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages: holds \"many\" where a \
             number was expected",
        ),
        (
            "/sys/kernel/mm/transparent_hugepage/enabled",
            "[sometimes] never\n",
            "/sys/kernel/mm/transparent_hugepage/enabled: holds \"sometimes\" where a known word \
             was expected",
        ),
        ("/proc/self/status", "Name:\tx\n", "/proc/self/status: has no line \"CapEff:\""),
        (
            "/sys/devices/system/node/has_memory",
            "0-x\n",
            "/sys/devices/system/node/has_memory: holds \"0-x\" where a range of nodes like 0-3 \
             was expected",
        ),
        (
            "/sys/devices/system/node/has_memory",
            "0-4000000000\n",
            "this machine has more nodes than the 64 that Bookend tells apart",
        ),
    ] {
        let os = FakeOs::new().with_file(path, content);
        assert_eq!(SystemInfo::read(&os).unwrap_err().to_string(), message);
    }
    let os = FakeOs::new().without_file("/proc/self/limits");
    let error = SystemInfo::read(&os).unwrap_err().to_string();
    assert!(error.starts_with("/proc/self/limits: cannot be read: No such file"), "{error}");
}

#[test]
fn another_block_size_is_refused_by_name() {
    let path = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    let info = read(&FakeOs::new().with_file(path, "536870912\n"));
    let error = info.check_block_size().unwrap_err();
    assert!(error.to_string().contains("512 MiB"), "{error}");
}

#[test]
fn a_long_mountinfo_is_read_whole() {
    let filler = "24 1 8:1 / /a rw,relatime - ext4 /dev/sda1 rw\n".repeat(10_000);
    let last = "31 23 0:27 / /cg rw - cgroup2 cgroup2 rw\n";
    let os = FakeOs::new()
        .with_file("/proc/self/mountinfo", &format!("{filler}{last}"))
        .with_file("/cg/hugetlb.2MB.max", "0\n");
    assert_eq!(read(&os).limit(PageSize::MIB2).limit, Some(Bytes::ZERO));
}

#[test]
fn every_call_may_fail() {
    for call in Call::ALL {
        for nth in 1.. {
            let os = FakeOs::new();
            os.fail(call, nth, Errno::new(libc::EIO), Fails::Once);
            let result = SystemInfo::read(&os);
            if os.injected() == 0 {
                assert!(result.is_ok());
                break;
            }
            match call {
                // Nothing can be done about it; see `Array`.
                Call::Unmap => assert!(result.is_ok()),
                _ => {
                    let error = result.unwrap_err();
                    assert!(error.to_string().contains("Input/output error"), "{error}");
                    assert_eq!(os.outstanding(), Default::default(), "{call:?} {nth}");
                }
            }
        }
    }
}

/// What the kernel says twice agrees, and what it says agrees with what it does.
#[test]
fn the_real_machine_is_consistent() {
    let info = SystemInfo::read(&Linux).unwrap();
    println!("{info:?}");
    assert_eq!(info.limits.len(), info.pools.len());
    assert!(!info.nodes.is_empty());
    let memory: u64 = info.nodes.iter().map(|node| node.total.get()).sum();
    assert!(memory > 0 && info.nodes.iter().all(|node| node.free <= node.total));
    for pool in info.pools.iter() {
        assert!(pool.page > info.base_page);
        assert!(info.available(pool.page) <= pool.free);
        // SAFETY: no address is given, and the mapping is removed at once.
        unsafe {
            let at = Linux.map(None, pool.page.bytes(), crate::os::Backing::Huge(pool.page));
            Linux.unmap(at.unwrap(), pool.page.bytes()).unwrap();
        }
    }
    assert_eq!(info.check_block_size(), Ok(()));
}
