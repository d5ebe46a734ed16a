//! Copies that do not pass through this machine's processor: by the NVMe drive, and by an NFS server.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bookend_tests::skip::say;
use bookend_tests::tools::{Run, hugecp};
use serde_json::Value;

use super::in_lab;

/// The namespace with blocks of 4 KiB, where a Copy has two ranges of 16 blocks at most.
const DISK: &str = "/dev/nvme0n2";
const BLOCK: u64 = 4096;
const COMMAND_BLOCKS: u64 = 32;
/// First block and number of blocks of two partitions: neither a multiple of a command.
const PARTITIONS: [(u64, u64); 2] = [(257, 2003), (5003, 2500)];

/// The namespace with two partitions; nobody else uses it meanwhile.
struct Disk {
    _alone: MutexGuard<'static, ()>,
    file: File,
}

impl Disk {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let file = OpenOptions::new().read(true).write(true).open(DISK).unwrap();
        file.write_all_at(&vec![0xa5; 8000 * BLOCK as usize], 0).unwrap();
        file.write_all_at(&table(), 0).unwrap();
        file.sync_all().unwrap();
        drop(file);
        Run::of(Command::new("busybox").args(["blockdev", "--rereadpt", DISK])).expect(0);
        for (number, (_, blocks)) in (1..).zip(PARTITIONS) {
            let path = format!("/sys/class/block/nvme0n2p{number}/size");
            wait_for(&path);
            assert_eq!(super::number(path), blocks * BLOCK / 512);
            wait_for(&partition(number));
        }
        // Opened after the table was read: an open device's table stays.
        Self { _alone: alone, file: File::open(DISK).unwrap() }
    }

    /// All bytes of the namespace that were written to, past what this device's cache remembers.
    fn bytes(&self) -> Vec<u8> {
        Run::of(Command::new("busybox").args(["blockdev", "--flushbufs", DISK])).expect(0);
        let mut bytes = vec![0; 8000 * BLOCK as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

/// A master boot record with both partitions.
fn table() -> [u8; 512] {
    let mut table = [0; 512];
    for (number, (start, blocks)) in PARTITIONS.into_iter().enumerate() {
        let entry = &mut table[446 + 16 * number..][..16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&(start as u32).to_le_bytes());
        entry[12..16].copy_from_slice(&(blocks as u32).to_le_bytes());
    }
    table[510..].copy_from_slice(&[0x55, 0xaa]);
    table
}

fn partition(number: u32) -> String {
    format!("{DISK}p{number}")
}

fn wait_for(path: &str) {
    let start = Instant::now();
    while !Path::new(path).exists() {
        assert!(start.elapsed() < Duration::from_secs(10), "no {path}");
        sleep(Duration::from_millis(50));
    }
}

fn data(blocks: u64, seed: u8) -> Vec<u8> {
    (0..blocks * BLOCK).map(|at| (at / 13 + at / BLOCK) as u8 ^ seed).collect()
}

/// Fills the first partition through the page cache, and leaves it there.
fn fill(seed: u8) -> (File, Vec<u8>) {
    let data = data(PARTITIONS[0].1, seed);
    let file = OpenOptions::new().read(true).write(true).open(partition(1)).unwrap();
    file.write_all_at(&data, 0).unwrap();
    (file, data)
}

fn why<'a>(report: &'a Value, engine: &str) -> &'a str {
    let skipped = report["skipped"].as_array().unwrap();
    let found = skipped.iter().find(|skipped| skipped["engine"] == engine);
    found.unwrap_or_else(|| panic!("{engine}: {report}"))["why"].as_str().unwrap()
}

