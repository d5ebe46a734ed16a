//! Two machines, of which both are this one: `--rsh` runs the other end here.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{Dir, Ran};

pub const HUGECP: &str = env!("CARGO_BIN_EXE_hugecp");

/// A directory in which `./rsh` runs what it is told on this machine, whatever the host's name.
pub fn machines() -> Dir {
    let dir = Dir::new();
    script(&dir, "rsh", "shift\nexec \"$@\"");
    dir
}

pub fn script(dir: &Dir, name: &str, body: &str) -> PathBuf {
    let path = dir.file(name, format!("#!/bin/sh\n{body}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub fn command(dir: &Dir, rsh: &str, line: &str) -> std::process::Command {
    let words = ["--rsh", rsh, "--remote-program", HUGECP].into_iter();
    dir.hugecp(words.chain(line.split_whitespace()))
}

/// `hugecp` with `./rsh`.
pub fn run(dir: &Dir, line: &str) -> Ran {
    Ran(command(dir, "./rsh", line).output().unwrap())
}

/// `PATH` of the other machine, which has the same directories.
pub fn there(dir: &Dir, name: &str) -> String {
    format!("localhost:{}", dir.join(name).display())
}
