//! `--check` with another machine, from the end that the user is at: what both ends find is told in order at the end.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use super::client;
use super::request::Wanted;
use super::session::lock;
use crate::copy::check::Found;
use crate::copy::error::FileError;
use crate::copy::options::Options;
use crate::copy::out::Out;
use crate::copy::report::FileReport;
use crate::copy::run_check;
use crate::copy::tree::context::Talk;

/// Compares what `wanted` says, as `options` say.
pub fn check(wanted: &Wanted, options: &Options) -> ExitCode {
    run_check::watched(options, |progress| {
        let findings = Findings::default();
        let explain = |line: &str| {
            if options.explain {
                let _ = Out { aside: options.json }.line(line); // nobody may be listening
            }
        };
        let totals = client::run(wanted, Arc::clone(progress), &findings, &explain)
            .map_err(|error| error.to_string())?;
        let differences = std::mem::take(&mut *lock(&findings.0)).into_iter().collect();
        Ok(Found { files: totals.files, bytes: totals.bytes, differences })
    })
}

/// What differs, or could not be compared, in order.
#[derive(Default)]
struct Findings(Mutex<BTreeSet<String>>);

impl Talk for Findings {
    fn copying(&self, _: &Path, _: &Path) {}

    fn failed(&self, error: &FileError) {
        self.differs(&error.to_string());
    }

    fn differs(&self, words: &str) {
        lock(&self.0).insert(words.to_owned());
    }

    fn remark(&self, _: &str) {}

    fn explain(&self, _: &FileReport) {}
}
