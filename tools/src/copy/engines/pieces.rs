//! Sharing the data of a file out among threads.
//!
//! One queue in the order of the file: whoever is free takes the next piece. So reading stays
//! sequential as a whole (read-ahead works), no thread waits for another one's share, and the
//! first failure closes the queue for all.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

use crate::copy::engine::{CopyError, Progress};

/// The pieces of a file's data that nobody has taken yet.
#[derive(Debug)]
pub struct Pieces<'a> {
    data: &'a [Range<u64>],
    size: u64,
    progress: &'a Progress,
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// Index of the range that the next piece comes from.
    index: usize,
    /// Where in the file everything before is taken or is a hole.
    at: u64,
    /// Where the file ends; `at`, once the queue is closed.
    len: u64,
    /// What closed it.
    error: Option<CopyError>,
}

impl<'a> Pieces<'a> {
    /// The pieces of `data` in a file of `len` bytes, cut at the multiples of `size` bytes.
    pub fn new(data: &'a [Range<u64>], len: u64, size: u64, progress: &'a Progress) -> Self {
        let queue = Queue { index: 0, at: 0, len, error: None };
        Self { data, size: size.max(1), progress, queue: Mutex::new(queue) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes the next piece; counts the holes that are passed on the way as progress.
    ///
    /// # Errors
    /// [`CopyError::Cancelled`] if the user has stopped the copy.
    pub fn take(&self) -> Result<Option<Range<u64>>, CopyError> {
        if self.progress.is_cancelled() {
            return Err(CopyError::Cancelled);
        }
        let mut queue = self.queue();
        while let Some(range) = self.data.get(queue.index) {
            if queue.at >= queue.len {
                return Ok(None);
            }
            if queue.at < range.end {
                let start = queue.at.max(range.start);
                let end = ((start / self.size + 1).saturating_mul(self.size)).min(range.end);
                self.progress.pass(queue.at..start);
                queue.at = end;
                return Ok(Some(start..end));
            }
            queue.index += 1;
        }
        self.progress.pass(queue.at..queue.len);
        queue.at = queue.len;
        Ok(None)
    }

    /// Closes the queue: nobody gets another piece, and the first error given is the result; of those of reading the
    /// first in the file, since others may have read before it and fail later.
    fn close(&self, error: CopyError) {
        let mut queue = self.queue();
        queue.len = queue.at;
        match &queue.error {
            Some(held) if !error.is_read_before(held) => {}
            _ => queue.error = Some(error),
        }
    }

    /// Runs `worker` on `threads` threads, this one among them, until the queue is empty or one of
    /// them fails. Fewer threads do where the system has no more: the queue is the same.
    ///
    /// # Errors
    /// The first error of a worker, or of those that could not read the one that was first in the file.
    pub fn work<W>(&self, threads: usize, worker: W) -> Result<(), CopyError>
    where
        W: Fn(&Self) -> Result<(), CopyError> + Sync,
    {
        let run = || worker(self).unwrap_or_else(|error| self.close(error));
        std::thread::scope(|scope| {
            for _ in 1..threads {
                let started = std::thread::Builder::new()
                    .name("hugecp-copy".to_owned())
                    .spawn_scoped(scope, run);
                if started.is_err() {
                    break;
                }
            }
            run();
        });
        self.queue().error.take().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn all(pieces: &Pieces<'_>) -> Vec<Range<u64>> {
        std::iter::from_fn(|| pieces.take().expect("not cancelled")).collect()
    }

    #[test]
    fn pieces_are_cut_at_multiples_and_cover_the_data_once() {
        let progress = Progress::default();
        let data = [5..25, 40..41, 60..80];
        let pieces = Pieces::new(&data, 100, 10, &progress);
        assert_eq!(all(&pieces), [5..10, 10..20, 20..25, 40..41, 60..70, 70..80]);
        assert_eq!(progress.copied(), 100 - 20 - 1 - 20, "holes are counted, data is not");
    }

    #[test]
    fn the_first_place_that_cannot_be_read_is_told() {
        let read = |offset| {
            let (path, cause) = (std::path::PathBuf::new(), io::ErrorKind::Other.into());
            CopyError::Read { path, offset, cause }
        };
        let told = |errors: Vec<CopyError>| {
            let (progress, data) = (Progress::default(), [0..10]);
            let pieces = Pieces::new(&data, 10, 1, &progress);
            errors.into_iter().for_each(|error| pieces.close(error));
            match pieces.queue().error.take() {
                Some(CopyError::Read { offset, .. }) => Some(offset),
                _ => None,
            }
        };
        assert_eq!(told(vec![read(5), read(3), read(4)]), Some(3));
        assert_eq!(told(vec![read(5), CopyError::Cancelled]), Some(5));
        assert_eq!(told(vec![CopyError::Cancelled, read(5)]), None);
    }

    #[test]
    fn a_file_without_data_is_one_hole() {
        let progress = Progress::default();
        let pieces = Pieces::new(&[], 100, 10, &progress);
        assert_eq!(all(&pieces), []);
        assert_eq!(all(&pieces), []);
        assert_eq!(progress.copied(), 100);
    }

    #[test]
    fn what_others_copy_does_not_count() {
        let whole = Arc::new(Progress::default());
        let progress = Progress::part_of_range(&whole, 30..70);
        let data = [35..40, 50..60];
        let pieces = Pieces::new(&data, 100, 10, &progress);
        assert_eq!(all(&pieces), [35..40, 50..60]);
        assert_eq!((progress.copied(), whole.copied()), (40 - 15, 40 - 15));
    }

    #[test]
    fn threads_share_the_pieces_without_overlap() {
        let progress = Progress::default();
        let data = [0..10_000, 20_000..30_000];
        let pieces = Pieces::new(&data, 30_000, 7, &progress);
        let taken = AtomicU64::new(0);
        let result = pieces.work(4, |pieces| {
            while let Some(piece) = pieces.take()? {
                taken.fetch_add(piece.end - piece.start, Ordering::Relaxed);
            }
            Ok(())
        });
        assert!(result.is_ok());
        assert_eq!(taken.into_inner(), 20_000);
    }

    #[test]
    fn the_first_failure_ends_the_work_of_all() {
        let progress = Progress::default();
        let data = std::slice::from_ref(&(0..u64::MAX));
        let pieces = Pieces::new(data, u64::MAX, 1, &progress);
        let result = pieces.work(3, |pieces| {
            while let Some(piece) = pieces.take()? {
                if piece.start == 1000 {
                    let cause = io::Error::from_raw_os_error(libc::EIO);
                    return Err(CopyError::Read { path: "f".into(), offset: 1000, cause });
                }
            }
            Ok(())
        });
        assert!(matches!(result, Err(CopyError::Read { offset: 1000, .. })));
    }

    #[test]
    fn cancelling_ends_the_work() {
        let progress = Progress::default();
        let data = std::slice::from_ref(&(0..u64::MAX));
        let pieces = Pieces::new(data, u64::MAX, 1, &progress);
        let result = pieces.work(2, |pieces| {
            while let Some(piece) = pieces.take()? {
                if piece.start == 100 {
                    progress.cancel();
                }
            }
            Ok(())
        });
        assert!(matches!(result, Err(CopyError::Cancelled)));
    }
}
