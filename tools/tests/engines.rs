//! Every engine passes the same tests; one that a file system does not support says so.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bookend_tools::copy::engine::{
    CopyError, Engine, EngineName, Job, Kind, Progress, Side, Sparse, Stop, Tuning,
};
use bookend_tools::copy::{engines, holes};

/// What an engine made of a copy.
struct Copied {
    content: Vec<u8>,
    sectors: u64,
    progress: u64,
}

/// Copies `source` as if it were `len` bytes long; `None` where the engine does not do this here.
fn copy(
    engine: &dyn Engine,
    source: &Path,
    len: u64,
    tuning: Tuning,
) -> Result<Option<Copied>, CopyError> {
    let progress = Progress::default();
    copy_counted(engine, source, len, tuning, &progress)
}

/// The same, with the caller's `progress`.
fn copy_counted(
    engine: &dyn Engine,
    source: &Path,
    len: u64,
    tuning: Tuning,
    progress: &Progress,
) -> Result<Option<Copied>, CopyError> {
    let target = source.with_file_name(format!("target-{}", engine.name()));
    let from = File::open(source).unwrap();
    let to = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&target);
    let to = to.unwrap();
    let data: Vec<Range<u64>> = holes::data_ranges(&from, len).unwrap();
    let job = Job {
        source: Side { file: &from, path: source, kind: Kind::Regular, len: Some(len) },
        target: Side { file: &to, path: &target, kind: Kind::Regular, len: Some(0) },
        data: &data,
        part: false,
        tuning,
        progress,
        sums: None,
    };
    match engine.copy(&job) {
        Err(Stop::Unsupported(why)) => {
            println!("skipped: {}: {why}", engine.name());
            Ok(None)
        }
        Err(Stop::Failed(error)) => Err(error),
        Ok(done) => {
            assert_eq!(done.bytes, len);
            to.sync_all().unwrap(); // so that delayed blocks are counted
            Ok(Some(Copied {
                content: std::fs::read(&target).unwrap(),
                sectors: to.metadata().unwrap().blocks(),
                progress: progress.copied(),
            }))
        }
    }
}

/// One directory on the file system where this is built, and one in memory.
fn directories() -> Vec<tempfile::TempDir> {
    let mut directories = vec![tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()];
    match tempfile::tempdir_in("/dev/shm") {
        Ok(memory) => directories.push(memory),
        Err(why) => println!("skipped: copies in memory: /dev/shm: {why}"),
    }
    directories
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(131) ^ (i >> 7)) as u8 | 1).collect()
}

#[test]
fn every_engine_copies_files_of_every_awkward_length() {
    directories().iter().for_each(copies_files_of_every_awkward_length);
}

fn copies_files_of_every_awkward_length(directory: &tempfile::TempDir) {
    const MIB2: usize = 2 << 20;
    for len in [0, 1, 511, 512, 4095, 4096, MIB2 - 1, MIB2, MIB2 + 1, 5 * MIB2 + 3] {
        let (source, content) = (directory.path().join("source"), pattern(len));
        std::fs::write(&source, &content).unwrap();
        for engine in engines::all() {
            let Some(copied) = copy(*engine, &source, len as u64, Tuning::FREE).unwrap() else {
                continue;
            };
            assert!(copied.content == content, "{}: {len} bytes differ", engine.name());
            assert_eq!(copied.progress, len as u64, "{}: progress", engine.name());
        }
    }
}

#[test]
fn every_engine_keeps_holes_at_the_start_the_middle_and_the_end() {
    directories().iter().for_each(keeps_holes_at_the_start_the_middle_and_the_end);
}

fn keeps_holes_at_the_start_the_middle_and_the_end(directory: &tempfile::TempDir) {
    const MIB: u64 = 1 << 20;
    let layouts: [&[Range<u64>]; 5] =
        [&[4 * MIB..5 * MIB], &[0..MIB, 6 * MIB..8 * MIB], &[0..MIB], &[], &[0..8 * MIB]];
    for (index, data) in layouts.iter().enumerate() {
        let source = directory.path().join(format!("source-{index}"));
        let file = File::create(&source).unwrap();
        file.set_len(8 * MIB).unwrap();
        let mut content = vec![0; 8 << 20];
        for range in *data {
            let part = &mut content[range.start as usize..range.end as usize];
            part.copy_from_slice(&pattern(part.len()));
            std::os::unix::fs::FileExt::write_all_at(&file, part, range.start).unwrap();
        }
        file.sync_all().unwrap();
        let sectors = file.metadata().unwrap().blocks();
        for engine in engines::all() {
            let name = engine.name();
            let Some(copied) = copy(*engine, &source, 8 * MIB, Tuning::FREE).unwrap() else {
                continue;
            };
            assert!(copied.content == content, "{name}: layout {index} differs");
            assert_eq!(copied.progress, 8 * MIB, "{name}: holes count as they are passed");
            // A few sectors are the file system's own.
            assert!(copied.sectors <= sectors + 64, "{name}: {} > {sectors}", copied.sectors);
        }
    }
}

