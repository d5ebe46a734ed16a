//! Data tools answer the same with libbookend.so under them.

use std::process::Command;

#[test]
fn data_tools_answer_the_same_with_libbookend_preloaded() {
    let output = Command::new(env!("CARGO_BIN_EXE_data-tools"))
        .args(["--quick", "--lib"])
        .arg(bookend_tests::tools::library())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for line in text.lines().filter(|line| line.starts_with("skipped: ")) {
        bookend_tests::skip::say(line.trim_start_matches("skipped: "));
    }
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.lines().count() > 6, "hardly anything ran: {text}");
}
