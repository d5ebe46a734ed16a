//! `hugecp -r` and `-a` copy trees as `cp` does; `rsync` and `find` say whether they did.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use common::trees::{assert_same, everything, listing, touch};
use common::{Dir, Ran};

#[test]
fn an_archive_is_as_the_source_in_every_way() {
    let dir = Dir::new();
    everything(&dir, "a");
    dir.run("-a a b").ok();
    assert_same(&dir, "a", "b");
    // Over what is there, which is replaced, and in a directory that gives an ACL to what is made.
    dir.run("-aT a b").ok();
    assert_same(&dir, "a", "b");
    fs::create_dir(dir.join("acl")).unwrap();
    if dir.command("setfacl", ["-d", "-m", "u:2:rwx", "acl"]).status().is_ok_and(|s| s.success()) {
        dir.run("-a a acl/c").ok();
        assert_same(&dir, "a", "acl/c");
    }
    let (a, b) = (dir.join("a/sparse"), dir.join("b/sparse"));
    assert!(b.metadata().unwrap().blocks() <= a.metadata().unwrap().blocks() + 8);
    // Another tool for links: one file with three names.
    let links = |name: &str| dir.join(name).metadata().unwrap().nlink();
    assert_eq!((links("b/d/file"), links("b/big")), (3, 2));
}

#[test]
fn each_option_about_how_is_kept_in_trees() {
    let dir = Dir::new();
    everything(&dir, "a");
    for (target, options) in [
        ("one", "--threads 1"),
        ("many", "--threads 8"),
        ("direct", "--verify --fsync"),
        ("limited", "--bwlimit 1G"),
        ("holes", "--sparse always"),
        ("place", "--in-place"),
    ] {
        dir.run(&format!("-a {options} a {target}")).ok();
        assert_same(&dir, "a", target);
        dir.run(&format!("-aT {options} a {target}")).ok();
        assert_same(&dir, "a", target);
    }
}

#[test]
fn names_and_modes_are_those_that_cp_gives() {
    // Each in a directory of its own, by cp and by hugecp: the same must be there afterwards.
    for line in [
        "-r a new",
        "-r a there",
        "-rT a there",
        "-rT a new",
        "-r a/ there",
        "-r a/. there",
        "-r a/d/.. there",
        "-r a new/",
        "-r a/other a/d there",
        "-RP a/to-a-directory new",
        "-rH a/to-a-directory new",
        "-r a/to-a-directory/ new",
        "-r a/fifo new",
        "-d a/to-a-directory a/d/file there",
        "-P a/to-a-directory there",
        "--parents a/d/file there",
        "-r --parents a/d a/other there",
        "-a a/d/file a/other there",
        "-rn a/. there",
        "-ru a/. there",
    ] {
        let mut seen = Vec::new();
        for program in ["cp", env!("CARGO_BIN_EXE_hugecp")] {
            let dir = Dir::new();
            everything(&dir, "a");
            fs::create_dir_all(dir.join("there/d")).unwrap();
            fs::write(dir.join("there/d/file"), "old").unwrap();
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let ran = Ran(dir.command(program, words).output().unwrap());
            assert_eq!((ran.status(), ran.err().as_str()), (0, ""), "{program} {line}");
            let whole = listing(&dir, ".");
            let links = if line.starts_with("-a") || line.starts_with("-d") {
                dir.command("find", [".", "-links", "+1", "-type", "f"]).output().unwrap().stdout
            } else {
                Vec::new()
            };
            let mut links: Vec<u8> = links;
            links.sort_unstable();
            seen.push((whole, links));
        }
        assert_eq!(seen[0].0, seen[1].0, "cp and hugecp {line}");
        assert_eq!(seen[0].1, seen[1].1, "hard links by cp and hugecp {line}");
    }
}

#[test]
fn one_file_system_is_not_left() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("a/other")).unwrap();
    dir.file("a/file", "x");
    let script = "mount -t tmpfs none a/other 2>/dev/null || exit 99; echo y > a/other/in; \
                  \"$0\" -ax a b && \"$0\" -a a c";
    let out = dir
        .command("unshare", ["-m", "--", "sh", "-c", script, env!("CARGO_BIN_EXE_hugecp")])
        .output();
    match out {
        Ok(out) if out.status.success() => {}
        other => return println!("skipped: no mount namespace here: {other:?}"),
    }
    assert!(dir.join("b/other").is_dir() && !dir.join("b/other/in").exists());
    assert_eq!((dir.read("b/file"), dir.read("c/other/in")), (b"x".to_vec(), b"y\n".to_vec()));
}

