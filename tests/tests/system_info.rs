//! What the machine and the container allow, read while both are changed.

use std::fs;
use std::path::PathBuf;

use bookend::os::system_info::CgroupVersion;
use bookend::os::{Linux, SystemInfo};
use bookend::pool::{Pool, Rung, Use};
use bookend::units::{Blocks, Bytes, PageSize};
use bookend_tests::child::{self, Part};
use bookend_tests::machine::{Cgroup, HugePages, MachineLock};
use bookend_tests::skip::or_say;

const PAGE: u64 = 2 << 20;

fn info() -> SystemInfo {
    SystemInfo::read(&Linux).unwrap()
}

fn pool_of(blocks: u32) -> Pool {
    let builder = Pool::builder().capacity(Blocks::new(blocks).bytes());
    builder.rung(Rung::Huge, Use::Required).build().unwrap()
}

#[test]
fn the_pool_is_seen_as_it_is_used() {
    let lock = MachineLock::take();
    let Some(pages) = or_say(HugePages::reserve(&lock, PAGE, None, 12)) else { return };
    let before = info();
    let seen = before.pool(PageSize::MIB2).unwrap();
    assert_eq!(seen.free, pages.free());
    assert_eq!(seen.nodes.iter().map(|node| node.total).sum::<u64>(), seen.total);
    assert_eq!(seen.nodes.iter().map(|node| node.free).sum::<u64>(), seen.free);
    let held = pool_of(5);
    assert_eq!(info().available(PageSize::MIB2), before.available(PageSize::MIB2) - 5);
    drop(held);
    assert_eq!(info().available(PageSize::MIB2), before.available(PageSize::MIB2));
}

/// A child: says what its group allows, takes 4 pages, says it again.
#[test]
#[ignore = "a part of other tests"]
fn part_looks_at_its_limits() {
    let Some(_) = child::argument() else { return };
    let say = || {
        let info = info();
        let limit = info.limit(PageSize::MIB2).limit.map_or(0, Bytes::get);
        let version = if info.cgroup == Some(CgroupVersion::V1) { 1 } else { 2 };
        child::say(&format!("v{version} {} {}", limit / PAGE, info.available(PageSize::MIB2)));
    };
    say();
    let _held = pool_of(4);
    say();
}

/// A group below one that the harness removes; it has to go first.
struct Inner(PathBuf);

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{}: cannot be removed: {error}", self.0.display());
        }
    }
}

/// A group may have 20 pages and the one below it 30: what holds is the lower, and what is used
/// counts.
fn looks_at_limits_of(lock: &MachineLock, group: &Cgroup<'_>, version: u32) {
    let Some(_pages) = or_say(HugePages::reserve(lock, PAGE, None, 40)) else { return };
    group.limit_hugetlb(PAGE, 20 * PAGE).unwrap();
    let inner = Inner(group.path().join("inner"));
    fs::create_dir(&inner.0).unwrap();
    let file = match version {
        1 => "hugetlb.2MB.limit_in_bytes",
        _ => {
            fs::write(group.path().join("cgroup.subtree_control"), "+hugetlb").unwrap();
            "hugetlb.2MB.max"
        }
    };
    fs::write(inner.0.join(file), (30 * PAGE).to_string()).unwrap();
    let mut command = std::process::Command::new("/bin/sh");
    command.args(["-c", r#"echo $$ > "$0" && exec "$@""#]);
    command.arg(inner.0.join("cgroup.procs")).arg(std::env::current_exe().unwrap());
    child::instruct(&mut command, "part_looks_at_its_limits", "");
    let mut part = Part::spawn(command);
    let said = [part.listen(), part.listen()];
    part.finish();
    assert_eq!(said, [format!("v{version} 20 20"), format!("v{version} 20 16")]);
}

#[test]
fn limits_of_cgroup_v2_are_read() {
    let lock = MachineLock::take();
    let Some(group) = or_say(Cgroup::v2(&lock)) else { return };
    looks_at_limits_of(&lock, &group, 2);
}

#[test]
fn limits_of_cgroup_v1_are_read() {
    let lock = MachineLock::take();
    let Some(group) = or_say(Cgroup::v1(&lock)) else { return };
    looks_at_limits_of(&lock, &group, 1);
}
