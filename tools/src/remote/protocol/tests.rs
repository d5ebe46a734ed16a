use proptest::prelude::*;

use super::*;

fn attributes(number: u32) -> Attributes {
    Attributes {
        mode: 0o100_644,
        uid: number,
        gid: 7,
        accessed: Moment { seconds: -1, nanoseconds: 999_999_999 },
        modified: Moment { seconds: i64::MAX, nanoseconds: 0 },
        xattrs: vec![ExtendedAttribute {
            name: PathText(b"user.x".to_vec()),
            value: Blob(vec![0, 255]),
        }],
    }
}

fn entry(name: Option<&[u8]>) -> Entry {
    let name = name.map(|name| Name::new(name).unwrap());
    Entry { name, link: 3, attributes: attributes(1) }
}

fn request() -> Request {
    Request {
        push: true,
        operands: vec![PathText(b"a\xff".to_vec())],
        destination: PathText(b"/x".to_vec()),
        onto: 2,
        naming: 0,
        recursive: true,
        follow: 1,
        links: true,
        one_file_system: false,
        delete: true,
        rules: vec![RuleText { include: true, pattern: PathText(b"*.o".to_vec()) }],
        preserve: true,
        force: false,
        conflict: 2,
        resume: true,
        checksum: false,
        sums: true,
        check: false,
        fsync: true,
        verify: false,
        sparse: 1,
        bwlimit: 5,
        block_size: 0,
        plain: false,
        congestion: "auto".into(),
        lanes: 4,
        rdma: true,
    }
}

/// One message of every kind.
fn samples() -> Vec<Message> {
    let extents = vec![Extent { start: 0, end: 5 }, Extent { start: 5, end: 9 }];
    vec![
        Message::Hello { version: VERSION, program: "0.1".into(), aes: true },
        Message::Offer {
            session: [1; 16],
            secret: [2; 32],
            port: 7,
            addresses: vec!["::1".into()],
        },
        Message::Ask { request: request() },
        Message::Accept {},
        Message::Refuse { why: "no".into() },
        Message::Alive {},
        Message::Operand { index: 3 },
        Message::Enter { entry: entry(None) },
        Message::Leave { complete: false },
        Message::Small {
            entry: entry(Some(b"a\xff\n")),
            content: Blob(vec![9; 100]),
            sum: Some([3; 32]),
        },
        Message::File { entry: entry(Some(b"big")), file: 1, identity: [4; 56] },
        Message::Symlink { entry: entry(Some(b"l")), text: PathText(b"../..".to_vec()) },
        Message::Node { entry: entry(Some(b"null")), device: 259 },
        Message::Link { entry: entry(Some(b"again")) },
        Message::Pass { entry: entry(Some(b"on the way")) },
        Message::Names {
            names: [&b""[..], b"a", b"a/b\xff"].map(|way| Relative::new(way).unwrap()).to_vec(),
            last: true,
        },
        Message::More {},
        Message::End { file: 1, pieces: 9, sum: None },
        Message::Abandon { file: 1, discard: true },
        Message::Finish {},
        Message::Piece { file: 1, offset: 1 << 40, len: PIECE_MAX as u32, sum: [5; 32] },
        Message::Written { file: 1, offset: 7, len: 1, sum: [6; 32] },
        Message::Ring { endpoint: "0:1:2:3".into(), immediates: true, windows: false },
        Message::Devices { devices: vec![Port { name: "rxe0".into(), address: [7; 16] }; 2] },
        Message::Slots { slots: vec![Slot { address: 1 << 60, key: 9 }; 2] },
        Message::Ready {},
        Message::Credit { key: 7 },
        Message::Have { file: 1, extents },
        Message::Go { file: 1, summer: Summer::new(true) },
        Message::Go { file: 1, summer: Summer::new(false) },
        Message::Skip { file: 1 },
        Message::Compare { file: 1 },
        Message::Copied {
            operand: 1,
            into: true,
            way: Relative::new(b"a/b").unwrap(),
            hash: [8; 32],
        },
        Message::Sum { file: 1, hash: [7; 32] },
        Message::Differs { text: "differs".into() },
        Message::Trouble { text: "trouble".into() },
        Message::Done {
            counts: Counts {
                files: 1,
                bytes: 2,
                resumed: 3,
                directories: 4,
                symlinks: 5,
                hard_links: 6,
                specials: 7,
                left: 8,
                deleted: 9,
            },
        },
    ]
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

#[test]
fn what_is_said_is_heard() {
    for message in samples() {
        assert_eq!(Message::decode(&encoded(&message)), Ok(message));
    }
}

#[test]
fn a_part_of_a_message_is_none_and_nothing_may_follow_it() {
    for message in samples() {
        let mut bytes = encoded(&message);
        for cut in 0..bytes.len() {
            assert!(Message::decode(&bytes[..cut]).is_err(), "{message:?} cut at {cut}");
        }
        bytes.push(0);
        assert!(Message::decode(&bytes).is_err(), "{message:?} and more");
    }
}

#[test]
fn names_that_lead_elsewhere_are_none() {
    for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b", &[b'n'; 256]] {
        assert!(Name::new(name).is_err(), "{name:?}");
    }
    for name in [&b"a"[..], b"...", b".a", b"a\n\xff", &[b'n'; 255]] {
        assert_eq!(Name::new(name).unwrap().as_c_str().to_bytes(), name);
    }
    // Nor do they pass where one is read.
    let mut bytes = encoded(&Message::Enter { entry: entry(Some(b"..a")) });
    let at = bytes.windows(3).position(|three| three == b"..a").unwrap();
    bytes[at..at + 3].copy_from_slice(b"../");
    assert_eq!(Message::decode(&bytes), Err(Malformed("a name that leads out of its directory")));
}

