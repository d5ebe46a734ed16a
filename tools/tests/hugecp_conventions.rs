//! `hugecp` keeps the conventions of `cp`: operands, conflicts, links, modes, streams.

mod common;

use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use common::{Dir, Ran, bytes};

#[test]
fn files_of_awkward_lengths_arrive_whole() {
    let dir = Dir::new();
    for len in [0, 1, 511, 512, 513, 4095, 4096, 4097, (2 << 20) - 1, 2 << 20, (2 << 20) + 1] {
        let data = bytes(len);
        dir.file("a", &data);
        dir.run("a b").ok();
        assert!(dir.read("b") == data, "{len} bytes");
    }
    assert_eq!(dir.names(), ["a", "b"], "nothing else is left");
}

#[test]
fn a_directory_takes_one_file_or_several() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("d")).unwrap();
    dir.file("a", "A");
    dir.file("b", "B");
    dir.run("a d").ok();
    assert_eq!(dir.read("d/a"), b"A");
    dir.run("-t d a b").ok();
    dir.run("a b d/").ok();
    assert_eq!((dir.read("d/a"), dir.read("d/b")), (b"A".to_vec(), b"B".to_vec()));
    dir.run("-T a d").fails(1, &["'d' is a directory"]);
}

#[test]
fn one_failing_source_does_not_stop_the_others() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("d")).unwrap();
    dir.file("a", "A");
    dir.file("c", "C");
    dir.run("a missing c d").fails(1, &["'missing': No such file"]);
    assert_eq!((dir.read("d/a"), dir.read("d/c")), (b"A".to_vec(), b"C".to_vec()));
}

#[test]
fn a_file_just_copied_is_not_overwritten_by_its_namesake() {
    let dir = Dir::new();
    for name in ["x", "y", "d"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    dir.file("x/a", "X");
    dir.file("y/a", "Y");
    dir.run("x/a y/a d").fails(1, &["not overwriting 'd/a' with 'y/a'"]);
    assert_eq!(dir.read("d/a"), b"X");
    let twice = dir.run("x/a x/a d");
    assert_eq!(twice.status(), 0, "as with cp: {}", twice.err());
    assert!(twice.err().contains("named twice"), "{}", twice.err());
}

#[test]
fn existing_targets_are_replaced_left_or_compared_in_age() {
    let dir = Dir::new();
    dir.file("a", "new");
    let old = dir.file("b", "old contents");
    dir.run("-n a b").ok();
    assert_eq!(dir.read("b"), b"old contents");
    dir.run("-nfu a b").ok();
    assert_eq!(dir.read("b"), b"old contents");

    // The target is younger, of the same age, and older.
    let age = |name: &str, seconds| {
        let file = std::fs::File::options().write(true).open(dir.join(name)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
    };
    age("a", 1000);
    for (seconds, copied) in [(2000, false), (1000, false), (999, true)] {
        std::fs::write(&old, "old contents").unwrap();
        age("b", seconds);
        dir.run("-u a b").ok();
        assert_eq!(dir.read("b") == b"new", copied, "{seconds}");
    }
    dir.run("-u a not-there-yet").ok();
    dir.run("-n a not-there-either").ok();
    assert_eq!(dir.read("not-there-yet"), b"new");
    assert_eq!(dir.read("not-there-either"), b"new");
}

#[test]
fn verbose_says_what_cp_says() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("d")).unwrap();
    for name in ["a", "it's", "two words"] {
        dir.file(name, "x");
        let ours = Ran(dir.hugecp(["-v", name, "d"]).output().unwrap()).ok().out();
        let theirs = Ran(dir.command("cp", ["-v", name, "d"]).output().unwrap()).ok().out();
        assert_eq!(ours, theirs);
    }
    assert_eq!(dir.run("-n -v a d").ok().out(), "", "what is left alone is not named");
}

#[test]
fn names_may_be_any_bytes() {
    let dir = Dir::new();
    let name = std::ffi::OsStr::from_bytes(b"\xff\xfe\n \x1b");
    std::fs::write(dir.join(name), "x").unwrap();
    let out = dir.hugecp([name, std::ffi::OsStr::new("b")]).output().unwrap();
    Ran(out).ok();
    assert_eq!(dir.read("b"), b"x");
    let long = "n".repeat(255);
    Ran(dir.hugecp(["b", &long]).output().unwrap()).ok();
    Ran(dir.hugecp(["b", &long]).output().unwrap()).ok(); // over the existing one, too
    assert_eq!(dir.read(&long), b"x");
}

