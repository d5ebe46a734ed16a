//! `--checksum` and `--check` between two machines, of which both are this one.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use common::remote::{machines, run, there};
use common::{Dir, bytes};

/// The copy at `name` is to be told from a new one.
fn inode(dir: &Dir, name: &str) -> u64 {
    fs::metadata(dir.join(name)).unwrap().ino()
}

#[test]
fn files_that_are_equal_are_left() {
    let dir = machines();
    let (big, small) = (bytes(5 << 20 | 77), bytes(10_000));
    dir.file("src/big", &big);
    dir.file("src/small", &small);
    dir.file("src/link", &big);
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for push in [true, false] {
        for name in ["big", "small"] {
            dir.file(&format!("dst/{name}"), dir.read(&format!("src/{name}")));
            File::open(dir.join("dst").join(name)).unwrap().set_modified(then).unwrap();
        }
        let (from, to) = match push {
            true => ("src/.".to_owned(), there(&dir, "dst")),
            false => (there(&dir, "src/."), "dst".to_owned()),
        };
        let before = (inode(&dir, "dst/big"), inode(&dir, "dst/small"));
        let ran = run(&dir, &format!("-r --checksum --json {from} {to}")).ok();
        assert!(ran.out().contains("\"left\":2"), "{}", ran.out());
        assert!(ran.out().contains("\"files\":1"), "{}", ran.out());
        assert_eq!((inode(&dir, "dst/big"), inode(&dir, "dst/small")), before);
        assert!(dir.read("dst/link") == big);
        // With -a they are given the attributes, and nothing else.
        run(&dir, &format!("-a --checksum {from} {to}")).ok();
        assert_eq!((inode(&dir, "dst/big"), inode(&dir, "dst/small")), before);
        let time = |name: &str| fs::metadata(dir.join(name)).unwrap().mtime();
        assert_eq!(time("dst/big"), time("src/big"));
        // One byte, with the length and the time as they were.
        for name in ["big", "small"] {
            let file = File::options().write(true).open(dir.join("dst").join(name)).unwrap();
            file.write_all_at(b"?", 5_000).unwrap();
            file.set_modified(then).unwrap();
        }
        let ran = run(&dir, &format!("-r --checksum --json {from} {to}")).ok();
        assert!(
            ran.out().contains("\"left\":1") && ran.out().contains("\"files\":2"),
            "{}",
            ran.out()
        );
        assert!(dir.read("dst/big") == big && dir.read("dst/small") == small);
        assert_eq!(dir.names_in("dst"), ["big", "link", "small"]);
        fs::remove_dir_all(dir.join("dst")).unwrap();
    }
}

#[test]
fn many_files_are_compared_while_others_are_copied() {
    let dir = machines();
    for number in 0..100 {
        let data = bytes((300 << 10) + number);
        dir.file(&format!("src/{number}"), &data);
        match number % 3 {
            0 => drop(dir.file(&format!("dst/{number}"), &data)),
            1 => drop(dir.file(&format!("dst/{number}"), &data[1..])),
            _ => drop(dir.file(&format!("dst/{number}"), vec![7; data.len()])),
        }
    }
    let ran = run(&dir, &format!("-r --checksum --json src/. {}", there(&dir, "dst"))).ok();
    assert!(
        ran.out().contains("\"left\":34") && ran.out().contains("\"files\":66"),
        "{}",
        ran.out()
    );
    run(&dir, "-r --check src dst").ok();
}

#[test]
fn a_source_that_cannot_be_read_is_told_of() {
    let dir = machines();
    dir.file("a", bytes(1 << 20));
    dir.file("b", bytes(1 << 20));
    let options = "--checksum --bwlimit 1G";
    run(&dir, &format!("{options} a {}", there(&dir, "b"))).ok();
    // What stands in the way is refused as without --checksum, where it is not the same.
    dir.file("b", vec![1; 1 << 20]);
    fs::set_permissions(dir.join("b"), fs::Permissions::from_mode(0o444)).unwrap();
    let ran = run(&dir, &format!("{options} a {}", there(&dir, "b")));
    if !nix::unistd::geteuid().is_root() {
        ran.fails(1, &["may not be written"]);
    }
    run(&dir, &format!("-n --checksum a {}", there(&dir, "b"))).ok();
}

/// Two trees that are the same but for their times.
fn two(dir: &Dir) {
    for top in ["one", "two"] {
        fs::create_dir_all(dir.join(top).join("d/empty")).unwrap();
        dir.file(&format!("{top}/small"), "small");
        dir.file(&format!("{top}/d/big"), bytes(3 << 20));
        dir.file(&format!("{top}/d/left out.o"), top);
        symlink("small", dir.join(top).join("link")).unwrap();
        fs::hard_link(dir.join(top).join("small"), dir.join(top).join("d/again")).unwrap();
    }
}

