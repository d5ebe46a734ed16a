//! What `-p` keeps, on each file system that has it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use bookend_tests::data::{assert_same, random_file};
use bookend_tests::machine::{FsKind, MachineLock, MountedFs};
use bookend_tests::skip::{or_say, require_program};
use bookend_tests::tools::Run;

use crate::engines::can;

#[test]
fn mode_times_owner_acls_and_attributes() {
    if or_say(require_program("setfacl", "acl")).is_none() {
        return;
    }
    let lock = MachineLock::take();
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs, FsKind::Tmpfs] {
        let Some(fs) = or_say(MountedFs::new(&lock, kind, 400 << 20)) else { continue };
        let source = fs.path().join("source");
        random_file(&source, 300_001, 1).unwrap();
        dress(&source);
        for engine in ["auto", "direct", "buffered"] {
            if can(engine, kind) == Some(false) {
                continue;
            }
            let target = fs.path().join("target");
            let engine = format!("--engine={engine}");
            Run::hugecp([Path::new("-p"), Path::new(&engine), &source, &target]).expect(0);
            assert_same(&source, &target);
            assert_eq!(look(&source), look(&target), "{kind:?} {engine}");
            fs::remove_file(&target).unwrap();
        }
    }
}

/// Gives the file an owner, a mode, times, an ACL and two attributes.
fn dress(path: &Path) {
    std::os::unix::fs::chown(path, Some(12_345), Some(54_321)).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o2640)).unwrap();
    Run::of(Command::new("setfacl").args(["-m", "u:999:r--,g:998:rw-"]).arg(path)).expect(0);
    xattr::set(path, "user.origin", b"a test").unwrap();
    xattr::set(path, "trusted.origin", b"\0binary\xff").unwrap();
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_456_789);
    let times = fs::FileTimes::new().set_accessed(then).set_modified(then);
    fs::OpenOptions::new().write(true).open(path).unwrap().set_times(times).unwrap();
}

/// What can be seen of all that; not the time of access, which looking changes.
fn look(path: &Path) -> Vec<String> {
    let metadata = path.metadata().unwrap();
    let mut seen = vec![
        format!("mode {:o} owner {}:{}", metadata.mode(), metadata.uid(), metadata.gid()),
        format!("modified {}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
    ];
    let mut names: Vec<_> = xattr::list(path).unwrap().collect();
    names.sort();
    for name in names {
        seen.push(format!("{name:?} = {:?}", xattr::get(path, &name).unwrap()));
    }
    let acl = Run::of(Command::new("getfacl").args(["-n", "--omit-header", "-p"]).arg(path));
    seen.push(acl.expect(0).stdout);
    assert!(seen.iter().any(|line| line.contains("user:999:r--")), "{seen:?}");
    assert!(seen.iter().any(|line| line.contains("user.origin")), "{seen:?}");
    seen
}
