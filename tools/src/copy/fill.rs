//! The copy of one file, open on both sides: plan, engines, attributes, durability, name.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::attributes;
use super::engine::{Done, EngineName, Job, Kind, Log, PieceSum, Progress, Sparse, Stop, Sums};
use super::engines;
use super::error::FileError;
use super::file::Ended;
use super::holes;
use super::journal;
use super::plan::{self, Facts, Plan, SideFacts, Skipped, Step};
use super::probe;
use super::progress::{Monitor, Phase};
use super::report::Copied;
use super::request::{Conflict, Settings};
use super::source::Source;
use super::sum::Summer;
use super::target::Target;
use super::unfinished::clear_rest;
use super::verify;

/// How files are filled.
#[derive(Clone, Copy, Debug)]
pub struct Fill<'a> {
    /// What the user wants.
    pub settings: &'a Settings,
    /// Where bytes are counted.
    pub progress: &'a Progress,
    /// Who is told of phases, if anyone.
    pub monitor: Option<&'a Monitor>,
    /// Whether this file is to be made durable by itself.
    pub fsync: bool,
}

/// A file that was filled, or left.
#[derive(Debug)]
pub struct Filled {
    /// How it ended.
    pub ended: Ended,
    /// Device and inode of a regular file that was made or replaced.
    pub made: Option<(u64, u64)>,
    /// What of its attributes could not be carried over, and why.
    lost: Vec<String>,
    path: PathBuf,
}

impl Filled {
    /// How it ended, where attributes that were lost are an error.
    ///
    /// # Errors
    /// [`FileError::Attributes`].
    pub fn whole(self) -> Result<Ended, FileError> {
        let (ended, lost) = self.and_lost();
        lost.map_or(Ok(ended), Err)
    }

    /// How it ended, and apart from that what to say of attributes that were lost: the file is there without them.
    pub fn and_lost(self) -> (Ended, Option<FileError>) {
        let lost = (!self.lost.is_empty())
            .then_some(FileError::Attributes { path: self.path, what: self.lost });
        (self.ended, lost)
    }
}

