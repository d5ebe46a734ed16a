//! Data tools answer the same with libbookend.so under them.

use std::process::Command;

#[test]
fn data_tools_answer_the_same_with_libbookend_preloaded() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| format!("{root}/target"));
    let built = Command::new(cargo)
        .args(["build", "-q", "--release", "--locked", "-p", "bookend-preload", "--target-dir"])
        .arg(&target)
        .current_dir(root)
        .status()
        .unwrap();
    assert!(built.success());
    let output = Command::new(env!("CARGO_BIN_EXE_data-tools"))
        .args(["--quick", "--lib"])
        .arg(format!("{target}/release/libbookend.so"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines().filter(|line| line.starts_with("skipped: ")) {
        bookend_tests::skip::say(line.trim_start_matches("skipped: "));
    }
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().count() > 6, "hardly anything ran: {text}");
}
