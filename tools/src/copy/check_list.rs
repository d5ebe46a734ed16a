//! `--check --manifest`: comparing files with a list of their checksums.

use std::io;
use std::path::Path;

use super::check::Found;
use super::contents::{Contents, is_device, open_to_read};
use super::engine::Progress;
use super::error::said;
use super::manifest::{self, HashError};
use super::quote::quote;

/// Compares files with the checksums in `list`.
///
/// # Errors
/// Where the list cannot be read, has nothing on it, or has a line that is none of a manifest.
pub fn check(list: &Path, progress: &Progress) -> Result<Found, String> {
    let text = if list == Path::new("-") {
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::stdin().lock(), &mut text).map(|_| text)
    } else {
        std::fs::read(list)
    };
    let text = text.map_err(|error| format!("cannot read {}: {}", quote(list), said(&error)))?;
    let mut found = Found::default();
    for (index, line) in text.split(|&byte| byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let Some((hash, path)) = manifest::parse(line) else {
            return Err(format!(
                "{}, line {}: not a checksum, two spaces and a path, as b3sum writes them",
                quote(list),
                index + 1
            ));
        };
        let differs = match checksum(&path, progress) {
            Ok((sum, len)) => {
                found.files += 1;
                found.bytes += len;
                (sum != hash).then(|| "has another checksum".to_owned())
            }
            Err(HashError::Cancelled) => break,
            Err(HashError::Read(error)) => Some(format!("cannot read it: {}", said(&error))),
        };
        found.differences.extend(differs.map(|how| format!("{}: {how}", quote(&path))));
    }
    if text.iter().all(|&byte| byte == b'\n') {
        return Err(format!("{} has no checksum on it, so nothing was compared", quote(list)));
    }
    Ok(found)
}

/// The checksum of a regular file or of all of a device, and its length.
fn checksum(path: &Path, progress: &Progress) -> Result<(blake3::Hash, u64), HashError> {
    let place = open_to_read(path).map_err(HashError::Read)?;
    let found = place.metadata().map_err(HashError::Read)?;
    let no_file = match found.is_dir() {
        true => io::ErrorKind::IsADirectory.into(),
        false => io::Error::other("it is no regular file"),
    };
    if !found.is_file() && !is_device(&found) {
        return Err(HashError::Read(no_file));
    }
    let contents = Contents::open((&place, &found)).map_err(HashError::Read)?;
    let (sum, len) = match contents.true_len().map_err(HashError::Read)? {
        Some(len) => (manifest::hash(contents.file(), len, progress)?, len),
        None => manifest::hash_to_end(contents.file(), progress)?,
    };
    progress.add(len);
    Ok((sum, len))
}
