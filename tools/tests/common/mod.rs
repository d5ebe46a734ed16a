//! What the tests of `hugecp` as a program share: a directory, a run, and what it printed.
#![allow(dead_code)] // each test binary uses its part

pub mod journals;
pub mod mpi;
pub mod peer;
pub mod remote;
pub mod trees;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A directory with files to copy.
pub struct Dir(tempfile::TempDir);

impl Dir {
    /// In the usual place for temporary files.
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// A file of that name and contents, in directories that are made where they are missing.
    pub fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, contents).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.join(name)).unwrap()
    }

    /// Names in the directory, hidden ones too, in order.
    pub fn names(&self) -> Vec<String> {
        self.names_in("")
    }

    /// And in a directory of it.
    pub fn names_in(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// `hugecp` in this directory.
    pub fn hugecp(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        self.command(env!("CARGO_BIN_EXE_hugecp"), arguments)
    }

    /// Another program in this directory, such as `cp` to compare with.
    pub fn command(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.path()).stdin(Stdio::null()).env("LC_ALL", "C");
        command
    }

    /// Runs `hugecp` with the words of `line`.
    pub fn run(&self, line: &str) -> Ran {
        Ran(self.hugecp(line.split_whitespace()).output().unwrap())
    }
}

/// Bytes that repeat with no period that a block could hide.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(len)
    .collect()
}

/// A program that ended.
pub struct Ran(pub Output);

impl Ran {
    pub fn status(&self) -> i32 {
        self.0.status.code().unwrap_or_else(|| panic!("ended by a signal: {:?}", self.0))
    }

    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Ended well and said nothing on standard error.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!((self.status(), self.err().as_str()), (0, ""));
        self
    }

    /// Ended with `status` and one message that has each of `parts`.
    #[track_caller]
    pub fn fails(self, status: i32, parts: &[&str]) -> Self {
        let err = self.err();
        assert_eq!(self.status(), status, "{err}");
        for part in parts {
            assert!(err.contains(part), "no {part:?} in: {err}");
        }
        assert!(!err.contains("panicked"), "{err}");
        self
    }
}

/// Waits until `done`, for at most ten seconds.
#[track_caller]
pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    wait_at_most(Duration::from_secs(10), what, done);
}

/// Waits until `done`, for as long as `longest`.
#[track_caller]
pub fn wait_at_most(longest: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < longest, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until the copy has its source open and has begun.
pub fn wait_for_start(child: &Child) {
    wait_until("the copy to begin", || {
        let io = std::fs::read_to_string(format!("/proc/{}/io", child.id())).unwrap_or_default();
        let wchar = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        wchar.and_then(|n| n.parse::<u64>().ok()).is_some_and(|n| n > 0)
    });
}

/// Whether the tests run as root, to whom no permission is denied.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
