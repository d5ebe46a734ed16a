//! `--manifest` between two machines, of which both are this one: the list is that of a copy on one.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::process::Stdio;

use common::remote::{Server, WAYS, command, copy, machines, run, there};
use common::trees::everything;
use common::{Dir, bytes, wait_until};

/// A tree of small files and big ones, with holes, names of one file, and names that a list escapes.
fn tree(dir: &Dir) {
    everything(dir, "a");
    // A server makes no devices, and a link's attributes stay where they are.
    let _ = fs::remove_file(dir.join("a/null"));
    for (name, len) in [
        ("256K", 256 << 10),
        ("more", (256 << 10) + 1),
        ("1M", 1 << 20),
        ("odd", (3 << 20) + 12_345),
    ] {
        dir.file(&format!("a/sizes/{name}"), bytes(len));
    }
    let holes = File::create(dir.join("a/sizes/holes")).unwrap();
    holes.set_len((13 << 20) + 7).unwrap();
    holes.write_all_at(&bytes(100_000), 5_000_000).unwrap();
    holes.write_all_at(b"x", 12 << 20).unwrap();
    File::create(dir.join("a/sizes/nothing")).unwrap().set_len(2 << 20).unwrap();
    dir.file("a/back\\slash\nand newline", "x");
}

/// The list of a copy on one of the [`WAYS`], of `source` to `target`, with the words of `options`.
fn listed(dir: &Dir, server: &Server, way: &str, line: [&str; 3]) -> Vec<u8> {
    let [options, source, target] = line;
    copy(dir, server, way, &format!("{options} --manifest {way}.b3"), source, target).ok();
    fs::read(dir.join(format!("{way}.b3"))).unwrap()
}

/// Where `target` is for a way: `--rsh` takes absolute paths, which the list has too.
fn place(dir: &Dir, way: &str, target: &str) -> String {
    match way {
        "push" => dir.join(target).display().to_string(),
        _ => target.to_owned(),
    }
}

#[test]
fn the_list_is_that_of_a_copy_on_one_machine() {
    let dir = machines();
    tree(&dir);
    dir.file("list", "d/file\nsizes\nsizes/odd\nother/big\nbig\n");
    let server = Server::start(&dir, ".");
    for (options, source, target, into) in [
        ("-a", "a", "out", false),
        ("-a", "a", "out", true),
        ("-r", "a/", "./out/", true),
        ("-r", "a/.", "out", true),
        ("-r --exclude odd --sparse=always --block-size 64K", "a", "out/in", true),
        ("-a --plain --streams 3 --verify", "a", "out", false),
        ("-rL", "a/d", "out", false),
        ("", "a/sizes/odd", "out", false),
        ("", "a/sizes/odd", "out", true),
        ("-T", "a/sizes/nothing", "out", false),
        ("-a --files-from list", "a", "out", false),
        ("-p --files-from list --exclude x -r", "a", "./out/", true),
    ] {
        let mut lists = Vec::new();
        for way in WAYS {
            if into {
                fs::create_dir(dir.join("out")).unwrap();
            }
            let remove = || match dir.join("out").is_dir() {
                true => fs::remove_dir_all(dir.join("out")).unwrap(),
                false => fs::remove_file(dir.join("out")).unwrap(),
            };
            let target = place(&dir, way, target);
            let remote = listed(&dir, &server, way, [options, source, &target]);
            dir.run(&format!("--check --manifest {way}.b3")).ok();
            if way == "push" {
                remove();
                if into {
                    fs::create_dir(dir.join("out")).unwrap();
                }
                let here = listed(&dir, &server, "here", [options, source, &target]);
                assert!(remote == here, "{options} {source} {target} pushed");
            } else {
                lists.push(remote);
            }
            remove();
        }
        assert!(lists[0].len() > 64, "{options} {source}");
        for (list, way) in lists.iter().zip(["here", "pull", "serve-push", "serve-pull"]) {
            let (one, other) = (String::from_utf8_lossy(list), String::from_utf8_lossy(&lists[0]));
            assert_eq!(one, other, "{way}: {options} {source} {target}");
            assert!(*list == lists[0], "{way}: {options} {source} {target}");
        }
    }
}

