//! What people do to get huge pages, and what hugectl does.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use bookend::units::PageSize;
use bookend_defrag::system::pools::Place;
use bookend_defrag::system::{Files, HugePools};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::SystemFailure;

/// A way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Write nr_hugepages once.
    Once,
    /// Write it 40 times.
    Retry,
    /// Write back, drop all caches, compact, write it.
    Drop,
    /// hugectl reserve.
    Hugectl,
}

/// How often [`Way::Retry`] writes.
const RETRIES: u32 = 40;

/// What hugectl says of itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Said {
    /// Pages it predicted.
    pub predicted: Option<u64>,
    /// What it says came of it.
    pub verdict: String,
    /// What each rung gave, as it reports them.
    pub rungs: serde_json::Value,
}

impl Way {
    /// As in the report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Retry => "retry",
            Self::Drop => "drop",
            Self::Hugectl => "hugectl",
        }
    }

    /// Goes that way; what it obtains is in the pool afterwards.
    pub(super) fn take(
        self,
        files: &Files,
        page: PageSize,
        wanted: u64,
        arguments: Option<&str>,
    ) -> Result<Option<Said>, SystemFailure> {
        let pools = HugePools::of(files);
        let ask = || pools.resize(page, Place::Machine, wanted).map(drop);
        match self {
            Self::Once => ask()?,
            Self::Retry => (0..RETRIES).try_for_each(|_| ask())?,
            Self::Drop => {
                nix::unistd::sync();
                files.write("proc/sys/vm/drop_caches", "3")?;
                files.write("proc/sys/vm/compact_memory", "1")?;
                ask()?;
            }
            Self::Hugectl => return hugectl(page, wanted, arguments).map(Some),
        }
        Ok(None)
    }
}

/// The hugectl beside this program.
fn hugectl(page: PageSize, wanted: u64, arguments: Option<&str>) -> Result<Said, SystemFailure> {
    let path = beside();
    let failed = |why: String| SystemFailure::Hugectl { path: path.clone(), why };
    let output = Command::new(&path)
        .args(["reserve", "--json", "--size", &page.bytes().get().to_string()])
        .args(["--pages", &wanted.to_string()])
        .args(arguments.unwrap_or_default().split_whitespace())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    if !matches!(output.status.code(), Some(0 | 3)) {
        return Err(failed(format!("ended with {}", output.status)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failed(format!("no report: {error}")))
}

fn beside() -> PathBuf {
    let this = std::env::current_exe().unwrap_or_default();
    this.with_file_name("hugectl")
}
