//! The direct engine on the file system of the target directory: alignment, tails, holes,
//! interruption, and what happens when a side has no O_DIRECT.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bookend_tools::copy::engine::{
    CopyError, Done, Engine, Job, Kind, Progress, Side, Sparse, Stop, Sums, Tuning,
};
use bookend_tools::copy::engines::direct::DirectEngine;

/// A directory on a file system with O_DIRECT, as far as this machine has one where it builds.
fn directory() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Bytes that differ from block to block and are never zero.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(31) ^ (i >> 9)) as u8 | 1).collect()
}

struct Case {
    source: PathBuf,
    target: PathBuf,
    progress: Progress,
    sums: Sums,
    _directory: tempfile::TempDir,
}

impl Case {
    fn new(content: &[u8]) -> Self {
        let directory = directory();
        let (source, target) = (directory.path().join("source"), directory.path().join("target"));
        File::create(&source).unwrap().write_all(content).unwrap();
        let (progress, sums) = (Progress::default(), Sums::default());
        Self { source, target, progress, sums, _directory: directory }
    }

    fn copy_to(
        &self,
        target: &Path,
        len: u64,
        data: &[Range<u64>],
        tuning: Tuning,
    ) -> Result<Done, Stop> {
        let source = File::open(&self.source).unwrap();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(target)
            .unwrap();
        let job = Job {
            source: Side { file: &source, path: &self.source, kind: Kind::Regular, len: Some(len) },
            target: Side { file: &file, path: target, kind: Kind::Regular, len: Some(0) },
            data,
            part: false,
            tuning,
            progress: &self.progress,
            sums: Some(&self.sums),
        };
        DirectEngine.copy(&job)
    }

    fn copy(&self, data: &[Range<u64>], tuning: Tuning) -> Result<Done, Stop> {
        let len = std::fs::metadata(&self.source).unwrap().len();
        self.copy_to(&self.target, len, data, tuning)
    }

    /// Whether there is O_DIRECT here; prints why not.
    fn is_supported(result: &Result<Done, Stop>) -> bool {
        if let Err(Stop::Unsupported(why)) = result {
            println!("skipped: {why}");
        }
        !matches!(result, Err(Stop::Unsupported(_)))
    }

    fn check(&self, content: &[u8], result: Result<Done, Stop>) -> Option<Done> {
        if !Self::is_supported(&result) {
            return None;
        }
        let done = result.unwrap();
        assert_eq!(done.bytes, content.len() as u64);
        assert_eq!(self.progress.copied(), content.len() as u64, "every byte counts once");
        assert!(std::fs::read(&self.target).unwrap() == content, "the copy differs");
        for piece in self.sums.sorted() {
            let bytes = &content[piece.range.start as usize..piece.range.end as usize];
            let sum = self.sums.summer().sum(piece.range.start, bytes);
            assert_eq!(piece.sum, sum, "sum of {:?}", piece.range);
        }
        Some(done)
    }
}

#[test]
fn files_of_every_awkward_length_arrive_whole() {
    const MIB2: usize = 2 << 20;
    for len in [0, 1, 511, 512, 513, 4095, 4096, 4097, MIB2 - 1, MIB2, MIB2 + 1, 3 * MIB2 + 12345] {
        let content = pattern(len);
        let case = Case::new(&content);
        let result = case.copy(&[0..len as u64], Tuning::FREE);
        let Some(done) = case.check(&content, result) else { return };
        let sums: u64 = case.sums.sorted().iter().map(|s| s.range.end - s.range.start).sum();
        assert_eq!(sums, len as u64, "all of {len} bytes are summed");
        assert!(done.buffers.unwrap().bytes > 0);
    }
}

#[test]
fn small_requests_and_little_memory_give_the_same_copy() {
    let content = pattern((1 << 20) + 777);
    let tight = [
        Tuning { block_size: Some(1), queue_depth: Some(1), ..Tuning::FREE },
        Tuning { block_size: Some(70_000), queue_depth: Some(3), ..Tuning::FREE },
        Tuning { buffer_memory: Some(1), ..Tuning::FREE },
        Tuning { queue_depth: Some(1000), block_size: Some(65536), ..Tuning::FREE },
    ];
    for tuning in tight {
        let case = Case::new(&content);
        let result = case.copy(&[0..content.len() as u64], tuning);
        if case.check(&content, result).is_none() {
            return;
        }
    }
}

