//! `mpirun -np 4 hugecp --resume` goes on where a killed launch was, also with another number of processes. Needs
//! Open MPI, and a hugecp with the feature `mpi`.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};

use common::journals::{Left, look};
use common::mpi::{LONGEST, RANKS, built, hidden, kill_all, mpirun_of, ranks_in};
use common::trees::{assert_same, touch};
use common::{Dir, Ran, bytes, wait_at_most};

/// A rate at which the copy takes several seconds, and pieces of which it has many.
const SLOWLY: &str = "-aT --resume --block-size 256K --reflink=never --bwlimit 8M";
const QUICKLY: &str = "-aT --resume --block-size 256K --reflink=never --json";
const BIG: usize = (80 << 20) + 12_345;

/// A file that is divided, with a hole, and others that are not.
fn plant(dir: &Dir) {
    let big = File::create(dir.file("a/big", "")).unwrap();
    let data = bytes(BIG);
    for range in [0..25 << 20, (33 << 20) + 5..BIG] {
        big.write_all_at(&data[range.clone()], range.start as u64).unwrap();
    }
    for number in 0..40 {
        dir.file(&format!("a/n{number}"), number.to_string());
    }
    touch(&dir.join("a"));
}

fn start(dir: &Dir, hugecp: &Path, ranks: usize, line: &str) -> Child {
    let mut command = mpirun_of(ranks, dir, hugecp, line);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until what there is of the copy to `target` is `enough`.
#[track_caller]
fn wait_for(dir: &Dir, target: &str, enough: impl Fn(&Left) -> bool) {
    let is_enough = || look(dir, target).is_some_and(|left| enough(&left));
    wait_at_most(LONGEST, "verified pieces", is_enough);
}

/// Lets so many ranks copy `a/big` until each of them has copied something, and there is more of it than `before`;
/// kills all, and gives what they left.
#[track_caller]
fn killed(dir: &Dir, hugecp: &Path, ranks: usize, before: Option<&Left>) -> Left {
    let launcher = start(dir, hugecp, ranks, &format!("{SLOWLY} a b"));
    wait_for(dir, "b/big", |left| {
        // Ranges begin a little elsewhere, at a multiple of 2 MiB.
        let range = |rank| (BIG / ranks * rank) as u64..(BIG / ranks * (rank + 1)) as u64;
        let has = |rank| left.verified.iter().any(|piece| range(rank).contains(&piece.range.start));
        let enough = before.map_or(0, |before| before.verified.len()) + 16;
        (0..ranks).all(has) && left.verified.len() > enough
    });
    kill_all(dir, launcher);
    assert!(!dir.join("b/big").exists(), "it was too fast, or half a copy has the name");
    look(dir, "b/big").expect("a journal")
}

/// Goes on, and says how many bytes were there.
#[track_caller]
fn resumed(dir: &Dir, hugecp: &Path, ranks: usize, more: &str) -> u64 {
    let ran =
        Ran(mpirun_of(ranks, dir, hugecp, &format!("{QUICKLY} {more} a b")).output().unwrap());
    assert_eq!(ran.status(), 0, "{}", ran.err());
    let report: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    assert!(dir.read("b/big") == dir.read("a/big"));
    assert_eq!(hidden(dir, "b"), [] as [&str; 0]);
    report["resumed"].as_u64().unwrap_or(0)
}

/// That of what was `left` all that was verified was kept, but for so many bytes at most, and nothing else.
#[track_caller]
fn check(there: u64, left: &Left, lost: u64) {
    let kept = left.bytes.saturating_sub(lost)..=left.claimed;
    assert!(there > 0 && kept.contains(&there), "{there} of {}", left.bytes);
}

#[test]
fn launches_that_are_killed_copy_nothing_twice() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    plant(&dir);
    let mut before: Option<Left> = None;
    for kill in 0..3 {
        let now = killed(&dir, &hugecp, RANKS, before.as_ref());
        if let Some(before) = &before {
            before.check_kept(&now, &format!("kill {kill}"));
        }
        before = Some(now);
    }
    let there = resumed(&dir, &hugecp, RANKS, "--verify --manifest list");
    check(there, &before.unwrap(), 0);
    assert_same(&dir, "a", "b");
    dir.run("--check --manifest list").ok();
    // All is there: it is left alone.
    let ran = Ran(mpirun_of(RANKS, &dir, &hugecp, &format!("{QUICKLY} a b")).output().unwrap());
    let report: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    assert_eq!((&report["files"], &report["left"]), (&0.into(), &41.into()), "{report}");
}

