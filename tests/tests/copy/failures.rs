//! Copies that cannot be finished: what is said, and that nothing is left.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use bookend_tests::data::random_file;
use bookend_tests::machine::{FsKind, LoopDevice, MachineLock, MountedFs, scratch};
use bookend_tests::skip::or_say;
use bookend_tests::tools::Run;

const MIB: u64 = 1 << 20;
const COPYING: [&str; 4] = ["auto", "copy-range", "direct", "buffered"];

fn hugecp(engine: &str, source: &Path, target: &Path) -> Run {
    Run::hugecp([Path::new(&format!("--engine={engine}")), source, target])
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn no_space_leaves_nothing_behind() {
    let lock = MachineLock::take();
    let dir = scratch().dir("full");
    let source = dir.path().join("source");
    random_file(&source, 420 * MIB, 1).unwrap();
    for (kind, bytes) in
        [(FsKind::Ext4, 64), (FsKind::Xfs, 320), (FsKind::Btrfs, 200), (FsKind::Tmpfs, 64)]
    {
        let Some(fs) = or_say(MountedFs::new(&lock, kind, bytes * MIB)) else { continue };
        let before = names(fs.path());
        for engine in COPYING {
            let target = fs.path().join("target");
            let run = hugecp(engine, &source, &target);
            assert_eq!(run.status, Some(1), "{engine} on {kind:?}: {run:#?}");
            let cannot = engine == "copy-range" && !run.stderr.contains("No space left");
            if cannot {
                assert!(run.stderr.contains(engine), "{kind:?}: {run:#?}");
            } else {
                assert!(run.stderr.contains("No space left"), "{engine} on {kind:?}: {run:#?}");
                assert!(run.stderr.contains("target"), "{engine} on {kind:?}: {run:#?}");
            }
            assert_eq!(names(fs.path()), before, "{engine} on {kind:?}");
        }
    }
}

#[test]
fn a_read_only_file_system_is_named() {
    let lock = MachineLock::take();
    let dir = scratch().dir("source");
    let source = dir.path().join("source");
    random_file(&source, 5000, 1).unwrap();
    let Some(fs) = or_say(MountedFs::new(&lock, FsKind::Ext4, 64 * MIB)) else { return };
    let old = fs.path().join("old");
    fs::write(&old, "old").unwrap();
    fs.set_read_only(true).unwrap();
    for engine in COPYING {
        for target in [fs.path().join("new"), old.clone()] {
            let run = hugecp(engine, &source, &target).expect(1);
            assert!(run.stderr.contains("Read-only file system"), "{engine}: {run:#?}");
            assert!(run.stderr.contains(target.to_str().unwrap()), "{engine}: {run:#?}");
        }
    }
    assert_eq!(fs::read(&old).unwrap(), b"old");
    assert!(!fs.path().join("new").exists());
}

/// A device whose second half cannot be read.
#[test]
fn a_read_error_in_the_middle_names_its_offset() {
    let lock = MachineLock::take();
    let dir = scratch().dir("eio");
    for engine in ["auto", "direct", "buffered"] {
        let Some(device) = or_say(LoopDevice::new(&lock, 64 * MIB, 512)) else { return };
        random_file(&device.image(), 64 * MIB, 1).unwrap();
        let end = 37 * MIB;
        fs::OpenOptions::new().write(true).open(device.image()).unwrap().set_len(end).unwrap();
        let target = dir.path().join("target");
        let run = hugecp(engine, device.path(), &target).expect(1);
        assert!(run.stderr.contains(device.path().to_str().unwrap()), "{engine}: {run:#?}");
        assert!(run.stderr.contains("Input/output error"), "{engine}: {run:#?}");
        let offset = offset_in(&run.stderr);
        // The request that failed began there or a little before: read-ahead and requests are whole.
        assert!((end - 8 * MIB..=end).contains(&offset), "{engine}: byte {offset}: {run:#?}");
        assert_eq!(names(dir.path()), [""; 0], "{engine}");
    }
}

/// A file with a part that cannot be read, on a file system that still lives.
#[test]
fn a_read_error_in_a_file_leaves_nothing_behind() {
    let lock = MachineLock::take();
    let dir = scratch().dir("eio");
    for engine in COPYING {
        let Some(fs) = or_say(MountedFs::new(&lock, FsKind::Ext4, 256 * MIB)) else { return };
        let source = fs.path().join("source");
        random_file(&source, 100 * MIB, 1).unwrap();
        nix::unistd::sync();
        let image = fs.device().unwrap().image();
        let middle = physical_offset(&source, 60 * MIB);
        fs::OpenOptions::new().write(true).open(image).unwrap().set_len(middle).unwrap();
        bookend_tests::data::drop_from_cache(&source).unwrap();
        let target = dir.path().join("target");
        let run = hugecp(engine, &source, &target).expect(1);
        if engine == "copy-range" && !run.stderr.contains("Input/output error") {
            // It cannot copy between file systems here, and said so.
            assert!(run.stderr.contains(engine), "{run:#?}");
        } else {
            assert!(run.stderr.contains("Input/output error"), "{engine}: {run:#?}");
            assert!(run.stderr.contains(source.to_str().unwrap()), "{engine}: {run:#?}");
            assert!(offset_in(&run.stderr) > 0, "{engine}: {run:#?}");
        }
        assert_eq!(names(dir.path()), [""; 0], "{engine}");
    }
}

/// The number after "at byte".
#[track_caller]
fn offset_in(stderr: &str) -> u64 {
    let rest = stderr.split("at byte ").nth(1).unwrap_or_else(|| panic!("no offset: {stderr}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap_or_else(|_| panic!("no offset: {stderr}"))
}

/// Where on its device a byte of a file lies, by `filefrag`.
fn physical_offset(path: &Path, logical: u64) -> u64 {
    let block = path.metadata().unwrap().blksize();
    let map = Run::of(Command::new("filefrag").arg("-v").arg(path)).expect(0).stdout;
    for line in map.lines() {
        // "  0:        0..   16383:      34816..     51199:  16384: …"
        let fields: Vec<&str> = line.split(':').collect();
        let [_, logical_range, physical_range, ..] = fields[..] else { continue };
        let numbers = |range: &str| -> Option<(u64, u64)> {
            let (first, last) = range.split_once("..")?;
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        };
        let (Some((first, last)), Some((start, _))) =
            (numbers(logical_range), numbers(physical_range))
        else {
            continue;
        };
        if (first..=last).contains(&(logical / block)) {
            return (start + logical / block - first) * block;
        }
    }
    panic!("byte {logical} is not in {map}");
}
