//! Builds a program in C against the header and the library, and runs it.

use std::io::Write;
use std::path::Path;
use std::process::Command;

#[test]
fn a_program_in_c_shares_a_pool() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Cargo builds a library that nothing links only when it is asked to.
    let this = std::env::current_exe().unwrap();
    let target = this.ancestors().nth(3).unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--package", "bookend-share", "--target-dir"])
        .arg(target)
        .current_dir(here)
        .status();
    assert!(built.unwrap().success());
    let library = target.join("debug/libbookend_share.so");
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("share");
    let built = Command::new("cc")
        .args(["-Wall", "-Wextra", "-Werror", "-I"])
        .arg(here.join("include"))
        .arg(here.join("tests/share.c"))
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", library.parent().unwrap().display()))
        .arg("-o")
        .arg(&program)
        .output();
    let built = match built {
        Ok(built) => built,
        Err(_) => {
            let skipped = "skipped: a_program_in_c_shares_a_pool: there is no C compiler";
            return drop(writeln!(std::io::stderr(), "{skipped}"));
        }
    };
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ran = Command::new(&program).arg(dir.path().join("socket")).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
