//! The control channel of `ssh`: the standard input and output of the other end, over which both ends
//! learn of each other, and of a secret for the lanes.
//!
//! ```text
//! both     "hugecp\r\n" | frames: length (4 bytes, little-endian) | message
//! ```
//!
//! Whoever reaches that channel has logged in: it is as safe as `ssh` is.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use super::error::{RemoteError, printable};
use super::protocol::{Message, VERSION};
use crate::copy::signals;
use crate::copy::sum::has_aes;
use crate::copy::sys::{self, Readiness};

/// What comes first, either way.
const MAGIC: &[u8; 8] = b"hugecp\r\n";
/// Bytes of a message on this channel at most: they are few and short.
const FRAME_MAX: usize = 64 << 10;

/// The channel, from either end.
#[derive(Debug)]
pub struct Channel {
    input: File,
    output: File,
    host: String,
}

/// The program that reaches the other machine; it is ended with this.
#[derive(Debug)]
pub struct Program {
    child: Child,
    command: String,
}

impl Drop for Program {
    /// The copy is over, or never began.
    fn drop(&mut self) {
        signals::reap(|| {
            let _ = self.child.kill();
            let _ = self.child.wait();
            Some(())
        });
    }
}

impl Program {
    /// Starts `words`, and gives the channel to it.
    ///
    /// # Errors
    /// [`RemoteError::Start`].
    pub fn start(words: &[OsString], host: &str) -> Result<(Self, Channel), RemoteError> {
        let (name, arguments) = words.split_first().ok_or_else(|| RemoteError::Start {
            command: "--rsh".to_owned(),
            cause: io::Error::other("it names no program"),
        })?;
        let command = name.to_string_lossy().into_owned();
        let failed = |cause| RemoteError::Start { command: command.clone(), cause };
        let mut program = Command::new(name);
        program.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = signals::released(|| program.spawn()).map_err(failed)?;
        signals::end_too(child.id());
        let pipes = child.stdin.take().zip(child.stdout.take());
        let Some((output, input)) = pipes else {
            return Err(failed(io::ErrorKind::BrokenPipe.into())); // both were asked for
        };
        let (input, output) = (OwnedFd::from(input).into(), OwnedFd::from(output).into());
        let channel = Channel { input, output, host: host.to_owned() };
        Ok((Self { child, command }, channel))
    }

    /// Why nothing came from it, if it has ended.
    pub fn ended(&mut self, host: &str) -> Option<RemoteError> {
        let status = self.wait(Duration::from_millis(500))?; // it may be about to
        let (command, host) = (self.command.clone(), host.to_owned());
        Some(RemoteError::Ended { command, status: status.to_string(), host })
    }

    /// Waits for its end, but not longer than that.
    pub fn wait(&mut self, longest: Duration) -> Option<ExitStatus> {
        let since = Instant::now();
        loop {
            match signals::reap(|| self.child.try_wait().transpose()).transpose() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if since.elapsed() < longest => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                _ => return None,
            }
        }
    }
}

impl Channel {
    /// This end's own standard input and output.
    ///
    /// # Errors
    /// What duplicating says.
    pub fn standard() -> io::Result<Self> {
        use std::os::fd::AsFd;
        let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
        Ok(Self { input, output, host: "the client".to_owned() })
    }

    /// Says who this end is.
    ///
    /// # Errors
    /// What writing says.
    pub fn greet(&mut self) -> Result<(), RemoteError> {
        let program = env!("CARGO_PKG_VERSION").to_owned();
        let hello = Message::Hello { version: VERSION, program, aes: has_aes() };
        let greeted = self.output.write_all(MAGIC);
        greeted.map_err(|cause| RemoteError::write(&self.host, &cause))?;
        self.send(&hello)
    }

    /// Sends `message`.
    ///
    /// # Errors
    /// What writing says.
    pub fn send(&mut self, message: &Message) -> Result<(), RemoteError> {
        let mut frame = vec![0; 4];
        message.encode(&mut frame);
        let len = (frame.len() - 4) as u32; // a few hundred
        frame[..4].copy_from_slice(&len.to_le_bytes());
        self.output.write_all(&frame).map_err(|cause| RemoteError::write(&self.host, &cause))
    }

    /// Hears who the other end is, and whether it has instructions for AES.
    ///
    /// # Errors
    /// [`RemoteError`], of another version too.
    pub fn hear_greeting(&mut self, until: Instant) -> Result<bool, RemoteError> {
        let host = self.host.clone();
        let mut said = [0; MAGIC.len()];
        let mut len = 0;
        while len < said.len() && said[..len] == MAGIC[..len] {
            match self.some(&mut said[len..], until)? {
                0 if len == 0 => {
                    let why = "it closed the channel".to_owned();
                    return Err(RemoteError::Lost { host, why });
                }
                0 => break,
                read => len += read,
            }
        }
        if said != *MAGIC {
            let said = printable(&String::from_utf8_lossy(&said[..len]));
            return Err(RemoteError::Greeting { host, said });
        }
        match self.receive(until)? {
            Message::Hello { version: VERSION, aes, .. } => Ok(aes),
            Message::Hello { version, program, .. } => {
                let program = printable(&program);
                Err(RemoteError::Version { host, theirs: version, program })
            }
            _ => Err(self.breach("it does not say who it is")),
        }
    }

    /// An error about the other end.
    pub fn breach(&self, what: &str) -> RemoteError {
        RemoteError::Protocol { host: self.host.clone(), what: what.to_owned() }
    }

    /// The next message.
    ///
    /// # Errors
    /// [`RemoteError`].
    pub fn receive(&mut self, until: Instant) -> Result<Message, RemoteError> {
        let mut len = [0; 4];
        self.exactly(&mut len, until)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > FRAME_MAX {
            return Err(self.breach("it sends a message that is too long"));
        }
        let mut bytes = vec![0; len];
        self.exactly(&mut bytes, until)?;
        Message::decode(&bytes).map_err(|malformed| self.breach(&format!("it sends {malformed}")))
    }

    fn exactly(&mut self, bytes: &mut [u8], until: Instant) -> Result<(), RemoteError> {
        let mut done = 0;
        while done < bytes.len() {
            match self.some(&mut bytes[done..], until)? {
                0 => {
                    let (host, why) = (self.host.clone(), "it closed the channel".to_owned());
                    return Err(RemoteError::Lost { host, why });
                }
                read => done += read,
            }
        }
        Ok(())
    }

    /// Some bytes, before `until`.
    fn some(&mut self, bytes: &mut [u8], until: Instant) -> Result<usize, RemoteError> {
        let lost = |cause: &io::Error| RemoteError::write(&self.host, cause);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let host = self.host.clone();
                let why = "it did not answer in time".to_owned();
                return Err(RemoteError::Handshake { host, why });
            }
            let wait = i32::try_from(left.as_millis()).unwrap_or(i32::MAX).min(1000);
            match sys::poll(&self.input, Readiness::Readable, wait.max(1)) {
                Ok(false) => continue,
                Ok(true) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(lost(&error)),
            }
            return match self.input.read(bytes) {
                Ok(read) => Ok(read),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(lost(&error)),
            };
        }
    }
}
