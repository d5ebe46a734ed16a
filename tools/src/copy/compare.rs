//! Whether two files have the same contents.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::engine::{CopyError, Progress};
use super::error::FileError;

/// Bytes compared at once.
const CHUNK: usize = 256 << 10;

/// Why two files could not be compared.
#[derive(Debug)]
pub enum CompareError {
    /// The first cannot be read there.
    First(u64, io::Error),
    /// The second cannot be read there.
    Second(u64, io::Error),
    /// The user stopped it.
    Cancelled,
}

impl CompareError {
    /// As the error of a copy from `first` to `second`.
    pub fn of(self, first: PathBuf, second: PathBuf) -> FileError {
        let error = match self {
            Self::First(offset, cause) => CopyError::Read { path: first, offset, cause },
            Self::Second(offset, cause) => CopyError::Read { path: second, offset, cause },
            Self::Cancelled => CopyError::Cancelled,
        };
        FileError::Copy { error, advice: String::new() }
    }
}

/// Whether `first` and `second`, both open for reading, have the same bytes.
///
/// # Errors
/// [`CompareError`].
pub fn same_contents(
    first: &File,
    second: &File,
    progress: &Progress,
) -> Result<bool, CompareError> {
    let mut buffers = vec![0; 2 * CHUNK];
    let (one, other) = buffers.split_at_mut(CHUNK);
    let mut at = 0;
    loop {
        if progress.is_cancelled() {
            return Err(CompareError::Cancelled);
        }
        let got = read(first, one, at).map_err(|error| CompareError::First(at, error))?;
        let theirs = read(second, other, at).map_err(|error| CompareError::Second(at, error))?;
        if one[..got] != other[..theirs] {
            return Ok(false);
        }
        if got < CHUNK {
            return Ok(true);
        }
        at += got as u64;
    }
}

/// Reads until the buffer is full or the file ends.
pub fn read(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], at + done as u64) {
            Ok(0) => break,
            Ok(got) => done += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_makes_the_difference_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: &[u8]| {
            std::fs::write(dir.path().join(name), bytes).unwrap();
            File::open(dir.path().join(name)).unwrap()
        };
        let bytes = vec![7; 2 * CHUNK + 3];
        let first = file("a", &bytes);
        let same = |other: &File| same_contents(&first, other, &Progress::default()).unwrap();
        assert!(same(&file("b", &bytes)));
        for at in [0, CHUNK - 1, CHUNK, 2 * CHUNK + 2] {
            let mut changed = bytes.clone();
            changed[at] = 8;
            assert!(!same(&file("c", &changed)), "byte {at}");
        }
        assert!(!same(&file("d", &bytes[1..])) && !same(&file("e", &[])));
        let empty = file("f", &[]);
        assert!(same_contents(&empty, &file("g", &[]), &Progress::default()).unwrap());
    }
}
