//! Lanes that are authenticated and encrypted: Noise (`NNpsk0`, X25519), by the crate `snow`, with the ciphers
//! of `ring`.
//!
//! Both ends prove that they know one secret, and agree on keys that nobody who learns it later can
//! find out. What follows is a sequence of records:
//!
//! ```text
//! record   length (2 bytes, big-endian) | ciphertext and tag, 65535 bytes at most
//! frame    a whole number of records: length (4 bytes) | message
//! body     the bytes of a piece: records again, or (`--plain`) the bytes as they are
//! ```
//!
//! Each direction counts its records; a record that is missing, repeated, exchanged or changed does not
//! pass. With `--plain` that holds for messages too, and so for the bytes of pieces: their checksums are in
//! messages. They can be read on their way, and not changed unnoticed.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::sendfile::sendfile64;
use nix::sys::socket::{MsgFlags, send};
use snow::{Builder, HandshakeState, StatelessTransportState};

use super::protocol::{FRAME_MAX, Malformed, Message};

/// Bytes of a secret.
pub const SECRET_BYTES: usize = 32;
/// What the cipher adds to each record.
pub const TAG: usize = 16;
/// Bytes of a record, encrypted.
const RECORD_MAX: usize = 65535;
/// Bytes in a record, of which a piece has a whole number but for its last.
const CONTENT_MAX: usize = RECORD_MAX - TAG;
/// Bytes that are gathered before they are sent.
const GATHERED: usize = 256 << 10;
/// Bytes that are asked for at once.
const ASKED: usize = 256 << 10;

/// Which cipher a lane has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Cipher {
    /// Where both ends have instructions for it.
    Aes256Gcm = 0,
    /// Otherwise.
    ChaCha20Poly1305 = 1,
}

impl Cipher {
    /// As told.
    pub fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Aes256Gcm),
            1 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// The faster one, where one end or both have instructions for AES.
    pub fn choose(aes: bool) -> Self {
        if aes { Self::Aes256Gcm } else { Self::ChaCha20Poly1305 }
    }

    fn pattern(self) -> &'static str {
        match self {
            Self::Aes256Gcm => "Noise_NNpsk0_25519_AESGCM_SHA256",
            Self::ChaCha20Poly1305 => "Noise_NNpsk0_25519_ChaChaPoly_SHA256",
        }
    }
}

/// The keys of a lane, one for each direction.
pub type Keys = Arc<StatelessTransportState>;

/// Why there is no lane.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The other end knows another secret, or does not speak this.
    #[error("the other end does not know the secret")]
    Unknown,
}

fn noise(_: snow::Error) -> HandshakeError {
    HandshakeError::Unknown
}

/// Proves to each other that both ends know `secret`; `preface` is what was said before, which
/// both must have heard alike.
///
/// # Errors
/// [`HandshakeError`].
pub fn handshake(
    stream: &mut (impl Read + Write),
    initiator: bool,
    cipher: Cipher,
    secret: &[u8; SECRET_BYTES],
    preface: &[u8],
) -> Result<Keys, HandshakeError> {
    let pattern = cipher.pattern().parse().map_err(noise)?;
    let builder =
        Builder::new(pattern).psk(0, secret).and_then(|b| b.prologue(preface)).map_err(noise)?;
    let mut state = if initiator { builder.build_initiator() } else { builder.build_responder() }
        .map_err(noise)?;
    if initiator {
        say(stream, &mut state)?;
        hear(stream, &mut state)?;
    } else {
        hear(stream, &mut state)?;
        say(stream, &mut state)?;
    }
    Ok(Arc::new(state.into_stateless_transport_mode().map_err(noise)?))
}

/// Longer than any message of this handshake.
const HANDSHAKE_MAX: usize = 256;

fn say(stream: &mut impl Write, state: &mut HandshakeState) -> Result<(), HandshakeError> {
    let mut bytes = [0; HANDSHAKE_MAX];
    let len = state.write_message(&[], &mut bytes[2..]).map_err(noise)?;
    bytes[..2].copy_from_slice(&(len as u16).to_be_bytes());
    stream.write_all(&bytes[..2 + len])?;
    Ok(stream.flush()?)
}

