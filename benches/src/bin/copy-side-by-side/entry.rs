//! The programs that run beside each other, and one run of one of them.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bookend_tests::data::cached;
use bookend_tests::tools;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::contest::Bar;

/// One program with its options.
#[derive(Debug)]
pub struct Entry {
    pub name: String,
    pub bars: Vec<Bar>,
    program: Program,
}

#[derive(Debug)]
enum Program {
    /// A shell line with the source as `$1`, the target as `$2` and the program as `$3`.
    Shell { line: String, program: PathBuf },
    /// hugecp with these options.
    Hugecp(Vec<String>),
    /// fio reading so many bytes of the source and writing as many at the same time.
    Fio { bytes: u64 },
}

/// What one run gave.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub wall: Duration,
    /// User and system time of the process and what it started.
    pub processor: Duration,
    /// Bytes of source and target in the page cache, more than before.
    pub cache: u64,
}

impl Entry {
    fn shell(name: &str, line: &str, program: &Path) -> Self {
        let program = Program::Shell { line: line.to_owned(), program: program.to_owned() };
        Self { name: name.to_owned(), bars: Vec::new(), program }
    }

    pub fn cp() -> Self {
        Self::shell("cp", r#"exec "$3" "$1" "$2""#, Path::new("cp"))
    }

    pub fn cp_and_sync() -> Self {
        Self::shell("cp + sync", r#""$3" "$1" "$2" && exec sync "$2""#, Path::new("cp"))
    }

    pub fn cp_reflink() -> Self {
        Self::shell("cp --reflink", r#"exec "$3" --reflink=always "$1" "$2""#, Path::new("cp"))
    }

    pub fn xcp(program: &Path, durable: bool) -> Self {
        let (name, end) =
            if durable { ("xcp + sync", r#" && exec sync "$2""#) } else { ("xcp", "") };
        Self::shell(name, &format!(r#""$3" --no-progress "$1" "$2"{end}"#), program)
    }

    pub fn hugecp(engine: &str, options: &[&str]) -> Self {
        let mut arguments = vec!["--engine".to_owned(), engine.to_owned()];
        arguments.extend(options.iter().map(|&option| option.to_owned()));
        let name = format!("hugecp ({engine})");
        Self { name, bars: Vec::new(), program: Program::Hugecp(arguments) }
    }

    pub fn fio(bytes: u64) -> Self {
        Self { name: "fio".to_owned(), bars: Vec::new(), program: Program::Fio { bytes } }
    }

    /// The same, with a bar to clear.
    pub fn held_to(mut self, bar: Bar) -> Self {
        self.bars.push(bar);
        self
    }

    /// Whether its target is a copy of the source.
    pub fn copies(&self) -> bool {
        !matches!(self.program, Program::Fio { .. })
    }

    /// Runs it once.
    ///
    /// # Errors
    /// It is missing, or failed; the text says which.
    pub fn run(&self, source: &Path, target: &Path) -> Result<Sample, String> {
        let mut command = self.command(source, target);
        let resident = |path| cached(path).unwrap_or(0);
        let before = resident(source);
        let used = processor_of_children().map_err(|error| error.to_string())?;
        let begun = Instant::now();
        let output = command.stdin(Stdio::null()).output().map_err(|e| self.missing(&e))?;
        let wall = begun.elapsed();
        let processor = processor_of_children().map_err(|error| error.to_string())? - used;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            let why = why.trim().lines().next().unwrap_or("no reason given").to_owned();
            return Err(if output.status.code() == Some(127) { self.missing(&why) } else { why });
        }
        let cache = (resident(source) + resident(target)).saturating_sub(before);
        let wall = match self.program {
            Program::Fio { .. } => fio_time(&output.stdout)?,
            _ => wall,
        };
        Ok(Sample { wall, processor, cache })
    }

    fn command(&self, source: &Path, target: &Path) -> Command {
        match &self.program {
            Program::Shell { line, program } => {
                let mut command = Command::new("sh");
                command.args(["-c", line, "sh"]).arg(source).arg(target).arg(program);
                command
            }
            Program::Hugecp(arguments) => {
                let mut command = Command::new(tools::hugecp());
                command.args(arguments).arg(source).arg(target);
                command
            }
            Program::Fio { bytes } => fio(*bytes, source, target),
        }
    }

    fn missing(&self, error: &dyn std::fmt::Display) -> String {
        match &self.program {
            Program::Fio { .. } => format!("{error}; apt-get install fio"),
            _ if self.name.starts_with("xcp") => {
                format!("{error}; cargo install xcp --root DIR, then --xcp DIR/bin/xcp")
            }
            _ => error.to_string(),
        }
    }
}

/// fio with two jobs at the same time: one reads the source, one writes the target, both directly
/// and through io_uring, in requests as large and as many as hugecp's.
fn fio(bytes: u64, source: &Path, target: &Path) -> Command {
    let mut command = Command::new("fio");
    command.args(["--output-format=json", "--thread", "--direct=1", "--ioengine=io_uring"]);
    command.args(["--bs=1M", "--iodepth=16"]).arg(format!("--size={bytes}"));
    let job = |command: &mut Command, name: &str, path: &Path| {
        command.arg(format!("--name={name}")).arg(format!("--rw={name}"));
        command.arg(format!("--filename={}", path.display()));
    };
    job(&mut command, "read", source);
    job(&mut command, "write", target);
    command.arg("--end_fsync=1");
    command
}

/// The longer of the two jobs, as fio took it: its own start-up is not counted.
fn fio_time(json: &[u8]) -> Result<Duration, String> {
    let text = String::from_utf8_lossy(json);
    let text = text.find('{').map_or("", |start| &text[start..]);
    let report: serde_json::Value =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let jobs = report["jobs"].as_array().ok_or("fio reports no jobs")?;
    let longest = jobs.iter().filter_map(|job| job["job_runtime"].as_u64()).max();
    longest.map(Duration::from_millis).ok_or_else(|| "fio reports no run time".to_owned())
}

fn processor_of_children() -> io::Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.unsigned_abs()))
}