#[test]
fn another_number_of_processes_or_one_goes_on() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    plant(&dir);
    // Pieces that lie across ranges of others, two at most, are copied again.
    let across = 2 * (256 << 10);
    let four = killed(&dir, &hugecp, 4, None);
    let three = killed(&dir, &hugecp, 3, Some(&four));
    assert!(three.claimed + across >= four.bytes);
    check(resumed(&dir, &hugecp, 2, ""), &three, across);
    // One process goes on with what several began, and they with what it began.
    fs::remove_dir_all(dir.join("b")).unwrap();
    let several = killed(&dir, &hugecp, RANKS, None);
    let mut one = dir.hugecp(format!("{SLOWLY} a b").split(' ')).spawn().unwrap();
    wait_for(&dir, "b/big", |left| left.verified.len() > several.verified.len() + 4);
    one.kill().unwrap();
    one.wait().unwrap();
    let left = look(&dir, "b/big").unwrap();
    several.check_kept(&left, "one process");
    check(resumed(&dir, &hugecp, RANKS, ""), &left, across);
}

#[test]
fn files_that_one_rank_copies_go_on_with_another() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    // Too short to be divided; under one of three ranks it may be another's.
    dir.file("a/whole", bytes(40 << 20));
    touch(&dir.join("a"));
    let launcher = start(&dir, &hugecp, RANKS, &format!("{SLOWLY} a b"));
    wait_for(&dir, "b/whole", |left| left.verified.len() > 8);
    kill_all(&dir, launcher);
    let left = look(&dir, "b/whole").unwrap();
    assert!(left.bytes > 0);
    let ran = Ran(mpirun_of(3, &dir, &hugecp, &format!("{QUICKLY} a b")).output().unwrap());
    let report: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    check(report["resumed"].as_u64().unwrap(), &left, 0);
    assert_same(&dir, "a", "b");
}

#[test]
fn a_source_that_changed_is_copied_anew() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    plant(&dir);
    killed(&dir, &hugecp, RANKS, None);
    // The same length and the same time of modification.
    let file = File::options().write(true).open(dir.join("a/big")).unwrap();
    let then = file.metadata().unwrap().modified().unwrap();
    file.write_all_at(b"changed", 100).unwrap();
    file.set_modified(then).unwrap();
    assert_eq!(resumed(&dir, &hugecp, RANKS, ""), 0);
}

#[test]
fn what_was_damaged_meanwhile_is_copied_again() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    plant(&dir);
    let left = killed(&dir, &hugecp, RANKS, None);
    let part = File::options().write(true).open(dir.join("b/.big.hugecp-part")).unwrap();
    let damaged = &left.verified[left.verified.len() / 2].range;
    part.write_all_at(b"damaged", damaged.start + 77).unwrap();
    let journal = File::options().append(true).open(dir.join("b/.big.hugecp-journal")).unwrap();
    std::io::Write::write_all(&mut &journal, b"half a record").unwrap();
    let there = resumed(&dir, &hugecp, RANKS, "");
    check(there, &left, damaged.end - damaged.start);
    assert!(there < left.claimed);
}

#[test]
fn the_length_alone_is_not_believed() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    plant(&dir);
    // A part of the right length, and no journal: it is somebody else's.
    let part = dir.file("b/.big.hugecp-part", vec![0; BIG]);
    let ran = Ran(mpirun_of(RANKS, &dir, &hugecp, &format!("{SLOWLY} a b")).output().unwrap());
    ran.fails(1, &[".big.hugecp-part", "has no journal"]);
    fs::remove_file(part).unwrap();
    assert_eq!(resumed(&dir, &hugecp, RANKS, ""), 0);
}

#[test]
fn a_source_that_changes_under_the_copy_is_told() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    plant(&dir);
    dir.file("b/big", "old");
    let line = format!("{SLOWLY} --bwlimit 24M a b"); // to its end
    let mut command = mpirun_of(RANKS, &dir, &hugecp, &line);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for(&dir, "b/big", |left| left.verified.len() > 8);
    let source = File::options().write(true).open(dir.join("a/big")).unwrap();
    source.write_all_at(b"new", 0).unwrap();
    Ran(child.wait_with_output().unwrap()).fails(1, &["'a/big' changed while it was copied"]);
    assert_eq!(dir.read("b/big"), b"old");
    assert_eq!(hidden(&dir, "b"), [] as [&str; 0]);
}

#[test]
fn two_launches_do_not_mix() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    plant(&dir);
    let words = "another hugecp --resume is copying to 'b/big'";
    let launcher = start(&dir, &hugecp, RANKS, &format!("{SLOWLY} a b"));
    wait_for(&dir, "b/big", |left| left.verified.len() > 8);
    let second =
        || Ran(mpirun_of(RANKS, &dir, &hugecp, &format!("{QUICKLY} a b")).output().unwrap());
    second().fails(1, &[words]);
    dir.run(&format!("{QUICKLY} a b")).fails(1, &[words]);
    kill_all(&dir, launcher);
    assert!(ranks_in(&dir).is_empty());
    // A process of the killed launch that is still at it would write what it has read into the file.
    let part = File::open(dir.join("b/.big.hugecp-part")).unwrap();
    part.lock_shared().unwrap();
    second().fails(1, &[words]);
    drop(part);
    assert!(resumed(&dir, &hugecp, RANKS, "") > 0);
    assert_same(&dir, "a", "b");
}