#[test]
fn holes_stay_holes_also_where_data_begins_off_the_alignment() {
    let len: usize = 8 << 20;
    let mut content = vec![0; len];
    let data = [100..5000u64, (4 << 20) + 1..(4 << 20) + 2];
    for range in &data {
        content[range.start as usize..range.end as usize].fill(7);
    }
    let case = Case::new(&[]);
    let file = OpenOptions::new().write(true).open(&case.source).unwrap();
    file.set_len(len as u64).unwrap();
    for range in &data {
        file.write_all_at(&vec![7; (range.end - range.start) as usize], range.start).unwrap();
    }
    let result = case.copy(&data, Tuning::FREE);
    if case.check(&content, result).is_some() {
        let blocks = std::fs::metadata(&case.target).unwrap().blocks();
        assert!(blocks * 512 < 1 << 20, "{blocks} sectors for two bytes' worth of data");
    }
}

#[test]
fn zeros_become_holes_when_asked() {
    let mut content = pattern(4 << 20);
    content[1 << 20..3 << 20].fill(0);
    let case = Case::new(&content);
    let len = content.len() as u64;
    let result = case.copy(&[0..len], Tuning { sparse: Sparse::Always, ..Tuning::FREE });
    if case.check(&content, result).is_some() {
        let blocks = std::fs::metadata(&case.target).unwrap().blocks();
        assert!(blocks * 512 <= 2 << 20, "{blocks} sectors for 2 MiB of data");
    }
}

#[test]
fn a_source_that_has_shrunk_or_grown_is_an_error() {
    let content = pattern(3 << 20);
    let case = Case::new(&content);
    let longer = content.len() as u64 + 4096;
    let result = case.copy_to(&case.target, longer, &[0..longer], Tuning::FREE);
    if !Case::is_supported(&result) {
        return;
    }
    let Err(Stop::Failed(CopyError::Shrank { expected, found, .. })) = result else {
        panic!("{result:?}");
    };
    assert_eq!((expected, found), (longer, content.len() as u64));
    let shorter = content.len() as u64 - 4096;
    let result = case.copy_to(&case.target, shorter, &[0..shorter], Tuning::FREE);
    assert!(matches!(result, Err(Stop::Failed(CopyError::Grew { .. }))), "{result:?}");
}

#[test]
fn an_interrupted_copy_waits_for_its_requests_and_says_so() {
    let content = pattern(16 << 20);
    let case = Case::new(&content);
    case.progress.cancel();
    let result = case.copy(&[0..content.len() as u64], Tuning::FREE);
    if Case::is_supported(&result) {
        assert!(matches!(result, Err(Stop::Failed(CopyError::Cancelled))), "{result:?}");
    }
}

#[test]
fn one_side_alone_can_be_direct() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no /dev/shm");
        return;
    };
    let content = pattern((2 << 20) + 99);
    let case = Case::new(&content);
    let target = memory.path().join("target");
    let len = content.len() as u64;
    let result = case.copy_to(&target, len, &[0..len], Tuning::FREE);
    if Case::is_supported(&result) {
        let done = result.unwrap();
        assert!(std::fs::read(&target).unwrap() == content);
        let notes = done.notes.join("; ");
        assert!(notes.contains("target through the page cache"), "{notes}");
    }
}

#[test]
fn without_o_direct_on_either_side_another_engine_is_asked() {
    let Ok(memory) = tempfile::tempdir_in("/dev/shm") else {
        println!("skipped: no /dev/shm");
        return;
    };
    let mut case = Case::new(b"");
    case.source = memory.path().join("source");
    std::fs::write(&case.source, b"words").unwrap();
    let result = case.copy_to(&memory.path().join("target"), 5, &[0..5], Tuning::FREE);
    assert!(matches!(result, Err(Stop::Unsupported(_))), "{result:?}");
}
