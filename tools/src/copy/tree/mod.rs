//! Trees: directories with everything in them.
//!
//! Layer by layer, each seeing only those before it:
//! - [`wishes`] and [`filter`] say what was asked for; [`tally`] counts what was done.
//! - [`directory`] is a directory open on both sides, [`mod@list`] what is in it, [`links`] which files
//!   have several names, [`pool`] the threads and their queues; [`context`] holds these together.
//! - [`entry`] tells what a name stands for; [`small`] copies small files with few calls,
//!   [`regular`] the others by an engine, [`special`] links, FIFOs, sockets and devices; [`mod@line`] has one
//!   thread make what several open, where that is faster.
//! - [`enter`] goes into a directory and makes work of what is in it, [`finish`] (with [`delete`])
//!   does what is left when all of it is done.
//! - [`operands`] finds where the operands are; [`scan`] counts ahead, for the progress.
//! - [`team`] is several processes that do this together, [`part`] the range of a big file that each of them copies,
//!   [`records`] what goes into the journal of it, and [`publish`] gives it its name; `shared` are directories that
//!   several runs fill.
//!
//! Each directory counts those who still have something to do in it: who releases it last finishes
//! it, and so on upwards. So the times of a directory are set when nothing in it changes any more.

pub mod context;
pub mod delete;
pub mod directory;
pub mod enter;
pub mod entry;
pub mod filter;
pub mod finish;
pub mod line;
pub mod links;
pub mod list;
pub mod operands;
pub mod part;
pub mod pool;
pub mod publish;
pub mod records;
pub mod regular;
pub mod scan;
mod shared;
pub mod small;
pub mod special;
mod sys;
pub mod tally;
pub mod team;
pub mod wishes;

use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use super::engine::Progress;
use super::error::FileError;
use super::manifest::Manifest;
use super::manifest_file::{self, Here};
use super::request::{Request, Settings};
use context::{Context, Talk, Work};
use directory::Side;
use entry::Spot;
use tally::Totals;
use wishes::Wishes;

/// More threads than this only meet at the locks of the file systems.
const THREADS_MAX: usize = 8;

/// Copies all operands of `request`, and says what was done.
///
/// # Errors
/// Where the destination cannot be, so that nothing was done. Everything else that fails is told
/// to `talk` when it does, and is in the totals.
pub fn copy(
    request: &Request,
    wishes: &Wishes,
    progress: Arc<Progress>,
    talk: &dyn Talk,
) -> Result<Totals, FileError> {
    manifest_file::check_apart(request, Here::Both)?;
    let mut settings = request.settings;
    settings.wishes.spare_cache = true;
    let operands = request.sources.len();
    let mut context = Context::new(&settings, wishes, progress, talk, operands);
    context.manifest = request.manifest.is_some().then(Manifest::default);
    let later = context.take_operands(request)?;
    context.run();
    for tasks in later {
        context.take_tasks(tasks);
        context.run();
    }
    context.make_durable();
    let (manifest, stopped) = (context.manifest.take(), context.is_cancelled());
    let mut totals = context.tally.totals();
    write_manifest(manifest, request, stopped, talk, &mut totals);
    Ok(totals)
}

/// Writes the checksums, where they are asked for, unless the copy was `stopped`.
pub fn write_manifest(
    manifest: Option<Manifest>,
    request: &Request,
    stopped: bool,
    talk: &dyn Talk,
    totals: &mut Totals,
) {
    let failed = !totals.failures.is_empty();
    if let Err(error) = manifest_file::write(manifest, request, Here::Both, failed, stopped) {
        talk.failed(&error);
        totals.failures.push(error.to_string());
    }
}

/// Threads for small files, and whether there is one more for big ones. A limited copy goes one
/// file after the other, so that the limit is that of all together.
fn threads(settings: &Settings) -> (usize, bool) {
    if settings.tuning.bwlimit.is_some() {
        return (1, false);
    }
    match settings.tuning.threads {
        Some(threads) => (threads as usize, threads > 1),
        None => {
            let processors = thread::available_parallelism().map_or(1, NonZero::get);
            (processors.min(THREADS_MAX), true)
        }
    }
}

impl Context<'_> {
    /// Does all there is to do.
    fn run(&self) {
        let (light, beside) = threads(self.settings);
        self.pool.run(light, beside, |work| self.work(work));
    }

    fn work(&self, work: Work) {
        match work {
            Work::Enter(directory, entry) => {
                if !self.is_cancelled()
                    && let Err(error) = self.enter(&directory, &entry)
                {
                    self.failed(&directory, &error);
                }
                self.release(&directory);
            }
            Work::List(directory) => self.list_directory(&directory),
            Work::Finish(directory) => self.finish_up(&directory),
            Work::Batch(directory, entries) => {
                self.batch(&directory, entries);
                self.release(&directory);
            }
            Work::Make(stretch) => self.make_next(stretch),
            Work::Big(directory, entry) => {
                if !self.is_cancelled()
                    && let Err(error) = self.big(&directory, &entry)
                {
                    self.failed(&directory, &error);
                }
                self.release(&directory);
            }
        }
    }

    fn big(
        &self,
        directory: &Arc<directory::Directory>,
        entry: &list::Entry,
    ) -> Result<(), FileError> {
        let source = directory.fd(Side::Source, &self.shelf)?;
        let target = directory.fd(Side::Target, &self.shelf)?;
        self.entry(Spot::new(directory, &source, &target, entry), true)
    }

    /// `--fsync`: one call for each file system, which waits for everything that was written.
    fn make_durable(&self) {
        for file in context::lock(&self.written).values() {
            if let Err(errno) = nix::unistd::syncfs(file) {
                let error = FileError::target(
                    std::path::Path::new("the target's file system"),
                    "make durable",
                    errno,
                );
                self.talk.failed(&error);
                self.tally.failed(error.to_string());
            }
        }
    }
}
