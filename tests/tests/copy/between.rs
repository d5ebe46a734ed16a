//! Between two network namespaces: over a cable that can be pulled out, and onto disks that are full.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bookend_tests::data::{first_difference, random_file};
use bookend_tests::machine::{End, FsKind, MachineLock, MountedFs, Network, scratch};
use bookend_tests::skip::{or_say, require_program};
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

/// Waits until the far end has given up too, and copies the rest.
fn again(network: &Network, rsh: &Path, words: [&str; 4]) -> Run {
    let since = Instant::now();
    loop {
        let again = Run::of(command(network, rsh).args(["--json", "--explain"]).args(words));
        if again.status == Some(0) || since.elapsed() > Duration::from_secs(30) {
            return again.expect(0);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// In the lab the cable is also long, and loses packets.
#[test]
fn a_cable_that_is_pulled_out_ends_it_in_time_and_it_goes_on_later() {
    let Some(network) = or_say(Network::new()) else { return };
    let is_long = or_say(network.shape("netem delay 4ms loss 0.5%")).is_some();
    let dir = scratch().dir("between");
    let rsh = rsh(&network, dir.path());
    let source = dir.path().join("source");
    random_file(&source, 6 * MIB + 77, 1).unwrap();
    // Both ways at the same time, over the same cable; encrypted, and in clear.
    let (pushed, pulled) = (dir.path().join("pushed"), dir.path().join("pulled"));
    let (from, to) = (source.display().to_string(), pulled.display().to_string());
    let (pull, push) = (far(&source), far(&pushed));
    let copies = [
        (&pushed, ["--transport", "auto", &from, &push]),
        (&pulled, ["--transport=tcp", "--plain", &pull, &to]),
    ];
    let children = copies.map(|(_, words)| {
        let mut slow = command(&network, &rsh);
        slow.args(["--timeout", "2", "--bwlimit", "3M"]).args(words);
        slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    // Of 256 KiB each at most.
    while copies.iter().any(|(target, _)| records(target) < 8) {
        std::thread::sleep(Duration::from_millis(10));
    }
    network.unplug().unwrap();
    let since = Instant::now();
    for (child, (target, _)) in children.into_iter().zip(copies) {
        let run = Run::from(child.wait_with_output().unwrap()).expect(1);
        assert!(since.elapsed() < Duration::from_secs(30), "{:?}", since.elapsed());
        assert!(run.stderr.contains("silent for 2 s"), "{run:#?}");
        assert!(run.stderr.contains("start the same command again"), "{run:#?}");
        assert!(!target.exists(), "nothing half-written under its name");
    }
    network.plug_in().unwrap();
    let go_on = |target: &Path, words: [&str; 4]| {
        let arrived = records(target);
        let run = again(&network, &rsh, words);
        let resumed = run.json()["resumed"].as_u64().unwrap_or(0);
        assert!(resumed > 0, "of {arrived} pieces: {words:?}");
        assert_eq!(first_difference(&source, target).unwrap(), None);
        // 8 ms there and back are 10 MB under way, for which the kernel's buffers take five connections.
        let path = " ms there and back at 10.0 Gbit/s (assumed: the system does not say)";
        assert!(!is_long || run.stderr.contains(path), "{run:#?}");
    };
    std::thread::scope(|scope| {
        for (target, words) in copies {
            scope.spawn(move || go_on(target, words));
        }
    });
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

/// The congestion control of the connection of `end` by which most was sent, once that is `least` bytes.
fn congestion_of(network: &Network, end: End, least: u64) -> Option<String> {
    let listed = network.command(end, "ss").args(["-tinH", "state", "established"]).output();
    let listed = String::from_utf8(listed.unwrap().stdout).unwrap();
    let told = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let sent: u64 = words.find_map(|word| word.strip_prefix("bytes_sent:"))?.parse().ok()?;
        Some((sent, name.to_owned()))
    });
    told.max().filter(|&(sent, _)| sent >= least).map(|(_, name)| name)
}

#[test]
fn whoever_sends_has_a_congestion_control_that_suits_the_path() {
    let Some(network) = or_say(Network::new()) else { return };
    if or_say(require_program("ss", "iproute2")).is_none() {
        return;
    }
    let dir = scratch().dir("between");
    let rsh = rsh(&network, dir.path());
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    random_file(&source, 2 * MIB, 3).unwrap();
    let sent_by = |option: &str, end: End| {
        let words = match end {
            End::Near => [source.display().to_string(), far(&target)],
            End::Far => [far(&source), target.display().to_string()],
        };
        let mut slow = command(&network, &rsh);
        slow.args(["--explain", "--streams", "1", "--bwlimit", "2M", option]).args(words);
        let mut child = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let found = loop {
            let found = congestion_of(&network, end, MIB / 2);
            if found.is_some() || child.try_wait().unwrap().is_some() {
                break found;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let run = Run::from(child.wait_with_output().unwrap()).expect(0);
        assert_eq!(first_difference(&source, &target).unwrap(), None);
        fs::remove_file(&target).unwrap();
        let found = found.unwrap_or_else(|| panic!("no connection was seen: {run:#?}"));
        (found, format!("{}{}", run.stdout, run.stderr))
    };
    // What everybody may use, by name.
    for end in [End::Near, End::Far] {
        assert_eq!(sent_by("--congestion=reno", end).0, "reno", "{end:?}");
    }
    if or_say(network.congestion("bbr")).is_none() {
        return;
    }
    for end in [End::Near, End::Far] {
        let (found, said) = sent_by("--congestion=system", end);
        assert_eq!((found.as_str(), said.contains("the clock of bbr")), ("bbr", false), "{said}");
        // On a busy machine a short path may seem long.
        let tries = (0..20).map(|_| sent_by("--congestion=auto", end));
        let short = tries.into_iter().find(|(found, _)| found == "reno");
        let (_, said) = short.unwrap_or_else(|| panic!("{end:?}: bbr over a cable of no length"));
        let told = said.contains("by reno, since ") && said.contains("the clock of bbr");
        assert_eq!(told, end == End::Near, "{said}");
    }
    if or_say(network.shape("netem delay 2ms")).is_some() {
        for end in [End::Near, End::Far] {
            assert_eq!(sent_by("--congestion=auto", end).0, "bbr", "{end:?}");
        }
    }
}
