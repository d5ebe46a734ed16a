//! `hugecp --check` tells what differs, and `--manifest` what `b3sum` tells.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use common::{Dir, Ran, bytes};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

fn plant(dir: &Dir, top: &str) {
    fs::create_dir_all(dir.join(top).join("d/e")).unwrap();
    fs::write(dir.join(top).join("d/file"), bytes(1000)).unwrap();
    fs::write(dir.join(top).join("d/e/big"), bytes((8 << 20) + 5)).unwrap();
    fs::write(dir.join(top).join("empty"), "").unwrap();
    fs::hard_link(dir.join(top).join("d/file"), dir.join(top).join("d/e/same")).unwrap();
    symlink("d/file", dir.join(top).join("link")).unwrap();
}

#[test]
fn every_difference_is_told_and_nothing_else() {
    let same = Dir::new();
    plant(&same, "a");
    same.run("-a a b").ok();
    assert_eq!(same.run("--check -a a b").ok().out(), "");
    assert_eq!(same.run("--check a/d/file b/d/e/same").ok().out(), "");
    type Change = fn(&Dir);
    let changes: [(Change, &str, &str); 9] = [
        (|d| fs::remove_file(d.join("b/empty")).unwrap(), "", "'b/empty': is missing"),
        (|d| drop(d.file("b/d/new", "x")), "", "'b/d/new': is not in the source"),
        (|d| drop(d.file("b/empty", "x")), "", "'b/empty': has 1 bytes, the source 0"),
        (|d| overwrite(d, "b/d/file", 999), "", "'b/d/file': has other contents"),
        (|d| overwrite(d, "b/d/e/big", 8 << 20), "", "'b/d/e/big': has other contents"),
        (|d| fs::remove_dir_all(d.join("b/d/e")).unwrap(), "", "'b/d/e': is missing"),
        (
            |d| {
                fs::remove_file(d.join("b/link")).unwrap();
                symlink("d", d.join("b/link")).unwrap();
            },
            "",
            "'b/link': leads elsewhere",
        ),
        (
            |d| fs::set_permissions(d.join("b/empty"), Permissions::from_mode(0o600)).unwrap(),
            "-p",
            "'b/empty': has mode 0600, the source 0644",
        ),
        (
            |d| {
                fs::remove_file(d.join("b/d/e/same")).unwrap();
                fs::copy(d.join("b/d/file"), d.join("b/d/e/same")).unwrap();
            },
            "-d",
            "is no name of the file",
        ),
    ];
    for (change, options, words) in changes {
        let dir = Dir::new();
        plant(&dir, "a");
        fs::set_permissions(dir.join("a/empty"), Permissions::from_mode(0o644)).unwrap();
        dir.run("-a a b").ok();
        change(&dir);
        let ran = dir.run(&format!("--check {options} a b"));
        assert_eq!((ran.status(), ran.err().as_str()), (1, ""), "{words}");
        assert!(ran.out().contains(words), "{words}: {}", ran.out());
        // The other name of a file that was written to has other contents, too.
        assert!(ran.out().lines().count() <= 2, "{words}: {}", ran.out());
    }
}

/// Changes one byte.
fn overwrite(dir: &Dir, name: &str, at: u64) {
    let file = fs::File::options().read(true).write(true).open(dir.join(name)).unwrap();
    let mut byte = [0];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, at).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[!byte[0]], at).unwrap();
}

#[test]
fn patterns_leave_out_here_too() {
    let dir = Dir::new();
    plant(&dir, "a");
    dir.run("-r --exclude *.o a b").ok();
    dir.file("a/x.o", "x");
    dir.file("b/y.o", "y");
    assert_eq!(dir.run("--check a b").status(), 1);
    assert_eq!(dir.run("--check -r --exclude *.o a b").ok().out(), "");
}

#[test]
fn what_makes_no_sense_is_refused() {
    let dir = Dir::new();
    dir.file("a", "x");
    dir.run("--check a").fails(2, &["--check takes SRC and DST"]);
    dir.run("--check").fails(2, &["--check takes SRC and DST"]);
    dir.run("--check a missing").fails(1, &["cannot open 'missing'"]);
    dir.run("--check --manifest missing").fails(1, &["cannot read 'missing'"]);
    for option in ["--files-from a", "--parents", "-x", "--shard 1/2", "--delete -r"] {
        let words = ["leave -", " out", "all of SRC and DST"]; // not what the user meant
        dir.run(&format!("--check {option} a a")).fails(2, &words);
    }
    dir.file("list", "no checksum\n");
    dir.run("--check --manifest list").fails(1, &["'list', line 1: not a checksum"]);
}

