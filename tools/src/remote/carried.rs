//! How bytes went between two machines, for `--explain`.

use std::net::SocketAddr;

use super::client::must;
use super::error::RemoteError;
use super::request::Wanted;
use super::secure::Cipher;
use super::task::Task;
use super::transport::rdma::Upgrades;

/// What carries pieces, and why.
pub(super) struct Carried {
    /// Lanes with rings, and by which devices they go.
    rings: Option<(u32, String)>,
    /// Why the others have none.
    reason: String,
    /// Devices that were passed over, and why.
    without: String,
}

impl Carried {
    /// By these `upgrades`; or why there were none.
    ///
    /// # Errors
    /// [`RemoteError::NoRdma`] where there must be RDMA.
    pub(super) fn of(
        wanted: &Wanted,
        upgrades: Option<Upgrades<'_>>,
        refused: Option<&String>,
    ) -> Result<Self, RemoteError> {
        let Some(upgrades) = upgrades else {
            let (reason, without) = (refused.cloned().unwrap_or_default(), String::new());
            return Ok(Self { rings: None, reason, without });
        };
        let reason = upgrades.why(&wanted.host);
        if let Some(why) = &reason {
            must(wanted, why)?;
        }
        let rings = match upgrades.ways.lanes() {
            0 => None,
            lanes => Some((lanes, upgrades.ways.to_string())),
        };
        let without = match reason {
            Some(_) => None, // it says so
            None => upgrades.why_not(&wanted.host),
        };
        let (reason, without) = (reason.unwrap_or_default(), without.unwrap_or_default());
        Ok(Self { rings, reason, without })
    }

    /// In words; `why` there are so many connections of TCP, if there is something to say about that.
    pub(super) fn described(
        &self,
        task: &Task,
        why: &str,
        address: SocketAddr,
        cipher: Cipher,
    ) -> String {
        const READABLE: &str =
            "contents of files over 256 KiB can be read on their way, and not changed unnoticed";
        let cipher = match cipher {
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        };
        let lanes = task.lanes;
        let why = if why.is_empty() { String::new() } else { format!(" ({why})") };
        let mut text = match &self.rings {
            Some((rings, how)) => format!(
                "over RDMA by {how}; {rings} of {lanes} lanes; {READABLE}; all else goes over TCP to \
                 {address}, encrypted ({cipher})"
            ),
            None if task.plain => format!(
                "over TCP to {address}, {lanes} connections{why}; {READABLE} (--plain); all else is \
                 encrypted ({cipher})"
            ),
            None => {
                format!("over TCP to {address}, {lanes} connections{why}, encrypted ({cipher})")
            }
        };
        if !self.reason.is_empty() {
            text.push_str(&format!("; not over RDMA: {}", self.reason));
        }
        if !self.without.is_empty() {
            text.push_str(&format!("; passed over: {}", self.without));
        }
        text
    }
}
