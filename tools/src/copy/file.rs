//! One file that was named on the command line: what stands in its way, and the copy (see
//! [`super::fill`]).

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::engine::{Kind, Progress};
use super::error::FileError;
use super::fill::Fill;
use super::progress::Monitor;
use super::quote::quote;
use super::report::Copied;
use super::request::{Conflict, Settings};
use super::resolve::Task;
use super::source::Source;
use super::target::{Place, Target};

/// Copies files, one after the other.
#[derive(Debug)]
pub struct Copier<'a> {
    settings: &'a Settings,
    progress: Arc<Progress>,
    /// Device and inode of every target so far, none of which is to be overwritten by another.
    made: HashSet<(u64, u64)>,
}

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
        Self { settings, progress, made: HashSet::new() }
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
            return Ok(Ended::Left(why.to_owned()));
        }
        announce();
        let metadata = source.has_attributes().then_some(&source.metadata);
        let target = Target::open(place, metadata, self.settings)?;
        if target.other_links() > 0 {
            warnings.push(format!(
                "{}: {} other hard link(s) keep the old contents (--in-place changes them too)",
                quote(&target.path),
                target.other_links()
            ));
        }
        let watched = self.settings.fsync.then(|| target.file.try_clone().ok()).flatten();
        monitor.begin(quote(&source.path), watched);
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
        if source.kind != Kind::Stream && source.is_same(existing) {
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
        if matches!(place, Place::Standard) || !existing.is_file() {
            return Ok(None); // a device or a pipe is there in order to be written
        }
        let time = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
        Ok(match self.settings.conflict {
            Conflict::Replace => None,
            Conflict::Leave => Some("it exists"),
            Conflict::ReplaceOlder if time(&source.metadata) > time(existing) => None,
            Conflict::ReplaceOlder => Some("it is not older than the source"),
        })
    }
}

/// What standard output is, if it is a regular file.
fn standard_output_file() -> Option<Metadata> {
    let fd = io::stdout().as_fd().try_clone_to_owned().ok()?;
    File::from(fd).metadata().ok().filter(Metadata::is_file)
}
