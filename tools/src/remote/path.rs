//! How many connections the path to the other end takes.
//!
//! Over a long path more bytes are under way than the buffers of one connection may hold: the speed of the link times
//! the time there and back. So many connections are opened that together they hold it, at least one for each
//! processor ([`task::lanes`](super::task::lanes)) and no more than there is memory for. Round trips are what the kernel
//! measured on the main lane, at its fastest; buffers are what it lets one socket have by itself
//! (`net.ipv4.tcp_wmem`, `tcp_rmem`). Both ends are taken to have this end's limits. A path that does not leave the
//! machine takes what its processors do.

use std::fmt::Write;
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use bookend::units::Bytes;
use nix::ifaddrs::getifaddrs;

use super::protocol::LANES_MAX;
use super::transport::info::round_trip;
use super::transport::tcp::BUFFER_BYTES;

/// What a link carries in a second where the system does not say: 10 Gbit/s.
const ASSUMED: u64 = 10_000_000_000 / 8;
/// Of the memory that is available, connections take no more than one part of so many.
const MEMORY_PART: u64 = 8;

/// What is known of a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Path {
    /// Whether both ends are this machine.
    pub is_here: bool,
    /// There and back.
    pub round_trip: Option<Duration>,
    /// Bytes a second of this end's link.
    pub speed: Option<u64>,
    /// Bytes a second that the user allows.
    pub limit: Option<u64>,
    /// The most that the kernel gives a socket to send from, and to receive in.
    pub buffers: Option<(u64, u64)>,
    /// Memory that is available.
    pub memory: Option<u64>,
}

/// How many connections, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Streams {
    /// So many.
    pub count: u32,
    /// For `--explain`; nothing where it is as many as usual.
    pub why: String,
}

impl Path {
    /// What the system knows of the one that `main` takes.
    pub fn of(main: &TcpStream, limit: Option<u64>) -> Self {
        let ends = main.local_addr().ok().zip(main.peer_addr().ok());
        let address = |end: SocketAddr| end.ip().to_canonical();
        let (near, far) = ends.map(|(near, far)| (address(near), address(far))).unzip();
        Self {
            is_here: far.is_some_and(|far| far.is_loopback()) || (near.is_some() && near == far),
            round_trip: round_trip(main),
            speed: near.and_then(interface).and_then(|name| speed(&name)),
            limit,
            buffers: most("tcp_wmem").zip(most("tcp_rmem")),
            memory: available(),
        }
    }

    /// How many connections it takes, where there would be `usual` ones.
    pub fn streams(&self, usual: u32) -> Streams {
        let usual = usual.clamp(1, LANES_MAX);
        let as_usual = Streams { count: usual, why: String::new() };
        let (Some(round_trip), Some((send, receive))) = (self.round_trip, self.buffers) else {
            return as_usual;
        };
        if self.is_here {
            return as_usual;
        }
        let speed = self.speed.unwrap_or(ASSUMED);
        let carried = speed.min(self.limit.unwrap_or(u64::MAX));
        let under_way = u128::from(carried) * round_trip.as_micros() / 1_000_000;
        // The kernel counts its own bookkeeping too, and keeps half of a buffer for it.
        let held = (send.min(receive) / 2).max(1);
        let needed = under_way.div_ceil(u128::from(held)).min(u128::from(LANES_MAX)) as u32;
        let each = send.min(receive).saturating_add(BUFFER_BYTES.get());
        let room = self.memory.map_or(LANES_MAX, |memory| {
            (memory / MEMORY_PART / each).min(u64::from(LANES_MAX)) as u32
        });
        let count = needed.min(room).max(usual);
        if needed <= usual {
            return as_usual;
        }
        let mut why = format!(
            "{} there and back at {} are {} under way, and the buffers of one connection hold {}",
            time(round_trip),
            match (carried < speed, self.speed) {
                (true, _) => format!("{} (--bwlimit)", rate(carried)),
                (false, Some(_)) => rate(speed),
                (false, None) => format!("{} (assumed: the system does not say)", rate(speed)),
            },
            size(under_way),
            size(u128::from(held))
        );
        if count < needed {
            let _ = write!(why, "; for more there is not enough memory"); // to a string
        } else if needed == LANES_MAX {
            let _ = write!(why, "; more than {LANES_MAX} there are not");
        }
        Streams { count, why }
    }
}

fn time(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn size(bytes: u128) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn rate(bytes: u64) -> String {
    format!("{:.1} Gbit/s", bytes as f64 * 8.0 / 1e9)
}

/// The last of the three numbers of a setting of TCP's, which IPv6 has too: the most that a socket gets.
fn most(setting: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/{setting}")).ok()?;
    text.split_whitespace().nth(2)?.parse().ok()
}

fn available() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(Bytes::kib(1).get())
}

/// The name of the interface that has this machine's `address`.
fn interface(address: IpAddr) -> Option<String> {
    let has = |found: &nix::ifaddrs::InterfaceAddress| {
        let found = found.address.as_ref()?;
        let ip = found.as_sockaddr_in().map(|ipv4| IpAddr::from(ipv4.ip()));
        ip.or_else(|| found.as_sockaddr_in6().map(|ipv6| IpAddr::from(ipv6.ip())))
    };
    let found = getifaddrs().ok()?.find(|found| has(found) == Some(address))?;
    Some(found.interface_name)
}

