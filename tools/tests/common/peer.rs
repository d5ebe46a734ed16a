//! A peer that speaks the protocol of copies between machines by itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use bookend_tools::remote::key;
use bookend_tools::remote::protocol::{Attributes, Entry, Message, Moment, Name};
use bookend_tools::remote::secure::SECRET_BYTES;
use bookend_tools::remote::transport::Lane;
use bookend_tools::remote::transport::congestion::Congestion;
use bookend_tools::remote::transport::tcp::Manner;

use super::{Dir, bytes};

pub const PATIENCE: Duration = Duration::from_secs(10);

pub fn key_file(dir: &Dir) -> [u8; SECRET_BYTES] {
    let path = dir.file("key", bytes(32));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    key::from_file(&path).unwrap()
}

pub fn manner(buffers: Option<&bookend::placement::Arena>) -> Manner<'_> {
    Manner { buffers, ..Manner::talking(PATIENCE, &Congestion::Auto) }
}

pub fn say(lane: &mut Lane<'_>, message: &Message) {
    // The client may be gone already: it is right to go.
    let _ = lane.sink.send(message).and_then(|()| lane.sink.flush());
}

pub fn entry(name: &str, mode: u32) -> Entry {
    let moment = Moment { seconds: 0, nanoseconds: 0 };
    let attributes = Attributes {
        mode,
        uid: 0,
        gid: 0,
        accessed: moment.clone(),
        modified: moment,
        xattrs: Vec::new(),
    };
    Entry { name: Name::new(name.as_bytes()).ok(), link: 0, attributes }
}
