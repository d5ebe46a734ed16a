//! Names in a list, copied between two machines, of which both are this one, as they are on one.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::process::Stdio;

use common::remote::{Server, WAYS, command, copy, machines, run, there};
use common::trees::{assert_same, everything, listing, touch};
use common::{Dir, Ran};

/// What was counted, but for the time it took.
fn counts(ran: &Ran) -> serde_json::Value {
    let mut counts: serde_json::Value = serde_json::from_str(&ran.out()).unwrap();
    counts.as_object_mut().unwrap().remove("seconds");
    counts
}

/// Copies what `list` names on every way; all must become the same.
#[track_caller]
fn all_the_same(dir: &Dir, server: &Server, options: &str, list: &[u8]) {
    fs::write(dir.join("list"), list).unwrap();
    let mut seen = Vec::new();
    for way in WAYS {
        let ran = copy(dir, server, way, &format!("--json --files-from list {options}"), "a", way);
        seen.push(counts(&ran.ok()));
        // The directory around them is not listed: it has the time when the last of them came.
        touch(&dir.join(way));
    }
    for (way, counts) in WAYS.iter().zip(&seen) {
        if options.contains("-a") {
            assert_same(dir, "here", way);
        }
        assert_eq!(listing(dir, "here"), listing(dir, way), "{way}");
        assert_eq!(counts, &seen[0], "{way}");
    }
    WAYS.iter().for_each(|way| fs::remove_dir_all(dir.join(way)).unwrap());
}

#[test]
fn listed_names_become_what_they_become_here() {
    let dir = machines();
    everything(&dir, "a");
    let server = Server::start(&dir, ".");
    // Files in directories of their own attributes, names of one file, links, and each name once.
    let list = b"d/e/none\nother/link\nbig\nsparse\nother/big\nd/e/none\n./d//e/none\n/sparse\n";
    all_the_same(&dir, &server, "-a", list);
    all_the_same(&dir, &server, "-r", list);
    // Directories with what is in them, and without patterns' names.
    all_the_same(&dir, &server, "-a", b"d/e\nother/\nempty\n");
    all_the_same(&dir, &server, "-a --exclude none --exclude /link", b"d/e\nother\n");
    // What is no file, without -r, and through a link to a directory.
    all_the_same(&dir, &server, "-p", b"dangling\nfifo\nsocket\nto-a-directory\n");
    all_the_same(&dir, &server, "-L", b"to-a-directory/file\nother/link\n");
    all_the_same(&dir, &server, "-a", b"to-a-directory/e/none\nto-a-directory/file\n");
    all_the_same(&dir, &server, "-a -0", b"\xff\xfe\n\x1b odd\0d/file\0\0");
    all_the_same(&dir, &server, "-a", b"");
}

#[test]
fn what_lies_in_a_listed_directory_is_sent_once() {
    let dir = machines();
    everything(&dir, "a");
    fs::hard_link(dir.join("a/big"), dir.join("a/d/big")).unwrap();
    dir.file("a/d/kept.o", "x");
    dir.file("a/d/lost.o", "x");
    dir.file("a/d-e", "is between d and d/e where bytes are compared");
    let server = Server::start(&dir, ".");
    // All of it, and again by names; one that a pattern leaves out is taken by its name.
    fs::write(dir.join("list"), "d/e/none\nd\nd/big\nbig\nd-e\nd/kept.o\nd/e\nd\n").unwrap();
    for way in WAYS {
        let options = "-a --exclude *.o --files-from list";
        copy(&dir, &server, way, options, "a", way).ok();
        touch(&dir.join(way));
        assert!(!dir.join(way).join("d/lost.o").exists(), "{way}");
        assert_same(&dir, "here", way);
        let ran = copy(&dir, &server, way, &format!("--json {options}"), "a", "again").ok();
        if way != "here" {
            let files = counts(&ran)["files"].clone();
            assert_eq!(
                files,
                5,
                "{way}: d/file, d/e/none, big, d-e and d/kept.o, each once: {}",
                ran.out()
            );
        }
        fs::remove_dir_all(dir.join("again")).unwrap();
    }
    // The whole of it, by its own name: its attributes are those of the source, too.
    fs::remove_file(dir.join("a/null")).ok(); // which a server does not make
    fs::remove_file(dir.join("a/dangling")).unwrap(); // the attributes of links stay where they are
    fs::write(dir.join("list"), ".\nd/e/none\nbig\n").unwrap();
    for way in WAYS {
        fs::remove_dir_all(dir.join(way)).unwrap();
        copy(&dir, &server, way, "-a --files-from list", "a", way).ok();
        assert_same(&dir, "a", way);
    }
}

/// What was complained of, in order, without the machine that said it and where its directories are.
fn complaints(dir: &Dir, ran: &Ran) -> Vec<String> {
    let place = format!("{}/", dir.path().display());
    let mut lines: Vec<_> = ran.err().lines().map(|line| line.replace(&place, "")).collect();
    for line in &mut lines {
        for host in ["localhost: ", "127.0.0.1: "] {
            *line = line.replace(host, "");
        }
    }
    lines.sort();
    lines
}

