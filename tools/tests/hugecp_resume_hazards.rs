//! What `hugecp --resume` finds under the names that it would use itself, and in what it goes on with: nobody's file is
//! lost, and nothing gets into a copy that is not in its source.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Stdio};

use common::journals::look;
use common::remote::{command, machines};
use common::{Dir, Ran, bytes, wait_until};

const LEN: usize = 24 << 20;
const PART: &str = ".b.hugecp-part";
const JOURNAL: &str = ".b.hugecp-journal";

/// A slow copy of `a` to `b`, of which something is there.
fn under_way(dir: &Dir, options: &str) -> Child {
    let line = format!("--resume --block-size 256K --bwlimit 12M {options} a b");
    let mut command = dir.hugecp(line.split_whitespace());
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("some pieces", || look(dir, "b").is_some_and(|left| left.verified.len() > 8));
    child
}

fn resumed(report: &str) -> u64 {
    let report: serde_json::Value = serde_json::from_str(report).unwrap();
    report["resumed"].as_u64().unwrap()
}

fn killed(mut child: Child) {
    child.kill().unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(!out.status.success(), "it was too fast");
}

#[test]
fn files_of_others_stay_whatever_they_are_called() {
    let (data, other) = (bytes(LEN), bytes(3 << 20));
    for (name, what) in [(PART, "has no journal"), (JOURNAL, "is not the journal")] {
        let dir = Dir::new();
        dir.file("a", &data);
        dir.file(name, &other);
        dir.run("--resume a b").fails(1, &[name, what, "move it away"]);
        assert!(dir.read(name) == other);
        assert!(!dir.join("b").exists());
        fs::rename(dir.join(name), dir.join("away")).unwrap();
        dir.run("--resume a b").ok();
        assert!(dir.read("b") == data && dir.names() == ["a", "away", "b"], "{:?}", dir.names());
    }
    // An empty one too.
    let dir = Dir::new();
    dir.file("a", &data);
    dir.file(PART, "");
    dir.run("--resume a b").fails(1, &["move it away"]);
    assert_eq!(dir.names(), [PART, "a"]);
}

#[test]
fn what_is_left_of_a_copy_can_be_copied_itself() {
    let dir = Dir::new();
    dir.file("a", bytes(LEN));
    killed(under_way(&dir, ""));
    let (part, journal) = (dir.read(PART), dir.read(JOURNAL));
    // To where it would have gone: what is short is never resumed.
    dir.run(&format!("--resume {PART} b")).fails(1, &[PART, "leave out --resume"]);
    for (name, content) in [(PART, &part), (JOURNAL, &journal)] {
        let option = if name == PART { "" } else { "--resume" };
        dir.run(&format!("{option} {name} b")).ok();
        assert!(dir.read("b") == *content, "{name}");
        fs::remove_file(dir.join("b")).unwrap();
    }
    assert!(dir.read(PART) == part && dir.read(JOURNAL) == journal);
    assert!(resumed(&dir.run("--resume --json a b").ok().out()) > 0, "it goes on afterwards");
}

#[test]
fn trees_with_such_files_are_copied_whole() {
    let dir = Dir::new();
    for name in ["x", "y", "z"] {
        dir.file(&format!("t/{name}"), bytes(8 << 20));
        dir.file(&format!("t/.{name}.hugecp-part"), bytes(3 << 20));
        dir.file(&format!("t/.{name}.hugecp-journal"), "hugecp journal 3, or what is left of it");
    }
    let same = |target: &str| {
        assert_eq!(dir.names_in(target), dir.names_in("t"));
        for name in dir.names_in("t") {
            assert!(
                dir.read(&format!("{target}/{name}")) == dir.read(&format!("t/{name}")),
                "{name}"
            );
        }
    };
    dir.run("-r --resume t u").ok();
    same("u");
    dir.run("-rT --resume t u").ok();
    same("u");
    // By name, in either order.
    fs::create_dir(dir.join("v")).unwrap();
    let mut words = vec!["--resume".to_owned()];
    words.extend(dir.names_in("t").iter().map(|name| format!("t/{name}")));
    words.push("v".to_owned());
    Ran(dir.hugecp(&words).output().unwrap()).ok();
    same("v");
    fs::remove_dir_all(dir.join("v")).unwrap();
    fs::create_dir(dir.join("v")).unwrap();
    words[1..10].reverse();
    Ran(dir.hugecp(&words).output().unwrap()).ok();
    same("v");
}