#[test]
fn what_is_left_is_listed_as_on_one_machine() {
    let dir = machines();
    tree(&dir);
    let server = Server::start(&dir, ".");
    for (options, lines) in [
        ("-r --checksum", true),
        ("-a --resume", true),
        ("-r --resume", true),
        ("-rn", false),
        ("-ru", false),
    ] {
        let mut lists = Vec::new();
        for way in ["here", "pull", "serve-push", "serve-pull"] {
            // Without names of one file: whether these are copies of a file that is left, or names of it, may differ.
            for name in ["a/other/same", "a/d/e/same too", "a/other/big"] {
                let _ = fs::remove_file(dir.join(name));
            }
            dir.run("-aT a out").ok();
            fs::write(dir.join("out/sizes/odd"), "another").unwrap();
            fs::remove_file(dir.join("out/d/file")).unwrap();
            lists.push(listed(&dir, &server, way, [&format!("-T {options}"), "a", "out"]));
            if !options.ends_with('n') {
                assert!(options == "-ru" || dir.read("out/sizes/odd") == dir.read("a/sizes/odd"));
            }
            fs::remove_dir_all(dir.join("out")).unwrap();
        }
        let text = String::from_utf8_lossy(&lists[0]).into_owned();
        assert!(
            text.contains("out/d/file") && text.contains("out/big") == lines,
            "{options}: {text}"
        );
        for list in &lists {
            assert_eq!(String::from_utf8_lossy(list), text, "{options}");
        }
    }
}

#[test]
fn a_copy_that_goes_on_is_listed_by_all_of_it() {
    let dir = machines();
    dir.file("a", bytes(20 << 20));
    for (from, to) in [("a".to_owned(), there(&dir, "b")), (there(&dir, "a"), "b".to_owned())] {
        let line = format!("--block-size 256K --bwlimit 8M {from} {to}");
        let mut slow = command(&dir, "./rsh", &line);
        let mut child = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        use bookend_tools::copy::journal::{HEADER_BYTES, RECORD_BYTES};
        let journal = dir.join(".b.hugecp-journal");
        wait_until("some pieces", || {
            let len = fs::metadata(&journal).map_or(0, |found| found.len());
            len >= (HEADER_BYTES + 12 * RECORD_BYTES) as u64
        });
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the end of the other end", || File::open(&journal).unwrap().try_lock().is_ok());
        let ran = run(&dir, &format!("--json --manifest list {from} {to}")).ok();
        let report: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
        assert!(report["resumed"].as_u64().unwrap() >= 2 << 20, "{report}");
        let hash = blake3::hash(&dir.read("a")).to_hex();
        let path = to.trim_start_matches("localhost:");
        assert_eq!(dir.read("list"), format!("{hash}  {path}\n").into_bytes());
        fs::remove_file(dir.join("b")).unwrap();
    }
}

#[test]
fn a_list_that_cannot_be_had_is_told() {
    let dir = machines();
    dir.file("a/f", "f");
    dir.file("a/g", bytes(1 << 20));
    symlink("nowhere", dir.join("a/l")).unwrap();
    let server = Server::start(&dir, ".");
    for way in WAYS {
        let ran = copy(&dir, &server, way, "-r --manifest none/list", "a/f", way);
        ran.fails(1, &["cannot write the checksums to 'none/list': No such file"]);
        fs::remove_file(dir.join(way)).unwrap();
        // What fails is not on it, and the rest is.
        copy(&dir, &server, way, "-rL --manifest list", "a", way).fails(1, &["a/l'"]);
        let list = String::from_utf8(dir.read("list")).unwrap();
        let names: Vec<_> = list.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
        assert_eq!(names, ["f", "g"], "{way}");
    }
    // Neither is it written over what is copied.
    let (near, far) = ("--manifest ./a/f", there(&dir, "out"));
    run(&dir, &format!("{near} a/f {far}")).fails(1, &["the list would overwrite"]);
    run(&dir, &format!("{near} {} a", there(&dir, "a/g/../f")))
        .fails(1, &["the list would overwrite"]);
    for way in &WAYS[1..] {
        let ran = copy(&dir, &server, way, "--check --manifest list", "a", "here");
        ran.fails(2, &["--check and --manifest exclude each other", "--manifest FILE there"]);
    }
}
