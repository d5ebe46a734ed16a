//! Checksums of pieces: what tells that bytes on a disk, or from a wire, are those that were read.
//!
//! They are tags of AEGIS-128X2 used as a MAC (draft-irtf-cfrg-aegis-aead): the key is random, the nonce is where
//! the piece lies. On processors with instructions for AES that takes a fifth of BLAKE3's time, and as little as
//! reading the bytes from the nearest cache. Others take BLAKE3.
//!
//! Who does not know the key can make no bytes that have a given tag; who knows it can. So keys go where the bytes
//! themselves may go: into a journal that nobody else may read, and between machines in sealed messages. What is to be
//! compared by people, or years later, has BLAKE3 (see [`manifest`](super::manifest)).

use std::fmt;

use aegis::aegis128x2::Aegis128X2Mac;
use rand::TryRng;
use rand::rngs::SysRng;

/// Bytes of a checksum.
pub const SUM_BYTES: usize = 32;
/// Bytes of a [`Summer`].
pub const SUMMER_BYTES: usize = 1 + KEY_BYTES;
const KEY_BYTES: usize = 16;

/// A checksum of one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sum(pub [u8; SUM_BYTES]);

/// What makes checksums: two that are equal make the same of the same bytes at the same place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Summer(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blake3,
    Aegis([u8; KEY_BYTES]),
}

impl Summer {
    /// The one without a key, BLAKE3.
    pub const UNKEYED: Self = Self(Kind::Blake3);

    /// A new one: with a key of its own where that is the faster, as the caller knows of all who will use it.
    pub fn new(aes: bool) -> Self {
        let mut key = [0; KEY_BYTES];
        // Without random bytes it is one that needs none.
        match aes && SysRng.try_fill_bytes(&mut key).is_ok() {
            true => Self(Kind::Aegis(key)),
            false => Self::UNKEYED,
        }
    }

    /// A new one for this machine alone.
    pub fn here() -> Self {
        Self::new(has_aes())
    }

    /// The checksum of `bytes`, a piece that begins at `offset` of its file.
    pub fn sum(&self, offset: u64, bytes: &[u8]) -> Sum {
        match &self.0 {
            Kind::Blake3 => Sum(*blake3::hash(bytes).as_bytes()),
            Kind::Aegis(key) => {
                let mut nonce = [0; 16];
                nonce[..8].copy_from_slice(&offset.to_le_bytes());
                nonce[8..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
                let mut mac = Aegis128X2Mac::<SUM_BYTES>::new_with_nonce(key, &nonce);
                mac.update(bytes);
                Sum(mac.finalize())
            }
        }
    }

    /// As it is written down, for whoever may read the bytes themselves.
    pub fn to_bytes(self) -> [u8; SUMMER_BYTES] {
        let mut bytes = [0; SUMMER_BYTES];
        if let Kind::Aegis(key) = self.0 {
            bytes[0] = 1;
            bytes[1..].copy_from_slice(&key);
        }
        bytes
    }

    /// As it was written down; `None` where that is of nothing known.
    pub fn from_bytes(bytes: &[u8; SUMMER_BYTES]) -> Option<Self> {
        let (&kind, key) = bytes.split_first()?;
        match kind {
            0 => key.iter().all(|&byte| byte == 0).then_some(Self(Kind::Blake3)),
            1 => Some(Self(Kind::Aegis(*key.first_chunk()?))),
            _ => None,
        }
    }
}

/// Without the key.
impl fmt::Debug for Summer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Blake3 => "BLAKE3",
            Kind::Aegis(_) => "AEGIS-128X2",
        })
    }
}

/// Whether this processor has instructions for AES, and for what goes with it.
pub fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes")
        && std::arch::is_x86_feature_detected!("pclmulqdq");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYED: Summer = Summer(Kind::Aegis([7; KEY_BYTES]));
    const PLAIN: Summer = Summer::UNKEYED;

    #[test]
    fn equal_ones_agree_and_see_each_bit() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        for summer in [KEYED, PLAIN] {
            let sum = summer.sum(4096, &bytes);
            assert_eq!(sum, summer.sum(4096, &bytes), "{summer:?}");
            for at in [0, 31, 32, 4_095, 65_536, 99_999] {
                let mut changed = bytes.clone();
                changed[at] ^= 0x10;
                assert_ne!(sum, summer.sum(4096, &changed), "{summer:?} at {at}");
            }
            assert_ne!(sum, summer.sum(4096, &bytes[..99_999]), "{summer:?}");
            let mut longer = bytes.clone();
            longer.push(0);
            assert_ne!(sum, summer.sum(4096, &longer), "{summer:?}");
        }
    }

    #[test]
    fn a_piece_that_lies_elsewhere_or_was_made_with_another_key_has_another_sum() {
        let other = Summer(Kind::Aegis([8; KEY_BYTES]));
        assert_ne!(KEYED.sum(0, b"piece"), KEYED.sum(5, b"piece"));
        assert_ne!(KEYED.sum(0, b"piece"), other.sum(0, b"piece"));
        assert_ne!(Summer::new(true), Summer::new(true));
    }

    #[test]
    fn sums_are_those_of_the_library_in_parts() {
        let bytes = vec![3; 10_000];
        let mut nonce = [0; 16];
        nonce[0] = 64;
        nonce[8..10].copy_from_slice(&10_000u16.to_le_bytes());
        let mut mac = Aegis128X2Mac::<32>::new_with_nonce(&[7; 16], &nonce);
        bytes.chunks(77).for_each(|chunk| mac.update(chunk));
        assert_eq!(KEYED.sum(64, &bytes).0, mac.finalize());
        assert_eq!(PLAIN.sum(64, &bytes).0, *blake3::hash(&bytes).as_bytes());
    }

    #[test]
    fn what_is_written_down_is_read() {
        for summer in [KEYED, PLAIN, Summer::here()] {
            assert_eq!(Summer::from_bytes(&summer.to_bytes()), Some(summer));
        }
        let mut bytes = PLAIN.to_bytes();
        bytes[5] = 1;
        assert_eq!(Summer::from_bytes(&bytes), None);
        bytes[0] = 2;
        assert_eq!(Summer::from_bytes(&bytes), None);
        assert!(!format!("{KEYED:?}").contains('7'));
    }
}
