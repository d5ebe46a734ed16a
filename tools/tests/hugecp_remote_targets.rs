//! Where a copy between machines goes, and what it leaves alone there, as on one machine.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, symlink};

use common::remote::{Server, WAYS, copy, machines, run, there};
use common::{Dir, bytes};

/// The directories of a tree, and its files with what is in them.
fn contents(dir: &Dir, name: &str) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir.join(name)).unwrap() {
        let name = format!("{name}/{}", entry.unwrap().file_name().to_str().unwrap());
        if dir.join(&name).is_dir() {
            found.extend(contents(dir, &name));
        } else {
            found.push((name.clone(), fs::read(dir.join(&name)).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn a_slash_at_the_end_means_a_directory() {
    let dir = machines();
    let server = Server::start(&dir, ".");
    fs::create_dir_all(dir.join("tree/in")).unwrap();
    dir.file("tree/in/f", "f");
    dir.file("file", "file");
    for way in WAYS {
        copy(&dir, &server, way, "-r", "tree", "new/").ok();
        assert_eq!(contents(&dir, "new"), [("new/in/f".to_owned(), b"f".to_vec())], "{way}");
        copy(&dir, &server, way, "-r", "tree", "new/").ok();
        assert_eq!(dir.read("new/tree/in/f"), b"f", "{way}");
        copy(&dir, &server, way, "", "file", "new/").ok();
        assert_eq!(dir.read("new/file"), b"file", "{way}");
        fs::remove_dir_all(dir.join("new")).unwrap();
        for (options, source) in [("", "file"), ("-r", "file"), ("-rT", "file")] {
            let ran = copy(&dir, &server, way, options, source, "new/");
            ran.fails(1, &["new", "is not a directory"]);
            assert!(!dir.join("new").exists(), "{way}");
        }
        fs::create_dir(dir.join("real")).unwrap();
        symlink("real", dir.join("link")).unwrap();
        copy(&dir, &server, way, "-r", "tree", "link/").ok();
        assert_eq!(dir.read("real/tree/in/f"), b"f", "{way}");
        copy(&dir, &server, way, "-rT", "tree", "link").fails(1, &["link"]);
        copy(&dir, &server, way, "-aT --delete", "tree", "link/").ok();
        assert_eq!(contents(&dir, "real"), [("real/in/f".to_owned(), b"f".to_vec())], "{way}");
        assert!(dir.join("link").is_symlink() && !dir.join("real/tree").exists(), "{way}");
        fs::remove_file(dir.join("link")).unwrap();
        fs::remove_dir_all(dir.join("real")).unwrap();
    }
}

#[test]
fn a_pipe_is_not_replaced_by_a_file() {
    let dir = machines();
    let server = Server::start(&dir, ".");
    dir.file("file", "file");
    fs::create_dir(dir.join("tree")).unwrap();
    dir.file("tree/pipe", "file");
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for way in WAYS {
        copy(&dir, &server, way, "-n", "file", "pipe").ok();
        assert!(fs::symlink_metadata(dir.join("pipe")).unwrap().file_type().is_fifo(), "{way}");
        if way == "here" {
            continue; // which writes to it
        }
        copy(&dir, &server, way, "", "file", "pipe").fails(1, &["pipe", "is a FIFO"]);
        assert!(fs::symlink_metadata(dir.join("pipe")).unwrap().file_type().is_fifo(), "{way}");
        // As on one machine, in a tree.
        fs::create_dir(dir.join("other")).unwrap();
        let pipe = dir.join("other/pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        copy(&dir, &server, way, "-rT", "tree", "other").ok();
        assert_eq!(dir.read("other/pipe"), b"file", "{way}");
        fs::remove_dir_all(dir.join("other")).unwrap();
    }
}

#[test]
fn a_source_that_is_named_twice_is_copied_once() {
    let dir = machines();
    let server = Server::start(&dir, ".");
    dir.file("f", "f");
    for way in WAYS {
        fs::create_dir(dir.join("into")).unwrap();
        let again = match way {
            "push" | "serve-push" | "here" => "f f".to_owned(),
            "pull" => format!("{0} {0}", there(&dir, "f")),
            _ => "127.0.0.1:f 127.0.0.1:f".to_owned(),
        };
        let ran = match way {
            "here" => dir.run(&format!("{again} into")),
            "push" => run(&dir, &format!("{again} {}", there(&dir, "into"))),
            "pull" => run(&dir, &format!("{again} into")),
            "serve-push" => server.run(&dir, &format!("{again} 127.0.0.1:into")),
            _ => server.run(&dir, &format!("{again} into")),
        };
        assert_eq!(ran.status(), 0, "{way}: {}", ran.err());
        assert!(ran.err().contains("was named twice and is copied once"), "{way}: {}", ran.err());
        assert_eq!(dir.read("into/f"), b"f", "{way}");
        fs::remove_dir_all(dir.join("into")).unwrap();
    }
}

#[test]
fn operands_that_meet_overwrite_nothing_of_each_other() {
    let dir = machines();
    let server = Server::start(&dir, ".");
    const COUNT: usize = 200;
    for (top, mark) in [("a", "1"), ("b", "2")] {
        fs::create_dir_all(dir.join(top).join("d/in")).unwrap();
        for number in 0..COUNT {
            dir.file(&format!("{top}/d/in/{number}"), mark);
        }
        dir.file(&format!("{top}/d/only-{top}"), mark);
        dir.file(&format!("{top}/d/big"), bytes(3 << 20));
    }
    let (here, far) = ("a/d b/d", "127.0.0.1:a/d 127.0.0.1:b/d");
    for push in [true, false] {
        let go = |options: &str| {
            fs::create_dir_all(dir.join("into")).unwrap();
            match push {
                true => server.run(&dir, &format!("{options} {here} 127.0.0.1:into")),
                false => server.run(&dir, &format!("{options} {far} into")),
            }
        };
        let whose = |mark: &str| {
            let all = (0..COUNT).all(|n| dir.read(&format!("into/d/in/{n}")) == mark.as_bytes());
            assert!(all, "push: {push}");
            assert_eq!(dir.read("into/d/only-a"), b"1");
            assert_eq!(dir.read("into/d/only-b"), b"2");
        };
        let ran = go("-r").fails(1, &["not overwriting", "into/d/in/7"]);
        let told = ran.err().matches("not overwriting").count();
        assert!(told >= COUNT, "{told}: {}", ran.err());
        whose("1");
        fs::remove_dir_all(dir.join("into")).unwrap();
        go("-rn").ok();
        whose("1");
        // What was there before is replaced by the first, as ever.
        go("-r").fails(1, &["not overwriting"]);
        whose("1");
        fs::remove_dir_all(dir.join("into")).unwrap();
    }
}

#[test]
fn holes_of_small_files_stay_and_are_made() {
    let dir = machines();
    let server = Server::start(&dir, ".");
    let holes = File::create(dir.join("holes")).unwrap();
    holes.set_len(200 << 10).unwrap();
    holes.write_all_at(&bytes(4096), 64 << 10).unwrap();
    let mut zeros = vec![0; 200 << 10];
    zeros[64 << 10..68 << 10].copy_from_slice(&bytes(4096));
    dir.file("zeros", &zeros);
    zeros.resize(5 << 20, 0);
    dir.file("more zeros", &zeros);
    fs::rename(dir.join("more zeros"), dir.join("more")).unwrap();
    holes.sync_all().unwrap();
    let allocated = |name: &str| {
        File::open(dir.join(name)).unwrap().sync_all().unwrap();
        fs::metadata(dir.join(name)).unwrap().blocks() * 512
    };
    if allocated("holes") >= 200 << 10 {
        return println!("skipped: holes of small files: the file system has none");
    }
    for way in WAYS {
        for (options, source, sparse) in [
            ("", "holes", true),
            ("--sparse=never", "holes", false),
            ("", "zeros", false),
            ("--sparse=always", "zeros", true),
            ("--sparse=always", "more", true),
            ("-r --sparse=always --verify", "zeros", true),
            ("--sparse=always --resume", "more", true),
        ] {
            copy(&dir, &server, way, options, source, "copy").ok();
            assert!(dir.read("copy") == dir.read(source), "{way} {options} {source}");
            let (there, len) = (allocated("copy"), fs::metadata(dir.join(source)).unwrap().len());
            assert_eq!(there < len / 4, sparse, "{way} {options} {source}: {there} of {len}");
            fs::remove_file(dir.join("copy")).unwrap();
        }
    }
}
