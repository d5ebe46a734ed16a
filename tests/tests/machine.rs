//! The guards that change the machine put it back: in the ordinary way, in a panic, and by the next
//! run when their own was killed.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bookend_tests::data::{allocated, assert_same, random_file, sparse_file};
use bookend_tests::machine::{
    Cgroup, FsKind, HugePages, LoopDevice, MachineLock, MountedFs, Setting, scratch,
};
use bookend_tests::skip::{or_say, require_root};

const PAGE: u64 = 2 << 20;
const POOL: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";

fn pool() -> String {
    fs::read_to_string(POOL).unwrap_or_default()
}

#[test]
fn a_pool_has_its_old_size_after_a_panic() {
    let lock = MachineLock::take();
    let before = pool();
    if or_say(HugePages::set(&lock, PAGE, None, 1).map(drop)).is_none() {
        return;
    }
    assert_eq!(pool(), before);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let want = before.trim().parse::<u64>().unwrap() + 3;
        let mut pages = HugePages::reserve(&lock, PAGE, None, want).expect("3 pages of 2 MiB");
        assert_eq!(pages.obtained(), want);
        assert!(pages.free() >= 3);
        pages.resize(want + 1);
        assert_eq!(pages.obtained(), want + 1);
        panic!("on purpose");
    }));
    assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"on purpose"));
    assert_eq!(pool(), before);
}

#[test]
fn file_systems_come_and_go() {
    let lock = MachineLock::take();
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs, FsKind::Tmpfs] {
        let Some(fs) = or_say(MountedFs::new(&lock, kind, 400 << 20)) else { continue };
        let point = fs.path().to_owned();
        let outside = point.parent().unwrap().metadata().unwrap().dev();
        let device = fs.device().map(|device| (device.path().to_owned(), device.image()));
        assert_ne!(point.metadata().unwrap().dev(), outside, "{kind:?} is not mounted");
        fs::write(point.join("file"), "text").unwrap();
        fs.set_read_only(true).unwrap();
        assert!(fs::write(point.join("file"), "other").is_err(), "{kind:?} is not read-only");
        fs.set_read_only(false).unwrap();
        fs::write(point.join("file"), "other").unwrap();
        drop(fs);
        assert!(!point.exists());
        if let Some((device, image)) = device {
            assert!(!image.exists());
            assert_eq!(backing_file(&device), None);
        }
    }
}

#[test]
fn a_loop_device_has_the_blocks_asked_for() {
    let lock = MachineLock::take();
    for bytes in [512, 4096] {
        let Some(device) = or_say(LoopDevice::new(&lock, 16 << 20, bytes)) else { return };
        let name = device.path().file_name().unwrap();
        let queue = Path::new("/sys/block").join(name).join("queue/logical_block_size");
        assert_eq!(fs::read_to_string(queue).unwrap().trim(), bytes.to_string());
    }
}

#[test]
fn cgroups_limit_huge_pages_and_go() {
    let lock = MachineLock::take();
    for version in [2, 1] {
        let made = if version == 2 { Cgroup::v2(&lock) } else { Cgroup::v1(&lock) };
        let Some(group) = or_say(made) else { continue };
        group.limit_hugetlb(PAGE, 4 * PAGE).unwrap();
        let output = group.command("/bin/cat").arg("/proc/self/cgroup").output().unwrap();
        let dir = group.path().to_owned();
        let name = dir.file_name().unwrap().to_str().unwrap();
        let membership = String::from_utf8(output.stdout).unwrap();
        assert!(membership.contains(name), "not in {name}: {membership}");
        drop(group);
        assert!(!dir.exists());
    }
}

#[test]
fn the_next_run_cleans_up_after_a_killed_one() {
    if or_say(require_root("mount and set")).is_none() {
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed_with_everything_open", "--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let Some(line) = stdout.lines().find_map(|line| line.split_once("left: ")) else {
        return bookend_tests::skip::say("the run to be killed found no loop device or setting");
    };
    let left: Vec<&str> = line.1.split(' ').collect();
    let [directory, device, value] = left[..] else { panic!("{stdout}") };
    drop(MachineLock::take());
    assert!(!Path::new(directory).exists(), "{directory} is still there");
    assert_eq!(backing_file(Path::new(device)), None);
    assert_eq!(fs::read_to_string(SETTING).unwrap().trim(), value);
}

const SETTING: &str = "/proc/sys/vm/stat_interval";

/// The run that the test above starts and that kills itself.
#[test]
#[ignore = "kills itself; started by the_next_run_cleans_up_after_a_killed_one"]
fn killed_with_everything_open() {
    let lock = MachineLock::take();
    let fs = MountedFs::new(&lock, FsKind::Ext4, 64 << 20).unwrap();
    let setting = Setting::set(&lock, SETTING, "17").unwrap();
    assert_eq!(setting.read().unwrap(), "17");
    let device = fs.device().unwrap().path().display();
    println!("left: {} {device} {}", scratch().path().display(), setting.before());
    std::process::abort();
}

#[test]
fn files_are_random_sparse_and_compared() {
    let dir = scratch().dir("data");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    random_file(&a, 5_000_001, 1).unwrap();
    random_file(&b, 5_000_001, 1).unwrap();
    assert_same(&a, &b);
    let file = fs::OpenOptions::new().write(true).open(&b).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"difference", 4_999_000).unwrap();
    let found = bookend_tests::data::first_difference(&a, &b).unwrap();
    assert!((4_999_000..4_999_010).contains(&found.unwrap()), "{found:?}");
    file.set_len(4_000_000).unwrap();
    assert_eq!(bookend_tests::data::first_difference(&a, &b).unwrap(), Some(4_000_000));
    sparse_file(&a, 64 << 20, &[0..4096, (32 << 20)..(32 << 20) + 4096], 2).unwrap();
    assert_eq!(a.metadata().unwrap().len(), 64 << 20);
    assert!(allocated(&a) < 1 << 20);
}

fn backing_file(device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?;
    let file = Path::new("/sys/block").join(name).join("loop/backing_file");
    let text = fs::read_to_string(file).ok()?;
    let path = PathBuf::from(text.trim_end());
    path.starts_with(scratch().path().parent()?).then_some(path)
}
