//! `mpirun -np 4 hugecp`: four processes make one copy. Needs Open MPI, and a hugecp with the feature `mpi`.

mod common;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::mpi::{RANKS, built, hidden, mpirun, rank_of, run, well};
use common::trees::{assert_same, everything, touch};
use common::{Dir, Ran, bytes};

/// A tree of everything, 200 small files and a big one with a hole.
fn tree(dir: &Dir, top: &str) {
    everything(dir, top);
    for number in 0..200 {
        dir.file(&format!("{top}/d/n{number}"), number.to_string());
    }
    let big = fs::File::create(dir.join(top).join("bigger")).unwrap();
    for at in [0_u64, 70 << 20, 130 << 20] {
        big.write_all_at(&bytes((10 << 20) + 7), at).unwrap();
    }
    touch(&dir.join(top).join("bigger"));
    touch(&dir.join(top).join("d"));
    touch(&dir.join(top));
}

#[test]
fn a_tree_and_a_big_file_are_copied_by_all_ranks_together() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    tree(&dir, "a");
    let out = well(&dir, &hugecp, "-a --json --reflink=never a b");
    assert_same(&dir, "a", "b");
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let ranks = report["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), RANKS);
    for rank in ranks {
        assert!(rank["files"].as_u64().unwrap() > 20 && rank["parts"] == 1, "{report}");
    }
    assert_eq!(report["files"], 200 + 6, "each file once; further names are links");
    assert_eq!(report["parts"], RANKS);
    let (a, b) = (dir.join("a/bigger"), dir.join("b/bigger"));
    assert!(
        b.metadata().unwrap().blocks() <= a.metadata().unwrap().blocks() + 64,
        "the holes stay"
    );
    // Over what is there, read back from the device, and durable.
    well(&dir, &hugecp, "-aT --verify --fsync a b");
    assert_same(&dir, "a", "b");
    assert_eq!(hidden(&dir, "b"), [] as [&str; 0]);
    // Into a directory that is there, with what is no part of the source removed.
    dir.file("b/d/extra", "x");
    well(&dir, &hugecp, "-aT --delete --checksum a b");
    assert_same(&dir, "a", "b");
    fs::create_dir(dir.join("into")).unwrap();
    well(&dir, &hugecp, "-a a into");
    assert_same(&dir, "a", "into/a");
}

#[test]
fn one_big_file_is_divided() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    dir.file("a", bytes((200 << 20) + 12_345));
    for (target, options) in
        [("b", ""), ("c", "--engine direct"), ("d", "--verify -p"), ("e", "--sparse never")]
    {
        let out = well(&dir, &hugecp, &format!("--json --reflink=never {options} a {target}"));
        assert!(dir.read("a") == dir.read(target), "{options}");
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        let parts: Vec<_> =
            report["ranks"].as_array().unwrap().iter().map(|rank| &rank["bytes"]).collect();
        let all: u64 = parts.iter().map(|bytes| bytes.as_u64().unwrap()).sum();
        assert_eq!(all, (200 << 20) + 12_345, "{report}");
        assert!(parts.iter().all(|bytes| bytes.as_u64().unwrap() > 40 << 20), "{report}");
    }
    assert_eq!(dir.names(), ["a", "b", "c", "d", "e"]);
    // Also where it is an operand of its own, beside the tree that it is in.
    fs::create_dir(dir.join("tree")).unwrap();
    fs::create_dir(dir.join("into")).unwrap();
    fs::rename(dir.join("a"), dir.join("tree/a")).unwrap();
    well(&dir, &hugecp, "-r --reflink=never tree tree/a b c into");
    for copy in ["into/tree/a", "into/a", "into/b"] {
        assert!(dir.read("tree/a") == dir.read(copy), "{copy}");
    }
}

/// A manifest, whose names may be any bytes.
#[derive(PartialEq)]
struct List(Vec<u8>);

impl List {
    fn has(&self, part: &str) -> bool {
        self.0.windows(part.len()).any(|bytes| bytes == part.as_bytes())
    }

    #[track_caller]
    fn is(&self, other: &Self, what: &str) {
        let text = |list: &Self| String::from_utf8_lossy(&list.0).into_owned();
        assert!(self == other, "{what}: {} is not {}", text(self), text(other));
    }
}

/// The list of what all ranks copy, and what one process lists of the same copy.
#[track_caller]
fn lists(dir: &Dir, hugecp: &Path, line: &str, before: impl Fn()) -> [List; 2] {
    let list = |ran: Ran| {
        ran.ok();
        List(dir.read("list"))
    };
    before();
    let one = list(dir.run(&format!("--manifest list {line}")));
    fs::remove_file(dir.join("list")).unwrap();
    before();
    well(dir, hugecp, &format!("--manifest list {line}"));
    let all = List(dir.read("list"));
    if !all.0.is_empty() {
        dir.run("--check --manifest list").ok(); // which finds them all as listed
    }
    [all, one]
}

#[test]
fn the_manifest_is_that_of_one_process() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    tree(&dir, "a");
    fs::hard_link(dir.join("a/d/n7"), dir.join("a/also")).unwrap();
    dir.file("a/odd\\name\n", "odd");
    dir.file("single", bytes((64 << 20) + 1));
    let clear = || drop(dir.command("rm", ["-rf", "b"]).status());
    for line in ["-a --reflink=never a b", "-a a b", "-rL a/d a/bigger a/also single b", "single b"]
    {
        let before = || {
            clear();
            if line.contains(" also ") || line.contains("-rL") {
                fs::create_dir(dir.join("b")).unwrap();
            }
        };
        let [all, one] = lists(&dir, &hugecp, line, before);
        all.is(&one, line);
        assert!(one.has("  b"), "{line}");
    }
    // Of what is there already, what is known to be the same, and not what is left unread.
    for (options, there) in [("--checksum", true), ("-n", false)] {
        let [all, one] = lists(&dir, &hugecp, &format!("{options} single b"), || ());
        all.is(&one, options);
        assert_eq!(one.has("  b\n"), there);
    }
    // A file of zeros, and the list on standard output.
    fs::File::create(dir.join("hole")).unwrap().set_len((80 << 20) + 3).unwrap();
    let out = well(&dir, &hugecp, "--manifest - hole c");
    let hash = blake3::hash(&vec![0; (80 << 20) + 3]).to_hex();
    assert_eq!(out, format!("{hash}  c\n"));
}

