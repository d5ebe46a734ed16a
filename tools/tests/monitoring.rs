//! The examples for Prometheus and Kubernetes are what their own tools accept.

use std::io::Write;
use std::path::Path;
use std::process::Command;

/// Runs a linter on an example; says so where it is not installed.
fn lint(program: &str, arguments: &[&str], example: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring").join(example);
    match Command::new(program).args(arguments).arg(&path).output() {
        Ok(output) => assert!(output.status.success(), "{output:?}"),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "skipped: linting {example}: {program}: {error}");
        }
    }
}

#[test]
fn promtool_accepts_the_alerts() {
    lint("promtool", &["check", "rules"], "alerts.yaml");
}

#[test]
fn kubeconform_accepts_the_daemon_set() {
    lint("kubeconform", &["-strict"], "reserve-daemonset.yaml");
}

/// Every metric that an alert is about is one that hugectl exports.
#[test]
fn alerts_are_about_metrics_that_there_are() {
    let output = Command::new(env!("CARGO_BIN_EXE_hugectl")).arg("export").output().unwrap();
    let exported = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("monitoring/alerts.yaml");
    let rules = std::fs::read_to_string(path).unwrap();
    let expressions = rules.lines().filter(|line| line.trim_start().starts_with("expr:"));
    let words = expressions.flat_map(|line| line.split(|c: char| !c.is_alphanumeric() && c != '_'));
    let mut found = 0;
    for name in words.filter(|word| word.starts_with("hugectl_")) {
        found += 1;
        // Blocks are told to root only.
        let hidden = name == "hugectl_blocks" && !nix::unistd::geteuid().is_root();
        assert!(hidden || exported.contains(&format!("# TYPE {name} ")), "{name}");
    }
    assert!(found >= 4, "{found}");
}
