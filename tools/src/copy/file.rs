//! One file that was named on the command line: what stands in its way, and the copy (see
//! [`super::fill`]).

use std::collections::HashSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use super::attributes;
use super::compare;
use super::engine::{Kind, Progress};
use super::error::FileError;
use super::fill::Fill;
use super::manifest::{self, Manifest};
use super::progress::Monitor;
use super::quote::quote;
use super::report::Copied;
use super::request::{Conflict, Endpoint, Settings};
use super::resolve::Task;
use super::source::Source;
use super::target::{self, Place, Target};
use super::unfinished;

/// Copies files, one after the other.
#[derive(Debug)]
pub struct Copier<'a> {
    settings: &'a Settings,
    progress: Arc<Progress>,
    /// Device and inode of every target so far, none of which is to be overwritten by another.
    made: HashSet<(u64, u64)>,
    /// Checksums of what was copied, where they are asked for.
    pub manifest: Option<Manifest>,
}

/// Why a target is left that is a copy already.
const SAME: &str = "it has the same contents";

/// Why a device is on no list.
pub const ON_DEVICE: &str =
    "a device may have more on it than was copied: compare it with hugecp --check SRC DST";

/// How the copy of one file ended, if not with an error.
#[derive(Debug)]
pub enum Ended {
    /// There is a copy.
    Copied(Copied),
    /// The target was left as it was, for this reason.
    Left(String),
}

impl<'a> Copier<'a> {
    /// For a run with `settings` whose engines count in `progress`.
    pub fn new(settings: &'a Settings, progress: Arc<Progress>) -> Self {
        Self { settings, progress, made: HashSet::new(), manifest: None }
    }

    /// Makes the copy `task`. `announce` is called when it is clear that there is something to
    /// do; `warnings` are for the user, whatever the result.
    ///
    /// # Errors
    /// [`FileError`]. The target is then what it was, unless it was written in place, or unless
    /// the error says that only attributes are missing.
    pub fn copy(
        &mut self,
        task: &Task,
        monitor: &Monitor,
        warnings: &mut Vec<String>,
        announce: impl FnOnce(),
    ) -> Result<Ended, FileError> {
        let source = Source::open(&task.source)?;
        let place = Place::find(&task.target)?;
        if let Some(why) = self.reason_to_leave(&source, &place, task)? {
            if why == SAME {
                self.list(&source, (&task.target.name(), Kind::Regular))?;
            }
            return Ok(Ended::Left(why.to_owned()));
        }
        announce();
        if self.settings.resume {
            source.settle()?;
        }
        let metadata = source.has_attributes().then_some(&source.metadata);
        let resumable = self.settings.resume && !has_such_beside(task, &place);
        let target = Target::open(place, metadata, self.settings, resumable)?;
        if target.other_links() > 0 {
            warnings.push(format!(
                "{}: {} other hard link(s) keep the old contents (--in-place changes them too)",
                quote(&target.path),
                target.other_links()
            ));
        }
        let watched = self.settings.fsync.then(|| target.file.try_clone().ok()).flatten();
        monitor.begin(quote(&source.path), watched);
        let (path, kind) = (target.path.clone(), target.kind);
        let fill = Fill {
            settings: self.settings,
            progress: &self.progress,
            monitor: Some(monitor),
            fsync: self.settings.fsync,
        };
        let result = fill.run(&source, target).and_then(|filled| {
            self.made.extend(filled.made);
            filled.whole()
        });
        monitor.end(source.len.unwrap_or_else(|| self.progress.copied()));
        if let Ok(Ended::Copied(_)) = &result {
            self.list(&source, (&path, kind))?;
        }
        result
    }

