//! The ends of a lane with a ring.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bookend::units::Node;
use bookend_registration::ring::{Patience, ReceiveRing, RingError, SendRing};
use bookend_registration::verbs::WorkError;

use super::agree::Ring;
use crate::remote::protocol::{Malformed, Message};
use crate::remote::secure::ReadError;
use crate::remote::transport::{Closer, Feed, Lane, Sink};

/// `lane` with a ring beside it, whose device is at `node`.
pub(super) fn with_ring<'a>(
    lane: Lane<'a>,
    ring: Ring,
    timeout: Duration,
    node: Option<Node>,
) -> Lane<'a> {
    let closed = Arc::new(AtomicBool::new(false));
    let closer = Box::new(RingCloser { closed: closed.clone(), inner: lane.closer });
    let (lane, waits) = ((lane.sink, lane.feed), Waits { closed, timeout });
    match ring {
        Ring::Send(ring) => {
            let sink = Box::new(RingSink { lane, ring, waits });
            Lane { sink, feed: Box::new(OneWay), closer, node }
        }
        Ring::Receive(ring) => {
            let feed = Box::new(RingFeed { lane, ring, waits });
            Lane { sink: Box::new(OneWay), feed, closer, node }
        }
    }
}

/// How long is waited for what is on its way.
struct Waits {
    closed: Arc<AtomicBool>,
    timeout: Duration,
}

impl Waits {
    fn patience(&self) -> Patience<'_> {
        Patience { limit: self.timeout, stop: &self.closed }
    }
}

fn failed(error: RingError) -> io::Error {
    io::Error::other(match error {
        RingError::Work(WorkError::TimedOut(after)) => {
            format!(
                "what was on its way over RDMA did not come in {} s (--timeout)",
                after.as_secs()
            )
        }
        error => format!("RDMA: {error}"),
    })
}

/// Sends pieces into the other end's slots.
struct RingSink<'a> {
    lane: (Box<dyn Sink + 'a>, Box<dyn Feed + 'a>),
    ring: SendRing,
    waits: Waits,
}

impl Sink for RingSink<'_> {
    fn send(&mut self, message: &Message) -> io::Result<()> {
        self.lane.0.send(message)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lane.0.flush()
    }

    fn body(&mut self) -> io::Result<&mut [u8]> {
        while !self.ring.is_free() {
            match self.lane.1.receive() {
                Ok(Message::Credit { key }) => self.ring.grant(key).map_err(failed)?,
                Ok(_) => {
                    return Err(io::Error::other("it sends what is no credit on a lane of RDMA"));
                }
                Err(ReadError::Io(error)) => return Err(error),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        self.ring.buffer(&self.waits.patience()).map_err(failed)
    }

    fn send_piece(&mut self, piece: &Message) -> io::Result<()> {
        let Message::Piece { file, offset, len, sum } = *piece else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.ring.send(len as usize).map_err(failed)?;
        self.lane.0.send(&Message::Written { file, offset, len, sum })?;
        self.lane.0.flush()
    }
}

/// Receives pieces in slots.
struct RingFeed<'a> {
    lane: (Box<dyn Sink + 'a>, Box<dyn Feed + 'a>),
    ring: ReceiveRing,
    waits: Waits,
}

impl Feed for RingFeed<'_> {
    fn receive(&mut self) -> Result<Message, ReadError> {
        let patience = self.waits.patience();
        if let Some(key) = self.ring.give_back(&patience).map_err(failed)? {
            self.lane.0.send(&Message::Credit { key })?;
            self.lane.0.flush()?;
        }
        match self.lane.1.receive()? {
            Message::Written { file, offset, len, sum } => {
                self.ring.arrive(len as usize, &patience).map_err(failed)?;
                Ok(Message::Piece { file, offset, len, sum })
            }
            _ => Err(Malformed("what is no piece on a lane of RDMA").into()),
        }
    }

    fn body(&self) -> &[u8] {
        self.ring.data()
    }
}

/// The end of a lane that nothing goes through: bytes go one way, and the other is the ring's own.
struct OneWay;

impl Sink for OneWay {
    fn send(&mut self, _: &Message) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn body(&mut self) -> io::Result<&mut [u8]> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn send_piece(&mut self, _: &Message) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Feed for OneWay {
    fn receive(&mut self) -> Result<Message, ReadError> {
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }

    fn body(&self) -> &[u8] {
        &[]
    }
}

struct RingCloser {
    closed: Arc<AtomicBool>,
    inner: Box<dyn Closer>,
}

impl Closer for RingCloser {
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.inner.close();
    }

    fn set_patience(&self, longest: Option<Duration>) -> io::Result<()> {
        self.inner.set_patience(longest)
    }
}
