//! Reads lines of checksums: what is read is written and read again the same, and what is written for any path is
//! one line.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use bookend_tools::copy::manifest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    for line in input.split(|&byte| byte == b'\n') {
        if let Some((hash, path)) = manifest::parse(line) {
            check(&path, &hash);
        }
        // With digits before it, which no fuzzer guesses.
        let hash = blake3::hash(line);
        let digits = hash.to_hex();
        for start in ["", "\\"] {
            let line = [start.as_bytes(), digits.as_bytes(), b"  ", line].concat();
            if let Some((found, path)) = manifest::parse(&line) {
                assert_eq!(found, hash);
                check(&path, &hash);
            }
        }
    }
    if !input.is_empty() && !input.contains(&0) {
        check(Path::new(OsStr::from_bytes(input)), &blake3::hash(input));
    }
});

fn check(path: &Path, hash: &blake3::Hash) {
    let line = manifest::line(path, hash);
    let (end, line) = line.split_last().expect("a line has an end");
    assert!(*end == b'\n' && !line.contains(&b'\n'));
    assert_eq!(manifest::parse(line), Some((*hash, path.to_owned())));
}
