//! `mpirun` of a hugecp with the feature `mpi`, which tests/run builds and names in BOOKEND_MPI_HUGECP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{Dir, Ran, wait_at_most};

/// A launch takes a while where the processors are shared.
pub const LONGEST: Duration = Duration::from_secs(60);

/// Processes of a launch.
pub const RANKS: usize = 4;

/// The hugecp to test, or nothing, with the reason said.
pub fn built() -> Option<PathBuf> {
    let Some(path) = std::env::var_os("BOOKEND_MPI_HUGECP").map(PathBuf::from) else {
        println!("skipped: mpirun: BOOKEND_MPI_HUGECP names no hugecp with the feature mpi");
        return None;
    };
    let mpirun = Command::new("mpirun").arg("--version").output();
    if !mpirun.is_ok_and(|out| String::from_utf8_lossy(&out.stdout).contains("Open MPI")) {
        println!("skipped: mpirun: Open MPI is not installed");
        return None;
    }
    Some(path)
}

/// Runs `hugecp LINE` in [`RANKS`] processes.
pub fn mpirun(dir: &Dir, hugecp: &Path, line: &str) -> Command {
    mpirun_of(RANKS, dir, hugecp, line)
}

/// And in so many.
pub fn mpirun_of(ranks: usize, dir: &Dir, hugecp: &Path, line: &str) -> Command {
    let ranks = ranks.to_string();
    let mut command =
        dir.command("mpirun", ["-np", &ranks, "--oversubscribe", "--allow-run-as-root"]);
    command.arg(hugecp).args(line.split_whitespace());
    command
}

/// And waits for them.
pub fn run(dir: &Dir, hugecp: &Path, line: &str) -> Ran {
    Ran(mpirun(dir, hugecp, line).output().unwrap())
}

/// Runs it where it must succeed, and gives what it printed; the launcher may have remarks of its own.
#[track_caller]
pub fn well(dir: &Dir, hugecp: &Path, line: &str) -> String {
    let ran = run(dir, hugecp, line);
    let err = ran.err();
    assert_eq!(ran.status(), 0, "{err}");
    assert!(!err.contains("hugecp:"), "{err}");
    ran.out()
}

/// Names below `top` that hugecp uses meanwhile.
pub fn hidden(dir: &Dir, top: &str) -> Vec<String> {
    let found = dir.command("find", [top, "-name", "*.hugecp-*"]).output().unwrap();
    Ran(found).ok().out().lines().map(str::to_owned).collect()
}

/// The process of that rank which runs in this directory.
pub fn rank_of(dir: &Dir, rank: usize) -> Option<i32> {
    ranks_in(dir).into_iter().find_map(|(pid, its)| (its == rank).then_some(pid))
}

/// All processes of launches in this directory, by their rank.
pub fn ranks_in(dir: &Dir) -> Vec<(i32, usize)> {
    let process = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        let here = fs::read_link(path.join("cwd")).ok()? == dir.path();
        let environment = fs::read(path.join("environ")).ok()?;
        let rank = environment
            .split(|&byte| byte == 0)
            .find_map(|one| one.strip_prefix(b"OMPI_COMM_WORLD_RANK="))?;
        here.then_some((pid, str::from_utf8(rank).ok()?.parse().ok()?))
    };
    fs::read_dir("/proc").unwrap().filter_map(process).collect()
}

/// Kills all ranks that run in this directory, and waits until they are gone. The launcher cleans up after them.
pub fn kill_all(dir: &Dir, mut launcher: Child) {
    for (pid, _) in ranks_in(dir) {
        // One may have ended since another did.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    launcher.wait().unwrap();
    wait_at_most(LONGEST, "the end of all ranks", || ranks_in(dir).is_empty());
}
