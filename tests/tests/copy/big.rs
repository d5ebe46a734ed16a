//! Gigabytes of random bytes on the machine's own disk, compared byte for byte; and what a direct
//! copy leaves in the page cache.

use std::fs;
use std::path::Path;

use bookend_tests::data::{assert_same, cached, drop_from_cache, random_file};
use bookend_tests::machine::{MachineLock, scratch};
use bookend_tests::skip::{or_say, require_space, say};
use bookend_tests::tools::Run;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn copy(engine: &str, source: &Path, target: &Path) -> bool {
    let option = format!("--engine={engine}");
    let run = Run::hugecp([Path::new(&option), source, target]);
    if engine == "reflink" && run.status == Some(1) {
        // The disk's file system is whatever it is; most cannot share.
        assert!(run.stderr.contains("reflink") && !target.exists(), "{run:#?}");
        return false;
    }
    let run = run.expect(0);
    assert!(run.stderr.is_empty(), "{run:#?}");
    assert_same(source, target);
    fs::remove_file(target).unwrap();
    true
}

/// 6 GB by every engine, then the same file cut down to the lengths that trip 31 and 32 bits, and
/// the 2,147,479,552 bytes that one call moves at most.
#[test]
fn six_gigabytes_by_every_engine() {
    // Not with another test's gigabytes in memory.
    let _lock = MachineLock::take();
    let dir = scratch().dir("big");
    if or_say(require_space(dir.path(), 13 * GIB)).is_none() {
        return;
    }
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    random_file(&source, 6_000_000_000, 1).unwrap();
    for engine in ["auto", "reflink", "copy-range", "direct", "buffered"] {
        copy(engine, &source, &target);
    }
    let cut = fs::OpenOptions::new().write(true).open(&source).unwrap();
    for (len, engines) in [
        (5 * GIB + 3, &["direct"][..]),
        (2 * GIB + 1, &["direct", "buffered"]),
        (2 * GIB - 1, &["direct", "copy-range"]),
    ] {
        cut.set_len(len).unwrap();
        for engine in engines {
            assert!(copy(engine, &source, &target));
        }
    }
}

/// A file that was not in the page cache is not afterwards, and neither is its copy.
#[test]
fn a_direct_copy_leaves_the_page_cache_alone() {
    let _lock = MachineLock::take();
    let dir = scratch().dir("cache");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    random_file(&source, 512 * MIB + 1, 2).unwrap();
    drop_from_cache(&source).unwrap();
    match cached(&source) {
        Some(bytes) if bytes < 16 * MIB => {}
        Some(bytes) => return say(&format!("{bytes} bytes of a file stay cached when dropped")),
        None => return say("fincore is missing (apt-get install util-linux-extra)"),
    }
    let run = Run::hugecp([Path::new("--engine=direct"), &source, &target]);
    if run.status == Some(1) && run.stderr.contains("direct") && !target.exists() {
        return say(&format!("no direct copy on this disk: {}", run.stderr.trim()));
    }
    run.expect(0);
    let growth = cached(&source).unwrap() + cached(&target).unwrap();
    assert!(growth < 64 * MIB, "{growth} bytes of both files in the page cache");
    assert_same(&source, &target);
}
