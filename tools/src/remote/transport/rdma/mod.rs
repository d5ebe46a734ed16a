//! Lanes whose pieces go over RDMA.
//!
//! Such a lane is one of TCP, with a ring of slots beside it ([`bookend_registration::ring`]): bytes of pieces go
//! from slot to slot, and everything else over the TCP connection, piece after piece:
//!
//! ```text
//! sender                                              receiver
//!   reads the file into a slot, and takes its sum
//!   writes the slot over RDMA, then says Written  →   takes the slot's key back, compares the sum,
//!                                                     writes the slot to its file
//!                                                 ←   Credit: the slot's next key
//! ```
//!
//! **No connection manager**: queue pairs, keys and checksums are told over the lane's own TCP connection, whose
//! ends have proved that they know the session's secret. RDMA's connection manager proves nothing: whoever
//! reaches the port could stand between the ends. Bytes over RDMA can be read on their way, as with `--plain`;
//! changed unnoticed they cannot be, since their checksums are in messages that are sealed.
//!
//! **What a peer can do**: write to slots that it has keys for, and nothing else. Slots are
//! [`LANES_MAX`] times 8 MiB at most, whatever it asks for. A peer that dies or hangs is noticed on the main
//! lane; bytes that were announced and do not come are waited for no longer than `--timeout`.
//!
//! Where a lane cannot have a ring it stays one of TCP, and so do those after it: both ends know.

mod agree;
mod lanes;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bookend::units::Bytes;
use bookend_registration::ring::Shape;
use bookend_registration::verbs::{Device, Domain, devices};

use super::Lane;
use crate::remote::protocol::{Message, PIECE_MAX};
use crate::remote::secure::ReadError;
use agree::{Stop, agree, say};

/// Lanes of a session that have rings, at most: each takes 10 MiB of locked memory.
pub const LANES_MAX: u32 = 8;
const SHAPE: Shape = Shape { slots: 8, slot: Bytes::mib(1) };
const _: () = assert!(SHAPE.slot.get() == PIECE_MAX as u64);
/// How long one word of the other end may take while a ring is agreed on.
pub const AGREE: Duration = Duration::from_secs(12);

/// A device of this machine.
#[derive(Debug)]
pub struct Fabric {
    domain: Arc<Domain>,
}

impl Fabric {
    /// Opens the device that has this machine's address `near`, if one has; otherwise the first whose port is up.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(near: Option<IpAddr>) -> Result<Self, String> {
        let names = devices().map_err(|error| error.to_string())?;
        let (mut found, mut reasons) = (None, Vec::new());
        for name in names {
            match Device::open(Some(&name)) {
                Ok(device) if device.is_active(1) => {
                    let is_near = near.is_some_and(|near| device.has_address(1, near));
                    if is_near || found.is_none() {
                        found = Some(device);
                    }
                    if is_near {
                        break;
                    }
                }
                Ok(_) => reasons.push(format!("the port of {name} is down")),
                Err(error) => reasons.push(format!("{name}: {error}")),
            }
        }
        let device = found.ok_or_else(|| match reasons.is_empty() {
            true => "there is no RDMA device".to_owned(),
            false => reasons.join("; "),
        })?;
        let domain = Domain::new(&device).map_err(|error| error.to_string())?;
        Ok(Self { domain })
    }
}

/// Which part this end plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It sends pieces.
    Sends,
    /// It receives them.
    Receives,
}

/// Why a lane has no ring.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Because of this machine.
    Here(String),
    /// Because of the other one, in its words.
    There(String),
}

/// How the bytes of a lane go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct How {
    /// This machine's device, and what its ring is of.
    device: String,
    /// The receiver takes keys back.
    windows: bool,
    immediates: bool,
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = if self.immediates { "immediate data" } else { "messages" };
        let taken = match self.windows {
            true => "keys are taken back before the data is used",
            false => "data is copied before it is used, for want of memory windows",
        };
        write!(f, "{}, arrivals told by {told}, {taken}", self.device)
    }
}

/// Gives the lanes of a session rings, as long as that works.
#[derive(Debug)]
pub struct Upgrades<'f> {
    fabric: Result<&'f Fabric, &'f str>,
    part: Part,
    timeout: Duration,
    /// How the first lanes go.
    pub how: Option<How>,
    /// How many those are.
    pub rings: u32,
    /// Why the others do not.
    pub reason: Option<Reason>,
}

impl<'f> Upgrades<'f> {
    /// By the device of this machine, if there is one. `timeout` is how long bytes may take that are on their way.
    pub fn new(fabric: Result<&'f Fabric, &'f str>, part: Part, timeout: Duration) -> Self {
        Self { fabric, part, timeout, how: None, rings: 0, reason: None }
    }

    /// The lane with a ring, or as it was, if the other end does the same.
    ///
    /// # Errors
    /// [`ReadError`]: the lane failed, or the other end does not keep to the protocol.
    pub fn lane<'a>(&mut self, mut lane: Lane<'a>) -> Result<Lane<'a>, ReadError> {
        if self.reason.is_some() {
            return Ok(lane);
        }
        lane.closer.set_patience(Some(AGREE))?;
        let agreed = agree(&mut lane, self.fabric, self.part);
        lane.closer.set_patience(None)?;
        let (ring, how) = match agreed {
            Ok(agreed) => agreed,
            Err(Stop::Lane(error)) => return Err(error),
            Err(Stop::Reason(reason)) => {
                self.reason = Some(reason);
                return Ok(lane);
            }
            Err(Stop::Here(why)) => {
                self.reason = Some(Reason::Here(why.clone()));
                say(&mut lane, &Message::Refuse { why })?;
                return Ok(lane);
            }
        };
        self.how = Some(how);
        self.rings += 1;
        Ok(lanes::with_ring(lane, ring, self.timeout))
    }
}

#[cfg(test)]
mod tests;
