//! The limit on locked memory, which long-term pins count against.
#![allow(unsafe_code)] // getrlimit(2)

use bookend::units::Bytes;

/// The soft limit on locked memory; `None` where there is none.
pub(crate) fn limit() -> Option<Bytes> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is ours to write.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) };
    (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then(|| Bytes::new(limit.rlim_cur))
}

/// Bytes that this process has pinned for others (`VmPin`, which RDMA and io_uring count in); 0 where the
/// kernel does not say.
pub(crate) fn pinned() -> Bytes {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPin:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map_or(Bytes::ZERO, Bytes::kib)
}
