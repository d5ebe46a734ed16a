//! A block device as the target of a file or another device: it is written where it is, and what the source has no data
//! for is zeros afterwards.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::PathBuf;
use std::sync::Mutex;

use super::place::os;
use super::{Receiver, Spot};
use crate::copy::engine::CopyError;
use crate::copy::error::FileError;
use crate::copy::holes;
use crate::copy::request::Conflict;
use crate::copy::target::Target;
use crate::copy::tree::entry::{by_descriptor, look};
use crate::remote::protocol::Entry;
use crate::remote::session::lock;

/// Bytes of zeros written at once.
const ZEROS: u64 = 1 << 20;

/// What was written: neighbours are one.
#[derive(Debug, Default)]
pub(super) struct Covered(Mutex<BTreeMap<u64, u64>>);

impl Covered {
    /// `range` was written.
    pub fn note(&self, range: &Range<u64>) {
        let mut covered = lock(&self.0);
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&before, &until)) = covered.range(..=start).next_back()
            && until >= start
        {
            (start, end) = (before, end.max(until));
        }
        while let Some((&next, &until)) = covered.range(start..=end).next() {
            covered.remove(&next);
            end = end.max(until);
        }
        covered.insert(start, end);
    }

    /// What of `0..len` was not.
    fn rest(&self, len: u64) -> Vec<Range<u64>> {
        let written: Vec<_> = lock(&self.0).iter().map(|(&start, &end)| start..end).collect();
        holes::between(&written, len)
    }
}

impl Receiver<'_, '_> {
    /// Opens what an operand of `len` bytes goes to, if that is a block device; nothing was written to it then.
    ///
    /// # Errors
    /// Where it is in use, or too small.
    pub(super) fn device(
        &self,
        spot: &Spot,
        entry: &Entry,
        len: u64,
    ) -> Result<Option<Target>, FileError> {
        let stays = self.task.settings.conflict == Conflict::Leave;
        let may = !self.task.wishes.recursive && self.root.has_devices() && !stays;
        if entry.name.is_some() || !may {
            return Ok(None);
        }
        match look(&spot.place.file, &spot.name, false) {
            Ok((_, there)) if there.file_type().is_block_device() => {}
            _ => return Ok(None), // others will tell what is there
        }
        let way = PathBuf::from(by_descriptor(&spot.place.file)).join(os(&spot.name));
        let target = Target::device(&way, spot.path(), self.task.settings.force)?;
        match target.len {
            Some(room) if room < len => {
                let operation = format!("write {len} bytes to a device of {room}");
                let (path, cause) = (target.path.clone(), io::ErrorKind::StorageFull.into());
                let error = CopyError::Operation { path, operation, cause };
                Err(FileError::copy(error, &target, len))
            }
            _ => Ok(Some(target)),
        }
    }

    /// Has what was not written of the first `len` bytes of a device read as zeros.
    ///
    /// # Errors
    /// What writing says.
    pub(super) fn zero_rest(
        &self,
        target: &Target,
        covered: &Covered,
        len: u64,
    ) -> Result<(), FileError> {
        let failed = |cause| FileError::target(&target.path, "write zeros to", cause);
        for hole in covered.rest(len) {
            let zeroed = holes::zero(&target.file, &hole, || self.session.is_over())
                .ok_or_else(|| failed(io::ErrorKind::Interrupted.into()))?;
            for part in [hole.start..zeroed.start, zeroed.end..hole.end] {
                self.write_zeros(target, part).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn write_zeros(&self, target: &Target, part: Range<u64>) -> io::Result<()> {
        let zeros = vec![0; ZEROS.min(part.end - part.start) as usize];
        let mut at = part.start;
        while at < part.end {
            if self.session.is_over() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let len = ZEROS.min(part.end - at);
            target.file.write_all_at(&zeros[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_written_is_known() {
        let covered = Covered::default();
        assert_eq!(covered.rest(0), []);
        assert_eq!(covered.rest(9), [0..9]);
        for range in [10..20, 30..40, 20..30, 50..60, 5..12, 0..1, 58..70] {
            covered.note(&range);
        }
        assert_eq!(covered.rest(80), [1..5, 40..50, 70..80]);
        covered.note(&(0..80));
        assert_eq!(covered.rest(80), []);
        assert_eq!(lock(&covered.0).len(), 1);
    }
}
