//! `hugecp --resume` goes on where a killed run was, and copies nothing twice that was there.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use bookend_tools::copy::journal::{HEADER_BYTES, RECORD_BYTES};
use common::journals::{Left, look};
use common::{Dir, Ran, bytes, wait_until};

const LEN: usize = 48 << 20;

/// How long the file of the fifty kills is: `BOOKEND_TEST_KILLED_MIB` MiB, where that is set. It is read whole, so
/// that twice as much memory is wanted.
fn killed_len() -> usize {
    let Ok(mib) = std::env::var("BOOKEND_TEST_KILLED_MIB") else { return LEN };
    mib.parse::<usize>().expect("BOOKEND_TEST_KILLED_MIB is a number of MiB") << 20
}

fn start(dir: &Dir, options: &[&str]) -> Child {
    let fixed = ["--resume", "--json", "--block-size", "256K"];
    let mut command = dir.hugecp(fixed);
    command.args(options).args(["a", "b"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Kills it after a while, or lets it end.
fn kill_after(mut child: Child, wait: Duration) -> Option<Ran> {
    let since = Instant::now();
    while since.elapsed() < wait {
        if child.try_wait().unwrap().is_some() {
            return Some(Ran(child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    let out = child.wait_with_output().unwrap();
    (out.status.signal() != Some(9)).then_some(Ran(out))
}

#[test]
fn fifty_kills_at_random_moments_and_nothing_is_copied_twice() {
    // A rate at which the copy takes about a second, so that most kills find it under way. One of gigabytes may
    // be slower than that by itself, and is given as long.
    let len = killed_len();
    let rate = format!("{}M", len * 60 / LEN);
    let longest = 400 + 800 * (len as u64 >> 30); // ms; what was there is read again first
    for engine in ["auto", "direct", "buffered"] {
        let dir = Dir::new();
        let data = bytes(len);
        dir.file("a", &data);
        let options = ["--engine", engine, "--bwlimit", &rate];
        let (mut kills, mut partway, mut state) = (0, 0, 12345_u64);
        let mut before: Option<Left> = None;
        while kills < 17 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let ended =
                kill_after(start(&dir, &options), Duration::from_millis((state >> 33) % longest));
            if let Some(ran) = ended {
                check_end(&dir, ran, before.as_ref(), &data);
                fs::remove_file(dir.join("b")).unwrap();
                before = None;
                continue;
            }
            kills += 1;
            if dir.join("b").exists() {
                // Killed when all was done; the next run begins anew.
                assert!(dir.read("b") == data, "half a copy has the name");
                fs::remove_file(dir.join("b")).unwrap();
                before = None;
                continue;
            }
            let Some(now) = look(&dir, "b") else { continue };
            if let Some(before) = &before {
                before.check_kept(&now, engine);
            }
            partway += usize::from(!now.verified.is_empty());
            before = Some(now);
        }
        let ran = Ran(start(&dir, &["--engine", engine]).wait_with_output().unwrap());
        check_end(&dir, ran, before.as_ref(), &data);
        assert_eq!(dir.names(), ["a", "b"], "nothing else is left");
        assert!(partway > 5, "{engine}: only {partway} kills found something copied");
    }
}

/// A run that came to its end kept all that was verified.
fn check_end(dir: &Dir, ran: Ran, before: Option<&Left>, data: &[u8]) {
    assert_eq!(ran.status(), 0, "{}", ran.err());
    assert!(dir.read("b") == data);
    let report: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    let verified = before.map_or(0, |left| left.bytes);
    assert_eq!(report["resumed"], verified, "{report}");
}

/// Waits until more than `pieces` of the copy to `target` are there.
fn wait_for_pieces(dir: &Dir, target: &str, pieces: usize) {
    wait_until("some pieces", || {
        look(dir, target).is_some_and(|left| left.verified.len() > pieces)
    });
}

/// A copy that was killed when at least some of it was there.
fn half_done(dir: &Dir) {
    let child = start(dir, &["--bwlimit", "12M"]);
    wait_for_pieces(dir, "b", 8);
    assert!(kill_after(child, Duration::ZERO).is_none(), "it was too fast");
}

fn resumed(dir: &Dir) -> u64 {
    let out = Ran(start(dir, &[]).wait_with_output().unwrap()).ok().out();
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    report["resumed"].as_u64().unwrap()
}

#[test]
fn a_source_that_changed_is_copied_anew() {
    let dir = Dir::new();
    let source = dir.file("a", bytes(LEN));
    half_done(&dir);
    // The same length and the same time of modification.
    let file = File::options().write(true).open(&source).unwrap();
    let then = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"changed", 100).unwrap();
    file.set_modified(then).unwrap();
    assert_eq!(resumed(&dir), 0);
    assert!(dir.read("b") == dir.read("a"));
}

#[test]
fn what_was_damaged_meanwhile_is_copied_again() {
    let dir = Dir::new();
    dir.file("a", bytes(LEN));
    half_done(&dir);
    let left = look(&dir, "b").unwrap();
    let part = File::options().write(true).open(dir.join(".b.hugecp-part")).unwrap();
    part.write_all_at(b"damaged", left.verified[3].range.start + 77).unwrap();
    let journal = File::options().append(true).open(dir.join(".b.hugecp-journal")).unwrap();
    std::io::Write::write_all(&mut &journal, b"half a record").unwrap();
    let all: u64 = left.verified.iter().map(|piece| piece.range.end - piece.range.start).sum();
    let damaged = left.verified[3].range.end - left.verified[3].range.start;
    assert_eq!(resumed(&dir), all - damaged);
    assert!(dir.read("b") == dir.read("a"));
}

#[test]
fn a_source_that_changes_under_the_copy_is_told() {
    let dir = Dir::new();
    let source = dir.file("a", bytes(LEN));
    dir.file("b", "old");
    let child = start(&dir, &["--bwlimit", "12M"]);
    wait_for_pieces(&dir, "b", 1);
    File::options().write(true).open(&source).unwrap().write_all_at(b"new", 0).unwrap();
    Ran(child.wait_with_output().unwrap()).fails(1, &["'a' changed while it was copied"]);
    assert_eq!((dir.names(), dir.read("b")), (vec!["a".into(), "b".into()], b"old".to_vec()));
}

#[test]
fn two_at_once_do_not_mix() {
    let dir = Dir::new();
    dir.file("a", bytes(LEN));
    let first = start(&dir, &["--bwlimit", "12M"]);
    wait_for_pieces(&dir, "b", 1);
    let second = Ran(start(&dir, &[]).wait_with_output().unwrap());
    second.fails(1, &["another hugecp --resume is copying to 'b'"]);
    Ran(first.wait_with_output().unwrap()).ok();
    assert!(dir.read("b") == dir.read("a"));
}

#[test]
fn it_goes_together_with_the_other_options() {
    let dir = Dir::new();
    let source = dir.file("a", bytes(LEN));
    let file = File::options().write(true).open(&source).unwrap();
    file.set_len(LEN as u64 + (8 << 20)).unwrap(); // ends in a hole
    half_done(&dir);
    let options = ["--verify", "--fsync", "-p", "--sparse", "auto"];
    let ran = Ran(start(&dir, &options).wait_with_output().unwrap());
    let report: serde_json::Value = serde_json::from_str(&ran.ok().out()).unwrap();
    assert!(report["verified"] == true && report["resumed"].as_u64() > Some(0), "{report}");
    assert!(dir.read("b") == dir.read("a"));
    assert_eq!(dir.join("b").metadata().unwrap().mtime(), source.metadata().unwrap().mtime());
    dir.run("--resume --in-place a c").fails(2, &["--in-place"]);
    dir.run("--resume --sparse=never a c").fails(2, &["exclude each other"]);
    dir.run("--resume a -").fails(2, &["standard output"]);
}

#[test]
fn the_mode_is_that_of_any_copy() {
    let dir = Dir::new();
    let source = dir.file("a", bytes(2 << 20));
    for mode in [0o644, 0o755, 0o400, 0o660] {
        fs::set_permissions(&source, fs::Permissions::from_mode(mode)).unwrap();
        for (options, target) in [("", "plain"), ("--resume", "b"), ("--resume -p", "p")] {
            dir.run(&format!("{options} a {target}")).ok();
        }
        let mode_of = |name: &str| dir.join(name).metadata().unwrap().mode();
        assert_eq!(mode_of("b"), mode_of("plain"));
        assert_eq!(mode_of("p"), mode_of("a"));
        for name in ["plain", "b", "p"] {
            fs::remove_file(dir.join(name)).unwrap();
        }
    }
}

#[test]
fn big_files_of_trees_go_on_too() {
    let dir = Dir::new();
    fs::create_dir(dir.join("t")).unwrap();
    dir.file("t/big", bytes(LEN));
    dir.file("t/small", "x");
    let line = ["-a", "--resume", "--bwlimit", "12M", "t", "u"];
    let mut child = dir.hugecp(line).spawn().unwrap();
    let journal = dir.join("u/.big.hugecp-journal");
    wait_until("some pieces", || {
        journal.metadata().is_ok_and(|it| it.len() > (HEADER_BYTES + 2 * RECORD_BYTES) as u64)
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let ran = dir.run("-aT --resume --explain t u").ok();
    assert!(ran.out().contains("of it were there, compared and kept"), "{}", ran.out());
    assert!(dir.read("u/big") == dir.read("t/big") && !journal.exists());
    let again = dir.run("-aT --resume --json t u").ok().out();
    assert!(again.contains("\"files\":0") && again.contains("\"left\":2"), "{again}");
}
