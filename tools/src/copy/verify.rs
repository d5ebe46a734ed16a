//! `--verify`: the target is read again from the device and compared with what was written.
//!
//! The engines leave a checksum of every piece that they wrote. Here the target is made durable,
//! opened anew and read from end to end ([`reread`](super::reread)): pieces must have their
//! checksums, what lies between them, the holes, must be zeros, and a file must end where it
//! should. (On a file system in memory there is no device, and memory is what is read.)

use std::ops::Range;

use super::engine::{CopyError, Kind, Progress, Side, Sums};
use super::reread::{ReadFrom, Reread};
use super::zeros;

/// Bytes read at once between pieces.
const CHUNK: usize = 1 << 20;

/// Compares what lies in `range` of `target` with `sums`, which are of that alone, counts them in `progress`, and says where they
/// were read from.
///
/// # Errors
/// [`CopyError::Mismatch`] with the range that differs, a read error with its offset, and
/// [`CopyError::Cancelled`].
pub fn verify(
    target: &Side<'_>,
    range: Range<u64>,
    sums: &Sums,
    progress: &Progress,
) -> Result<ReadFrom, CopyError> {
    let cannot = |operation: &str, cause| CopyError::Operation {
        path: target.path.to_owned(),
        operation: operation.to_owned(),
        cause,
    };
    let reread = Reread::open(target.file, range.end)
        .map_err(|cause| cannot("make durable and read what is to be verified", cause))?;
    let from = reread.from();
    Verification { target, reread, progress }.run(range, sums)?;
    Ok(from)
}

/// Checks that a file ends after `len` bytes.
///
/// # Errors
/// [`CopyError::Mismatch`] with what is too much.
pub fn ends_at(target: &Side<'_>, len: u64) -> Result<(), CopyError> {
    if target.kind != Kind::Regular {
        return Ok(());
    }
    let path = || target.path.to_owned();
    let found = target.file.metadata().map_err(|cause| {
        let operation = "stat".to_owned();
        CopyError::Operation { path: path(), operation, cause }
    })?;
    if found.len() > len {
        return Err(CopyError::Mismatch { path: path(), range: len..found.len() });
    }
    Ok(())
}

struct Verification<'a> {
    target: &'a Side<'a>,
    reread: Reread,
    progress: &'a Progress,
}

impl Verification<'_> {
    fn run(&mut self, range: Range<u64>, sums: &Sums) -> Result<(), CopyError> {
        let mut at = range.start;
        for piece in sums.sorted() {
            self.holes(at..piece.range.start)?;
            let (start, end, sum) = (piece.range.start, piece.range.end, piece.sum);
            let matches = |bytes: &[u8]| sums.summer().sum(start, bytes) == sum;
            self.compare(piece.range, matches)?;
            // Pieces of an earlier run may overlap with those of this one, and end before them.
            self.progress.add(end.saturating_sub(at.max(start)));
            at = at.max(end);
        }
        self.holes(at..range.end)
    }

    /// What was not written must be zeros.
    fn holes(&mut self, range: Range<u64>) -> Result<(), CopyError> {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min(at + CHUNK as u64);
            self.compare(at..end, zeros::is_zero)?;
            self.progress.add(end - at);
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
        let path = || self.target.path.to_owned();
        match self.reread.read(range.clone()) {
            Ok(bytes) if bytes.len() as u64 == range.end - range.start && matches(bytes) => Ok(()),
            Ok(_) => Err(CopyError::Mismatch { path: path(), range }),
            Err(cause) => Err(CopyError::Read { path: path(), offset: range.start, cause }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::engine::PieceSum;
    use super::super::sum::Summer;
    use super::*;
    use std::os::unix::fs::FileExt;

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

    fn check(file: &tempfile::NamedTempFile, sums: &Sums) -> Result<ReadFrom, CopyError> {
        let side =
            Side { file: file.as_file(), path: file.path(), kind: Kind::Regular, len: Some(LEN) };
        let from = verify(&side, 0..LEN, sums, &Progress::default())?;
        ends_at(&side, LEN).map(|()| from)
    }

    #[test]
    fn a_true_copy_passes() {
        let (file, sums) = written();
        check(&file, &sums).unwrap();
    }

    /// A file of data from 5,000 to 20,000, and sums of an earlier run and of this one that overlap and nest.
    fn overlapping() -> (tempfile::NamedTempFile, Sums) {
        let data: Vec<u8> = (0..15_000u32).map(|i| (i % 251) as u8).collect();
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().write_all_at(&data, 5_000).unwrap();
        file.as_file().set_len(LEN).unwrap();
        let summer = Summer::here();
        let known = [6_000..7_000, 9_000..9_500, 14_000..20_000, 16_000..17_000]
            .map(|range| {
                let bytes = &data[range.start - 5_000..range.end - 5_000];
                let sum = summer.sum(range.start as u64, bytes);
                PieceSum { range: range.start as u64..range.end as u64, sum }
            })
            .to_vec();
        let sums = Sums::with(summer, known, None);
        sums.record(5_000, &data[..4_096]);
        sums.record(9_096, &data[4_096..10_000]);
        (file, sums)
    }

    #[test]
    fn pieces_that_overlap_are_no_holes() {
        let (file, sums) = overlapping();
        let ranges: Vec<_> = sums.sorted().into_iter().map(|piece| piece.range).collect();
        let left = [5_000..9_096, 9_096..15_000, 14_000..20_000, 16_000..17_000];
        assert_eq!(ranges, left, "less what was written anew");
        let side =
            Side { file: file.as_file(), path: file.path(), kind: Kind::Regular, len: Some(LEN) };
        let progress = Progress::default();
        verify(&side, 0..LEN, &sums, &progress).unwrap();
        assert_eq!(progress.copied(), LEN, "each byte counts once");
    }

    #[test]
    fn a_changed_byte_is_found_where_pieces_overlap() {
        for offset in [5_000, 6_500, 9_050, 9_100, 14_500, 16_500, 19_999, 20_000] {
            let (file, sums) = overlapping();
            file.as_file().write_all_at(&[255], offset).unwrap();
            assert!(matches!(check(&file, &sums), Err(CopyError::Mismatch { .. })), "{offset}");
        }
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

    #[test]
    fn a_tail_too_much_is_a_mismatch() {
        let (file, sums) = written();
        file.as_file().set_len(LEN + 1).unwrap();
        match check(&file, &sums) {
            Err(CopyError::Mismatch { range, .. }) => assert_eq!(range, LEN..LEN + 1),
            other => panic!("{other:?}"),
        }
    }
}
