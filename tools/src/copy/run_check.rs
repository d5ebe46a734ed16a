//! The whole program where nothing is copied, but compared.

use std::num::NonZero;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

use clap::error::ErrorKind;

use super::check::{self, Checking, Found};
use super::check_list;
use super::engine::Progress;
use super::options::{self, Options};
use super::out::Out;
use super::progress::Monitor;
use super::request::rules;
use super::run::TOOL;
use super::signals::Signals;
use crate::cli::{exit, output};

/// What a command line with `--check` amounts to.
enum Task<'a> {
    Trees(&'a Path, &'a Path, Checking),
    Manifest(&'a Path),
}

/// Compares what `options` name: differences on standard output, and status 1 if there are any.
pub fn check(options: &Options) -> ExitCode {
    let task = match task(options) {
        Ok(task) => task,
        Err(why) => {
            let error = options::command().error(ErrorKind::ValueValidation, why);
            let _ = error.print(); // nobody may be listening
            return ExitCode::from(exit::USAGE);
        }
    };
    watched(options, |progress| match &task {
        Task::Trees(source, target, what) => check::trees(source, target, what, progress),
        Task::Manifest(list) => check_list::check(list, progress),
    })
}

/// Compares by `body`, with everything around it: signals, progress, and what is told.
pub(crate) fn watched(
    options: &Options,
    body: impl FnOnce(&Arc<Progress>) -> Result<Found, String>,
) -> ExitCode {
    let progress = Arc::new(Progress::default());
    let signals = match Signals::hold() {
        Ok(signals) => signals, // before the first thread
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    let monitor = match Monitor::start(Arc::clone(&progress), None, false) {
        Ok(monitor) => monitor,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    let stopped = match signals.serve(Arc::clone(&progress), monitor.printer()) {
        Ok(stopped) => stopped,
        Err(error) => return exit::fail(TOOL, &error, exit::FAILURE),
    };
    monitor.begin("the comparison".to_owned(), None);
    let found = body(&progress);
    drop(monitor); // with its bar
    if let Some(status) = stopped.status() {
        return ExitCode::from(status);
    }
    match found {
        Ok(found) => tell(options, &found),
        Err(why) => {
            exit::complain(TOOL, &why);
            ExitCode::from(exit::FAILURE)
        }
    }
}

fn task(options: &Options) -> Result<Task<'_>, String> {
    let trees = &options.trees;
    for (given, option) in [
        (trees.files_from.is_some(), "--files-from"),
        (trees.parents, "--parents"),
        (trees.one_file_system, "-x"),
        (trees.shard.is_some(), "--shard"),
        (trees.delete, "--delete"),
    ] {
        if given {
            return Err(format!(
                "--check compares all of SRC and DST, but for what --exclude leaves out: leave {option} out"
            ));
        }
    }
    match (&options.paths[..], &options.manifest) {
        ([], Some(list)) => Ok(Task::Manifest(list)),
        ([source, target], None) => {
            let processors = thread::available_parallelism().map_or(1, NonZero::get);
            let threads = options.threads.map_or(processors.min(8), |threads| threads as usize);
            let what = Checking {
                attributes: attributes(options),
                links: links(options),
                follow: options.trees.dereference,
                follow_operands: follows_operands(options),
                rules: rules(&options.trees).map_err(|error| error.to_string())?,
                threads,
            };
            Ok(Task::Trees(source, target, what))
        }
        _ => Err("--check takes SRC and DST, or --manifest FILE and no operands".to_owned()),
    }
}

/// Whether attributes are compared too.
pub(crate) fn attributes(options: &Options) -> bool {
    options.preserve || options.trees.archive
}

/// Whether it is compared which names are of one file.
pub(crate) fn links(options: &Options) -> bool {
    options.trees.archive || options.trees.no_dereference_links
}

/// Whether links that are named are followed, as a copy would.
pub(crate) fn follows_operands(options: &Options) -> bool {
    let trees = &options.trees;
    let keeps =
        trees.recursive || trees.archive || trees.no_dereference || trees.no_dereference_links;
    trees.dereference || trees.follow_operands || !keeps
}

fn tell(options: &Options, found: &Found) -> ExitCode {
    let written = if options.json {
        output::json(found)
    } else {
        let out = Out { aside: false };
        found.differences.iter().try_for_each(|words| out.line(words)).and_then(|()| {
            let (files, bytes) = (found.files, bookend::units::Bytes::new(found.bytes));
            match options.verbose || options.explain {
                true => out.line(format!("{files} files, {bytes} compared")),
                false => Ok(()),
            }
        })
    };
    match written {
        Err(error) => {
            let why = super::error::said(&error);
            exit::complain(TOOL, &format!("cannot write standard output: {why}"));
            ExitCode::from(exit::FAILURE)
        }
        Ok(()) if found.differences.is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(exit::FAILURE),
    }
}
