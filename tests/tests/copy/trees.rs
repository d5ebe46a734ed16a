//! Trees on real file systems: as rsync sees them, what they leave in the page cache, and what a
//! full file system does to them.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use bookend_tests::data::{cached, drop_from_cache, random_file, sparse_file};
use bookend_tests::machine::{FsKind, MachineLock, MountedFs, scratch};
use bookend_tests::skip::{or_say, require_program};
use bookend_tests::tools::Run;

const MIB: u64 = 1 << 20;

/// Files of all sorts of lengths in directories of directories, and one big file.
fn plant(top: &Path) {
    for d in 0..40 {
        let dir = top.join(format!("d{}/e{}", d % 7, d));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..25_u64 {
            let path = dir.join(format!("f{file}"));
            random_file(&path, (file * file * 37) % 20_000, file + d).unwrap();
            let mode = [0o644, 0o755, 0o400, 0o664][file as usize % 4];
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        fs::hard_link(dir.join("f3"), top.join(format!("link{d}"))).unwrap();
        symlink("../e0/f1", dir.join("symlink")).unwrap();
    }
    random_file(&top.join("big"), 64 * MIB + 13, 99).unwrap();
    random_file(&top.join("middling"), 3 * MIB + 1, 98).unwrap();
    sparse_file(&top.join("sparse"), 40 * MIB, &[8 * MIB..9 * MIB], 97).unwrap();
    let _ = xattr::set(top.join("d0"), "user.colour", b"green"); // compared where there are any
    let _ = Command::new("setfacl").args(["-m", "u:77:rw"]).arg(top.join("middling")).status();
}

fn differences(one: &Path, other: &Path) -> String {
    let slash = |path: &Path| format!("{}/", path.display());
    let mut rsync = Command::new("rsync");
    rsync.args(["-aHAXn", "--delete", "--itemize-changes", "--checksum"]);
    Run::of(rsync.arg(slash(one)).arg(slash(other))).expect(0).stdout
}

#[test]
fn an_archive_is_the_same_on_every_file_system() {
    let lock = MachineLock::take();
    if or_say(require_program("rsync", "rsync")).is_none() {
        return;
    }
    for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs, FsKind::Tmpfs] {
        let Some(fs) = or_say(MountedFs::new(&lock, kind, 600 * MIB)) else { continue };
        let (source, target) = (fs.path().join("source"), fs.path().join("target"));
        plant(&source);
        for options in [&["-a"][..], &["-a", "--reflink=never", "--threads=4"], &["-aT"]] {
            let mut command = Command::new(bookend_tests::tools::hugecp());
            let run = Run::of(command.args(options).arg(&source).arg(&target)).expect(0);
            assert_eq!(run.stderr, "", "{kind:?} {options:?}");
            assert_eq!(differences(&source, &target), "", "{kind:?} {options:?}");
            if options[0] == "-a" {
                fs::remove_dir_all(&target).unwrap();
            }
        }
        // And from there to the machine's own.
        let dir = scratch().dir("tree");
        let target = dir.path().join("target");
        Run::hugecp([Path::new("-a"), &source, &target]).expect(0);
        assert_eq!(differences(&source, &target), "", "from {kind:?}");
        let same = Run::hugecp([Path::new("--check"), Path::new("-a"), &source, &target]);
        assert_eq!(same.expect(0).stdout, "", "hugecp --check and rsync agree");
    }
}

/// On Btrfs one thread makes small files and others open them; where few files may be open, all make some.
#[test]
fn small_files_on_btrfs_share_blocks_however_many_threads_and_descriptors_there_are() {
    let lock = MachineLock::take();
    if or_say(require_program("rsync", "rsync")).is_none() {
        return;
    }
    let Some(fs) = or_say(MountedFs::new(&lock, FsKind::Btrfs, 600 * MIB)) else { return };
    let (source, target) = (fs.path().join("source"), fs.path().join("target"));
    plant(&source);
    nix::unistd::syncfs(fs::File::open(&source).unwrap()).unwrap();
    for (threads, descriptors) in [(1, 4096), (2, 4096), (8, 4096), (4, 120)] {
        let script =
            format!("ulimit -n {descriptors} && exec \"$0\" -a --threads {threads} \"$1\" \"$2\"");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).arg(bookend_tests::tools::hugecp());
        let run = Run::of(command.arg(&source).arg(&target)).expect(0);
        assert_eq!(run.stderr, "", "{threads} threads, {descriptors} descriptors");
        assert_eq!(differences(&source, &target), "", "{threads}, {descriptors}");
        let long = target.join("d3/e3/f20"); // 14,800 bytes: too long to lie in the tree itself
        let map = Run::of(Command::new("filefrag").arg("-v").arg(&long)).expect(0);
        let extents: Vec<&str> = map.stdout.lines().filter(|line| line.contains("..")).collect();
        assert!(!extents.is_empty(), "{map:#?}");
        assert!(extents.iter().all(|line| line.contains("shared")), "{threads}: {map:#?}");
        fs::remove_dir_all(&target).unwrap();
    }
}

#[test]
fn big_files_of_a_tree_stay_out_of_the_page_cache() {
    let dir = scratch().dir("tree");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    plant(&source);
    drop_from_cache(&source.join("big")).unwrap();
    let run = Run::hugecp([Path::new("-a"), Path::new("--explain"), &source, &target]).expect(0);
    if !run.stdout.contains("target written with O_DIRECT") {
        println!("skipped: the file system here takes no O_DIRECT");
        return;
    }
    for path in [source.join("big"), target.join("big")] {
        let Some(pages) = cached(&path) else { return println!("skipped: no fincore") };
        assert!(pages <= MIB, "{}: {pages} bytes in the page cache", path.display());
    }
}

#[test]
fn a_full_file_system_keeps_whole_files_only() {
    let lock = MachineLock::take();
    let dir = scratch().dir("tree");
    let source = dir.path().join("source");
    plant(&source);
    for (kind, size) in [(FsKind::Ext4, 24), (FsKind::Tmpfs, 16), (FsKind::Btrfs, 120)] {
        let Some(fs) = or_say(MountedFs::new(&lock, kind, size * MIB)) else { continue };
        let target = fs.path().join("target");
        let run = Run::hugecp([Path::new("-a"), &source, &target]);
        assert_eq!(run.status, Some(1), "{kind:?}: {run:#?}");
        assert!(run.stderr.contains("No space left"), "{kind:?}: {run:#?}");
        let check = Run::hugecp([Path::new("--check"), &source, &target]);
        for line in check.stdout.lines() {
            assert!(line.ends_with("is missing"), "{kind:?}: half a file: {line}");
        }
    }
}
