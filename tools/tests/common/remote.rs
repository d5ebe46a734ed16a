//! Two machines, of which both are this one: `--rsh` runs the other end here.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use super::{Dir, Ran, bytes};

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

/// A server with a key; ended when dropped.
pub struct Server {
    child: Child,
    pub port: u16,
}

impl Server {
    pub fn start(dir: &Dir, root: &str) -> Self {
        if !dir.join("key").exists() {
            key(dir, "key", &bytes(32));
        }
        let line =
            ["--serve", "127.0.0.1:0", "--key-file", "key", "--root", root, "--timeout", "5"];
        let mut child = dir.hugecp(line).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut output = BufReader::new(child.stderr.take().unwrap());
        output.read_line(&mut said).unwrap();
        let port =
            said.trim().rsplit(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{said}"));
        std::thread::spawn(move || output.lines().for_each(drop));
        Self { child, port }
    }

    pub fn run(&self, dir: &Dir, line: &str) -> Ran {
        let port = self.port.to_string();
        let words = ["--port", &port, "--key-file", "key", "--timeout", "5"];
        Ran(dir.hugecp(words.into_iter().chain(line.split_whitespace())).output().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A key file, which nobody else may read.
pub fn key(dir: &Dir, name: &str, content: &[u8]) {
    let path = dir.file(name, content);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The ways that a copy may go.
pub const WAYS: [&str; 5] = ["here", "push", "pull", "serve-push", "serve-pull"];

/// `hugecp OPTIONS SOURCE TARGET` on one of the [`WAYS`], with everything that it prints.
pub fn copy(
    dir: &Dir,
    server: &Server,
    way: &str,
    options: &str,
    source: &str,
    target: &str,
) -> Ran {
    let served = |name: &str| format!("127.0.0.1:{name}");
    match way {
        "here" => dir.run(&format!("{options} {source} {target}")),
        "push" => run(dir, &format!("{options} {source} {}", there(dir, target))),
        "pull" => run(dir, &format!("{options} {} {target}", there(dir, source))),
        "serve-push" => server.run(dir, &format!("{options} {source} {}", served(target))),
        _ => server.run(dir, &format!("{options} {} {target}", served(source))),
    }
}
