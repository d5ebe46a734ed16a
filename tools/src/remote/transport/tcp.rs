//! Lanes over TCP, each a connection of its own.
//!
//! A connection begins with a preface in the clear, which the handshake after it covers:
//!
//! ```text
//! preface   "hugecp" | version (2 bytes) | whose secret (1) | session (16) | lane (1) | cipher (1)
//! ```

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use bookend::placement::{Arena, Class, Extent};
use bookend::pool::{Pool, Populate, Rung, Use};
use bookend::units::{Blocks, Bytes};

use super::congestion::Congestion;
use super::{Closer, Feed, Lane, Sink, piece_len};
use crate::remote::protocol::{Message, PIECE_MAX, VERSION};
use crate::remote::secure::{
    Cipher, HandshakeError, Keys, ReadError, Reader, SECRET_BYTES, TAG, Writer, handshake,
};

const MAGIC: &[u8; 6] = b"hugecp";
/// What a handshake may take in all.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Bytes of a preface.
pub const PREFACE_BYTES: usize = MAGIC.len() + 2 + 1 + 16 + 1 + 1;

/// Whose secret opens a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Secret {
    /// The key file's, for a new session.
    KeyFile = 0,
    /// The session's own.
    Session = 1,
}

/// What is said first on a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preface {
    /// What the other end speaks.
    pub version: u16,
    /// Whose secret follows.
    pub secret: Secret,
    /// The session; zeros for a new one.
    pub session: [u8; 16],
    /// Which lane of it.
    pub lane: u8,
    /// What the handshake and all after it is encrypted with.
    pub cipher: Cipher,
}

impl Preface {
    /// Its bytes.
    pub fn encode(&self) -> [u8; PREFACE_BYTES] {
        let mut bytes = [0; PREFACE_BYTES];
        bytes[..6].copy_from_slice(MAGIC);
        bytes[6..8].copy_from_slice(&self.version.to_le_bytes());
        bytes[8] = self.secret as u8;
        bytes[9..25].copy_from_slice(&self.session);
        bytes[25] = self.lane;
        bytes[26] = self.cipher as u8;
        bytes
    }

    /// What `bytes` say; `None` if that is nothing.
    pub fn decode(bytes: &[u8; PREFACE_BYTES]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<6>()?;
        let (version, rest) = rest.split_first_chunk::<2>()?;
        let (&secret, rest) = rest.split_first()?;
        let (session, rest) = rest.split_first_chunk::<16>()?;
        let secret = match secret {
            0 => Secret::KeyFile,
            1 => Secret::Session,
            _ => return None,
        };
        let (&lane, cipher) = (rest.first()?, Cipher::of(*rest.get(1)?)?);
        let version = u16::from_le_bytes(*version);
        (magic == MAGIC).then_some(Self { version, secret, session: *session, lane, cipher })
    }
}

/// Why a connection became no lane.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// See there.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The other end speaks something else.
    #[error("the other end speaks version {0} of the protocol")]
    Version(u16),
    /// No memory for a buffer.
    #[error("no memory for buffers: {0}")]
    Memory(String),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> Self {
        Self::Handshake(error.into())
    }
}

/// What is answered to a preface: the version spoken, so that an end with another one can say so.
const ANSWER_BYTES: usize = 2;

/// How a lane of this end is to be.
#[derive(Clone, Copy, Debug)]
pub struct Manner<'a> {
    /// What its buffers are of, where it carries pieces.
    pub buffers: Option<&'a Arena>,
    /// Whether the bytes of pieces go as they are.
    pub plain: bool,
    /// What its connection gets.
    pub congestion: &'a Congestion,
    /// Silence that is taken for the end, on a lane where there is none; none where there may be.
    pub timeout: Option<Duration>,
}

impl<'a> Manner<'a> {
    /// Of a lane for messages alone, which never fall silent for longer than `timeout`.
    pub fn talking(timeout: Duration, congestion: &'a Congestion) -> Self {
        Self { buffers: None, plain: false, congestion, timeout: Some(timeout) }
    }
}

/// What the buffers of a lane take at most: two, each of which begins at a block, since the tag of the last record needs
/// room too.
pub const BUFFER_BYTES: Bytes = Bytes::mib(4);

/// Memory for the buffers of `lanes` lanes.
///
/// # Errors
/// [`OpenError::Memory`].
pub fn arena(lanes: u32) -> Result<Arena, OpenError> {
    let blocks = Bytes::new(BUFFER_BYTES.get() * u64::from(lanes.max(1)));
    Pool::builder()
        .capacity(blocks)
        .rung(Rung::Transparent, Use::Allowed)
        .rung(Rung::Base, Use::Allowed)
        .populate(Populate::OnDemand)
        .build()
        .map_err(|error| OpenError::Memory(error.to_string()))
        .and_then(|pool| Arena::new(pool).map_err(|error| OpenError::Memory(error.to_string())))
}

/// Opens a lane over a connection that this end has made.
///
/// # Errors
/// [`OpenError`].
pub fn open<'a>(
    mut stream: TcpStream,
    preface: &Preface,
    secret: &[u8; SECRET_BYTES],
    patience: Duration,
    manner: &Manner<'a>,
) -> Result<Lane<'a>, OpenError> {
    prepare(&stream, Some(patience))?;
    let bytes = preface.encode();
    stream.write_all(&bytes)?;
    let mut answer = [0; ANSWER_BYTES];
    stream.read_exact(&mut answer)?;
    let version = u16::from_le_bytes(answer);
    if version != VERSION {
        return Err(OpenError::Version(version));
    }
    let keys = handshake(&mut stream, true, preface.cipher, secret, &bytes)?;
    lane(stream, keys, manner)
}