impl Fill<'_> {
    /// Copies everything into `target` and gives it its name.
    ///
    /// # Errors
    /// [`FileError`]. The target is then what it was, unless it was written in place.
    pub fn run(&self, source: &Source, mut target: Target) -> Result<Filled, FileError> {
        let settings = self.settings;
        self.refuse_streams(&target)?;
        let known = self.known(source, &target)?;
        let log = target.unfinished().map(|unfinished| Arc::clone(unfinished) as Arc<dyn Log>);
        let resumed = log.as_ref().map(|_| known.iter().map(|piece| len(&piece.range)).sum());
        let summer = target.unfinished().map_or_else(Summer::here, |log| log.summer());
        let sums = (settings.wishes.verify || log.is_some())
            .then(|| Sums::with(summer, known.clone(), log));
        let ran = data_ranges(source).and_then(|data| {
            let left = journal::without(&data, &known);
            self.run_engines(source, &target, sums.as_ref(), left, Extent::Whole)
        });
        self.check_unchanged(source, &target)?;
        let (step, mut done, skipped) = ran?;
        if let Some(sums) = sums.as_ref().filter(|_| settings.wishes.verify) {
            self.sync(&target)?; // by itself, so that the wait has its name
            self.enter(Phase::Verifying);
            let from = verify::verify(&target.side(), 0..done.bytes, sums, self.progress)
                .and_then(|from| verify::ends_at(&target.side(), done.bytes).map(|()| from))
                .map_err(|error| FileError::copy(error, &target, done.bytes))?;
            done.notes.push(from.to_string());
        }
        let lost = self.set_attributes(source, &target);
        if self.fsync {
            self.sync(&target)?;
        }
        self.check_cancelled(&target)?;
        if !target.commit(settings.conflict == Conflict::Leave, settings.fsync)? {
            let ended = Ended::Left("it has just appeared".to_owned());
            return Ok(Filled { ended, made: None, lost: Vec::new(), path: target.path });
        }
        if self.fsync {
            target.sync_directory()?;
        }
        let made = match (target.kind, target.file.metadata()) {
            (Kind::Regular, Ok(made)) => Some((made.dev(), made.ino())),
            _ => None,
        };
        let ended = Ended::Copied(Copied {
            engine: step.engine,
            why: step.pro,
            skipped,
            bytes: done.bytes,
            buffers: done.buffers,
            notes: done.notes,
            verified: settings.wishes.verify,
            resumed,
            durable: self.fsync,
        });
        Ok(Filled { ended, made, lost, path: target.path })
    }

    /// Copies only what lies in `range`, but for what is `begun` of it, into a file that has its length; others see
    /// to the rest of it, and to its attributes and name.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn part(
        &self,
        source: &Source,
        target: &Target,
        range: Range<u64>,
        begun: Option<Begun>,
    ) -> Result<(), FileError> {
        let mut data = match self.settings.wishes.sparse {
            Sparse::Never => std::iter::once(range.clone()).collect(),
            _ => within(data_ranges(source)?, &range),
        };
        let sums = match begun {
            Some(Begun { summer, known, log }) => {
                self.clear(target, &range, &known)?;
                data = journal::without(&data, &known);
                Some(Sums::with(summer, known, Some(log)))
            }
            None => self.settings.wishes.verify.then(Sums::default),
        };
        self.run_engines(source, target, sums.as_ref(), data, Extent::Part)?;
        if let Some(sums) = sums.as_ref().filter(|_| self.settings.wishes.verify) {
            let bytes = range.end - range.start;
            verify::verify(&target.side(), range, sums, self.progress)
                .map_err(|error| FileError::copy(error, target, bytes))?;
        }
        Ok(())
    }

    /// What an earlier run has copied, read again and compared. Nothing else is left in the target.
    fn known(&self, source: &Source, target: &Target) -> Result<Vec<PieceSum>, FileError> {
        let Some(unfinished) = target.unfinished() else { return Ok(Vec::new()) };
        self.enter(Phase::Verifying);
        let known = unfinished
            .claims()
            .verify(&target.file, &target.path, Some(source), self.progress)
            .map_err(|error| FileError::copy(error, target, 0))?;
        self.clear(target, &(0..u64::MAX), &known)?;
        self.progress.reset(); // engines count what they need not copy as they pass it
        self.enter(Phase::Copying);
        Ok(known)
    }

    fn clear(
        &self,
        target: &Target,
        range: &Range<u64>,
        known: &[PieceSum],
    ) -> Result<(), FileError> {
        clear_rest(&target.file, range, known).map_err(|cause| {
            FileError::target(&target.path, "take out what is not known of", cause)
        })
    }

    /// A copy of a source in two states is thrown away.
    fn check_unchanged(&self, source: &Source, target: &Target) -> Result<(), FileError> {
        let Some(unfinished) = target.unfinished() else { return Ok(()) };
        match source.file.metadata() {
            Ok(now) if !unfinished.is_of(&now) => {
                unfinished.discard();
                Err(FileError::Changed(source.path.clone()))
            }
            _ => Ok(()),
        }
    }

    fn enter(&self, phase: Phase) {
        if let Some(monitor) = self.monitor {
            monitor.enter(phase);
        }
    }

    fn sync(&self, target: &Target) -> Result<(), FileError> {
        self.enter(Phase::Syncing);
        let synced = target.file.sync_all();
        synced.map_err(|error| FileError::target(&target.path, "make durable", error))
    }

    fn refuse_streams(&self, target: &Target) -> Result<(), FileError> {
        let option = match target.kind {
            Kind::Stream if self.settings.wishes.verify => "--verify",
            Kind::Stream if self.fsync => "--fsync",
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
        data: Vec<Range<u64>>,
        extent: Extent,
    ) -> Result<(Step, Done, Vec<Skipped>), FileError> {
        let mut facts = self.facts(source, target, &data);
        let mut plan = self.plan(&facts);
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
            part: extent == Extent::Part,
            tuning: self.settings.tuning,
            progress: self.progress,
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
                    if extent == Extent::Whole {
                        target.reset()?;
                    }
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
        self.plan(facts)
    }

    fn plan(&self, facts: &Facts) -> Plan {
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

/// What an earlier run has filled of a range.
#[derive(Debug)]
pub struct Begun {
    /// What makes the sums of its pieces.
    pub summer: Summer,
    /// Those that were read again, and hold.
    pub known: Vec<PieceSum>,
    /// Who is to know of new ones.
    pub log: Arc<dyn Log>,
}

/// How much of a file is filled here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Extent {
    /// All of it.
    Whole,
    /// Some, while others fill the rest.
    Part,
}

/// What of `ranges` lies in `outer`.
fn within(ranges: Vec<Range<u64>>, outer: &Range<u64>) -> Vec<Range<u64>> {
    ranges
        .into_iter()
        .map(|range| range.start.max(outer.start)..range.end.min(outer.end))
        .filter(|range| range.start < range.end)
        .collect()
}

fn len(range: &Range<u64>) -> u64 {
    range.end - range.start
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
