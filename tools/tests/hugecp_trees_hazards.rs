//! Trees that fail in part, lead into themselves, are deep, change while they are copied, or are left in the
//! middle.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

use common::trees::{assert_same, everything, listing};
use common::{Dir, Ran, bytes};

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
fn the_source_is_not_what_the_target_has_too_much() {
    let dir = Dir::new();
    for top in ["a/in/src", "a/other"] {
        fs::create_dir_all(dir.join(top)).unwrap();
    }
    dir.file("a/in/src/file", "x");
    symlink("a/in/src", dir.join("link")).unwrap();
    let whole = listing(&dir, "a");
    for source in ["a/in/src/.", "link/.", "a/in/../in/src/."] {
        for options in ["-r --delete", "-aT --delete"] {
            let ran = dir.run(&format!("{options} {source} a"));
            ran.fails(1, &["--delete would remove the source", "in the target 'a'"]);
            assert_eq!(listing(&dir, "a"), whole, "{options} {source}");
        }
    }
    // Where something else leads there, it is found on the way.
    fs::create_dir(dir.join("seen")).unwrap();
    let script =
        "mount --bind a/in/src seen 2>/dev/null || exit 99; \"$0\" -r --delete seen/. a; echo $?";
    let out = dir
        .command("unshare", ["-m", "--", "sh", "-c", script, env!("CARGO_BIN_EXE_hugecp")])
        .output();
    let ran = match out {
        Ok(out) if out.status.success() => Ran(out),
        other => return println!("skipped: no mount namespace here: {other:?}"),
    };
    assert_eq!(ran.out(), "1\n", "{}", ran.err());
    assert!(ran.err().contains("the source lies there"), "{}", ran.err());
    assert_eq!(dir.read("a/in/src/file"), b"x");
    assert_eq!(dir.read("a/file"), b"x");
    assert!(!dir.join("a/other").exists(), "the rest goes");
    // What lies further down in the source may be of the target too.
    fs::create_dir_all(dir.join("c/sub")).unwrap();
    fs::create_dir_all(dir.join("e/b")).unwrap();
    dir.file("e/b/file", "x");
    let script = "mount --bind e/b c/sub 2>/dev/null || exit 99; \"$0\" -r --delete c/. e; echo $?";
    let out = dir
        .command("unshare", ["-m", "--", "sh", "-c", script, env!("CARGO_BIN_EXE_hugecp")])
        .output();
    let ran = Ran(out.unwrap());
    assert_eq!(ran.out(), "1\n", "{}", ran.err());
    assert_eq!((dir.read("e/b/file"), dir.read("e/sub/file")), (b"x".to_vec(), b"x".to_vec()));
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
fn operands_in_more_directories_than_there_are_descriptors_are_all_copied() {
    let dir = Dir::new();
    let make = "mkdir to again && for i in $(seq 200); do mkdir -p a/d$i/e$i && echo $i > a/d$i/f$i \
                && cp a/d$i/f$i a/d$i/e$i || exit 1; done";
    Ran(dir.command("bash", ["-c", make]).output().unwrap()).ok();
    let copy = "ulimit -n 64; \"$0\" -a a/d*/* to && exec \"$0\" -a $PWD/a/d*/* again";
    let out = dir.command("bash", ["-c", copy, env!("CARGO_BIN_EXE_hugecp")]).output().unwrap();
    Ran(out).ok();
    for to in ["to", "again"] {
        for i in 1..=200 {
            let content = format!("{i}\n").into_bytes();
            assert_eq!(dir.read(&format!("{to}/f{i}")), content);
            assert_eq!(dir.read(&format!("{to}/e{i}/f{i}")), content);
        }
    }
}

#[test]
fn what_is_deeper_than_there_are_descriptors_is_deleted() {
    let dir = Dir::new();
    let make = "mkdir -p a b/extra b/part && cd b/extra && for i in $(seq 400); do echo $i > f \
                && mkdir d && cd d || exit 1; done; \
                cd \"$0\" && mkdir -p b/part/$(printf 'd/%.0s' $(seq 100))";
    let path = dir.path().to_str().unwrap();
    Ran(dir.command("bash", ["-c", make, path]).output().unwrap()).ok();
    let inner = "d/".repeat(90);
    dir.file(&format!("b/part/{inner}stays"), "kept");
    dir.file(&format!("b/part/{inner}goes"), "not kept");
    let delete = "ulimit -n 64; exec \"$0\" -aT --delete --exclude stays a b";
    let out = dir.command("bash", ["-c", delete, env!("CARGO_BIN_EXE_hugecp")]).output().unwrap();
    Ran(out).ok();
    assert_eq!(dir.names_in("b"), ["part"]);
    assert_eq!(dir.names_in(&format!("b/part/{inner}")), ["stays"]);
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
