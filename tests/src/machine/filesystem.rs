//! File systems made for a test: an image file, a loop device over it, a mount.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{MachineLock, scratch};
use crate::skip::{Skip, require_program, require_root};

/// A sparse file to put a block device over.
#[derive(Debug)]
pub struct Image {
    dir: tempfile::TempDir,
}

impl Image {
    /// A sparse image of `bytes` bytes in the scratch directory.
    ///
    /// # Errors
    /// No space for its metadata, or the file system knows no such length.
    pub fn new(bytes: u64) -> io::Result<Self> {
        let dir = scratch().dir("image");
        File::create(dir.path().join("image"))?.set_len(bytes)?;
        Ok(Self { dir })
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("image")
    }
}

/// A loop device over an image of its own; detached, and the image removed, when dropped.
#[derive(Debug)]
pub struct LoopDevice<'a> {
    // Fields drop in this order, after `drop` has detached the device.
    path: PathBuf,
    image: Image,
    _lock: &'a MachineLock,
}

impl<'a> LoopDevice<'a> {
    /// A device of `bytes` bytes with logical blocks of `block_bytes` (512 or 4096).
    ///
    /// # Errors
    /// Not root, no loop devices here, or no space for an image.
    pub fn new(lock: &'a MachineLock, bytes: u64, block_bytes: u32) -> Result<Self, Skip> {
        require_root("set up loop devices")?;
        let image = Image::new(bytes).map_err(|error| {
            Skip(format!("no image of {bytes} bytes for a loop device: {error}"))
        })?;
        let output = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &block_bytes.to_string()])
            .arg(image.path())
            .stdin(Stdio::null())
            .output()
            .map_err(|error| Skip(format!("losetup: {error} (apt-get install mount)")))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            return Err(Skip(format!("no loop device: {}", why.trim())));
        }
        let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        Ok(Self { path, image, _lock: lock })
    }

    /// The block device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file behind it: shorten it and what lies beyond gives read errors.
    pub fn image(&self) -> PathBuf {
        self.image.path()
    }
}

impl Drop for LoopDevice<'_> {
    fn drop(&mut self) {
        // A device still open is detached by the kernel at the last close.
        let status = Command::new("losetup").arg("-d").arg(&self.path).status();
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("{}: cannot detach", self.path.display());
        }
    }
}

/// A kind of file system.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FsKind {
    /// ext4.
    Ext4,
    /// XFS with shared extents (reflink).
    Xfs,
    /// Btrfs.
    Btrfs,
    /// Memory.
    Tmpfs,
}

impl FsKind {
    /// The kernel's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Tmpfs => "tmpfs",
        }
    }

    /// Whether files can share extents.
    pub fn has_reflink(self) -> bool {
        matches!(self, Self::Xfs | Self::Btrfs)
    }

    /// `mkfs`, its options, and the package that holds it.
    fn maker(self) -> Option<(&'static str, &'static [&'static str], &'static str)> {
        match self {
            Self::Ext4 => {
                let lazy: &[&str] = &["-q", "-F", "-E", "lazy_itable_init=1,nodiscard"];
                Some(("mkfs.ext4", lazy, "e2fsprogs"))
            }
            Self::Xfs => Some(("mkfs.xfs", &["-q", "-f", "-K", "-m", "reflink=1"], "xfsprogs")),
            Self::Btrfs => Some(("mkfs.btrfs", &["-q", "-f", "-K"], "btrfs-progs")),
            Self::Tmpfs => None,
        }
    }
}

/// A fresh file system, mounted; unmounted and gone when dropped.
#[derive(Debug)]
pub struct MountedFs<'a> {
    kind: FsKind,
    point: tempfile::TempDir,
    device: Option<LoopDevice<'a>>,
    _lock: &'a MachineLock,
}

impl<'a> MountedFs<'a> {
    /// A file system of `bytes` bytes on a loop device with blocks of 512 bytes, or in memory. XFS
    /// wants at least 300 MiB, Btrfs 128 MiB.
    ///
    /// # Errors
    /// Not root, the tools or the kernel lack this file system, or no loop device.
    pub fn new(lock: &'a MachineLock, kind: FsKind, bytes: u64) -> Result<Self, Skip> {
        Self::with_blocks(lock, kind, bytes, 512)
    }

    /// As [`new`](Self::new), on a device with logical blocks of `block_bytes`.
    ///
    /// # Errors
    /// As there.
    pub fn with_blocks(
        lock: &'a MachineLock,
        kind: FsKind,
        bytes: u64,
        block_bytes: u32,
    ) -> Result<Self, Skip> {
        require_root("mount file systems")?;
        let device = match kind.maker() {
            None => None,
            Some((program, options, package)) => {
                require_program(program, package)?;
                let device = LoopDevice::new(lock, bytes, block_bytes)?;
                make(program, options, device.path())?;
                Some(device)
            }
        };
        let point = scratch().dir(kind.name());
        let source = device.as_ref().map_or(Path::new("tmpfs"), LoopDevice::path);
        let size = format!("size={bytes}");
        let options = device.is_none().then_some(size.as_str());
        mount(Some(source), point.path(), Some(kind.name()), MsFlags::empty(), options)
            .map_err(|errno| Skip(format!("cannot mount {}: {errno}", kind.name())))?;
        Ok(Self { kind, point, device, _lock: lock })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.point.path()
    }

    /// What it is.
    pub fn kind(&self) -> FsKind {
        self.kind
    }

    /// The device below, if there is one.
    pub fn device(&self) -> Option<&LoopDevice<'a>> {
        self.device.as_ref()
    }

    /// Makes it read-only, or writable again.
    ///
    /// # Errors
    /// A file is open for writing.
    pub fn set_read_only(&self, read_only: bool) -> io::Result<()> {
        let mut flags = MsFlags::MS_REMOUNT;
        flags.set(MsFlags::MS_RDONLY, read_only);
        mount(None::<&Path>, self.path(), None::<&str>, flags, None::<&str>)?;
        Ok(())
    }
}

impl Drop for MountedFs<'_> {
    fn drop(&mut self) {
        // Whoever holds a file open may be on its way out: wait a little, then detach.
        for _ in 0..50 {
            match umount2(self.path(), MntFlags::empty()) {
                Err(Errno::EBUSY) => std::thread::sleep(Duration::from_millis(100)),
                Err(errno) => {
                    return eprintln!("{}: cannot unmount: {errno}", self.path().display());
                }
                Ok(()) => return,
            }
        }
        eprintln!("{}: busy; detached", self.path().display());
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

fn make(program: &str, options: &[&str], device: &Path) -> Result<(), Skip> {
    let output = Command::new(program)
        .args(options)
        .arg(device)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Skip(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Skip(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}
