//! What somebody sees who sits before a terminal: each display is run on one of several sizes, and a terminal
//! emulator draws what it sends.

mod common;

use std::fs;
use std::io::Read;
use std::num::NonZero;
use std::process::Stdio;

use common::{Dir, bytes};

/// What stood on a terminal of so many columns and rows, one picture after the other, and at the end, while
/// this ran between two lines of a shell's.
fn pictures(dir: &Dir, columns: u16, rows: u16, command: &str) -> Option<(Vec<String>, String)> {
    let shell = format!("stty cols {columns} rows {rows}; echo before; {command}; echo after $?");
    let mut script = dir.command("script", ["-qefc", &shell, "/dev/null"]);
    script.env("TERM", "xterm").stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = match script.spawn() {
        Ok(child) => child,
        Err(error) => {
            println!("skipped: script: {error}");
            return None;
        }
    };
    let some = |n| NonZero::new(n).unwrap();
    let mut terminal = vt100::Parser::new(some(rows), some(columns), 0);
    let mut pictures = Vec::new();
    let mut from = child.stdout.take().unwrap();
    let mut buffer = [0; 4096];
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => break,
            n => terminal.process(&buffer[..n]),
        }
        let now = terminal.screen().contents();
        if pictures.last() != Some(&now) {
            pictures.push(now);
        }
    }
    child.wait().unwrap();
    Some((pictures, terminal.screen().contents()))
}

const SIZES: [(u16, u16); 3] = [(40, 6), (80, 24), (200, 50)];

/// The line of progress in a picture, without its bar.
fn progress(picture: &str) -> Option<&str> {
    let line = picture.lines().nth(1)?;
    let line = line
        .strip_prefix('[')
        .and_then(|line| line.split_once("] "))
        .map_or(line, |(_, rest)| rest);
    line.contains("iB").then_some(line.trim_end())
}

/// Whether it is made of whole figures.
fn is_whole(line: &str) -> bool {
    let ends = ["%)", "iB", "B/s", " left", " files", " on disk", " so far"];
    line.split(", ").all(|word| ends.iter().any(|end| word.ends_with(end)))
}

#[test]
fn a_copy_shows_one_line_that_fits_and_takes_it_away() {
    let dir = Dir::new();
    dir.file("big", bytes(24 << 20));
    fs::create_dir(dir.join("tree")).unwrap();
    for file in 0..200 {
        dir.file(&format!("tree/{file}"), bytes(100_000));
    }
    let hugecp = env!("CARGO_BIN_EXE_hugecp");
    for (columns, rows) in SIZES {
        for (what, percent) in [("big one", true), ("-a tree copy", columns > 40)] {
            let command = format!("{hugecp} --bwlimit 16M {what}");
            let Some((seen, end)) = pictures(&dir, columns, rows, &command) else { return };
            let lines: Vec<_> = seen.iter().filter_map(|picture| progress(picture)).collect();
            assert!(lines.len() >= 3, "{columns} columns: {seen:#?}");
            let odd = lines.iter().find(|line| !is_whole(line));
            assert_eq!(odd, None, "{columns} columns: {lines:#?}");
            let told = lines.iter().any(|line| line.contains("%)") && line.contains("MiB of"));
            assert!(told || !percent, "{columns} columns: {lines:#?}");
            let two =
                |picture: &String| picture.lines().filter(|line| !line.is_empty()).count() <= 2;
            let most = seen.iter().find(|picture| !two(picture) && !picture.contains("after"));
            assert_eq!(most, None, "{columns} columns: no second line");
            assert_eq!(end.trim_end(), "before\nafter 0", "{columns} columns: nothing is left");
        }
        fs::remove_file(dir.join("one")).unwrap();
        fs::remove_dir_all(dir.join("copy")).unwrap();
    }
}

#[test]
fn what_goes_wrong_stands_above_the_progress() {
    let dir = Dir::new();
    fs::create_dir_all(dir.join("tree")).unwrap();
    for file in 0..150 {
        dir.file(&format!("tree/{file}"), bytes(100_000));
        if file % 50 == 49 {
            fs::create_dir_all(dir.join(format!("copy/{file}"))).unwrap();
        }
    }
    let hugecp = env!("CARGO_BIN_EXE_hugecp");
    let command = format!("{hugecp} -rT --bwlimit 10M tree copy");
    let Some((seen, end)) = pictures(&dir, 100, 24, &command) else { return };
    let told = |picture: &String| {
        picture.contains("'copy/49' is a directory") && picture.contains("MiB/s")
    };
    assert!(seen.iter().any(told), "while it goes on: {seen:#?}");
    assert!(!end.contains("MiB/s"), "{end}");
    let lines: Vec<_> = end.lines().collect();
    // Three as they came, the line before the list, three in the list.
    assert_eq!((lines[0], lines.len(), *lines.last().unwrap()), ("before", 9, "after 1"), "{end}");
    assert!(lines[1..4].iter().all(|line| line.starts_with("hugecp: 'copy/")), "{end}");
}

#[test]
fn hugectl_watch_fits_and_leaves_the_screen_as_it_was() {
    let dir = Dir::new();
    let hugectl = env!("CARGO_BIN_EXE_hugectl");
    for (columns, rows) in SIZES {
        let command = format!("{hugectl} watch --interval 0.05 --count 60");
        let Some((seen, end)) = pictures(&dir, columns, rows, &command) else { return };
        let views: Vec<_> = seen.iter().filter(|picture| picture.contains("Ctrl-C")).collect();
        assert!(!views.is_empty(), "{columns} columns: {seen:#?}");
        for view in views.iter().filter(|view| view.contains("unusable")) {
            let lines: Vec<_> = view.lines().collect();
            assert!(lines[0].starts_with("hugectl watch: Ctrl-C"), "it has not scrolled: {view}");
            assert!(
                lines[2].starts_with("free memory") && lines[3].starts_with("free blocks"),
                "{view}"
            );
            assert!(lines.len() <= usize::from(rows), "{view}");
        }
        assert_eq!(end.trim_end(), "before\nafter 0", "{columns} columns");
    }
}
