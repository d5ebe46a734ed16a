//! Where a block device lies on an NVMe namespace, by what sysfs says.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};

/// Bytes of a sector, in which sysfs counts whatever a drive's blocks are.
const SECTOR: u64 = 512;

/// A block device: a namespace, or a partition of one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// The namespace's directory in sysfs.
    disk: PathBuf,
    /// Its name: `nvme0n1`.
    pub(super) name: String,
    /// Its number on its controller.
    pub(super) namespace: u32,
    /// Bytes of the namespace before the device.
    pub(super) start: u64,
    /// Bytes of the device.
    pub(super) len: u64,
    /// Bytes of the namespace.
    pub(super) disk_len: u64,
}

impl Place {
    /// Of the device with this number.
    ///
    /// # Errors
    /// Why it is no place of that kind.
    pub(super) fn of(device: u64) -> Result<Self, String> {
        Self::below(Path::new("/sys"), device)
    }

    fn below(sys: &Path, device: u64) -> Result<Self, String> {
        let link = sys.join(format!("dev/block/{}:{}", major(device), minor(device)));
        let own =
            fs::canonicalize(&link).map_err(|_| "sysfs does not know the device".to_owned())?;
        let is_partition = own.join("partition").exists();
        let disk = if is_partition { own.parent().unwrap_or(&own).to_owned() } else { own.clone() };
        let name = disk.file_name().and_then(|name| name.to_str()).unwrap_or("it").to_owned();
        let Ok(namespace) = number(&disk.join("nsid")) else {
            return Err(format!("{name} is no NVMe namespace"));
        };
        if let Ok(zoned) = fs::read_to_string(disk.join("queue/zoned"))
            && zoned.trim() != "none"
        {
            return Err(format!("{name} has zones"));
        }
        let sectors = |path: PathBuf| number(&path).map(|sectors| sectors * SECTOR);
        let start = if is_partition { sectors(own.join("start"))? } else { 0 };
        let (len, disk_len) = (sectors(own.join("size"))?, sectors(disk.join("size"))?);
        if start.checked_add(len).is_none_or(|end| end > disk_len) {
            return Err(format!("sysfs has {}, which ends behind {name}", own.display()));
        }
        let namespace =
            u32::try_from(namespace).map_err(|_| format!("{name} has namespace {namespace}"))?;
        Ok(Self { disk, name, namespace, start, len, disk_len })
    }

    /// Whether both lie on one namespace.
    pub(super) fn is_beside(&self, other: &Self) -> bool {
        self.disk == other.disk
    }

    /// Whether both namespaces are of one controller, or of one subsystem where several lead to it.
    pub(super) fn shares_controller(&self, other: &Self) -> bool {
        let above = |place: &Self| fs::canonicalize(place.disk.join("device")).ok();
        above(self).is_some() && above(self) == above(other)
    }

    /// Whether the first `len` bytes of each have some in common.
    pub(super) fn overlaps(&self, other: &Self, len: u64) -> bool {
        self.is_beside(other) && self.start.abs_diff(other.start) < len
    }

    /// The device file that takes commands for the namespace: the generic one, or where the kernel has
    /// none (before 5.13) the namespace's own.
    pub(super) fn command_file(&self) -> PathBuf {
        let generic = self.name.replacen("nvme", "ng", 1);
        let generic = Path::new("/dev").join(generic);
        if generic.exists() { generic } else { Path::new("/dev").join(&self.name) }
    }
}

fn number(path: &Path) -> Result<u64, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    text.trim().parse().map_err(|_| format!("{} has {text:?}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::makedev;
    use std::os::unix::fs::symlink;

    /// A sysfs of a namespace of 1,000 sectors with a partition, and a disk that is none.
    fn sysfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (path, text) in [
            ("devices/nvme0/nvme0n1/nsid", "3\n"),
            ("devices/nvme0/nvme0n1/size", "1000\n"),
            ("devices/nvme0/nvme0n1/queue/zoned", "none\n"),
            ("devices/nvme0/nvme0n1/nvme0n1p1/partition", "1\n"),
            ("devices/nvme0/nvme0n1/nvme0n1p1/start", "100\n"),
            ("devices/nvme0/nvme0n1/nvme0n1p1/size", "200\n"),
            ("devices/nvme0/nvme0n1/nvme0n1p2/partition", "2\n"),
            ("devices/nvme0/nvme0n1/nvme0n1p2/start", "900\n"),
            ("devices/nvme0/nvme0n1/nvme0n1p2/size", "200\n"),
            ("devices/sda/size", "1000\n"),
            ("dev/block/none", ""),
        ] {
            write(path, text);
        }
        for (number, path) in [
            ("259:0", "nvme0/nvme0n1"),
            ("259:1", "nvme0/nvme0n1/nvme0n1p1"),
            ("259:2", "nvme0/nvme0n1/nvme0n1p2"),
            ("8:0", "sda"),
        ] {
            let target = dir.path().join("devices").join(path);
            symlink(target, dir.path().join("dev/block").join(number)).unwrap();
        }
        dir
    }

    #[test]
    fn a_partition_lies_behind_its_start() {
        let sys = sysfs();
        let disk = Place::below(sys.path(), makedev(259, 0)).unwrap();
        assert_eq!((disk.start, disk.len, disk.namespace), (0, 512_000, 3));
        let part = Place::below(sys.path(), makedev(259, 1)).unwrap();
        assert_eq!((part.start, part.len, &*part.name), (51_200, 102_400, "nvme0n1"));
        assert!(part.is_beside(&disk) && part.disk_len == 512_000);
        assert!(part.overlaps(&disk, 51_201) && !part.overlaps(&disk, 51_200));
    }

    #[test]
    fn what_is_no_namespace_is_named() {
        let sys = sysfs();
        let why = |major, minor| Place::below(sys.path(), makedev(major, minor)).unwrap_err();
        assert_eq!(why(8, 0), "sda is no NVMe namespace");
        assert_eq!(why(7, 0), "sysfs does not know the device");
        assert!(why(259, 2).contains("ends behind nvme0n1"));
        fs::write(sys.path().join("devices/nvme0/nvme0n1/queue/zoned"), "host-managed\n").unwrap();
        assert_eq!(why(259, 0), "nvme0n1 has zones");
    }
}