#[test]
fn names_that_cannot_be_copied_are_told_as_here() {
    let dir = machines();
    everything(&dir, "a");
    let server = Server::start(&dir, ".");
    let long = "n".repeat(300);
    let list = format!(
        "../out\nmissing\nd/../file\nnone/y\nnone/z\nd/e/missing\nd/file/z\nd/file\nd\nempty/..\n{long}\n"
    );
    fs::write(dir.join("list"), list).unwrap();
    let mut seen = Vec::new();
    for way in WAYS {
        let ran = copy(&dir, &server, way, "--files-from list", "a", way);
        let ran = ran.fails(1, &["'../out' has \"..\" in it", "10 could not be copied"]);
        seen.push((complaints(&dir, &ran), listing(&dir, way)));
        assert!(dir.join(way).join("d/file").is_file() && !dir.join("out").exists(), "{way}");
    }
    for (way, seen_there) in WAYS.iter().zip(&seen) {
        assert_eq!(seen_there, &seen[0], "{way}");
    }
    for way in WAYS {
        let ran = copy(&dir, &server, way, "--files-from none", "a", "x");
        ran.fails(1, &["cannot read the list 'none': No such file"]);
        let ran = copy(&dir, &server, way, "--files-from list", "a", "no/x");
        ran.fails(1, &["cannot create directory", "no/x': No such file"]);
        copy(&dir, &server, way, "--files-from list", "none", "y")
            .fails(1, &["none': No such file"]);
        for (options, part) in [
            ("-r --delete --files-from list", "--delete needs one SRC"),
            ("-r --files-from list --parents", "cannot be used with"),
        ] {
            copy(&dir, &server, way, options, "a", "x").fails(2, &[part]);
        }
    }
    for way in &WAYS[1..] {
        copy(&dir, &server, way, "--check --files-from list", "a", "z").fails(2, &["--files-from"]);
        copy(&dir, &server, way, "-r --shard 1/2", "a", "z").fails(2, &["--shard is not possible"]);
    }
    assert!(!dir.join("z").exists());
}

