//! Attributes of trees that get in the way of each other, or cannot all be had.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Dir, Ran, bytes};

/// An ACL as the kernel keeps it, by which a named user, the group and others may read, and the owner has these rights.
fn acl(owner: u16) -> Vec<u8> {
    let entries: [(u16, u16, u32); 5] = [
        (0x01, owner, u32::MAX),
        (0x02, 4, 77),       // a named user
        (0x04, 4, u32::MAX), // the group
        (0x10, 4, u32::MAX), // the mask
        (0x20, 4, u32::MAX), // others
    ];
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        acl.extend([tag.to_le_bytes(), rights.to_le_bytes()].concat());
        acl.extend(id.to_le_bytes());
    }
    acl
}

/// Gives a file or directory a user's attribute and, if `with_acl`, an ACL before it, so that most file systems list that
/// first; says whether it could have them.
fn tag(test: &str, path: &Path, with_acl: bool) -> bool {
    let acl = match with_acl {
        true => xattr::set(path, "system.posix_acl_access", &acl(4)),
        false => Ok(()),
    };
    let mode = fs::metadata(path).unwrap().permissions().mode();
    set_mode(path, mode | 0o200);
    let tagged = acl.and_then(|()| xattr::set(path, "user.k", b"v"));
    set_mode(path, mode);
    tagged.inspect_err(|error| println!("skipped: {test}: attributes: {error}")).is_ok()
}

/// `hugecp` as a user with no rights but those to `dir` and what is in it, which are given to that user.
fn as_nobody(dir: &Dir, line: &str) -> Ran {
    with_umask("022", dir, line)
}

fn with_umask(umask: &str, dir: &Dir, line: &str) -> Ran {
    let shell = ["sh", "-c", "umask $0; exec \"$@\"", umask, env!("CARGO_BIN_EXE_hugecp")];
    let nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
    let mut words = shell.to_vec();
    if common::is_root() {
        Ran(dir.command("chown", ["-R", "65534:65534", "."]).output().unwrap()).ok();
        words.splice(..0, nobody);
    }
    words.extend(line.split_whitespace());
    Ran(dir.command(words[0], &words[1..]).output().unwrap())
}

/// Options with which `localhost` is reached.
fn far(dir: &Dir) -> String {
    let rsh = common::remote::script(dir, "rsh", "shift\nexec \"$@\"");
    format!("--rsh {} --remote-program {}", rsh.display(), common::remote::HUGECP)
}

