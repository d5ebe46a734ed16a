//! fragbench record and replay, on programs whose calls are known.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use bookend_tools::fragbench::replay::trace_file::{Process, Step, read};
use serde_json::Value;

/// As many as in `program.c`.
const MANY: usize = 20_000;

/// Builds `libbookend.so` beside fragbench.
fn build_library() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--locked", "--package", "bookend-preload"]);
        let output = build.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    });
}

/// The program of `recording/program.c`.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recording/program.c");
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("recorded-program");
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-fno-builtin", "-pthread", "-o"]).arg(&target).arg(source);
        let output = compile.output().expect("cc runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        target
    })
}

fn fragbench() -> Command {
    build_library();
    let mut command = Command::new(env!("CARGO_BIN_EXE_fragbench"));
    command.stdin(Stdio::null());
    command
}

fn record(file: &Path, options: &[&str], command: &[&str]) -> Output {
    let mut record = fragbench();
    record.arg("record").arg("--output").arg(file).args(options).arg("--").args(command);
    record.output().expect("fragbench runs")
}

/// How often a process allocated a size, and freed such an object.
fn count(process: &Process, size: u64) -> (usize, usize) {
    let mut sizes = vec![0; process.objects as usize];
    let (mut made, mut ended) = (0, 0);
    for step in &process.steps {
        match *step {
            Step::Make(object, bytes) => {
                sizes[object as usize] = bytes;
                made += usize::from(bytes == size);
            }
            Step::End(object) => ended += usize::from(sizes[object as usize] == size),
        }
    }
    (made, ended)
}

/// The process that did something to objects of a size.
fn with_size(processes: &[Process], size: u64) -> &Process {
    let mut with = processes.iter().filter(|process| count(process, size).0 > 0);
    let found = with.next().unwrap_or_else(|| panic!("nobody allocated {size} bytes"));
    assert!(with.next().is_none(), "several processes allocated {size} bytes");
    found
}

#[test]
fn every_call_is_recorded_before_main_in_threads_after_fork_and_at_the_end() {
    let directory = tempfile::tempdir().unwrap();
    for (how, status) in [("whole", 0), ("killed", 128 + 9)] {
        let file = directory.path().join(how);
        let output = record(&file, &[], &[program().to_str().unwrap(), how]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        let processes = read(&file).unwrap();
        assert_eq!(processes.len(), 3, "itself, its child and what it executes");
        let main = with_size(&processes, 1002);
        assert_eq!(count(main, 1002), (MANY, MANY));
        assert_eq!(count(main, 1003), (3 * MANY, 3 * MANY));
        assert_eq!(count(main, 1006), (1, 0));
        for size in [1007, 1008, 1009, 3_000_000] {
            assert_eq!(count(main, size), (1, 1), "{size}");
        }
        assert_eq!((main.lost, main.program.as_str()), (0, "recorded-program"));
        let ends = usize::from(how == "whole");
        assert_eq!(count(main, 1005), (ends, ends), "the destructor's, unless it was killed");
        // The very first call sets the heap up, and is not in the recording.
        assert!(count(main, 1001).0 <= 1 && main.unknown <= 1, "{}", main.unknown);
        assert!(main.threads >= 4, "{}", main.threads);
        let child = with_size(&processes, 1004);
        assert_eq!(count(child, 1004), (MANY, MANY));
        assert_eq!((child.unknown, child.lost), (1, 0), "it frees one of its parent's");
    }
    let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing but the recordings: {left:?}");
}

#[test]
fn a_recording_is_replayed_the_same_way_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shell");
    let plot = directory.path().join("live.svg");
    let options = ["--json", "--plot", plot.to_str().unwrap()];
    let output = record(&file, &options, &["sh", "-c", "ls / >&2; sort /etc/passwd >&2; exit 3"]);
    assert_eq!(output.status.code(), Some(3), "the command's: {output:?}");
    let summary: Value = serde_json::from_slice(&output.stdout).expect("JSON and nothing else");
    let programs: Vec<_> = summary["processes"].as_array().unwrap().iter().collect();
    assert!(programs.iter().any(|process| process["program"] == "sort"), "{summary}");
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(svg.contains("MiB asked for"));

    let again = record(&file, &[], &["true"]);
    assert_eq!(again.status.code(), Some(2), "it is not replaced: {again:?}");

    let replay = |arguments: &[&str]| {
        let mut replay = fragbench();
        let output = replay.arg("replay").arg(&file).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json: Value = serde_json::from_str(&replay(&["--json"])).unwrap();
    let policies = json["policies"].as_array().unwrap();
    let names: Vec<_> = policies.iter().map(|policy| policy["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["first-fit", "two-ended", "two-ended+movable", "defrag"]);
    assert!(policies.iter().all(|policy| policy["days"].as_array().unwrap().len() == 5));
    // All but the columns of time.
    let csv = |seed: &str| -> Vec<String> {
        let text = replay(&["--csv", "--seed", seed]);
        assert_eq!(text.lines().count(), 1 + 4 * 120);
        let without_times = |line: &str| -> String {
            let cells: Vec<_> = line.split(',').collect();
            [&cells[..12], &cells[14..]].concat().join(",")
        };
        text.lines().map(without_times).collect()
    };
    assert_eq!(csv("1"), csv("1"));
    assert_ne!(csv("1"), csv("2"));
}

#[test]
fn commands_that_cannot_be_recorded_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("none");
    let output = record(&file, &[], &["/nowhere/program"]);
    assert_eq!(output.status.code(), Some(126), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/program"), "{output:?}");
    // A file that cannot be written.
    let mut command = Command::new("ls");
    let output = command
        .env("LD_PRELOAD", {
            build_library();
            Path::new(env!("CARGO_BIN_EXE_fragbench")).with_file_name("libbookend.so")
        })
        .env("BOOKEND_RECORD", "/nowhere/recording")
        .arg("/")
        .output()
        .unwrap();
    assert!(output.status.success(), "a program goes on without: {output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("/nowhere/recording") && told.contains("open"), "{told}");
    assert_eq!(told.lines().count(), 1, "it is told once: {told}");
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none(), "nothing is left");
}
