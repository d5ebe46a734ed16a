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
//! **Several devices**: both ends tell theirs before the first ring, and lanes take them in turn (`pairs`). A pair
//! by which nothing comes through is left out, and the lane tries another one, in bounded time. A ring's memory is on
//! its device's NUMA node, and the lane's threads are to run there ([`Lane::node`]).
//!
//! Where a lane cannot have a ring it stays one of TCP, and so do those after it: both ends know.

mod agree;
mod fabric;
mod lanes;
mod pairs;
mod ways;

use std::time::Duration;

use bookend::units::{Bytes, Node};
use bookend_registration::ring::Shape;

use super::Lane;
use crate::remote::error::printable;
use crate::remote::protocol::{DEVICES_MAX, Malformed, Message, PIECE_MAX, Port};
use crate::remote::secure::ReadError;
use agree::{Ring, Stop, agree, say};
pub use fabric::Fabric;
use pairs::{Pair, Pairs};
pub use ways::{How, Ways};

/// Lanes of a session that have rings, at most: each takes 10 MiB of locked memory.
pub const LANES_MAX: u32 = 8;
const _: () = assert!(LANES_MAX as usize <= DEVICES_MAX, "each lane may have a device of its own");
const SHAPE: Shape = Shape { slots: 8, slot: Bytes::mib(1) };
const _: () = assert!(SHAPE.slot.get() == PIECE_MAX as u64);
/// How long one word of the other end may take while a ring is agreed on.
pub const AGREE: Duration = Duration::from_secs(12);
/// How long the first write may take; where nothing comes through, devices try for longer.
const FIRST: Duration = Duration::from_secs(8);
/// The same where there are other devices to try.
const FIRST_OF_SEVERAL: Duration = Duration::from_secs(4);
const _: () = assert!(FIRST.as_secs() < AGREE.as_secs());

/// Which part this end plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// It sends pieces.
    Sends,
    /// It receives them.
    Receives,
}

/// Why a lane has no ring, or not by a device that there is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// Because of this machine.
    Here(String),
    /// Because of the other one, in its words.
    There(String),
    /// None of the devices is left: [`Upgrades::passed_over`] says why.
    NoneLeft,
}

/// A device that lanes do not take, or not with one of the other end's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PassedOver {
    /// This end's.
    here: Option<String>,
    /// The other one's.
    there: Option<String>,
    reason: Reason,
}

/// The devices of both ends.
#[derive(Debug)]
struct Met<'f> {
    fabric: &'f Fabric,
    theirs: Vec<Port>,
    pairs: Pairs,
}

/// Gives the lanes of a session rings, as long as that works.
#[derive(Debug)]
pub struct Upgrades<'f> {
    fabric: Result<&'f Fabric, &'f str>,
    part: Part,
    timeout: Duration,
    /// Once both ends have told.
    met: Option<Met<'f>>,
    /// How the first lanes go.
    pub ways: Ways,
    /// Why the others do not.
    pub reason: Option<Reason>,
    /// What was tried in vain.
    pub passed_over: Vec<PassedOver>,
}

impl<'f> Upgrades<'f> {
    /// By the devices of this machine, if there are any. `timeout` is how long bytes may take that are on their way.
    pub fn new(fabric: Result<&'f Fabric, &'f str>, part: Part, timeout: Duration) -> Self {
        let (ways, passed_over) = (Ways::default(), Vec::new());
        Self { fabric, part, timeout, met: None, ways, reason: None, passed_over }
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
        let ring = self.ring(&mut lane);
        lane.closer.set_patience(None)?;
        Ok(match ring? {
            Ok((ring, node)) => lanes::with_ring(lane, ring, self.timeout, node),
            Err(reason) => {
                self.reason = Some(reason);
                lane
            }
        })
    }

    /// A ring by the devices whose turn it is, or by others, and its device's node.
    fn ring(
        &mut self,
        lane: &mut Lane<'_>,
    ) -> Result<Result<(Ring, Option<Node>), Reason>, ReadError> {
        let mut met = match self.met.take() {
            Some(met) => met,
            None => match self.meet(lane)? {
                Ok(met) => met,
                Err(reason) => return Ok(Err(reason)),
            },
        };
        let ring = self.first_that_works(lane, &mut met);
        self.met = Some(met);
        Ok(ring?.ok_or(Reason::NoneLeft))
    }

