//! fragbench heap as its users meet it.

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const WORKLOADS: [&str; 4] = ["lru", "drift", "sawtooth", "sessions"];
const KEYS: [&str; 11] = [
    "blocks",
    "blocks_given_back",
    "final_live",
    "final_over_live",
    "final_resident",
    "huge_coverage",
    "name",
    "peak_live",
    "peak_over_live",
    "peak_resident",
    "seconds",
];

fn heap(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fragbench"));
    command.arg("heap").args(arguments).stdin(Stdio::null()).output().expect("fragbench runs")
}

#[test]
fn every_workload_is_measured_over_every_allocator() {
    let directory = tempfile::tempdir().unwrap();
    let plot = directory.path().join("heap.svg");
    let arguments = [
        "--scale",
        "0.02",
        "--allocators",
        "glibc,movable",
        "--json",
        "--plot",
        plot.to_str().unwrap(),
    ];
    let output = heap(&arguments);
    assert!(output.status.success(), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let workloads = report["workloads"].as_array().unwrap();
    let names: Vec<_> = workloads.iter().map(|group| group["name"].as_str().unwrap()).collect();
    assert_eq!(names, WORKLOADS);
    for group in workloads {
        let rows = group["allocators"].as_array().unwrap();
        assert_eq!((&rows[0]["name"], &rows[1]["name"]), (&"glibc".into(), &"movable".into()));
        for row in rows {
            let mut keys: Vec<_> = row.as_object().unwrap().keys().map(String::as_str).collect();
            keys.sort_unstable();
            assert_eq!(keys, KEYS);
            let figure = |key: &str| row[key].as_f64().unwrap();
            assert!(figure("peak_resident") > figure("peak_live") * 0.99, "{row}");
            assert!(figure("final_over_live") >= 0.99, "{row}");
            assert!(figure("final_live") <= figure("peak_live"), "{row}");
            assert!(figure("blocks_given_back") < figure("blocks"), "{row}");
            assert!((0.0..=1.0).contains(&figure("huge_coverage")), "{row}");
        }
        // Threads are not in step, so theirs is nearly the same.
        let peaks = [0, 1].map(|row: usize| rows[row]["peak_live"].as_f64().unwrap());
        assert!((0.9..1.1).contains(&(peaks[0] / peaks[1])), "the same work: {group}");
    }
    let about = String::from_utf8(output.stderr).unwrap();
    for told in ["Machine: ", "Linux ", "seed 1", "2 MiB", "Took "] {
        assert!(about.contains(told), "{told} is not in {about}");
    }
    let svg = std::fs::read_to_string(plot).unwrap();
    assert!(WORKLOADS.iter().all(|name| svg.contains(name)) && svg.contains("asked for"));
}

#[test]
fn what_is_no_allocator_has_a_row_that_says_so() {
    // A file that the dynamic linker passes over, and goes on without.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("libnothing.so");
    std::fs::write(&file, "not a library").unwrap();
    let path = file.to_str().unwrap();
    let output = heap(&["--scale", "0.001", "--workloads", "lru", "--allocators", path]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let table = String::from_utf8_lossy(&output.stdout);
    assert!(table.contains("libnothing.so") && table.contains("cannot be preloaded"), "{table}");
}

#[test]
fn csv_has_every_look() {
    let output = heap(&["--scale", "0.01", "--workloads", "lru", "--allocators", "glibc", "--csv"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().next(), Some("workload,allocator,done,live,resident,huge"));
    assert!(text.lines().count() > 50, "{text}");
    assert!(text.lines().skip(1).all(|line| line.starts_with("lru,glibc,")), "{text}");
}
