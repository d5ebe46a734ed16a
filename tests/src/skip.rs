//! How a test that cannot run here says why.
//!
//! The test harness keeps what a passing test prints to itself, so the reason is written to
//! standard error past it, as one line `skipped: TEST: REASON`; `tests/run` counts these lines and
//! shows them again at the end. A test returns right after.

use std::fmt;
use std::io::Write;
use std::process::{Command, Stdio};

/// Why a test, or a part of one, does not run here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Skip(pub String);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Skip {
    /// Prints the reason under the name of the running test.
    pub fn print(&self) {
        say(&self.0);
    }
}

/// Prints that the running test is skipped, and why, past the harness's capture.
pub fn say(reason: &str) {
    let thread = std::thread::current();
    let name = thread.name().unwrap_or("a test");
    let _ = writeln!(std::io::stderr(), "skipped: {name}: {reason}");
}

/// The value, or `None` after the reason was printed.
pub fn or_say<T>(outcome: Result<T, Skip>) -> Option<T> {
    outcome.inspect_err(Skip::print).ok()
}

/// Whether this process is root; `for_what` completes "needs root to …".
///
/// # Errors
/// Not root.
pub fn require_root(for_what: &str) -> Result<(), Skip> {
    if nix::unistd::geteuid().is_root() {
        Ok(())
    } else {
        Err(Skip(format!("needs root to {for_what}")))
    }
}

/// Whether `program` can be run; `package` is Debian's name of what holds it.
///
/// # Errors
/// There is no such program.
pub fn require_program(program: &str, package: &str) -> Result<(), Skip> {
    Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map(drop)
        .map_err(|_| Skip(format!("{program} is missing (apt-get install {package})")))
}

/// Whether the file system at `path` has `bytes` to spare.
///
/// # Errors
/// It has less, or does not say.
pub fn require_space(path: &std::path::Path, bytes: u64) -> Result<(), Skip> {
    let stat = nix::sys::statvfs::statvfs(path)
        .map_err(|errno| Skip(format!("{}: no free space known: {errno}", path.display())))?;
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    if free >= bytes {
        return Ok(());
    }
    Err(Skip(format!("{}: {free} bytes free, {bytes} needed", path.display())))
}