#[test]
fn patterns_leave_out_what_rsync_leaves_out() {
    for options in [
        "--exclude *.o",
        "--exclude /d",
        "--exclude d/",
        "--exclude d/*",
        "--include keep.o --exclude *.o",
        "--exclude *.o --include keep.o",
        "--exclude /d/**/f",
        "--include */ --include *.c --exclude *",
        "--exclude [k-m]*",
        "--exclude d/e",
        "--exclude **/e/f",
        "--exclude e?",
    ] {
        let dir = Dir::new();
        for name in ["a/d/e/g", "a/e/d", "a/keep.o"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        for name in ["x.o", "d/keep.o", "d/e/f", "d/e/g/f", "e/d/m.c", "e/el", "d/x.c", "e/f"] {
            dir.file(&format!("a/{name}"), name);
        }
        let words: Vec<&str> = options.split(' ').collect();
        Ran(dir.hugecp(["-a"]).args(&words).args(["a", "ours"]).output().unwrap()).ok();
        match dir.command("rsync", ["-a"]).args(&words).args(["a/", "theirs"]).output() {
            Ok(out) => Ran(out).ok(),
            Err(error) => return println!("skipped: rsync: {error}"),
        };
        assert_eq!(listing(&dir, "ours"), listing(&dir, "theirs"), "{options}");
    }
}

#[test]
fn listed_names_are_copied_as_by_rsync() {
    let dir = Dir::new();
    everything(&dir, "a");
    fs::write(dir.join("list"), "d/e/none\nother/link\nbig\nsparse\n").unwrap();
    dir.run("-a --files-from list a ours").ok();
    match dir.command("rsync", ["-aAX", "--files-from=list", "a", "theirs"]).output() {
        Ok(out) => Ran(out).ok(),
        Err(error) => return println!("skipped: rsync: {error}"),
    };
    // The directory around them is not listed: neither gives it a time, and a second may lie between the two.
    for root in ["ours", "theirs"] {
        touch(&dir.join(root));
    }
    assert_same(&dir, "theirs", "ours");
    fs::write(dir.join("list0"), b"\xff\xfe\n\x1b odd\0d\0").unwrap();
    dir.run("-a -0 --files-from list0 a zero").ok();
    assert_eq!(dir.names().len(), 6);
    assert!(dir.join("zero/d/e/none").exists(), "with -a, listed directories are whole");
    fs::write(dir.join("list"), "../out\nmissing\nd/file\n").unwrap();
    let ran = dir.run("-r --files-from list a third");
    ran.fails(1, &["has \"..\" in it", "'a/missing': No such file"]);
    assert!(dir.join("third/d/file").exists());
}

#[test]
fn deleting_leaves_what_rsync_leaves() {
    let mut seen = Vec::new();
    for ours in [true, false] {
        let dir = Dir::new();
        everything(&dir, "a");
        everything(&dir, "b");
        for name in ["b/extra/deep/er", "b/d/e/g", "outside"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        for name in ["b/extra/f", "b/d/e/g/h", "outside/kept", "b/kept.o", "b/d/x.o"] {
            dir.file(name, "x");
        }
        symlink("../outside", dir.join("b/to-outside")).unwrap();
        let out = if ours {
            dir.hugecp(["-aT", "--delete", "--exclude", "*.o", "a", "b"]).output()
        } else {
            dir.command("rsync", ["-aHAX", "--delete", "--exclude", "*.o", "a/", "b"]).output()
        };
        match out {
            Ok(out) => Ran(out).ok(),
            Err(error) => return println!("skipped: rsync: {error}"),
        };
        assert_eq!(dir.read("outside/kept"), b"x");
        seen.push(listing(&dir, "b"));
    }
    assert_eq!(seen[0], seen[1]);
}

#[test]
fn shards_copy_each_file_once_and_all_together_everything() {
    let dir = Dir::new();
    everything(&dir, "a");
    for number in 0..200 {
        dir.file(&format!("a/d/n{number}"), number.to_string());
    }
    touch(&dir.join("a/d"));
    let mut files = 0;
    for shard in 1..=3 {
        let out = dir.run(&format!("-aT --json --shard {shard}/3 a b")).ok().out();
        let report: serde_json::Value = serde_json::from_str(&out).unwrap();
        let here = report["files"].as_u64().unwrap();
        assert!(here > 20, "shard {shard}: {here} files");
        files += here;
    }
    assert_eq!(files, 200 + 5, "each file once; further names are links");
    assert_same(&dir, "a", "b");
    dir.run("-a --shard 4/3 a c").fails(2, &["3/8"]);
    // The second would find what the first has made, and copy into it.
    dir.run("-a --shard 1/2 a c").fails(2, &["--shard", "-T"]);
}

#[test]
fn files_with_the_same_contents_are_left_alone() {
    let dir = Dir::new();
    everything(&dir, "a");
    dir.run("-r a b").ok();
    let inode = |name: &str| dir.join(name).metadata().unwrap().ino();
    let before = (inode("b/big"), inode("b/d/file"));
    dir.file("b/sparse", "other");
    let out = dir.run("-rT --checksum --json a b").ok().out();
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((inode("b/big"), inode("b/d/file")), before);
    assert!(report["files"] == 1, "{report}");
    assert!(dir.read("b/sparse") == dir.read("a/sparse"));
    dir.file("one", "x");
    dir.file("two", "x");
    let two = inode("two");
    dir.run("--checksum one two").ok();
    assert_eq!(inode("two"), two, "without a tree, too");
}
