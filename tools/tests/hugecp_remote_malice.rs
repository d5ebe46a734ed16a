//! A server that has the key and means harm: it cannot write outside of the target, nor exhaust the client.

mod common;

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;

use bookend_tools::copy::sum::{Sum, Summer};
use bookend_tools::remote::protocol::{
    Blob, Counts, Entry, Message, Name, PathText, Relative, VERSION,
};
use bookend_tools::remote::secure::SECRET_BYTES;
use bookend_tools::remote::transport::Lane;
use bookend_tools::remote::transport::tcp;
use common::peer::{PATIENCE, entry, key_file, manner, say};
use common::{Dir, Ran};

const SESSION: [u8; 16] = [1; 16];
const SECRET: [u8; SECRET_BYTES] = [2; SECRET_BYTES];

/// What an evil sender does on the main lane and the one for pieces.
type Evil = dyn FnOnce(&mut Lane<'_>, &mut Lane<'_>) + Send;

/// A server that accepts one session, and then does as it likes.
fn server(listener: TcpListener, secret: [u8; SECRET_BYTES], evil: Box<Evil>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let accept = |secret: &[u8; SECRET_BYTES]| {
            let (mut stream, _) = listener.accept().unwrap();
            let preface = tcp::greet(&mut stream, PATIENCE).unwrap();
            (stream, preface, *secret)
        };
        let (stream, preface, secret) = accept(&secret);
        let mut main = tcp::accept(stream, &preface, &secret, &manner(None)).unwrap();
        let offer =
            Message::Offer { session: SESSION, secret: SECRET, port: 0, addresses: Vec::new() };
        say(&mut main, &offer);
        assert!(matches!(main.feed.receive(), Ok(Message::Ask { .. })));
        say(&mut main, &Message::Accept {});
        let arena = tcp::arena(1).unwrap();
        let (stream, preface, secret) = accept(&SECRET);
        let mut pieces = tcp::accept(stream, &preface, &secret, &manner(Some(&arena))).unwrap();
        evil(&mut main, &mut pieces);
        // Until the client has had enough.
        while main.feed.receive().is_ok() {}
    })
}

/// `hugecp OPTIONS 127.0.0.1:x dst` from a server that does what `evil` does.
fn pull(dir: &Dir, options: &str, evil: Box<Evil>) -> Ran {
    from_or_to(dir, &format!("{options} 127.0.0.1:x dst"), evil)
}

/// `hugecp LINE` with a server that does what `evil` does.
fn from_or_to(dir: &Dir, line: &str, evil: Box<Evil>) -> Ran {
    let secret = key_file(dir);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = server(listener, secret, evil);
    let words = ["--key-file", "key", "--port", &port, "--streams", "1", "--timeout", "3"];
    let words = words.into_iter().chain(line.split_whitespace());
    let ran = Ran(dir.hugecp(words).output().unwrap());
    server.join().unwrap();
    ran
}

/// As [`pull`], with nothing but messages on the main lane.
fn pull_messages(dir: &Dir, options: &str, messages: Vec<Message>) -> Ran {
    let evil = move |main: &mut Lane<'_>, _: &mut Lane<'_>| {
        say(main, &Message::Operand { index: 0 });
        messages.iter().for_each(|message| say(main, message));
    };
    pull(dir, options, Box::new(evil))
}

fn enter(name: &str) -> Message {
    Message::Enter { entry: entry(name, 0o40_755) }
}

fn small(name: &str, content: &str) -> Message {
    Message::Small { entry: entry(name, 0o100_644), content: Blob(content.into()), sum: None }
}

fn symlink(name: &str, text: &Path) -> Message {
    use std::os::unix::ffi::OsStrExt;
    let text = PathText(text.as_os_str().as_bytes().to_vec());
    Message::Symlink { entry: entry(name, 0o120_777), text }
}

fn file(name: &str, number: u32, len: u64) -> Message {
    let mut identity = [0; 56];
    identity[16..24].copy_from_slice(&len.to_le_bytes());
    Message::File { entry: entry(name, 0o100_644), file: number, identity }
}

const BREACH: &str = "does not keep to the protocol";

#[test]
fn what_was_not_asked_for_is_not_taken() {
    for (options, messages, part) in [
        ("", vec![enter("")], "a directory, where files were asked for"),
        ("", vec![symlink("", Path::new("/"))], "what is no file"),
        ("-r", vec![Message::Operand { index: 0 }], "not asked for"),
        ("-r", vec![Message::Operand { index: 1 }], "not asked for"),
        ("-r", vec![Message::Leave { complete: true }], "leaves a directory"),
        ("-r", vec![small("a", "in no directory")], "in no directory"),
        ("-r", vec![enter(""), small("", "without a name")], "in no directory"),
        ("-r", vec![Message::Go { file: 0, summer: Summer::UNKEYED }], "only a receiver may"),
        (
            "-r",
            vec![Message::Hello { version: VERSION, program: String::new(), aes: true }],
            "only",
        ),
    ] {
        let dir = Dir::new();
        pull_messages(&dir, options, messages).fails(1, &[BREACH, part]);
        let names = dir.names();
        assert!(names == ["key"] || names == ["dst", "key"], "{part}: {names:?}");
    }
}