#[test]
fn checksums_are_those_of_b3sum_and_are_checked() {
    let dir = Dir::new();
    plant(&dir, "a");
    dir.file("a/odd\\name\n", "odd");
    fs::write(dir.join(std::ffi::OsStr::from_bytes(b"a/\xff")), "not UTF-8").unwrap();
    dir.run("-a --manifest sums a b").ok();
    let sums = dir.read("sums");
    let lines: Vec<&[u8]> = sums.split_inclusive(|&byte| byte == b'\n').collect();
    assert_eq!(lines.len(), 6, "every regular file by each of its names, and no link");
    let hash = blake3::hash(&bytes((8 << 20) + 5)).to_hex();
    assert!(lines.contains(&format!("{hash}  b/d/e/big\n").as_bytes()));
    match dir.command("b3sum", ["--check", "sums"]).output() {
        // It does not take names that are not UTF-8, and all others are right.
        Ok(out) => {
            let out = Ran(out).out();
            assert_eq!(out.lines().filter(|line| line.ends_with("OK")).count(), 5, "{out}");
        }
        Err(error) => println!("not tested: b3sum: {error}"),
    }
    assert_eq!(dir.run("--check --manifest sums").ok().out(), "");
    overwrite(&dir, "b/d/e/big", 77);
    fs::remove_file(dir.join("b/empty")).unwrap();
    let ran = dir.run("--check --manifest sums");
    assert_eq!(ran.status(), 1);
    let out = ran.out();
    assert!(
        out.contains("'b/d/e/big': has another checksum") && out.contains("'b/empty'"),
        "{out}"
    );
    assert_eq!(out.lines().count(), 2, "{out}");
}

#[test]
fn single_files_have_checksums_too() {
    let dir = Dir::new();
    dir.file("a", bytes(12_345));
    dir.run("--manifest sums a b").ok();
    let hash = blake3::hash(&bytes(12_345)).to_hex();
    assert_eq!(dir.read("sums"), format!("{hash}  b\n").as_bytes());
    // What is left since it is the same is on the list as well, what is left as it is, is not.
    dir.run("--manifest again --checksum a b").ok();
    assert_eq!(dir.read("again"), dir.read("sums"));
    dir.run("-n --manifest none a b").ok();
    assert_eq!(dir.read("none"), b"");
    dir.run("--manifest sums a -").fails(2, &["standard output"]);
}

#[test]
fn what_does_not_tell_its_length_is_compared_to_its_end() {
    let dir = Dir::new();
    let source = "/proc/sys/kernel/ostype";
    dir.run(&format!("{source} copy")).ok();
    dir.run(&format!("--check {source} copy")).ok();
    dir.run(&format!("--check copy {source}")).ok();
    let text = dir.read("copy");
    dir.file("sums", format!("{}  {source}\n", blake3::hash(&text).to_hex()));
    dir.run("--check --manifest sums").ok();
    overwrite(&dir, "copy", 1);
    let ran = dir.run(&format!("--check {source} copy"));
    assert_eq!((ran.status(), ran.out().as_str()), (1, "'copy': has other contents\n"));
}