#[test]
fn a_drive_copies_one_partition_to_another_by_itself() {
    if !in_lab() {
        return;
    }
    let disk = Disk::new();
    let before = disk.bytes();
    // Not yet on the drive; and old pages of the target are in memory, and stay in use.
    let (_dirty, data) = fill(1);
    let target = File::open(partition(2)).unwrap();
    let mut old = vec![0; data.len()];
    target.read_exact_at(&mut old, 0).unwrap();
    let told = Run::hugecp(["--explain", &partition(1), &partition(2)]).expect(0).stdout;
    assert!(told.contains("\n  device-copy: "), "{told}");
    let commands = PARTITIONS[0].1.div_ceil(COMMAND_BLOCKS);
    assert!(told.contains(&format!("{commands} commands of Copy of 2 ranges of 16")), "{told}");
    assert!(told.contains("/dev/ng0n2 by io_uring"), "{told}");
    let mut copy = vec![0; data.len()];
    target.read_exact_at(&mut copy, 0).unwrap();
    assert!(copy == data, "who had read the target before sees something else");
    let after = disk.bytes();
    let [source, target] = PARTITIONS.map(|(start, _)| (start * BLOCK) as usize);
    assert!(after[source..][..data.len()] == data && after[target..][..data.len()] == data);
    for around in [0..source, source + data.len()..target, target + data.len()..after.len()] {
        assert!(after[around.clone()] == before[around.clone()], "{around:?} has changed");
    }
}

/// Where the kernel takes no such requests by io_uring, `ioctl(2)` does it.
#[test]
fn without_io_uring_commands_go_by_ioctl() {
    const SWITCH: &str = "/proc/sys/kernel/io_uring_disabled";
    if !in_lab() {
        return;
    }
    if !Path::new(SWITCH).exists() {
        return say("this kernel has no switch to turn io_uring off (Linux 6.6)");
    }
    let _disk = Disk::new();
    let (_dirty, data) = fill(2);
    fs::write(SWITCH, "2").unwrap();
    let run = Run::hugecp(["--explain", &partition(1), &partition(2)]);
    fs::write(SWITCH, "0").unwrap();
    let told = run.expect(0).stdout;
    assert!(told.contains("\n  device-copy: "), "{told}");
    assert!(told.contains("by ioctl, not by io_uring"), "{told}");
    assert!(fs::read(partition(2)).unwrap()[..data.len()] == data);
}

#[test]
fn what_the_drive_does_not_copy_the_others_do_and_say_why() {
    if !in_lab() {
        return;
    }
    let _disk = Disk::new();
    let (_dirty, data) = fill(3);
    // To another namespace, with other blocks.
    let across = Run::hugecp(["--json", &partition(1), "/dev/nvme0n1"]).expect(0).json();
    assert_ne!(across["engine"], "device-copy", "{across}");
    assert!(why(&across, "device-copy").contains("within a namespace only"), "{across}");
    let mut copy = vec![0; data.len()];
    File::open("/dev/nvme0n1").unwrap().read_exact_at(&mut copy, 0).unwrap();
    assert!(copy == data);
    // By somebody who may write the devices and not send commands.
    let paths = [partition(1), partition(2)];
    paths
        .iter()
        .for_each(|path| fs::set_permissions(path, PermissionsExt::from_mode(0o666)).unwrap());
    let arguments = ["--json", &paths[0], &paths[1]];
    let mut command = Command::new(hugecp());
    let poor = Run::of(command.uid(65534).gid(65534).args(arguments)).expect(0).json();
    assert_ne!(poor["engine"], "device-copy", "{poor}");
    assert!(why(&poor, "device-copy").contains("Permission denied"), "{poor}");
    assert!(fs::read(&paths[1]).unwrap()[..data.len()] == data);
    // A part of a disk onto the disk itself.
    let arguments = ["--json", "--engine=device-copy", &partition(1), DISK];
    let overlap = Run::hugecp(arguments).expect(1);
    assert!(overlap.stderr.contains("overlap") || overlap.stderr.contains("in use"), "{overlap:?}");
    // To compare what was written, it must pass through here.
    let verified = Run::hugecp(["--json", "--verify", &paths[0], &paths[1]]).expect(0).json();
    assert!(why(&verified, "device-copy").contains("--verify"), "{verified}");
}

#[test]
fn users_are_told_what_the_drive_can() {
    if !in_lab() {
        return;
    }
    let _disk = Disk::new();
    let told = Run::hugecp(["--capabilities", &partition(1), &partition(2)]).expect(0).stdout;
    let taken = "device-copy: open, and taken: as the drive says: Copy of 2 ranges of 16 blocks";
    assert!(told.contains(taken), "{told}");
    let told = Run::hugecp(["--capabilities", "/dev/nvme0n1", &partition(2)]).expect(0).stdout;
    assert!(told.contains("device-copy: closed: "), "{told}");
    assert!(told.contains("Copy of 128 ranges of 2048 blocks of 512 bytes"), "{told}");
}

