//! What `--manifest` lists, and where the list goes.

mod common;

use std::fs;

use common::Dir;

#[test]
fn what_has_no_true_length_is_listed_by_its_copy() {
    let dir = Dir::new();
    fs::create_dir(dir.join("d")).unwrap();
    for source in [
        "/proc/cpuinfo",
        "/proc/sys/kernel/random/uuid",
        "/sys/kernel/mm/transparent_hugepage/enabled",
    ] {
        if fs::read(source).is_err() {
            println!("not tested: {source} cannot be read here");
            continue;
        }
        dir.run(&format!("--manifest list {source} d/copy")).ok();
        let hash = blake3::hash(&dir.read("d/copy")).to_hex();
        assert_eq!(dir.read("list"), format!("{hash}  d/copy\n").as_bytes(), "{source}");
        assert!(!dir.read("d/copy").is_empty());
        dir.run("--check --manifest list").ok();
    }
    dir.run("-r --manifest list /proc/sys/kernel/random/uuid /proc/sys/vm/overcommit_memory d")
        .ok();
    assert_eq!(String::from_utf8(dir.read("list")).unwrap().lines().count(), 2);
    dir.run("--check --manifest list").ok();
}