#[test]
fn only_what_was_copied_gets_the_name() {
    for options in ["", "--verify", "-n"] {
        let dir = Dir::new();
        dir.file("a", bytes(LEN));
        if options != "-n" {
            dir.file("b", "old");
        }
        let child = under_way(&dir, options);
        dir.file("evil", "evil");
        fs::rename(dir.join("evil"), dir.join(PART)).unwrap();
        let ran = Ran(child.wait_with_output().unwrap());
        ran.fails(1, &["'b' has not got its new contents", "something else took the name"]);
        assert!(options == "-n" || dir.read("b") == b"old");
        assert_eq!(dir.read(PART), b"evil");
    }
}

/// A file that can be stored to as memory.
struct Mapped(memmap2::MmapMut);

impl Mapped {
    #[allow(unsafe_code)] // maps a file
    fn new(path: &Path) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        // SAFETY: nobody shortens the file, and what others read of it may be of any state.
        Self(unsafe { memmap2::MmapMut::map_mut(&file).unwrap() })
    }
}

#[test]
fn what_was_stored_through_a_mapping_is_seen() {
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = Dir::new();
    for source in [disk.join("source"), memory.path().join("source")] {
        let dir = Dir::new();
        fs::write(&source, bytes(LEN)).unwrap();
        std::os::unix::fs::symlink(&source, dir.join("a")).unwrap();
        let mut mapped = Mapped::new(&source);
        // Pages that are written to before the copy begins, and after a part of it was copied.
        mapped.0[..4096].fill(1);
        mapped.0[1 << 20..][..4096].fill(1);
        killed(under_way(&dir, ""));
        mapped.0[..4096].fill(2);
        mapped.0[1 << 20..][..4096].fill(3);
        dir.run("--resume --verify a b").ok();
        assert!(dir.read("b") == fs::read(&source).unwrap(), "{source:?}");
    }
}

#[test]
fn what_was_stored_through_a_mapping_is_seen_by_another_machine() {
    let name = "what_was_stored_through_a_mapping_is_seen_by_another_machine";
    let dir = machines();
    let source = dir.join("source");
    if is_in_memory(dir.path()) {
        println!("skipped: {name}: in memory, where the tests' folder is, nothing makes it seen");
        return;
    }
    fs::write(&source, bytes(LEN)).unwrap();
    let mut mapped = Mapped::new(&source);
    mapped.0[..4096].fill(1);
    let target = format!("localhost:{}", dir.join("b").display());
    let line = |options: &str| format!("{options} {} {target}", source.display());
    let mut child =
        command(&dir, "./rsh", &line("--block-size 256K --bwlimit 8M")).spawn().unwrap();
    wait_until("some pieces", || look(&dir, "b").is_some_and(|left| left.records.len() > 12));
    child.kill().unwrap();
    child.wait().unwrap();
    // The other end may not have noticed yet.
    wait_until("the end of the other end", || {
        File::open(dir.join(JOURNAL)).unwrap().try_lock().is_ok()
    });
    mapped.0[..4096].fill(2);
    Ran(command(&dir, "./rsh", &line("--verify")).output().unwrap()).ok();
    assert!(dir.read("b") == fs::read(&source).unwrap());
}

/// Whether a folder is of a file system without a device.
fn is_in_memory(path: &Path) -> bool {
    use bookend_tools::copy::probe;
    let found = File::open(path).and_then(|folder| probe::file_system(&folder));
    found.is_ok_and(probe::FileSystem::is_memory)
}

#[test]
fn holes_stay_holes_whatever_the_unfinished_copy_has_there() {
    for (options, engines) in
        [("", ["auto", "direct", "buffered"]), ("--sparse=always", ["auto", "direct", "buffered"])]
    {
        for engine in engines {
            let dir = Dir::new();
            let source = File::create(dir.join("a")).unwrap();
            source.set_len(LEN as u64).unwrap();
            for start in (0..LEN as u64).step_by(4 << 20) {
                source.write_all_at(&bytes(2 << 20), start).unwrap();
            }
            if options == "--sparse=always" {
                source.write_all_at(&vec![0; 2 << 20], 18 << 20).unwrap();
            }
            killed(under_way(&dir, &format!("{options} --engine {engine}")));
            let part = File::options().write(true).open(dir.join(PART)).unwrap();
            for start in [3 << 20, 19 << 20, (22 << 20) + 5, LEN as u64 - 4] {
                part.write_all_at(b"JUNK", start).unwrap();
            }
            let again = dir.run(&format!("--resume --json {options} --engine {engine} a b")).ok();
            assert!(resumed(&again.out()) > 0, "{}", again.out());
            assert!(dir.read("b") == dir.read("a"), "{options} {engine}");
        }
    }
}
