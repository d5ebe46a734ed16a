//! The binaries under test, and what a run of one gave.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The built `hugecp`.
///
/// # Panics
/// When it does not build.
pub fn hugecp() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build().join("hugecp"))
}

/// The built `fragbench`.
///
/// # Panics
/// When it does not build.
pub fn fragbench() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build().join("fragbench"))
}

/// The built `hugectl`.
///
/// # Panics
/// When it does not build.
pub fn hugectl() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| build().join("hugectl"))
}

/// Builds the tools, optimised, beside this test's own binary: files of gigabytes are copied, and
/// a test of another package is not told where they are. Nothing is done where they are up to date,
/// nor in the lab, which brings them.
fn build() -> PathBuf {
    let exe = std::env::current_exe().expect("a running test has a file");
    // target/PROFILE/deps/TEST-HASH, or target/PROFILE/PROGRAM
    let profile = exe.parent().expect("a file lies in a directory");
    let profile = if profile.ends_with("deps") { profile.parent() } else { Some(profile) };
    let target = profile.and_then(Path::parent).expect("cargo put it there");
    if crate::lab::is_here() {
        return target.join("release");
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .args(["build", "--quiet", "--release", "--package", "bookend-tools", "--bins"])
        .arg("--target-dir")
        .arg(target)
        .stdin(Stdio::null())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "the tools do not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    target.join("release")
}

/// What a run of a tool gave.
#[derive(Debug)]
pub struct Run {
    /// The exit status; `None` when a signal ended it.
    pub status: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Run {
    /// Runs `hugecp` with `arguments`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn hugecp<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Self {
        Self::of(Command::new(hugecp()).args(arguments))
    }

    /// Runs `command` without standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn of(command: &mut Command) -> Self {
        match command.stdin(Stdio::null()).output() {
            Ok(output) => output.into(),
            Err(error) => panic!("{command:?}: {error}"),
        }
    }

    /// The same, once it is sure that it exited with `status`.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn expect(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        self
    }

    /// The final object of `--json`.
    ///
    /// # Panics
    /// When the last line is not JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        let line = self.stdout.trim_end();
        serde_json::from_str(line)
            .or_else(|_| serde_json::from_str(line.lines().last().unwrap_or_default()))
            .unwrap_or_else(|error| panic!("no JSON object: {error}\n{self:#?}"))
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
