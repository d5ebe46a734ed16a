//! Which congestion control connections have.
//!
//! BBR sends by a clock of its own, whatever the acknowledgements say: a timer for every few segments, which over a path
//! within a rack or a machine takes longer than the segments do. Reno (RFC 5681) sends when acknowledgements come. It
//! is in every kernel, everybody may use it, and over a path of less than half a millisecond there and back nothing is
//! lost by it: at 10 Gbit/s half a window is 0.3 MB, which Reno has again, a segment each round trip, a tenth of a second
//! after a loss. So where the system gives BBR, such paths get Reno; longer ones, and those to which a route gives
//! something else, keep what the system gives.
//!
//! Linux never stops pacing a connection that BBR has begun, whatever it is given later. Connections therefore begin
//! with Reno, and are given the system's when the handshake has shown how long the path is.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::str::FromStr;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use super::info::round_trip;

/// What needs no clock.
const CLOCKLESS: &[u8] = b"reno";
/// There and back: paths that take less are short, see the module.
const SHORT: Duration = Duration::from_micros(500);
/// Bytes of a name at most: `TCP_CA_NAME_MAX`, which counts a zero too.
const NAME_MAX: usize = 15;

/// Which congestion control connections are to have.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Congestion {
    /// What the system gives, but where that is BBR and the path is short.
    #[default]
    Auto,
    /// What the system gives.
    System,
    /// The one of this name.
    Named(Name),
}

/// The name of a congestion control, as a kernel may know it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(String);

/// Words that are no name.
#[derive(Debug, thiserror::Error)]
#[error(
    "a congestion control has a name of 1 to {NAME_MAX} letters, digits, - and _, such as cubic"
)]
pub struct NoName;

impl FromStr for Congestion {
    type Err = NoName;

    fn from_str(text: &str) -> Result<Self, NoName> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        match text {
            "auto" => Ok(Self::Auto),
            "system" => Ok(Self::System),
            name if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(good) => {
                Ok(Self::Named(Name(name.to_owned())))
            }
            _ => Err(NoName),
        }
    }
}

impl std::fmt::Display for Congestion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::System => "system",
            Self::Named(Name(name)) => name,
        })
    }
}

/// Why connections cannot have the one that was named.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The kernel has none of that name.
    #[error(
        "--congestion {name}: there is none here; there are {available} (modprobe tcp_{name} may bring it)"
    )]
    Unknown {
        /// The name.
        name: String,
        /// Those that there are.
        available: String,
    },
    /// It is kept for root.
    #[error(
        "--congestion {name}: that takes CAP_NET_ADMIN here; all may use {allowed} (net.ipv4.tcp_allowed_congestion_control)"
    )]
    NotAllowed {
        /// The name.
        name: String,
        /// What is not kept for root.
        allowed: String,
    },
    /// The system says something else.
    #[error("--congestion {name}: {cause}")]
    Io {
        /// The name.
        name: String,
        /// What it says.
        #[source]
        cause: io::Error,
    },
}

impl Congestion {
    /// Whether this machine lets connections have it. What is not in the kernel is not loaded for it: who asks may be
    /// another machine's user.
    ///
    /// # Errors
    /// [`Refused`], with what there is instead.
    pub fn check(&self) -> Result<(), Refused> {
        let Self::Named(Name(name)) = self else { return Ok(()) };
        let (name, available) = (name.clone(), setting("available"));
        if !available.split_whitespace().any(|there| there == name) {
            return Err(Refused::Unknown { name, available });
        }
        let tried = socket(Domain::IPV4).and_then(|it| it.set_tcp_congestion(name.as_bytes()));
        tried.map_err(|cause| match cause.raw_os_error() {
            Some(libc::ENOENT) => Refused::Unknown { name, available },
            Some(libc::EPERM) => Refused::NotAllowed { name, allowed: setting("allowed") },
            _ => Refused::Io { name, cause },
        })
    }

    /// That of the end that receives, which what it has by name is not for.
    pub fn of_receiver(&self) -> &Self {
        match self {
            Self::Named(_) => &Self::Auto,
            other => other,
        }
    }

    /// Connects to `address`.
    ///
    /// # Errors
    /// What the system says; `TimedOut` after `timeout`.
    pub fn connect(&self, address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let socket = socket(Domain::for_address(address))?;
        if *self != Self::System {
            begin_clockless(&SockRef::from(&socket));
        }
        socket.connect_timeout(&address.into(), timeout)?;
        Ok(socket.into())
    }

    /// Gives a connection that is just open what it is to have from now on.
    ///
    /// # Errors
    /// It cannot have the one that was named. Where a system does not tell or give any, all else goes on with what it has.
    pub fn settle(&self, stream: &TcpStream) -> io::Result<()> {
        match (self, self.give(stream)) {
            (Self::Named(_), given) => given,
            _ => Ok(()),
        }
    }

    fn give(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        let (now, system) = (name(&socket)?, system()?);
        match self.next(&now, &system, round_trip(stream)) {
            Some(next) => socket.set_tcp_congestion(next),
            None => Ok(()),
        }
    }

