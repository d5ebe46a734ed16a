//! The programs of `benches/malloc`, compiled where they are needed, and their patterns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::allocators::{Allocator, compile};

/// What a pattern's figures are held to, and so in which table it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The whole program's time and memory, as ratios to peers.
    Work,
    /// The time of random reads alone, beside glibc's, and huge page coverage.
    Reads,
    /// The time of the first touch alone, beside glibc's, and huge page coverage.
    FirstTouch,
}

/// One pattern of one program.
#[derive(Clone, Debug)]
pub struct Pattern {
    pub name: String,
    pub program: PathBuf,
    pub kind: Kind,
}

/// Not for a table of times: what callgrind counts, and what prepares the machine.
fn is_helper(name: &str) -> bool {
    name == "bring-online" || name.starts_with("pairs")
}

/// Compiles everything into `scratch` and lists the patterns; the second list is what could not be
/// compiled, and why.
///
/// # Errors
/// The programs in C could not be compiled.
pub fn build(scratch: &Path) -> Result<(Vec<Pattern>, Vec<String>), String> {
    let mut patterns = Vec::new();
    let mut missing = Vec::new();
    add_patterns(&mut patterns, &patterns_in_c(scratch)?)?;
    match containers_in_cpp(scratch) {
        Ok(program) => add_patterns(&mut patterns, &program)?,
        Err(why) => missing.push(format!("cpp-containers: not run: {why}")),
    }
    Ok((patterns, missing))
}

/// The program of the patterns in C, compiled.
pub fn patterns_in_c(scratch: &Path) -> Result<PathBuf, String> {
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"]);
    // The compiler knows these, and would remove pairs of them.
    for name in ["malloc", "calloc", "realloc", "aligned_alloc", "posix_memalign", "free"] {
        command.arg(format!("-fno-builtin-{name}"));
    }
    command.arg("-pthread").args(sources("c")?);
    compiled(command, scratch, "malloc-patterns")
}

fn containers_in_cpp(scratch: &Path) -> Result<PathBuf, String> {
    let mut command = Command::new("c++");
    command.args(["-std=c++17", "-O2", "-g", "-Wall", "-Wextra", "-Werror"]).args(sources("cc")?);
    compiled(command, scratch, "malloc-containers")
}

/// Under another name until it is whole, since several runs may compile at the same time.
fn compiled(mut command: Command, scratch: &Path, name: &str) -> Result<PathBuf, String> {
    let program = scratch.join(name);
    let unfinished = scratch.join(format!("{name}.{}.new", std::process::id()));
    compile(command.arg("-o").arg(&unfinished))?;
    fs::rename(&unfinished, &program).map_err(|error| error.to_string())?;
    Ok(program)
}

fn sources(extension: &str) -> Result<Vec<PathBuf>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("malloc");
    let entries = fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut paths: Vec<_> =
        paths.filter(|p| p.extension().is_some_and(|e| e == extension)).collect();
    paths.sort();
    Ok(paths)
}

/// Adds what a program lists.
///
/// # Errors
/// It cannot be run.
pub fn add_patterns(patterns: &mut Vec<Pattern>, program: &Path) -> Result<(), String> {
    let output = Command::new(program).arg("--list").output();
    let output = output.map_err(|error| format!("{}: {error}", program.display()))?;
    for name in String::from_utf8_lossy(&output.stdout).lines() {
        if !is_helper(name) {
            patterns.push(Pattern::of(name, program));
        }
    }
    Ok(())
}

impl Pattern {
    /// The pattern of this name in a program; its name says its kind.
    pub fn of(name: &str, program: &Path) -> Self {
        let kind = match name {
            "first-touch" => Kind::FirstTouch,
            _ if name.starts_with("heap-") => Kind::Reads,
            _ => Kind::Work,
        };
        Self { name: name.to_owned(), program: program.to_owned(), kind }
    }

    /// The program that runs it with this allocator.
    pub fn program_of(&self, allocator: &Allocator) -> PathBuf {
        match (&allocator.programs, self.program.file_name()) {
            (Some(dir), Some(name)) => dir.join(name),
            _ => self.program.clone(),
        }
    }
}