fn pass(name: &str) -> Message {
    Message::Pass { entry: entry(name, 0o40_755) }
}

#[test]
fn lists_are_asked_for_by_whom_they_are_for_and_no_faster_than_they_are_told() {
    let leave = || Message::Leave { complete: true };
    for (options, messages, part) in [
        ("-r", vec![pass("")], "a directory, where files were asked for"),
        ("-r", vec![Message::More {}], "names that nobody has"),
        ("--files-from list", vec![enter("d")], "a directory, where files were asked for"),
        ("--files-from list", vec![leave()], "leaves a directory"),
        ("--files-from list", vec![pass("d"), leave(), leave()], "leaves a directory"),
        ("--files-from list", vec![pass("d"), small("", "without a name")], "in no directory"),
        ("--files-from list", vec![Message::More {}; 100], "names that nobody has"),
        ("-r --files-from list", vec![pass("d"); 1100], "too deep"),
    ] {
        let dir = Dir::new();
        dir.file("list", "d\n");
        pull_messages(&dir, options, messages).fails(1, &[BREACH, part]);
    }
}

#[test]
fn what_is_not_on_the_list_is_not_taken() {
    let leave = || Message::Leave { complete: true };
    let bad = "it sends what is not on the list";
    for (messages, taken) in [
        (vec![small(".bashrc", "evil")], None),
        (vec![pass(".ssh"), small("authorized_keys", "evil")], None),
        (vec![enter(".ssh"), small("authorized_keys", "evil")], None),
        (vec![pass("data"), small("other", "evil")], Some("data")),
        (vec![pass("data"), small("report", "good"), leave(), small("x", "evil")], Some("data")),
        (vec![pass("data"), pass("other")], Some("data")),
    ] {
        let dir = Dir::new();
        dir.file("list", "data/report\nz\n");
        pull_messages(&dir, "-r --files-from list", messages).fails(1, &[BREACH, bad]);
        let names = if dir.join("dst").exists() { dir.names_in("dst") } else { Vec::new() };
        assert_eq!(names, taken.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn what_was_to_be_left_out_is_not_taken() {
    for messages in [
        vec![enter(""), small("a.o", "excluded")],
        vec![enter(""), enter("d"), small("a.o", "excluded")],
        vec![enter(""), enter("cache")],
        vec![enter(""), file("a.o", 0, 5 << 20)],
        vec![enter(""), symlink("a.o", Path::new("/"))],
    ] {
        let dir = Dir::new();
        let ran = pull_messages(&dir, "-r --exclude *.o --exclude cache/", messages);
        ran.fails(1, &[BREACH, "to be left out"]);
        assert!(!dir.join("dst/a.o").exists() && !dir.join("dst/cache").exists());
    }
    let dir = Dir::new();
    dir.file("list", "d\n");
    let messages = vec![enter("d"), small("a.o", "excluded")];
    pull_messages(&dir, "-r --exclude *.o --files-from list", messages)
        .fails(1, &[BREACH, "not on the list"]);
    assert!(!dir.join("dst/d/a.o").exists());
}

#[test]
fn directories_on_the_way_lead_nothing_out_of_the_target() {
    let dir = Dir::new();
    dir.file("list", "good\nl\nl/stolen\n");
    fs::create_dir(dir.join("outside")).unwrap();
    let outside = dir.join("outside");
    let messages = vec![
        symlink("l", &outside),
        pass("l"),
        small("stolen", "x"),
        Message::Leave { complete: true },
        small("good", "x"),
        Message::Finish {},
    ];
    // It may be made after the directory: then it is in the way.
    let ran = pull_messages(&dir, "--files-from list", messages.clone());
    assert!(ran.status() == 1, "{}", ran.err());
    assert_eq!(dir.read("dst/good"), b"x");
    let ran = pull_messages(&dir, "--files-from list", messages);
    assert!(ran.status() == 1, "{}", ran.err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_list_of_checksums_has_what_was_sent_and_all_of_it() {
    let dir = Dir::new();
    let with_sum = Message::Small {
        entry: entry("", 0o100_644),
        content: Blob(b"x".to_vec()),
        sum: Some(*blake3::hash(b"x").as_bytes()),
    };
    for (options, message) in [("--manifest list", small("", "x")), ("", with_sum)] {
        let messages = vec![message, Message::Finish {}];
        pull_messages(&dir, options, messages).fails(1, &[BREACH, "does not tell checksums"]);
        assert_eq!(dir.names(), ["key"]);
    }
    // Who receives lists no more than came, and nothing where no list is kept.
    dir.file("a", "x");
    let copied = |operand, into, way: &str| {
        let way = Relative::new(way.as_bytes()).unwrap();
        Message::Copied { operand, into, way, hash: [7; 32] }
    };
    for (options, messages) in [
        ("", vec![copied(0, false, "")]),
        ("--manifest list", vec![copied(0, false, ""); 2]),
        ("--manifest list", vec![copied(1, false, "")]),
        ("--manifest list", vec![copied(0, false, "more")]),
        ("-T --manifest list", vec![copied(0, true, "")]),
    ] {
        let evil = move |main: &mut Lane<'_>, _: &mut Lane<'_>| {
            while !matches!(main.feed.receive(), Ok(Message::Small { .. })) {}
            messages.iter().for_each(|message| say(main, message));
        };
        let ran = from_or_to(&dir, &format!("{options} a 127.0.0.1:x"), Box::new(evil));
        ran.fails(1, &[BREACH, "lists copies of what it was not sent"]);
        assert!(!dir.join("list").exists());
    }
}

#[test]
fn nothing_is_removed_where_the_sender_did_not_tell_of_everything() {
    let leave = |complete| Message::Leave { complete };
    for (messages, left) in [
        (vec![enter(""), small("new", "x"), leave(false), Message::Finish {}], true),
        (vec![enter(""), small("new", "x"), leave(true), Message::Finish {}], false),
        // And then the connection is gone.
        (vec![enter(""), small("new", "x")], true),
        (vec![enter(""), small("new", "x"), file("big", 0, 2 << 20), leave(true)], true),
    ] {
        let dir = Dir::new();
        dir.file("dst/old", "x");
        let ran = pull_messages(&dir, "-r -T --delete", messages);
        assert_eq!(dir.join("dst/old").exists(), left, "{}", ran.err());
        assert!(ran.status() == 1 || dir.join("dst/new").exists(), "{}", ran.err());
    }
}

#[test]
fn links_lead_nothing_out_of_the_target() {
    let dir = Dir::new();
    fs::create_dir(dir.join("outside")).unwrap();
    let outside = dir.join("outside");
    // A link in the tree, and then what would go through it.
    let messages = vec![enter(""), symlink("l", &outside), Message::Finish {}];
    pull_messages(&dir, "-r", messages).ok();
    let messages = vec![
        enter(""),
        enter("l"),
        small("stolen", "x"),
        file("big", 0, 2 << 20),
        Message::Leave { complete: true },
        small("l2", "good"),
        Message::Leave { complete: true },
        Message::Finish {},
    ];
    pull_messages(&dir, "-r -T", messages).fails(1, &["cannot copy a directory to", "dst/l'"]);
    assert_eq!(dir.read("dst/l2"), b"good");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    fs::remove_dir_all(dir.join("dst")).unwrap();
    // The operand as a link, and then once more, through it.
    let messages =
        vec![symlink("", &outside), Message::Operand { index: 0 }, enter(""), small("stolen", "x")];
    pull_messages(&dir, "-r", messages).fails(1, &[BREACH, "not asked for"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn what_would_exhaust_this_end_is_refused() {
    let dir = Dir::new();
    let deep = (0..1100).map(|_| enter("d")).collect::<Vec<_>>();
    let deep = std::iter::once(enter("")).chain(deep).collect();
    pull_messages(&dir, "-r", deep).fails(1, &[BREACH, "too deep"]);
    let dir = Dir::new();
    let many = (0..400).map(|number| file(&format!("f{number}"), number, 300_000));
    let many = std::iter::once(enter("")).chain(many).collect();
    pull_messages(&dir, "-r", many).fails(1, &[BREACH, "too many files"]);
    assert!(fs::read_dir(dir.join("dst")).unwrap().count() == 0, "none has a name");
    // Names that wait for what does not come.
    let dir = Dir::new();
    let mut first = entry("first", 0o100_644);
    first.link = 1;
    let mut identity = [0; 56];
    identity[16..24].copy_from_slice(&(2_u64 << 20).to_le_bytes());
    let mut messages = vec![enter("")];
    messages.extend((0..200).map(|_| enter(&"d".repeat(250))));
    messages.push(Message::File { entry: first.clone(), file: 0, identity });
    messages.extend((0..3000).map(|number| {
        let name = Name::new(format!("l{number}").as_bytes()).ok();
        Message::Link { entry: Entry { name, ..first.clone() } }
    }));
    pull_messages(&dir, "-a", messages).fails(1, &[BREACH, "to be linked to what does not come"]);
}

#[test]
fn what_fails_too_often_is_counted_and_the_rest_is_copied() {
    for (count, text, more) in [
        (100_007, "x".to_owned(), "7 more are not listed".to_owned()),
        // 32 MiB of texts, of four bytes for each of the 4096 that are shown.
        (2100, "\u{1f980}".repeat(4096), format!("{} more are not listed", 2100 - 2048)),
    ] {
        let dir = Dir::new();
        let evil = move |main: &mut Lane<'_>, _: &mut Lane<'_>| {
            say(main, &Message::Operand { index: 0 });
            say(main, &enter(""));
            for _ in 0..count {
                let _ = main.sink.send(&Message::Trouble { text: text.clone() });
            }
            for message in
                [small("good", "x"), Message::Leave { complete: true }, Message::Finish {}]
            {
                say(main, &message);
            }
            while !matches!(main.feed.receive(), Ok(Message::Done { .. }) | Err(_)) {}
        };
        pull(&dir, "-r", Box::new(evil)).fails(1, &["127.0.0.1", &more]);
        assert_eq!(dir.read("dst/good"), b"x");
    }
}

#[test]
fn differences_beyond_what_is_kept_are_counted() {
    let dir = Dir::new();
    dir.file("src/f", "x");
    let evil = |main: &mut Lane<'_>, _: &mut Lane<'_>| {
        for number in 0..100_009 {
            let _ = main.sink.send(&Message::Differs { text: format!("number {number}") });
        }
        let counts = Counts {
            files: 0,
            bytes: 0,
            resumed: 0,
            directories: 0,
            symlinks: 0,
            hard_links: 0,
            specials: 0,
            left: 0,
            deleted: 0,
        };
        say(main, &Message::Done { counts });
    };
    let ran = from_or_to(&dir, "--check src 127.0.0.1:dst", Box::new(evil));
    assert_eq!(ran.status(), 1, "{}", ran.err());
    let said = format!("{}{}", ran.out(), ran.err());
    assert!(said.contains("9 more are not listed"), "{}", ran.err());
    assert!(said.contains("number 99999") && !said.contains("number 100000"));
}

#[test]
fn pieces_that_lie_are_not_written() {
    let whole = 2 << 20;
    for (offset, content, part) in [
        (whole - 4, &b"behind the end"[..], "behind the end of its file"),
        (0, b"changed", "were changed on their way"),
    ] {
        let dir = Dir::new();
        let evil = move |main: &mut Lane<'_>, pieces: &mut Lane<'_>| {
            say(main, &Message::Operand { index: 0 });
            say(main, &file("", 0, whole));
            let summer = loop {
                if let Ok(Message::Go { file: 0, summer }) = main.feed.receive() {
                    break summer;
                }
            };
            pieces.sink.body().unwrap()[..content.len()].copy_from_slice(content);
            let Sum(sum) = summer.sum(offset, if offset == 0 { b"other" } else { content });
            let len = content.len() as u32;
            pieces.sink.send_piece(&Message::Piece { file: 0, offset, len, sum }).unwrap();
        };
        pull(&dir, "", Box::new(evil)).fails(1, &[part]);
        assert!(!dir.join("dst").exists());
    }
}

#[test]
fn a_server_that_does_not_answer_is_not_awaited() {
    let dir = Dir::new();
    let secret = key_file(&dir);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let preface = tcp::greet(&mut stream, PATIENCE).unwrap();
        let mut main = tcp::accept(stream, &preface, &secret, &manner(None)).unwrap();
        // It is alive, and that is all it says.
        let alive = |main: &mut Lane<'_>| {
            main.sink.send(&Message::Alive {}).and_then(|()| main.sink.flush()).is_ok()
        };
        while alive(&mut main) {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    });
    let line = ["--key-file", "key", "--port", &port, "--timeout", "3", "127.0.0.1:x", "dst"];
    Ran(dir.hugecp(line).output().unwrap()).fails(1, &["127.0.0.1", "silent for 3 s"]);
    server.join().unwrap();
}

#[test]
fn what_is_said_is_shown_without_its_control_characters() {
    let dir = Dir::new();
    let text = "evil \u{1b}[2J\u{7} text".to_owned();
    let ran = pull_messages(&dir, "-r", vec![Message::Trouble { text }, Message::Finish {}]);
    let ran = ran.fails(1, &["127.0.0.1: evil ", " text"]);
    assert!(!ran.err().contains('\u{1b}') && !ran.err().contains('\u{7}'), "{}", ran.err());
}
