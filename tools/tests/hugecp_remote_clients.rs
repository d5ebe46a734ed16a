//! A client that has the key and means harm: it cannot reach what lies outside of the root, nor exhaust the server.

mod common;

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bookend_tools::remote::protocol::{Blob, Message, PathText, Relative, Request, VERSION};
use bookend_tools::remote::secure::{Cipher, SECRET_BYTES};
use bookend_tools::remote::transport::Lane;
use bookend_tools::remote::transport::tcp::{self, Preface, Secret};
use common::peer::{PATIENCE, entry, key_file, manner, say};
use common::{Dir, bytes, wait_until};
use socket2::{Domain, Socket, Type};

/// A server, and what it complains of.
struct Killed(Child, Receiver<String>);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that serves `root`, and its port.
fn start_server(dir: &Dir) -> (Killed, u16) {
    use std::io::{BufRead, BufReader};
    fs::create_dir(dir.join("root")).unwrap();
    let mut command: Command =
        dir.hugecp(["--serve", "127.0.0.1:0", "--key-file", "key", "--root", "root"]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    let mut output = BufReader::new(child.stderr.take().unwrap());
    output.read_line(&mut said).unwrap();
    let (lines, complaints) = channel();
    std::thread::spawn(move || {
        let complaint = |line: std::io::Result<String>| lines.send(line.ok()?).ok();
        output.lines().map_while(complaint).for_each(drop);
    });
    let port = said.trim().rsplit(':').next().unwrap().parse().unwrap();
    (Killed(child, complaints), port)
}

/// Opens a session with a server; gives its main lane and its one for pieces.
fn session<'a>(
    port: u16,
    secret: &[u8; SECRET_BYTES],
    request: Request,
    arena: &'a bookend::placement::Arena,
) -> (Lane<'a>, Option<Lane<'a>>) {
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut preface = PREFACE;
    let mut main = tcp::open(connect(), &preface, secret, PATIENCE, &manner(None)).unwrap();
    let Ok(Message::Offer { session, secret, .. }) = main.feed.receive() else {
        panic!("no session");
    };
    say(&mut main, &Message::Ask { request });
    let Ok(Message::Accept {}) = main.feed.receive() else { return (main, None) };
    (preface.secret, preface.session, preface.lane) = (Secret::Session, session, 1);
    let lane = tcp::open(connect(), &preface, &secret, PATIENCE, &manner(Some(arena))).ok();
    (main, lane)
}

fn request(push: bool, operand: &str, destination: &str) -> Request {
    Request {
        push,
        operands: vec![PathText(operand.into())],
        destination: PathText(destination.into()),
        onto: 0,
        naming: 0,
        recursive: true,
        follow: 0,
        links: false,
        one_file_system: false,
        delete: false,
        rules: Vec::new(),
        preserve: false,
        force: true,
        conflict: 0,
        resume: false,
        checksum: false,
        sums: false,
        check: false,
        fsync: false,
        verify: false,
        sparse: 0,
        bwlimit: 0,
        block_size: 0,
        plain: false,
        lanes: 1,
        rdma: false,
        congestion: "auto".into(),
    }
}

/// The preface of a guest who has the key.
const PREFACE: Preface = Preface {
    version: VERSION,
    secret: Secret::KeyFile,
    session: [0; 16],
    lane: 0,
    cipher: Cipher::ChaCha20Poly1305,
};

/// A connection to a server from another address than the one that is taken by itself.
fn from_another_address(port: u16) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    socket.into()
}

#[test]
fn guests_who_say_nothing_keep_no_other_out() {
    let dir = Dir::new();
    let secret = key_file(&dir);
    let (_server, port) = start_server(&dir);
    let silent: Vec<_> = (0..100).map(|_| from_another_address(port)).collect();
    // They say what they are for, and not that they know the key.
    for mut stream in &silent {
        stream.write_all(&PREFACE.encode()).unwrap();
    }
    let connect = || TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut main = tcp::open(connect(), &PREFACE, &secret, PATIENCE, &manner(None)).unwrap();
    assert!(matches!(main.feed.receive(), Ok(Message::Offer { .. })));
    drop(silent);
}

