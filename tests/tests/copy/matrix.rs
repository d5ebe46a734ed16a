//! Engines × file systems × sizes and holes.

use std::fs;
use std::ops::Range;
use std::path::Path;

use bookend_tests::data::{allocated, assert_same, random_file, sparse_file};
use bookend_tests::machine::{FsKind, MachineLock, MountedFs};
use bookend_tests::skip::or_say;
use bookend_tests::tools::Run;
use bookend_tools::copy::engine::{Engine, Job, Kind, Progress, Side, Tuning};
use bookend_tools::copy::engines::reflink::Reflink;

use crate::engines::{ENGINES, can, copy};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Around every boundary that an engine might round to.
const SIZES: [u64; 9] = [0, 1, 511, 512, 4095, 4096, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1];

fn every_size(fs: &MountedFs) {
    for size in SIZES {
        let source = fs.path().join(format!("source-{size}"));
        random_file(&source, size, size).unwrap();
        for engine in ENGINES {
            let target = fs.path().join("target");
            if copy(engine, fs.kind(), &source, &target, &[]) {
                fs::remove_file(&target).unwrap();
            }
            // The same again, durable and verified, over a target that is there and longer.
            fs::write(&target, vec![b'x'; 3 * MIB as usize]).unwrap();
            if can(engine, fs.kind()) == Some(true) {
                let options = ["--fsync", "--verify"];
                let verifies = !matches!(engine, "reflink" | "copy-range");
                copy(engine, fs.kind(), &source, &target, &options[..1 + usize::from(verifies)]);
            }
            fs::remove_file(&target).unwrap();
        }
        fs::remove_file(&source).unwrap();
    }
}

fn every_hole(fs: &MountedFs) {
    let len = 64 * MIB + 5;
    let cases = [
        ("start", vec![32 * MIB..33 * MIB, 48 * MIB..len]),
        ("middle", vec![0..8 * MIB + 1, 56 * MIB + 4096..len]),
        ("end", vec![0..8 * MIB, 10 * MIB..11 * MIB]),
        ("everywhere", vec![4 * MIB..4 * MIB + 4096, 20 * MIB..20 * MIB + 1, 40 * MIB..41 * MIB]),
        ("only", vec![]),
    ];
    for (name, data) in cases {
        let source = fs.path().join(format!("hole-{name}"));
        sparse_file(&source, len, &data, 7).unwrap();
        sync(&source);
        for engine in ENGINES {
            let target = fs.path().join("target");
            if copy(engine, fs.kind(), &source, &target, &[]) {
                sync(&target);
                let (have, want) = (allocated(&target), allocated(&source));
                assert!(
                    have <= want + MIB,
                    "{engine} on {:?}, hole at {name}: {have} bytes allocated, {want} in the source",
                    fs.kind()
                );
                fs::remove_file(&target).unwrap();
            }
        }
        fs::remove_file(&source).unwrap();
    }
}

/// `--sparse=never` leaves no hole, `--sparse=always` makes holes of zeros.
fn sparse_modes(fs: &MountedFs) {
    let (holes, zeros) = (fs.path().join("holes"), fs.path().join("zeros"));
    sparse_file(&holes, 16 * MIB, std::slice::from_ref(&(0..MIB)), 3).unwrap();
    fs::write(&zeros, vec![0; 16 * MIB as usize]).unwrap();
    sync(&zeros);
    let target = fs.path().join("target");
    Run::hugecp([Path::new("--sparse=never"), &holes, &target]).expect(0);
    assert_same(&holes, &target);
    sync(&target);
    assert!(allocated(&target) >= 16 * MIB, "{} bytes allocated", allocated(&target));
    Run::hugecp([Path::new("--sparse=always"), &zeros, &target]).expect(0);
    assert_same(&zeros, &target);
    sync(&target);
    assert!(allocated(&target) <= MIB, "{} bytes allocated", allocated(&target));
    for file in [holes, zeros, target] {
        fs::remove_file(file).unwrap();
    }
}

/// Lengths that do not fit 31 or 32 bits: mostly holes, with data around each boundary.
fn lengths_beyond_32_bits(fs: &MountedFs) {
    let around = |at: u64| at - MIB..at + MIB;
    for len in [2 * GIB - 1, 2 * GIB + 1, 5 * GIB + 3] {
        let mut data = vec![0..MIB, around(GIB)];
        if len > 4 * GIB {
            data.extend([around(2 * GIB), around(4 * GIB)]);
        }
        data.push(len - MIB..len);
        let source = fs.path().join(format!("long-{len}"));
        sparse_file(&source, len, &data, len).unwrap();
        // Each by its name; what `auto` takes is one of them.
        for engine in &ENGINES[1..] {
            let target = fs.path().join("target");
            if copy(engine, fs.kind(), &source, &target, &[]) {
                fs::remove_file(&target).unwrap();
            }
        }
        fs::remove_file(&source).unwrap();
    }
}

