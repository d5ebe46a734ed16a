//! Any bytes are a message or none; one that is keeps its promises, and is the same when it is said again.
#![no_main]

use bookend_tools::remote::protocol::{FRAME_MAX, Message, PIECE_MAX, SLOTS_MAX, SMALL_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(message) = Message::decode(bytes) else { return };
    assert!(bytes.len() <= FRAME_MAX);
    match &message {
        Message::Piece { offset, len, .. } | Message::Written { offset, len, .. } => {
            assert!(*len >= 1 && *len as usize <= PIECE_MAX);
            assert!(offset.checked_add(u64::from(*len)).is_some());
        }
        Message::Small { content, .. } => assert!(content.0.len() <= SMALL_MAX),
        Message::Slots { slots } => assert!((1..=SLOTS_MAX).contains(&slots.len())),
        Message::Have { extents, .. } => {
            assert!(extents.windows(2).all(|two| two[0].end <= two[1].start));
            assert!(extents.iter().all(|extent| extent.start < extent.end));
        }
        Message::Names { names, .. } => {
            for path in names {
                let bytes = path.as_bytes();
                let mut parts = bytes.split(|byte| *byte == b'/');
                assert!(bytes.is_empty() || parts.all(|part| !matches!(part, b"" | b"." | b"..")));
                assert!(!bytes.contains(&0));
            }
        }
        Message::Enter { entry } | Message::Link { entry } | Message::Pass { entry } => {
            if let Some(name) = &entry.name {
                let name = name.as_c_str().to_bytes();
                assert!(!name.is_empty() && !name.contains(&b'/') && name != b"." && name != b"..");
            }
        }
        _ => {}
    }
    let mut again = Vec::new();
    message.encode(&mut again);
    assert_eq!(again, bytes);
});
