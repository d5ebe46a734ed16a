//! A member's range of a file that several processes fill (see [`team`](super::team)): it is copied into what the
//! leader has staged, found in the directory that is open anyway, and its checksum is taken for the manifest.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::context::Context;
use super::entry::{Spot, set_blocking};
use super::records::Recorder;
use super::team::{Divided, Part, Share};
use crate::copy::engine::Progress;
use crate::copy::error::FileError;
use crate::copy::fill::{Begun, Fill};
use crate::copy::journal::Identity;
use crate::copy::manifest;
use crate::copy::source::Source;
use crate::copy::target::Target;
use crate::copy::unfinished::Claims;

/// What fails where the staged file cannot be had.
const OPEN: &str = "open what is staged for";

impl Context<'_> {
    /// Does this member's part of a divided file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn part(
        &self,
        (share, divided): (&Share, &Divided),
        spot: Spot<'_>,
        file: File,
        metadata: Metadata,
    ) -> Result<(), FileError> {
        let range = share.range(metadata.len());
        if divided.state != Identity::anywhere(&metadata) {
            return Err(FileError::Changed(spot.source_path()));
        }
        set_blocking(&file).map_err(|errno| spot.source_error("read", errno))?;
        let source = Source::opened(file, metadata, spot.source_path())?;
        let temporary = divided.temporary.clone().map(CString::new);
        if let Some(Ok(name)) = temporary.filter(|_| !range.is_empty()) {
            let (there, joined) = match divided.resumed {
                true => {
                    let (there, joined) = self.begun_for_all(spot, divided, &range)?;
                    let recorder = share.recorder(divided.number, joined.header());
                    (there, Some((joined, recorder)))
                }
                false => (self.staged_for_all(spot, &name, source.metadata.len())?, None),
            };
            let target = Target::regular(there, spot.target_path());
            self.fill_part(spot, &source, target, range.clone(), joined)?;
        }
        let subtrees = match divided.listed {
            true => {
                let progress = Progress::part_of(&self.progress); // cancelled with it, and not counted
                let Source { file, metadata, path, .. } = &source;
                manifest::hash_part(file, metadata, path, range, &progress)?
            }
            false => Vec::new(),
        };
        share.done(Part { target: divided.target.clone(), subtrees });
        Ok(())
    }

    /// Opens what the leader has begun or goes on with (`--resume`).
    fn begun_for_all(
        &self,
        spot: Spot<'_>,
        divided: &Divided,
        range: &Range<u64>,
    ) -> Result<(File, Claims), FileError> {
        let name = OsStr::from_bytes(spot.entry.target().to_bytes());
        let claims = Claims::join(spot.target, name, divided.state, range);
        claims.map_err(|cause| match cause.kind() {
            io::ErrorKind::ResourceBusy => FileError::BeingCopied(spot.target_path()),
            _ => spot.target_error(OPEN, cause),
        })
    }

    /// Opens what the leader has staged.
    fn staged_for_all(&self, spot: Spot<'_>, name: &CStr, len: u64) -> Result<File, FileError> {
        let failed = |cause| spot.target_error(OPEN, cause);
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let there = openat(spot.target, name, flags, Mode::empty());
        let there = File::from(there.map_err(|errno| failed(errno.into()))?);
        let found = there.metadata().map_err(failed)?;
        if !found.is_file() || found.nlink() != 1 || found.len() != len {
            return Err(failed(io::Error::other("it is not what was put there")));
        }
        set_blocking(&there).map_err(|errno| failed(errno.into()))?;
        Ok(there)
    }

    fn fill_part(
        &self,
        spot: Spot<'_>,
        source: &Source,
        target: Target,
        range: Range<u64>,
        joined: Option<(Claims, Recorder)>,
    ) -> Result<(), FileError> {
        let progress = Progress::part_of_range(&self.progress, range.clone());
        let fill =
            Fill { settings: self.settings, progress: &progress, monitor: None, fsync: false };
        let mut resumed = 0;
        let begun = joined.map(|(joined, recorder)| {
            let known = joined.verify(&target.file, &target.path, Some(source), &progress);
            let known = known.map_err(|error| FileError::copy(error, &target, 0))?;
            progress.reset(); // engines count what they need not copy as they pass it
            resumed = known.iter().map(|piece| piece.range.end - piece.range.start).sum();
            Ok(Begun { summer: joined.header().summer, known, log: Arc::new(recorder) })
        });
        let filled = begun.transpose().and_then(|begun| {
            fill.part(source, &target, range.clone(), begun)?;
            // A server may say only now that it has no room, and the others shall see what was written.
            let kept = target.file.sync_data();
            kept.map_err(|cause| spot.target_error("finish writing", cause))
        });
        match filled {
            Ok(()) => {
                self.tally.bytes.add(range.end - range.start);
                self.tally.resumed.add(resumed);
                self.tally.parts.add(1);
            }
            Err(_) => progress.reset(), // none of it counts
        }
        filled
    }
}
