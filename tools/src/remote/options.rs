//! The part of `hugecp`'s command line that is about other machines.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum, ValueHint};

use super::client::PORT;
use super::error::RemoteError;
use super::protocol::LANES_MAX;
use super::transport::congestion::Congestion;

/// Options for copies between machines; see [`Options`](crate::copy::options::Options).
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Between machines")]
pub struct RemoteOptions {
    /// Reach HOST by CMD instead of ssh: "CMD HOST hugecp --remote-side" is run
    #[arg(long, value_name = "CMD", value_hint = ValueHint::CommandString)]
    pub rsh: Option<OsString>,

    /// Where hugecp is on HOST
    #[arg(long, value_name = "PATH")]
    pub remote_program: Option<OsString>,

    /// The port on HOST (of --serve 4987, otherwise any that is free)
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,

    /// TCP connections for big files (as many as the path takes); over RDMA queue pairs, 8 at most
    ///
    /// Without it there is one for each processor, up to 4, and over a long path as many as it takes to hold what is
    /// under way: the time there and back, times the speed of the link (10 Gbit/s where the system does not say),
    /// against what the kernel's buffers for one connection hold (net.ipv4.tcp_wmem, tcp_rmem). Over RDMA there is one
    /// at least for each of this end's devices, which queue pairs take in turn. --explain says how many, and why.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(LANES_MAX)))]
    pub streams: Option<u32>,

    /// Send the contents of big files unencrypted, where everybody on the way may read them
    ///
    /// Both ends still prove who they are, everything else is encrypted, and the contents cannot be
    /// changed unnoticed.
    #[arg(long)]
    pub plain: bool,

    /// The congestion control of what sends: auto, system (what the machine gives), or its name
    ///
    /// auto is what the machine gives, but reno instead of bbr where the path there and back takes less than half a
    /// millisecond: bbr sends by timers, which cost more there than all else. --explain says so. Another one by name,
    /// such as cubic, wants it in the kernel, and CAP_NET_ADMIN where net.ipv4.tcp_allowed_congestion_control does not
    /// have it.
    #[arg(long, value_name = "NAME", default_value_t)]
    pub congestion: Congestion,

    /// What carries the contents of big files
    #[arg(long, value_name = "WAY", value_enum, default_value_t = Transport::Auto)]
    pub transport: Transport,

    /// Give up after so many seconds without a sign of life from HOST
    #[arg(
        long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..=86_400)
    )]
    pub timeout: u32,

    /// The key of a hugecp --serve, which HOST is reached by then; of 32 bytes or more
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key_file: Option<PathBuf>,

    /// Wait for whoever has the key, at ADDRESS, ADDRESS:PORT or :PORT, and let them copy
    #[arg(
        long, value_name = "ADDRESS", requires = "key_file", requires = "root",
        conflicts_with_all = ["paths", "remote_side"]
    )]
    pub serve: Option<String>,

    /// The directory that --serve lets nobody out of
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath, requires = "serve")]
    pub root: Option<PathBuf>,

    /// Be the other end of a copy, on standard input and output
    #[arg(long, hide = true)]
    pub remote_side: bool,
}

/// What carries the contents of big files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Transport {
    /// RDMA with --plain where both ends have a device, TCP otherwise
    #[default]
    Auto,
    /// TCP connections
    Tcp,
    /// RDMA, unencrypted, or an error; everything else goes over TCP, encrypted
    Rdma,
}

impl RemoteOptions {
    /// Silence that is taken for the end.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(u64::from(self.timeout))
    }

    /// Where a server listens: an address, or all of them, and a port.
    ///
    /// # Errors
    /// Words that are none.
    pub fn address(&self) -> Result<(Option<String>, u16), RemoteError> {
        let text = self.serve.as_deref().unwrap_or_default();
        let port = self.port.unwrap_or(PORT);
        address(text, port).ok_or_else(|| RemoteError::Here {
            operation: format!("listen at {text:?}"),
            cause: std::io::Error::other("it is no ADDRESS, [ADDRESS]:PORT, ADDRESS:PORT or :PORT"),
        })
    }
}

/// The address and the port in `text`.
fn address(text: &str, port: u16) -> Option<(Option<String>, u16)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, after) = rest.split_once(']')?;
        let port = match after {
            "" => port,
            after => after.strip_prefix(':')?.parse().ok()?,
        };
        return Some((Some(inner.to_owned()), port));
    }
    let (address, port) = match text.split_once(':') {
        // More than one colon: an address of IPv6, alone.
        Some((_, rest)) if rest.contains(':') => (text, port),
        Some((address, number)) => (address, number.parse().ok()?),
        None => (text, port),
    };
    Some(((!address.is_empty()).then(|| address.to_owned()), port))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn addresses_are_told_from_ports() {
        let good = |text: &str, address_there: Option<&str>, port: u16| {
            let found = address(text, 4987);
            assert_eq!(found, Some((address_there.map(str::to_owned), port)), "{text}");
        };
        good("10.0.0.1", Some("10.0.0.1"), 4987);
        good("10.0.0.1:99", Some("10.0.0.1"), 99);
        good(":0", None, 0);
        good("::1", Some("::1"), 4987);
        good("[::1]:7", Some("::1"), 7);
        good("[::1]", Some("::1"), 4987);
        for text in ["a:b", "[::1", "[::1]7", "a:70000"] {
            assert_eq!(address(text, 1), None, "{text}");
        }
    }
}
