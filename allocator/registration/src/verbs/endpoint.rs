//! Where queue pairs are, as their peers are told.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

/// Queue pairs and packets are numbered in 24 bits.
const NUMBER_MAX: u32 = 0xff_ffff;
/// `IBV_MTU_256` to `IBV_MTU_4096`.
const MTU: std::ops::RangeInclusive<u32> = 1..=5;

/// Where a queue pair is, for its peer: `LID:QPN:PSN:GID:MTU` as text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub(super) lid: u16,
    pub(super) qpn: u32,
    pub(super) psn: u32,
    /// In network byte order.
    pub(super) gid: [u64; 2],
    /// The longest packet of its port, as `enum ibv_mtu` numbers them: the shorter one of both ends counts.
    pub(super) mtu: u32,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [high, low] = self.gid.map(u64::from_be);
        let Self { lid, qpn, psn, mtu, .. } = self;
        write!(f, "{lid:x}:{qpn:x}:{psn:x}:{high:016x}{low:016x}:{mtu:x}")
    }
}

/// Text that names no endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not an endpoint: LID:QPN:PSN:GID:MTU in hexadecimal is wanted")]
pub struct BadEndpoint;

/// A number in hexadecimal digits only: the standard parser takes a sign too.
fn number(text: &str, most: u64) -> Result<u64, BadEndpoint> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u64::from_str_radix(text, 16).ok().filter(|&number| digits && number <= most);
    number.ok_or(BadEndpoint)
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let fields: Vec<&str> = text.trim().splitn(6, ':').collect();
        let [lid, qpn, psn, gid, mtu] = fields[..] else { return Err(BadEndpoint) };
        let numbered = |text| number(text, u64::from(NUMBER_MAX)).map(|number| number as u32);
        if gid.len() != 32 || !gid.is_ascii() {
            return Err(BadEndpoint);
        }
        let half = |part| number(part, u64::MAX).map(u64::to_be);
        let mtu = number(mtu, u64::from(*MTU.end()))? as u32;
        Ok(Self {
            lid: number(lid, u64::from(u16::MAX))? as u16,
            qpn: numbered(qpn)?,
            psn: numbered(psn)?,
            gid: [half(&gid[..16])?, half(&gid[16..])?],
            mtu: Some(mtu).filter(|mtu| MTU.contains(mtu)).ok_or(BadEndpoint)?,
        })
    }
}

/// The number of a connection's first packet, which nobody guesses: late packets of an earlier connection
/// are told by it.
pub(super) fn first_number() -> u32 {
    RandomState::new().build_hasher().finish() as u32 & NUMBER_MAX
}

/// Of a port's addresses the one to use: an IPv4 one (::ffff:a.b.c.d) before others.
pub(super) fn address(gids: &[(u8, [u64; 2])]) -> Option<(u8, [u64; 2])> {
    let is_ipv4 = |gid: &[u64; 2]| gid[0] == 0 && u64::from_be(gid[1]) >> 32 == 0xffff;
    gids.iter().rev().find(|(_, gid)| is_ipv4(gid)).or(gids.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_survive_their_text() {
        let gid = [0u64.to_be(), 0x0000_ffff_c000_0201u64.to_be()];
        let endpoint = Endpoint { lid: 7, qpn: 0x11, psn: 0xabcdef, gid, mtu: 3 };
        assert_eq!(endpoint.to_string(), "7:11:abcdef:00000000000000000000ffffc0000201:3");
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "7:11".to_owned(),
            "7:11:1:00ff:1".to_owned(),
            format!("x:1:1:{zeros}:1"),
            format!("77777:1:1:{zeros}:1"),
            format!("1:1000000:1:{zeros}:1"),
            format!("1:1:1000000:{zeros}:1"),
            format!("1:+1:1:{zeros}:1"),
            format!("1:1:1:{zeros}0:1"),
            format!("1:1:1:{}ü:1", "0".repeat(30)),
            format!("1:1:1:{zeros}:0"),
            format!("1:1:1:{zeros}:6"),
            format!("1:1:1:{zeros}:1:1"),
            format!("1:1:1:{zeros}"),
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(BadEndpoint), "{bad}");
        }
        assert!(first_number() <= NUMBER_MAX);
    }

    #[test]
    fn addresses_of_the_internet_come_first() {
        let gid = [0u64.to_be(), 0x0000_ffff_c000_0201u64.to_be()];
        let link_local = (0, [0xfe80u64 << 48, 1].map(u64::to_be));
        assert_eq!(address(&[link_local, (1, gid)]), Some((1, gid)));
        assert_eq!(address(&[link_local]), Some(link_local));
        assert_eq!(address(&[]), None);
    }
}
