//! The malloc benchmark runs whole, with little work, and notices an allocator that is broken.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use bookend_tests::machine::scratch;
use bookend_tests::skip::{or_say, require_program};

const MISSING: &str = "/nonexistent/libbookend.so";

fn compiler() -> Option<()> {
    or_say(require_program("cc", "gcc").and(require_program("c++", "g++")))
}

fn side_by_side(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_malloc-side-by-side"));
    command.args(["--rounds", "1", "--scale", "0.001"]).args(arguments);
    command.output().expect("the benchmark starts")
}

fn read_json(path: &Path) -> serde_json::Value {
    let text = fs::read_to_string(path).expect("the benchmark wrote its figures");
    serde_json::from_str(&text).expect("the figures are JSON")
}

#[test]
fn every_pattern_runs_with_the_c_library() {
    let Some(()) = compiler() else { return };
    let dir = scratch().dir("malloc");
    let json = dir.path().join("figures.json");
    let path = json.to_str().expect("a path in UTF-8");
    let output = side_by_side(&["--allocators", "glibc", "--json", path]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let figures = read_json(&json);
    let runs = figures["contest"]["runs"].as_array().expect("a list of runs");
    assert!(runs.len() > 20, "too few patterns: {}", runs.len());
    for run in runs {
        let sample = &run["samples"][0];
        let positive = |name: &str| sample[name].as_f64().is_some_and(|figure| figure > 0.0);
        assert!(positive("wall_seconds") && positive("peak_kib"), "no figures: {run}");
        assert!(positive("operations"), "nothing was done: {run}");
        let heap = run["pattern"].as_str().is_some_and(|name| name.starts_with("heap-"));
        assert!(!heap || sample["coverage"].is_f64(), "no coverage of a heap: {run}");
    }
}

#[test]
fn memory_handed_out_twice_is_noticed() {
    let Some(()) = compiler() else { return };
    let dir = scratch().dir("malloc");
    let library = dir.path().join("libbroken.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malloc/broken.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-fPIC", "-shared", "-fno-builtin", "-o"]).arg(&library).arg(source);
    assert!(cc.status().expect("cc was there a moment ago").success(), "the library compiles");
    let library = library.to_str().expect("a path in UTF-8");
    for pattern in ["churn-small", "fifo", "random-order"] {
        let asked = ["--allocators", "bookend", "--lib", library, "--only", pattern];
        let output = side_by_side(&asked);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{pattern} did not fail:\n{said}");
        let named = said.contains(&format!("{pattern} with bookend: exit status: 3: "));
        assert!(named, "another reason than corrupted memory:\n{said}");
    }
}

#[test]
fn what_is_not_there_is_said() {
    let Some(()) = compiler() else { return };
    let output =
        side_by_side(&["--only", "lifo", "--allocators", "glibc,bookend", "--lib", MISSING]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("bookend: not here: /nonexistent/libbookend.so"), "{said}");
    let output = side_by_side(&["--only", "no-such-pattern"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no pattern no-such-pattern"));
}

#[test]
fn instructions_are_counted_exactly() {
    let Some(()) = compiler() else { return };
    let dir = scratch().dir("malloc");
    let figures = ["first", "second"].map(|name| {
        let json = dir.path().join(name);
        let path = json.to_str().expect("a path in UTF-8");
        let output = side_by_side(&["--instructions", "--allocators", "glibc", "--json", path]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        read_json(&json)["pairs"].clone()
    });
    let counts = figures.map(|figures| {
        let figures = figures.as_array().expect("a list of counts").clone();
        let of = |figure: &serde_json::Value| figure["instructions"].as_f64().expect("a count");
        figures.iter().map(of).collect::<Vec<f64>>()
    });
    // Starts of a program differ by a few instructions, here over thousands of pairs.
    let same = |(x, y): (&f64, &f64)| *x > 1.0 && (x - y).abs() < 0.05;
    assert!(counts[0].iter().zip(&counts[1]).all(same), "two counts of the same: {counts:?}");
}
