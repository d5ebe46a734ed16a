//! Secrets: those of key files, and those that are made for one session.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rand::TryRng;
use rand::rngs::SysRng;

use super::error::RemoteError;
use super::secure::SECRET_BYTES;
use crate::copy::error::said;

/// Bytes that a key file must have, and may have.
const KEY_FILE_BYTES: std::ops::RangeInclusive<usize> = 32..=4096;
/// What tells this use of a key file from any other.
const CONTEXT: &str = "hugecp 2026-11 key file of a server";

/// The secret that the key file at `path` stands for.
///
/// # Errors
/// [`RemoteError::KeyFile`] where it cannot be read, is too short to be a key, or can be read by others.
pub fn from_file(path: &Path) -> Result<[u8; SECRET_BYTES], RemoteError> {
    let wrong = |why: String| RemoteError::KeyFile { path: crate::copy::quote::quote(path), why };
    let file = File::open(path).map_err(|cause| wrong(said(&cause)))?;
    let found = file.metadata().map_err(|cause| wrong(said(&cause)))?;
    if found.is_file() && found.mode() & 0o077 != 0 {
        let mode = found.mode() & 0o7777;
        return Err(wrong(format!("others may read it (mode {mode:04o}): chmod 600")));
    }
    let mut bytes = Vec::new();
    let longest = *KEY_FILE_BYTES.end() as u64;
    file.take(longest + 1).read_to_end(&mut bytes).map_err(|cause| wrong(said(&cause)))?;
    if !KEY_FILE_BYTES.contains(&bytes.len()) {
        let make = "a key has 32 to 4096 bytes; head -c 32 /dev/urandom makes one";
        return Err(wrong(make.to_owned()));
    }
    Ok(blake3::derive_key(CONTEXT, &bytes))
}

/// Bytes that nobody can foretell.
///
/// # Errors
/// What the system says.
pub fn random<const N: usize>() -> Result<[u8; N], RemoteError> {
    let mut bytes = [0; N];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| RemoteError::Here {
        operation: "get random bytes".to_owned(),
        cause: std::io::Error::other(error.to_string()),
    })?;
    Ok(bytes)
}
