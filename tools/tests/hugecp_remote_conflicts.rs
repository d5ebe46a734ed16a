//! What a copy between two machines does with what is there already, and what it gives to what is no regular file.

mod common;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use common::remote::{machines, run, there};
use common::trees::touch;

#[test]
fn what_stands_in_the_way_is_treated_as_here() {
    let dir = machines();
    dir.file("a", "new");
    let to = there(&dir, "b");
    dir.file("b", "old");
    run(&dir, &format!("-n a {to}")).ok();
    run(&dir, &format!("-u a {to}")).ok();
    assert_eq!(dir.read("b"), b"old");
    fs::set_permissions(dir.join("b"), fs::Permissions::from_mode(0o640)).unwrap();
    run(&dir, &format!("a {to}")).ok();
    assert_eq!(dir.read("b"), b"new");
    assert_eq!(fs::metadata(dir.join("b")).unwrap().mode() & 0o777, 0o640, "as the old one");
    // A link is replaced, and not followed.
    symlink("b", dir.join("l")).unwrap();
    dir.file("a", "newer");
    run(&dir, &format!("-T a {}", there(&dir, "l"))).ok();
    assert!(!dir.join("l").is_symlink());
    assert_eq!((dir.read("l"), dir.read("b")), (b"newer".to_vec(), b"new".to_vec()));
    fs::create_dir(dir.join("d")).unwrap();
    run(&dir, &format!("-T a {}", there(&dir, "d"))).fails(1, &["d' is a directory"]);
}

#[test]
fn further_names_are_not_linked_to_something_else_that_was_left() {
    for len in [3, 3 << 20] {
        let dir = machines();
        let (new, old) = ("n".repeat(len), "o".repeat(len - 1));
        dir.file("tree/a", &new);
        fs::hard_link(dir.join("tree/a"), dir.join("tree/b")).unwrap();
        // Which name is the first, the directory says.
        let first = fs::read_dir(dir.join("tree")).unwrap().next().unwrap().unwrap().file_name();
        let [a, b] = if first == "a" { ["copy/a", "copy/b"] } else { ["copy/b", "copy/a"] };
        dir.file(a, &old);
        let to = there(&dir, "copy");
        // Both ways of saying that it is left; one by its time.
        for how in ["-aTn", "-aTu"] {
            run(&dir, &format!("{how} tree {to}")).fails(1, &[b, "copy it by itself"]);
            assert_eq!(dir.read(a), old.as_bytes(), "{how}");
            assert!(!dir.join(b).exists(), "{how}: {b} is linked to what was left");
        }
        // What has the other name stays as well.
        dir.file(b, &old);
        run(&dir, &format!("-aTn tree {to}")).ok();
        assert_eq!(dir.read(b), old.as_bytes());
        // What is left is the copy.
        fs::remove_file(dir.join(b)).unwrap();
        run(&dir, &format!("-aT tree {to}")).ok();
        fs::remove_file(dir.join(b)).unwrap();
        for how in ["-aTn", "-aTu"] {
            run(&dir, &format!("{how} tree {to}")).ok();
            assert_eq!(dir.read(b), new.as_bytes(), "{how}");
            let id = |name| fs::metadata(dir.join(name)).unwrap().ino();
            assert_eq!(id(a), id(b), "{how}");
        }
    }
}

