//! How the two ends of a lane agree on a ring, or on none.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bookend_registration::ring::{Patience, ReceiveRing, RingError, SendRing};
use bookend_registration::verbs::{Endpoint, RemoteMemory, WorkError};

use super::{Fabric, How, Part, Reason, SHAPE};
use crate::remote::error::printable;
use crate::remote::protocol::{Malformed, Message, Slot};
use crate::remote::secure::ReadError;
use crate::remote::transport::Lane;

/// How long the first write may take; where nothing comes through, devices try for longer.
const FIRST: Duration = Duration::from_secs(8);
/// What the first write carries; nobody looks at it.
const FIRST_BYTES: usize = 8;

/// A ring for `lane`, which both ends have then.
pub(super) fn agree(
    lane: &mut Lane<'_>,
    fabric: Result<&Fabric, &str>,
    part: Part,
) -> Result<(Ring, How), Stop> {
    let ring = fabric.map_err(str::to_owned).and_then(|fabric| {
        let domain = &fabric.domain;
        let ring = match part {
            Part::Sends => SendRing::new(domain, SHAPE).map(Ring::Send),
            Part::Receives => ReceiveRing::new(domain, SHAPE).map(Ring::Receive),
        };
        ring.map(|ring| (ring, domain.device())).map_err(|error| error.to_string())
    });
    say(
        lane,
        &match &ring {
            Ok((ring, device)) => ring.introduce(device.has_immediates()),
            Err(why) => Message::Refuse { why: why.clone() },
        },
    )?;
    let theirs = match hear(lane) {
        Err(Stop::Lane(error)) => return Err(Stop::Lane(error)),
        theirs => theirs,
    };
    let (mut ring, device) = ring.map_err(|why| Stop::Reason(Reason::Here(why)))?;
    let Message::Ring { endpoint, immediates, windows } = theirs? else {
        return Err(breach("no ring, where one was to be agreed on"));
    };
    let endpoint = endpoint.parse().map_err(|_| breach("a queue pair that cannot be"))?;
    let immediates = immediates && device.has_immediates();
    let stop = AtomicBool::new(false);
    let patience = Patience { limit: FIRST, stop: &stop };
    let windows = match &mut ring {
        Ring::Send(ring) => {
            try_to_send(lane, ring, &endpoint, immediates, &patience)?;
            windows
        }
        Ring::Receive(ring) => {
            try_to_receive(lane, ring, &endpoint, immediates, &patience)?;
            ring.has_windows()
        }
    };
    let device = format!("{} with {}", device.name(), ring.describe());
    Ok((ring, How { device, windows, immediates }))
}

/// Why no ring was agreed on.
pub(super) enum Stop {
    /// Because of this end, which the other one is to be told.
    Here(String),
    /// The other one knows.
    Reason(Reason),
    /// It is the lane itself.
    Lane(ReadError),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Lane(error)
    }
}

fn breach(what: &'static str) -> Stop {
    Stop::Lane(Malformed(what).into())
}

fn here(error: impl Into<RingError>) -> Stop {
    match error.into() {
        RingError::Breach(what) => breach(what),
        RingError::Work(WorkError::TimedOut(after)) => {
            Stop::Here(format!("nothing came through in {} s", after.as_secs()))
        }
        error => Stop::Here(error.to_string()),
    }
}

pub(super) fn say(lane: &mut Lane<'_>, message: &Message) -> Result<(), ReadError> {
    Ok(lane.sink.send(message).and_then(|()| lane.sink.flush())?)
}

/// The next word, unless it is a refusal.
fn hear(lane: &mut Lane<'_>) -> Result<Message, Stop> {
    match lane.feed.receive()? {
        Message::Refuse { why } => Err(Stop::Reason(Reason::There(printable(&why)))),
        message => Ok(message),
    }
}

/// Writes to the first slot, so that what does not lead to the other end is found out in time.
fn try_to_send(
    lane: &mut Lane<'_>,
    ring: &mut SendRing,
    peer: &Endpoint,
    immediates: bool,
    patience: &Patience<'_>,
) -> Result<(), Stop> {
    let connected = ring.connect(peer, immediates);
    let Message::Slots { slots } = hear(lane)? else {
        return Err(breach("no slots, where a ring was to be agreed on"));
    };
    connected.map_err(here)?;
    let slot = |slot: Slot| RemoteMemory { address: slot.address, key: slot.key };
    ring.open(slots.into_iter().map(slot).collect()).map_err(here)?;
    ring.buffer(patience).map_err(here)?[..FIRST_BYTES].fill(0x5a);
    ring.send(FIRST_BYTES).map_err(here)?;
    ring.settle(patience).map_err(here)?;
    say(lane, &Message::Ready {})?;
    match hear(lane)? {
        Message::Credit { key } => ring.grant(key).map_err(here),
        _ => Err(breach("no credit, where a ring was to be agreed on")),
    }
}

fn try_to_receive(
    lane: &mut Lane<'_>,
    ring: &mut ReceiveRing,
    peer: &Endpoint,
    immediates: bool,
    patience: &Patience<'_>,
) -> Result<(), Stop> {
    ring.connect(peer, immediates).map_err(here)?;
    let slots = ring.open(patience).map_err(here)?;
    let slot = |slot: RemoteMemory| Slot { address: slot.address, key: slot.key };
    say(lane, &Message::Slots { slots: slots.into_iter().map(slot).collect() })?;
    let Message::Ready {} = hear(lane)? else {
        return Err(breach("no word of a write, where a ring was to be agreed on"));
    };
    ring.arrive(FIRST_BYTES, patience).map_err(here)?;
    match ring.give_back(patience).map_err(here)? {
        Some(key) => Ok(say(lane, &Message::Credit { key })?),
        None => Err(Stop::Here("a slot that arrived was lost".to_owned())), // it has just arrived
    }
}

/// This end of a ring.
pub(super) enum Ring {
    Send(SendRing),
    Receive(ReceiveRing),
}

impl Ring {
    fn introduce(&self, immediates: bool) -> Message {
        let (endpoint, windows) = match self {
            Self::Send(ring) => (ring.endpoint(), false),
            Self::Receive(ring) => (ring.endpoint(), ring.has_windows()),
        };
        Message::Ring { endpoint: endpoint.to_string(), immediates, windows }
    }

    fn describe(&self) -> String {
        match self {
            Self::Send(ring) => ring.describe(),
            Self::Receive(ring) => ring.describe(),
        }
    }
}
