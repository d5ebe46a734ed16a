//! Block devices as source and as target.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bookend_tests::data::{assert_same, random_file, sparse_file};
use bookend_tests::machine::{LoopDevice, MachineLock, scratch};
use bookend_tests::skip::or_say;
use bookend_tests::tools::Run;

const MIB: u64 = 1 << 20;

fn hugecp(engine: &str, source: &Path, target: &Path) -> Run {
    let engine = format!("--engine={engine}");
    Run::hugecp([Path::new("--verify"), Path::new(&engine), source, target])
}

fn read(path: &Path, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    File::open(path).unwrap().read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

#[test]
fn to_and_from_a_block_device() {
    let lock = MachineLock::take();
    let dir = scratch().dir("device");
    let (source, back) = (dir.path().join("source"), dir.path().join("back"));
    // Not a multiple of any block.
    let len = 20 * MIB + 77;
    for block_bytes in [512, 4096] {
        for (seed, engine) in [(1, "auto"), (2, "direct"), (3, "buffered")] {
            let Some(device) = or_say(LoopDevice::new(&lock, 32 * MIB, block_bytes)) else {
                return;
            };
            let all = OpenOptions::new().write(true).open(device.path()).unwrap();
            all.write_all_at(&vec![0xA5; 32 * MIB as usize], 0).unwrap();
            all.sync_all().unwrap();
            random_file(&source, len, seed).unwrap();
            hugecp(engine, &source, device.path()).expect(0);
            let on_device = read(device.path(), 32 * MIB as usize);
            assert!(on_device[..len as usize] == fs::read(&source).unwrap()[..], "{engine}");
            assert!(on_device[len as usize..].iter().all(|byte| *byte == 0xA5), "{engine}");

            hugecp(engine, device.path(), &back).expect(0);
            assert_same(device.path(), &back);
            fs::remove_file(&back).unwrap();
        }
    }
}

#[test]
fn holes_of_a_file_are_zeros_on_a_device() {
    let lock = MachineLock::take();
    let dir = scratch().dir("device");
    let source = dir.path().join("source");
    // A hole at the beginning, one that begins and ends within a page, and one at the end.
    let data = [3 * MIB + 100..5 * MIB + 7, 20 * MIB..20 * MIB + 9000];
    let len = 27 * MIB + 333;
    sparse_file(&source, len, &data, 7).unwrap();
    for engine in ["auto", "direct", "buffered"] {
        let Some(device) = or_say(LoopDevice::new(&lock, 32 * MIB, 512)) else { return };
        let all = OpenOptions::new().write(true).open(device.path()).unwrap();
        all.write_all_at(&vec![0xA5; 32 * MIB as usize], 0).unwrap(); // some of it stays in memory
        hugecp(engine, &source, device.path()).expect(0);
        drop(all);
        let on_device = read(device.path(), 32 * MIB as usize);
        assert!(on_device[..len as usize] == fs::read(&source).unwrap()[..], "{engine}");
        assert!(on_device[len as usize..].iter().all(|byte| *byte == 0xA5), "{engine}");
    }
}

#[test]
fn a_device_that_is_too_small_says_so() {
    let lock = MachineLock::take();
    let dir = scratch().dir("device");
    let source = dir.path().join("source");
    random_file(&source, 8 * MIB + 1, 1).unwrap();
    for engine in ["auto", "direct", "buffered"] {
        let Some(device) = or_say(LoopDevice::new(&lock, 8 * MIB, 512)) else { return };
        let run = hugecp(engine, &source, device.path()).expect(1);
        let name = device.path().display().to_string();
        assert!(run.stderr.contains(&name), "the device is not named: {run:#?}");
    }
}
