//! The NVMe drive, persistent memory, and movable memory.
#![allow(unsafe_code)] // maps files

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::ptr::NonNull;

use bookend_tests::tools::Run;

use super::in_lab;

const DRIVE: &str = "/dev/nvme0n1";
const BLOCK: usize = 512;

fn nvme(arguments: &[&str]) -> Run {
    Run::of(Command::new("nvme").args(arguments)).expect(0)
}

/// NVMe base specification, Identify Controller: bit 8 of ONCS is the Copy command; the namespace
/// says how much of it: MSSRL blocks a range, MCL in all, MSRC + 1 ranges.
#[test]
fn the_drive_says_that_it_copies() {
    if !in_lab() {
        return;
    }
    let controller = nvme(&["id-ctrl", "/dev/nvme0", "--output-format=json"]).json();
    assert_ne!(controller["oncs"].as_u64().unwrap() & 1 << 8, 0, "{controller}");
    let namespace = nvme(&["id-ns", DRIVE, "--output-format=json"]).json();
    for limit in ["mssrl", "mcl", "msrc"] {
        assert!(namespace[limit].as_u64().unwrap() > 0, "{limit}: {namespace}");
    }
}

#[test]
fn the_drive_copies_by_itself() {
    if !in_lab() {
        return;
    }
    let drive = OpenOptions::new().write(true).open(DRIVE).unwrap();
    let data: Vec<u8> = (0..64 * BLOCK).map(|n| (n / 7) as u8).collect();
    drive.write_all_at(&data, 0).unwrap();
    drive.sync_all().unwrap();
    // 64 blocks to block 131,072, which is 64 MiB in: read by nobody so far, so in no cache.
    nvme(&["copy", DRIVE, "--sdlba=131072", "--slbs=0", "--blocks=63"]);
    let mut copy = vec![0; data.len()];
    File::open(DRIVE).unwrap().read_exact_at(&mut copy, 64 << 20).unwrap();
    assert!(copy == data, "what the drive copied differs");
}

/// A shared mapping; unmapped when dropped.
struct Mapped {
    at: NonNull<u8>,
    len: usize,
}

impl Mapped {
    fn new(file: &File, len: usize, flags: libc::c_int) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let at = unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { at: NonNull::new(at.cast()).expect("not at address 0"), len })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: 1. the mapping has `len` bytes of initialised memory; 2. it is ours alone while
        // `self` is borrowed: the other mapping of the file is used at other times.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and no reference outlives `self`.
        unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
    }
}

/// `MAP_SYNC` is refused unless a file is mapped directly: mmap(2).
#[test]
fn a_file_system_maps_persistent_memory_directly() {
    if !in_lab() {
        return;
    }
    let flags = libc::MAP_SHARED_VALIDATE | libc::MAP_SYNC;
    let file_in = |directory: &str| {
        let path = PathBuf::from(directory).join(format!("mapped.{}", std::process::id()));
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        fs::remove_file(path).unwrap();
        file.set_len(4 << 20).unwrap();
        file
    };
    let file = file_in("/mnt/dax");
    let mut mapped = Mapped::new(&file, 4 << 20, flags).unwrap();
    mapped.bytes()[12345] = 99;
    let mut byte = [0];
    file.read_exact_at(&mut byte, 12345).unwrap();
    assert_eq!(byte, [99]);
    let refused = Mapped::new(&file_in("/tmp"), 4 << 20, flags).err().expect("no DAX there");
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
}

#[test]
fn a_character_device_maps_persistent_memory() {
    if !in_lab() {
        return;
    }
    let mut devices = fs::read_dir("/sys/bus/dax/devices").unwrap().map(|entry| entry.unwrap());
    let name = devices.next().expect("a dax device").file_name();
    let path = PathBuf::from("/dev").join(name);
    let open =
        || OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&path);
    let mut mapped = Mapped::new(&open().unwrap(), 2 << 20, libc::MAP_SHARED).unwrap();
    mapped.bytes().fill(0x5a);
    drop(mapped);
    let mut mapped = Mapped::new(&open().unwrap(), 2 << 20, libc::MAP_SHARED).unwrap();
    assert!(mapped.bytes().iter().all(|&byte| byte == 0x5a), "{}", path.display());
}

#[test]
fn movable_memory_is_there_where_it_was_asked_for() {
    if !in_lab() {
        return;
    }
    let wanted = fs::read_to_string("/proc/cmdline").unwrap().contains("movablecore=");
    let zones = fs::read_to_string("/proc/zoneinfo").unwrap();
    let movable: u64 = zones
        .split("Node ")
        .filter(|zone| zone.lines().next().is_some_and(|line| line.ends_with("Movable")))
        .filter_map(|zone| zone.lines().find_map(|line| line.trim().strip_prefix("managed")))
        .map(|pages| pages.trim().parse::<u64>().unwrap())
        .sum();
    assert_eq!(wanted, movable > 0, "{movable} pages");
}
