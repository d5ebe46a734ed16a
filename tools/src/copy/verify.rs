//! `--verify`: the target is read again from the device and compared with what was written.
//!
//! The engines leave a checksum of every piece that they wrote. Here the target is made durable,
//! its clean pages are dropped from the page cache, and it is opened anew and read from end to
//! end: pieces must have their checksums, and what lies between them, the holes, must be zeros.
//! (On a file system in memory there is no device, and memory is what is read.)

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::engine::{CopyError, PieceSum, Progress, Side, Sums};
use super::sys::{self, Advice};

/// Bytes read at once between pieces.
const CHUNK: usize = 1 << 20;

/// Compares the first `len` bytes of `target` with `sums`, and counts them in `progress`.
///
/// # Errors
/// [`CopyError::Mismatch`] with the range that differs, a read error with its offset, and
/// [`CopyError::Cancelled`].
pub fn verify(
    target: &Side<'_>,
    len: u64,
    sums: &Sums,
    progress: &Progress,
) -> Result<(), CopyError> {
    let cannot = |operation: &str, cause| CopyError::Operation {
        path: target.path.to_owned(),
        operation: operation.to_owned(),
        cause,
    };
    target
        .file
        .sync_data()
        .map_err(|cause| cannot("make durable what is to be verified", cause))?;
    let fresh = File::open(format!("/proc/self/fd/{}", target.file.as_raw_fd()))
        .map_err(|cause| cannot("open for verification", cause))?;
    sys::advise(&fresh, Advice::DontNeed);
    sys::advise(&fresh, Advice::Sequential);
    Verification { target, file: &fresh, progress, buffer: Vec::new() }.run(len, &sums.sorted())
}

struct Verification<'a> {
    target: &'a Side<'a>,
    file: &'a File,
    progress: &'a Progress,
    buffer: Vec<u8>,
}

impl Verification<'_> {
    fn run(&mut self, len: u64, pieces: &[PieceSum]) -> Result<(), CopyError> {
        let mut at = 0;
        for piece in pieces {
            self.holes(at..piece.range.start)?;
            let matches = |bytes: &[u8]| blake3::hash(bytes) == piece.hash;
            self.compare(piece.range.clone(), matches)?;
            at = piece.range.end;
        }
        self.holes(at..len)
    }

    /// What was not written must be zeros.
    fn holes(&mut self, range: Range<u64>) -> Result<(), CopyError> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + CHUNK as u64);
            self.compare(at..end, |bytes| bytes.iter().all(|&byte| byte == 0))?;
            at = end;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        range: Range<u64>,
        matches: impl Fn(&[u8]) -> bool,
    ) -> Result<(), CopyError> {
        if self.progress.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        self.buffer.resize((range.end - range.start) as usize, 0);
        let path = || self.target.path.to_owned();
        match self.file.read_exact_at(&mut self.buffer, range.start) {
            Ok(()) if matches(&self.buffer) => {
                self.progress.add(range.end - range.start);
                Ok(())
            }
            Ok(()) => Err(CopyError::Mismatch { path: path(), range }),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(CopyError::Mismatch { path: path(), range })
            }
            Err(cause) => Err(CopyError::Read { path: path(), offset: range.start, cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::Kind;
    use super::*;

    const LEN: u64 = 40_000;

    /// A file of pieces at 0 and 20,000 with a hole between and after, and the sums of it.
    fn written() -> (tempfile::NamedTempFile, Sums) {
        let file = tempfile::NamedTempFile::new().unwrap();
        let sums = Sums::default();
        for (offset, byte) in [(20_000, 2), (0, 1)] {
            let bytes = [byte; 10_000];
            file.as_file().write_all_at(&bytes, offset).unwrap();
            sums.record(offset, &bytes);
        }
        file.as_file().set_len(LEN).unwrap();
        (file, sums)
    }

    fn check(file: &tempfile::NamedTempFile, sums: &Sums) -> Result<(), CopyError> {
        let side =
            Side { file: file.as_file(), path: file.path(), kind: Kind::Regular, len: Some(LEN) };
        verify(&side, LEN, sums, &Progress::default())
    }

    #[test]
    fn a_true_copy_passes() {
        let (file, sums) = written();
        check(&file, &sums).unwrap();
    }

    #[test]
    fn a_changed_byte_is_found_in_data_and_in_holes() {
        for (offset, found) in [(0, 0), (25_000, 20_000), (15_000, 10_000), (39_999, 30_000)] {
            let (file, sums) = written();
            file.as_file().write_all_at(&[9], offset).unwrap();
            match check(&file, &sums) {
                Err(CopyError::Mismatch { range, .. }) => assert_eq!(range.start, found),
                other => panic!("{offset}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_lost_tail_is_a_mismatch() {
        let (file, sums) = written();
        file.as_file().set_len(25_000).unwrap();
        assert!(matches!(check(&file, &sums), Err(CopyError::Mismatch { .. })));
    }
}
