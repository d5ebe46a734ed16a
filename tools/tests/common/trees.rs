//! Trees to copy, and what independent tools say of the copies.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::Command;

use super::{Dir, Ran, bytes};

/// What differs between two trees in this directory, by rsync's word; `None` without rsync.
pub fn differences(dir: &Dir, one: &str, other: &str) -> Option<String> {
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
pub fn assert_same(dir: &Dir, one: &str, other: &str) {
    if let Some(found) = differences(dir, one, other) {
        assert_eq!(found, "", "{one} and {other} differ");
    }
}

/// Types, modes and names below a directory, in order, as `find` sees them.
pub fn listing(dir: &Dir, top: &str) -> String {
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
pub fn everything(dir: &Dir, top: &str) {
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
    if super::is_root() {
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
pub fn touch(path: &std::path::Path) {
    let mut touch = Command::new("touch");
    touch.args(["-hd", "2001-02-03 04:05:06.123456789"]).arg(path);
    assert!(touch.status().unwrap().success());
}