fn hear(stream: &mut impl Read, state: &mut HandshakeState) -> Result<(), HandshakeError> {
    let (mut bytes, mut len) = ([0; HANDSHAKE_MAX], [0; 2]);
    stream.read_exact(&mut len)?;
    let len = usize::from(u16::from_be_bytes(len));
    let Some(bytes) = bytes.get_mut(..len).filter(|bytes| !bytes.is_empty()) else {
        return Err(HandshakeError::Unknown);
    };
    stream.read_exact(bytes)?;
    state.read_message(bytes, &mut []).map(|_| ()).map_err(noise)
}

/// Why nothing more can be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed, or ended (`UnexpectedEof`).
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is not what the other end sent.
    #[error("what arrived was changed on its way, or is no hugecp's")]
    Forged,
    /// What the other end sent is no message.
    #[error("the other end sent {0}")]
    Malformed(#[from] Malformed),
}

/// Sends frames and bodies.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    keys: Keys,
    nonce: u64,
    out: Box<[u8]>,
    used: usize,
    frame: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Over `to`.
    pub fn new(to: W, keys: Keys) -> Self {
        let out = vec![0; GATHERED + 2 + RECORD_MAX].into_boxed_slice();
        Self { to, keys, nonce: 0, out, used: 0, frame: Vec::new() }
    }

    /// Sends `message`, at the latest with the next [`flush`](Self::flush).
    ///
    /// # Errors
    /// What writing says, and `InvalidInput` for a message that is too long.
    pub fn message(&mut self, message: &Message) -> io::Result<()> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(&[0; 4]);
        message.encode(&mut frame);
        let len = frame.len() - 4;
        if len > FRAME_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a message is too long"));
        }
        frame[..4].copy_from_slice(&(len as u32).to_le_bytes());
        let sent = self.sealed(&frame);
        self.frame = frame;
        sent
    }

    /// Sends `bytes` encrypted.
    ///
    /// # Errors
    /// What writing says.
    pub fn sealed(&mut self, bytes: &[u8]) -> io::Result<()> {
        for content in bytes.chunks(CONTENT_MAX) {
            let record = &mut self.out[self.used + 2..];
            let len = self
                .keys
                .write_message(self.nonce, content, record)
                .map_err(|error| io::Error::other(format!("cannot encrypt: {error}")))?;
            self.out[self.used..self.used + 2].copy_from_slice(&(len as u16).to_be_bytes());
            self.nonce += 1;
            self.used += 2 + len;
            if self.used >= GATHERED {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Sends `bytes` as they are.
    ///
    /// # Errors
    /// What writing says.
    pub fn plain(&mut self, bytes: &[u8]) -> io::Result<()> {
        // With what was gathered in one call: the other end would wake for a few bytes.
        let used = std::mem::take(&mut self.used);
        let mut parts = [IoSlice::new(&self.out[..used]), IoSlice::new(bytes)];
        let mut parts = &mut parts[..];
        while parts.iter().any(|part| !part.is_empty()) {
            match self.to.write_vectored(parts) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut parts, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what was gathered.
    ///
    /// # Errors
    /// What writing says.
    pub fn flush(&mut self) -> io::Result<()> {
        let used = std::mem::take(&mut self.used);
        self.to.write_all(&self.out[..used])
    }
}

/// More follows at once.
const MSG_MORE: MsgFlags = MsgFlags::from_bits_retain(libc::MSG_MORE);

impl<W: Write + AsFd> Writer<W> {
    /// Sends `bytes` as they are, which lie at `offset` in `file` too: as far as that is possible the kernel takes them
    /// from its page cache, and nobody copies them.
    ///
    /// # Errors
    /// What writing says.
    pub fn plain_from(&mut self, file: &File, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // With what was gathered in one packet: the other end would wake for a few bytes.
        let gathered = std::mem::take(&mut self.used);
        let mut sent = 0;
        while sent < gathered {
            let rest = &self.out[sent..gathered];
            match send(self.to.as_fd().as_raw_fd(), rest, MSG_MORE) {
                Ok(more) => sent += more,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut at = offset as i64; // offsets of files fit
        let mut left = bytes.len();
        while left > 0 {
            match sendfile64(&self.to, file, Some(&mut at), left) {
                // The file was cut short, or is of a kind that has no pages to send.
                Ok(0) | Err(Errno::EINVAL | Errno::ENOSYS) => break,
                Ok(more) => left -= more,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        self.to.write_all(&bytes[bytes.len() - left..])
    }
}

#[cfg(test)]
#[path = "secure_tests.rs"]
mod tests;

/// Reads frames and bodies.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    keys: Keys,
    nonce: u64,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Whether little is asked for before it is needed: what follows may be plain.
    sparing: bool,
    /// Bytes of the last frame that came, which the next one may have too.
    usual: usize,
    frame: Vec<u8>,
}

impl<R: Read> Reader<R> {
    /// From `from`; `sparing` where bodies are plain, which are best read to where they belong.
    pub fn new(from: R, keys: Keys, sparing: bool) -> Self {
        let buffer = vec![0; ASKED + 2 + RECORD_MAX].into_boxed_slice();
        Self {
            from,
            keys,
            nonce: 0,
            buffer,
            start: 0,
            end: 0,
            sparing,
            usual: 0,
            frame: Vec::new(),
        }
    }

    /// Makes at least `len` bytes available.
    fn fill(&mut self, len: usize) -> io::Result<()> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.start + len > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < len {
            let until = match self.sparing {
                true => self.start + len.max(self.usual),
                false => self.buffer.len(),
            };
            match self.from.read(&mut self.buffer[self.end..until]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Decrypts the next record to the start of `out`, which has room for its tag too.
    fn record(&mut self, out: &mut [u8]) -> Result<usize, ReadError> {
        self.fill(2)?;
        let len = [self.buffer[self.start], self.buffer[self.start + 1]];
        let len = usize::from(u16::from_be_bytes(len));
        self.start += 2;
        self.fill(len)?;
        let record = &self.buffer[self.start..self.start + len];
        if len < TAG || len > out.len() {
            return Err(ReadError::Forged);
        }
        let read = self.keys.read_message(self.nonce, record, out);
        self.nonce += 1;
        self.start += len;
        read.map_err(|_| ReadError::Forged)
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn message(&mut self) -> Result<Message, ReadError> {
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(RECORD_MAX, 0);
        let mut used = self.record(&mut frame)?;
        self.usual = 2 + used + TAG;
        let Some(len) = frame[..used].first_chunk::<4>() else {
            return Err(Malformed("a frame without a length").into());
        };
        let len = u32::from_le_bytes(*len) as usize;
        if len > FRAME_MAX {
            return Err(Malformed("a message that is too long").into());
        }
        while used < 4 + len {
            frame.resize(used + RECORD_MAX, 0);
            let more = self.record(&mut frame[used..])?;
            if more == 0 {
                return Err(Malformed("a frame that does not go on").into());
            }
            used += more;
        }
        if used > 4 + len {
            return Err(Malformed("a frame that is longer than it says").into());
        }
        let message = Message::decode(&frame[4..used])?;
        self.frame = frame;
        Ok(message)
    }

    /// Reads `len` encrypted bytes to the start of `out`, which has room for [`TAG`] more.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn sealed(&mut self, out: &mut [u8], len: usize) -> Result<(), ReadError> {
        let mut used = 0;
        while used < len {
            let expected = (len - used).min(CONTENT_MAX);
            let read = self.record(&mut out[used..used + expected + TAG])?;
            if read != expected {
                return Err(Malformed("a piece that is not as long as it says").into());
            }
            used += read;
        }
        Ok(())
    }

    /// Reads bytes that were sent as they are.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn plain(&mut self, out: &mut [u8]) -> Result<(), ReadError> {
        let here = out.len().min(self.end - self.start);
        out[..here].copy_from_slice(&self.buffer[self.start..self.start + here]);
        self.start += here;
        Ok(self.from.read_exact(&mut out[here..])?)
    }
}
