//! Trees that meet others: several operands that go to one place, links where files are, what is removed and what
//! stays.

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use common::remote::{command, machines};
use common::{Dir, Ran, wait_until};

#[test]
fn a_link_does_not_take_the_place_of_what_it_leads_to() {
    let dir = Dir::new();
    dir.file("store/x", "precious");
    fs::create_dir(dir.join("farm")).unwrap();
    symlink("../store/x", dir.join("farm/x")).unwrap();
    for line in ["-a farm/. store", "-rT farm store", "-P farm/x store/x", "-a -f farm/x store"] {
        dir.run(line).fails(1, &["'farm/x'", "are the same file"]);
        assert_eq!(dir.read("store/x"), b"precious", "{line}");
    }
    // Another link may be replaced by it.
    symlink("../store/x", dir.join("store/y")).unwrap();
    dir.run("-P farm/x store/y").ok();
    assert_eq!(fs::read_link(dir.join("store/y")).unwrap().to_str(), Some("../store/x"));
}

#[test]
fn of_operands_that_go_to_one_place_the_last_counts() {
    let dir = Dir::new();
    for number in 0..200 {
        dir.file(&format!("first/d/f{number}"), "first");
        dir.file(&format!("second/d/f{number}"), "second");
        dir.file(&format!("third/f{number}"), "third");
    }
    fs::create_dir(dir.join("into")).unwrap();
    let all = |what: &str| {
        (0..200).all(|number| dir.read(&format!("into/d/f{number}")) == what.as_bytes())
    };
    for _ in 0..3 {
        dir.run("-a first/. second/. into").ok();
        assert!(all("second"));
        dir.run("-a second/d first/d into").ok();
        assert!(all("first"));
    }
    // Of files that were named the first one stays, as with cp.
    dir.run("first/d/f1 second/d/f1 into").fails(1, &["'second/d/f1'", "into/f1"]);
    assert_eq!(dir.read("into/f1"), b"first");
}

/// A target with what is left out in places that the source does not have.
fn with_excluded(dir: &Dir) {
    fs::create_dir_all(dir.join("a/both")).unwrap();
    for name in ["old/sub/notes.keep", "old/tmp", "old/cache/x", "both/sub/a.keep", "gone/x"] {
        dir.file(&format!("b/{name}"), name);
    }
}

fn check_excluded(dir: &Dir) {
    assert_eq!(dir.names_in("b"), ["both", "old"]);
    assert_eq!(dir.names_in("b/old"), ["cache", "sub"]);
    assert_eq!(dir.names_in("b/old/sub"), ["notes.keep"]);
    assert_eq!(dir.names_in("b/old/cache"), ["x"]);
    assert_eq!(dir.names_in("b/both/sub"), ["a.keep"]);
}

const EXCLUDED: [&str; 2] = ["--exclude=*.keep", "--exclude=/old/cache/"];

#[test]
fn what_is_left_out_is_removed_nowhere() {
    let dir = Dir::new();
    with_excluded(&dir);
    let words = ["-aT", "--delete", EXCLUDED[0], EXCLUDED[1], "a", "b"];
    Ran(dir.hugecp(words).output().unwrap()).ok();
    check_excluded(&dir);
    // Nor by another machine.
    let dir = machines();
    with_excluded(&dir);
    let line = format!(
        "-aT --delete {} {} a localhost:{}",
        EXCLUDED[0],
        EXCLUDED[1],
        dir.join("b").display()
    );
    Ran(command(&dir, "./rsh", &line).output().unwrap()).ok();
    check_excluded(&dir);
}

#[test]
fn fifos_have_the_acl_of_theirs_and_no_other() {
    let dir = Dir::new();
    let tool = |line: &str| {
        let mut words = line.split_whitespace();
        let ran = Ran(dir.command(words.next().unwrap(), words).output().unwrap()).ok();
        ran.out()
    };
    if std::process::Command::new("setfacl").arg("--version").output().is_err() {
        println!("skipped: fifos_have_the_acl_of_theirs_and_no_other: no setfacl (acl)");
        return;
    }
    fs::create_dir(dir.join("a")).unwrap();
    tool("mkfifo -m 600 a/given a/plain");
    tool("setfacl -m u:77:rw a/given");
    let acl = |name: &str| tool(&format!("getfacl -nc {name}"));
    fs::create_dir(dir.join("parent")).unwrap();
    tool("setfacl -d -m u:78:rwx parent");
    dir.run("-a a b").ok();
    dir.run("-a a/given a/plain parent").ok();
    for name in ["given", "plain"] {
        for target in ["b", "parent"] {
            let copy = format!("{target}/{name}");
            assert_eq!(acl(&copy), acl(&format!("a/{name}")), "{copy}");
            let mode = |name: &str| dir.join(name).metadata().unwrap().mode();
            assert_eq!(mode(&copy), mode(&format!("a/{name}")), "{copy}");
        }
    }
}