#[test]
fn nobody_waits_for_the_writer_of_a_fifo() {
    let dir = Dir::new();
    mkfifo(&dir.join("fifo"), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    dir.file("a", "x");
    fs::create_dir(dir.join("d")).unwrap();
    let hash = blake3::hash(b"x").to_hex();
    dir.file("sums", format!("{hash}  fifo\n{hash}  a\n{hash}  /dev/null\n{hash}  d\n"));
    let ran = dir.run("--check --manifest sums");
    let lines = "'fifo': cannot read it: it is no regular file\n\
                 '/dev/null': cannot read it: it is no regular file\n\
                 'd': cannot read it: is a directory\n";
    assert_eq!((ran.status(), ran.out().as_str()), (1, lines));
    let ran = dir.run("--check a fifo");
    let other_kind = "'fifo': is something else than in the source\n";
    assert_eq!((ran.status(), ran.out().as_str()), (1, other_kind));
}

#[test]
fn links_are_followed_where_that_is_asked_for() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("a/d")).unwrap();
    dir.file("a/d/f", "x");
    symlink("d", dir.join("a/l")).unwrap();
    symlink("d/f", dir.join("a/f")).unwrap();
    dir.run("-rL a b").ok();
    assert!(!dir.join("b/l").is_symlink());
    dir.run("--check a b").fails(1, &[]);
    dir.run("--check -L a b").ok();
    dir.file("b/l/f", "y");
    let ran = dir.run("--check -L a b");
    assert_eq!((ran.status(), ran.out().as_str()), (1, "'b/l/f': has other contents\n"));
    // What leads back does not go on for ever.
    dir.run("-a a c").ok();
    for side in ["a", "c"] {
        symlink("..", dir.join(side).join("d/up")).unwrap();
    }
    let ran = dir.run("--check -L a c");
    let again = "'c/d/up': is 'c/' again, which it lies in: left out";
    assert!(ran.status() == 1 && ran.out().contains(again), "{}", ran.out());
    dir.run("--check a c").ok();
    fs::remove_file(dir.join("a/d/f")).unwrap();
    let ran = dir.run("--check -L a c");
    assert!(ran.out().contains("'c/f': cannot look at it in the source"), "{}", ran.out());
}

#[test]
fn pipes_are_compared_without_waiting() {
    let dir = Dir::new();
    for name in ["p", "q"] {
        nix::unistd::mkfifo(&dir.join(name), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    dir.file("f", "x");
    dir.run("--check p q").ok();
    dir.run("--check f q").fails(1, &[]);
    dir.run("--check p f").fails(1, &[]);
}

#[test]
fn more_directories_than_there_are_descriptors_are_compared() {
    let dir = Dir::new();
    for beside in 0..200 {
        fs::create_dir_all(dir.join(format!("a/{beside}/in/it"))).unwrap();
    }
    // At each depth something is left to do when the next is gone into.
    let mut path = dir.join("a");
    for depth in 0..300 {
        fs::create_dir_all(path.join("z")).unwrap();
        fs::create_dir_all(path.join("b")).unwrap();
        fs::write(path.join("z/f"), depth.to_string()).unwrap();
        path.push("m");
    }
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("last"), "x").unwrap();
    dir.run("-a a b").ok();
    let check = || {
        let limited = "ulimit -n 64; exec \"$0\" -a --check a b";
        let out = dir.command("bash", ["-c", limited, env!("CARGO_BIN_EXE_hugecp")]).output();
        Ran(out.unwrap())
    };
    assert_eq!(check().status(), 0, "{}{}", check().out(), check().err());
    let deep = dir.join("b").join(path.strip_prefix(dir.join("a")).unwrap());
    fs::write(deep.join("last"), "y").unwrap();
    let ran = check();
    assert!(
        ran.status() == 1 && ran.out().contains("m/last': has other contents"),
        "{}",
        ran.out()
    );
}

#[test]
fn links_that_are_named_are_followed_where_a_copy_would() {
    let dir = Dir::new();
    fs::create_dir(dir.join("a")).unwrap();
    dir.file("a/f", "x");
    for (name, text) in [("one", "a"), ("two", "./a"), ("gone", "nowhere")] {
        symlink(text, dir.join(name)).unwrap();
    }
    dir.run("-a gone copy").ok();
    dir.run("-a --check gone copy").ok();
    dir.run("--check gone copy").fails(1, &["gone"]);
    for (options, status) in [("", 0), ("-H", 0), ("-L", 0), ("-a", 1), ("-P", 1), ("-aH", 0)] {
        let ran = dir.run(&format!("{options} --check one two"));
        assert_eq!(ran.status(), status, "{options}: {}{}", ran.out(), ran.err());
    }
    let ran = dir.run("-a --check one two");
    assert!(ran.out().contains("'two': leads elsewhere"), "{}", ran.out());
    let ran = dir.run("-P --check one a");
    assert!(ran.out().contains("'a': is something else"), "{}", ran.out());
    dir.run("-r --check one/ two/").ok();
}
