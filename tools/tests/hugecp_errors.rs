//! What `hugecp` says when it cannot, with which status, and what it leaves behind: nothing.

mod common;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use common::{Dir, Ran, bytes};

#[test]
fn command_lines_that_make_no_sense_end_with_2() {
    let dir = Dir::new();
    dir.file("a", "x");
    for (line, part) in [
        ("", "required arguments were not provided"),
        ("a", "where to?"),
        ("-r - b", "no tree"),
        ("--frobnicate a b", "unexpected argument"),
        ("--block-size 4Q a b", "\"4Q\""),
        ("--buffer-memory lots a b", "\"lots\" is not a size"),
        ("--bwlimit 0 a b", "no limit"),
        ("--threads 0 a b", "1..=256"),
        ("--engine warp a b", "possible values: auto, reflink"),
        ("--reflink=always --sparse=always a b", "exclude each other"),
        ("--verify a -", "standard output"),
    ] {
        dir.run(line).fails(2, &[part]);
    }
    assert_eq!(dir.names(), ["a"]);
}

#[test]
fn sources_that_cannot_be_read_are_named() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("d")).unwrap();
    dir.run("missing b").fails(1, &["hugecp: cannot find 'missing': No such file or directory"]);
    dir.run("d b").fails(1, &["'d' is a directory, left out"]);
    dir.file("a", "x");
    dir.run("a/ b").fails(1, &["'a/': Not a directory"]);
    dir.run("a a").fails(1, &["'a' and 'a' are the same file"]);
    std::fs::hard_link(dir.join("a"), dir.join("link")).unwrap();
    dir.run("-f a link").fails(1, &["'a' and 'link' are the same file"]);
    assert_eq!(dir.read("a"), b"x");
}

#[test]
fn standard_input_is_not_written_over_while_it_is_read() {
    let dir = Dir::new();
    let data = bytes(100_000);
    dir.file("b", &data);
    let input = || std::fs::File::open(dir.join("b")).unwrap();
    let run = |line: &str| {
        let mut command = dir.hugecp(line.split(' '));
        command.stdin(input());
        command
    };
    let ran = Ran(run("--in-place - b").output().unwrap());
    ran.fails(1, &["'-' and 'b' are the same file"]);
    let end = std::fs::File::options().append(true).open(dir.join("b")).unwrap();
    let ran = Ran(run("- -").stdout(end).output().unwrap());
    ran.fails(1, &["'-' and '-' are the same file"]);
    assert!(dir.read("b") == data);
    // A copy that replaces it harms nothing.
    Ran(run("- b").output().unwrap()).ok();
    assert!(dir.read("b") == data);
}

#[test]
fn targets_that_cannot_be_are_named() {
    let dir = Dir::new();
    dir.file("a", "x");
    dir.file("f", "y");
    dir.run("a nowhere/b").fails(1, &["target directory 'nowhere' does not exist: create it"]);
    dir.run("-t nowhere a").fails(1, &["target directory 'nowhere' does not exist"]);
    for name in ["b/", "b/.", "b/..", "b/./"] {
        let part = format!("'{name}' is not a directory");
        dir.run(&format!("a {name}")).fails(1, &[&part]);
        dir.run(&format!("--in-place a {name}")).fails(1, &[&part]);
    }
    dir.run("a f/b").fails(1, &["'f/b'", "Not a directory"]);
    dir.run("a f f").fails(1, &["'f' is not a directory"]);
    let long = "n".repeat(256);
    Ran(dir.hugecp(["a", &long]).output().unwrap()).fails(1, &["File name too long"]);
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("s")).unwrap();
    dir.run("a s").fails(1, &["'s' is a socket"]);
    dir.run("s b").fails(1, &["'s' is a socket"]);
    assert_eq!(dir.names(), ["a", "f", "s"]);
}

#[test]
fn a_full_file_system_is_told_and_nothing_is_left() {
    let dir = Dir::new();
    dir.file("a", bytes(100_000));
    // A device that is always full.
    dir.run("a /dev/full").fails(1, &["No space left on device"]);
    // A limit on the length of files, which every file system obeys.
    let limited = "ulimit -f 10; exec \"$0\" a b";
    let out = dir.command("bash", ["-c", limited, env!("CARGO_BIN_EXE_hugecp")]).output().unwrap();
    Ran(out).fails(1, &["File too large", "ulimit -f"]);
    assert_eq!(dir.names(), ["a"]);
}

