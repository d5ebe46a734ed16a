//! What `hugecp` tells programs and people: JSON, explanations, the man page and completions.

mod common;

use common::{Dir, bytes};
use serde_json::Value;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn json_is_one_object_of_the_promised_shape() {
    let dir = Dir::new();
    dir.file("a", bytes(100_000));
    let ran = dir.run("--json -v --explain --fsync --engine buffered a b");
    assert_eq!(ran.status(), 0, "{}", ran.err());
    let out = ran.out();
    assert_eq!(out.lines().count(), 1, "the rest goes to standard error: {out}");
    let value: Value = serde_json::from_str(&out).unwrap();
    let mut expected = [
        "engine",
        "bytes",
        "seconds",
        "bytes_per_second",
        "verified",
        "durable",
        "buffers",
        "skipped",
    ];
    expected.sort_unstable();
    let mut found = keys(&value);
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(value["engine"], "buffered");
    assert_eq!(value["bytes"], 100_000);
    assert_eq!((&value["verified"], &value["durable"]), (&Value::Bool(false), &Value::Bool(true)));
    assert!(value["seconds"].as_f64().unwrap() > 0.0);
    assert!(value["bytes_per_second"].as_u64().unwrap() > 0);
    let mut skipped: Vec<_> = value["skipped"].as_array().unwrap().iter().collect();
    skipped.sort_by_key(|skipped| skipped["engine"].as_str().unwrap());
    let engines: Vec<_> = skipped.iter().map(|skipped| &skipped["engine"]).collect();
    assert_eq!(engines, ["copy-range", "device-copy", "direct", "reflink"]);
    assert!(skipped.iter().all(|skipped| skipped["why"] == "buffered was asked for"));
    assert_eq!(keys(skipped[0]).len(), 2);
}

#[test]
fn json_tells_of_several_files_and_of_failures() {
    let dir = Dir::new();
    std::fs::create_dir(dir.join("d")).unwrap();
    dir.file("a", bytes(1000));
    dir.file("b", bytes(2000));
    dir.file("d/b", "there");
    let ran = dir.run("--json -n a b missing d").fails(1, &["missing"]);
    let value: Value = serde_json::from_str(&ran.out()).unwrap();
    assert_eq!(value["bytes"], 1000);
    let files = value["files"].as_array().unwrap();
    assert_eq!((&files[0]["source"], &files[0]["target"]), (&"a".into(), &"d/a".into()));
    assert_eq!(files[1]["left"], "it exists");
    assert!(files[2]["error"].as_str().unwrap().contains("No such file"));

    let ran = dir.run("--json missing d").fails(1, &[]);
    let value: Value = serde_json::from_str(&ran.out()).unwrap();
    assert_eq!(value["engine"], Value::Null);
    assert!(value["error"].as_str().unwrap().contains("No such file"));
}

#[test]
fn every_engine_is_explained() {
    let dir = Dir::new();
    dir.file("a", bytes(1000));
    let text = dir.run("--explain a b").ok().out();
    assert!(text.starts_with("'a' -> 'b': 1000 B in "), "{text}");
    for engine in ["reflink: ", "copy-range: ", "device-copy: ", "direct: ", "buffered: "] {
        assert!(text.contains(engine), "no {engine} in {text}");
    }
    assert_eq!(text.matches("\n  not ").count(), 4, "{text}");
}

#[test]
fn man_page_and_completions_come_from_the_same_definition() {
    let dir = Dir::new();
    let help = dir.run("--help").ok().out();
    let man = dir.run("--generate man").ok().out().replace("\\-", "-");
    let bash = dir.run("--generate bash").ok().out();
    for option in ["--queue-depth", "--bwlimit", "--in-place", "--reflink", "--explain"] {
        for (what, text) in [("help", &help), ("man", &man), ("bash", &bash)] {
            assert!(text.contains(option), "{what} lacks {option}");
        }
    }
    assert!(dir.run("--generate zsh").ok().out().starts_with("#compdef hugecp"));
    assert!(dir.run("--generate fish").ok().out().contains("complete -c hugecp"));
    // The shell and the formatter themselves, where they are here.
    std::fs::write(dir.join("completions"), bash).unwrap();
    let checked = dir.command("bash", ["-n", "completions"]).status().unwrap();
    assert!(checked.success(), "bash cannot read its completions");
    dir.run("--version").ok();
}

#[test]
fn capabilities_are_told_and_nothing_is_copied() {
    let dir = Dir::new();
    dir.file("a", common::bytes(100_000));
    let text = dir.run("--capabilities a b").ok().out();
    for part in ["source 'a': a file", "target 'b': a file", "O_DIRECT: ", "buffered: open"] {
        assert!(text.contains(part), "no {part} in {text}");
    }
    let json = dir.run("--capabilities --json a .").ok().out();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["ways"].as_array().unwrap().len(), 5, "{json}");
    assert_eq!(value["source"]["bytes"], 100_000);
    assert_eq!(dir.names(), ["a"]);
    dir.run("--capabilities missing b").fails(1, &["cannot look at 'missing'"]);
    dir.run("--capabilities a -").fails(2, &["--capabilities needs paths"]);
}
