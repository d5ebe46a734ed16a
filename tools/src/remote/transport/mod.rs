//! What a way between machines offers: lanes that carry messages, and pieces with their bytes.
//!
//! A lane goes both ways and keeps its order; lanes do not wait for each other. The memory of the
//! bytes is the lane's, so that a way that needs memory of its own kind (registered with a device)
//! gives out that: a piece is read from its file to where it is sent from, and written to its file
//! from where it arrived.

pub mod congestion;
pub mod info;
pub mod rdma;
pub mod tcp;

use std::fs::File;
use std::io;
use std::time::Duration;

use bookend::units::Node;

use super::protocol::{Malformed, Message};
use super::secure::ReadError;

/// The end of a lane that sends.
pub trait Sink: Send {
    /// Sends `message`, which is no piece, at the latest with the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// What the system says.
    fn send(&mut self, message: &Message) -> io::Result<()>;

    /// Sends what was held back.
    ///
    /// # Errors
    /// What the system says.
    fn flush(&mut self) -> io::Result<()>;

    /// Where the bytes of the next piece go: [`PIECE_MAX`](super::protocol::PIECE_MAX) of them fit.
    ///
    /// # Errors
    /// What the system says of an earlier piece, or of room for this one.
    fn body(&mut self) -> io::Result<&mut [u8]>;

    /// Sends `piece`, and as many bytes of the body as it says, at once.
    ///
    /// # Errors
    /// What the system says.
    fn send_piece(&mut self, piece: &Message) -> io::Result<()>;

    /// As [`send_piece`](Self::send_piece); the bytes also lie where the piece says in `file`, from which the kernel may
    /// take them. If somebody writes there meanwhile, they are not those of the checksum any more.
    ///
    /// # Errors
    /// What the system says.
    fn send_piece_of(&mut self, piece: &Message, file: &File) -> io::Result<()> {
        let _ = file; // the body has them
        self.send_piece(piece)
    }
}

/// The end of a lane that receives.
pub trait Feed: Send {
    /// The next message; of a piece the bytes are in the [`body`](Self::body) then.
    ///
    /// # Errors
    /// [`ReadError`]; `UnexpectedEof` where the other end is gone, and `WouldBlock` where it was
    /// silent for too long.
    fn receive(&mut self) -> Result<Message, ReadError>;

    /// The bytes of the last piece.
    fn body(&self) -> &[u8];
}

/// Ends a lane from any thread: whoever waits at it wakes with an error.
pub trait Closer: Send + Sync {
    /// Ends it.
    fn close(&self);

    /// How long its feed waits for a message; for ever where nothing is said.
    ///
    /// # Errors
    /// What the system says.
    fn set_patience(&self, longest: Option<Duration>) -> io::Result<()>;
}

/// A way to the other end and back.
pub struct Lane<'a> {
    /// What sends.
    pub sink: Box<dyn Sink + 'a>,
    /// What receives.
    pub feed: Box<dyn Feed + 'a>,
    /// What ends it.
    pub closer: Box<dyn Closer>,
    /// The NUMA node that its memory and its device are at, if it has both.
    pub node: Option<Node>,
}

impl std::fmt::Debug for Lane<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

/// How many bytes a piece says it has.
///
/// # Errors
/// A message that is no piece.
pub fn piece_len(message: &Message) -> Result<usize, Malformed> {
    match message {
        Message::Piece { len, .. } => Ok(*len as usize),
        _ => Err(Malformed("bytes of no piece")),
    }
}