#[test]
fn a_file_of_a_tree_that_is_longer_than_may_be_costs_no_other() {
    let dir = Dir::new();
    dir.file("s/short", "x");
    dir.file("s/small", bytes(600_000));
    dir.file("s/staged", bytes(9 << 20));
    let limited = "ulimit -f 100; exec \"$0\" -r --reflink=never s d";
    let out = dir.command("bash", ["-c", limited, env!("CARGO_BIN_EXE_hugecp")]).output().unwrap();
    Ran(out).fails(1, &["'d/small'", "d/staged", "File too large"]);
    assert_eq!(dir.names_in("d"), ["short"]);
    assert_eq!(dir.read("d/short"), b"x");
}

#[test]
fn a_forced_engine_that_cannot_says_why() {
    let dir = Dir::new();
    dir.file("a", "x");
    dir.run("--engine direct /dev/null b").fails(1, &["direct: a stream is read", "--engine"]);
    dir.run("--engine copy-range --sparse=always a b").fails(1, &["copy-range: --sparse=always"]);
    dir.run("--reflink a /dev/null").fails(1, &["reflink: only regular files"]);
    assert_eq!(dir.names(), ["a"]);
}

#[test]
fn options_that_a_pipe_cannot_have_are_refused() {
    let dir = Dir::new();
    dir.file("a", "x");
    dir.run("--verify a /dev/null").fails(1, &["--verify is not possible for '/dev/null'"]);
    dir.run("--fsync a /dev/null").fails(1, &["--fsync is not possible for '/dev/null'"]);
}

#[test]
fn a_read_only_file_system_is_told() {
    // Every Linux has one: /proc/sys refuses new files with EACCES, /sys with EPERM or EACCES; a
    // read-only mount needs privileges, so it is made in a mount namespace of its own.
    let dir = Dir::new();
    dir.file("a", "x");
    std::fs::create_dir(dir.join("ro")).unwrap();
    let script = "mount -t tmpfs -o ro none ro 2>/dev/null || exit 99; exec \"$0\" a ro/b";
    let out = dir
        .command("unshare", ["-m", "--", "sh", "-c", script, env!("CARGO_BIN_EXE_hugecp")])
        .output()
        .unwrap();
    let ran = Ran(out);
    if ran.err().contains("unshare") || ran.status() == 99 {
        eprintln!("not tested: no mount namespace here ({})", ran.err());
        return;
    }
    ran.fails(1, &["'ro/b'", "Read-only file system"]);
}

#[test]
fn what_may_not_be_read_or_written_is_told_with_the_way_round() {
    let dir = Dir::new();
    let secret = dir.file("secret", "x");
    std::fs::set_permissions(&secret, Permissions::from_mode(0o000)).unwrap();
    dir.file("a", "x");
    let kept = dir.file("kept", "old");
    std::fs::set_permissions(&kept, Permissions::from_mode(0o444)).unwrap();
    std::fs::create_dir(dir.join("closed")).unwrap();
    dir.file("closed/f", "old");
    std::fs::set_permissions(dir.join("closed/f"), Permissions::from_mode(0o666)).unwrap();

    // Root is denied nothing, so this is somebody else's work, in a directory of theirs.
    let as_nobody = |line: &str| {
        let arguments = line.split_whitespace();
        let mut command = dir.hugecp(arguments);
        if common::is_root() {
            std::os::unix::process::CommandExt::uid(&mut command, 65534);
            std::os::unix::process::CommandExt::gid(&mut command, 65534);
        }
        match command.output() {
            Ok(out) => Some(Ran(out)),
            Err(error) => {
                eprintln!("not tested: another user may not run the program: {error}");
                None
            }
        }
    };
    if common::is_root() {
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
        std::os::unix::fs::chown(&kept, Some(65534), Some(65534)).unwrap();
    }
    std::fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o555)).unwrap();

    let Some(ran) = as_nobody("secret b") else { return };
    ran.fails(1, &["cannot open 'secret': Permission denied"]);
    as_nobody("a kept").unwrap().fails(1, &["'kept' exists and may not be written", "-f"]);
    assert_eq!(dir.read("kept"), b"old");
    as_nobody("a closed/b").unwrap().fails(1, &["'closed/b': Permission denied"]);
    as_nobody("a closed/f").unwrap().fails(1, &["'closed/f': Permission denied", "--in-place"]);
    as_nobody("--in-place a closed/f").unwrap().ok();
    as_nobody("-f a kept").unwrap().ok();
    assert_eq!(dir.read("kept"), b"x");
    std::fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(dir.names(), ["a", "closed", "kept", "secret"]);
}

#[test]
fn a_lost_standard_output_is_an_error() {
    let dir = Dir::new();
    dir.file("a", "x");
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let out = dir.hugecp(["--json", "a", "b"]).stdout(full).output().unwrap();
    Ran(out).fails(1, &["cannot write standard output: No space left"]);
    assert_eq!(dir.read("b"), b"x", "the copy is there all the same");
}
