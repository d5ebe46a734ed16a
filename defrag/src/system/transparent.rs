//! Transparent huge pages: how they are set, of each size, and how much memory they cover.

use bookend::units::Bytes;
use serde::Serialize;

use super::counters::Counters;
use super::files::{FileError, Files};

const THP: &str = "sys/kernel/mm/transparent_hugepage";

/// How the kernel makes transparent huge pages.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Settings {
    /// `always`, `madvise` or `never`.
    pub enabled: String,
    /// What a fault does to get one: `always`, `defer`, `defer+madvise`, `madvise` or `never`.
    pub defrag: Option<String>,
    /// For shared memory; `None` where the kernel has none.
    pub shmem: Option<String>,
    /// Each size (mTHP, Linux 6.8), smallest first; none on older kernels.
    pub sizes: Vec<SizeSetting>,
}

/// How one size is set, and what became of its faults.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct SizeSetting {
    /// Bytes of such a page.
    pub size_bytes: u64,
    /// `always`, `inherit`, `madvise` or `never`.
    pub enabled: String,
    /// Faults that got one.
    pub fault_alloc: Option<u64>,
    /// Faults that wanted one and got smaller pages.
    pub fault_fallback: Option<u64>,
}

/// How much memory is in transparent huge pages that the processor maps whole.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Coverage {
    /// Anonymous memory.
    pub anon_bytes: u64,
    /// Of it in huge pages.
    pub anon_huge_bytes: u64,
    /// The share; `None` where there is no anonymous memory.
    pub anon_share: Option<f64>,
    /// Shared memory in huge pages.
    pub shmem_huge_bytes: Option<u64>,
    /// Files in huge pages.
    pub file_huge_bytes: Option<u64>,
}

/// The settings.
///
/// # Errors
/// [`FileError::Absent`] where the kernel has no transparent huge pages.
pub fn settings(files: &Files) -> Result<Settings, FileError> {
    let optional = |name: &str| match files.choice(format!("{THP}/{name}")) {
        Err(FileError::Absent { .. }) => Ok(None),
        other => other.map(Some),
    };
    Ok(Settings {
        enabled: files.choice(format!("{THP}/enabled"))?,
        defrag: optional("defrag")?,
        shmem: optional("shmem_enabled")?,
        sizes: sizes(files)?,
    })
}

fn sizes(files: &Files) -> Result<Vec<SizeSetting>, FileError> {
    let mut sizes = Vec::new();
    for kib in files.numbered(THP, "hugepages-", "kB")? {
        let directory = format!("{THP}/hugepages-{kib}kB");
        let stat = |name| files.number(format!("{directory}/stats/{name}")).ok();
        match files.choice(format!("{directory}/enabled")) {
            // Sizes that only shared memory can have.
            Err(FileError::Absent { .. }) => continue,
            enabled => sizes.push(SizeSetting {
                size_bytes: Bytes::kib(kib).get(),
                enabled: enabled?,
                fault_alloc: stat("anon_fault_alloc"),
                fault_fallback: stat("anon_fault_fallback"),
            }),
        }
    }
    Ok(sizes)
}

/// The coverage that a `meminfo` tells, of the machine or of a node; `None` where it does not.
pub fn coverage(meminfo: &Counters) -> Option<Coverage> {
    let anon = meminfo.get("AnonPages")?;
    let huge = meminfo.get("AnonHugePages")?;
    Some(Coverage {
        anon_bytes: anon,
        anon_huge_bytes: huge,
        anon_share: (anon > 0).then(|| huge as f64 / anon as f64),
        shmem_huge_bytes: meminfo.get("ShmemHugePages"),
        file_huge_bytes: meminfo.get("FileHugePages"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn an_old_kernel_has_no_sizes_and_a_new_one_has_some() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::at(root.path());
        assert!(matches!(settings(&files), Err(FileError::Absent { .. })));
        let thp = root.path().join(THP);
        fs::create_dir_all(&thp).unwrap();
        fs::write(thp.join("enabled"), "always [madvise] never\n").unwrap();
        let old = settings(&files).unwrap();
        assert_eq!((old.enabled.as_str(), old.defrag, old.sizes.len()), ("madvise", None, 0));
        let size = thp.join("hugepages-64kB");
        fs::create_dir_all(size.join("stats")).unwrap();
        fs::write(size.join("enabled"), "always [inherit] madvise never\n").unwrap();
        fs::write(size.join("stats/anon_fault_alloc"), "17\n").unwrap();
        fs::create_dir_all(thp.join("hugepages-8kB")).unwrap(); // of shared memory only
        let new = settings(&files).unwrap().sizes;
        assert_eq!(new.len(), 1);
        assert_eq!((new[0].size_bytes, new[0].enabled.as_str()), (65536, "inherit"));
        assert_eq!((new[0].fault_alloc, new[0].fault_fallback), (Some(17), None));
    }

    #[test]
    fn coverage_is_a_share_of_anonymous_memory() {
        let of = |text| coverage(&Counters::parse(text));
        assert_eq!(of("AnonPages: 8 kB\nAnonHugePages: 2 kB\n").unwrap().anon_share, Some(0.25));
        assert_eq!(of("AnonPages: 0 kB\nAnonHugePages: 0 kB\n").unwrap().anon_share, None);
        assert_eq!(of("MemTotal: 8 kB\n"), None);
    }
}