/// Whether such a user may run the program where it is.
fn nobody_can(test: &str, dir: &Dir) -> bool {
    let ran = as_nobody(dir, "--version");
    if ran.status() != 0 {
        println!("skipped: {test}: another user may not run the program: {}", ran.err());
    }
    ran.status() == 0
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[track_caller]
fn assert_like(dir: &Dir, one: &str, other: &str) {
    let of = |path: &str| {
        let path = dir.join(path);
        let get = |name: &str| xattr::get(&path, name).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        (format!("{mode:o}"), get("user.k"), get("system.posix_acl_access"))
    };
    assert_eq!(of(one), of(other), "{one} and {other}");
}

#[test]
fn an_acl_without_the_right_to_write_keeps_no_attribute_away() {
    let test = "an_acl_without_the_right_to_write_keeps_no_attribute_away";
    let dir = Dir::new();
    dir.file("a/file", "one");
    dir.file("a/long", vec![7; 9 << 20]);
    dir.file("a/d/in", "two");
    if !nobody_can(test, &dir) {
        return;
    }
    for name in ["a/file", "a/long", "a/d"] {
        if !tag(test, &dir.join(name), true) {
            return;
        }
    }
    set_mode(&dir.join("a/d"), 0o555);
    as_nobody(&dir, "-a a b").ok();
    for name in ["file", "long", "d"] {
        assert_like(&dir, &format!("a/{name}"), &format!("b/{name}"));
    }
    assert_eq!(dir.read("b/d/in"), b"two");
    set_mode(&dir.join("a/d"), 0o755);
    set_mode(&dir.join("b/d"), 0o755);
}

#[test]
fn a_read_only_copy_is_the_same_again_and_gets_what_it_lacks() {
    let test = "a_read_only_copy_is_the_same_again_and_gets_what_it_lacks";
    let dir = Dir::new();
    dir.file("a/file", "one");
    dir.file("a/d/in", "two");
    if !nobody_can(test, &dir)
        || !tag(test, &dir.join("a/file"), false)
        || !tag(test, &dir.join("a/d"), false)
    {
        return;
    }
    set_mode(&dir.join("a/file"), 0o444);
    set_mode(&dir.join("a/d"), 0o500);
    as_nobody(&dir, "-aT a b").ok();
    for line in ["-aT --checksum a b", "-aT --resume a b"] {
        as_nobody(&dir, line).ok();
        assert_like(&dir, "a/file", "b/file");
        assert_like(&dir, "a/d", "b/d");
        // The next time one of them has another value, which whoever owns it cannot write as it is.
        for name in ["a/file", "a/d"] {
            let mode = fs::metadata(dir.join(name)).unwrap().permissions().mode();
            set_mode(&dir.join(name), 0o700);
            xattr::set(dir.join(name), "user.k", line.as_bytes()).unwrap();
            set_mode(&dir.join(name), mode);
        }
        as_nobody(&dir, line).ok();
        assert_like(&dir, "a/file", "b/file");
        assert_like(&dir, "a/d", "b/d");
    }
}

#[test]
fn a_file_without_some_attribute_keeps_its_other_names() {
    let test = "a_file_without_some_attribute_keeps_its_other_names";
    let dir = Dir::new();
    dir.file("a/small", "one");
    dir.file("a/long", vec![7; 9 << 20]);
    // Where it is mapped to nobody, even who is root there cannot give a copy to its owner.
    for name in ["small", "long"] {
        let path = dir.join("a").join(name);
        fs::hard_link(&path, dir.join(format!("a/{name}-too"))).unwrap();
        fs::hard_link(&path, dir.join(format!("a/{name}-again"))).unwrap();
        if let Err(error) = chown(&path, Some(1234), Some(1234)) {
            return println!("skipped: {test}: chown: {error}");
        }
    }
    let run = |line: &str| {
        let program = ["-Ur", env!("CARGO_BIN_EXE_hugecp")].into_iter();
        dir.command("unshare", program.chain(line.split_whitespace())).output()
    };
    match run("--version") {
        Ok(out) if out.status.success() => {}
        other => return println!("skipped: {test}: no user namespace here: {other:?}"),
    }
    dir.file("same/small", "one");
    dir.file("same/long", vec![7; 9 << 20]);
    for line in ["-aT a new", "-aT --checksum a same"] {
        let to = line.split(' ').next_back().unwrap();
        let said = [&*format!("'{to}/"), "was copied, but not its owner"];
        let ran = Ran(run(line).unwrap()).fails(1, &said);
        assert!(ran.err().contains("2 could not be copied as asked"), "{line}: {}", ran.err());
        for name in ["small", "long"] {
            let of = |end: &str| fs::metadata(dir.join(format!("{to}/{name}{end}"))).unwrap();
            let inodes = ["", "-too", "-again"].map(|end| of(end).ino());
            assert_eq!(inodes, [of("").ino(); 3], "{line}: {name}");
            assert_eq!(of("").nlink(), 3, "{line}: {name}");
        }
    }
}

#[test]
fn rights_that_new_directories_do_not_get_are_had_while_they_are_filled() {
    let test = "rights_that_new_directories_do_not_get_are_had_while_they_are_filled";
    let dir = Dir::new();
    dir.file("a/d/in", "two");
    dir.file("a/long", bytes(9 << 20));
    set_mode(&dir.join("a/d"), 0o555);
    let mut places = vec![("under", "0777")];
    for (place, rights) in [("listing", 5), ("nothing", 0)] {
        fs::create_dir(dir.join(place)).unwrap();
        match xattr::set(dir.join(place), "system.posix_acl_default", &acl(rights)) {
            Ok(()) => places.push((place, "022")),
            Err(error) => println!("not tested: ACLs: {error}"),
        }
    }
    fs::create_dir(dir.join("under")).unwrap();
    if !nobody_can(test, &dir) {
        return;
    }
    let far = far(&dir);
    let here = places.iter().map(|(place, umask)| (*place, *umask, false));
    let there = places.iter().map(|(place, umask)| (*place, *umask, true));
    for (place, umask, is_far) in here.chain(there).collect::<Vec<_>>() {
        let to = |copy: &str| match is_far {
            true => format!("{far} {copy} localhost:{}", dir.join(place).display()),
            false => format!("{copy} {place}"),
        };
        with_umask(umask, &dir, &format!("-aT {}/a", to("a"))).ok();
        with_umask(umask, &dir, &format!("-rT {}/r", to("a"))).ok();
        for name in ["", "/d", "/d/in", "/long"] {
            assert_like(&dir, &format!("a{name}"), &format!("{place}/a{name}"));
        }
        // What -a gives is the source's; without it, what a new directory gets here.
        let owner = match place {
            "under" | "nothing" => 0,
            _ => 0o500,
        };
        for name in ["", "/d"] {
            let found = fs::metadata(dir.join(format!("{place}/r{name}"))).unwrap().mode();
            assert_eq!(found & 0o700, owner, "{place}/r{name}: {found:o}");
            set_mode(&dir.join(format!("{place}/r{name}")), 0o700); // to be looked into
        }
        for copy in ["a", "r"] {
            let of = |name: &str| dir.join(format!("{place}/{copy}{name}"));
            for (name, mode) in [("", 0o700), ("/d", 0o700), ("/d/in", 0o600), ("/long", 0o600)] {
                set_mode(&of(name), mode); // to be read, and removed
            }
            assert_eq!(fs::read(of("/d/in")).unwrap(), b"two");
            assert!(fs::read(of("/long")).unwrap() == bytes(9 << 20), "{place}/{copy}/long");
            fs::remove_dir_all(of("")).unwrap();
        }
    }
    set_mode(&dir.join("a/d"), 0o755);
}

#[test]
fn a_directory_that_may_only_be_read_is_there_and_that_is_told() {
    let test = "a_directory_that_may_only_be_read_is_there_and_that_is_told";
    let dir = Dir::new();
    dir.file("a/d/in", "two");
    dir.file("a/other", "one");
    if !nobody_can(test, &dir) {
        return;
    }
    let far = far(&dir);
    set_mode(&dir.join("a/d"), 0o444);
    for (options, target) in
        [("", "b".to_owned()), (&far, format!("localhost:{}", dir.join("b").display()))]
    {
        as_nobody(&dir, &format!("{options} -r a {target}")).fails(1, &["a/d"]);
        assert_eq!(dir.read("b/other"), b"one");
        assert_eq!(fs::metadata(dir.join("b/d")).unwrap().mode() & 0o777, 0o444, "{options}");
        set_mode(&dir.join("b/d"), 0o755);
        fs::remove_dir_all(dir.join("b")).unwrap();
    }
    set_mode(&dir.join("a/d"), 0o755);
}

#[test]
fn a_shard_goes_on_where_another_has_finished_with_a_directory() {
    let test = "a_shard_goes_on_where_another_has_finished_with_a_directory";
    let dir = Dir::new();
    for number in 0..400 {
        dir.file(&format!("a/d/{number}"), bytes(number));
        fs::create_dir(dir.join(format!("a/d/in{number}"))).unwrap();
        symlink("x", dir.join(format!("a/d/link{number}"))).unwrap();
    }
    set_mode(&dir.join("a/d"), 0o555);
    fs::create_dir_all(dir.join("b/d")).unwrap();
    if !nobody_can(test, &dir) {
        return;
    }
    // As other shards do when they are through with it.
    let (over, copy) = (AtomicBool::new(false), dir.join("b/d"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                set_mode(&copy, 0o555);
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        });
        let shards = [1, 2].map(|shard| as_nobody(&dir, &format!("-aT --shard {shard}/2 a b")));
        over.store(true, Ordering::Relaxed);
        shards.into_iter().for_each(|shard| drop(shard.ok()));
    });
    dir.run("-a --check a b").ok();
    // Without -p too, what was taken again is given back in the end.
    for umask in ["022", "077"] {
        for shard in [1, 2, 3] {
            with_umask(umask, &dir, &format!("-rT --shard {shard}/3 a c")).ok();
            let found = fs::metadata(dir.join("c/d")).unwrap().mode() & 0o777;
            let expected = 0o555 & !u32::from_str_radix(umask, 8).unwrap();
            assert_eq!(found, expected, "{umask} {shard}");
        }
        set_mode(&dir.join("c/d"), 0o755);
        fs::remove_dir_all(dir.join("c")).unwrap();
        if common::is_root() {
            for shard in [1, 2] {
                dir.run(&format!("-rT --shard {shard}/2 a c")).ok();
                let found = fs::metadata(dir.join("c/d")).unwrap().mode() & 0o700;
                assert_eq!(found, 0o500, "{shard}");
            }
            fs::remove_dir_all(dir.join("c")).unwrap();
        }
    }
    for side in ["a", "b"] {
        set_mode(&dir.join(side).join("d"), 0o755);
    }
}
