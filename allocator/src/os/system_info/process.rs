//! What this process may do: effective capabilities, and how much memory it may lock.

use core::fmt;

use super::InfoError;
use super::text::Reader;
use crate::os::Os;
use crate::units::Bytes;

/// A capability that Bookend has a use for; the numbers are those of capabilities(7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Capability {
    /// Lock memory beyond RLIMIT_MEMLOCK.
    IpcLock = 14,
    /// See frame numbers, mount.
    SysAdmin = 21,
    /// Move other processes' pages between nodes.
    SysNice = 23,
    /// Raise limits, and set up hugetlb pools beyond quotas.
    SysResource = 24,
}

/// The effective capabilities of this process.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// Whether it has one.
    pub const fn has(self, capability: Capability) -> bool {
        self.0 >> capability as u8 & 1 == 1
    }

    /// All of them, as the bits of `CapEff`.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl fmt::Debug for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Capabilities({:#x})", self.0)
    }
}

pub(super) fn capabilities<O: Os>(reader: &mut Reader<'_, O>) -> Result<Capabilities, InfoError> {
    let status = reader.read("/proc/self/status")?;
    let value = status.field("CapEff:")?;
    let bits = u64::from_str_radix(value, 16);
    bits.map(Capabilities).map_err(|_| status.unexpected(value, "a hexadecimal number"))
}

/// The soft limit, which is the one that holds: `Max locked memory  8388608  8388608  bytes`.
pub(super) fn memlock<O: Os>(reader: &mut Reader<'_, O>) -> Result<Option<Bytes>, InfoError> {
    let limits = reader.read("/proc/self/limits")?;
    match limits.field("Max locked memory")?.split_whitespace().next() {
        Some("unlimited") => Ok(None),
        value => {
            let value = value.unwrap_or_default();
            let bytes = value.parse().map_err(|_| limits.unexpected(value, "a number of bytes"))?;
            Ok(Some(Bytes::new(bytes)))
        }
    }
}