/// Bytes a second of an interface, where it says so: those of virtual machines and radios do not.
fn speed(interface: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/sys/class/net/{interface}/speed")).ok()?;
    let mbit: i64 = text.trim().parse().ok()?;
    u64::try_from(mbit).ok().filter(|&mbit| mbit > 0)?.checked_mul(1_000_000 / 8)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const MIB: u64 = 1 << 20;
    const GBIT: u64 = 1_000_000_000 / 8;

    fn path(round_trip_us: u64, speed: Option<u64>) -> Path {
        Path {
            is_here: false,
            round_trip: Some(Duration::from_micros(round_trip_us)),
            speed,
            limit: None,
            buffers: Some((4 * MIB, 6 * MIB)),
            memory: Some(16 << 30),
        }
    }

    #[test]
    fn a_long_path_takes_as_many_as_hold_what_is_under_way() {
        for (round_trip_us, speed, usual, expected) in [
            (50, Some(100 * GBIT), 4, 4),       // 0.6 MB
            (1_000, Some(10 * GBIT), 4, 4),     // 1.3 MB
            (1_000, Some(100 * GBIT), 4, 6),    // 12.5 MB of 2.1 MB each
            (1_000, Some(100 * GBIT), 2, 6),    // whatever the processors
            (80_000, Some(GBIT), 4, 5),         // 10 MB
            (80_000, Some(GBIT), 16, 16),       // at least as many as without
            (10_000, None, 2, 6),               // at 10 Gbit/s
            (80_000, None, 4, 48),              // 100 MB
            (300_000, Some(400 * GBIT), 4, 64), // LANES_MAX
            (u64::MAX, Some(u64::MAX), 4, 64),  // nothing overflows
            (0, Some(GBIT), 4, 4),
        ] {
            let streams = path(round_trip_us, speed).streams(usual);
            assert_eq!(streams.count, expected, "{round_trip_us} us at {speed:?}, {usual}");
            assert_eq!(streams.why.is_empty(), expected <= usual, "{streams:?}");
        }
    }

    #[test]
    fn what_limits_it_counts() {
        let long = path(80_000, None);
        assert_eq!(long.streams(4).count, 48);
        for (changed, expected) in [
            (Path { is_here: true, ..long }, 4),
            (Path { round_trip: None, ..long }, 4),
            (Path { buffers: None, ..long }, 4),
            // Both ends have to hold it.
            (Path { buffers: Some((64 * MIB, 6 * MIB)), ..long }, 32),
            (Path { buffers: Some((64 * MIB, 64 * MIB)), ..long }, 4),
            (Path { buffers: Some((0, 0)), ..long }, 64),
            // 20 MB a second, of which 1.6 MB are under way.
            (Path { limit: Some(20_000_000), ..long }, 4),
            (Path { limit: Some(GBIT), ..long }, 5),
            // Of 8 MiB each at most, in an eighth of it.
            (Path { memory: Some(1 << 30), ..long }, 16),
            (Path { memory: Some(0), ..long }, 4),
            (Path { memory: None, ..long }, 48),
        ] {
            assert_eq!(changed.streams(4).count, expected, "{changed:?}");
        }
        assert_eq!(long.streams(0).count, 48);
        assert_eq!(Path::default().streams(0).count, 1);
        assert_eq!(Path::default().streams(1000).count, LANES_MAX);
    }

    #[test]
    fn the_reason_says_what_it_is_computed_from() {
        let why = path(80_000, Some(GBIT)).streams(4).why;
        let expected = "80.0 ms there and back at 1.0 Gbit/s are 10.0 MB under way, and the buffers of one \
                        connection hold 2.1 MB";
        assert_eq!(why, expected);
        let long = path(80_000, None);
        assert!(long.streams(4).why.contains("10.0 Gbit/s (assumed: "), "{:?}", long.streams(4));
        let limited = Path { limit: Some(GBIT), ..long }.streams(4).why;
        assert!(limited.contains("1.0 Gbit/s (--bwlimit)"), "{limited}");
        let poor = Path { memory: Some(1 << 30), ..long }.streams(4).why;
        assert!(poor.contains("not enough memory"), "{poor}");
        let most = path(800_000, None).streams(4).why;
        assert!(most.contains("more than 64 there are not"), "{most}");
    }

    #[test]
    fn this_machine_is_known_as_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let main = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let path = Path::of(&main, Some(7));
        assert!(path.is_here && path.round_trip.is_some(), "{path:?}");
        assert!(path.buffers.is_some() && path.memory.is_some(), "{path:?}");
        assert_eq!((path.limit, path.speed), (Some(7), None), "the loopback has no speed");
        assert_eq!(path.streams(3), Streams { count: 3, why: String::new() });
        assert_eq!(interface(IpAddr::from([127, 0, 0, 1])).as_deref(), Some("lo"));
        assert_eq!(interface(IpAddr::from([192, 0, 2, 77])), None);
    }
}
