//! What users run, built for tests, and what a run of a tool gave.

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
    PATH.get_or_init(|| release().join("hugecp"))
}

/// The built `fragbench`.
///
/// # Panics
/// When it does not build.
pub fn fragbench() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| release().join("fragbench"))
}

/// The built `hugectl`.
///
/// # Panics
/// When it does not build.
pub fn hugectl() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| release().join("hugectl"))
}

/// The built `libbookend.so`.
///
/// # Panics
/// When it does not build.
pub fn library() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| release().join("libbookend.so"))
}

/// Builds what users run, optimised, beside this test's own binary: files of gigabytes are copied, and
/// a test of another package is not told where it is. Nothing is done where it is up to date, nor in
/// the lab, which brings it.
fn release() -> &'static Path {
    static RELEASE: OnceLock<PathBuf> = OnceLock::new();
    RELEASE.get_or_init(build)
}

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
    let mut command = Command::new(cargo);
    for (name, _) in std::env::vars_os() {
        if is_of_a_package(&name) {
            command.env_remove(name);
        }
    }
    let output = command
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        // The same selection as in tests/run, or dependencies would have other features.
        .args(["build", "--quiet", "--release", "--locked"])
        .args(["--package", "bookend-tools", "--package", "bookend-preload"])
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

/// What cargo tells a test of its package: build scripts that depend on it (ring's does) would run again,
/// and all that comes after them be built again.
fn is_of_a_package(variable: &OsStr) -> bool {
    let of = ["CARGO_MANIFEST_", "CARGO_PKG_", "OUT_DIR"];
    of.iter().any(|start| variable.as_encoded_bytes().starts_with(start.as_bytes()))
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
