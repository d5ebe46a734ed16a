//! Programs in Rust, built once with each allocator as `#[global_allocator]`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Field;
use crate::allocators::{Allocator, compile, glibc_version};
use crate::programs::add_patterns;

const PACKAGE: &str = "bookend-global-benches";
const PROGRAMS: [&str; 2] = ["global-patterns", "table-tool"];

/// Names in tables, features of the package, and the crates that have the allocators.
const ALLOCATORS: [(&str, &str, Option<&str>); 5] = [
    ("glibc", "system", None),
    ("mimalloc", "mimalloc", Some("libmimalloc-sys")),
    ("snmalloc", "snmalloc", Some("snmalloc-sys")),
    ("jemalloc", "jemalloc", Some("tikv-jemalloc-sys")),
    ("bookend", "bookend", Some("bookend")),
];

/// Builds the programs with each of the named allocators.
///
/// # Errors
/// None of them could be built.
pub fn field(names: &[String], scratch: &Path) -> Result<Field, String> {
    let mut field = Field { allocators: Vec::new(), patterns: Vec::new(), missing: Vec::new() };
    for (name, feature, package) in ALLOCATORS {
        if !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("building the programs in Rust with {name}");
        match build(feature, scratch) {
            Ok(programs) => {
                let version = package.map_or_else(glibc_version, crate_version);
                let programs = Some(programs);
                field.allocators.push(Allocator { name, preload: None, programs, version });
            }
            Err(why) => field.missing.push(format!("{name}: not here: {why}")),
        }
    }
    let dir = field.allocators.first().and_then(|first| first.programs.clone());
    let dir = dir.ok_or_else(|| field.missing.join("; "))?;
    for program in PROGRAMS {
        add_patterns(&mut field.patterns, &dir.join(program))?;
    }
    Ok(field)
}

/// Builds them with one feature, and keeps them in a directory of its own.
fn build(feature: &str, scratch: &Path) -> Result<PathBuf, String> {
    let target = scratch.join("cargo");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("global/Cargo.toml");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--locked", "--package", PACKAGE, "--no-default-features"]);
    command.args(["--features", feature]).arg("--manifest-path").arg(&manifest);
    compile(command.arg("--target-dir").arg(&target))?;
    let programs = scratch.join(format!("global-{feature}"));
    fs::create_dir_all(&programs).map_err(|error| error.to_string())?;
    for name in PROGRAMS {
        fs::copy(target.join("release").join(name), programs.join(name))
            .map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(programs)
}

/// The version that Cargo.lock has of a crate.
fn crate_version(package: &str) -> String {
    let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock");
    let lock = fs::read_to_string(lock).unwrap_or_default();
    let named = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != named);
    let version = lines.nth(1).and_then(|line| line.strip_prefix("version = "));
    let version = version.map_or("version unknown", |version| version.trim_matches('"'));
    format!("{version} (crate {package})")
}