#[test]
fn what_is_older_is_replaced_whatever_it_is() {
    let dir = machines();
    dir.file("tree/a", "new");
    fs::hard_link(dir.join("tree/a"), dir.join("tree/b")).unwrap();
    symlink("new", dir.join("tree/link")).unwrap();
    nix::unistd::mkfifo(&dir.join("tree/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let old = || {
        for name in ["copy/a", "copy/b", "copy/fifo"] {
            dir.file(name, "old");
        }
        symlink("old", dir.join("copy/link")).unwrap();
    };
    old();
    let to = there(&dir, "copy");
    run(&dir, &format!("-aTu tree {to}")).ok();
    for name in ["copy/a", "copy/b", "copy/fifo"] {
        assert_eq!(dir.read(name), b"old", "{name} is newer, and stays");
    }
    let leads_to = || fs::read_link(dir.join("copy/link")).unwrap();
    assert_eq!(leads_to(), Path::new("old"));
    for name in ["a", "b", "fifo", "link"] {
        touch(&dir.join("copy").join(name));
    }
    run(&dir, &format!("-aTu tree {to}")).ok();
    let of = |name: &str| fs::symlink_metadata(dir.join(name)).unwrap();
    assert_eq!((dir.read("copy/a"), of("copy/a").ino()), (b"new".to_vec(), of("copy/b").ino()));
    assert!(of("copy/fifo").file_type().is_fifo());
    assert_eq!(leads_to(), Path::new("new"));
    let report = run(&dir, &format!("-aTu --json tree {to}")).ok().out();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["left"], 4, "now they are as old: {report}");
}

#[test]
fn extended_attributes_of_links_and_devices_travel() {
    let dir = machines();
    symlink("nowhere", dir.join("tree-link")).unwrap();
    fs::create_dir(dir.join("tree")).unwrap();
    fs::rename(dir.join("tree-link"), dir.join("tree/link")).unwrap();
    nix::unistd::mkfifo(&dir.join("tree/fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    for name in ["tree/link", "tree/fifo"] {
        if let Err(error) = xattr::set(dir.join(name), "trusted.which", name.as_bytes()) {
            println!(
                "skipped: trusted attributes (root, and a file system that has them): {error}"
            );
            return;
        }
    }
    run(&dir, &format!("-a tree {}", there(&dir, "pushed"))).ok();
    run(&dir, &format!("-a {} pulled", there(&dir, "tree"))).ok();
    run(&dir, "-a tree here").ok();
    for copy in ["pushed", "pulled", "here"] {
        for name in ["link", "fifo"] {
            let value = xattr::get(dir.join(copy).join(name), "trusted.which").unwrap();
            assert_eq!(value, Some(format!("tree/{name}").into_bytes()), "{copy}");
        }
    }
    run(&dir, &format!("-rT {} plain", there(&dir, "tree"))).ok();
    assert_eq!(xattr::get(dir.join("plain/link"), "trusted.which").unwrap(), None);
}

#[test]
fn nothing_is_removed_where_something_could_not_be_made() {
    let dir = machines();
    dir.file("s/d/x", "new");
    dir.file("s/e", "new");
    let (source, target) = (there(&dir, "s"), there(&dir, "p"));
    for (from, to) in [("s", target.as_str()), (source.as_str(), "p")] {
        dir.file("p/d/x/in the way", "x");
        dir.file("p/d/extra", "x");
        let ran = run(&dir, &format!("-r --delete -T {from} {to}"));
        ran.fails(1, &["d/x"]);
        assert!(dir.join("p/d/extra").exists(), "{from}");
        fs::remove_dir_all(dir.join("p/d/x")).unwrap();
        run(&dir, &format!("-r --delete -T {from} {to}")).ok();
        assert_eq!(dir.names_in("p/d"), ["x"]);
        fs::remove_dir_all(dir.join("p")).unwrap();
    }
}

#[test]
fn of_operands_of_one_name_one_is_copied_and_the_other_told() {
    let dir = machines();
    for (len, kind) in [(100, "small"), (200_000, "long"), (3 << 20, "big")] {
        dir.file("a/x", vec![1; len]);
        dir.file("b/x", vec![2; len]);
        for _ in 0..5 {
            fs::create_dir(dir.join("into")).unwrap();
            let ran = run(&dir, &format!("a/x b/x {}", there(&dir, "into")));
            assert_eq!(ran.status(), 1, "{kind}: {}", ran.err());
            assert!(ran.err().contains("not overwriting"), "{kind}: {}", ran.err());
            let there = dir.read("into/x");
            assert!(there == dir.read("a/x") || there == dir.read("b/x"), "{kind}");
            fs::remove_dir_all(dir.join("into")).unwrap();
        }
    }
}
