//! What `--manifest` lists, and where the list goes.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Stdio;

use common::{Dir, Ran, bytes, wait_for_start};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const HUGECP: &str = env!("CARGO_BIN_EXE_hugecp");

#[test]
fn what_has_no_true_length_is_listed_by_its_copy() {
    let dir = Dir::new();
    fs::create_dir(dir.join("d")).unwrap();
    for source in [
        "/proc/cpuinfo",
        "/proc/sys/kernel/random/uuid",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        if fs::read(source).is_err() {
            println!("not tested: {source} cannot be read here");
            continue;
        }
        dir.run(&format!("--manifest list {source} d/copy")).ok();
        let hash = blake3::hash(&dir.read("d/copy")).to_hex();
        assert_eq!(dir.read("list"), format!("{hash}  d/copy\n").as_bytes(), "{source}");
        assert!(!dir.read("d/copy").is_empty());
        dir.run("--check --manifest list").ok();
    }
    dir.run("-r --manifest list /proc/sys/kernel/random/uuid /proc/sys/vm/overcommit_memory d")
        .ok();
    assert_eq!(String::from_utf8(dir.read("list")).unwrap().lines().count(), 2);
    dir.run("--check --manifest list").ok();
}

#[test]
fn a_link_leads_the_list_to_its_place_and_stays() {
    let dir = Dir::new();
    dir.file("a", "x");
    dir.file("lists/old", "OLD");
    symlink("lists/old", dir.join("list")).unwrap();
    symlink("lists/new", dir.join("free")).unwrap();
    let line = format!("{}  b\n", blake3::hash(b"x").to_hex());
    for (link, file) in [("list", "lists/old"), ("free", "lists/new")] {
        dir.run(&format!("--manifest {link} a b")).ok();
        assert!(dir.join(link).is_symlink(), "{link}");
        assert_eq!(dir.read(file), line.as_bytes(), "{link}");
    }
    // What is open is written, by whichever name, and all of it stays.
    symlink("/proc/self/fd/1", dir.join("out")).unwrap();
    for name in ["/dev/fd/1", "/proc/self/fd/1", "out", "-"] {
        assert_eq!(dir.run(&format!("--manifest {name} a b")).ok().out(), line, "{name}");
        let file = fs::File::create(dir.join("file")).unwrap();
        std::io::Write::write_all(&mut &file, b"before\n").unwrap();
        let ran = dir.hugecp(["--manifest", name, "a", "b"]).stdout(Stdio::from(file)).output();
        Ran(ran.unwrap()).ok();
        assert_eq!(dir.read("file"), format!("before\n{line}").as_bytes(), "{name}");
    }
    let ran = dir.run("--manifest /proc/self/fd/2 a b");
    assert_eq!((ran.status(), ran.err()), (0, line));
    dir.run("--manifest lists a b")
        .fails(1, &["cannot write the checksums to 'lists'", "directory"]);
}

#[test]
fn a_durable_copy_has_a_durable_list() {
    let dir = Dir::new();
    dir.file("d/a", "x");
    fs::create_dir(dir.join("lists")).unwrap();
    for (options, source) in [("", "d/a"), ("-r", "d")] {
        let line = format!(
            "-f -y -e trace=fsync -o trace {HUGECP} {options} --fsync --manifest lists/m {source} b"
        );
        match dir.command("strace", line.split_whitespace()).output() {
            Ok(out) if !String::from_utf8_lossy(&out.stderr).contains("strace:") => {
                Ran(out).ok();
                let trace = String::from_utf8(dir.read("trace")).unwrap();
                // The list before it has its name, and the directory after that.
                let calls = trace.lines().filter(|line| line.contains("/lists"));
                assert_eq!(calls.count(), 2, "{trace}");
            }
            _ => println!("not tested: strace is missing, or may not trace"),
        }
        let _ = fs::remove_file(dir.join("b"));
    }
}