#[test]
fn listed_paths_lead_down_only() {
    for path in
        [&b"/"[..], b"/a", b"a/", b"a//b", b".", b"..", b"a/..", b"../a", b"a/./b", b"a\0", b"a/\0"]
    {
        assert!(Relative::new(path).is_err(), "{path:?}");
        let mut bytes = vec![25];
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend((path.len() as u32).to_le_bytes());
        bytes.extend(path);
        bytes.push(1);
        assert!(Message::decode(&bytes).is_err(), "{path:?} in a message");
    }
    assert!(Relative::new(&b"a/".repeat(40_000)[..79_999]).is_err());
    let order = ["", "a", "a/b", "a/b/c", "a-b", "a-b/c", "b"];
    let ways: Vec<_> = order.iter().map(|way| Relative::new(way.as_bytes()).unwrap()).collect();
    assert!(ways.is_sorted() && ways.windows(2).all(|two| two[0] != two[1]), "{ways:?}");
    let below = |one: usize, other: usize| ways[one].below(&ways[other]);
    assert_eq!(
        (below(3, 1), below(3, 0), below(1, 1)),
        (Some(&b"b/c"[..]), Some(&b"a/b/c"[..]), Some(&b""[..]))
    );
    assert_eq!((below(4, 1), below(1, 3)), (None, None));
    assert!(ways[0].names().is_empty() && ways[3].names().len() == 3);
}

#[test]
fn values_that_cannot_be_are_refused() {
    let sum = [0; 32];
    let extent = |start, end| Extent { start, end };
    let port = |len| Port { name: "n".repeat(len), address: [0; 16] };
    let bad_request = |change: fn(&mut Request)| {
        let mut request = request();
        change(&mut request);
        Message::Ask { request }
    };
    for message in [
        Message::Piece { file: 0, offset: 0, len: 0, sum },
        Message::Piece { file: 0, offset: 0, len: PIECE_MAX as u32 + 1, sum },
        Message::Piece { file: 0, offset: u64::MAX, len: 1, sum },
        Message::Small { entry: entry(None), content: Blob(vec![0; SMALL_MAX + 1]), sum: None },
        Message::Have { file: 0, extents: vec![extent(5, 5)] },
        Message::Have { file: 0, extents: vec![extent(5, 9), extent(8, 10)] },
        Message::Written { file: 0, offset: 0, len: PIECE_MAX as u32 + 1, sum },
        Message::Ring { endpoint: "0".repeat(ENDPOINT_MAX + 1), immediates: true, windows: true },
        Message::Devices { devices: Vec::new() },
        Message::Devices { devices: vec![port(1); DEVICES_MAX + 1] },
        Message::Devices { devices: vec![port(DEVICE_NAME_MAX + 1)] },
        Message::Slots { slots: Vec::new() },
        Message::Slots { slots: vec![Slot { address: 0, key: 0 }; SLOTS_MAX + 1] },
        bad_request(|request| request.onto = 3),
        bad_request(|request| request.follow = 3),
        bad_request(|request| request.naming = 3),
        bad_request(|request| (request.naming, request.delete) = (1, true)),
        bad_request(|request| (request.sums, request.check) = (true, true)),
        bad_request(|request| {
            (request.naming, request.delete, request.check, request.sums) = (2, false, true, false)
        }),
        bad_request(|request| request.lanes = 0),
        bad_request(|request| request.lanes = LANES_MAX + 1),
        bad_request(|request| request.operands.clear()),
    ] {
        assert!(Message::decode(&encoded(&message)).is_err(), "{message:?}");
    }
    assert!(Message::decode(&vec![6; FRAME_MAX + 1]).is_err());
}

#[test]
fn a_length_that_lies_takes_no_memory() {
    // A list of four billion operands, of which none follows.
    let mut bytes = vec![3, 1];
    bytes.extend(u32::MAX.to_le_bytes());
    assert_eq!(Message::decode(&bytes), Err(Malformed("a message ends before its last field")));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_harm(bytes: Vec<u8>) {
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }

    #[test]
    fn damaged_messages_are_read_without_harm(
        which in 0..samples().len(), flips: Vec<(usize, u8)>
    ) {
        let mut bytes = encoded(&samples()[which]);
        for (at, flip) in flips {
            let at = at % bytes.len();
            bytes[at] ^= flip;
        }
        if let Ok(message) = Message::decode(&bytes) {
            prop_assert_eq!(encoded(&message), bytes);
        }
    }
}
