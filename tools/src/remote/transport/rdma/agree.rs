//! How the two ends of a lane agree on a ring, or on none.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bookend_registration::ring::{Patience, ReceiveRing, RingError, SendRing};
use bookend_registration::verbs::{Domain, Endpoint, RemoteMemory, WorkError};

use super::{How, Part, Reason, SHAPE};
use crate::remote::error::printable;
use crate::remote::protocol::{Malformed, Message, Slot};
use crate::remote::secure::ReadError;
use crate::remote::transport::Lane;

/// What the first write carries; nobody looks at it.
const FIRST_BYTES: usize = 8;

/// A ring for `lane` by the device of `domain`, which both ends have then. `limit` is how long the first write may take.
pub(super) fn agree(
    lane: &mut Lane<'_>,
    domain: &Arc<Domain>,
    part: Part,
    limit: Duration,
) -> Result<(Ring, How), Stop> {
    let device = domain.device();
    let ring = match part {
        Part::Sends => SendRing::new(domain, SHAPE).map(Ring::Send),
        Part::Receives => ReceiveRing::new(domain, SHAPE).map(Ring::Receive),
    };
    let ring = ring.map_err(|error| error.to_string());
    say(
        lane,
        &match &ring {
            Ok(ring) => ring.introduce(device.has_immediates()),
            Err(why) => Message::Refuse { why: why.clone() },
        },
    )?;
    let (mut ring, endpoint, immediates, windows) = match (ring, lane.feed.receive()?) {
        (Ok(ring), Message::Ring { endpoint, immediates, windows }) => {
            (ring, endpoint, immediates, windows)
        }
        (Err(why), Message::Ring { .. }) => {
            return Err(Stop::NoRing { here: Some(why), there: None });
        }
        (ring, Message::Refuse { why }) => {
            return Err(Stop::NoRing { here: ring.err(), there: Some(printable(&why)) });
        }
        _ => return Err(breach("no ring, where one was to be agreed on")),
    };
    let endpoint = endpoint.parse().map_err(|_| breach("a queue pair that cannot be"))?;
    let immediates = immediates && device.has_immediates();
    let stop = AtomicBool::new(false);
    let patience = Patience { limit, stop: &stop };
    let tried = match &mut ring {
        Ring::Send(ring) => {
            try_to_send(lane, ring, &endpoint, immediates, &patience).map(|()| windows)
        }
        Ring::Receive(ring) => try_to_receive(lane, ring, &endpoint, immediates, &patience)
            .map(|()| ring.has_windows()),
    };
    if let Err(Stop::Trial(Reason::Here(why))) = &tried {
        say(lane, &Message::Refuse { why: why.clone() })?;
    }
    let how = How { memory: ring.describe(), windows: tried?, immediates };
    Ok((ring, how))
}

/// Why no ring was agreed on. Both ends know.
pub(super) enum Stop {
    /// One of the devices, or both, gives none.
    NoRing {
        /// Why that of this end does not.
        here: Option<String>,
        /// Why that of the other one does not.
        there: Option<String>,
    },
    /// Nothing goes from the one device to the other.
    Trial(Reason),
    /// It is the lane itself.
    Lane(ReadError),
}

impl From<ReadError> for Stop {
    fn from(error: ReadError) -> Self {
        Self::Lane(error)
    }
}

pub(super) fn breach(what: &'static str) -> Stop {
    Stop::Lane(Malformed(what).into())
}

fn here(error: impl Into<RingError>) -> Stop {
    let why = match error.into() {
        RingError::Breach(what) => return breach(what),
        RingError::Work(WorkError::TimedOut(after)) => {
            format!("nothing came through in {} s", after.as_secs())
        }
        error => error.to_string(),
    };
    Stop::Trial(Reason::Here(why))
}

pub(super) fn say(lane: &mut Lane<'_>, message: &Message) -> Result<(), ReadError> {
    Ok(lane.sink.send(message).and_then(|()| lane.sink.flush())?)
}

/// The next word, unless it is a refusal.
pub(super) fn hear(lane: &mut Lane<'_>) -> Result<Message, Stop> {
    match lane.feed.receive()? {
        Message::Refuse { why } => Err(Stop::Trial(Reason::There(printable(&why)))),
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
        // It has just arrived.
        None => Err(Stop::Trial(Reason::Here("a slot that arrived was lost".to_owned()))),
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
