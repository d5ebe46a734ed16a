//! Persistent memory as a character device (device-DAX), which nobody can truncate.
#![allow(unsafe_code)] // declares what holds memory

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::ptr::NonNull;

use bookend::os::Linux;
use bookend::scatter::{Held, HeldPages};
use bookend::units::{Bytes, PageSize};

use super::mapping::Mapped;
use super::{FileError, Mapping};

/// All of a `/dev/daxN.M`, mapped: memory that a device can register as any other.
#[derive(Debug)]
pub struct DaxDevice {
    mapped: Mapped,
    page: PageSize,
}

impl DaxDevice {
    /// Maps the device at a path.
    ///
    /// # Errors
    /// [`FileError::System`]; a file that is no such device is `ENODEV`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, FileError> {
        let path = path.as_ref();
        let failed = |operation| move |cause| FileError::System { operation, cause };
        let file = File::options().read(true).write(true).open(path);
        let file = file.map_err(failed("open the persistent memory"))?;
        let kind = file.metadata().map_err(failed("ask what the file is"))?.file_type();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fact = |fact: &str| -> io::Result<u64> {
            let text = fs::read_to_string(format!("/sys/bus/dax/devices/{name}/{fact}"))?;
            text.trim().parse().map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
        };
        let no_device = |_| FileError::System {
            operation: "use the file as persistent memory (a /dev/daxN.M is wanted)",
            cause: io::Error::from_raw_os_error(libc::ENODEV),
        };
        if !kind.is_char_device() {
            return Err(no_device(()));
        }
        let len = fact("size").map_err(|_| no_device(()))?;
        let page = fact("align").ok().and_then(|align| PageSize::from_bytes(Bytes::new(align)));
        let mapped = Mapped::new(&file, Bytes::new(len), Mapping::ReadWrite)?;
        Ok(Self { mapped, page: page.unwrap_or(PageSize::MIB2) })
    }
}

// SAFETY: (1) the device is mapped, at one address, until this is dropped; (2) its memory is the device's,
// which nobody can shorten or move; (3) it is mapped at multiples of its alignment.
unsafe impl Held for DaxDevice {
    type Os = Linux;

    fn os(&self) -> &Linux {
        &Linux
    }

    fn base(&self) -> NonNull<u8> {
        self.mapped.start
    }

    fn len(&self) -> Bytes {
        self.mapped.len
    }

    fn pages(&self, _: Bytes) -> Option<HeldPages> {
        Some(HeldPages { page: self.page, fixed: true })
    }
}