#[test]
fn guests_who_are_too_many_are_told() {
    let dir = Dir::new();
    let secret = key_file(&dir);
    let (server, port) = start_server(&dir);
    let open = || {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut main = tcp::open(stream, &PREFACE, &secret, PATIENCE, &manner(None)).unwrap();
        let answer = main.feed.receive();
        (main, answer)
    };
    let mut guests: Vec<_> = (0..32).map(|_| open()).collect();
    assert!(guests.iter().all(|(_, answer)| matches!(answer, Ok(Message::Offer { .. }))));
    let (_, answer) = open();
    assert!(matches!(answer, Ok(Message::Refuse { .. })), "{answer:?}");
    let complaint = server.1.recv_timeout(PATIENCE).unwrap();
    assert!(complaint.contains("32 copies under way"), "{complaint}");
    let line = format!("--port {port} --key-file key key 127.0.0.1:x");
    dir.run(&line).fails(1, &["127.0.0.1", "32 copies under way", "try again later"]);
    // When one has gone there is room.
    guests.pop();
    wait_until("room", || matches!(open().1, Ok(Message::Offer { .. })));
}

#[test]
fn a_greeting_that_takes_too_long_is_not_awaited() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let patience = Duration::from_millis(300);
    let speaker = std::thread::spawn(move || {
        // Each byte comes in time, and all of them would take three seconds.
        for byte in PREFACE.encode() {
            if slow.write_all(&[byte]).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    });
    let error = tcp::greet(&mut stream, patience).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(stream);
    speaker.join().unwrap();
}

#[test]
fn a_client_that_has_the_key_stays_in_the_root() {
    let dir = Dir::new();
    let secret = key_file(&dir);
    let (_server, port) = start_server(&dir);
    let arena = tcp::arena(1).unwrap();
    for (operand, destination) in
        [("..", ""), ("../x", ""), ("a/b", ""), ("x", ".."), ("x", "../root/..")]
    {
        let (mut main, _lane) = session(port, &secret, request(true, operand, destination), &arena);
        say(&mut main, &Message::Operand { index: 0 });
        say(
            &mut main,
            &Message::Small { entry: entry("", 0o100_644), content: Blob(vec![1]), sum: None },
        );
        say(&mut main, &Message::Finish {});
        let mut told = false;
        while let Ok(message) = main.feed.receive() {
            told |= matches!(message, Message::Trouble { .. });
            if matches!(message, Message::Done { .. }) {
                assert!(told, "{operand} to {destination}: it was done");
                break;
            }
        }
        assert_eq!(dir.names(), ["key", "root"], "{operand} to {destination}");
        assert_eq!(fs::read_dir(dir.join("root")).unwrap().count(), 0);
    }
    // A device would be a way out.
    let (mut main, _lane) = session(port, &secret, request(true, "d", ""), &arena);
    say(&mut main, &Message::Operand { index: 0 });
    say(&mut main, &Message::Node { entry: entry("", 0o060_600), device: 0x700 });
    say(&mut main, &Message::Finish {});
    let answer = loop {
        match main.feed.receive() {
            Ok(Message::Alive {}) => {}
            other => break other,
        }
    };
    match answer {
        Ok(Message::Trouble { text }) => assert!(text.contains("does not make"), "{text}"),
        other => panic!("{other:?}"),
    }
    assert!(!dir.join("root/d").exists());
}

fn names(names: &[&str], last: bool) -> Message {
    let names = names.iter().map(|name| Relative::new(name.as_bytes()).unwrap()).collect();
    Message::Names { names, last }
}

/// What a server says to a client that lists `messages` below `operand`, each as it is asked for, and follows links or not.
fn listed(
    port: u16,
    secret: &[u8; SECRET_BYTES],
    (operand, follow): (&str, u8),
    messages: Vec<Message>,
) -> Vec<Message> {
    let arena = tcp::arena(1).unwrap();
    let request = Request { naming: 1, follow, ..request(false, operand, "") };
    let (mut main, _lane) = session(port, secret, request, &arena);
    let mut messages = messages.into_iter();
    let mut said = Vec::new();
    while !matches!(said.last(), Some(Message::Finish {})) {
        match main.feed.receive() {
            Ok(Message::Alive {}) => {}
            Ok(Message::More {}) => messages.next().iter().for_each(|names| say(&mut main, names)),
            Ok(other) => said.push(other),
            Err(_) => break,
        }
    }
    said
}

/// How much a server could not do, and the contents that it sent.
fn read(said: &[Message]) -> (usize, Vec<&[u8]>) {
    let troubles = said.iter().filter(|message| matches!(message, Message::Trouble { .. }));
    let contents = said.iter().filter_map(|message| match message {
        Message::Small { content, .. } => Some(content.0.as_slice()),
        _ => None,
    });
    (troubles.count(), contents.collect())
}