    /// Tells the other end of this one's devices, and hears of its.
    fn meet(&self, lane: &mut Lane<'_>) -> Result<Result<Met<'f>, Reason>, ReadError> {
        let word = match self.fabric {
            Ok(fabric) => Message::Devices { devices: fabric.ports() },
            Err(why) => Message::Refuse { why: why.to_owned() },
        };
        say(lane, &word)?;
        let theirs = match lane.feed.receive()? {
            Message::Devices { devices } => Ok(devices),
            Message::Refuse { why } => Err(Reason::There(printable(&why))),
            _ => return Err(Malformed("no devices, where they were to be told").into()),
        };
        let fabric = self.fabric.map_err(|why| Reason::Here(why.to_owned()));
        Ok(fabric.and_then(|fabric| {
            let theirs = theirs?;
            let addresses = |ports: &[Port]| ports.iter().map(|port| port.address).collect();
            let (own, other): (Vec<_>, Vec<_>) = (addresses(&fabric.ports()), addresses(&theirs));
            let pairs = match self.part {
                Part::Sends => Pairs::new(&own, &other),
                Part::Receives => Pairs::new(&other, &own),
            };
            Ok(Met { fabric, theirs, pairs })
        }))
    }

    fn first_that_works(
        &mut self,
        lane: &mut Lane<'_>,
        met: &mut Met<'f>,
    ) -> Result<Option<(Ring, Option<Node>)>, ReadError> {
        while let Some(pair) = met.pairs.next() {
            let Pair { sender, receiver } = pair;
            let (own, other) = match self.part {
                Part::Sends => (sender, receiver),
                Part::Receives => (receiver, sender),
            };
            let domain = met.fabric.domain(own);
            let here = || Some(domain.device().name().to_owned());
            let there = || Some(printable(&met.theirs[other].name));
            let limit = if met.pairs.has_other(pair) { FIRST_OF_SEVERAL } else { FIRST };
            match agree(lane, domain, self.part, limit) {
                Ok((ring, how)) => {
                    met.pairs.worked(pair);
                    let node = domain.device().node();
                    self.ways.add(domain.device().name(), node, how);
                    return Ok(Some((ring, node)));
                }
                Err(Stop::Trial(reason)) => {
                    met.pairs.failed(pair);
                    self.passed_over.push(PassedOver { here: here(), there: there(), reason });
                }
                Err(Stop::NoRing { here: own_reason, there: other_reason }) => {
                    // Both ends count alike: whose device it is, both know.
                    let (no_sender, no_receiver) = match self.part {
                        Part::Sends => (own_reason.is_some(), other_reason.is_some()),
                        Part::Receives => (other_reason.is_some(), own_reason.is_some()),
                    };
                    if no_sender {
                        met.pairs.without_sender(sender);
                    }
                    if no_receiver {
                        met.pairs.without_receiver(receiver);
                    }
                    if let Some(why) = own_reason {
                        let reason = Reason::Here(why);
                        self.passed_over.push(PassedOver { here: here(), there: None, reason });
                    }
                    if let Some(why) = other_reason {
                        let reason = Reason::There(why);
                        self.passed_over.push(PassedOver { here: None, there: there(), reason });
                    }
                }
                Err(Stop::Lane(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Why lanes have no rings, for people, where the other end is `host`.
    pub fn why(&self, host: &str) -> Option<String> {
        let there = |why: &str| format!("{host}: {why}");
        Some(match self.reason.as_ref()? {
            Reason::Here(why) => why.clone(),
            Reason::There(why) => there(why),
            Reason::NoneLeft if self.passed_over.is_empty() => {
                "the devices of the two ends have no addresses of one kind".to_owned()
            }
            Reason::NoneLeft => self.why_not(host).unwrap_or_default(),
        })
    }

    /// Which devices were passed over, and why; none where all that there are were used.
    pub fn why_not(&self, host: &str) -> Option<String> {
        let met = self.met.as_ref()?;
        // Where each end has one there is no need to say which.
        let named = met.theirs.len() > 1 || met.fabric.ports().len() > 1;
        let words: Vec<_> =
            self.passed_over.iter().map(|passed| passed.words(host, named)).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

impl PassedOver {
    fn words(&self, host: &str, named: bool) -> String {
        let why = match &self.reason {
            Reason::Here(why) => why.clone(),
            Reason::There(why) => format!("{host}: {why}"),
            Reason::NoneLeft => String::new(), // that is no device's
        };
        match (&self.here, &self.there) {
            _ if !named => why,
            (Some(here), Some(there)) => format!("{here} with {there} of {host}: {why}"),
            (Some(one), None) | (None, Some(one)) => format!("{one}: {why}"),
            (None, None) => why,
        }
    }
}

#[cfg(test)]
mod tests;
