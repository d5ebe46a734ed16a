//! Block devices as source and as target.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
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

#[test]
fn a_device_is_compared_by_its_contents_and_is_on_no_list() {
    let lock = MachineLock::take();
    let dir = scratch().dir("device");
    let (source, list) = (dir.path().join("source"), dir.path().join("list"));
    for len in [MIB + 77, 20 * MIB + 77] {
        let (Some(one), Some(other)) = (
            or_say(LoopDevice::new(&lock, 32 * MIB, 512)),
            or_say(LoopDevice::new(&lock, 32 * MIB, 4096)),
        ) else {
            return;
        };
        random_file(&source, len, 1).unwrap();
        let listed = [Path::new("--manifest"), &list, &source, one.path()];
        let run = Run::hugecp(listed).expect(1);
        assert!(run.stderr.contains("a device may have more on it"), "{run:#?}");
        assert!(!list.exists());
        Run::hugecp([one.path(), other.path()]).expect(0);
        let check = |one: &Path, other: &Path| Run::hugecp([Path::new("--check"), one, other]);
        check(&source, one.path()).expect(0);
        check(&source, other.path()).expect(0);
        check(one.path(), other.path()).expect(0);
        let run = check(one.path(), &source).expect(1);
        assert!(run.stdout.contains("the source 33554432"), "{run:#?}");
        let all = OpenOptions::new().write(true).open(other.path()).unwrap();
        // What lies after the source is not of the copy.
        all.write_all_at(b"x", len).unwrap();
        all.sync_all().unwrap();
        check(&source, other.path()).expect(0);
        check(one.path(), other.path()).expect(1);
        all.write_all_at(&[!fs::read(&source).unwrap()[len as usize - 1]], len - 1).unwrap();
        all.sync_all().unwrap();
        drop(all);
        let run = check(&source, other.path()).expect(1);
        assert!(run.stdout.contains("has other contents"), "{run:#?}");
        let far = format!("localhost:{}", one.path().display());
        let options = ["--manifest", list.to_str().unwrap()];
        let run = between(dir.path(), &options, source.to_str().unwrap(), &far).expect(1);
        assert!(run.stderr.contains("a device may have more on it"), "{run:#?}");
        assert!(!list.exists());
    }
}

/// `hugecp` to another machine, which is this one; one of the ends is `localhost:PATH`.
fn between(dir: &Path, options: &[&str], source: &str, target: &str) -> Run {
    let rsh = dir.join("rsh");
    fs::write(&rsh, "#!/bin/sh\nshift\nexec \"$@\"\n").unwrap();
    fs::set_permissions(&rsh, fs::Permissions::from_mode(0o755)).unwrap();
    let program = bookend_tests::tools::hugecp();
    let mut words =
        vec!["--rsh", rsh.to_str().unwrap(), "--remote-program", program.to_str().unwrap()];
    words.extend(options);
    words.extend([source, target]);
    Run::hugecp(words)
}

#[test]
fn devices_of_another_machine_are_written_and_read() {
    let lock = MachineLock::take();
    let dir = scratch().dir("device");
    let (source, back) = (dir.path().join("source"), dir.path().join("back"));
    let data = [3 * MIB + 100..5 * MIB + 7, 9 * MIB..20 * MIB + 9000];
    let len = 27 * MIB + 333;
    for (block_bytes, options) in
        [(512, &["--verify"][..]), (4096, &["--plain", "--fsync"]), (512, &["--sparse=always"])]
    {
        let Some(device) = or_say(LoopDevice::new(&lock, 32 * MIB, block_bytes)) else { return };
        let all = OpenOptions::new().write(true).open(device.path()).unwrap();
        all.write_all_at(&vec![0xA5; 32 * MIB as usize], 0).unwrap();
        all.sync_all().unwrap();
        drop(all);
        sparse_file(&source, len, &data, 1).unwrap();
        // By a link, as names of devices are.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(device.path(), &link).unwrap();
        let far = format!("localhost:{}", link.display());
        between(dir.path(), options, source.to_str().unwrap(), &far).expect(0);
        fs::remove_file(&link).unwrap();
        let on_device = read(device.path(), 32 * MIB as usize);
        assert!(on_device[..len as usize] == fs::read(&source).unwrap()[..], "{options:?}");
        assert!(on_device[len as usize..].iter().all(|byte| *byte == 0xA5), "{options:?}");
        let far = format!("localhost:{}", device.path().display());
        between(dir.path(), options, &far, back.to_str().unwrap()).expect(0);
        assert_same(device.path(), &back);
        fs::remove_file(&back).unwrap();
        // A few bytes, and more than there is room for.
        fs::write(&source, "few").unwrap();
        between(dir.path(), options, source.to_str().unwrap(), &far).expect(0);
        assert_eq!(read(device.path(), 4), [b"few", &on_device[3..4]].concat());
        File::create(&source).unwrap().set_len(33 * MIB).unwrap();
        let run = between(dir.path(), options, source.to_str().unwrap(), &far).expect(1);
        assert!(run.stderr.contains("to a device of 33554432"), "{}", run.stderr);
        fs::remove_file(&source).unwrap();
    }
}