#[test]
fn modes_are_those_that_cp_gives() {
    let dir = Dir::new();
    for (source, existing) in [
        (0o644, None),
        (0o444, None),
        (0o4755, None),
        (0o700, None),
        (0o600, Some(0o666)),
        (0o755, Some(0o640)),
        (0o644, Some(0o4711)),
        (0o000, None),
    ] {
        if source == 0 && !common::is_root() {
            continue; // nobody else could read it
        }
        let path = dir.file("a", "x");
        std::fs::set_permissions(&path, Permissions::from_mode(source)).unwrap();
        let mut modes = Vec::new();
        for program in ["cp", env!("CARGO_BIN_EXE_hugecp")] {
            let _ = std::fs::remove_file(dir.join("b"));
            if let Some(mode) = existing {
                let path = dir.file("b", "old");
                std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
            }
            Ran(dir.command(program, ["a", "b"]).output().unwrap()).ok();
            modes.push(std::fs::metadata(dir.join("b")).unwrap().mode() & 0o7777);
        }
        assert_eq!(modes[0], modes[1], "cp and hugecp, {source:o} over {existing:?}");
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn preserving_keeps_mode_times_owner_and_attributes() {
    let dir = Dir::new();
    let source = dir.file("a", bytes(100_000));
    std::fs::set_permissions(&source, Permissions::from_mode(0o604)).unwrap();
    if common::is_root() {
        std::os::unix::fs::chown(&source, Some(1234), Some(4321)).unwrap();
    }
    let tag = xattr::set(&source, "user.colour", b"green");
    let then = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
    let file = std::fs::File::options().write(true).open(&source).unwrap();
    dir.file("existing", "x");
    for target in ["new", "existing"] {
        // Each time, since reading the source changes when it was last read.
        file.set_times(std::fs::FileTimes::new().set_modified(then).set_accessed(then)).unwrap();
        dir.run(&format!("-p a {target}")).ok();
        let (a, b) = (source.metadata().unwrap(), dir.join(target).metadata().unwrap());
        assert_eq!(b.modified().unwrap(), then);
        assert_eq!(b.accessed().unwrap(), then);
        assert_eq!((a.mode(), a.uid(), a.gid()), (b.mode(), b.uid(), b.gid()));
        match &tag {
            Ok(()) => {
                let copied = xattr::get(dir.join(target), "user.colour").unwrap();
                assert_eq!(copied.as_deref(), Some(&b"green"[..]));
            }
            Err(error) => eprintln!("not tested: user attributes in {:?}: {error}", dir.path()),
        }
    }
    dir.run("a plain").ok();
    let plain = dir.join("plain").metadata().unwrap();
    assert_ne!(plain.modified().unwrap(), then, "only -p keeps times");
}

#[test]
fn links_are_followed_on_both_sides() {
    let dir = Dir::new();
    dir.file("a", "A");
    dir.file("b", "old");
    symlink("a", dir.join("to-a")).unwrap();
    symlink("b", dir.join("to-b")).unwrap();
    dir.run("to-a to-b").ok();
    assert!(dir.join("to-b").is_symlink());
    assert_eq!(dir.read("b"), b"A");
    symlink("nowhere", dir.join("dangling")).unwrap();
    dir.run("a dangling").fails(1, &["leads nowhere"]);
    dir.run("dangling c").fails(1, &["'dangling': No such file"]);
    dir.run("a to-a").fails(1, &["'a' and 'to-a' are the same file"]);
}

#[test]
fn hard_links_are_broken_with_a_warning_or_kept_in_place() {
    let dir = Dir::new();
    dir.file("a", "A");
    dir.file("b", "old");
    std::fs::hard_link(dir.join("b"), dir.join("other")).unwrap();
    let ran = dir.run("a b");
    assert_eq!(ran.status(), 0);
    assert!(ran.err().contains("1 other hard link"), "{}", ran.err());
    assert_eq!((dir.read("b"), dir.read("other")), (b"A".to_vec(), b"old".to_vec()));

    std::fs::hard_link(dir.join("other"), dir.join("third")).unwrap();
    dir.run("--in-place a other").ok();
    assert_eq!(dir.read("third"), b"A");
}

#[test]
fn in_place_shortens_what_was_longer_and_makes_what_was_not() {
    let dir = Dir::new();
    dir.file("a", "short");
    dir.file("b", bytes(1 << 20));
    let before = dir.join("b").metadata().unwrap().ino();
    dir.run("--in-place a b").ok();
    assert_eq!(dir.read("b"), b"short");
    assert_eq!(dir.join("b").metadata().unwrap().ino(), before);
    dir.run("--in-place a c").ok();
    assert_eq!(dir.read("c"), b"short");
}

#[test]
fn a_running_program_can_be_replaced() {
    let dir = Dir::new();
    std::fs::copy("/bin/sleep", dir.join("program")).unwrap();
    let mut child = dir.command("./program", ["60"]).spawn().unwrap();
    dir.file("a", "new");
    let ran = dir.run("a program");
    child.kill().unwrap();
    child.wait().unwrap();
    ran.ok();
    assert_eq!(dir.read("program"), b"new");
}

#[test]
fn standard_input_and_output_are_files_too() {
    let dir = Dir::new();
    let data = bytes(3_000_001);
    dir.file("a", &data);
    // From a pipe, from a file that stands at its beginning, and to a pipe.
    let mut cat = dir.command("cat", ["a"]).stdout(Stdio::piped()).spawn().unwrap();
    let pipe = cat.stdout.take().unwrap();
    Ran(dir.hugecp(["-", "b"]).stdin(pipe).output().unwrap()).ok();
    cat.wait().unwrap();
    assert!(dir.read("b") == data);
    let file = std::fs::File::open(dir.join("a")).unwrap();
    Ran(dir.hugecp(["-", "c"]).stdin(file).output().unwrap()).ok();
    assert!(dir.read("c") == data);
    assert!(dir.run("a -").ok().0.stdout == data);
    let file = std::fs::File::create(dir.join("d")).unwrap();
    Ran(dir.hugecp(["a", "-"]).stdout(file).output().unwrap()).ok();
    assert!(dir.read("d") == data);
}

#[test]
fn the_tools_own_words_stay_out_of_the_data() {
    let dir = Dir::new();
    dir.file("a", "data");
    let ran = dir.run("-v --explain --json a -");
    assert_eq!((ran.status(), ran.out().as_str()), (0, "data"));
    for part in ["'a' -> '-'", "buffered", "\"engine\":\"buffered\""] {
        assert!(ran.err().contains(part), "no {part} in {}", ran.err());
    }
}

#[test]
fn appending_to_the_source_is_refused() {
    let dir = Dir::new();
    dir.file("a", "data");
    let file = std::fs::File::options().append(true).open(dir.join("a")).unwrap();
    Ran(dir.hugecp(["a", "-"]).stdout(file).output().unwrap()).fails(1, &["the same file"]);
    assert_eq!(dir.read("a"), b"data");
}

#[test]
fn a_reader_that_goes_away_is_no_news() {
    let dir = Dir::new();
    dir.file("a", bytes(4 << 20));
    let mut child =
        dir.hugecp(["a", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ran = Ran(child.wait_with_output().unwrap());
    assert_eq!((ran.status(), ran.err().as_str()), (141, ""));
}

#[test]
fn devices_and_pseudo_files_are_read_to_their_end() {
    let dir = Dir::new();
    dir.run("/proc/self/limits limits").ok();
    assert!(dir.read("limits").starts_with(b"Limit"));
    dir.run("/dev/null empty").ok();
    assert_eq!(dir.read("empty"), b"");
    dir.file("a", "x");
    dir.run("a /dev/null").ok();
    let page_size = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    if std::path::Path::new(page_size).exists() {
        dir.run(&format!("{page_size} size")).ok();
        assert_eq!(dir.read("size"), std::fs::read(page_size).unwrap());
    } else {
        eprintln!("not tested: there is no {page_size}");
    }
}

#[test]
fn holes_stay_holes() {
    let dir = Dir::new();
    let file = std::fs::File::create(dir.join("a")).unwrap();
    file.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes(4096), 32 << 20).unwrap();
    dir.run("a b").ok();
    let (a, b) = (dir.join("a").metadata().unwrap(), dir.join("b").metadata().unwrap());
    assert_eq!(a.len(), b.len());
    assert!(b.blocks() <= a.blocks() + 8, "{} blocks became {}", a.blocks(), b.blocks());
    assert!(dir.read("a") == dir.read("b"));
}

#[test]
fn verified_copies_say_so() {
    let dir = Dir::new();
    let file = std::fs::File::create(dir.join("a")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes(3_000_001), 5_000_000).unwrap();
    file.set_len(20 << 20).unwrap();
    let out = dir.run("--verify --json a b").ok().out();
    assert!(out.contains("\"verified\":true"), "{out}");
    assert!(dir.read("a") == dir.read("b"));
    // What comes from a pipe is seen once, and verified all the same.
    let file = std::fs::File::open(dir.join("a")).unwrap();
    let out = dir.hugecp(["--verify", "--json", "-", "c"]).stdin(file).output().unwrap();
    assert!(Ran(out).ok().out().contains("\"verified\":true"));
    assert!(dir.read("a") == dir.read("c"));
}

#[test]
fn what_is_open_is_written_by_its_link() {
    let dir = Dir::new();
    dir.file("a", "contents");
    let bash = |script: &str| {
        let script = format!("set -o pipefail; {script}");
        let out = dir.command("bash", ["-c", &script, env!("CARGO_BIN_EXE_hugecp")]).output();
        Ran(out.unwrap()).ok().out()
    };
    assert_eq!(bash("\"$0\" a /dev/stdout | cat"), "contents");
    assert_eq!(bash("{ \"$0\" a >(cat >&3); } 3>&1 | cat"), "contents");
    // A file that has no name any more, and another of the name that the link says.
    dir.file("gone (deleted)", "another's");
    let gone =
        "exec 5<>gone; echo something longer >&5; rm gone; \"$0\" a /dev/fd/5; cat /dev/fd/5";
    assert_eq!(bash(gone), "contents");
    assert_eq!(dir.read("gone (deleted)"), b"another's");
    assert_eq!(dir.names(), ["a", "gone (deleted)"]);
}

#[test]
fn a_pipe_that_is_newer_is_left_alone_where_that_is_asked_for() {
    let dir = Dir::new();
    let file = dir.file("f", "x");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(1000);
    std::fs::File::open(&file).unwrap().set_modified(old).unwrap();
    nix::unistd::mkfifo(&dir.join("p"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for option in ["-u", "-n", "-u --checksum"] {
        dir.run(&format!("{option} f p")).ok(); // and does not wait for whoever reads it
    }
}
