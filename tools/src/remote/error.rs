//! Why a copy between machines did not begin, or did not end, in words that say what to do.

use std::io;
use std::time::Duration;

use super::protocol::VERSION;
use super::secure::ReadError;
use super::transport::congestion::Refused;
use crate::copy::error::{FileError, said};

/// What to do where a copy was cut off.
const AGAIN: &str = "start the same command again, and big files go on from what arrived";

/// Why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The program that reaches the other machine cannot be started.
    #[error("cannot start {command}: {}", said(cause))]
    Start {
        /// Its name.
        command: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// It ended before hugecp answered.
    #[error(
        "{command} ended ({status}) before hugecp answered on {host}: if it is installed there, \
         --remote-program says where"
    )]
    Ended {
        /// What was started.
        command: String,
        /// How it ended.
        status: String,
        /// For which machine.
        host: String,
    },
    /// It said something else.
    #[error(
        "{host} answered {said:?}, which is not hugecp: its shell must print nothing when a command is \
         run without a terminal"
    )]
    Greeting {
        /// The machine.
        host: String,
        /// The beginning of what it said.
        said: String,
    },
    /// Another version.
    #[error(
        "{host} speaks version {theirs} of the protocol{}, and this is version {VERSION} (hugecp {}): \
         install the same hugecp on both", of_program(.program), env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// The machine.
        host: String,
        /// Its version.
        theirs: u16,
        /// That of its program, if it told.
        program: String,
    },
    /// No connection.
    #[error(
        "cannot reach {host} at {tried}: {}; is there a firewall? --port N takes a port that is open",
        said(cause)
    )]
    Connect {
        /// The machine.
        host: String,
        /// What was tried.
        tried: String,
        /// What the system said of the last.
        #[source]
        cause: io::Error,
    },
    /// Another key.
    #[error(
        "{host} ended the handshake: its key is another than this end's, or it has too many guests"
    )]
    Key {
        /// The machine.
        host: String,
    },
    /// The handshake failed otherwise.
    #[error("no secure connection with {host}: {why}")]
    Handshake {
        /// The machine.
        host: String,
        /// Why.
        why: String,
    },
    /// The other end does not want to.
    #[error("{host}: {why}")]
    Refused {
        /// The machine.
        host: String,
        /// What it said.
        why: String,
    },
    /// No RDMA, which was asked for.
    #[error("no RDMA with {host}: {why}; --transport auto goes on without")]
    NoRdma {
        /// The machine.
        host: String,
        /// Why.
        why: String,
    },
    /// The connection is gone.
    #[error("lost the connection to {host}: {why}; {AGAIN}")]
    Lost {
        /// The machine.
        host: String,
        /// In words.
        why: String,
    },
    /// Nothing comes.
    #[error(
        "{host} has been silent for {} s (--timeout): it hangs, or cannot be reached any more; {AGAIN}",
        after.as_secs()
    )]
    Silent {
        /// The machine.
        host: String,
        /// For so long.
        after: Duration,
    },
    /// What comes is nothing that may come.
    #[error("{host} does not keep to the protocol: {what}")]
    Protocol {
        /// The machine.
        host: String,
        /// What it does.
        what: String,
    },
    /// A file of this machine, without which there is nothing to do.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
    /// Something of this machine.
    #[error("cannot {operation}: {}", said(cause))]
    Here {
        /// What was tried.
        operation: String,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A congestion control that is not to be had.
    #[error(transparent)]
    Congestion(#[from] Refused),
    /// A key file that is no good.
    #[error("key file {path}: {why}")]
    KeyFile {
        /// Which.
        path: String,
        /// Why, and what to do.
        why: String,
    },
}

fn of_program(program: &str) -> String {
    if program.is_empty() { String::new() } else { format!(" (hugecp {program})") }
}

impl RemoteError {
    /// A lane to `host` that failed, on which nothing came for `timeout` if that was it.
    pub fn read(host: &str, error: ReadError, timeout: Duration) -> Self {
        let host = host.to_owned();
        match error {
            ReadError::Io(cause) => match cause.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    Self::Silent { host, after: timeout }
                }
                io::ErrorKind::UnexpectedEof => {
                    Self::Lost { host, why: "it closed the connection".to_owned() }
                }
                _ => Self::Lost { host, why: said(&cause) },
            },
            other => Self::Protocol { host, what: other.to_string() },
        }
    }

    /// A lane to `host` that could not be written to.
    pub fn write(host: &str, cause: &io::Error) -> Self {
        Self::Lost { host: host.to_owned(), why: said(cause) }
    }
}

/// `text` of another machine, as a terminal may show it.
pub fn printable(text: &str) -> String {
    const LONGEST: usize = 4096;
    text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