#[test]
fn what_failed_is_not_on_the_manifest() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    tree(&dir, "a");
    for name in ["n0", "n1", "n2", "n3"] {
        fs::create_dir_all(dir.join("b/d").join(name)).unwrap();
    }
    fs::create_dir_all(dir.join("b/bigger")).unwrap();
    let list = |ran: Ran| {
        ran.fails(1, &["could not be copied as asked", "'b/bigger' is a directory"]);
        List(dir.read("list"))
    };
    let one = list(dir.run("-aT --manifest list a b"));
    fs::remove_file(dir.join("list")).unwrap();
    let all = list(run(&dir, &hugecp, "-aT --manifest list a b"));
    all.is(&one, "after failures");
    assert!(all.has("b/d/n100") && !all.has("bigger"));
    run(&dir, &hugecp, "-a --manifest nowhere/list a c").fails(1, &["nowhere"]);
    let words = ["--check is for one process", "without mpirun"];
    run(&dir, &hugecp, "--check --manifest list").fails(2, &words);
}

#[test]
fn what_fails_in_one_rank_is_listed_at_the_first_and_is_the_status_of_all() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    tree(&dir, "a");
    // Directories where files are to be: most of them belong to other ranks than the first.
    for number in 0..8 {
        fs::create_dir_all(dir.join(format!("b/d/n{number}"))).unwrap();
    }
    fs::create_dir_all(dir.join("b/bigger")).unwrap();
    let ran = run(&dir, &hugecp, "-aT a b");
    let err = ran.err();
    assert_eq!(ran.status(), 1, "{err}");
    let list = err.split("could not be copied as asked").nth(1).expect(&err);
    for number in 0..8 {
        assert!(list.contains(&format!("'b/d/n{number}' is a directory")), "{err}");
    }
    assert!(list.contains("'b/bigger' is a directory"), "{err}");
    assert!((1..RANKS).any(|rank| list.contains(&format!("rank {rank}: "))), "{err}");
    // The rest is there.
    assert_eq!(dir.read("b/d/n100"), b"100");
    assert_eq!(hidden(&dir, "b"), [] as [&str; 0]);
    // Where nothing can be copied, and where it makes no sense.
    run(&dir, &hugecp, "-a a /nowhere/b").fails(1, &["/nowhere"]);
    run(&dir, &hugecp, "-a nowhere b").fails(1, &["nowhere"]);
    run(&dir, &hugecp, "a/bigger -").fails(2, &["one process", "run it without mpirun"]);
}

#[test]
fn a_rank_that_is_killed_leaves_no_part_under_a_final_name() {
    let Some(hugecp) = built() else { return };
    let dir = Dir::new();
    fs::create_dir(dir.join("a")).unwrap();
    for file in 0..400 {
        dir.file(&format!("a/{file}"), bytes(200_000));
    }
    dir.file("a/bigger", bytes(100 << 20));
    for killed in [0, 2] {
        let target = format!("b{killed}");
        let mut child = mpirun(&dir, &hugecp, &format!("-aT --bwlimit 20M a {target}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        let rank = loop {
            let there = fs::read_dir(dir.join(&target)).map_or(0, Iterator::count);
            match rank_of(&dir, killed) {
                Some(rank) if there > 20 => break rank,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not begin");
        };
        let pid = nix::unistd::Pid::from_raw(rank);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        let ended = Instant::now();
        assert!(!child.wait().unwrap().success());
        assert!(ended.elapsed() < Duration::from_secs(30), "it ends in bounded time");
        let mut found = 0;
        for entry in fs::read_dir(dir.join(&target)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.contains(".hugecp-") {
                let (a, b) =
                    (dir.read(&format!("a/{name}")), dir.read(&format!("{target}/{name}")));
                assert!(a == b, "{name} is no whole copy");
                found += 1;
            }
        }
        assert!(found < 401, "it was too late");
        // What is there already is no hindrance to the next run.
        well(&dir, &hugecp, &format!("-aT --checksum a {target}"));
        dir.command("find", [&target, "-name", "*.hugecp-*", "-delete"]).status().unwrap();
        touch(&dir.join("a"));
        touch(&dir.join(&target));
        assert_same(&dir, "a", &target);
    }
}

#[test]
fn without_the_feature_several_processes_are_refused() {
    let dir = Dir::new();
    dir.file("a", "x");
    let with = |variable: &str, line: &str| {
        let mut command = dir.hugecp(line.split_whitespace());
        Ran(command.env(variable, "4").env("OMPI_COMM_WORLD_RANK", "1").output().unwrap())
    };
    if !cfg!(feature = "mpi") {
        for variable in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"] {
            with(variable, "a b").fails(2, &["one of 4 processes", "--features mpi", "--shard"]);
            assert_eq!(dir.names(), ["a"]);
        }
    }
    // A shard is a process's own part, whoever started it.
    fs::create_dir(dir.join("d")).unwrap();
    with("OMPI_COMM_WORLD_SIZE", "-aT --shard 1/1 d e").ok();
    assert_eq!(dir.names(), ["a", "d", "e"]);
}
