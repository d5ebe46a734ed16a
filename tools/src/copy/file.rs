//! One file from its source to its name: probe, plan, engines, attributes, durability, name.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use super::attributes;
use super::engine::{Done, EngineName, Job, Kind, Progress, Stop, Sums};
use super::engines;
use super::error::FileError;
use super::holes;
use super::plan::{self, Facts, Plan, SideFacts, Skipped, Step};
use super::probe;
use super::progress::{Monitor, Phase};
use super::quote::quote;
use super::report::Copied;
use super::request::{Conflict, Settings};
use super::resolve::Task;
use super::source::Source;
use super::target::{Place, Target};
use super::verify;

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
        let result = self.fill(&source, target, monitor);
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

    /// Copies everything into `target` and gives it its name.
    fn fill(
        &mut self,
        source: &Source,
        mut target: Target,
        monitor: &Monitor,
    ) -> Result<Ended, FileError> {
        let settings = self.settings;
        self.refuse_streams(&target)?;
        let sums = settings.wishes.verify.then(Sums::default);
        let (step, mut done, skipped) = self.run_engines(source, &target, sums.as_ref())?;
        if let Some(sums) = &sums {
            self.sync(&target, monitor)?; // by itself, so that the wait has its name
            monitor.enter(Phase::Verifying);
            let from = verify::verify(&target.side(), done.bytes, sums, &self.progress)
                .map_err(|error| FileError::copy(error, &target, done.bytes))?;
            done.notes.push(from.to_string());
        }
        let lost = self.set_attributes(source, &target);
        if settings.fsync {
            self.sync(&target, monitor)?;
        }
        self.check_cancelled(&target)?;
        if !target.commit(settings.conflict == Conflict::Leave)? {
            return Ok(Ended::Left("it has just appeared".to_owned()));
        }
        if settings.fsync {
            target.sync_directory()?;
        }
        if let (Kind::Regular, Ok(made)) = (target.kind, target.file.metadata()) {
            self.made.insert((made.dev(), made.ino()));
        }
        if !lost.is_empty() {
            return Err(FileError::Attributes { path: target.path, what: lost });
        }
        Ok(Ended::Copied(Copied {
            engine: step.engine,
            why: step.pro,
            skipped,
            bytes: done.bytes,
            buffers: done.buffers,
            notes: done.notes,
            verified: sums.is_some(),
            durable: settings.fsync,
        }))
    }

    fn sync(&self, target: &Target, monitor: &Monitor) -> Result<(), FileError> {
        monitor.enter(Phase::Syncing);
        let synced = target.file.sync_all();
        synced.map_err(|error| FileError::target(&target.path, "make durable", error))
    }

    fn refuse_streams(&self, target: &Target) -> Result<(), FileError> {
        let option = match target.kind {
            Kind::Stream if self.settings.wishes.verify => "--verify",
            Kind::Stream if self.settings.fsync => "--fsync",
            _ => return Ok(()),
        };
        let why = "what a pipe or a terminal has taken cannot be asked for again";
        Err(FileError::NotForThis { option, path: target.path.clone(), why })
    }

    /// Runs the first engine that can.
    fn run_engines(
        &self,
        source: &Source,
        target: &Target,
        sums: Option<&Sums>,
    ) -> Result<(Step, Done, Vec<Skipped>), FileError> {
        let data = data_ranges(source)?;
        let mut facts = self.facts(source, target, &data);
        let mut plan = plan::plan(&facts, &self.settings.wishes);
        let mut skipped = plan.skipped.clone();
        // Sharing blocks comes first whatever is in memory, and is done sooner than looking there.
        let shares =
            |plan: &Plan| plan.steps.first().is_some_and(|s| s.engine == EngineName::Reflink);
        if !shares(&plan) {
            plan = self.plan_with_cache(source, &mut facts);
        }
        let job = Job {
            source: source.side(),
            target: target.side(),
            data: &data,
            tuning: self.settings.tuning,
            progress: &self.progress,
            sums,
        };
        let mut index = 0;
        while let Some(step) = plan.steps.get(index).copied() {
            index += 1;
            let Some(engine) = engines::by_name(step.engine) else {
                let why = "not part of this build".to_owned();
                skipped.push(Skipped { engine: step.engine, why });
                continue;
            };
            match engine.copy(&job) {
                Ok(done) => {
                    skipped.extend(plan.passed_over(index - 1));
                    return Ok((step, done, skipped));
                }
                Err(Stop::Unsupported(why)) => {
                    skipped.push(Skipped { engine: step.engine, why });
                    target.reset()?;
                    self.progress.reset();
                    if let Some(sums) = sums {
                        sums.clear();
                    }
                    if step.engine == EngineName::Reflink {
                        plan = self.plan_with_cache(source, &mut facts);
                    }
                }
                Err(Stop::Failed(error)) => {
                    let bytes = facts.data_bytes;
                    return Err(FileError::copy(error, target, bytes));
                }
            }
        }
        let (source_path, target) = (source.path.clone(), target.path.clone());
        Err(FileError::NoEngine { source_path, target, skipped })
    }

    fn facts(&self, source: &Source, target: &Target, data: &[Range<u64>]) -> Facts {
        let side = |file: &File, kind| SideFacts {
            kind,
            file_system: probe::file_system(file).ok().filter(|_| kind == Kind::Regular),
        };
        Facts {
            source: side(&source.file, source.kind),
            target: side(&target.file, target.kind),
            len: source.len,
            data_bytes: data.iter().map(|range| range.end - range.start).sum(),
            cached: None,
        }
    }

    /// The plan, once it is known how much of the source is in memory. The order of what shares
    /// blocks and what copies does not depend on that.
    fn plan_with_cache(&self, source: &Source, facts: &mut Facts) -> Plan {
        // A forced engine is not chosen by what is in memory.
        if let (None, Some(len)) = (self.settings.wishes.engine, source.len) {
            facts.cached = probe::cached_fraction(&source.file, len);
        }
        plan::plan(facts, &self.settings.wishes)
    }

    /// Mode, owner, times and extended attributes; returns what was lost.
    fn set_attributes(&self, source: &Source, target: &Target) -> Vec<String> {
        if target.kind != Kind::Regular {
            return Vec::new();
        }
        if self.settings.preserve && source.has_attributes() {
            attributes::preserve(&target.file, &source.file, &source.metadata)
        } else {
            target.set_own_attributes()
        }
    }

    /// The last moment at which stopping leaves the old target.
    fn check_cancelled(&self, target: &Target) -> Result<(), FileError> {
        if self.progress.is_cancelled() {
            let error = super::engine::CopyError::Cancelled;
            return Err(FileError::copy(error, target, 0));
        }
        Ok(())
    }
}

/// Where `source` has data.
fn data_ranges(source: &Source) -> Result<Vec<Range<u64>>, FileError> {
    let everything = |len| std::iter::once(0..len).collect();
    match (source.kind, source.len) {
        (_, None | Some(0)) => Ok(Vec::new()),
        (Kind::Regular, Some(len)) => holes::data_ranges(&source.file, len).map_err(|cause| {
            let path = source.path.clone();
            FileError::Source { path, operation: "find the holes of", cause }
        }),
        (_, Some(len)) => Ok(everything(len)),
    }
}

/// What standard output is, if it is a regular file.
fn standard_output_file() -> Option<Metadata> {
    let fd = io::stdout().as_fd().try_clone_to_owned().ok()?;
    File::from(fd).metadata().ok().filter(Metadata::is_file)
}