#[test]
fn a_run_that_copied_nothing_leaves_the_older_list() {
    let dir = Dir::new();
    dir.file("a", bytes(9 << 20)); // no small file of a tree
    dir.file("list", "OLD");
    fs::create_dir(dir.join("d")).unwrap();
    for line in ["none d/", "-r none also d/", "none d/missing/x", "-r none missing/x"] {
        dir.run(&format!("--manifest list {line}")).fails(1, &[]);
        assert_eq!(dir.read("list"), b"OLD", "{line}");
    }
    for line in ["a b", "-r a b", "small a d"] {
        dir.file("small", "x");
        let slow = "--manifest list --bwlimit 64K --engine buffered --block-size 64K";
        let mut command = dir.hugecp(slow.split(' '));
        let child = command.args(line.split(' ')).stderr(Stdio::piped()).spawn().unwrap();
        wait_for_start(&child);
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).unwrap();
        assert_eq!(Ran(child.wait_with_output().unwrap()).status(), 143, "{line}");
        assert_eq!(dir.read("list"), b"OLD", "{line}");
    }
    // What could be copied is listed, and so is that nothing was to be.
    dir.run("--manifest list none small d").fails(1, &["none"]);
    assert_eq!(String::from_utf8(dir.read("list")).unwrap().lines().count(), 1);
    dir.run("-n --manifest list small d").ok();
    assert_eq!(dir.read("list"), b"");
    dir.run("--check --manifest list").fails(1, &["'list' has no checksum on it"]);
}

#[test]
fn a_list_is_not_written_over_what_is_copied() {
    let dir = Dir::new();
    for name in ["a", "d/old", "t/x", "names"] {
        dir.file(name, name);
    }
    symlink("a", dir.join("link")).unwrap();
    fs::hard_link(dir.join("a"), dir.join("same")).unwrap();
    for (list, line) in [
        ("a", "a b"),
        ("./a", "a b"),
        ("link", "a b"),
        ("same", "a b"),
        ("b", "a b"),
        ("d/a", "a d"),
        ("d/old", "a d/old"),
        ("d/a", "-t d a"),
        ("d/t", "-r t d"),
        ("t/x", "-r t/x d"),
        ("a", "--parents a d"),
        ("names", "--files-from names . d"),
        ("b", "-r t b"),
        ("d", "-r t d"),
    ] {
        let ran = dir.run(&format!("--manifest {list} {line}"));
        ran.fails(1, &["--manifest is not possible for", list, "the list would overwrite"]);
        assert_eq!((dir.read("a"), dir.read("t/x")), (b"a".to_vec(), b"t/x".to_vec()), "{line}");
        assert_eq!((dir.names_in("d"), dir.join("b").exists()), (vec!["old".to_owned()], false));
    }
    // In a tree, this shows when it is there.
    let ran = dir.run("-rT --manifest b/x t b");
    ran.fails(1, &["--manifest is not possible for 'b/x'", "a copy that was just made"]);
    assert_eq!(dir.read("b/x"), b"t/x");
    dir.run("-rT --manifest b/sums t b").ok();
    dir.run("-rT --manifest b/sums t b").ok();
    dir.run("--manifest d/a --parents a b").ok();
    dir.run("--check --manifest b/sums").ok();
}

#[test]
fn what_is_no_regular_file_is_on_no_list() {
    let dir = Dir::new();
    dir.file("a", "x");
    let ran = dir.run("--manifest list a /dev/null");
    ran.fails(1, &["--manifest is not possible for '/dev/null'", "cannot be read again"]);
    assert_eq!(dir.names(), ["a"]);
}

#[test]
fn a_path_longer_than_the_system_takes_is_checked() {
    let dir = Dir::new();
    // 60 names of 100 bytes, made and looked at piece by piece.
    let name = "n".repeat(100);
    let go = format!("for i in $(seq 60); do mkdir -p {name} && cd {name} || exit 1; done");
    let script = |line: String| Ran(dir.command("bash", ["-c", &line]).output().unwrap());
    script(format!(
        "mkdir a && cd a && echo top > f && {go}; echo deep > f; mkdir d; echo x > d/g"
    ))
    .ok();
    dir.run("-a --manifest list a b").ok();
    let lines = dir.read("list").split(|&byte| byte == b'\n').map(<[u8]>::len).max();
    assert!(lines > Some(6000), "{lines:?}");
    dir.run("--check --manifest list").ok();
    script(format!("cd b && {go}; echo DEEP > f")).ok();
    let ran = dir.run("--check --manifest list");
    assert_eq!(ran.status(), 1, "{}", ran.err());
    assert_eq!(ran.out().matches("has another checksum").count(), 1, "{}", ran.out());
    script(format!("cd b && {go}; rm f")).ok();
    let ran = dir.run("--check --manifest list");
    assert!(
        ran.status() == 1 && ran.out().contains("cannot read it: No such file"),
        "{}",
        ran.out()
    );
    // Too deep for those who clean up by path.
    Ran(dir.command("rm", ["-rf", "a", "b"]).output().unwrap()).ok();
}
