//! Huge mappings by `/proc/self/smaps`, for kernels without PAGEMAP_SCAN.
//!
//! The file has a header line a mapping (`start-end permissions …`, hexadecimal) and after it
//! lines of `Name:  n kB`; those that count memory mapped by huge pages are summed over the
//! mappings that touch a range. It says nothing of parts of a mapping, hence an upper bound where
//! the range covers a mapping in part. It is read in pieces, without the heap.

use std::os::fd::{AsFd, BorrowedFd};

use super::{open_to_read, read_at};
use crate::os::Errno;
use crate::units::Bytes;

/// Huge memory in the mappings of `start..end`.
pub(super) fn huge_mapped(start: u64, end: u64) -> Result<Bytes, Errno> {
    let smaps = open_to_read(c"/proc/self/smaps", libc::O_RDONLY)?;
    let mut sum = Sum::new(start, end);
    for_each_line(smaps.as_fd(), |line| sum.line(line))?;
    Ok(sum.total())
}

/// Calls `visit` with each line, without its end, for as long as it returns true. Of a line beyond
/// 4 KiB (a mapping's path can be that long) only the beginning is seen.
fn for_each_line(file: BorrowedFd<'_>, mut visit: impl FnMut(&[u8]) -> bool) -> Result<(), Errno> {
    let mut buffer = [0u8; 4096];
    let (mut filled, mut offset, mut skipping) = (0, 0, false);
    loop {
        let n = read_at(file, &mut buffer[filled..], offset)?;
        if n == 0 {
            return Ok(());
        }
        offset += n as u64;
        filled += n;
        let mut used = 0;
        while let Some(len) = buffer[used..filled].iter().position(|&b| b == b'\n') {
            if !skipping && !visit(&buffer[used..used + len]) {
                return Ok(());
            }
            skipping = false;
            used += len + 1;
        }
        if used == 0 && filled == buffer.len() {
            if !skipping && !visit(&buffer) {
                return Ok(());
            }
            skipping = true;
            used = filled;
        }
        buffer.copy_within(used..filled, 0);
        filled -= used;
    }
}

/// The fields that count memory mapped by huge pages; they exclude one another.
const FIELDS: [&[u8]; 5] =
    [b"AnonHugePages", b"ShmemPmdMapped", b"FilePmdMapped", b"Shared_Hugetlb", b"Private_Hugetlb"];

/// Sums the huge memory of the mappings of a range, line by line.
struct Sum {
    start: u64,
    end: u64,
    /// Bytes of the range in the current mapping, and huge memory seen there so far.
    overlap: u64,
    huge: u64,
    /// Huge memory of the mappings before.
    total: u64,
}

impl Sum {
    fn new(start: u64, end: u64) -> Self {
        Self { start, end, overlap: 0, huge: 0, total: 0 }
    }

    /// Takes a line; false once the mappings are beyond the range.
    fn line(&mut self, line: &[u8]) -> bool {
        if let Some((start, end)) = header(line) {
            self.total += self.huge.min(self.overlap);
            self.huge = 0;
            self.overlap = end.min(self.end).saturating_sub(start.max(self.start));
            return start < self.end;
        }
        if self.overlap != 0
            && let Some(colon) = line.iter().position(|&b| b == b':')
            && FIELDS.contains(&&line[..colon])
            && let Some(kib) = kib(&line[colon + 1..])
        {
            self.huge += kib << 10;
        }
        true
    }

    fn total(&self) -> Bytes {
        Bytes::new(self.total + self.huge.min(self.overlap))
    }
}

/// Start and end of a mapping, where the line is a header.
fn header(line: &[u8]) -> Option<(u64, u64)> {
    let bounds = str::from_utf8(line.split(|&b| b == b' ').next()?).ok()?;
    let (start, end) = bounds.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

/// The number in `   2048 kB`.
fn kib(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.trim().strip_suffix("kB")?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn sum_of(text: &str, start: u64, end: u64) -> Bytes {
        let mut sum = Sum::new(start, end);
        for line in text.lines() {
            if !sum.line(line.as_bytes()) {
                break;
            }
        }
        sum.total()
    }

    const SMAPS: &str = "\
        00400000-00800000 rw-p 00000000 00:00 0 \n\
        Size:               4096 kB\n\
        AnonHugePages:      2048 kB\n\
        VmFlags: rd wr mr mw me ac hg\n\
        00800000-00e00000 rw-s 00000000 00:0f 1234 /memfd:AnonHugePages: 4 (deleted)\n\
        Shared_Hugetlb:     4096 kB\n\
        Private_Hugetlb:    2048 kB\n\
        01000000-01200000 rw-p 00000000 00:00 0 \n\
        AnonHugePages:      2048 kB\n";

    #[test]
    fn huge_memory_is_summed_over_the_mappings_that_a_range_touches() {
        assert_eq!(sum_of(SMAPS, 0x400000, 0x800000), Bytes::mib(2));
        assert_eq!(sum_of(SMAPS, 0x400000, 0xe00000), Bytes::mib(8));
        assert_eq!(sum_of(SMAPS, 0, u64::MAX), Bytes::mib(10));
        assert_eq!(sum_of(SMAPS, 0xe00000, 0x1000000), Bytes::ZERO);
    }

    #[test]
    fn a_part_of_a_mapping_never_has_more_than_its_length() {
        assert_eq!(sum_of(SMAPS, 0x700000, 0x800000), Bytes::mib(1));
    }

    #[test]
    fn lines_are_whole_however_the_reads_cut_them_and_long_ones_are_cut_off() {
        let mut file = tempfile_of(&format!(
            "{}\n{}\n{}\nlast\n",
            "a".repeat(4090),
            "b".repeat(10),
            "c".repeat(9000)
        ));
        file.flush().unwrap();
        let mut seen = Vec::new();
        for_each_line(file.as_fd(), |line| {
            seen.push((line[0], line.len()));
            true
        })
        .unwrap();
        assert_eq!(seen[..2], [(b'a', 4090), (b'b', 10)]);
        assert_eq!(seen[2].0, b'c');
        assert_eq!(seen[3], (b'l', 4));
        assert_eq!(seen.len(), 4);
    }

    fn tempfile_of(text: &str) -> std::fs::File {
        use crate::os::{Linux, Os};
        let file = Linux.memory_file(c"smaps-test", Bytes::of_len(text.len()), None).unwrap();
        let mut file = std::fs::File::from(file);
        file.write_all(text.as_bytes()).unwrap();
        file
    }
}
