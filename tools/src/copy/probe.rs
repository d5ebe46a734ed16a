//! What source, target and kernel can do, asked before an engine is chosen.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};

use nix::sys::statfs;

use super::sys::{self, CacheStat, DirectAlignment};

/// How much of the first `len` bytes of `file` is in the page cache, from 0 to 1. `None` where the
/// kernel does not tell.
///
/// `cachestat(2)` counts the pages; before Linux 6.5 a sample of 64 places is read with
/// `RWF_NOWAIT`, which succeeds only from memory. (`mincore(2)` would need a mapping, and answers
/// "all" about files that the caller may not write.)
pub fn cached_fraction(file: &File, len: u64) -> Option<f64> {
    if len == 0 {
        return Some(1.0);
    }
    let (mut cached, mut pages) = (0, 0);
    for window in windows(len) {
        let length = window.end - window.start;
        match sys::cachestat(file, window) {
            Ok(CacheStat { cached: found, .. }) => cached += found,
            Err(_) => return sampled_fraction(file, len),
        }
        pages += length.div_ceil(page_bytes());
    }
    Some((cached as f64 / pages as f64).min(1.0))
}

/// Where the kernel counts: everywhere in a short file, in evenly spread windows of a long one. It
/// looks at each page, which for gigabytes takes longer than sharing their blocks.
fn windows(len: u64) -> impl Iterator<Item = Range<u64>> {
    const WINDOW: u64 = 1 << 20;
    let (count, width) = if len <= SAMPLES * WINDOW { (1, len) } else { (SAMPLES, WINDOW) };
    let stride = len / count / WINDOW * WINDOW;
    (0..count).map(move |at| at * stride..at * stride + width)
}

/// Places to look at where the kernel cannot count.
const SAMPLES: u64 = 64;

/// The share of evenly spread places that can be read without waiting.
fn sampled_fraction(file: &File, len: u64) -> Option<f64> {
    let samples = SAMPLES.min(len);
    let mut found = 0_u64;
    for sample in 0..samples {
        // The last byte of each of equal shares: reading ahead would start behind the first.
        let at = (len / samples) * (sample + 1) - 1;
        match sys::read_cached(file, &mut [0], at) {
            Ok(_) => found += 1,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return None,
        }
    }
    Some(found as f64 / samples as f64)
}

/// The size of a base page in bytes.
pub fn page_bytes() -> u64 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| u64::try_from(size).ok())
        .unwrap_or(4096)
}

/// A file system, as far as copying cares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileSystem {
    /// ext2, ext3 or ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// tmpfs: files in memory; there is no device behind them.
    Tmpfs,
    /// hugetlbfs: files in huge pages.
    Hugetlbfs,
    /// overlayfs.
    Overlay,
    /// NFS.
    Nfs,
    /// FUSE.
    Fuse,
    /// Made by the kernel as it is read: /proc, /sys, control groups, tracing.
    Pseudo,
    /// Another one, by the magic number of `statfs(2)`.
    Other(u64),
}

impl FileSystem {
    /// Whether its files live in memory, without a device.
    pub fn is_memory(self) -> bool {
        matches!(self, Self::Tmpfs | Self::Hugetlbfs)
    }
}

/// File systems whose files are made as they are read, by their magic numbers in linux/magic.h.
const PSEUDO: [u64; 11] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0x7363_6673, // securityfs
    0xde5e_81e4, // efivarfs
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0x6265_6570, // configfs
];

/// The file system that `file` is on.
///
/// # Errors
/// What `fstatfs(2)` says.
pub fn file_system(file: &File) -> io::Result<FileSystem> {
    let magic = statfs::fstatfs(file)?.filesystem_type();
    Ok(match magic {
        statfs::EXT4_SUPER_MAGIC => FileSystem::Ext4,
        statfs::XFS_SUPER_MAGIC => FileSystem::Xfs,
        statfs::BTRFS_SUPER_MAGIC => FileSystem::Btrfs,
        statfs::TMPFS_MAGIC => FileSystem::Tmpfs,
        statfs::HUGETLBFS_MAGIC => FileSystem::Hugetlbfs,
        statfs::OVERLAYFS_SUPER_MAGIC => FileSystem::Overlay,
        statfs::NFS_SUPER_MAGIC => FileSystem::Nfs,
        statfs::FUSE_SUPER_MAGIC => FileSystem::Fuse,
        // Magic numbers have 32 bits, whatever the width and sign of the field.
        other => match other.0 as u64 & 0xffff_ffff {
            pseudo if PSEUDO.contains(&pseudo) => FileSystem::Pseudo,
            magic => FileSystem::Other(magic),
        },
    })
}

/// Whether the length of a regular file says nothing about what reading it gives, as in /proc (0)
/// and /sys (one page). Such a file is read to its end and counted.
pub fn length_is_a_guess(file: &File) -> bool {
    use FileSystem::{Btrfs, Ext4, Hugetlbfs, Overlay, Pseudo, Tmpfs, Xfs};
    match file_system(file) {
        Ok(Pseudo) => true,
        Ok(Ext4 | Xfs | Btrfs | Overlay | Tmpfs | Hugetlbfs) => false,
        // An empty file is read anyway: it costs one call.
        _ => file.metadata().map_or(true, |stat| stat.len() == 0),
    }
}

/// What O_DIRECT needs on a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direct {
    /// It works with these alignments.
    Aligned(DirectAlignment),
    /// The file system does not say (before Linux 6.1, and some still): try.
    Unknown,
    /// There is none.
    No,
}

/// Asks whether `file` can be read and written with O_DIRECT.
pub fn direct(file: &File) -> Direct {
    let is_device = file.metadata().is_ok_and(|stat| stat.file_type().is_block_device());
    if !is_device && file_system(file).is_ok_and(|fs| fs.is_memory() || fs == FileSystem::Pseudo) {
        return Direct::No;
    }
    match sys::direct_alignment(file) {
        Ok(Some(DirectAlignment { memory: 0, .. } | DirectAlignment { offset: 0, .. })) => {
            Direct::No
        }
        Ok(Some(alignment)) => Direct::Aligned(alignment),
        Ok(None) | Err(_) => Direct::Unknown,
    }
}

/// A descriptor of the same file with O_DIRECT, for reading or for writing, and what offsets, lengths and memory must
/// be multiples of; or why there is none.
pub fn open_direct(file: &File, write: bool) -> Result<(File, u64), String> {
    /// To try where the file system does not say: no device of today asks for more.
    const USUAL_ALIGNMENT: u64 = 4096;
    let alignment = match direct(file) {
        Direct::Aligned(needed) => u64::from(needed.offset).max(u64::from(needed.memory)),
        Direct::Unknown => USUAL_ALIGNMENT,
        Direct::No => return Err("its file system has no O_DIRECT".into()),
    };
    // A new open file description: O_DIRECT set on the old one would change it for its owner too.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let opened =
        OpenOptions::new().read(!write).write(write).custom_flags(libc::O_DIRECT).open(path);
    opened.map(|file| (file, alignment)).map_err(|cause| format!("cannot open it anew: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_windows_lie_in_the_file_and_apart() {
        for len in [1, 4096, 64 << 20, (64 << 20) + 1, 6 << 30, 5 << 40] {
            let mut end = 0;
            for window in windows(len) {
                assert!(window.start >= end && window.start < window.end, "{len}: {window:?}");
                end = window.end;
            }
            assert!(end <= len && end > len / 3, "{len}: the last ends at {end}");
        }
    }
}
