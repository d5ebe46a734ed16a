//! `hugecp -r` and `-a` copy trees as `cp` does; `rsync` and `find` say whether they did.

mod common;

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::process::{Command, Stdio};

use common::{Dir, Ran, bytes};

/// What differs between two trees in this directory, by rsync's word; `None` without rsync.
fn differences(dir: &Dir, one: &str, other: &str) -> Option<String> {
    let line = ["-aHAXn", "--delete", "--itemize-changes", "--checksum"];
    let ends = [format!("{one}/"), format!("{other}/")];
    match dir.command("rsync", line).args(ends).output() {
        Ok(out) => Some(Ran(out).ok().out()),
        Err(error) => {
            println!("skipped: rsync: {error}");
            None
        }
    }
}

#[track_caller]
fn assert_same(dir: &Dir, one: &str, other: &str) {
    if let Some(found) = differences(dir, one, other) {
        assert_eq!(found, "", "{one} and {other} differ");
    }
}

/// Types, modes and names below a directory, in order, as `find` sees them.
fn listing(dir: &Dir, top: &str) -> String {
    let format = r"%P %y %m %s %l\n";
    let out = dir.command("find", [top, "-printf", format]).output().unwrap();
    let mut lines: Vec<String> = Ran(out).ok().out().lines().map(str::to_owned).collect();
    lines.iter_mut().filter(|line| line.contains(" d ")).for_each(|line| {
        // The size of a directory is the file system's affair.
        let mut words: Vec<&str> = line.splitn(5, ' ').collect();
        words[3] = "";
        *line = words.join(" ");
    });
    lines.sort();
    lines.join("\n")
}

