//! SIGKILL at random moments: the target is what it was or complete, never between, and neither the
//! huge page pools nor /dev/shm keep anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bookend_tests::data::{first_difference, random_file};
use bookend_tests::machine::{HugePages, MachineLock, scratch};
use bookend_tests::tools::hugecp;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const MIB: u64 = 1 << 20;
const PAGE: u64 = 2 * MIB;

fn command(engine: &str, source: &Path, target: &Path) -> Command {
    let mut command = Command::new(hugecp());
    command.arg(format!("--engine={engine}")).arg("--fsync").arg(source).arg(target);
    command.stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::null());
    command
}

fn shared_memory() -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir("/dev/shm") else { return BTreeSet::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Waits for `what`: a killed process gives its memory back in its own time.
fn eventually(what: impl Fn() -> bool) -> bool {
    let since = Instant::now();
    while since.elapsed() < Duration::from_secs(10) {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    what()
}

#[test]
fn twenty_times_at_random() {
    let lock = MachineLock::take();
    let dir = scratch().dir("killed");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    let old = dir.path().join("old");
    random_file(&source, 256 * MIB, 1).unwrap();
    fs::write(&old, "what was there before").unwrap();
    // With pages to take, so that they can be kept; without root there are none to lose.
    let pages = HugePages::reserve(&lock, PAGE, None, 64).inspect_err(|skip| skip.print()).ok();
    let memory = shared_memory();

    let seed = std::process::id().into();
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut partway = 0;
    for engine in ["auto", "copy-range", "direct", "buffered"] {
        let begun = Instant::now();
        let status = command(engine, &source, &target).status().unwrap();
        assert!(status.success(), "{engine}: {status}");
        let whole = begun.elapsed();
        fs::remove_file(&target).unwrap();

        for round in 0..5 {
            let what = format!("seed {seed}, {engine}, round {round}");
            let replaced = round % 2 == 1;
            if replaced {
                fs::copy(&old, &target).unwrap();
            }
            let mut child = command(engine, &source, &target).spawn().unwrap();
            std::thread::sleep(whole.mul_f64(rng.random_range(0.0..1.1)));
            child.kill().unwrap();
            let status = child.wait().unwrap();
            partway += u32::from(!status.success());

            let complete = target.exists() && first_difference(&source, &target).unwrap().is_none();
            let untouched = if replaced {
                first_difference(&old, &target).unwrap().is_none()
            } else {
                !target.exists()
            };
            assert!(complete || untouched, "{what}: a partial target");
            assert!(!status.success() || complete, "{what}: success without a target");
            if let Some(pages) = &pages {
                let all = || pages.free() == pages.obtained();
                assert!(eventually(all), "{what}: {} huge pages free", pages.free());
            }
            assert_eq!(shared_memory(), memory, "{what}: /dev/shm");
            sweep(dir.path());
        }
    }
    assert!(partway >= 5, "seed {seed}: only {partway} of 20 copies were killed while they ran");
}

/// Removes everything but the sources: the targets, and temporary files, which a killed process
/// cannot remove itself.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().flatten() {
        if entry.file_name() != "source" && entry.file_name() != "old" {
            fs::remove_file(entry.path()).unwrap();
        }
    }
}