    /// What a connection is to have instead of what it has `now`, if that is something else.
    fn next<'n>(
        &'n self,
        now: &[u8],
        system: &'n [u8],
        round_trip: Option<Duration>,
    ) -> Option<&'n [u8]> {
        let is_short = round_trip.is_some_and(|time| time < SHORT);
        let next = match self {
            Self::Named(Name(name)) => name.as_bytes(),
            // What a route gives stays.
            _ if now != CLOCKLESS => return None,
            Self::Auto if is_short && has_clock(system) => return None,
            _ => system,
        };
        (next != now).then_some(next)
    }

    /// In words, what `stream` has, where that is not what the system gives.
    pub fn described(&self, stream: &TcpStream) -> Option<String> {
        let (now, system) = (name(&SockRef::from(stream)).ok()?, system().ok()?);
        let text = String::from_utf8_lossy;
        match self {
            _ if now == system => None,
            Self::Named(_) => Some(format!("by {} (--congestion)", text(&now))),
            Self::Auto if now == CLOCKLESS => {
                let us = round_trip(stream)?.as_micros();
                let (now, system) = (text(&now), text(&system));
                Some(format!(
                    "by {now}, since {us} µs there and back are shorter than the clock of {system}"
                ))
            }
            _ => Some(format!("by {}", text(&now))),
        }
    }
}

/// Lets connections that come in begin as those do that this end makes.
pub fn listen(listener: &TcpListener) {
    begin_clockless(&SockRef::from(listener));
}

/// Where the system gives something with a clock, something without. If that fails, the connection is slower.
fn begin_clockless(socket: &SockRef<'_>) {
    if system().is_ok_and(|name| has_clock(&name)) {
        let _ = socket.set_tcp_congestion(CLOCKLESS);
    }
}

/// All of them: `bbr`, and `bbr2` and `bbr3` where kernels have those.
fn has_clock(name: &[u8]) -> bool {
    name.starts_with(b"bbr")
}

fn socket(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM, None)
}

/// What the system gives, to IPv6 too.
fn system() -> io::Result<Vec<u8>> {
    let socket = socket(Domain::IPV4)?;
    name(&SockRef::from(&socket))
}

fn name(socket: &SockRef<'_>) -> io::Result<Vec<u8>> {
    let mut name = socket.tcp_congestion()?;
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    name.truncate(end);
    Ok(name)
}

/// The names in a setting of TCP's.
fn setting(which: &str) -> String {
    let path = format!("/proc/sys/net/ipv4/tcp_{which}_congestion_control");
    std::fs::read_to_string(path)
        .map_or_else(|_| "others".to_owned(), |text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Congestion {
        name.parse().unwrap()
    }

    #[test]
    fn names_are_what_a_kernel_may_know() {
        assert_eq!(named("auto"), Congestion::Auto);
        assert_eq!(named("system"), Congestion::System);
        for name in ["cubic", "dctcp", "tcp-lp_2", "fifteen-letters"] {
            assert_eq!(named(name), Congestion::Named(Name(name.to_owned())));
            assert_eq!(named(name).to_string(), name);
        }
        for text in ["", "sixteen-letters-", "a b", "a\0", "grüß", "../x"] {
            assert!(text.parse::<Congestion>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_short_paths_go_without_a_clock() {
        let us = |us| Some(Duration::from_micros(us));
        let (auto, system, cubic) = (Congestion::Auto, Congestion::System, named("cubic"));
        for (wanted, now, given, time, expected) in [
            (&auto, "reno", "bbr", us(40), None),
            (&auto, "reno", "bbr3", us(499), None),
            (&auto, "reno", "bbr", us(500), Some("bbr")),
            (&auto, "reno", "bbr", None, Some("bbr")),
            (&auto, "cubic", "cubic", us(40), None), // the usual machine
            (&auto, "cubic", "cubic", us(4_000), None),
            (&auto, "reno", "reno", us(4_000), None),
            (&auto, "cubic", "bbr", us(4_000), None), // a route's
            (&system, "reno", "bbr", us(40), Some("bbr")),
            (&system, "cubic", "bbr", us(40), None),
            (&cubic, "reno", "bbr", us(40), Some("cubic")),
            (&cubic, "bbr", "bbr", us(4_000), Some("cubic")),
            (&cubic, "cubic", "bbr", us(40), None),
        ] {
            let next = wanted.next(now.as_bytes(), given.as_bytes(), time);
            assert_eq!(next, expected.map(str::as_bytes), "{wanted} {now} {given} {time:?}");
        }
    }

    #[test]
    fn a_name_that_there_is_none_of_is_refused() {
        let error = named("nosuch").check().unwrap_err().to_string();
        assert!(error.contains("--congestion nosuch: there is none here; there are "), "{error}");
        assert!(error.contains("reno"), "{error}"); // every kernel has it
        named("reno").check().unwrap();
        Congestion::Auto.check().unwrap();
        Congestion::System.check().unwrap();
    }

    #[test]
    fn both_ends_of_a_connection_get_what_was_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listen(&listener);
        let address = listener.local_addr().unwrap();
        let near = named("reno").connect(address, Duration::from_secs(10)).unwrap();
        let (far, _) = listener.accept().unwrap();
        for stream in [&near, &far] {
            named("reno").settle(stream).unwrap();
            assert_eq!(name(&SockRef::from(stream)).unwrap(), b"reno");
            // And can be given back what the system gives.
            Congestion::System.settle(stream).unwrap();
            assert_eq!(name(&SockRef::from(stream)).unwrap(), system().unwrap());
        }
        assert_eq!(Congestion::System.described(&near), None);
    }
}
