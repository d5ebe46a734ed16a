//! Between two network namespaces: over a cable that can be pulled out, and onto disks that are full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use bookend_tests::data::{first_difference, random_file};
use bookend_tests::machine::{End, FsKind, MachineLock, MountedFs, Network, scratch};
use bookend_tests::skip::or_say;
use bookend_tests::tools::{Run, hugecp};
use bookend_tools::copy::journal::{HEADER_BYTES, RECORD_BYTES};

const MIB: u64 = 1 << 20;

/// A program that runs what it is told at the far end.
fn rsh(network: &Network, dir: &Path) -> PathBuf {
    let path = dir.join("rsh");
    let words = network.words(End::Far).join(" ");
    fs::write(&path, format!("#!/bin/sh\nshift\nexec nsenter {words} \"$@\"\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// `hugecp` at the near end.
fn command(network: &Network, rsh: &Path) -> Command {
    let mut command = network.command(End::Near, hugecp());
    command.arg("--rsh").arg(rsh).arg("--remote-program").arg(hugecp());
    command
}

/// The path at the far end, which has the same file systems.
fn far(path: &Path) -> String {
    format!("{}:{}", Network::FAR, path.display())
}

fn records(target: &Path) -> u64 {
    let name = format!(".{}.hugecp-journal", target.file_name().unwrap().display());
    let len = fs::metadata(target.with_file_name(name)).map_or(0, |found| found.len());
    len.saturating_sub(HEADER_BYTES as u64) / RECORD_BYTES as u64
}

#[test]
fn a_cable_that_is_pulled_out_ends_it_in_time_and_it_goes_on_later() {
    let Some(network) = or_say(Network::new()) else { return };
    let dir = scratch().dir("between");
    let rsh = rsh(&network, dir.path());
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    random_file(&source, 64 * MIB, 1).unwrap();
    for (push, (from, to)) in [
        (true, (source.display().to_string(), far(&target))),
        (false, (far(&source), target.display().to_string())),
    ] {
        let mut slow = command(&network, &rsh);
        slow.args(["--timeout", "3", "--bwlimit", "30M", &from, &to]);
        let child = slow.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let child = child.spawn().unwrap();
        // Of 256 KiB each: 10 MiB.
        while records(&target) < 40 {
            std::thread::sleep(Duration::from_millis(10));
        }
        network.unplug().unwrap();
        let since = Instant::now();
        let run = Run::from(child.wait_with_output().unwrap()).expect(1);
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
        assert!(run.stderr.contains("silent for 3 s"), "{run:#?}");
        assert!(run.stderr.contains("start the same command again"), "{run:#?}");
        assert!(!target.exists(), "nothing half-written under its name");
        network.plug_in().unwrap();
        let arrived = records(&target);
        // The far end gives up by itself, too.
        let since = Instant::now();
        let mut again;
        loop {
            again = Run::of(command(&network, &rsh).args(["--json", &from, &to]));
            if again.status == Some(0) || since.elapsed() > Duration::from_secs(30) {
                break;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        let again = again.expect(0).json();
        let resumed = again["resumed"].as_u64().unwrap_or(0);
        assert!(resumed >= 8 * MIB, "{resumed} bytes of {arrived} pieces, push: {push}");
        assert_eq!(first_difference(&source, &target).unwrap(), None);
        fs::remove_file(&target).unwrap();
    }
}

#[test]
fn a_full_disk_is_told_and_gone_on_with() {
    let lock = MachineLock::take();
    let Some(network) = or_say(Network::new()) else { return };
    let Some(small) = or_say(MountedFs::new(&lock, FsKind::Tmpfs, 24 * MIB)) else { return };
    let dir = scratch().dir("between");
    let rsh = rsh(&network, dir.path());
    let source = dir.path().join("source");
    random_file(&source, 20 * MIB, 2).unwrap();
    let ballast = small.path().join("ballast");
    fs::write(&ballast, vec![1; 8 << 20]).unwrap();
    let target = small.path().join("target");
    let copy = || {
        let mut command = command(&network, &rsh);
        Run::of(command.arg("--json").arg(&source).arg(far(&target)))
    };
    let run = copy().expect(1);
    assert!(run.stderr.contains("No space left on device"), "{run:#?}");
    assert!(run.stderr.contains(Network::FAR), "{run:#?}");
    assert!(!target.exists());
    fs::remove_file(&ballast).unwrap();
    let run = copy().expect(0).json();
    assert!(run["resumed"].as_u64().unwrap_or(0) >= 8 * MIB, "{run}");
    assert_eq!(first_difference(&source, &target).unwrap(), None);
}

#[test]
fn a_long_and_leaky_cable_loses_nothing() {
    let Some(network) = or_say(Network::new()) else { return };
    if or_say(network.shape("netem delay 5ms loss 0.5%")).is_none() {
        return;
    }
    let dir = scratch().dir("between");
    let rsh = rsh(&network, dir.path());
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    random_file(&source, 32 * MIB, 3).unwrap();
    for options in [&[][..], &["--plain"]] {
        let mut command = command(&network, &rsh);
        Run::of(command.args(options).arg(&source).arg(far(&target))).expect(0);
        assert_eq!(first_difference(&source, &target).unwrap(), None);
    }
}
