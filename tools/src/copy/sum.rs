//! Checksums of pieces: what tells that bytes on a disk, or from a wire, are those that were read.
//!
//! They are tags of AEGIS-128X2 used as a MAC (draft-irtf-cfrg-aegis-aead): the key is random, the nonce is where
//! the piece lies. On processors with instructions for AES that takes a fifth of BLAKE3's time, and as little as
//! reading the bytes from the nearest cache. Others take Poly1305, of ChaCha20-Poly1305 (RFC 8439) with the piece as
//! the additional data: where vectors are slow, multiplying takes a quarter of BLAKE3's time.
//!
//! Who does not know the key can make no bytes that have a given tag; who knows it can. So keys go where the bytes
//! themselves may go: into a journal that nobody else may read, and between machines in sealed messages. What is to be
//! compared by people, or years later, has BLAKE3 (see [`manifest`](super::manifest)).

use std::fmt;

use aegis::aegis128x2::Aegis128X2Mac;
use rand::TryRng;
use rand::rngs::SysRng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Bytes of a checksum.
pub const SUM_BYTES: usize = 32;
/// Bytes of a [`Summer`].
pub const SUMMER_BYTES: usize = 1 + KEY_BYTES;
/// Bytes of a key, of the longer ones.
const KEY_BYTES: usize = 32;
/// Bytes of a key for AEGIS-128X2.
const AEGIS_KEY_BYTES: usize = 16;

/// A checksum of one piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sum(pub [u8; SUM_BYTES]);

/// What makes checksums: two that are equal make the same of the same bytes at the same place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Summer(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blake3,
    Aegis([u8; AEGIS_KEY_BYTES]),
    Poly1305([u8; KEY_BYTES]),
}

impl Summer {
    /// The one without a key, BLAKE3.
    pub const UNKEYED: Self = Self(Kind::Blake3);

    /// A new one, with a key of its own: the fastest for processors with instructions for `aes` or without, as the
    /// caller knows of all who will use it.
    pub fn new(aes: bool) -> Self {
        let (mut short, mut long) = ([0; AEGIS_KEY_BYTES], [0; KEY_BYTES]);
        let filled = match aes {
            true => SysRng.try_fill_bytes(&mut short).map(|()| Self(Kind::Aegis(short))),
            false => SysRng.try_fill_bytes(&mut long).map(|()| Self(Kind::Poly1305(long))),
        };
        filled.unwrap_or(Self::UNKEYED) // it needs no random bytes
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
            Kind::Poly1305(key) => poly1305(key, offset, bytes)
                .unwrap_or_else(|| Sum(*blake3::keyed_hash(key, bytes).as_bytes())),
        }
    }

    /// As it is written down, for whoever may read the bytes themselves.
    pub fn to_bytes(self) -> [u8; SUMMER_BYTES] {
        let mut bytes = [0; SUMMER_BYTES];
        let (kind, key): (u8, &[u8]) = match &self.0 {
            Kind::Blake3 => (0, &[]),
            Kind::Aegis(key) => (1, key),
            Kind::Poly1305(key) => (2, key),
        };
        bytes[0] = kind;
        bytes[1..=key.len()].copy_from_slice(key);
        bytes
    }

    /// As it was written down; `None` where that is of nothing known.
    pub fn from_bytes(bytes: &[u8; SUMMER_BYTES]) -> Option<Self> {
        let (&kind, key) = bytes.split_first()?;
        let summer = match kind {
            0 => Self::UNKEYED,
            1 => Self(Kind::Aegis(*key.first_chunk()?)),
            2 => Self(Kind::Poly1305(*key.first_chunk()?)),
            _ => return None,
        };
        (summer.to_bytes() == *bytes).then_some(summer)
    }
}

/// The tag of `bytes` that lie at `offset`, and nothing behind it; `None` where the library makes none, which is a
/// matter of their length alone.
fn poly1305(key: &[u8; KEY_BYTES], offset: u64, bytes: &[u8]) -> Option<Sum> {
    // Poly1305 has a key of its own for each piece from this: a summer is for one state of one file, in which a place
    // has one content.
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&offset.to_le_bytes());
    nonce[8..].copy_from_slice(&u32::try_from(bytes.len()).ok()?.to_le_bytes());
    let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).ok()?);
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(bytes), &mut []).ok()?;
    let mut sum = [0; SUM_BYTES];
    sum[..tag.as_ref().len()].copy_from_slice(tag.as_ref());
    Some(Sum(sum))
}

/// Without the key.
impl fmt::Debug for Summer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Kind::Blake3 => "BLAKE3",
            Kind::Aegis(_) => "AEGIS-128X2",
            Kind::Poly1305(_) => "Poly1305",
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

    const KEYED: Summer = Summer(Kind::Aegis([7; AEGIS_KEY_BYTES]));
    const MULTIPLIED: Summer = Summer(Kind::Poly1305([7; KEY_BYTES]));
    const PLAIN: Summer = Summer::UNKEYED;

    #[test]
    fn equal_ones_agree_and_see_each_bit() {
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        for summer in [KEYED, MULTIPLIED, PLAIN] {
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
        let others =
            [Kind::Aegis([8; AEGIS_KEY_BYTES]), Kind::Poly1305([8; KEY_BYTES])].map(Summer);
        for (keyed, other) in [KEYED, MULTIPLIED].into_iter().zip(others) {
            assert_ne!(keyed.sum(0, b"piece"), keyed.sum(5, b"piece"), "{keyed:?}");
            assert_ne!(keyed.sum(0, b"piece"), other.sum(0, b"piece"), "{keyed:?}");
        }
        for aes in [false, true] {
            assert_ne!(Summer::new(aes), Summer::new(aes));
        }
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

    /// Whoever has the key can open the tag as that of an empty message.
    #[test]
    fn tags_of_poly1305_are_those_of_the_standard() {
        let bytes: Vec<u8> = (0..1_000u32).map(|i| (i % 253) as u8).collect();
        let Sum(sum) = MULTIPLIED.sum(0x0102, &bytes);
        let (tag, rest) = sum.split_at(16);
        assert!(rest.iter().all(|&byte| byte == 0));
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[7; KEY_BYTES]).unwrap());
        let open = |nonce: [u8; 12]| {
            let mut message = tag.to_vec();
            let nonce = Nonce::assume_unique_for_key(nonce);
            key.open_in_place(nonce, Aad::from(&bytes), &mut message).is_ok()
        };
        let nonce = [2, 1, 0, 0, 0, 0, 0, 0, 0xe8, 3, 0, 0];
        assert!(open(nonce));
        assert!(!open([0; 12]));
    }

    #[test]
    fn what_is_written_down_is_read() {
        for summer in [KEYED, MULTIPLIED, PLAIN, Summer::here()] {
            assert_eq!(Summer::from_bytes(&summer.to_bytes()), Some(summer));
        }
        let mut bytes = PLAIN.to_bytes();
        bytes[5] = 1;
        assert_eq!(Summer::from_bytes(&bytes), None, "no key belongs to it");
        bytes[0] = 3;
        assert_eq!(Summer::from_bytes(&bytes), None, "unknown");
        bytes = KEYED.to_bytes();
        bytes[SUMMER_BYTES - 1] = 1;
        assert_eq!(Summer::from_bytes(&bytes), None, "its key is shorter");
        assert!(!format!("{KEYED:?}").contains('7'));
    }
}
