//! That the lab is sound, and what only a machine with two NUMA nodes can show of Bookend.
//!
//! `tests/lab/run` boots the machine; elsewhere these tests are skipped.

mod devices;
mod hugectl;
mod nodes;
mod offload;
mod rdma;

use std::path::Path;

/// A number in a file of `/proc` or `/sys`.
fn number(path: impl AsRef<Path>) -> u64 {
    let path = path.as_ref();
    let text = std::fs::read_to_string(path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().parse().unwrap_or_else(|error| panic!("{}: {text:?}: {error}", path.display()))
}

/// A file of a node's pool of 2 MiB pages.
fn pool_of(node: u32, file: &str) -> u64 {
    number(format!("/sys/devices/system/node/node{node}/hugepages/hugepages-2048kB/{file}"))
}

/// Whether the test runs: in the lab it must, elsewhere it says why not.
fn in_lab() -> bool {
    bookend_tests::skip::or_say(bookend_tests::lab::require()).is_some()
}