#[test]
fn trees_are_compared() {
    let dir = machines();
    two(&dir);
    let both = |options: &str, parts: &[&str]| {
        for (source, target) in
            [("one".to_owned(), there(&dir, "two")), (there(&dir, "one"), "two".to_owned())]
        {
            let ran = run(&dir, &format!("--check {options} {source} {target}"));
            if parts.is_empty() {
                assert_eq!(ran.ok().out(), "", "{options}");
                continue;
            }
            let ran = ran.fails(1, &[]);
            let out = ran.out();
            for part in parts {
                assert!(out.contains(part), "{part}: {out}");
            }
            assert_eq!(out.lines().count(), parts.len(), "{out}");
        }
    };
    both("--exclude *.o", &[]);
    both("", &["two/d/left out.o': has other contents"]);
    let ran = run(&dir, &format!("--check --json --exclude *.o one {}", there(&dir, "two"))).ok();
    assert!(ran.out().contains("\"files\":3"), "{}", ran.out());
    for top in ["one", "two"] {
        fs::remove_file(dir.join(top).join("d/left out.o")).unwrap();
    }
    // Attributes are looked at only where that is asked for.
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for name in ["", "d", "d/empty", "small", "d/big"] {
        for top in ["one", "two"] {
            File::open(dir.join(top).join(name)).unwrap().set_modified(then).unwrap();
        }
    }
    let times = |ran: &common::Ran| {
        ran.out().lines().filter(|line| line.contains("time of modification")).count()
    };
    let ran = run(&dir, &format!("-a --check one {}", there(&dir, "two")));
    assert_eq!(times(&ran), 1, "that of the link alone: {}", ran.out());
    fs::set_permissions(dir.join("two/d/big"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::set_permissions(dir.join("one/d/big"), fs::Permissions::from_mode(0o600)).unwrap();
    both("", &[]);
    both("-p", &["two/d/big': has mode 0640, the source 0600", "two/link': has another time"]);
    // Everything else that can differ.
    dir.file("two/d/big", vec![3; 3 << 20]);
    fs::write(dir.join("two/small"), "other").unwrap();
    fs::remove_file(dir.join("two/link")).unwrap();
    symlink("d", dir.join("two/link")).unwrap();
    fs::remove_dir(dir.join("two/d/empty")).unwrap();
    dir.file("two/d/empty", "no directory");
    dir.file("two/more", "");
    fs::remove_file(dir.join("two/d/again")).unwrap();
    both(
        "",
        &[
            "two/d/again': is missing",
            "two/d/big': has other contents",
            "two/d/empty': is something else",
            "two/link': leads elsewhere",
            "two/more': is not in the source",
            "two/small': has other contents",
        ],
    );
    assert_eq!(dir.read("two/small"), b"other", "nothing is written");
    assert_eq!(dir.names(), ["one", "rsh", "two"]);
}

#[test]
fn files_are_compared_too() {
    let dir = machines();
    dir.file("a", "abc");
    dir.file("b", "abd");
    run(&dir, &format!("--check a {}", there(&dir, "a"))).ok();
    let ran = run(&dir, &format!("--check a {}", there(&dir, "b"))).fails(1, &[]);
    assert!(ran.out().contains("b': has other contents"), "{}", ran.out());
    let ran = run(&dir, &format!("--check a {}", there(&dir, "c"))).fails(1, &[]);
    assert!(ran.out().contains("c': is missing"), "{}", ran.out());
    let ran = run(&dir, &format!("--check none {}", there(&dir, "a"))).fails(1, &[]);
    assert!(ran.out().contains("cannot find 'none'"), "{}", ran.out());
    // A name that leads to it, as between files here.
    symlink("a", dir.join("l")).unwrap();
    run(&dir, &format!("--check a {}", there(&dir, "l"))).ok();
    // Names of one file, where it is asked which are.
    fs::create_dir(dir.join("one")).unwrap();
    fs::create_dir(dir.join("two")).unwrap();
    dir.file("one/a", "x");
    fs::hard_link(dir.join("one/a"), dir.join("one/b")).unwrap();
    dir.file("two/a", "x");
    dir.file("two/b", "x");
    run(&dir, &format!("--check one {}", there(&dir, "two"))).ok();
    let ran = run(&dir, &format!("--check -d one {}", there(&dir, "two"))).fails(1, &[]);
    assert!(ran.out().contains("is no name of the file"), "{}", ran.out());
}

#[test]
fn links_that_are_named_are_followed_where_a_copy_would() {
    let dir = machines();
    fs::create_dir(dir.join("a")).unwrap();
    dir.file("a/f", "x");
    for (name, text) in [("one", "a"), ("two", "./a")] {
        std::os::unix::fs::symlink(text, dir.join(name)).unwrap();
    }
    for (options, status) in [("", 0), ("-H", 0), ("-a", 1), ("-P", 1), ("-aH", 0)] {
        let (one, two) = (there(&dir, "one"), there(&dir, "two"));
        for line in [format!("{options} --check one {two}"), format!("{options} --check {one} two")]
        {
            let ran = run(&dir, &line);
            assert_eq!(ran.status(), status, "{line}: {}{}", ran.out(), ran.err());
        }
    }
    run(&dir, &format!("-r --check one/ {}/", there(&dir, "two"))).ok();
}