    /// Why there is nothing to do, or an error where there must not be.
    fn reason_to_leave(
        &self,
        source: &Source,
        place: &Place,
        task: &Task,
    ) -> Result<Option<&'static str>, FileError> {
        let stdout;
        let existing = match place {
            Place::Standard => {
                stdout = standard_output_file();
                stdout.as_ref()
            }
            _ => place.existing(),
        };
        let Some(existing) = existing else { return Ok(None) };
        // Standard input can be a regular file too: it is read from while its copy replaces it, but not while that is
        // written into it.
        let would_harm = source.kind != Kind::Stream
            || (source.metadata.is_file() && place.is_kept(self.settings));
        if would_harm && source.is_same(existing) {
            return Err(FileError::SameFile {
                source_path: source.path.clone(),
                target: task.target.name(),
            });
        }
        if self.made.contains(&(existing.dev(), existing.ino())) {
            return Err(FileError::JustCreated {
                source_path: source.path.clone(),
                target: task.target.name(),
            });
        }
        if matches!(place, Place::Standard) {
            return Ok(None);
        }
        if self.settings.conflict == Conflict::Leave {
            return Ok(Some("it exists"));
        }
        let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        // A device or a pipe is there in order to be written, and not read.
        let may_be_same = self.settings.checksum && existing.is_file();
        if may_be_same && self.is_same(source, place, existing)? {
            return Ok(Some(SAME));
        }
        Ok(match self.settings.conflict {
            Conflict::ReplaceOlder if time(&source.metadata) <= time(existing) => {
                Some("it is not older than the source")
            }
            _ => None,
        })
    }

    /// Puts a copy at `path` on the list of checksums, by the checksum of its source, or by its own where the source
    /// does not tell its length.
    fn list(&self, source: &Source, (path, kind): (&Path, Kind)) -> Result<(), FileError> {
        let Some(manifest) = &self.manifest else { return Ok(()) };
        let why = match (source.kind, kind) {
            (_, Kind::BlockDevice) => ON_DEVICE,
            (_, Kind::Stream) => "what was written there cannot be read again",
            (Kind::Regular, Kind::Regular) => "",
            _ => "its source cannot be read again: use b3sum on the copy",
        };
        if !why.is_empty() {
            return Err(FileError::NotForThis { option: "--manifest", path: path.into(), why });
        }
        let progress = Progress::part_of(&self.progress); // cancelled with it, and not counted
        let (file, metadata) = (&source.file, &source.metadata);
        let hash = match source.len {
            Some(_) => manifest::hash_source(file, metadata, &source.path, &progress)?,
            None => {
                let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK; // should it be something else by now
                let copy = OpenOptions::new().read(true).custom_flags(flags).open(path);
                let operation = "open, for its checksum,";
                let copy = copy.map_err(|error| FileError::target(path, operation, error))?;
                manifest::hash_copy(&copy, path, &progress)?
            }
        };
        manifest.add(path.into(), hash);
        Ok(())
    }

    /// Whether the target has the source's contents. With `-p` it is given its attributes then.
    fn is_same(
        &self,
        source: &Source,
        place: &Place,
        existing: &Metadata,
    ) -> Result<bool, FileError> {
        let Place::Existing(path, _) = place else { return Ok(false) };
        if source.kind != Kind::Regular || source.len != Some(existing.len()) {
            return Ok(false);
        }
        let Ok(target) = File::open(path) else { return Ok(false) };
        let same = compare::same_contents(&source.file, &target, &self.progress)
            .map_err(|error| error.of(source.path.clone(), path.clone()))?;
        if same && self.settings.preserve {
            let lost = attributes::preserve(&target, &source.file, &source.metadata);
            if !lost.is_empty() {
                return Err(FileError::Attributes { path: path.clone(), what: lost });
            }
        }
        Ok(same)
    }
}

/// Whether files that are called as an unfinished copy to `place` would be lie beside the source, as the rest of an
/// earlier copy to there: they may be copied to beside the target themselves.
fn has_such_beside(task: &Task, place: &Place) -> bool {
    let (Endpoint::Path(source), Place::New(target) | Place::Existing(target, _)) =
        (&task.source, place)
    else {
        return false;
    };
    let open = |path: &Path| File::open(target::parent(path));
    match (open(source), open(target), target.file_name()) {
        (Ok(beside), Ok(directory), Some(name)) => unfinished::has_such(beside, directory, name),
        _ => false, // who may not look there has nothing of it to copy
    }
}

/// What standard output is, if it is a regular file.
fn standard_output_file() -> Option<Metadata> {
    let fd = io::stdout().as_fd().try_clone_to_owned().ok()?;
    File::from(fd).metadata().ok().filter(Metadata::is_file)
}
