//! A server that has the key and means harm, from the agreement on a ring on.

use std::net::TcpListener;
use std::process::Stdio;

use bookend_registration::verbs::{Device, Domain};
use bookend_tools::remote::protocol::{Message, PIECE_MAX, Port, SLOTS_MAX, Slot};
use bookend_tools::remote::secure::SECRET_BYTES;
use bookend_tools::remote::transport::Lane;
use bookend_tools::remote::transport::congestion::Congestion;
use bookend_tools::remote::transport::rdma::{Fabric, Part, Upgrades};
use bookend_tools::remote::transport::tcp::{self, Manner};

use super::common::peer::{entry, key_file, say};
use super::common::{Dir, Ran};
use super::{PATIENCE, end_of, hugecp, lab};

/// What a malicious server does with the main lane and the one for pieces, after a ring was asked for.
type Evil = dyn FnOnce(&mut Lane<'_>, Lane<'_>) + Send;

fn accept<'a>(
    listener: &TcpListener,
    secret: &[u8; SECRET_BYTES],
    manner: &Manner<'a>,
) -> Lane<'a> {
    let (mut stream, _) = listener.accept().unwrap();
    let preface = tcp::greet(&mut stream, PATIENCE).unwrap();
    tcp::accept(stream, &preface, secret, manner).unwrap()
}

