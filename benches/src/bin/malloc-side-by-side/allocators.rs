//! Who allocates: glibc, the peers that this machine has, and Bookend.
//!
//! Each is a shared object that is preloaded, or nothing for glibc. Debian's packages are found where
//! the dynamic linker would; snmalloc has no package, so its shim is built from the sources that
//! the crate `snmalloc-sys` carries, where cargo has them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One allocator of the comparison.
#[derive(Clone, Debug)]
pub struct Allocator {
    pub name: &'static str,
    /// What `LD_PRELOAD` names; `None` is the C library's own.
    pub preload: Option<PathBuf>,
    /// Programs that have it built in, which then run instead of the ordinary ones.
    pub programs: Option<PathBuf>,
    pub version: String,
}

impl Allocator {
    fn preloaded(name: &'static str, preload: Option<PathBuf>, version: String) -> Self {
        Self { name, preload, programs: None, version }
    }
}

/// Bookend's name in tables; it alone is held to bars.
pub const OURS: &str = "bookend";

/// Every name that can be asked for.
pub const NAMES: [&str; 6] = ["glibc", "mimalloc", "snmalloc", "jemalloc", "tcmalloc", OURS];

/// Finds the named allocators.
///
/// What is missing is in the second list, each with the reason and how to get it.
pub fn find(names: &[String], ours: &Path, scratch: &Path) -> (Vec<Allocator>, Vec<String>) {
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in NAMES {
        if !names.iter().any(|wanted| wanted == name) {
            continue;
        }
        match one(name, ours, scratch) {
            Ok(allocator) => found.push(allocator),
            Err(why) => missing.push(format!("{name}: not here: {why}")),
        }
    }
    (found, missing)
}

fn one(name: &'static str, ours: &Path, scratch: &Path) -> Result<Allocator, String> {
    let packaged = |soname: &str, package: &str| {
        let preload = library(soname).ok_or(format!("apt-get install {package}"))?;
        Ok(Allocator::preloaded(name, Some(preload), package_version(package)))
    };
    match name {
        "glibc" => Ok(Allocator::preloaded(name, None, glibc_version())),
        "mimalloc" => packaged("libmimalloc.so.2", "libmimalloc2.0"),
        "jemalloc" => packaged("libjemalloc.so.2", "libjemalloc2"),
        "tcmalloc" => packaged("libtcmalloc_minimal.so.4", "libtcmalloc-minimal4"),
        "snmalloc" => snmalloc(scratch),
        _ => {
            let preload = fs::canonicalize(ours).map_err(|error| {
                format!("{}: {error}; cargo build --release -p bookend-preload", ours.display())
            })?;
            let version = format!("{}, {}", env!("CARGO_PKG_VERSION"), preload.display());
            Ok(Allocator::preloaded(name, Some(preload), version))
        }
    }
}

fn library(soname: &str) -> Option<PathBuf> {
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    [multiarch.as_str(), "/usr/lib64", "/usr/lib", "/usr/local/lib"]
        .iter()
        .map(|dir| Path::new(dir).join(soname))
        .find(|path| path.exists())
}

/// The first line of what a command prints, or nothing.
fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output.status.success().then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

fn package_version(package: &str) -> String {
    first_line("dpkg-query", &["--show", "--showformat=${Version}", package])
        .map_or_else(|| "version unknown".into(), |version| format!("{version} ({package})"))
}

pub fn glibc_version() -> String {
    first_line("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_else(|| "version unknown".into())
}

/// Builds the shim, unless the one of these sources is there already.
fn snmalloc(scratch: &Path) -> Result<Allocator, String> {
    let (version, sources) = snmalloc_sources().ok_or(
        "no Debian package, and cargo has not fetched the crate snmalloc-sys (cargo fetch)",
    )?;
    let shim = scratch.join(format!("libsnmalloc-{version}.so"));
    if !shim.exists() {
        let unfinished = scratch.join(format!("libsnmalloc-{}.so.new", std::process::id()));
        let mut command = Command::new("c++");
        // As its own CMakeLists.txt would: optimised, initial-exec, threads ending through pthread.
        command.args(["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-shared", "-pthread"]);
        command.args(["-ftls-model=initial-exec", "-fvisibility=hidden", "-w"]);
        command.args(["-DSNMALLOC_USE_WAIT_ON_ADDRESS=1", "-DSNMALLOC_USE_PTHREAD_DESTRUCTORS"]);
        command.args(["-DSNMALLOC_HAS_LINUX_FUTEX_H", "-DSNMALLOC_HAS_LINUX_RANDOM_H"]);
        command.arg("-DSNMALLOC_PLATFORM_HAS_GETENTROPY");
        #[cfg(target_arch = "x86_64")]
        command.arg("-mcx16");
        command.arg("-I").arg(&sources);
        for file in ["malloc.cc", "new.cc"] {
            command.arg(sources.join("snmalloc/override").join(file));
        }
        compile(command.arg("-o").arg(&unfinished))?;
        fs::rename(&unfinished, &shim).map_err(|error| error.to_string())?;
    }
    let version = format!("{version} (sources of the crate snmalloc-sys, built here by c++)");
    Ok(Allocator::preloaded("snmalloc", Some(shim), version))
}

/// Runs a compiler; the error is the first line in which it complains.
pub fn compile(command: &mut Command) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}; apt-get install gcc g++"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().find(|line| line.contains("error")).unwrap_or("no reason given");
    Err(format!("{program}: {line}"))
}

/// Version and sources of the crate `snmalloc-sys` in cargo's registry, the newest of them.
fn snmalloc_sources() -> Option<(String, PathBuf)> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    let mut found = Vec::new();
    for registry in fs::read_dir(home.join("registry/src")).ok()?.flatten() {
        for package in fs::read_dir(registry.path()).ok()?.flatten() {
            let name = package.file_name().to_string_lossy().into_owned();
            let sources = package.path().join("upstream/src");
            if let Some(version) = name.strip_prefix("snmalloc-sys-")
                && sources.join("snmalloc/override/malloc.cc").exists()
            {
                found.push((version.to_owned(), sources));
            }
        }
    }
    let parts = |version: &str| -> Vec<u32> {
        version.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    found.into_iter().max_by_key(|(version, _)| parts(version))
}