/// A tree with one of everything that the caller may make.
fn everything(dir: &Dir, top: &str) {
    let at = |name: &str| dir.join(top).join(name);
    for name in ["", "d", "d/e", "empty", "other"] {
        fs::create_dir(at(name)).unwrap();
    }
    fs::write(at("d/file"), bytes(100_000)).unwrap();
    fs::write(at("d/e/none"), "").unwrap();
    fs::write(at("big"), bytes((9 << 20) + 7)).unwrap();
    fs::hard_link(at("d/file"), at("other/same")).unwrap();
    fs::hard_link(at("d/file"), at("d/e/same too")).unwrap();
    fs::hard_link(at("big"), at("other/big")).unwrap();
    symlink("../d/file", at("other/link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    symlink("d", at("to-a-directory")).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.write_all_at(b"end", 3 << 20).unwrap();
    fs::write(dir.join(top).join(OsStr::from_bytes(b"\xff\xfe\n\x1b odd")), "odd").unwrap();
    nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
    for (name, mode) in
        [("d/file", 0o4711), ("d/e/none", 0o444), ("big", 0o664), ("empty", 0o2750), ("d/e", 0o555)]
    {
        fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
    }
    for (name, key) in [("big", "user.size"), ("d", "user.of-a-directory")] {
        if let Err(error) = xattr::set(at(name), key, b"value") {
            println!("not tested: user attributes: {error}");
        }
    }
    if common::is_root() {
        std::os::unix::fs::lchown(at("dangling"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::chown(at("d/e/none"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::chown(at("other"), Some(1234), Some(4321)).unwrap();
        xattr::set(at("dangling"), "trusted.of-a-link", b"value")
            .unwrap_or_else(|error| println!("not tested: trusted attributes: {error}"));
        let made = dir.command("mknod", [&format!("{top}/null"), "c", "1", "3"]).status();
        assert!(made.unwrap().success());
    }
    let acl = dir.command("setfacl", ["-m", "u:1234:rw", &format!("{top}/big")]).status();
    let inherited = dir.command("setfacl", ["-d", "-m", "u:1:rx", &format!("{top}/d/e")]).status();
    if !acl.is_ok_and(|done| done.success()) || !inherited.is_ok_and(|done| done.success()) {
        println!("not tested: ACLs");
    }
    for name in ["d/file", "sparse", "empty", "d"] {
        touch(&dir.join(top).join(name));
    }
}

/// Gives it a time with nanoseconds, long ago.
fn touch(path: &std::path::Path) {
    let mut touch = Command::new("touch");
    touch.args(["-hd", "2001-02-03 04:05:06.123456789"]).arg(path);
    assert!(touch.status().unwrap().success());
}

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
fn one_failure_does_not_stop_the_rest_and_the_end_lists_all() {
    let dir = Dir::new();
    everything(&dir, "a");
    fs::create_dir_all(dir.join("b/d/file")).unwrap(); // a directory where a file is to go
    fs::write(dir.join("b/other"), "in the way").unwrap(); // and the other way round
    let ran = dir.run("-aT a b");
    let list = ran.err();
    ran.fails(1, &["2 could not be copied", "'b/d/file' is a directory", "'b/other'"]);
    let end = list.split("the rest was:").nth(1).unwrap();
    assert!(end.contains("b/d/file") && end.contains("b/other"), "{list}");
    assert!(dir.read("b/big") == dir.read("a/big"));
    assert_eq!(dir.read("b/other"), b"in the way");
}

#[test]
fn what_may_not_be_read_is_told_and_the_rest_copied() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("a/closed")).unwrap();
    dir.file("a/secret", "x");
    dir.file("a/open", "y");
    dir.file("a/closed/in", "z");
    fs::set_permissions(dir.join("a/secret"), Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(dir.join("a/closed"), Permissions::from_mode(0o000)).unwrap();
    let mut command = dir.hugecp(["-a", "a", "b"]);
    if common::is_root() {
        use std::os::unix::process::CommandExt;
        std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
        command.uid(65534).gid(65534);
    }
    let ran = match command.output() {
        Ok(out) => Ran(out),
        Err(error) => return println!("skipped: another user may not run the program: {error}"),
    };
    fs::set_permissions(dir.join("a/closed"), Permissions::from_mode(0o755)).unwrap();
    ran.fails(1, &["cannot open 'a/secret': Permission denied", "'a/closed'"]);
    assert_eq!(dir.read("b/open"), b"y");
}

#[test]
fn a_directory_is_not_copied_into_itself() {
    let dir = Dir::new();
    everything(&dir, "a");
    for target in ["a/new", "a/d/e", "a", "a/d/../inner"] {
        let line = if target == "a" { "-aT a a".to_owned() } else { format!("-a a {target}") };
        dir.run(&line).fails(1, &["a"]);
        assert!(!dir.join("a/new").exists() && !dir.join("a/inner").exists());
    }
    let whole = listing(&dir, "a");
    dir.run("-a a/. a/d").fails(1, &["into itself"]);
    assert_eq!(listing(&dir, "a"), whole, "nothing was made");
    dir.run("-rL a/d a/other b").fails(1, &["b"]); // there is no directory b
}

#[test]
fn a_tree_that_is_mounted_in_itself_is_not_gone_through_twice() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("a/in/again")).unwrap();
    fs::create_dir_all(dir.join("seen")).unwrap();
    dir.file("a/in/file", "x");
    let script = "mount --bind a a/in/again 2>/dev/null || exit 99; \"$0\" -a a b; s=$?; \
                  mount --bind a/in seen; \"$0\" -a a/. seen; echo $s $?";
    let out = dir
        .command("unshare", ["-m", "--", "sh", "-c", script, env!("CARGO_BIN_EXE_hugecp")])
        .output();
    let ran = match out {
        Ok(out) if out.status.success() => Ran(out),
        other => return println!("skipped: no mount namespace here: {other:?}"),
    };
    assert_eq!(ran.out(), "1 1\n", "{}", ran.err());
    assert!(ran.err().contains("'a/in/again' is the directory 'a' again"), "{}", ran.err());
    assert_eq!(dir.read("b/in/file"), b"x");
    assert!(!dir.join("b/in/again/in").exists());
}

#[test]
fn loops_of_links_end() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("a/d")).unwrap();
    symlink("..", dir.join("a/d/up")).unwrap();
    symlink("d", dir.join("a/beside")).unwrap();
    dir.run("-rL a b").fails(1, &["a/d/up' is the directory 'a' again"]);
    assert!(dir.join("b/beside").is_dir() && !dir.join("b/beside").is_symlink());
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
fn nothing_is_deleted_where_something_was_not_read() {
    let dir = Dir::new();
    everything(&dir, "a");
    everything(&dir, "b");
    dir.file("b/extra", "x");
    dir.file("b/d/e/extra", "x");
    fs::remove_file(dir.join("b/fifo")).unwrap();
    fs::create_dir(dir.join("b/fifo")).unwrap(); // cannot be replaced: b is incomplete
    dir.run("-aT --delete a b").fails(1, &["'b/fifo' is a directory"]);
    assert!(dir.join("b/extra").exists() && !dir.join("b/d/e/extra").exists());
}

#[test]
fn a_path_longer_than_the_system_takes_is_gone_down_and_up_with_few_descriptors() {
    let dir = Dir::new();
    let name = "n".repeat(100);
    // Made and looked at piece by piece: 150 names of 100 bytes.
    let make = format!(
        "mkdir a && cd a && for i in $(seq 150); do echo $i > f && mkdir {name} && touch -d @$i f \
         && cd {name} || exit 1; done"
    );
    Ran(dir.command("bash", ["-c", &make]).output().unwrap()).ok();
    let copy = "ulimit -n 100; exec \"$0\" -a a b";
    let out = dir.command("bash", ["-c", copy, env!("CARGO_BIN_EXE_hugecp")]).output().unwrap();
    Ran(out).ok();
    let look = format!(
        "cd b && for i in $(seq 150); do [ $(cat f) = $i ] && [ $(stat -c %Y f) = $i ] && cd {name} \
         || exit 1; done; ls"
    );
    assert_eq!(Ran(dir.command("bash", ["-c", &look]).output().unwrap()).ok().out(), "");
    // Both are too deep for those who clean up by path.
    Ran(dir.command("rm", ["-rf", "a", "b"]).output().unwrap()).ok();
}

#[test]
fn links_in_the_target_are_replaced_and_never_followed() {
    let dir = Dir::new();
    everything(&dir, "a");
    fs::create_dir_all(dir.join("b/d")).unwrap();
    fs::create_dir(dir.join("outside")).unwrap();
    dir.file("victim", "untouched");
    symlink("../victim", dir.join("b/big")).unwrap();
    symlink("../../victim", dir.join("b/d/file")).unwrap();
    symlink("../outside", dir.join("b/other")).unwrap();
    dir.run("-aT a b").fails(1, &["'b/other'"]);
    assert_eq!(dir.read("victim"), b"untouched");
    assert_eq!(fs::read_dir(dir.join("outside")).unwrap().count(), 0);
    assert!(dir.read("b/big") == dir.read("a/big") && !dir.join("b/big").is_symlink());
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
}

#[test]
fn many_names_of_few_files_stay_together_whatever_the_threads_do() {
    let dir = Dir::new();
    for d in 0..8 {
        fs::create_dir_all(dir.join(format!("a/{d}"))).unwrap();
        for file in 0..20 {
            let name = dir.join(format!("a/{d}/{file}"));
            match d {
                0 => fs::write(name, bytes(5000 + file)).unwrap(),
                _ => fs::hard_link(dir.join(format!("a/0/{file}")), name).unwrap(),
            }
        }
    }
    for round in 0..10 {
        let target = format!("b{round}");
        dir.run(&format!("-a --threads 4 a {target}")).ok();
        assert_eq!(dir.join(&target).join("7/19").metadata().unwrap().nlink(), 8);
        assert_same(&dir, "a", &target);
    }
}

#[test]
fn a_tree_that_changes_meanwhile_is_copied_as_far_as_it_is_there() {
    let dir = Dir::new();
    fs::create_dir(dir.join("outside")).unwrap();
    dir.file("outside/secret", "secret");
    for d in 0..20 {
        fs::create_dir_all(dir.join(format!("a/{d}"))).unwrap();
        for file in 0..50 {
            dir.file(&format!("a/{d}/{file}"), bytes(3000));
        }
    }
    // Files become links to what is outside, directories too, and back; others come and go.
    let script = "while :; do for d in 3 7 11; do rm -rf a/$d; ln -s ../outside a/$d; rm a/$d; \
                  mkdir a/$d; for f in 1 2 secret; do ln -s ../../outside/secret a/$d/$f; \
                  mkfifo a/$d/p$f; done; done; done";
    let mut other = dir.command("bash", ["-c", script]).stderr(Stdio::null()).spawn().unwrap();
    for round in 0..15 {
        let target = format!("b{round}");
        let ran = dir.run(&format!("-a a {target}"));
        assert!(ran.status() <= 1, "{}", ran.err());
        for d in (0..20).filter(|d| ![3, 7, 11].contains(d)) {
            assert_eq!(fs::read_dir(dir.join(&target).join(d.to_string())).unwrap().count(), 50);
        }
        let found = dir.command("grep", ["-rlx", "secret", &target]).output().unwrap();
        assert!(found.stdout.is_empty(), "followed a link: {:?}", Ran(found).out());
    }
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_signal_leaves_whole_files_only() {
    let dir = Dir::new();
    fs::create_dir(dir.join("a")).unwrap();
    for file in 0..100 {
        dir.file(&format!("a/{file}"), bytes(200_000));
    }
    let child =
        dir.hugecp(["-a", "--bwlimit", "10M", "a", "b"]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let ran = Ran(child.wait_with_output().unwrap());
    assert_eq!(ran.status(), 130, "{}", ran.err());
    let names: Vec<_> = fs::read_dir(dir.join("b")).unwrap().map(|e| e.unwrap()).collect();
    assert!(names.len() < 100, "it was too late");
    for entry in names {
        assert_eq!(entry.metadata().unwrap().len(), 200_000, "{:?}", entry.file_name());
    }
    dir.run("-aT --resume a b").ok();
    assert_same(&dir, "a", "b");
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