#[test]
fn directories_on_the_way_get_attributes_and_keep_what_is_in_them() {
    for way in WAYS {
        let dir = machines();
        everything(&dir, "a");
        let server = Server::start(&dir, ".");
        fs::create_dir_all(dir.join("out/d")).unwrap();
        fs::set_permissions(dir.join("out/d"), fs::Permissions::from_mode(0o700)).unwrap();
        dir.file("out/d/old", "old");
        symlink("nowhere", dir.join("out/other")).unwrap();
        fs::write(dir.join("list"), "d/file\nd/e/none\nother/link\n").unwrap();
        let ran = copy(&dir, &server, way, "-a --files-from list", "a", "out");
        // What stands in the way of a directory is no place to go on in.
        ran.fails(1, &["out/other': something there is none"]);
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().mode() & 0o7777;
        // As with `rsync -a --files-from`, and `cp -a --parents` where d/e is new.
        assert_eq!((mode("out/d"), mode("out/d/e")), (mode("a/d"), 0o555), "{way}");
        let modified = |name: &str| fs::metadata(dir.join(name)).unwrap().modified().unwrap();
        assert_eq!(modified("out/d"), modified("a/d"), "{way}");
        assert_eq!(dir.read("out/d/old"), b"old");
        assert!(dir.read("out/d/file") == dir.read("a/d/file"));
        assert!(dir.join("out/other").is_symlink() && !dir.join("out/nowhere").exists());
        fs::set_permissions(dir.join("out/d"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(dir.join("list"), "d/file\n").unwrap();
        copy(&dir, &server, way, "--files-from list", "a", "out").ok();
        assert_eq!(mode("out/d"), 0o700, "{way}: without -p");
    }
}

#[test]
fn a_list_comes_from_standard_input_as_well() {
    let dir = machines();
    everything(&dir, "a");
    for (from, to) in [("a".to_owned(), there(&dir, "push")), (there(&dir, "a"), "pull".to_owned())]
    {
        let mut command = command(&dir, "./rsh", &format!("-a -0 --files-from - {from} {to}"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"d/e/none\0other/link").unwrap();
        Ran(child.wait_with_output().unwrap()).ok();
    }
    fs::write(dir.join("list"), "d/e/none\nother/link\n").unwrap();
    dir.run("-a --files-from list a here").ok();
    assert_eq!(listing(&dir, "here"), listing(&dir, "push"));
    assert_eq!(listing(&dir, "here"), listing(&dir, "pull"));
}

#[test]
fn a_list_of_many_names_goes_in_many_messages() {
    let dir = machines();
    let mut list = String::new();
    for number in 0..3000 {
        let name = format!("{:0>150}/{number:0>100}", number % 7);
        dir.file(&format!("a/{name}"), number.to_string());
        list = name + "\n" + &list;
    }
    dir.file("a/not listed", "x");
    assert!(list.len() > 20 * (32 << 10), "several times what is asked for at once");
    fs::write(dir.join("list"), &list).unwrap();
    let server = Server::start(&dir, ".");
    for way in WAYS {
        let ran = copy(&dir, &server, way, "--json --files-from list", "a", way).ok();
        assert_eq!(counts(&ran)["files"], 3000, "{way}");
        assert_eq!(listing(&dir, "here"), listing(&dir, way), "{way}");
    }
}

/// `hugecp --parents OPTIONS SOURCE... TARGET` on one of the [`WAYS`]; every path is as the user writes it.
fn with_parents(
    dir: &Dir,
    server: &Server,
    way: &str,
    [options, sources, target]: [&str; 3],
) -> Ran {
    let prefixed = |host: &str| {
        let words = sources.split(' ').map(|source| format!("{host}:{source}"));
        words.collect::<Vec<_>>().join(" ")
    };
    let options = format!("--parents {options}");
    match way {
        "here" => dir.run(&format!("{options} {sources} {target}")),
        "push" => run(dir, &format!("{options} {sources} localhost:{target}")),
        "pull" => run(dir, &format!("{options} {} {target}", prefixed("localhost"))),
        "serve-push" => server.run(dir, &format!("{options} {sources} 127.0.0.1:{target}")),
        _ => server.run(dir, &format!("{options} {} {target}", prefixed("127.0.0.1"))),
    }
}

#[test]
fn paths_of_operands_are_made_again_as_here() {
    let dir = machines();
    everything(&dir, "a");
    let server = Server::start(&dir, ".");
    let absolute = dir.join("a/d/file").display().to_string();
    for (options, sources) in [
        ("-a", "a/d/e/none"),
        ("-a", "./a//d/e a/other/ a/big"),
        ("-a --exclude none --exclude /link", "a/d a/other"),
        ("-p", "a/d/e/none a/other/link"),
        ("-P", "a/dangling a/d/file"),
        ("-r", "a/to-a-directory/e a/sparse"),
        ("-a", &absolute),
        ("-a", &format!("a/d/e/none {absolute}")),
    ] {
        let mut seen = Vec::new();
        let ways = match sources.contains(&absolute) {
            false => &WAYS[..],
            true => &WAYS[..4], // on a server, an absolute path begins at its root
        };
        for way in ways {
            fs::create_dir(dir.join(way)).unwrap();
            let line = [&format!("--json --manifest {way}.b3 {options}"), sources, *way];
            seen.push(counts(&with_parents(&dir, &server, way, line).ok()));
            touch(&dir.join(way));
            let list = String::from_utf8(fs::read(dir.join(format!("{way}.b3"))).unwrap()).unwrap();
            let here = String::from_utf8(fs::read(dir.join("here.b3")).unwrap()).unwrap();
            assert_eq!(list.replace(&format!("  {way}/"), "  here/"), here, "{way}");
        }
        for (way, counts) in ways.iter().zip(&seen) {
            // Directories above what is absolute are not this test's, and change while it runs.
            let ours = match sources.contains(&absolute) {
                true => dir.join("a").display().to_string(),
                false => String::new(),
            };
            if options.contains("-a") {
                assert_same(&dir, &format!("here{ours}"), &format!("{way}{ours}"));
            }
            assert_eq!(listing(&dir, "here"), listing(&dir, way), "{way}: {sources}");
            assert_eq!(counts, &seen[0], "{way}: {sources}");
        }
        ways.iter().for_each(|way| fs::remove_dir_all(dir.join(way)).unwrap());
    }
}

#[test]
fn operands_that_cannot_be_made_again_are_told_as_here() {
    let dir = machines();
    everything(&dir, "a");
    let server = Server::start(&dir, ".");
    let mut seen = Vec::new();
    for way in WAYS {
        fs::create_dir(dir.join(way)).unwrap();
        let sources = "a/../a/big a/d/file ./a//d/file a/none a/d no/x ../a";
        let ran = with_parents(&dir, &server, way, ["", sources, way]);
        let ran = ran.fails(1, &["'../a' has \"..\" in it", "5 could not be copied"]);
        seen.push((complaints(&dir, &ran), listing(&dir, way)));
        assert!(dir.join(way).join("a/d/file").is_file(), "{way}");
    }
    assert!(
        seen[0].0.iter().any(|line| line.contains("'./a//d/file' was named twice")),
        "{seen:?}"
    );
    for (way, seen_there) in WAYS.iter().zip(&seen) {
        assert_eq!(seen_there, &seen[0], "{way}");
    }
    for way in WAYS {
        let fails = |options: &str, sources: &str, target: &str, status: i32, part: &str| {
            with_parents(&dir, &server, way, [options, sources, target]).fails(status, &[part]);
        };
        fails("", "..", way, 1, "has \"..\" in it");
        fails("", "a/big", "none", 1, "none' does not exist: create it first");
        fails("", "a/big", "a/d/file", 1, "a/d/file' is not a directory");
        fails("-r --delete", "a", way, 2, "--delete needs one SRC");
        if way != "here" {
            fails("--check", "a", way, 2, "--check and --parents exclude each other");
        }
    }
    assert!(!dir.join("none").exists());
}