/// Directories that hand their group and an ACL on, as others may find them half-way.
#[test]
fn what_a_directory_hands_on_in_the_end_is_not_handed_on_before() {
    let name = "what_a_directory_hands_on_in_the_end_is_not_handed_on_before";
    if !nix::unistd::Uid::effective().is_root() {
        println!("skipped: {name}: only root gives files another group");
        return;
    }
    let dir = Dir::new();
    for number in 0..1000 {
        dir.file(&format!("a/d/f{number}"), "x");
    }
    let set = dir.command("setfacl", ["-d", "-m", "u:1234:rwx", "a/d"]).status();
    if !set.is_ok_and(|set| set.success()) {
        println!("skipped: {name}: no setfacl (acl)");
        return;
    }
    std::os::unix::fs::chown(dir.join("a/d"), None, Some(4321)).unwrap();
    fs::set_permissions(dir.join("a/d"), fs::Permissions::from_mode(0o2755)).unwrap();
    // The second shard is done with it long before the first.
    let slow = ["-aT", "--bwlimit", "1K", "--shard", "1/2", "a", "b"];
    let mut first = dir.hugecp(slow).spawn().unwrap();
    wait_until("the directory", || fs::read_dir(dir.join("b/d")).is_ok_and(|it| it.count() > 2));
    dir.run("-aT --shard 2/2 a b").ok();
    assert!(first.wait().unwrap().success());
    dir.run("--check -a a b").ok();
    // As a list has it, with what is in directories that are on it too.
    let mut list = String::from("d/f7\nd\n");
    list.extend((0..1000).map(|number| format!("d/f{number}\n")));
    dir.file("list", list);
    for target in ["c", "c"] {
        let ran = dir.run(&format!("-a --json --files-from list a {target}")).ok();
        assert!(ran.out().contains("\"files\":1000"), "each once: {}", ran.out());
        dir.run(&format!("--check -a a/d {target}/d")).ok();
    }
}

#[test]
fn a_comparison_sees_names_that_only_the_target_has_for_one_file() {
    let dir = Dir::new();
    for name in ["a", "b"] {
        dir.file(&format!("apart/{name}"), "same");
    }
    dir.file("linked/a", "same");
    fs::hard_link(dir.join("linked/a"), dir.join("linked/b")).unwrap();
    dir.run("-a apart copy").ok();
    fs::remove_file(dir.join("copy/b")).unwrap();
    fs::hard_link(dir.join("copy/a"), dir.join("copy/b")).unwrap();
    let touched = |name: &str| {
        let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
        fs::File::open(dir.join(name)).unwrap().set_times(times).unwrap();
    };
    ["apart/a", "apart/b", "copy/a", "apart", "copy"].into_iter().for_each(touched);
    let ran = dir.run("--check -a apart copy");
    assert_eq!(ran.status(), 1, "{}", ran.out());
    let said = ran.out() + &ran.err();
    assert!(said.contains("of which it is none in the source"), "{said}");
}

#[test]
fn names_that_stay_are_on_no_manifest() {
    let dir = Dir::new();
    dir.file("a/new", "new");
    fs::hard_link(dir.join("a/new"), dir.join("a/old")).unwrap();
    for taken in ["new", "old"] {
        let target = format!("b-{taken}");
        dir.file(&format!("{target}/{taken}"), "old");
        dir.run(&format!("-aT -n --manifest list a {target}")).ok();
        assert_eq!(dir.read(&format!("{target}/{taken}")), b"old");
        dir.run("--check --manifest list").ok();
        let list = String::from_utf8(dir.read("list")).unwrap();
        assert_eq!(list.lines().count(), 1, "{list}");
    }
}