/// Reflinked files share their extents; so does what `auto` makes there.
fn shares_extents(fs: &MountedFs) {
    if !fs.kind().has_reflink() {
        return;
    }
    let source = fs.path().join("source");
    random_file(&source, 32 * MIB, 5).unwrap();
    sync(&source);
    for engine in ["reflink", "auto"] {
        let target = fs.path().join("target");
        assert!(copy(engine, fs.kind(), &source, &target, &["--fsync"]));
        let map = Run::of(std::process::Command::new("filefrag").arg("-v").arg(&target)).expect(0);
        let extents: Vec<&str> =
            map.stdout.lines().filter(|line| line.contains(':') && line.contains("..")).collect();
        assert!(!extents.is_empty(), "{map:#?}");
        assert!(extents.iter().all(|line| line.contains("shared")), "{engine}: {map:#?}");
        fs::remove_file(&target).unwrap();
    }
    fs::remove_file(&source).unwrap();
}

/// Processes that fill one file share the blocks of their ranges, the end of the file among them, and nothing
/// but those.
fn shares_ranges(fs: &MountedFs) {
    if !fs.kind().has_reflink() {
        return;
    }
    let (source, target) = (fs.path().join("source"), fs.path().join("target"));
    let (len, middle) = (9 * MIB + 123, 4 * MIB);
    random_file(&source, len, 6).unwrap();
    sync(&source);
    let content = fs::read(&source).unwrap();
    let from = fs::File::open(&source).unwrap();
    let to = fs::File::options().read(true).write(true).create_new(true).open(&target).unwrap();
    to.set_len(len).unwrap();
    let share = |data: &[Range<u64>]| {
        let job = Job {
            source: Side { file: &from, path: &source, kind: Kind::Regular, len: Some(len) },
            target: Side { file: &to, path: &target, kind: Kind::Regular, len: Some(len) },
            data,
            part: true,
            tuning: Tuning::FREE,
            progress: &Progress::default(),
            sums: None,
        };
        Reflink.copy(&job).unwrap();
    };
    share(&[middle..len]);
    let half = fs::read(&target).unwrap();
    assert!(half[..middle as usize].iter().all(|&byte| byte == 0), "others fill that");
    assert!(half[middle as usize..] == content[middle as usize..]);
    share(&[0..MIB, MIB..middle]);
    assert!(fs::read(&target).unwrap() == content);
    sync(&target);
    let map = Run::of(std::process::Command::new("filefrag").arg("-v").arg(&target)).expect(0);
    let extents: Vec<&str> = map.stdout.lines().filter(|line| line.contains("..")).collect();
    assert!(!extents.is_empty() && extents.iter().all(|line| line.contains("shared")), "{map:#?}");
    fs::remove_file(&source).unwrap();
    fs::remove_file(&target).unwrap();
}

fn sync(path: &Path) {
    fs::File::open(path).unwrap().sync_all().unwrap();
}

fn all_on(kind: FsKind, block_bytes: u32) {
    let lock = MachineLock::take();
    let made = MountedFs::with_blocks(&lock, kind, 2 * GIB, block_bytes);
    let Some(fs) = or_say(made) else { return };
    every_size(&fs);
    every_hole(&fs);
    sparse_modes(&fs);
    shares_extents(&fs);
    shares_ranges(&fs);
    if block_bytes == 512 {
        lengths_beyond_32_bits(&fs);
    }
}

#[test]
fn ext4() {
    all_on(FsKind::Ext4, 512);
}

#[test]
fn ext4_on_4k_blocks() {
    all_on(FsKind::Ext4, 4096);
}

#[test]
fn xfs() {
    all_on(FsKind::Xfs, 512);
}

#[test]
fn xfs_on_4k_blocks() {
    all_on(FsKind::Xfs, 4096);
}

#[test]
fn btrfs() {
    all_on(FsKind::Btrfs, 512);
}

#[test]
fn tmpfs() {
    all_on(FsKind::Tmpfs, 512);
}

/// Between two file systems: either side alone may be direct, and nothing can be shared.
#[test]
fn from_one_file_system_to_another() {
    let lock = MachineLock::take();
    let kinds = [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs, FsKind::Tmpfs];
    let made = kinds.map(|kind| or_say(MountedFs::new(&lock, kind, 512 * MIB)));
    let mounted: Vec<&MountedFs> = made.iter().flatten().collect();
    for from in &mounted {
        let source = from.path().join("source");
        sparse_file(&source, 24 * MIB + 5, &[0..9 * MIB + 1, 20 * MIB..24 * MIB + 5], 11).unwrap();
        for to in mounted.iter().filter(|to| to.kind() != from.kind()) {
            for engine in ["auto", "direct", "buffered"] {
                let target = to.path().join("target");
                let engine_option = format!("--engine={engine}");
                let run = Run::hugecp([Path::new(&engine_option), &source, &target]);
                assert_eq!(run.status, Some(0), "{:?} to {:?}: {run:#?}", from.kind(), to.kind());
                assert_same(&source, &target);
                fs::remove_file(&target).unwrap();
            }
            let target = to.path().join("target");
            let run = Run::hugecp([Path::new("--engine=reflink"), &source, &target]).expect(1);
            assert!(run.stderr.contains("reflink") && !target.exists(), "{run:#?}");
        }
    }
}