/// `hugecp OPTIONS 127.0.0.1:x dst` from a server that does what `evil` does.
fn pull(dir: &Dir, options: &str, evil: Box<Evil>) -> Ran {
    let key = key_file(dir);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let server = std::thread::spawn(move || {
        let arena = tcp::arena(1).unwrap();
        let talking = Manner::talking(PATIENCE, &Congestion::Auto);
        let manner = |buffers| Manner { buffers, plain: true, ..talking };
        let mut main = accept(&listener, &key, &manner(None));
        let secret = [2; SECRET_BYTES];
        say(&mut main, &Message::Offer { session: [1; 16], secret, port: 0, addresses: vec![] });
        let Ok(Message::Ask { request }) = main.feed.receive() else { panic!("no request") };
        assert!(request.rdma && request.lanes == 1);
        say(&mut main, &Message::Accept {});
        let lane = accept(&listener, &secret, &manner(Some(&arena)));
        evil(&mut main, lane);
        while main.feed.receive().is_ok() {}
    });
    let words = ["--key-file", "key", "--port", &port, "--streams", "1", "--timeout", "3"];
    let words = words.into_iter().chain(options.split_whitespace()).chain(["127.0.0.1:x", "dst"]);
    let ran =
        end_of(hugecp(dir, words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    server.join().unwrap();
    ran
}

fn ring(endpoint: &str) -> Message {
    Message::Ring { endpoint: endpoint.to_owned(), immediates: true, windows: true }
}

/// The devices of a server that has one.
fn devices() -> Message {
    let mut address = [0; 16];
    address[10..].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    Message::Devices { devices: vec![Port { name: "evil0".to_owned(), address }] }
}

/// Nobody's queue pair, at the device's own address.
const NOBODY: &str = "0:fffff0:1:00000000000000000000ffffc0000201:3";

#[test]
fn rubbish_in_the_exchange_is_told() {
    let Some(_lab) = lab("rubbish_in_the_exchange_is_told") else { return };
    let rubbish = [
        (vec![ring(NOBODY)], "no devices, where they were to be told"),
        (vec![devices(), ring("rubbish")], "a queue pair that cannot be"),
        (
            vec![devices(), ring(&format!("0:1:1:{}:9", "0".repeat(32)))],
            "a queue pair that cannot be",
        ),
        (vec![devices(), Message::Ready {}], "no ring, where one was to be agreed on"),
        (vec![devices(), devices()], "no ring"),
        (vec![devices(), Message::Credit { key: 1 }], "no ring"),
        (
            vec![
                devices(),
                ring(NOBODY),
                Message::Slots { slots: vec![Slot { address: 1, key: 1 }; SLOTS_MAX] },
            ],
            "no word of a write",
        ),
        (vec![devices(), ring(NOBODY), Message::Alive {}], "no word of a write"),
    ];
    // All at once: they wait for each other's silence.
    std::thread::scope(|scope| {
        for (words, part) in rubbish {
            scope.spawn(move || {
                let dir = Dir::new();
                let evil = move |_: &mut Lane<'_>, mut lane: Lane<'_>| {
                    words.iter().for_each(|word| say(&mut lane, word));
                    while lane.feed.receive().is_ok() {}
                };
                let ran = pull(&dir, "--plain", Box::new(evil));
                ran.fails(1, &["does not keep to the protocol", part]);
                assert_eq!(dir.names(), ["key"], "{part}");
            });
        }
        // One that says nothing at all, one that goes, one that says it wrote, and did not.
        scope.spawn(|| {
            let silent =
                |_: &mut Lane<'_>, mut lane: Lane<'_>| while lane.feed.receive().is_ok() {};
            let ran = pull(&Dir::new(), "--plain", Box::new(silent));
            ran.fails(1, &["127.0.0.1 has been silent for 12 s"]);
        });
        scope.spawn(|| {
            let ran = pull(&Dir::new(), "--plain", Box::new(|_: &mut Lane<'_>, _: Lane<'_>| {}));
            ran.fails(1, &["lost the connection to 127.0.0.1"]);
        });
        scope.spawn(|| {
            let liar = |_: &mut Lane<'_>, mut lane: Lane<'_>| {
                say(&mut lane, &devices());
                say(&mut lane, &ring(NOBODY));
                say(&mut lane, &Message::Ready {});
                while lane.feed.receive().is_ok() {}
            };
            let ran = pull(&Dir::new(), "--transport rdma", Box::new(liar));
            ran.fails(1, &["no RDMA with 127.0.0.1: nothing came through in 8 s"]);
        });
    });
}

/// A file of two pieces, of which the first is to come.
fn begin(main: &mut Lane<'_>) {
    let entry = entry("", 0o100_644);
    let mut identity = [0; 56];
    identity[16..24].copy_from_slice(&(2 * PIECE_MAX as u64).to_le_bytes());
    say(main, &Message::Operand { index: 0 });
    say(main, &Message::File { entry, file: 0, identity });
    while !matches!(main.feed.receive(), Ok(Message::Go { file: 0, .. })) {}
}

#[test]
fn pieces_that_lie_are_not_written() {
    let Some(_lab) = lab("pieces_that_lie_are_not_written") else { return };
    // Bytes of another checksum.
    let dir = Dir::new();
    let changed = |main: &mut Lane<'_>, lane: Lane<'_>| {
        let fabric = Fabric::open(None, 1).unwrap();
        let mut upgrades = Upgrades::new(Ok(&fabric), Part::Sends, PATIENCE);
        let mut lane = upgrades.lane(lane).unwrap();
        assert_eq!((upgrades.ways.lanes(), upgrades.reason), (1, None));
        begin(main);
        lane.sink.body().unwrap()[..1000].fill(7);
        let sum = *blake3::hash(b"other").as_bytes(); // of no kind of sum
        lane.sink.send_piece(&Message::Piece { file: 0, offset: 0, len: 1000, sum }).unwrap();
        while main.feed.receive().is_ok() {}
    };
    pull(&dir, "--plain", Box::new(changed)).fails(1, &["were changed on their way"]);
    assert!(!dir.join("dst").exists());
    // A piece that was announced and never written, and one over TCP where none may be.
    for (word, part) in [
        (Message::Written { file: 0, offset: 0, len: 1000, sum: [0; 32] }, "did not come in 3 s"),
        (Message::Ready {}, "what is no piece on a lane of RDMA"),
    ] {
        let dir = Dir::new();
        let evil = move |main: &mut Lane<'_>, mut lane: Lane<'_>| {
            // A ring agreed on by hand: its words are this lane's to say.
            let device = Device::open(Some("rxe0")).unwrap();
            let domain = Domain::new(&device).unwrap();
            agree_and_say(&domain, &mut lane, main, &word);
            while main.feed.receive().is_ok() {}
        };
        pull(&dir, "--plain", Box::new(evil)).fails(1, &[part]);
        assert!(!dir.join("dst").exists(), "{part}");
    }
}

fn agree_and_say(
    domain: &std::sync::Arc<Domain>,
    lane: &mut Lane<'_>,
    main: &mut Lane<'_>,
    word: &Message,
) {
    use bookend_registration::ring::{Patience, SendRing, Shape};
    use bookend_registration::verbs::RemoteMemory;
    let shape = Shape { slots: 8, slot: bookend::units::Bytes::mib(1) };
    let mut own = SendRing::new(domain, shape).unwrap();
    say(lane, &devices());
    assert!(matches!(lane.feed.receive(), Ok(Message::Devices { devices }) if devices.len() == 1));
    say(lane, &ring(&own.endpoint().to_string()));
    let Ok(Message::Ring { endpoint, .. }) = lane.feed.receive() else { panic!("no ring") };
    own.connect(&endpoint.parse().unwrap(), true).unwrap();
    let Ok(Message::Slots { slots }) = lane.feed.receive() else { panic!("no slots") };
    let memory = |slot: &Slot| RemoteMemory { address: slot.address, key: slot.key };
    own.open(slots.iter().map(memory).collect()).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    let patience = Patience { limit: PATIENCE, stop: &stop };
    own.buffer(&patience).unwrap()[0] = 1;
    own.send(8).unwrap();
    own.settle(&patience).unwrap();
    say(lane, &Message::Ready {});
    assert!(matches!(lane.feed.receive(), Ok(Message::Credit { .. })));
    begin(main);
    say(lane, word);
    // The ring stays until the client has had enough; it is not silence that it has enough of.
    while main.feed.receive().is_ok() {
        say(main, &Message::Alive {});
    }
}