#[test]
fn every_engine_fills_holes_when_told_to() {
    directories().iter().for_each(fills_holes_when_told_to);
}

fn fills_holes_when_told_to(directory: &tempfile::TempDir) {
    let source = directory.path().join("source");
    File::create(&source).unwrap().set_len(4 << 20).unwrap();
    for engine in engines::all() {
        let tuning = Tuning { sparse: Sparse::Never, ..Tuning::FREE };
        let Some(copied) = copy(*engine, &source, 4 << 20, tuning).unwrap() else { continue };
        assert!(copied.content.iter().all(|&b| b == 0));
        assert!(copied.sectors * 512 >= 4 << 20, "{}: {}", engine.name(), copied.sectors);
    }
}

#[test]
fn every_engine_notices_that_the_source_has_changed_its_length() {
    directories().iter().for_each(notices_that_the_source_has_changed_its_length);
}

fn notices_that_the_source_has_changed_its_length(directory: &tempfile::TempDir) {
    let source = directory.path().join("source");
    let mut file = File::create(&source).unwrap();
    file.write_all(&pattern(3 << 20)).unwrap();
    for engine in engines::all() {
        let name = engine.name();
        match copy(*engine, &source, (3 << 20) + 8192, Tuning::FREE) {
            Ok(None) => continue,
            Err(CopyError::Shrank { found, .. }) => assert_eq!(found, 3 << 20, "{name}"),
            other => panic!("{name}: {:?}", other.map(|_| "copied")),
        }
        match copy(*engine, &source, (3 << 20) - 8192, Tuning::FREE) {
            Err(CopyError::Grew { found, .. }) => assert_eq!(found, 3 << 20, "{name}"),
            other => panic!("{name}: {:?}", other.map(|_| "copied")),
        }
    }
}

#[test]
fn every_engine_that_sees_the_bytes_makes_holes_of_zeros_when_told_to() {
    directories().iter().for_each(makes_holes_of_zeros);
}

fn makes_holes_of_zeros(directory: &tempfile::TempDir) {
    const MIB: usize = 1 << 20;
    let source = directory.path().join("source");
    let mut content = vec![0; 8 * MIB + 5];
    content[3 * MIB..4 * MIB].copy_from_slice(&pattern(MIB));
    content[8 * MIB + 4] = 1;
    std::fs::write(&source, &content).unwrap();
    for engine in engines::all() {
        let name = engine.name();
        let tuning = Tuning { sparse: Sparse::Always, ..Tuning::FREE };
        let Some(copied) = copy(*engine, &source, content.len() as u64, tuning).unwrap() else {
            continue;
        };
        assert!(copied.content == content, "{name}: differs");
        // The data, the last page, and a few sectors of the file system's own.
        assert!(copied.sectors * 512 <= 2 * MIB as u64, "{name}: {} sectors", copied.sectors);
    }
}

#[test]
fn every_engine_that_moves_bytes_stops_when_cancelled() {
    directories().iter().for_each(stops_when_cancelled);
}

fn stops_when_cancelled(directory: &tempfile::TempDir) {
    let source = directory.path().join("source");
    std::fs::write(&source, pattern(16 << 20)).unwrap();
    for engine in engines::all() {
        let progress = Progress::default();
        progress.cancel();
        match copy_counted(*engine, &source, 16 << 20, Tuning::FREE, &progress) {
            Err(CopyError::Cancelled) => assert!(progress.copied() < 16 << 20),
            Ok(None) => {} // it has said why
            // One call shares all blocks at once: there is no moment to stop at.
            Ok(Some(_)) if engine.name() == EngineName::Reflink => {}
            other => panic!("{}: {:?}", engine.name(), other.map(|_| "copied")),
        }
    }
}

#[test]
fn a_source_cut_while_it_is_copied_is_an_error_and_no_signal() {
    for directory in directories() {
        let source = directory.path().join("source");
        for engine in engines::all() {
            std::fs::write(&source, pattern(16 << 20)).unwrap();
            let progress = Progress::default();
            // Slow enough that the cut comes in the middle, whatever the machine is doing.
            let tuning = Tuning {
                bwlimit: Some(64 << 20),
                block_size: Some(1 << 20),
                queue_depth: Some(2),
                ..Tuning::FREE
            };
            let result = std::thread::scope(|scope| {
                scope.spawn(|| {
                    while progress.copied() == 0 && !progress.is_cancelled() {
                        std::thread::yield_now();
                    }
                    let file = OpenOptions::new().write(true).open(&source).unwrap();
                    file.set_len(1).unwrap();
                });
                let result = copy_counted(*engine, &source, 16 << 20, tuning, &progress);
                progress.cancel(); // so that nobody waits for an engine that does not run here
                result
            });
            match result {
                Ok(None) => {}
                Ok(Some(_)) if engine.name() == EngineName::Reflink => {}
                Err(CopyError::Shrank { found, .. }) => assert!(found < 16 << 20),
                other => panic!("{}: {:?}", engine.name(), other.map(|_| "copied")),
            }
        }
    }
}