/// A connection of which all that is read comes before a moment: each byte alone may be late for long.
struct Hurried<'s> {
    stream: &'s mut TcpStream,
    until: Instant,
}

impl Read for Hurried<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into()); // as a read that takes too long
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(bytes)
    }
}

impl Write for Hurried<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

/// Hears within `patience` what a connection that came in is for.
///
/// # Errors
/// What the system says; `InvalidData` where it is for nothing known.
pub fn greet(stream: &mut TcpStream, patience: Duration) -> io::Result<Preface> {
    prepare(stream, Some(patience))?;
    let mut bytes = [0; PREFACE_BYTES];
    let until = Instant::now() + patience;
    Hurried { stream: &mut *stream, until }.read_exact(&mut bytes)?;
    let preface = Preface::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    stream.write_all(&VERSION.to_le_bytes())?;
    if preface.version != VERSION {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(preface)
}

/// Opens a lane over a connection that came in, and was greeted: what is left of the handshake may take as long as that.
///
/// # Errors
/// [`OpenError`].
pub fn accept<'a>(
    mut stream: TcpStream,
    preface: &Preface,
    secret: &[u8; SECRET_BYTES],
    manner: &Manner<'a>,
) -> Result<Lane<'a>, OpenError> {
    let patience = stream.write_timeout()?.unwrap_or(HANDSHAKE); // that of the greeting
    let mut hurried = Hurried { stream: &mut stream, until: Instant::now() + patience };
    let keys = handshake(&mut hurried, false, preface.cipher, secret, &preface.encode())?;
    lane(stream, keys, manner)
}

fn prepare(stream: &TcpStream, patience: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(patience)?;
    stream.set_write_timeout(patience)
}

fn lane<'a>(stream: TcpStream, keys: Keys, manner: &Manner<'a>) -> Result<Lane<'a>, OpenError> {
    stream.set_read_timeout(manner.timeout)?;
    stream.set_write_timeout(None)?;
    manner.congestion.settle(&stream)?; // the handshake has shown how long the path is
    let buffer = || {
        let blocks = Blocks::ONE;
        let extent = manner.buffers.map(|arena| arena.allocate(Class::Huge, blocks));
        extent.transpose().map_err(|error| OpenError::Memory(error.to_string()))
    };
    let sink = TcpSink {
        writer: Writer::new(stream.try_clone()?, keys.clone()),
        body: buffer()?,
        plain: manner.plain,
    };
    let feed = TcpFeed {
        reader: Reader::new(stream.try_clone()?, keys, manner.plain && manner.buffers.is_some()),
        body: buffer()?,
        len: 0,
        plain: manner.plain,
    };
    let (sink, feed) = (Box::new(sink), Box::new(feed));
    Ok(Lane { sink, feed, closer: Box::new(TcpCloser(stream)), node: None })
}

struct TcpSink<'a> {
    writer: Writer<TcpStream>,
    body: Option<Extent<'a>>,
    plain: bool,
}

impl Sink for TcpSink<'_> {
    fn send(&mut self, message: &Message) -> io::Result<()> {
        self.writer.message(message)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    fn body(&mut self) -> io::Result<&mut [u8]> {
        Ok(self.body.as_mut().map_or(&mut [], |body| &mut body[..PIECE_MAX]))
    }

    fn send_piece(&mut self, piece: &Message) -> io::Result<()> {
        let len = piece_len(piece).map_err(io::Error::other)?;
        let body = self.body.as_ref().and_then(|body| body.get(..len));
        let body = body.ok_or(io::ErrorKind::InvalidInput)?;
        self.writer.message(piece)?;
        if self.plain {
            return self.writer.plain(body);
        }
        self.writer.sealed(body)?;
        self.writer.flush()
    }

    fn send_piece_of(&mut self, piece: &Message, file: &File) -> io::Result<()> {
        let (true, Message::Piece { offset, .. }) = (self.plain, piece) else {
            return self.send_piece(piece);
        };
        let len = piece_len(piece).map_err(io::Error::other)?;
        let body = self.body.as_ref().and_then(|body| body.get(..len));
        let body = body.ok_or(io::ErrorKind::InvalidInput)?;
        self.writer.message(piece)?;
        self.writer.plain_from(file, *offset, body)
    }
}

struct TcpFeed<'a> {
    reader: Reader<TcpStream>,
    body: Option<Extent<'a>>,
    len: usize,
    plain: bool,
}

const _: () = assert!(PIECE_MAX + TAG <= Bytes::mib(2).get() as usize);

impl Feed for TcpFeed<'_> {
    fn receive(&mut self) -> Result<Message, ReadError> {
        let message = self.reader.message()?;
        self.len = 0;
        if let Message::Piece { len, .. } = message {
            let len = len as usize;
            let Some(body) = self.body.as_mut() else {
                let why = "a piece where none may be";
                return Err(crate::remote::protocol::Malformed(why).into());
            };
            if self.plain {
                self.reader.plain(&mut body[..len])?;
            } else {
                self.reader.sealed(body, len)?;
            }
            self.len = len;
        }
        Ok(message)
    }

    fn body(&self) -> &[u8] {
        self.body.as_ref().map_or(&[], |body| &body[..self.len])
    }
}

struct TcpCloser(TcpStream);

impl Closer for TcpCloser {
    fn close(&self) {
        let _ = self.0.shutdown(Shutdown::Both); // it may be gone
    }

    fn set_patience(&self, longest: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(longest)
    }
}