#[test]
fn durable_means_that_the_drive_was_told_to_flush() {
    if !in_lab() {
        return;
    }
    // The 16th figure counts flushes: Documentation/block/stat.rst.
    let flushes = || {
        let stat = fs::read_to_string("/sys/block/nvme0n2/stat").unwrap();
        stat.split_whitespace().nth(15).unwrap().parse::<u64>().unwrap()
    };
    let _disk = Disk::new();
    let (file, _) = fill(4);
    file.sync_all().unwrap();
    let cache = fs::read_to_string("/sys/block/nvme0n2/queue/write_cache").unwrap();
    let before = flushes();
    let run = Run::hugecp(["--json", "--fsync", &partition(1), &partition(2)]).expect(0);
    assert_eq!(run.json()["engine"], "device-copy");
    assert!(cache.trim() != "write back" || flushes() > before, "{cache}: {before} flushes");
}

/// An export of a directory, mounted; ended when dropped.
struct Nfs;

impl Nfs {
    const EXPORT: &str = "/mnt/dax/export";
    const MOUNT: &str = "/mnt/nfs";

    fn new() -> Self {
        let script = r#"
            set -e
            while read -r module; do insmod "/lab/modules/$module" 2>/dev/null || true; done </lab/modules/nfs
            mkdir -p "$0" "$1" /var/lib/nfs/sm /var/lib/nfs/v4recovery /var/lib/nfs/rpc_pipefs
            mount -t nfsd nfsd /proc/fs/nfsd
            echo 10 >/proc/fs/nfsd/nfsv4leasetime
            echo 10 >/proc/fs/nfsd/nfsv4gracetime
            : >/etc/exports; : >/var/lib/nfs/etab; : >/var/lib/nfs/rmtab
            rpc.mountd --no-nfs-version 3
            rpc.nfsd --no-nfs-version 3 --nfs-version 4.2 --no-udp 2
            exportfs -o rw,no_root_squash,insecure,fsid=0 "127.0.0.1:$0"
            # Linux 7 does not take it so soon: the period ends by itself, and clients wait.
            echo Y >/proc/fs/nfsd/v4_end_grace || true
            mount.nfs4 127.0.0.1:/ "$1" -o vers=4.2
        "#;
        let run = Run::of(Command::new("sh").args(["-c", script, Self::EXPORT, Self::MOUNT]));
        run.expect(0);
        Self
    }

    /// How often the server was asked for an operation: the first figure of its line.
    fn asked(&self, operation: &str) -> u64 {
        let stats = fs::read_to_string("/proc/self/mountstats").unwrap();
        let line =
            stats.lines().find_map(|line| line.trim().strip_prefix(&format!("{operation}:")));
        line.map_or(0, |line| line.split_whitespace().next().unwrap().parse().unwrap())
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(Self::MOUNT).status();
        let _ = Command::new("rpc.nfsd").arg("0").status();
    }
}

#[test]
fn an_nfs_server_copies_between_its_own_files() {
    if !in_lab() {
        return;
    }
    let nfs = Nfs::new();
    let [source, target] = ["source", "target"].map(|name| format!("{}/{name}", Nfs::MOUNT));
    let data = data(4000, 5);
    fs::write(&source, &data).unwrap();
    File::open(&source).unwrap().sync_all().unwrap();
    let before = ["READ", "WRITE", "COPY"].map(|operation| nfs.asked(operation));
    let run = Run::hugecp(["--json", &source, &target]).expect(0);
    let report = run.json();
    assert_eq!(report["engine"], "copy-range", "{report}");
    let after = ["READ", "WRITE", "COPY"].map(|operation| nfs.asked(operation));
    assert!(after[2] > before[2], "{before:?} {after:?}: the server was not asked to copy");
    assert_eq!(after[..2], before[..2], "the bytes came here");
    assert!(fs::read(&target).unwrap() == data);
    assert!(fs::read(format!("{}/target", Nfs::EXPORT)).unwrap() == data);
    let told = Run::hugecp(["--capabilities", &source, Nfs::MOUNT]).expect(0).stdout;
    assert!(told.contains("copy-range: open"), "{told}");
}
