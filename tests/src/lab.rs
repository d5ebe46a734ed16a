//! The lab: a virtual machine with two NUMA nodes, RDMA, an NVMe drive and persistent memory.
//!
//! `tests/lab/run` boots it and runs in it the tests that `tests/lab/tests` lists. A test that can run
//! nowhere else begins with [`require`].

use crate::skip::Skip;

/// Set in the lab.
const MARK: &str = "BOOKEND_LAB";

/// Whether this process runs in the lab.
pub fn is_here() -> bool {
    std::env::var_os(MARK).is_some()
}

/// For tests that need the lab.
///
/// # Errors
/// This is not the lab.
pub fn require() -> Result<(), Skip> {
    if is_here() { Ok(()) } else { Err(Skip("runs in the lab only: tests/lab/run".to_owned())) }
}