#[test]
fn a_list_reads_nothing_outside_of_what_it_is_below() {
    let dir = Dir::new();
    let secret = key_file(&dir);
    let (_server, port) = start_server(&dir);
    dir.file("secret", "secret");
    dir.file("root/other/secret", "of another");
    dir.file("root/in/deep/good", "good");
    let absolute = dir.path().to_owned();
    for (link, to) in [
        ("up", Path::new("../..")),
        ("beside", Path::new("../other")),
        ("absolute", &absolute),
        ("file", Path::new("../../secret")),
        ("deep/back", Path::new("..")),
    ] {
        std::os::unix::fs::symlink(to, dir.join("root/in").join(link)).unwrap();
    }
    // A link that is not followed is told as one; directories on the way are what links lead to, if that is in it.
    for (follow, failed) in [(0, 3), (2, 4)] {
        let list = ["absolute/secret", "beside/secret", "deep/back/deep/good", "file", "up/secret"];
        let said = listed(port, &secret, ("in", follow), vec![names(&list, true)]);
        assert_eq!(read(&said), (failed, vec![&b"good"[..]]), "{said:?}");
        // Nor what operands are below that begin at the root, in whatever way.
        for top in [".", "/"] {
            let list =
                ["in/absolute/secret", "in/deep/back/beside/secret", "in/file", "in/up/secret"];
            let said = listed(port, &secret, (top, follow), vec![names(&list, true)]);
            assert_eq!(read(&said), (failed - 1, vec![&b"of another"[..]]), "{said:?}");
        }
        for out in ["..", "in/up", "in/absolute"] {
            let said = listed(port, &secret, (out, follow), vec![names(&["secret"], true)]);
            assert_eq!(read(&said), (1, Vec::new()), "{out}");
        }
    }
}

#[test]
fn a_list_without_an_end_is_taken_by_no_more_than_was_asked_for() {
    let dir = Dir::new();
    let secret = key_file(&dir);
    let (server, port) = start_server(&dir);
    dir.file("root/in/good", "good");
    // In no order, or the same again and again.
    for list in [["b", "a"], ["a", "a"], ["a/b", "a"]] {
        let said = listed(port, &secret, ("in", 0), vec![names(&list, true)]);
        assert!(!matches!(said.last(), Some(Message::Finish {})), "{list:?}: {said:?}");
    }
    // Where none is asked for.
    let arena = tcp::arena(1).unwrap();
    let (mut main, lane) = session(port, &secret, request(false, "in", ""), &arena);
    say(&mut main, &names(&["good"], false));
    let mut complaints = std::iter::from_fn(|| server.1.recv_timeout(PATIENCE).ok());
    assert!(complaints.any(|line| line.contains("lists names that it was not asked for")));
    drop((main, lane));
    // As it is asked for, for long: what was used up is not kept.
    let messages = (0..200).map(|number| {
        let many: Vec<_> =
            (0..4).map(|last| format!("{number:0>250}{last}/").repeat(250) + "f").collect();
        names(&many.iter().map(String::as_str).collect::<Vec<_>>(), false)
    });
    let bytes: usize = 200 * 4 * 250 * 252;
    let end = names(&["z"], true);
    let said = listed(port, &secret, ("in", 0), messages.chain([end]).collect());
    assert_eq!(read(&said).0, 200 * 4 + 1, "each name that is not there is told");
    let status = fs::read_to_string(format!("/proc/{}/status", server.0.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak << 10 < bytes, "{peak} KiB for {bytes} bytes of names");
}

#[test]
fn a_checksum_is_given_once_and_only_where_files_are_compared() {
    let dir = Dir::new();
    let secret = key_file(&dir);
    let (_server, port) = start_server(&dir);
    let data = bytes(1 << 20);
    dir.file("root/a", &data);
    let arena = tcp::arena(1).unwrap();
    for (checksum, sums) in [(false, 0), (true, 1)] {
        let request = Request { checksum, ..request(false, "a", "") };
        let (mut main, _lane) = session(port, &secret, request, &arena);
        let mut given = 0;
        // Until the server has had enough, after the second question or the first.
        while let Ok(message) = main.feed.receive() {
            match message {
                Message::File { file, .. } => say(&mut main, &Message::Compare { file }),
                Message::Sum { file, hash } => {
                    assert_eq!(hash, *blake3::hash(&data).as_bytes());
                    given += 1;
                    say(&mut main, &Message::Compare { file });
                }
                _ => {}
            }
        }
        assert_eq!(given, sums, "checksum: {checksum}");
    }
}
