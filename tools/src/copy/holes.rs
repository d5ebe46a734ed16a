//! Where a file has data and where it has holes.

use std::fs::File;
use std::io;
use std::ops::Range;

use super::sys::{self, Seek};

/// No drive has blocks of more than a page.
const UNIT: u64 = 4096;
/// Bytes zeroed by one command, between looks at whether it is over.
const STEP: u64 = 1 << 30;

/// Has a block device read as zeros in `hole`, as far as that is whole blocks and the device has a command for it;
/// says where it does. `None` where it `is_over` meanwhile.
pub fn zero(device: &File, hole: &Range<u64>, is_over: impl Fn() -> bool) -> Option<Range<u64>> {
    let whole = hole.start.next_multiple_of(UNIT)..hole.end - hole.end % UNIT;
    if whole.is_empty() {
        return Some(hole.start..hole.start);
    }
    let mut at = whole.start;
    while at < whole.end {
        if is_over() {
            return None;
        }
        let end = whole.end.min(at + STEP);
        // Whatever speaks against it: what was not zeroed is to be written.
        if sys::zero_out(device, at..end).is_err() {
            break;
        }
        at = end;
    }
    Some(whole.start..at)
}

/// Finds the ranges of `file` that hold data, in order, within its first `len` bytes. The file's
/// position changes.
///
/// One range over everything where the file system keeps no holes (`EINVAL`), as for block
/// devices. A file that loses its tail meanwhile has its last ranges cut: the engines notice.
///
/// # Errors
/// What `lseek(2)` says otherwise.
pub fn data_ranges(file: &File, len: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < len {
        let start = match sys::seek(file, Seek::Data, at) {
            Ok(start) => start.min(len),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
            Err(error) if is_unknown(&error) => return Ok(std::iter::once(0..len).collect()),
            Err(error) => return Err(error),
        };
        let end = match sys::seek(file, Seek::Hole, start) {
            Ok(end) => end.min(len),
            Err(error) if error.raw_os_error() == Some(libc::ENXIO) => break,
            Err(error) => return Err(error),
        };
        if start < end {
            ranges.push(start..end);
        }
        at = end.max(at + 1);
    }
    Ok(ranges)
}

/// Whether the file cannot tell data from holes.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP | libc::ESPIPE))
}

/// The holes between `data` within `len` bytes, in order.
pub fn between(data: &[Range<u64>], len: u64) -> Vec<Range<u64>> {
    let starts = std::iter::once(0).chain(data.iter().map(|range| range.end));
    let ends = data.iter().map(|range| range.start).chain(std::iter::once(len));
    starts.zip(ends).filter(|(start, end)| start < end).map(|(start, end)| start..end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn holes_are_what_lies_between() {
        assert_eq!(between(&[], 10), std::slice::from_ref(&(0..10)));
        assert_eq!(between(std::slice::from_ref(&(0..10)), 10), []);
        assert_eq!(between(&[2..4, 6..8], 10), [0..2, 4..6, 8..10]);
        assert_eq!(between(&[], 0), []);
    }

    #[test]
    fn ranges_cover_all_data_and_nothing_beyond_the_length() {
        let file = tempfile::tempfile().expect("temporary file");
        file.set_len(1 << 20).expect("set length");
        file.write_all_at(&[1; 4096], 65536).expect("write");
        file.write_all_at(&[1; 100], (1 << 20) - 100).expect("write");
        let ranges = data_ranges(&file, 1 << 20).expect("ranges");
        let holds = |at: u64| ranges.iter().any(|range| range.contains(&at));
        assert!(holds(65536) && holds(65536 + 4095) && holds((1 << 20) - 1));
        assert!(ranges.iter().all(|range| range.start < range.end && range.end <= 1 << 20));
        assert!(ranges.windows(2).all(|pair| pair[0].end < pair[1].start));
        let cut = data_ranges(&file, 65536 + 10).expect("ranges");
        assert_eq!(cut.last().map(|range| range.end), Some(65536 + 10));
    }

    #[test]
    fn an_empty_file_and_a_device_have_ranges_too() {
        let file = tempfile::tempfile().expect("temporary file");
        assert_eq!(data_ranges(&file, 0).expect("ranges"), []);
        let (pipe, _writer) = std::io::pipe().expect("pipe");
        let pipe = File::from(std::os::fd::OwnedFd::from(pipe));
        assert_eq!(data_ranges(&pipe, 7).expect("ranges"), std::slice::from_ref(&(0..7)));
    }
}
